"""A comparison as Markdown, CSV and JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from evalscope_evalflow.results.comparison.comparison_data import Comparison, Flip
from evalscope_evalflow.results.comparison.comparison_table import (
    POWER_HEAD,
    POWER_TEXT,
    difference_lines,
    headline,
    legend,
    notes,
    power_rows,
    wide_rows,
)
from evalscope_evalflow.results.comparison.comparison_text import flip_title, shortened
from evalscope_evalflow.results.csv_cells import write_rows
from evalscope_evalflow.terminal_text import printable

CSV_COLUMNS = (
    "run", "baseline", "dataset", "metric", "verdict", "score", "baseline_score", "difference", "low", "high", "p",
    "p_adjusted", "lower_one_sided", "wins", "losses", "ties", "pairs", "expected", "share", "groups",
    "effective_groups", "discordant_groups", "method", "smallest_difference", "left_out", "refused",
)  # fmt: skip

SAMPLE_COLUMNS = ("dataset", "subset", "repeat", "difference", "prompt", "target")


def as_markdown(comparison: Comparison) -> str:
    """A comparison for a README, an issue or a job's summary."""
    return "\n".join(_markdown(comparison)) + "\n"


def _markdown(comparison: Comparison) -> Iterator[str]:
    yield from (f"**{escaped(line)}**" for line in headline(comparison))
    differences = list(difference_lines(comparison.differences))
    if differences:
        yield "\n### What differs\n"
    for item, name, values in differences:
        where = "" if set(item.datasets) >= set(comparison.datasets) else f" on {', '.join(item.datasets)}"
        what = "not compared: " if item.refuses else "allowed: " if item.kind.refused else ""
        yield f"- {what}{escaped(name + where)}: {escaped(values)}"
    yield ""
    rows = [
        [escaped(row.run.label), *("<br>".join(map(escaped, lines)) or "–" for lines in row.cells)]
        for row in wide_rows(comparison)
    ]
    yield from markdown_table(["", *map(escaped, comparison.datasets)], rows)
    yield ""
    yield from (f"{escaped(line)}\n" for line in legend(comparison))
    yield from (f"- {escaped(line)}" for line, _ in notes(comparison))
    power = power_rows(comparison)
    if power:
        yield "\n### What this data could have shown\n"
        yield from markdown_table(POWER_HEAD, [list(map(escaped, row)) for row in power])
        yield f"\n{POWER_TEXT}"
    if comparison.flips_in_all:
        yield f"\n### {len(comparison.flips)} of {comparison.flips_in_all} samples whose scores differ\n"
        for flip in comparison.flips:
            yield from _markdown_flip(flip)


def _markdown_flip(flip: Flip) -> Iterator[str]:
    yield f"#### {escaped(flip_title(flip))}\n"
    yield f"{_block(flip.prompt)}\n"
    if flip.target:
        yield f"Right answer: {escaped(shortened(flip.target))}\n"
    answers = (flip.baseline, flip.answer)
    rows = [[escaped(shortened(answer.answer or "(not kept)")) for answer in answers]]
    for name in ("extracted", "verdict", "reason"):
        values = [getattr(answer, name) for answer in answers]
        if any(values):
            rows.append([f"{name}: {escaped(shortened(value or '–'))}" for value in values])
    yield from markdown_table([escaped(answer.run) for answer in answers], rows)
    yield ""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; its texts are escaped already."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def escaped(text: str) -> str:
    """A text that Markdown takes for nothing but text, on one line of a table."""
    for character in "\\`*_[]<>|#~":
        text = text.replace(character, f"&#{ord(character)};" if character in "<>|`" else f"\\{character}")
    return "<br>".join(printable(text).splitlines())


def _block(text: str) -> str:
    """A text in a fence that is longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{shortened(text)}\n{fence}"


def as_csv(comparison: Comparison) -> str:
    """A line for each run and dataset that was, or should have been, compared (UTF-8, RFC 4180)."""
    rows: list[Iterable[Any]] = [CSV_COLUMNS]
    for cell in comparison.cells:
        values: dict[str, Any] = {name: getattr(cell, name) for name in CSV_COLUMNS}
        values["verdict"] = cell.verdict.value
        values["left_out"] = "; ".join(f"{count} {words}" for words, count in cell.left_out.items())
        rows.append([_field(values[name]) for name in CSV_COLUMNS])
    return _csv(rows)


def samples_csv(comparison: Comparison) -> str:
    """A line for each sample whose score differs, with both answers in full."""
    own = ("sample", "score", "answer", "extracted", "verdict", "reason")
    rows: list[Iterable[Any]] = [("run", "baseline", *SAMPLE_COLUMNS, *own, *(f"baseline_{name}" for name in own))]
    for flip in comparison.flips:
        about = [getattr(flip, name) for name in SAMPLE_COLUMNS]
        answers = [getattr(answer, name) for answer in (flip.answer, flip.baseline) for name in own]
        rows.append([_rounded(value) for value in (flip.answer.run, flip.baseline.run, *about, *answers)])
    return _csv(rows)


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO(newline="")
    write_rows(file, rows)
    return file.getvalue()


def _rounded(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _field(value: Any) -> Any:
    """A value in one line."""
    return " ".join(value.split()) if isinstance(value, str) else _rounded(value)


def as_payload(comparison: Comparison) -> dict[str, Any]:
    """A comparison as `--json` prints it, without the envelope."""
    data = asdict(comparison)
    for item, cell in zip(data["cells"], comparison.cells, strict=True):
        item.update(share=cell.share, half_width=cell.half_width, lopsided=cell.lopsided)
    for item, difference in zip(data["differences"], comparison.differences, strict=True):
        item["refuses"] = difference.refuses
    return {**data, "family_text": comparison.family_text}
