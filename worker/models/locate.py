"""Where a model's weights are on this machine. Looks, never downloads; imports no torch.

In this order, the first that exists:

1. `<id>.safetensors` (or `.pt`, `.pth`, `.bin`, `.npz`) in the folder of `--weights`;
2. the Hugging Face hub cache, for the repository and file that the library itself would use;
3. the library's own cache from before the hub: `~/.cache/clip` for open_clip, torch hub's
   checkpoints for timm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from worker.models import Model, Published

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
"""Of a file in the `--weights` folder, in the order in which they are looked for."""


def find(entry: Model, weights: Path | None) -> Path | None:
    """The file that holds the weights of `entry`, or None; `weights` is the `--weights` folder."""
    places = (_in_folder(entry, weights), in_hub_cache(entry), _in_old_cache(entry.published))
    return next((path for path in places if path is not None), None)


def places(entry: Model, weights: Path | None) -> list[str]:
    """Where `find` looks, in words, for a message."""
    names = f"{entry.id}{{{','.join(SUFFIXES)}}}"
    found = [str(weights / names) if weights else f"{names} in the folder of --weights"]
    published = entry.published
    if published and published.hub:
        from huggingface_hub import constants

        found.append(f"{published.hub} in the hub cache {constants.HF_HUB_CACHE}")
    if published and published.original:
        found.append(str(_old_cache(published) / published.original))
    return found


def remedy(entry: Model) -> str:
    """What to do where `find` finds nothing: a command, or the file to bring."""
    if entry.published and entry.published.hub:
        return f"orch models fetch {entry.id} (where there is a network; see docs/models.md)"
    return f"put {entry.id}.safetensors into the folder of --weights (see docs/models.md)"


def in_folder(entry: Model, weights: Path) -> Path | None:
    """The file of `entry` in a `--weights` folder."""
    candidates = (weights / f"{entry.id}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def in_hub_cache(entry: Model) -> Path | None:
    """The file of `entry` in the Hugging Face hub cache, wherever HF_HOME and the like put it."""
    return next(_cached(entry.published), None)


def _cached(published: Published | None) -> Iterator[Path]:
    if published is None or published.hub is None:
        return
    from huggingface_hub import try_to_load_from_cache

    for file in published.files:
        path = try_to_load_from_cache(published.hub, file)
        if isinstance(path, str):  # otherwise None, or a mark that the repository lacks the file
            yield Path(path)


def _in_folder(entry: Model, weights: Path | None) -> Path | None:
    return in_folder(entry, weights) if weights else None


def _in_old_cache(published: Published | None) -> Path | None:
    if published is None or published.original is None:
        return None
    path = _old_cache(published) / published.original
    return path if path.is_file() else None


def _old_cache(published: Published) -> Path:
    """As open_clip (`download_pretrained_from_url`) and torch (`hub.get_dir`) say it."""
    if published.library == "open_clip":
        return Path("~/.cache/clip").expanduser()
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", str(Path(caches) / "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"
