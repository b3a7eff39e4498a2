"""CSV files whose cells no spreadsheet takes for a formula, and whose rows stay whole, whatever a text holds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import TextIO

# A spreadsheet computes a cell that begins so (OWASP, "CSV Injection"); full-width forms count, too.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cell(value: object) -> str:
    """A value as a CSV file's cell.

    Numbers stay numbers, also where a text is one, such as the answer "-3". A text that a spreadsheet would compute
    gets an apostrophe in front, by which it is shown as a text. `text_of` takes it off again.

    Args:
        value: a text, a number, a boolean, or None.
    """
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if not isinstance(value, str) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}" if _FORMULA.match(text) else text


def write_rows(file: TextIO, rows: Iterable[Iterable[object]]) -> None:
    """Write rows (RFC 4180, but for the line's end, which is a line feed).

    Args:
        file: a text file; opened with `newline=""`.
        rows: the rows' values.
    """
    line = io.StringIO(newline="")
    # Up to Python 3.12, `csv` puts a text into quotes for a character of the line's end, and for no other line break.
    writer = csv.writer(line, lineterminator="\r\n")
    for row in rows:
        writer.writerow([cell(value) for value in row])
        file.write(line.getvalue().removesuffix("\r\n") + "\n")
        line.seek(0)
        line.truncate()


def text_of(found: str) -> str:
    """The text that `cell` made a cell of."""
    return found[1:] if found.startswith("'") and _FORMULA.match(found) else found
