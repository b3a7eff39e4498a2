"""docs/faults.md shows the fault matrix as it is."""

import re

from fault_doc import BEGIN, DOCUMENT, END, all_rows, line


def test_the_documents_rows_are_the_tables():
    text = DOCUMENT.read_text()
    shown = [row for row in text[text.index(BEGIN) : text.index(END)].splitlines() if row.startswith("| ")][1:]
    without_seconds = [row.rsplit("|", 3)[0] for row in shown]
    assert without_seconds == [line(row, {}).rsplit("|", 3)[0] for row in all_rows()]


def test_most_rows_are_measured():
    seconds = re.findall(r"\| (–|\d+\.\d) \| (–|\d+\.\d) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(seconds) == len(all_rows())
    assert sum(over != "–" for _, over in seconds) >= 30
