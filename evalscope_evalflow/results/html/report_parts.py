"""Scores of categories and subsets, and of metrics beside the headline one, from the report files in a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow.results.html.page_data import ScoreLine


def report_parts(folder: Path, run: str) -> Iterator[ScoreLine]:
    """Scores of parts of datasets, in the order of the files. EvalScope's and VLMEvalKit's results have one form.

    A dataset with a single part has none: it would be the score itself.

    Args:
        folder: the run folder.
        run: the run's label.
    """
    for path in sorted(folder.glob("reports/*/*.json")):
        report = _read(path)
        dataset = str(report.get("dataset_name") or path.stem)
        metrics = [item for item in report.get("metrics") or [] if isinstance(item, Mapping)]
        headline = report.get("primary_metric_identity") or (metrics[0].get("identity") if metrics else None)
        for metric in metrics:
            if metric.get("identity") == headline:
                yield from _categories(metric, run, dataset)
            elif _part_of(metric):
                part = _part_of(metric)
                kind = next(iter(metric["identity"]["dimensions"]))
                yield _line(metric, run, dataset, str(metric["identity"].get("name") or ""), part, kind)


def _categories(metric: Mapping[str, Any], run: str, dataset: str) -> Iterator[ScoreLine]:
    name = str((metric.get("identity") or {}).get("name") or metric.get("name") or "")
    categories = [item for item in metric.get("categories") or [] if isinstance(item, Mapping)]
    several = len(categories) > 1
    for category in categories:
        names = category.get("name")
        title = " / ".join(map(str, names)) if isinstance(names, list) else str(names)
        if several:
            yield _line(category, run, dataset, name, title, "category")
        subsets = [item for item in category.get("subsets") or [] if isinstance(item, Mapping)]
        if several or len(subsets) > 1:
            for subset in subsets:
                label = str(subset.get("name"))
                if label != title or len(subsets) > 1:
                    yield _line(subset, run, dataset, name, f"{title} / {label}" if several else label, "subset")


def _part_of(metric: Mapping[str, Any]) -> str:
    """The part that a metric is about, as VLMEvalKit's metrics have it; empty: the whole dataset."""
    dimensions = (metric.get("identity") or {}).get("dimensions") or {}
    return (
        " / ".join(map(str, dimensions.values())) if isinstance(dimensions, Mapping) and not metric.get("num") else ""
    )


def _line(item: Mapping[str, Any], run: str, dataset: str, metric: str, part: str, kind: str) -> ScoreLine:
    score, count = item.get("score"), item.get("num")
    return ScoreLine(
        run=run,
        dataset=dataset,
        metric=metric,
        value=float(score) if isinstance(score, (int, float)) else None,
        n=count if isinstance(count, int) and count > 0 else None,
        part=part,
        kind=kind,
    )


def _read(path: Path) -> Mapping[str, Any]:
    """A report file; empty: it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
