"""Which runs are compared, and with which baseline: the folders and the `--baseline` of `compare` and `gate`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.results.run_folders import RunFolder, find_runs


@dataclass(frozen=True)
class ChosenRun:
    """A run that takes part.

    Attributes:
        label: its name in the comparison, which no other has.
        run: its folder.
        baseline: label of the run that it is compared with; None: it is a baseline.
    """

    label: str
    run: RunFolder
    baseline: str | None = None


@dataclass(frozen=True)
class _Found:
    given: str  # the folder as the user wrote it
    run: RunFolder

    @property
    def place(self) -> Path:
        return self.run.folder.resolve()


def choose_runs(
    folders: Sequence[str], baseline: str | None = None, models: Sequence[str] | None = None
) -> list[ChosenRun]:
    """The runs of a comparison, each baseline before the runs that are compared with it.

    Args:
        folders: run folders, or folders of sweeps.
        baseline: a model in them, a folder, or `FOLDER:MODEL`; None: the first model of the first folder.
        models: names of the models to compare; None: all of them.

    Raises:
        ConfigError: a folder is none of a run, there is no such baseline, or there is nothing to compare.
    """
    found = [_Found(folder, run) for folder in folders for run in find_runs(folder)]
    found = list({item.place: item for item in found}.values())
    known = list(dict.fromkeys(item.run.model for item in found))
    for name in models or ():
        if name not in known:
            raise ConfigError(Problem("--models", f"no run of {name!r}", _among(name, known)))
    baselines = _baselines(found, baseline)
    places = {item.place for item in baselines}
    others = [item for item in found if item.place not in places and (not models or item.run.model in models)]
    if not others:
        raise ConfigError(_nothing_to_compare(found, baselines, folders))
    labels = _labels([*baselines, *others])
    with_baseline = {item.place: _baseline_of(item, baselines) for item in others}
    used = {labels[base.place] for base in with_baseline.values()}
    return [
        *(ChosenRun(labels[item.place], item.run) for item in baselines if labels[item.place] in used),
        *(ChosenRun(labels[item.place], item.run, labels[with_baseline[item.place].place]) for item in others),
    ]


def _baselines(found: Sequence[_Found], given: str | None) -> list[_Found]:
    if given is None:
        return [found[0]]
    named = [item for item in found if item.run.model == given] or [item for item in found if item.run.name == given]
    if len(named) > 1:
        same = len({item.given for item in named}) < len(named)  # in one folder, their paths tell them apart
        forms = ", ".join(item.run.name if same else f"{item.given}:{given}" for item in named)
        raise ConfigError(Problem("--baseline", f"{given!r} is a model of several folders", f"Say which: {forms}"))
    if named:
        return named
    if os.path.isdir(given):
        return [_Found(given, run) for run in find_runs(given)]
    for place in (place for place, letter in enumerate(given) if letter == ":" and os.path.isdir(given[:place])):
        folder, model = given[:place], given[place + 1 :]  # either may hold a colon itself
        runs = [_Found(folder, run) for run in find_runs(folder)]
        chosen = [item for item in runs if item.run.name == model] or [item for item in runs if item.run.model == model]
        if not chosen:
            known = [item.run.name for item in runs]
            raise ConfigError(Problem("--baseline", f"{folder} has no run of {model!r}", _among(model, known)))
        if len(chosen) > 1:
            forms = ", ".join(f"{folder}:{item.run.name}" for item in chosen)
            raise ConfigError(Problem("--baseline", f"{folder} has several runs of {model!r}", f"Say which: {forms}"))
        return chosen
    names = list(dict.fromkeys(item.run.model for item in found))
    what = f"{given!r} is neither a model of these folders nor a folder"
    raise ConfigError(Problem("--baseline", what, _near_folder(given) or _among(given, names)))


def _baseline_of(item: _Found, baselines: Sequence[_Found]) -> _Found:
    """The baseline of a run: the only one, or the one of the same name.

    Raises:
        ConfigError: there are several, and none has its name.
    """
    if len(baselines) == 1:
        return baselines[0]
    same = [base for base in baselines if base.run.model == item.run.model]
    if same:
        return same[0]
    folder, known = baselines[0].given, [base.run.model for base in baselines]
    what = f"{folder} holds several models, but none is named {item.run.model!r}"
    todo = f"Name one for all: --baseline {folder}:{known[0]}. {_among(item.run.model, known)}"
    raise ConfigError(Problem("--baseline", what, todo))


def _nothing_to_compare(found: Sequence[_Found], baselines: Sequence[_Found], folders: Sequence[str]) -> Problem:
    where, only = ", ".join(folders), found[0].run.model
    if len(found) == 1 and {item.place for item in found} == {item.place for item in baselines}:
        return Problem(where, f"holds one model alone, {only}", "Name another folder, or --baseline DIR.")
    return Problem(where, "holds nothing but the baseline", "Name the folder of what is to be compared with it.")


def _labels(found: Sequence[_Found]) -> dict[Path, str]:
    """A label for each run: its model's name, with as much of its folder as tells it from the others."""
    unique = list({item.place: item for item in found}.values())
    times = Counter(item.run.model for item in unique)
    labels = {}
    for item in unique:
        same = [other for other in unique if other.run.model == item.run.model]
        labels[item.place] = item.run.model if times[item.run.model] == 1 else _told_apart(item, same)
    return labels


def _told_apart(item: _Found, same: Sequence[_Found]) -> str:
    """`FOLDER:MODEL`, with the last parts of the folder's path that no other has; below one folder, the path in it."""
    if len({other.given for other in same}) == 1:
        return item.run.name
    parts = {other.place: Path(os.path.abspath(other.given)).parts for other in same}
    mine = parts[item.place]
    for length in range(1, len(mine)):
        others = [path[-length:] for place, path in parts.items() if place != item.place]
        if mine[-length:] not in others:
            return f"{os.path.join(*mine[-length:])}:{item.run.model}"
    return f"{item.run.folder}:{item.run.model}"


def _near_folder(given: str) -> str:
    """The folder that was probably meant by a path; empty where nothing is like it."""
    parent, name = os.path.split(given.rstrip("/"))
    if not parent or not os.path.isdir(parent):
        return ""
    folders = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    found = nearest(name, folders)
    return found.replace("'", f"'{parent}/", 1) if found else ""


def _among(name: str, known: Sequence[str]) -> str:
    return f"{nearest(name, known)} Known: {', '.join(known)}".strip()
