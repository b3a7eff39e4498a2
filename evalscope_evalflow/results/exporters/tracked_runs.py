"""Results as experiment trackers hold them: runs with settings, and metrics that may be curves over training steps."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evalscope_evalflow.config.keys import redact
from evalscope_evalflow.results.exporters.exported_results import ExportedResults
from evalscope_evalflow.results.run_folders import RunFolder
from evalscope_evalflow.results.score_rows import ScoreRow

# `step-500`, `sft/step_500`, `sft-checkpoint-500`, `global_step500`: what stands before it names the series.
_STEP = re.compile(r"(?:(?P<series>.*?)[-_/. ])??(?:global[-_]?)?(?:step|checkpoint|ckpt|iter)[-_]?(?P<step>\d{1,15})")
_STEPS = "steps"  # of a series without a name
_NOT_IN_NAMES = re.compile(r"[^\w.\-:/ ]")  # MLflow takes the others


@dataclass(frozen=True)
class Point:
    """One model's scores.

    Attributes:
        model: its name.
        step: of the training; None: its name has none.
        metrics: by names such as `gsm8k/accuracy`, `gsm8k/accuracy/interval_low` and `gsm8k/complete` (1 or 0).
        missing: what has no score, as (dataset, why).
        failed: whether nothing has one.
    """

    model: str
    step: int | None
    metrics: dict[str, float]
    missing: list[tuple[str, str]]

    @property
    def failed(self) -> bool:
        """Whether no dataset has a score."""
        return not self.metrics


@dataclass(frozen=True)
class TrackedRun:
    """A run of a tracker: one model, or a series of checkpoints of one training.

    Attributes:
        name: the model's, or that of the series.
        points: the models in the order of their steps.
        settings: those that all of them share, flat, without keys.
    """

    name: str
    points: list[Point]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_series(self) -> bool:
        """Whether it has steps."""
        return self.points[0].step is not None

    @property
    def failed(self) -> bool:
        """Whether nothing in it has a score."""
        return all(point.failed for point in self.points)


def tracked_runs(results: ExportedResults) -> list[TrackedRun]:
    """The tracker's runs: one for each series of checkpoints, and one for each other model."""
    rows: dict[str, list[ScoreRow]] = defaultdict(list)
    for row in results.scores:
        rows[row.model].append(row)
    folders = {run.name: run for run in results.runs}
    series: dict[tuple[str, bool], list[Point]] = defaultdict(list)
    for model, found in rows.items():
        name, step = step_of(model)
        taken = any(point.step == step for point in series.get((name, True), ()))
        if step is None or taken:
            series[model, False].append(_point(model, None, found))
        else:
            series[name, True].append(_point(model, step, found))
    return [
        TrackedRun(name, sorted(points, key=lambda point: point.step or 0), _shared(points, folders))
        for (name, _), points in series.items()
    ]


def step_of(model: str) -> tuple[str, int | None]:
    """The series that a model's name belongs to, and its step; without a step the name itself, and None."""
    found = _STEP.fullmatch(model)
    return (model, None) if found is None else (found["series"] or _STEPS, int(found["step"]))


def _point(model: str, step: int | None, rows: Iterable[ScoreRow]) -> Point:
    metrics: dict[str, float] = {}
    missing = []
    for row in rows:
        if row.score is None or not math.isfinite(row.score):
            missing.append((row.dataset, row.why_not))
            continue
        name = f"{row.dataset}/{row.metric}"
        found = {name: row.score, f"{name}/interval_low": row.interval_low, f"{name}/interval_high": row.interval_high}
        if row.headline:
            found |= {f"{row.dataset}/complete": float(row.complete), f"{row.dataset}/scored": row.scored}
        metrics |= {metric_name(key): float(value) for key, value in found.items() if value is not None}
    return Point(model, step, metrics, missing)


def metric_name(text: str) -> str:
    """A metric's name as trackers take it."""
    return _NOT_IN_NAMES.sub("_", text)[:250]


def _shared(points: list[Point], folders: Mapping[str, RunFolder]) -> dict[str, Any]:
    """The settings that the models of a run have in common."""
    each = [_settings(folders[point.model]) for point in points if point.model in folders]
    if not each:
        return {}
    return {name: value for name, value in each[0].items() if all(other.get(name) == value for other in each)}


def _settings(run: RunFolder) -> dict[str, Any]:
    """What run.json says of how the results were made, flat; it holds no keys, and those are masked once more."""
    task = {
        name: value for name, value in run.task.items() if name not in ("evalflow", "work_dir", "model", "model_id")
    }
    deploy = run.section.get("deploy")
    found = {
        "backend": run.backend,
        "engine": run.engine,
        "versions": dict(run.versions),
        "deploy": deploy if isinstance(deploy, dict) else {},
        **task,
    }
    return dict(_flat("", redact(found)))


def _flat(path: str, tree: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(f"{path}.{key}" if path else str(key), value)
    elif isinstance(tree, (list, tuple)) and any(isinstance(item, Mapping) for item in tree):
        yield from _flat(path, {str(number): item for number, item in enumerate(tree)})
    elif isinstance(tree, (list, tuple)):
        yield path, ", ".join(map(str, tree))
    elif tree is not None and tree != {}:
        yield path, tree
