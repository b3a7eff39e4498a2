"""Writes `docs/measured/faults.md`: the fault matrix, with the seconds that its rows took.

EVALFLOW_FAULTS_JSON=faults.json pytest tests/real/run/test_faults.py
python tests/fault_doc.py faults.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "measured" / "faults.md"
BEGIN, END = "<!-- rows -->", "<!-- /rows -->"
sys.path.insert(0, str(Path(__file__).parent / "real"))

import fault_table as table  # noqa: E402


def outcome(row: table.Row) -> str:
    """What the row's test asks for, in words."""
    code = f"killed by signal {-row.code}" if row.code < 0 else f"exit code {row.code}"
    parts = [code, *(f"“{words}”" for words in row.says[:1])]
    if row.lost == 0 and row.recovers:
        parts.append("results as undisturbed")
    elif row.lost:
        parts.append(f"{row.lost} counted as failed")
    if row.after:
        parts.append("then nothing is left")
    if row.resumes:
        parts.append("run again: results as undisturbed")
    return "; ".join(parts)


def line(row: table.Row, seconds: Mapping[str, float | None]) -> str:
    """A row of the document's table."""
    told, over = (
        "–" if seconds.get(name) is None else f"{seconds[name]:.1f}" for name in ("told_s", "over_s")
    )  # fmt: skip
    return f"| {row.engine} | {row.phase} | {row.fault} | {outcome(row)} | {told} | {over} |"


def all_rows() -> list[table.Row]:
    """Every row, in the document's order."""
    return [*table.ROWS, *table.VLLM_ROWS]


def main(file: str) -> None:
    """Put the rows into the document.

    Args:
        file: the seconds, as the tests wrote them.
    """
    seconds = json.loads(Path(file).read_text())
    text = DOCUMENT.read_text()
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    rows = [line(row, seconds.get(row.id, {})) for row in all_rows()]
    header = "| engine | phase | fault | what holds afterwards | reported, s | over, s |\n|---|---|---|---|---|---|"
    DOCUMENT.write_text("\n".join([head, header, *rows, tail]))


if __name__ == "__main__":
    main(sys.argv[1])
