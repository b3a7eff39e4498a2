"""Scores of categories and subsets, and of metrics beside the headline one, from the report files in a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.results.html.page_data import ScoreLine
from evalscope_evalflow.results.run_folders import RunFolder


def report_parts(run: RunFolder, label: str) -> list[ScoreLine]:
    """Scores of parts of datasets, in the order of the files. EvalScope's and VLMEvalKit's results have one form.

    A dataset with a single part has none: it would be the score itself. A part whose score is the mean of its samples'
    scores has an interval.

    Args:
        run: the run.
        label: its name in the report.
    """
    parts = [part for path in sorted(run.folder.glob("reports/*/*.json")) for part in _parts_of(path, label)]
    if not any(part.subsets for part in parts):
        return [part.line for part in parts]
    from evalscope_evalflow.results.html.part_intervals import part_intervals

    wanted = [(part.line.dataset, part.subsets, part.line.value) for part in parts]
    return [
        part.line if found is None else replace(part.line, low=found.low, high=found.high, few_groups=found.few_groups)
        for part, found in zip(parts, part_intervals(run, wanted), strict=True)
    ]


@dataclass(frozen=True)
class _Part:
    """A part of a dataset, and the subsets that it is made of; none: not known."""

    line: ScoreLine
    subsets: tuple[str, ...] = ()


def _parts_of(path: Path, run: str) -> Iterator[_Part]:
    """The parts in a report file."""
    report = _read(path)
    dataset = str(report.get("dataset_name") or path.stem)
    metrics = [item for item in report.get("metrics") or [] if isinstance(item, Mapping)]
    headline = report.get("primary_metric_identity") or (metrics[0].get("identity") if metrics else None)
    for metric in metrics:
        if metric.get("identity") == headline:
            yield from _categories(metric, run, dataset)
        elif _part_of(metric):
            kind = next(iter(metric["identity"]["dimensions"]))
            name = str(metric["identity"].get("name") or "")
            yield _Part(_line(metric, run, dataset, name, _part_of(metric), kind))


def _categories(metric: Mapping[str, Any], run: str, dataset: str) -> Iterator[_Part]:
    name = str((metric.get("identity") or {}).get("name") or metric.get("name") or "")
    categories = [item for item in metric.get("categories") or [] if isinstance(item, Mapping)]
    several = len(categories) > 1
    for category in categories:
        names = category.get("name")
        title = " / ".join(map(str, names)) if isinstance(names, list) else str(names)
        subsets = [item for item in category.get("subsets") or [] if isinstance(item, Mapping)]
        labels = tuple(str(subset.get("name")) for subset in subsets)
        if several:
            yield _Part(_line(category, run, dataset, name, title, "category"), labels)
        if not several and len(subsets) == 1:
            continue
        for label, subset in zip(labels, subsets, strict=True):
            if label != title or len(subsets) > 1:
                part = f"{title} / {label}" if several else label
                yield _Part(_line(subset, run, dataset, name, part, "subset"), (label,))


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
        found = any_json.load_file(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
