"""Result exporters by name: ours and those of other packages, from the entry-point group `evalflow.exporters`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from evalscope_evalflow.config import PluginChoice
from evalscope_evalflow.config.plugin_options import PluginOptions, load_with_options
from evalscope_evalflow.errors import EvalFlowError
from evalscope_evalflow.results.exporters.base import INTERFACE_VERSION, Exporter
from evalscope_evalflow.results.outcome import FlowResult
from evalscope_evalflow.results.score_rows import ScoreRow, score_rows

__all__ = [
    "GROUP",
    "INTERFACE_VERSION",
    "Exporter",
    "FlowResult",
    "PluginOptions",
    "ScoreRow",
    "export",
    "load_exporter",
    "score_rows",
]

GROUP = "evalflow.exporters"


def load_exporter(choice: PluginChoice, where: str = "evalflow.exporters") -> Exporter:
    """The exporter that the section chooses, with its options.

    Args:
        choice: name and options.
        where: the setting that chooses it, for messages.

    Raises:
        ConfigError: there is none of this name, its package is broken or of another version, or an option is wrong.
    """
    kind, options = load_with_options(GROUP, choice, what="exporter", where=where, interface_version=INTERFACE_VERSION)
    found: Exporter = kind(options)
    return found


def export(result: FlowResult, exporters: Sequence[Exporter], warn: Callable[[str], None]) -> list[Path]:
    """Export a run's results into its `work_dir`; an exporter that fails is reported and harms nothing else.

    Args:
        result: the results of every model.
        exporters: what exports them.
        warn: is called with a line for each exporter that failed.

    Returns:
        The files that were written.
    """
    written: list[Path] = []
    for exporter in exporters:
        try:
            written += _export(result, exporter)
        except Exception as error:  # noqa: BLE001 - another package's code; the run's results must survive it
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            warn(f"exporter {exporter.name} failed, and wrote nothing: {message}")
    return written


def _export(result: FlowResult, exporter: Exporter) -> list[Path]:
    """Let an exporter write into a private folder, and move its files into work_dir.

    Raises:
        EvalFlowError: it left something else than files.
        Exception: whatever the exporter raises.
    """
    work_dir = result.task.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".export-{exporter.name}-", dir=work_dir))
    try:
        exporter.export(result, folder)
        files = sorted(folder.iterdir())
        for file in files:
            target = work_dir / file.name
            if not file.is_file() or file.is_symlink():
                raise EvalFlowError(f"{file.name} is no file")
            if target.is_dir():
                raise EvalFlowError(f"{target} is a folder")
        return [_move(file, work_dir / file.name) for file in files]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(file: Path, target: Path) -> Path:
    """Put a file in its place, in one step."""
    os.replace(file, target)
    return target
