"""The exporter `csv`: `scores.csv`, a line for each model, dataset and metric, and `samples.csv`, a line a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.results.csv_cells import write_rows
from evalscope_evalflow.results.exporters.base import Exporter
from evalscope_evalflow.results.exporters.exported_results import ExportedResults
from evalscope_evalflow.results.exporters.table_columns import COLUMNS, values_of
from evalscope_evalflow.results.score_rows import ScoreRow

FILE, SAMPLES = "scores.csv", "samples.csv"
_ROWS = 10_000  # at once, so that a million samples do not lie in memory as Python's objects


class CsvExporter(Exporter):
    """Writes CSV (UTF-8, comma-separated, with a header; quoted where needed, as in RFC 4180)."""

    name = "csv"
    interface_version = 1

    class Options(PluginOptions):
        samples: bool = Field(True, description="write samples.csv as well, a line for each sample with its texts")

    options: Options

    def export(self, result: ExportedResults, folder: Path) -> None:
        write_scores(result.scores, folder / FILE)
        if self.options.samples and result.runs:
            _write_samples(result, folder / SAMPLES)


def write_scores(rows: Iterable[ScoreRow], path: Path) -> None:
    """Write the scores.

    Raises:
        OSError: the file cannot be written.
    """
    _write(path, COLUMNS, ({name: _rounded(value) for name, value in values_of(row).items()} for row in rows))


def _rounded(value: Any) -> Any:
    """A score as the table shows it."""
    return f"{value:.4f}" if isinstance(value, float) else value


def _write_samples(result: ExportedResults, path: Path) -> None:
    tables = iter(result.sample_tables())
    first = next(tables)

    def rows() -> Iterable[Mapping[str, Any]]:
        for table in (first, *tables):
            for batch in table.to_batches(_ROWS):
                yield from batch.to_pylist()

    _write(path, first.column_names, rows())


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write_rows(file, [columns])
        write_rows(file, ([row[name] for name in columns] for row in rows))
