"""Result exporters by name: ours and those of other packages, from the entry-point group `evalflow.exporters`.

What reads results is loaded when something is exported: a run looks at its exporters' options before anything starts.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.config import PluginChoice
from evalscope_evalflow.config.plugin_options import PluginOptions, load_with_options
from evalscope_evalflow.errors import ConfigError, EvalFlowError, Problem
from evalscope_evalflow.results.exporters.base import INTERFACE_VERSION, Exporter

if TYPE_CHECKING:
    from evalscope_evalflow.results.exporters.exported_results import ExportedResults
    from evalscope_evalflow.results.outcome import FlowResult
    from evalscope_evalflow.results.score_rows import ScoreRow

__all__ = [
    "GROUP",
    "INTERFACE_VERSION",
    "ExportedResults",
    "Exporter",
    "PluginOptions",
    "Problem",
    "ScoreRow",
    "export",
    "load_exporter",
    "load_exporters",
]

GROUP = "evalflow.exporters"
_LATE = {"ExportedResults": "exporters.exported_results", "ScoreRow": "score_rows"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"evalscope_evalflow.results.{_LATE[name]}"), name)


def load_exporter(choice: PluginChoice, where: str = "evalflow.exporters") -> Exporter:
    """The exporter that the section chooses, with its options.

    Args:
        choice: name and options.
        where: the setting that chooses it, for messages.

    Raises:
        ConfigError: there is none of this name, its package is broken or of another version, an option is wrong, or
            it lacks something, such as a library.
    """
    kind, options = load_with_options(GROUP, choice, what="exporter", where=where, interface_version=INTERFACE_VERSION)
    found: Exporter = kind(options)
    if problems := list(found.check(where)):
        raise ConfigError(*problems)
    return found


def load_exporters(choices: Sequence[PluginChoice], where: str = "evalflow.exporters") -> list[Exporter]:
    """The exporters that the section chooses.

    Raises:
        ConfigError: with the problems of all of them.
    """
    found: list[Exporter] = []
    problems: list[Problem] = []
    for number, choice in enumerate(choices):
        try:
            found.append(load_exporter(choice, f"{where}.{number}"))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return found


def export(
    result: FlowResult | ExportedResults,
    exporters: Sequence[Exporter],
    warn: Callable[[str], None],
    log: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Export results into their `work_dir`; an exporter that fails is reported and harms nothing else.

    Args:
        result: the results of every model, or those of finished folders.
        exporters: what exports them.
        warn: is called with a line for each exporter that failed.
        log: is called with a line for each other one: where its results are.

    Returns:
        The files that were written.
    """
    written: list[Path] = []
    if not exporters:
        return written
    from evalscope_evalflow.results.exporters.exported_results import ExportedResults, of_result

    exported = result if isinstance(result, ExportedResults) else of_result(result)
    for exporter in exporters:
        try:
            files, where = _export(exported, exporter)
        except Exception as error:  # noqa: BLE001 - another package's code; the run's results must survive it
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            if isinstance(error, OSError):
                message = f"{exported.work_dir}: {message}\n    See to that; then: "
                message += f"evalflow show {exported.work_dir} --export {exporter.name}"
            warn(f"exporter {exporter.name} failed, and wrote nothing: {message}")
            continue
        written += files
        log(f"exported by {exporter.name}: {', '.join([*map(str, files), *([where] if where else [])]) or 'nothing'}")
    return written


def _export(result: ExportedResults, exporter: Exporter) -> tuple[list[Path], str | None]:
    """Let an exporter write into a private folder, and move its files into work_dir.

    Raises:
        EvalFlowError: it left something else than files.
        Exception: whatever the exporter raises.
    """
    work_dir = result.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    prefix = f".export-{exporter.name}-{platform.node()}."
    for old in work_dir.glob(f"{prefix}*"):  # of processes that were killed
        if not os.path.exists(f"/proc/{old.name.removeprefix(prefix).partition('-')[0]}"):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=work_dir))
    try:
        where = exporter.export(result, folder)
        files = sorted(folder.iterdir())
        for file in files:
            target = work_dir / file.name
            if not file.is_file() or file.is_symlink():
                raise EvalFlowError(f"{file.name} is no file")
            if target.is_dir():
                raise EvalFlowError(f"{target} is a folder")
        return [_move(file, work_dir / file.name) for file in files], where
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(file: Path, target: Path) -> Path:
    """Put a file in its place, in one step."""
    os.replace(file, target)
    return target
