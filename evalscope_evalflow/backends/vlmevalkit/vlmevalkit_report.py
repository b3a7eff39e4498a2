"""VLMEvalKit's scores as an EvalScope report (schema 2), so that both backends are shown alike.

VLMEvalKit returns a table or a dict, of another shape for each family of datasets. Its headline figure becomes the
report's primary metric, and every other figure a metric with the name of its part as a dimension.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_PARTS = ("Task&Skill", "Subject", "Category", "category", "split", "Setting", "Task", "task", "type")
_COUNTS = {"tot", "total", "hit", "prefetch", "prefetch_rate", "num", "count"}


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        value: it; an accuracy is between 0 and 1.
        part: what of the dataset it is about, as names and values.
        samples: how many it covers, where that is known.
        primary: whether it is the headline.
        accuracy: whether it is one.
    """

    value: float
    part: dict[str, str] = field(default_factory=dict)
    samples: int | None = None
    primary: bool = False
    accuracy: bool = True


def figures(dataset: str, result: Any, rows: Any) -> list[Figure]:
    """The numbers of a result, the headline first.

    Args:
        dataset: its name.
        result: what VLMEvalKit's `evaluate` returned.
        rows: the samples that were scored, as a DataFrame.
    """
    found = list(_wemath(result, rows) if dataset.startswith("WeMath") else _figures(dataset, result, rows))
    found = _distinct(found)
    if found and not any(item.primary for item in found):
        whole = (number for number, item in enumerate(found) if _is_whole(item))
        number = next(whole, 0)
        found[number] = replace(found[number], primary=True)
    return sorted(found, key=lambda item: not item.primary)


def _distinct(found: list[Figure]) -> list[Figure]:
    """A report takes no two figures of one name: where a table has several, they are numbered."""
    seen: Counter[tuple[Any, ...]] = Counter()
    result = []
    for item in found:
        name = (item.accuracy, *sorted(item.part.items()))
        seen[name] += 1
        result.append(item if seen[name] == 1 else replace(item, part={**item.part, "line": str(seen[name])}))
    return result


def _is_whole(figure: Figure) -> bool:
    last = figure.part.get("part", "").rsplit("/", 1)[-1].lower()
    return last.startswith(("overall", "final", "average"))


def _figures(dataset: str, result: Any, rows: Any) -> Iterator[Figure]:
    table = result.to_dict("records") if hasattr(result, "to_dict") and hasattr(result, "columns") else None
    if table is None:
        yield from _mapping(result if isinstance(result, dict) else {}, {})
        return
    columns = [str(name) for name in result.columns]
    label = next((name for name in _PARTS if name in columns), None)
    scale = 0.01 if "acc" in columns or dataset.startswith("MathVerse") else 1.0
    if "acc" in columns and label:  # MathVista, MathVision, LogicVista: a line for each part
        for line in table:
            value, samples = _number(line["acc"]), _number(line.get("tot"))
            if value is not None:
                whole = str(line[label]) == "Overall"
                part = {} if whole else {"part": str(line[label])}
                yield Figure(value * scale, part, None if samples is None else int(samples), whole)
        return
    if label and "Overall" in columns:  # MCQ, MathVerse, DynaMath: a column for each part
        yield from _columns(dataset, table, label, rows, scale)
        return
    if label is None and len(table) > 1:  # whatever the column of their names is called
        label = next((name for name in columns if all(_number(line[name]) is None for line in table)), None)
    for line in table:
        where = {"part": str(line[label])} if label else {}
        yield from _mapping({key: value for key, value in line.items() if str(key) != label}, where)


def _columns(dataset: str, table: list[dict[str, Any]], label: str, rows: Any, scale: float) -> Iterator[Figure]:
    sizes = Counter(_splits(dataset, label, rows))
    several = len(table) > 1
    whole: list[tuple[float, int]] = []
    found: list[Figure] = []
    for line in table:
        split = str(line[label])
        samples = sizes.get(split, len(rows) if not several else None)
        where = {label.lower(): split} if several else {}
        for name, cell in line.items():
            value = _number(cell)
            if str(name) == label or value is None:
                continue
            if str(name) == "Overall":
                headline = not several or (label == "Setting" and split == "Average")
                found.append(Figure(value * scale, where, samples, headline))
                if samples:
                    whole.append((value * scale, samples))
            else:
                found.append(Figure(value * scale, {**where, "part": str(name)}))
    if several and label != "Setting" and whole:
        total = sum(samples for _, samples in whole)
        yield Figure(sum(value * samples for value, samples in whole) / total, {}, total, True)
    yield from found


def _splits(dataset: str, label: str, rows: Any) -> list[str]:
    """The split of each sample."""
    if label == "Setting":
        return [name for name in ("Average", "Worst Case") for _ in range(len(rows))]
    if dataset.startswith("MathVerse"):
        label = "problem_version"
    return [str(item) for item in rows[label]] if label in rows else []


def _wemath(result: Any, rows: Any) -> Iterator[Figure]:
    """Percentages as text, some with a number in brackets after them."""
    for name in map(str, result.columns):
        match = re.match(r"\s*(-?[\d.]+)%", str(result[name].iloc[0]))
        if match:
            headline = name == "Score (Strict)"
            yield Figure(float(match[1]) / 100, {} if headline else {"part": name}, len(rows), headline)


def _mapping(data: dict[str, Any], where: dict[str, str]) -> Iterator[Figure]:
    """A dict, which may hold others."""
    for name, item in data.items():
        if isinstance(item, dict):
            yield from _mapping(item, {**where, "part": "/".join([*([where["part"]] if where else []), str(name)])})
            continue
        value = _number(item)
        if value is None or str(name).lower() in _COUNTS:
            continue
        part = "/".join([*([where["part"]] if where else []), str(name)])
        headline = str(name).lower() in ("overall", "final score", "final score norm", "acc", "accuracy") and not where
        yield Figure(value, {"part": part}, None, headline, accuracy=False)


def _number(value: Any) -> float | None:
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    try:
        number = float(str(value).rstrip("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def write(
    path: Path, *, dataset: str, model: str, found: list[Figure], scored: int, requested: int,
    judge: str | None, fallbacks: dict[str, int], own: bool = False,
) -> None:  # fmt: skip
    """Write the report.

    Args:
        path: its file.
        dataset: the dataset's name.
        model: the model's.
        found: its figures.
        scored: how many samples they stand on.
        requested: how many were asked for.
        judge: the judge's real name; None where none was used.
        fallbacks: samples without a verdict, by kind.
        own: whether the dataset's file is the user's, and not the published one.
    """
    from evalscope.report import Report

    number = sum(fallbacks.values())
    metrics = [_metric(dataset, item, scored) for item in found]
    primary = next((metric["identity"] for metric, item in zip(metrics, found, strict=True) if item.primary), None)
    report = Report.from_dict(
        {
            "schema_version": 2,
            "name": f"{model}@{dataset}",
            "dataset_name": dataset,
            "dataset_pretty_name": dataset,
            "dataset_description": f"{dataset}, evaluated by VLMEvalKit{' on a file of your own' if own else ''}.",
            "model_name": model,
            "metrics": metrics,
            "primary_metric_identity": primary,
            "execution_summary": {
                "requested": requested, "succeeded": scored, "errored": requested - scored,
                "incomplete": scored < requested,
                "subsets": {"default": {"requested": requested, "succeeded": scored, "errored": requested - scored}},
            },
            "judge_summary": judge and {
                "status": "degraded" if number else "success",
                "scored": scored, "total": scored + number,
                "coverage": scored / (scored + number) if scored + number else 0.0,
                "judge_models": [judge],
                "valid_observations": scored, "total_observations": scored + number,
                "failures": fallbacks,
            },
        }
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    report.to_json(str(new))
    os.replace(new, path)


def _metric(dataset: str, figure: Figure, scored: int) -> dict[str, Any]:
    from evalscope.api.metric.semantics import MetricIdentity
    from evalscope.metrics.semantics import get_semantics_resolver

    name = "accuracy" if figure.accuracy else "official_figure"
    identity = MetricIdentity(name=name, aggregation="mean" if figure.accuracy else "official", dimensions=figure.part)
    if figure.accuracy:
        semantics = get_semantics_resolver().resolve(dataset, identity).semantics.model_dump(mode="json")
    else:
        semantics = {
            "semantic_id": "quality.official_figure.number", "metric_name": "Official figure", "kind": "quality",
            "direction": "higher_is_better", "display_kind": "number", "display_precision": 4,
        }  # fmt: skip
    whole = figure.samples is None and (figure.primary or not figure.part)
    samples = scored if whole else figure.samples or 0
    subset = " / ".join(figure.part.values()) or "default"
    metric = {"identity": identity.model_dump(mode="json"), "num": samples, "score": round(figure.value, 6)}
    if samples:
        subsets = [{"name": subset, "score": round(figure.value, 6), "num": samples}]
        metric["categories"] = [{"name": ["default"], "subsets": subsets}]
    return {**metric, "semantics": semantics}
