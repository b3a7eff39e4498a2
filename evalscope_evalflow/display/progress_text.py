"""Words for how far a model is, as many as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from evalscope_evalflow.events.progress_events import DatasetProgress

BETWEEN = "  "


@dataclass(frozen=True)
class Part:
    """A piece of a line.

    Attributes:
        text: its words.
        rank: which pieces go first where there is no room for all: those of the largest rank.
    """

    text: str
    rank: int


def duration(seconds: float) -> str:
    """A length of time, in words: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def short_number(value: float) -> str:
    """A number with at least two digits: `0.52`, `3.2`, `41`, `1,250`."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def count(progress: DatasetProgress) -> str:
    """How many of how many."""
    return f"{progress.done:,}" if progress.total is None else f"{progress.done:,}/{progress.total:,}"


def rate(progress: DatasetProgress) -> str:
    """Answers a second; empty where that cannot be told yet."""
    return "" if progress.answers_per_s is None else f"{short_number(progress.answers_per_s)}/s"


def token_rate(progress: DatasetProgress) -> str:
    """Output tokens a second; empty where that cannot be told yet, or none were written."""
    return f"{short_number(progress.output_tokens_per_s)} tok/s" if progress.output_tokens_per_s else ""


def time_left(progress: DatasetProgress) -> str:
    """Time that is left; empty where that cannot be told."""
    return "" if progress.left_s is None else f"{duration(progress.left_s)} left"


def dataset(progress: DatasetProgress) -> str:
    """The dataset, and which of several it is."""
    which = f" ({progress.number} of {progress.datasets})" if progress.datasets > 1 else ""
    return f"{progress.dataset}{which}"


def parts(state: str, progress: DatasetProgress) -> list[Part]:
    """The pieces of a line on one model, in their order.

    Args:
        state: what it does, such as `evaluating`.
        progress: how far that is.
    """
    failed = f"{progress.failed:,} failed" if progress.failed else ""
    pieces = [
        Part(state, 5), Part(progress.dataset, 3), Part(count(progress), 0), Part(failed, 2), Part(rate(progress), 4),
        Part(token_rate(progress), 6), Part(time_left(progress), 1),
    ]  # fmt: skip
    return [piece for piece in pieces if piece.text]


def fit(pieces: Sequence[Part], width: int) -> str:
    """A line of those pieces that fit.

    Args:
        pieces: in their order.
        width: cells of the terminal that there are for it.
    """
    left = list(pieces)
    while len(left) > 1 and cell_len(BETWEEN.join(piece.text for piece in left)) > width:
        left.remove(max(left, key=lambda piece: piece.rank))
    return BETWEEN.join(piece.text for piece in left)


def sentence(progress: DatasetProgress) -> str:
    """The same as a sentence, for a log."""
    what = "judged" if progress.judging else "answered"
    of = f"{progress.done:,}" if progress.total is None else f"{progress.done:,} of {progress.total:,}"
    said = [
        f"{dataset(progress)}: {of} {what}",
        f"{progress.failed:,} failed" if progress.failed else "",
        f"{short_number(progress.answers_per_s)} {'verdicts' if progress.judging else 'answers'}/s"
        if progress.answers_per_s is not None
        else "",
        f"{short_number(progress.output_tokens_per_s)} output tokens/s" if progress.output_tokens_per_s else "",
        time_left(progress),
    ]
    return ", ".join(part for part in said if part)
