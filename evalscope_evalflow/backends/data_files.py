"""Reads the rows of a data file for the checks before a start: in what encoding it is, and which line is broken.

Rows are read one by one, and no more of them than there is time for: a file may have any size.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json

LOOK_S = 1.0  # of this thread's computing, for all files of a task
WAIT_S = 3.0  # the same with waiting for disks, and for a share of a busy processor
ALWAYS = 1 << 20  # bytes of each file that are looked at even when that time is over
LONGEST_LINE = 1 << 26  # characters; a line that is longer is not looked at, and nothing after it
WIDEST_CELL = 1 << 30  # a picture in base64 is wider than Python's csv takes by default
_LOOK_EVERY = 64  # rows between two looks at the clock

_BOMS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # a surrogate: half of a character, or one half of two
_UTF_8_BOM = b"\xef\xbb\xbf"
# Characters of GB 2312: punctuation, letters, and hanzi. Text in GBK is made of them, but for names and rare words.
_GBK = re.compile(rb"(?:[\xa1-\xa3\xb0-\xf7][\xa1-\xfe])+")


class BrokenFile(Exception):
    """A file that EvalScope or VLMEvalKit could not read.

    Attributes:
        line: the line that is broken, from 1.
        what: what is wrong with it.
        todo: what to do about it.
    """

    def __init__(self, line: int, what: str, todo: str) -> None:
        super().__init__(what)
        self.line, self.what, self.todo = line, what, todo


@dataclass(frozen=True)
class Row:
    """A row of a data file.

    Attributes:
        number: its place among the rows, from 1.
        line: the line that it begins in, from 1.
        values: its cells by column; a cell that a short row lacks is None.
        extra: cells beyond the last column.
        halves: whether its JSON may hold half of a character, which no encoding has.
    """

    number: int
    line: int
    values: dict[str, Any]
    extra: int = 0
    halves: bool = False


class Patience:
    """How long files may be looked at, all of them together, by the thread that makes it."""

    def __init__(self, seconds: float = LOOK_S) -> None:
        self._end = time.thread_time() + seconds
        self._last_end = time.monotonic() + max(seconds, WAIT_S)

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.thread_time() > self._end or time.monotonic() > self._last_end


class DataFile:
    """A file of rows: JSON lines, comma-separated or tab-separated values, or Parquet, whose lines are its rows.

    Attributes:
        path: where it is.
        rows_read: how many rows were looked at so far.
        columns: the header's names; empty for JSON lines.
        whole: whether everything was looked at; it is known when the rows are at their end.
        bytes_read: about how much of it was looked at.
    """

    def __init__(self, path: Path, patience: Patience, *, bom_is_text: bool = False) -> None:
        """
        Args:
            path: where it is; its ending says what it is.
            patience: how long it may be looked at.
            bom_is_text: whether whoever reads it takes a byte-order mark for the first letter of the first column.
        """
        self.path, self._patience, self._bom_is_text = path, patience, bom_is_text
        self.rows_read = 0
        self.columns: list[str] = []
        self.whole = True
        self.bytes_read = 0

    def rows(self) -> Iterator[Row]:
        """Its rows.

        Raises:
            BrokenFile: it cannot be read, from some line on.
        """
        if self.path.suffix == ".parquet":
            yield from self._parquet_rows()
            return
        try:
            with self.path.open("rb") as raw:
                self._check_start(raw.read(4))
                raw.seek(0)
                text = io.TextIOWrapper(raw, encoding="utf-8-sig")
                lines = self._lines(text, raw.tell)
                yield from self._json_rows(lines) if self.path.suffix == ".jsonl" else self._table_rows(lines)
        except UnicodeDecodeError:
            raise self._wrong_encoding() from None
        except OSError as error:
            raise BrokenFile(1, f"it cannot be read: {error.strerror}", "Give a file that you may read.") from error

    def _parquet_rows(self) -> Iterator[Row]:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            size = self.path.stat().st_size
            if not size:
                raise BrokenFile(1, "it is empty", "Write it anew.")
            with parquet.ParquetFile(self.path) as file:
                self.columns = list(file.schema_arrow.names)
                for batch in file.iter_batches(_LOOK_EVERY):
                    for values in batch.to_pylist():
                        self.rows_read += 1
                        yield Row(self.rows_read, self.rows_read, values)
                    self.bytes_read = size * self.rows_read // max(1, file.metadata.num_rows)
                    if self.bytes_read > ALWAYS and self.rows_read < file.metadata.num_rows and self._patience.over:
                        self.whole = False
                        return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            why = "it is no Parquet file, or a part of one is missing"
            raise BrokenFile(
                max(1, self.rows_read), f"{why} ({str(error).splitlines()[0]})", "Write it anew."
            ) from error

    def looked_at(self) -> str:
        """How much was looked at, if it is not all; else empty."""
        if self.whole:
            return ""
        size = self.path.stat().st_size
        return f"the first {self.rows_read:,} rows were looked at ({_mib(self.bytes_read)} of {_mib(size)})"

    def _check_start(self, start: bytes) -> None:
        for mark, name in _BOMS.items():
            if start.startswith(mark):
                raise BrokenFile(1, f"it is {name} (its byte-order mark says so), not UTF-8", _convert(self.path, name))
        if start.startswith(_UTF_8_BOM) and self._bom_is_text:
            what = "it begins with a byte-order mark (BOM), which this version of EvalScope takes for text"
            raise BrokenFile(
                1, what, f"Remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {shlex.quote(str(self.path.absolute()))}"
            )

    def _lines(self, text: io.TextIOWrapper, tell: Callable[[], int]) -> Iterator[str]:
        number = 0
        while True:
            line = text.readline(LONGEST_LINE)
            if not line:
                return
            number += 1
            if number % _LOOK_EVERY == 0 or len(line) > ALWAYS:
                self.bytes_read = tell()
                if self.bytes_read > ALWAYS and self._patience.over:
                    self.whole = False
                    return
            if len(line) == LONGEST_LINE:
                self.whole = False
                return
            yield line

    def _json_rows(self, lines: Iterator[str]) -> Iterator[Row]:
        for line, text in enumerate(lines, start=1):
            stripped = text.strip()
            if not stripped:
                continue
            try:
                values = any_json.loads(stripped)
            except json.JSONDecodeError as error:
                what = f"it is no JSON: {error.msg} (column {error.colno})"
                raise BrokenFile(line, what, "Mend the line: each is one JSON object.") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or as many brackets
                raise BrokenFile(line, f"its JSON cannot be read: {error}", "Mend the line.") from error
            if not isinstance(values, dict):
                what = f"it is {_kind(values)}, not a JSON object"
                raise BrokenFile(line, what, 'Each line is one object: {"question": …, "answer": …}.')
            self.rows_read += 1
            yield Row(self.rows_read, line, values, halves=_HALF.search(stripped) is not None)

    def _table_rows(self, lines: Iterator[str]) -> Iterator[Row]:
        pending: list[str] = []  # the lines of the row that is being read

        def feed() -> Iterator[str]:
            size = 0
            for line in lines:
                size = size + len(line) if pending else len(line)
                if size > LONGEST_LINE:
                    self.whole = False
                    return
                pending.append(line)
                yield line

        delimiter = "\t" if self.path.suffix == ".tsv" else ","
        reader = csv.reader(feed(), delimiter=delimiter)
        last = 0
        while True:
            begins = last + 1
            pending.clear()
            try:
                with self._cells_of_any_width():
                    cells = next(reader, None)
            except csv.Error as error:
                raise BrokenFile(begins, f"it cannot be read: {error}", "Mend the line.") from error
            last = reader.line_num
            if cells is None:
                return
            if _unclosed(pending, delimiter):
                if not self.whole:  # the rest of it was not looked at
                    return
                what = "a quotation mark is opened and never closed: all that follows would be one cell"
                raise BrokenFile(begins, what, "Close it, or double it where it is text.")
            if not cells:
                continue
            if not self.columns:
                self.columns = cells
                continue
            self.rows_read += 1
            values: dict[str, Any] = dict.fromkeys(self.columns)
            values.update(zip(self.columns, cells, strict=False))
            yield Row(self.rows_read, begins, values, max(0, len(cells) - len(self.columns)))

    @contextmanager
    def _cells_of_any_width(self) -> Iterator[None]:
        """VLMEvalKit's files have pictures in them; EvalScope reads its own with Python's limit."""
        if self.path.suffix != ".tsv":
            yield
            return
        before = csv.field_size_limit(WIDEST_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(before)

    def _wrong_encoding(self) -> BrokenFile:
        """Which line is the first that is not UTF-8, and what it is instead."""
        number, first, wrong = 0, 0, b""
        with self.path.open("rb") as raw:
            for number, line in enumerate(iter(lambda: raw.readline(LONGEST_LINE), b""), start=1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    first = first or number
                    wrong += line[:1024]
                if first and len(wrong) > 1 << 14:
                    break
        guess = guess_encoding(wrong)
        todo = _convert(self.path, guess) if guess else "Save it as UTF-8."
        return BrokenFile(first or number, f"it is not UTF-8{f' but probably {guess}' if guess else ''}", todo)


def guess_encoding(data: bytes) -> str:
    """In what encoding bytes are that are no UTF-8; empty where nothing fits.

    Args:
        data: some lines.
    """
    high = sum(byte > 0x7F for byte in data)
    if not high:
        return ""
    lone = len(re.findall(rb"(?<![\x80-\xff])[\xa0-\xff](?![\x80-\xff])", data))
    if lone > high * 0.7:  # letters with accents, each between others
        return "Windows-1252"
    usual = sum(len(found) for found in _GBK.findall(data))
    for name, enough in (("GBK", usual > high * 0.8), ("Shift_JIS", True), ("Big5", True), ("GB18030", True)):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        kana = sum("\u3040" <= letter <= "\u30ff" for letter in text)
        if name == "Shift_JIS" and not kana:
            continue
        if enough:
            return name
    return "Windows-1252"


def _convert(path: Path, encoding: str) -> str:
    file = shlex.quote(str(path.absolute()))
    return f"Convert it: iconv -f {encoding} -t UTF-8 {file} > NEW, and put NEW in its place."


def _unclosed(lines: list[str], delimiter: str) -> bool:
    """Whether the last row of a file ends within quotation marks."""
    if len(lines) < 2 and not (lines and lines[-1].count('"') % 2):
        return False
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a switch", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _mib(size: int) -> str:
    return f"{size / 1024**2:,.0f} MiB"
