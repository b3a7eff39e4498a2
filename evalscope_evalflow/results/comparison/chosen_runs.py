"""Which runs are compared, and with which baseline: the folders and the `--baseline` of `compare` and `gate`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
        raise ConfigError(_nothing_to_compare(found, baselines, folders, baseline))
    with_baseline = {item.place: _baseline_of(item, baselines) for item in others}
    used = {base.place for base in with_baseline.values()}
    labels = _labels([*(item for item in baselines if item.place in used), *others])
    return [
        *(ChosenRun(labels[item.place], item.run) for item in baselines if item.place in used),
        *(ChosenRun(labels[item.place], item.run, labels[with_baseline[item.place].place]) for item in others),
    ]


def _baselines(found: Sequence[_Found], given: str | None) -> list[_Found]:
    if given is None:
        return [found[0]]
    named = [item for item in found if item.run.model == given] or [item for item in found if item.run.name == given]
    if len(named) > 1:
        forms = ", ".join(f"{item.given.rstrip('/') or '/'}:{item.run.name}" for item in named)
        raise ConfigError(Problem("--baseline", f"{given!r} is the model of several runs", f"Say which: {forms}"))
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


def _nothing_to_compare(
    found: Sequence[_Found], baselines: Sequence[_Found], folders: Sequence[str], given: str | None
) -> Problem:
    where, only = ", ".join(folders), found[0].run.model
    same = {item.place for item in found} == {item.place for item in baselines}
    if len(found) == 1 and same and given is not None:
        what = f"is the same run as --baseline {given}: {only}, in {found[0].run.folder}"
        return Problem(where, what, "Name another folder.")
    if len(found) == 1 and same:
        return Problem(where, f"holds one model alone, {only}", "Name another folder, or --baseline DIR.")
    return Problem(where, "holds nothing but the baseline", "Name the folder of what is to be compared with it.")


def _labels(found: Sequence[_Found]) -> dict[Path, str]:
    """A label for each run: its model's name where no other has it, or else the end of its path that no other has.

    The paths say it alone, and not how the folders were given: the same runs have the same labels in all forms.
    """
    unique = list({item.place: item for item in found}.values())
    times = Counter(item.run.model for item in unique)
    taken = {item.run.model for item in unique if times[item.run.model] == 1}
    paths = {item.place: Path(os.path.abspath(item.run.folder)).parts for item in unique}
    return {
        item.place: item.run.model if item.run.model in taken else _told_apart(item, unique, paths, taken)
        for item in unique
    }


def _told_apart(
    item: _Found, all_runs: Sequence[_Found], paths: Mapping[Path, tuple[str, ...]], taken: Collection[str]
) -> str:
    """The shortest end of a run's path that is neither that of another run of the model nor another's label."""
    others = [paths[other.place] for other in all_runs if other.place != item.place]
    mine = paths[item.place]
    for length in range(1, len(mine)):
        label = os.path.join(*mine[-length:])
        if label not in taken and not any(path[-length:] == mine[-length:] for path in others):
            return label
    return str(item.run.folder)


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
