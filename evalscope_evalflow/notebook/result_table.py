"""What `run_task` returns: a dict that shows itself as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.results.score_rows import ScoreRow
from evalscope_evalflow.terminal_text import printable

if TYPE_CHECKING:
    import pandas

HEADINGS = ("model", "dataset", "metric", "score", "samples", "remarks")


class ResultTable(dict[str, Any]):
    """The results of a task: `{dataset: report}`, or `{model: {dataset: report}}`.

    Attributes:
        rows: every score, as in `scores.csv`; datasets and models without one have a row as well.
    """

    def __init__(self, reports: Mapping[str, Any], rows: Sequence[ScoreRow]) -> None:
        """
        Args:
            reports: what the dict holds.
            rows: its scores.
        """
        super().__init__(reports)
        self.rows = tuple(rows)

    def to_frame(self) -> pandas.DataFrame:
        """The scores as a pandas DataFrame: a row for each model, dataset and metric, columns as in `scores.csv`."""
        import pandas

        return pandas.DataFrame([asdict(row) for row in self.rows], columns=list(ScoreRow.__dataclass_fields__))

    def _repr_html_(self) -> str:
        """Headline scores, one row for each model and dataset; columns that hold nothing are left out."""
        cells = [_cells(row) for row in self.rows if row.headline]
        shown = [name for name in HEADINGS if any(row[name] for row in cells)]
        head = "".join(f"<th>{escape(name)}</th>" for name in shown)
        body = "".join(f"<tr>{''.join(f'<td>{escape(row[name])}</td>' for name in shown)}</tr>" for row in cells)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __str__(self) -> str:
        """The same as text, for `print`: `repr` has every report, whole."""
        cells = [_cells(row) for row in self.rows if row.headline]
        shown = [name for name in HEADINGS if any(row[name] for row in cells)]
        lines = [shown, *([row[name] for name in shown] for row in cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return printable("\n".join(texts))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.rows)


def _cells(row: ScoreRow) -> dict[str, str]:
    covered = "" if row.requested is None else f"{row.scored or 0}/{row.requested}"
    remarks = "; ".join(part for part in (row.why_not, row.remarks) if part)
    score = row.score_text or "none"
    return dict(zip(HEADINGS, (row.model, row.dataset, row.metric, score, covered, remarks), strict=True))
