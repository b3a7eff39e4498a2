"""What `evalflow show` prints: scores as a table that fits 60 columns, and samples one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalscope_evalflow.backends.sample import FAILED, SCORED, UNJUDGED
from evalscope_evalflow.results import marks
from evalscope_evalflow.results.run_folders import FILES_GONE, UNKNOWN, RunFolder, ScoreRecord
from evalscope_evalflow.results.sample_filters import Chosen
from evalscope_evalflow.results.tables import FEW_GROUPS, INCOMPLETE, INTERVAL, interval_text
from evalscope_evalflow.state.costs import recorded_costs, sum_of
from evalscope_evalflow.state.record import DIED

ROOM = 80  # columns that a table with more than two counts takes
NARROW = 100  # columns
LONGEST = 700  # characters of a text that are shown
_STATES = {
    "running": "still running",
    DIED: "was killed before its end",
    "interrupted": "was interrupted",
    "failed": "failed",
    UNKNOWN: "has no record that can be read",
}
_KINDS = {
    "cut_off": "cut off",
    "empty": "no text",
    "only_thoughts": "only thoughts",
    "open_thought": "unclosed thought",
    "tool_call": "calls a tool",
}


def show_scores(runs: Sequence[RunFolder], datasets: Sequence[str] | None, console: Console) -> None:
    """Print what runs are, their scores, and what has to be known of these.

    Args:
        runs: the run folders.
        datasets: only these; None: all.
        console: where to print.
    """
    rows = [
        (run, score) for run in runs for score in run.scores.values() if datasets is None or score.dataset in datasets
    ]
    for line in _headings(runs):
        console.print(escape(line))
    if not rows:
        console.print("No score: nothing is written down of any dataset.")
        return
    several = len({run.name for run, _ in rows}) > 1
    _print_table(rows, several, console)
    for line in _metric_lines(rows):
        console.print(escape(line))
    if any(score.few_groups and score.interval for _, score in rows):
        console.print(FEW_GROUPS)
    beside = _counts(rows) if console.width < ROOM and len(_counts(rows)) > 2 else {}  # no columns: there is no room
    for run, score in rows:
        place = f"{run.name} / {score.dataset}" if several else score.dataset
        numbers = [f"{name} {of(score)}" for name, of in beside.items() if of(score) != "0"]
        if numbers:
            console.print(f"{escape(place)}: {', '.join(numbers)}", style="yellow")
        for note in dict.fromkeys([*([score.why_not] if score.why_not else []), *score.remarks]):
            console.print(f"{escape(place)}: {escape(note)}", style="yellow")
    for line in _cost_lines(runs):
        console.print(escape(line))


def _cost_lines(runs: Sequence[RunFolder]) -> list[str]:
    """What all runs in each folder have cost, and of several folders the sum."""
    found = {run.name: recorded_costs(run.folder, run.record).total for run in runs}
    costs = {name: cost for name, cost in found.items() if cost.sentence()}
    if len(runs) == 1:
        return [f"Cost: {cost.sentence()}" for cost in costs.values()]
    lines = [f"{name}: cost {cost.sentence()}" for name, cost in costs.items()]
    return [*lines, f"All: cost {sum_of(costs.values()).sentence()}"] if len(costs) > 1 else lines


def _print_table(rows: Sequence[tuple[RunFolder, ScoreRecord]], several: bool, console: Console) -> None:
    """The scores; where there is little room, each model's name stands on a line above its own."""
    counts = {} if console.width < ROOM and len(_counts(rows)) > 2 else _counts(rows)
    intervals = any(score.interval for _, score in rows)
    titles = ["dataset", "score", *([INTERVAL] if intervals else []), "samples", *counts]
    cells = []
    for run, score in rows:
        shown = [_score(score), *([interval_text(score.interval, score.few_groups)] if intervals else [])]
        samples = f"{score.covered}/{score.requested}" if score.requested is not None else str(score.covered)
        cells.append((run.name, score, [score.dataset, *shown, samples, *(of(score) for of in counts.values())]))
    widths = [max(map(len, column)) for column in zip(*(values for _, _, values in cells), strict=True)]
    if _needed(titles, widths) > console.width:
        _print_lines(titles, cells, several, console)
        return
    narrow = several and console.width < NARROW
    for number, name in enumerate(dict.fromkeys(name for name, _, _ in cells) if narrow else [""]):
        if narrow:
            console.print(escape(name), style="bold")
        table = Table(header_style="bold", pad_edge=False, box=None, padding=(0, 2, 0, 0), show_header=not number)
        if several and not narrow:
            table.add_column("model", overflow="fold")
        for place, (title, width) in enumerate(zip(titles, widths, strict=True)):
            width = max(width, *map(len, title.split()))
            lines = title.replace("% ", "%\n") if "%" in title else title.replace(" ", "\n")
            least = min(width, 16) if place or narrow else None  # a dataset's name is folded before a number is
            table.add_column(lines, justify="right" if place else "left", overflow="fold", min_width=least)
        for of, score, values in cells:
            if not narrow or of == name:
                names = [of] if several and not narrow else []
                table.add_row(*map(escape, [*names, *values]), style=None if score.complete else "yellow")
        console.print(table)


def _needed(titles: Sequence[str], widths: Sequence[int]) -> int:
    """Columns that the table takes at least; a dataset's name can be folded, a number cannot."""
    words = [max(map(len, title.split())) for title in titles]
    least = [max(word, min(width, 16)) for word, width in zip(words[1:], widths[1:], strict=True)]
    return words[0] + sum(least) + 2 * len(least)


def _print_lines(
    titles: Sequence[str], cells: Sequence[tuple[str, ScoreRecord, Sequence[str]]], several: bool, console: Console
) -> None:
    """The same, where a line is too short for a table: each number on a line of its own."""
    for name, score, values in cells:
        console.print(escape(f"{name} / {values[0]}" if several else values[0]), style="bold")
        for title, value in zip(titles[1:], values[1:], strict=True):
            if value:
                console.print(escape(f"  {title}: {value}"), style=None if score.complete else "yellow")


def _metric_lines(rows: Sequence[tuple[RunFolder, ScoreRecord]]) -> list[str]:
    """Which metric the scores are of, and what the mark beside a score means."""
    metrics: dict[str, list[str]] = {}
    for _, score in rows:
        if score.metric and score.dataset not in (datasets := metrics.setdefault(score.metric, [])):
            datasets.append(score.dataset)
    found = []
    if len(metrics) == 1:
        found.append(f"Metric: {next(iter(metrics))}.")
    elif metrics:
        found.append(
            "Metrics: " + "; ".join(f"{', '.join(names)}: {metric}" for metric, names in metrics.items()) + "."
        )
    if any(score.value is not None and not score.complete for _, score in rows):
        found.append(INCOMPLETE)
    return found


def show_samples(chosen: Chosen, runs: Sequence[RunFolder], full: bool, console: Console) -> None:
    """Print samples, one below the other.

    Args:
        chosen: the samples.
        runs: the runs that they are of.
        full: whether long texts are shown whole.
        console: where to print.
    """
    for row in chosen.rows:
        console.print()
        place = [*([row["run"]] if len(runs) > 1 else []), row["dataset"], f"{row['subset']} {row['sample']}".strip()]
        if row["repeat"]:
            place.append(f"repetition {row['repeat'] + 1}")
        console.print(f"[bold]{escape(' / '.join(place))}[/bold]  {escape(_verdict(row))}")
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in _texts(row):
            grid.add_row(name, escape(text if full else _shortened(text)))
        console.print(grid)
    console.print()
    shown, matching = len(chosen.rows), chosen.matching
    left = f"; -n {matching} shows all" if shown < matching else ""
    of = "" if matching == chosen.in_all else f" of {chosen.in_all}"
    console.print(f"{shown} of {matching} samples shown{left}." if left else f"{matching}{of} samples.")
    for run in runs:
        if run.files_gone and any(score.answered for score in run.scores.values()):
            console.print(f"{escape(run.name)}: {FILES_GONE}.", style="yellow")


def _headings(runs: Sequence[RunFolder]) -> list[str]:
    """A line on a single run; of several, a line on each that is not done."""
    if len(runs) == 1:
        run = runs[0]
        facts = [_STATES.get(run.state, run.state), *_made_with(run)]
        return [f"{run.name}: {', '.join(facts)}"]
    return [
        f"{run.name} {_STATES[run.state]}" + (f": {error}" if (error := _error(run)) else "")
        for run in runs
        if run.state in _STATES
    ]


def _made_with(run: RunFolder) -> list[str]:
    """With what, and when, as far as it is known."""
    found = []
    if run.mode == "infer":
        found.append("only answered (mode: infer)")
    if run.engine:
        version = run.versions.get(run.engine)
        found.append(f"{run.engine} {version}" if version else run.engine)
    time = str(run.record.get("ended") or run.record.get("started") or "")
    if time:
        found.append(time[:16].replace("T", " "))
    error = _error(run)
    return [*found, *([error] if error else [])]


def _error(run: RunFolder) -> str:
    lines = str(run.record.get("error") or "").splitlines()
    return lines[0] if lines else ""


def _score(score: ScoreRecord) -> str:
    return score.shown + (marks.INCOMPLETE if score.value is not None and not score.complete else "")


def _counts(rows: Sequence[tuple[RunFolder, ScoreRecord]]) -> dict[str, Any]:
    """Columns that are shown only where there is anything to show."""
    known: dict[str, Any] = {
        "failed": lambda score: score.failed,
        "not judged": lambda score: score.unjudged,
        "cut off": lambda score: score.cut_off,
        "no text": lambda score: score.empty,
    }
    return {
        name: (lambda score, of=of: str(of(score))) for name, of in known.items() if any(of(score) for _, score in rows)
    }


def _verdict(row: Mapping[str, Any]) -> str:
    """What became of a sample, in a few words."""
    state = {SCORED: f"score {_number(row['score'])}", FAILED: "no answer", UNJUDGED: "not judged"}
    kinds = [_KINDS.get(kind, kind) for kind in str(row["kinds"] or "").split()]
    return ", ".join([state.get(row["state"], "not scored"), *kinds])


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _texts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The texts of a sample by their names; those that say nothing new are left out."""
    answer, extracted, verdict = row["answer"], row["extracted"], row["verdict"]
    found = [("asked", row["prompt"]), ("answer", answer if answer is None or answer.strip() else "(no text)")]
    if extracted is not None and extracted != answer:
        found.append(("extracted", extracted or "(nothing)"))
    found.append(("right", row["target"]))
    if verdict is not None:
        found.append(("judge", verdict))
    found += [("why", row["reason"]), ("failure", row["failure"])]
    return [(name, str(text)) for name, text in found if text]


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} … ({len(text) - LONGEST} characters, see --full) … {text[-half:]}"
