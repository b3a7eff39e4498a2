"""The exporter `parquet`: `scores.parquet` and `samples.parquet`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.results.exporters.base import Exporter
from evalscope_evalflow.results.exporters.exported_results import ExportedResults
from evalscope_evalflow.results.exporters.table_columns import COLUMNS, values_of

if TYPE_CHECKING:
    import pyarrow

FILE, SAMPLES = "scores.parquet", "samples.parquet"
_NUMBERS = ("requested", "answered", "scored", "failed", "judged", "fallbacks", "cut_off", "empty", "n_groups")
_FLOATS = ("score", "interval_low", "interval_high")
_BOOLEANS = ("headline", "complete", "few_groups")


class ParquetExporter(Exporter):
    """Writes Parquet files, whose columns have types; what is missing is null."""

    name = "parquet"
    interface_version = 1

    class Options(PluginOptions):
        samples: bool = Field(True, description="write samples.parquet as well, a row for each sample with its texts")

    options: Options

    def export(self, result: ExportedResults, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [_sendable(values_of(row)) for row in result.scores]
        pq.write_table(pa.Table.from_pylist(rows, _schema()), folder / FILE, compression="zstd")
        if self.options.samples and result.runs:
            tables = iter(result.sample_tables())
            first = next(tables).replace_schema_metadata()
            with pq.ParquetWriter(folder / SAMPLES, first.schema, compression="zstd") as writer:
                writer.write_table(first)
                for table in tables:
                    writer.write_table(table.replace_schema_metadata())


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    kinds = {**dict.fromkeys(_NUMBERS, pa.int64()), **dict.fromkeys(_FLOATS, pa.float64())}
    kinds |= dict.fromkeys(_BOOLEANS, pa.bool_())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])


def _sendable(values: dict[str, object]) -> dict[str, object]:
    """Values whose texts UTF-8 can hold: halves of characters are escaped."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in values.items()
    }
