"""Downloading published weights: what `orch models fetch` does, and nothing else ever does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from db.errors import EnvironmentProblem, SpecError
from worker.models import Model, Published
from worker.models.locate import in_folder, in_hub_cache, remedy


def present(entry: Model, weights: Path | None) -> Path | None:
    """Where `fetch` would put the weights of `entry`, if they are there already.

    Raises `SpecError` for a model whose weights nobody publishes.
    """
    if entry.recipe:
        raise SpecError(f"{entry.id} is pretrained by orch, when a sweep needs it: nothing to get.")
    if entry.published is None or entry.published.hub is None:
        raise SpecError(f"nobody publishes the weights of {entry.id}: {remedy(entry)}.")
    return in_folder(entry, weights) if weights else in_hub_cache(entry)


def fetch(entry: Model, weights: Path | None) -> Path:
    """Download the weights of `entry`; returns where they are now.

    Into the folder `weights` as `<id>.<suffix>`, or into the Hugging Face hub cache where the
    library itself looks. Raises `EnvironmentProblem` where there is no network, or no such file.
    """
    assert entry.published is not None
    if weights:
        return _into_folder(entry, entry.published, weights)
    return _download(entry, entry.published, None)


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
    from huggingface_hub.utils import logging

    assert published.hub is not None
    logging.set_verbosity_error()  # its five retries say the same thing five times
    try:
        for file in published.files:
            try:
                return Path(hf_hub_download(published.hub, file, local_dir=folder))
            except RemoteEntryNotFoundError:
                continue
    except Exception as error:  # of the hub, of its HTTP client, of its Rust one
        raise EnvironmentProblem(
            f"{entry.id}: {published.hub} cannot be downloaded ({_reason(error)}); run this where "
            "there is a network, with HF_HUB_OFFLINE unset."
        ) from error
    raise EnvironmentProblem(
        f"{entry.id}: {published.hub} holds none of {', '.join(published.files)}."
    )


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom: the hub's own text speaks of its cache."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
