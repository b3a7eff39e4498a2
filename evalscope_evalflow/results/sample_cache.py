"""Every sample of a run folder as a table: `evalflow/samples.parquet`, made anew when its source files change.

Only the columns that are asked for are read, so that a comparison of a million samples reads no texts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.backends import Sample
from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.results.run_folders import RunFolder

if TYPE_CHECKING:
    import pandas
    import pyarrow

FILE = "samples.parquet"
FORMAT = 1  # of the file; one of another format is made anew
_MADE_OF = b"evalflow"  # key of the file's metadata
# The columns, in their order; texts come last, since most readers do without them.
COLUMNS: dict[str, str] = {
    "model": "category",  # the model's name
    "dataset": "category",
    "subset": "category",
    "sample": "string",  # the backend's own name of the sample
    "repeat": "int32",
    "occurrence": "int32",  # 0 for the first sample of this `question` and `repeat` in the dataset, 1 for the next, …
    "group": "string",
    "question": "string",
    "metric": "category",
    "score": "float64",  # NaN: none
    "state": "category",  # scored, unjudged, failed, unscored
    "judged": "bool",  # missing: no judge was asked
    "kinds": "category",  # what is unusual about the answer; several are joined by a space
    "input_tokens": "int64",  # missing: not known
    "output_tokens": "int64",
    "latency_s": "float64",
    "extracted": "string",
    "target": "string",
    "verdict": "string",
    "failure": "string",
    "reason": "string",
    "prompt": "string",
    "answer": "string",
}
_ROWS = 20_000  # a row group


def path_in(folder: Path) -> Path:
    """The cache's place in a run folder."""
    return folder / "evalflow" / FILE


def samples(run: RunFolder) -> Iterator[Sample]:
    """The samples of a run folder, dataset by dataset, read from its files."""
    backend = run.load_backend()
    for dataset in run.datasets:
        yield from backend.samples(run.folder, run.model, dataset)


def read(run: RunFolder, columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """The samples of a run folder as a DataFrame, a row for each; see `COLUMNS`.

    Text is `str` or None, `judged` is of pandas' nullable `boolean`, numbers of tokens of `Int64`; columns of few
    values are categories.

    Args:
        run: the run folder.
        columns: names of columns; default: all of them.

    Raises:
        ConfigError: there is no such column.
    """
    return as_frame(read_table(run, columns))


def read_all(runs: Iterable[RunFolder], columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """The same of several run folders, one below the other, with the column `run`, the name of each, first."""
    import pyarrow as pa

    tables = []
    for run in runs:
        table = read_table(run, columns)
        name = pa.array([0] * table.num_rows, pa.int32())
        tables.append(table.add_column(0, "run", pa.DictionaryArray.from_arrays(name, pa.array([run.name]))))
    return as_frame(pa.concat_tables(tables).unify_dictionaries())


def read_table(run: RunFolder, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """The same as an Arrow table. The cache is made, or made anew, where it has to be and can be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = _checked(columns)
    made_of = _made_of(run)
    try:
        with pq.ParquetFile(path_in(run.folder)) as file:
            if (file.schema_arrow.metadata or {}).get(_MADE_OF) == made_of:
                return file.read(columns=wanted)
    except (OSError, pa.ArrowException, KeyError):  # there is none, or it is broken
        pass
    table = _table(run, made_of)
    with contextlib.suppress(OSError):  # a folder that cannot be written is read all the same
        _write(table, path_in(run.folder))
    return table.select(wanted)


def renew(run: RunFolder) -> None:
    """Write the cache, unless the one that is there will do.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    made_of = _made_of(run)
    with contextlib.suppress(OSError, pa.ArrowException):
        if (pq.read_schema(path_in(run.folder)).metadata or {}).get(_MADE_OF) == made_of:
            return
    _write(_table(run, made_of), path_in(run.folder))


def as_frame(table: pyarrow.Table) -> pandas.DataFrame:
    """A DataFrame of an Arrow table, with types that can say that a value is missing."""
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype()}
    return table.to_pandas(types_mapper=nullable.get, split_blocks=True, self_destruct=True)


def _checked(columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return list(COLUMNS)
    for name in columns:
        if name not in COLUMNS:
            raise ConfigError(
                Problem(
                    "columns", f"samples have no column {name!r}", nearest(name, list(COLUMNS)) or ", ".join(COLUMNS)
                )
            )
    return list(columns)


def _made_of(run: RunFolder) -> bytes:
    """Sizes and times of the files that samples are read from."""
    files = {}
    for path in run.load_backend().sample_files(run.folder, run.model):
        with contextlib.suppress(OSError):
            found = path.stat()
            files[str(path.relative_to(run.folder))] = [found.st_size, found.st_mtime_ns]
    facts = {"format": FORMAT, "model": run.model, "datasets": sorted(run.datasets), "files": files}
    return json.dumps(facts, sort_keys=True).encode("utf-8", "surrogateescape")


def _table(run: RunFolder, made_of: bytes) -> pyarrow.Table:
    import pyarrow as pa

    kinds = {
        "category": pa.string(), "string": pa.string(), "int32": pa.int32(), "int64": pa.int64(),
        "float64": pa.float64(), "bool": pa.bool_(),
    }  # fmt: skip
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    parts = []
    lines: list[bytes] = []
    seen: Counter[tuple[str, str, int]] = Counter()
    for sample in samples(run):
        key = sample.dataset, sample.question, sample.repeat
        lines.append(_line(run.model, sample, seen[key]))
        seen[key] += 1
        if len(lines) == _ROWS:
            parts.append(_part(lines, schema))
            lines = []
    if lines:
        parts.append(_part(lines, schema))
    table = pa.concat_tables(parts) if parts else schema.empty_table()
    for place, (name, kind) in enumerate(COLUMNS.items()):
        if kind == "category":
            table = table.set_column(place, name, table.column(name).dictionary_encode())
    return table.replace_schema_metadata({_MADE_OF: made_of})


def _part(lines: list[bytes], schema: pyarrow.Schema) -> pyarrow.Table:
    """A part of the table, made by Arrow's reader of JSON: `pyarrow.array` would import pandas, which takes 1 s."""
    import pyarrow as pa
    from pyarrow import json as reader

    block = max(1 << 20, 2 * max(map(len, lines)))  # a line has to fit into it
    return reader.read_json(
        pa.BufferReader(b"".join(lines)),
        reader.ReadOptions(use_threads=False, block_size=min(block, 2**31 - 1)),
        reader.ParseOptions(explicit_schema=schema),
    )


def _line(model: str, sample: Sample, occurrence: int) -> bytes:
    values = {"model": model, "occurrence": occurrence, "kinds": " ".join(sample.kinds)}
    row = {name: _sendable(values[name] if name in values else getattr(sample, name)) for name in COLUMNS}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _sendable(value: Any) -> Any:
    """A value as JSON has it; a text without halves of characters, which UTF-8 cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _write(table: pyarrow.Table, path: Path) -> None:
    """Write the file, or leave the old one.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True)
    for old in path.parent.glob(f".{path.name}.*.new"):  # of processes that were killed
        if not os.path.exists(f"/proc/{old.name.split('.')[-2]}"):
            old.unlink(missing_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        pq.write_table(table, new, compression="zstd", row_group_size=_ROWS)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
