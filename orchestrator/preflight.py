"""Before the first trial: is every file that the runs need there? All that is missing, at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from db.errors import EnvironmentProblem, MissingInputs
from db.records import HEAD_NAME, Run, State
from worker.context import Folders
from worker.data import DATASETS
from worker.models import ARTIFACT, MODELS
from worker.models.locate import find, remedy


def check(runs: Iterable[Run], states: dict[str, State], folders: Folders) -> None:
    """Raise `MissingInputs` listing each missing thing once, with its remedy."""
    to_do = list(runs)
    problems = list(dict.fromkeys(_missing(to_do, states, folders)))
    if problems:
        raise MissingInputs(
            "the launch cannot start; missing:\n" + "\n".join(f"  - {p}" for p in problems)
        )
    writable(folders.runs, "--runs")
    cache = folders.cache
    reads_files = any(DATASETS[run.dataset].source for run in to_do)
    if cache and reads_files and not (cache.is_dir() and any(cache.iterdir())):
        writable(cache, "--cache")  # one that is filled may be for reading only


def writable(folder: Path, option: str) -> None:
    """Make the option's folder where there is none; raises `EnvironmentProblem` where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EnvironmentProblem(
            f"{option} {folder} cannot be written ({error.strerror}); name another folder."
        ) from error


def _missing(to_do: list[Run], states: dict[str, State], folders: Folders) -> Iterator[str]:
    if folders.weights and not folders.weights.is_dir():
        yield f"--weights {folders.weights} is not a folder; name the one that holds the weights."
    for name in dict.fromkeys(run.model for run in to_do if run.weights == "pretrained"):
        if find(MODELS[name], folders.weights) is None:
            yield f'model "{name}": its weights are not here; {remedy(MODELS[name])}'
    for name in dict.fromkeys(run.dataset for run in to_do):
        if absence := DATASETS[name].absence(folders.data):
            yield f'dataset "{name}": {absence}'
    left = [("pretrained weights", run.pretraining, ARTIFACT) for run in to_do]
    left += [("linear probe", run.probe, HEAD_NAME) for run in to_do]
    for what, need, file in dict.fromkeys(left):
        path = folders.runs / (need or "") / file
        if need and states.get(need) == "done" and not path.is_file():
            yield (
                f"{what}: {path} is not there although its run is done; "
                f"bring back the --runs folder, or: orch runs run {need} --local"
            )
