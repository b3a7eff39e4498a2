"""docs/measured/faults.md shows the fault matrix as it is."""

import re

from fault_doc import BEGIN, DOCUMENT, END, all_rows, line
from fault_table import SECOND_RUN


def test_the_documents_rows_are_the_tables():
    text = DOCUMENT.read_text()
    shown = [row for row in text[text.index(BEGIN) : text.index(END)].splitlines() if row.startswith("| ")][1:]
    without_seconds = [row.rsplit("|", 3)[0] for row in shown]
    assert without_seconds == [line(row, {}).rsplit("|", 3)[0] for row in all_rows()]


def test_every_row_is_measured():
    """What is told, and that it is over, with its seconds."""
    text = DOCUMENT.read_text()
    seconds = re.findall(r"\| (–|\d+\.\d) \| (–|\d+\.\d) \|$", text[text.index(BEGIN) : text.index(END)], re.MULTILINE)
    assert len(seconds) == len(all_rows())
    for row, (told, over) in zip(all_rows(), seconds, strict=True):
        assert over != "–", row.id
        assert (told != "–") == (row.is_told or row.act == SECOND_RUN), row.id
