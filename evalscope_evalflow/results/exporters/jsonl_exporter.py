"""The exporter `jsonl`: `scores.jsonl` and `samples.jsonl`, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.results.exporters.base import Exporter
from evalscope_evalflow.results.exporters.exported_results import ExportedResults
from evalscope_evalflow.results.exporters.table_columns import values_of
from evalscope_evalflow.results.json_output import plain

FILE, SAMPLES = "scores.jsonl", "samples.jsonl"
_ROWS = 10_000


class JsonLinesExporter(Exporter):
    """Writes JSON Lines (UTF-8); what is missing is null."""

    name = "jsonl"
    interface_version = 1

    class Options(PluginOptions):
        samples: bool = Field(True, description="write samples.jsonl as well, an object for each sample with its texts")

    options: Options

    def export(self, result: ExportedResults, folder: Path) -> None:
        _write(folder / FILE, map(values_of, result.scores))
        if self.options.samples and result.runs:
            _write(folder / SAMPLES, _samples(result))


def _samples(result: ExportedResults) -> Iterator[Mapping[str, Any]]:
    for table in result.sample_tables():
        for batch in table.to_batches(_ROWS):
            yield from batch.to_pylist()


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
