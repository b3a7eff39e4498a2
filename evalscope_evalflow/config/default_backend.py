"""Which stock backend a task means that names none: the one whose datasets it has.

EvalScope's own benchmarks are Native's; VLMEvalKit's are VLMEvalKit's, and so is a name with NAME.tsv in LMUData; a
package's backend says for itself. Whoever has answered in the run folders keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import catalog, plugins
from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.events import any_json

AUTO = "auto"
GROUP = "evalflow.backends"

_SAY_WHICH = "Set `backend` in the section (--eval_backend)."


def known_backends() -> list[str]:
    """The names that `backend` may have, without `auto`."""
    return sorted(plugins.known(GROUP))


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
    catalog.evalscope_folder(worker_env)  # without EvalScope nothing can be said
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
        cells = any_json.load_file(folder / "evalflow" / "cells.json")
        cells = cells.get("datasets", {}) if isinstance(cells.get("schema"), int) else cells
        return {str(cell["predictions"]["backend"]) for cell in cells.values() if cell.get("predictions")}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()  # nothing is saved, or what is cannot be read: the run says so


def _owners(dataset: str, settings: Any, worker_env: str | None) -> set[str]:
    """The backends that have a dataset; one that cannot be loaded has none, and says why when it is named."""
    found = set()
    for name in known_backends():
        try:
            kind = plugins.load(GROUP, name, what="backend", where="evalflow.backend")
        except ConfigError:
            continue
        if kind().recognises(dataset, settings or {}, worker_env):
            found.add(name)
    return found


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
        f"A VLMEvalKit dataset of your own goes into {catalog.lmudata() / dataset}.tsv.",
    ]
    return Problem("datasets", f"no backend has a dataset {dataset!r}", " ".join(filter(None, hints)))
