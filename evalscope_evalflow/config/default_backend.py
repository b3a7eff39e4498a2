"""Which stock backend a task means that names none: the one whose datasets it has.

EvalScope's own benchmarks are Native's; VLMEvalKit's are VLMEvalKit's, and so is a name with NAME.tsv in LMUData; a
package's backend says for itself. Whoever has answered in the run folders keeps them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import catalog, plugins
from evalscope_evalflow.errors import ConfigError, Problem, nearest

AUTO = "auto"
NATIVE, VLMEVALKIT = "Native", "VLMEvalKit"
GROUP = "evalflow.backends"

_SAY_WHICH = "Set `backend` in the section (--eval_backend)."


def known_backends() -> list[str]:
    """The names that `backend` may have, without `auto`."""
    return list(dict.fromkeys([VLMEVALKIT, NATIVE, *plugins.known(GROUP)]))


def backend_for(
    datasets: Sequence[str], settings: Mapping[str, Any], worker_env: str | None, folders: Iterable[Path]
) -> str:
    """The backend of a task that names none.

    Args:
        datasets: the task's.
        settings: its `dataset_args`.
        worker_env: the environment that evaluates.
        folders: the task's run folders; empty where nothing in them is to be reused.

    Raises:
        ConfigError: several backends have the datasets, or none has; or EvalScope is not there.
    """
    answered = set().union(*map(answered_by, folders)) & set(known_backends())
    if len(answered) == 1:
        return answered.pop()
    if answered:
        what = f"the results in work_dir are of several backends: {', '.join(sorted(answered))}"
        raise ConfigError(Problem("evalflow.backend", what, _SAY_WHICH))
    owners = {name: _owners(name, settings.get(name), worker_env) for name in datasets}
    unknown = [name for name, backends in owners.items() if not backends]
    if unknown:
        raise ConfigError(*(_unknown(name, worker_env) for name in unknown))
    common = set.intersection(*owners.values())
    if len(common) == 1:
        return common.pop()
    if common:
        what = f"{' and '.join(sorted(common))} both have {', '.join(datasets)}"
        raise ConfigError(Problem("evalflow.backend", what, _SAY_WHICH))
    parts = [f"{name} is {' and '.join(sorted(backends))}'s" for name, backends in owners.items()]
    todo = "Make a task of each backend's datasets; a task has one backend."
    raise ConfigError(Problem("datasets", f"are of several backends: {', '.join(parts)}", todo))


def answered_by(folder: Path) -> set[str]:
    """The backends that have answered in a run folder, as `evalflow/cells.json` in it says (see state/cells.py)."""
    try:
        cells = json.loads((folder / "evalflow" / "cells.json").read_text(encoding="utf-8"))
        cells = cells.get("datasets", {}) if isinstance(cells.get("schema"), int) else cells
        return {str(cell["predictions"]["backend"]) for cell in cells.values() if cell.get("predictions")}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()  # nothing is saved, or what is cannot be read: the run says so


def _owners(dataset: str, settings: Any, worker_env: str | None) -> set[str]:
    """The backends that have a dataset."""
    built_in: dict[str, Callable[[], bool]] = {
        NATIVE: lambda: is_native(dataset, worker_env),
        VLMEVALKIT: lambda: is_vlmevalkit(dataset, worker_env),
    }
    found = {name for name, has in built_in.items() if has()}
    for name in plugins.known(GROUP):
        if name not in built_in:
            backend = plugins.load(GROUP, name, what="backend", where="evalflow.backend")
            if backend().recognises(dataset, settings, worker_env):
                found.add(name)
    return found


def is_native(dataset: str, worker_env: str | None) -> bool:
    """Whether EvalScope itself has a benchmark of this name.

    Raises:
        ConfigError: EvalScope is not in that environment.
    """
    return dataset in catalog.native_datasets(catalog.evalscope_folder(worker_env))


def is_vlmevalkit(dataset: str, worker_env: str | None) -> bool:
    """Whether VLMEvalKit has a dataset of this name, or the user has made one.

    VLMEvalKit is imported, which takes half a minute once, only where its source text has the name, or where EvalScope
    has none of that name.

    Raises:
        ConfigError: EvalScope is not in that environment, or VLMEvalKit cannot be imported there.
    """
    if dataset in catalog.DEFAULT_VLM_DATASETS or (lmudata() / f"{dataset}.tsv").is_file():
        return True
    folder = catalog.vlmevalkit_folder(worker_env)
    if folder is None or (is_native(dataset, worker_env) and dataset not in _words(folder)):
        return False
    return dataset in catalog.vlmevalkit_datasets(worker_env)


def lmudata() -> Path:
    """VLMEvalKit's folder of data."""
    return Path(os.environ.get("LMUData") or Path.home() / "LMUData")  # noqa: SIM112 - VLMEvalKit's own name


@lru_cache(maxsize=4)
def _words(folder: Path) -> frozenset[str]:
    """The words in quotes in VLMEvalKit's source of datasets: every name that it writes out is among them."""
    texts = (path.read_text(encoding="utf-8", errors="ignore") for path in (folder / "dataset").rglob("*.py"))
    return frozenset(word for text in texts for word in re.findall(r"""["']([\w.\-]+)["']""", text))


def _unknown(dataset: str, worker_env: str | None) -> Problem:
    folder = catalog.evalscope_folder(worker_env)
    names = [*catalog.native_datasets(folder), *catalog.DEFAULT_VLM_DATASETS]
    installed = catalog.vlmevalkit_folder(worker_env) is not None
    if installed:
        names += catalog.vlmevalkit_datasets(worker_env)
    hints = [
        nearest(dataset, sorted(names)),
        "`evalscope benchmark-info --list` shows EvalScope's own.",
        "" if installed else f"VLMEvalKit, which has others, is not installed in {folder.parent}.",
        f"A VLMEvalKit dataset of your own goes into {lmudata() / dataset}.tsv.",
    ]
    return Problem("datasets", f"no backend has a dataset {dataset!r}", " ".join(filter(None, hints)))
