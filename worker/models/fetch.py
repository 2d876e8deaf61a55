"""Downloading published weights: what `orch models fetch` does, and nothing else ever does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from db.errors import EnvironmentProblem, SpecError
from worker.models import Model, Published
from worker.models.locate import in_folder, in_hub_cache, remedy


def fetch(entry: Model, weights: Path | None) -> tuple[Path, bool]:
    """Bring the weights of `entry` to this machine; says where they are, and if they are new.

    Into the folder `weights` as `<id>.<suffix>`, or into the Hugging Face hub cache where the
    library itself looks. Raises `SpecError` where nobody publishes them, `EnvironmentProblem` where
    they cannot be downloaded.
    """
    if entry.recipe:
        raise SpecError(f"{entry.id} is pretrained by orch, when a sweep needs it: nothing to get.")
    if entry.published is None or entry.published.hub is None:
        raise SpecError(f"nobody publishes the weights of {entry.id}: {remedy(entry)}.")
    cached = in_hub_cache(entry)
    if weights is None:
        return (cached, False) if cached else (_download(entry, entry.published, None), True)
    there = in_folder(entry, weights)
    return (there, False) if there else (_into_folder(entry, entry.published, weights), True)


def _into_folder(entry: Model, published: Published, weights: Path) -> Path:
    """Written whole under another name, then renamed: a file that is there is complete."""
    try:
        weights.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=weights) as folder:
            source = in_hub_cache(entry)
            if source:
                got = Path(shutil.copyfile(source, Path(folder) / source.name))
            else:
                got = _download(entry, published, Path(folder))
            return got.replace(weights / f"{entry.id}{got.suffix}")
    except OSError as error:
        raise EnvironmentProblem(f"--weights {weights} cannot be written: {error}.") from error


def _download(entry: Model, published: Published, folder: Path | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    assert published.hub is not None
    try:
        for file in published.files:
            try:
                return Path(hf_hub_download(published.hub, file, local_dir=folder))
            except RemoteEntryNotFoundError:
                continue
    except Exception as error:  # of the hub, of its HTTP client, of its Rust one
        first = (str(error).splitlines() or [""])[0]
        raise EnvironmentProblem(
            f"{entry.id}: {published.hub} cannot be downloaded "
            f"({type(error).__name__}: {first}); run this where there is a network, with "
            "HF_HUB_OFFLINE unset."
        ) from error
    raise EnvironmentProblem(f"{entry.id}: {published.hub} holds none of {published.files}.")
