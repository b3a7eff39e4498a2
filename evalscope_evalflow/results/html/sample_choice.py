"""Which samples go into the report's file, and how: failed and wrong ones first, the same number of each cell."""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.backends.sample import FAILED, UNJUDGED, UNSCORED
from evalscope_evalflow.events.answers import AnswerKind
from evalscope_evalflow.results.html.embedded_json import embedded_json
from evalscope_evalflow.results.html.page_data import EmbeddedSamples

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_SAMPLES = 2000
LONGEST_TEXT = 4000  # characters
MOST_CHARACTERS = 8_000_000

# Reads a run's samples: all columns, or the named ones, of which `wrong` says whether an answer is. Each call gives the
# same rows in the same order.
Reader = Callable[[Sequence[str] | None], "DataFrame"]

OUTCOMES = ("failed", "unjudged", "wrong", "cut_off")
_LIGHT = ("dataset", "score", "state", "kinds", "wrong")
_TEXTS = ("answer", "extracted", "verdict", "reason", "failure")
_SHARED = ("prompt", "target")  # the same in all runs: they are kept once
_COLUMNS = (
    *("run", "dataset", "subset", "sample", "repeat", "score", "is", "input_tokens", "output_tokens", "latency_s"),
    *_SHARED,
    *_TEXTS,
)


def embedded_samples(
    runs: Sequence[tuple[str, Reader]], most: int = MOST_SAMPLES, most_characters: int = MOST_CHARACTERS
) -> EmbeddedSamples:
    """Choose samples and write them down for the page's script.

    Args:
        runs: each run's label, and what reads its samples.
        most: how many samples at most; each run and dataset gets its share.
        most_characters: how long their JSON may be.
    """
    light = [read(_LIGHT) for _, read in runs]
    chosen = _chosen(light, most)
    in_all = sum(len(frame) for frame in light)
    datasets = list(dict.fromkeys(name for frame in light for name in frame["dataset"].unique()))
    rows: list[tuple[int, list[Any]]] = []
    shortened = False
    texts: dict[str, int] = {}
    for number, ((_, read), ranks) in enumerate(zip(runs, chosen, strict=True)):
        if not ranks:
            continue
        positions = sorted(ranks)
        samples = read(None).iloc[positions]
        masks = outcomes(samples)
        for place, (position, sample) in enumerate(zip(positions, samples.to_dict("records"), strict=True)):
            what = [name for name in OUTCOMES if masks[name][place]]
            row, cut = _row(sample, what, number, datasets, texts)
            shortened |= cut
            rows.append((ranks[position], row))
    kept = _within(rows, texts, most_characters)
    document = {
        "columns": _COLUMNS,
        "runs": [label for label, _ in runs],
        "datasets": datasets,
        "texts": list(texts),
        "rows": kept,
    }
    _drop_unused(document)
    return EmbeddedSamples(embedded_json(document), len(kept), in_all, _left_out(len(kept), in_all, shortened))


def _chosen(frames: Sequence[DataFrame], most: int) -> list[dict[int, int]]:
    """For each run, the chosen rows' positions and ranks: the most telling of every cell first, then the next ones."""
    import numpy
    import pandas

    parts = [
        pandas.DataFrame(
            {
                "run": number,
                "position": numpy.arange(len(frame)),
                "dataset": frame["dataset"].astype(str).to_numpy(),
                "priority": _priorities(frame),
            }
        )
        for number, frame in enumerate(frames)
    ]
    if not parts:
        return []
    samples = pandas.concat(parts, ignore_index=True).sort_values(["priority", "position", "run"], kind="stable")
    samples["turn"] = samples.groupby(["run", "dataset"], sort=False).cumcount()
    first = samples.sort_values("turn", kind="stable").head(most).reset_index(drop=True)
    chosen: list[dict[int, int]] = [{} for _ in frames]
    for rank, (run, position) in enumerate(zip(first["run"], first["position"], strict=True)):
        chosen[run][int(position)] = rank
    return chosen


def _priorities(frame: DataFrame) -> Any:
    """What one wants to look at first has the smallest number: failed, not judged, wrong, cut off, the rest."""
    import numpy

    masks = outcomes(frame)
    return numpy.select([masks[name] for name in OUTCOMES], range(len(OUTCOMES)), len(OUTCOMES))


def outcomes(frame: DataFrame) -> dict[str, Any]:
    """What the page's filters go by: for each of OUTCOMES, for which samples it holds.

    Args:
        frame: samples, with `wrong`, `state` and `kinds`.
    """
    state = frame["state"].astype(str)
    kinds = frame["kinds"].astype(str).str.split()
    return {
        "failed": (state == FAILED).to_numpy(),
        "unjudged": (state.isin((UNJUDGED, UNSCORED))).to_numpy(),
        "wrong": frame["wrong"].to_numpy(dtype=bool),
        "cut_off": kinds.map(lambda found: AnswerKind.CUT_OFF.value in found).to_numpy(dtype=bool),
    }


def _row(
    sample: dict[Any, Any], what: list[str], run: int, datasets: list[str], texts: dict[str, int]
) -> tuple[list[Any], bool]:
    """A sample as the script reads it, and whether a text of it is shortened."""
    cut = False
    values: dict[str, Any] = {
        **{name: _number(sample.get(name)) for name in ("score", "input_tokens", "output_tokens", "latency_s")},
        "run": run,
        "dataset": datasets.index(sample["dataset"]),
        "subset": _text(sample.get("subset")) or "",
        "sample": str(sample.get("sample", "")),
        "repeat": int(_number(sample.get("repeat")) or 0),
        "is": what,
    }
    for name in (*_SHARED, *_TEXTS):
        text = _text(sample.get(name))
        short = None if text is None else shorten(text)
        cut |= short != text
        values[name] = texts.setdefault(short, len(texts)) if name in _SHARED and short is not None else short
    return [values[name] for name in _COLUMNS], cut


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text without its middle, if it is long.

    Args:
        text: any text.
        longest: how many characters of it are kept.
    """
    if len(text) <= longest:
        return text
    head = longest * 3 // 4
    return f"{text[:head]}\n… {len(text) - longest:,} characters left out …\n{text[head - longest :]}"


def _within(rows: list[tuple[int, list[Any]]], texts: dict[str, int], most: int) -> list[list[Any]]:
    """The rows of the smallest ranks that fit, in their first order."""
    lengths = [len(json.dumps(text)) for text in texts]
    counted: set[int] = set()
    fitting: set[int] = set()
    for rank, row in sorted(rows, key=lambda item: item[0]):
        shared = {value for value in (row[_COLUMNS.index(name)] for name in _SHARED) if value is not None} - counted
        most -= len(json.dumps(row)) + sum(lengths[number] for number in shared)
        if most < 0:
            break
        counted |= shared
        fitting.add(rank)
    return [row for rank, row in rows if rank in fitting]


def _drop_unused(document: dict[str, Any]) -> None:
    """Leave only the shared texts that a row has."""
    places = [_COLUMNS.index(name) for name in _SHARED]
    new: dict[int, int] = {}
    for row in document["rows"]:
        for place in places:
            if row[place] is not None:
                row[place] = new.setdefault(row[place], len(new))
    document["texts"] = [document["texts"][number] for number in new]


def _left_out(count: int, in_all: int, shortened: bool) -> str:
    """What of the samples is not in the file."""
    said = []
    if count < in_all:
        said.append(
            f"{count:,} of {in_all:,} samples are in this file: of each model and dataset the failed, unjudged "
            "and wrong ones first, as many of each as there is room for. evalflow show DIR --samples shows all of them."
        )
    if shortened:
        said.append(f"Texts of more than {LONGEST_TEXT:,} characters are shortened in the middle.")
    return " ".join(said)


def _text(value: Any) -> str | None:
    """A text column's value; pandas has several values for none."""
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | int | None:
    """A number column's value."""
    if not isinstance(value, numbers.Real) or value != value:  # None, NaN, pandas.NA
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)
