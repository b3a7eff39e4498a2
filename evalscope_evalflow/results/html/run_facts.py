"""What is recorded of a run, in words: engine, times, versions, command, settings, and what it cost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalscope_evalflow.config import keys
from evalscope_evalflow.results.html.page_data import RunFacts, Settings
from evalscope_evalflow.results.run_folders import RunFolder
from evalscope_evalflow.state.costs import recorded_costs

_WORDS = {"load": "loading", "infer": "answering", "save": "saving", "release": "release", "judge": "judging"}


def run_facts(label: str, run: RunFolder, settings: str) -> RunFacts:
    """What the report says of a run.

    Args:
        label: its name in the report.
        run: the run.
        settings: the name of its settings.
    """
    phases = _mapping(run.record.get("phases_s"))
    command = run.record.get("command") or []
    return RunFacts(
        label=label,
        model=run.model,
        folder=str(run.folder),
        state=run.state,
        facts=dict(_facts(label, run)),
        phases_s={_WORDS.get(name, name): float(value) for name, value in phases.items() if _is_number(value)},
        versions={name: str(version) for name, version in run.versions.items() if version},
        command=shlex.join(map(str, keys.redact(command))) if isinstance(command, list) else str(command),
        settings=settings,
        remarks=[f"accepted: {text}" for text in run.accepted],
    )


def shared_settings(runs: Sequence[tuple[str, Mapping[str, Any] | None]]) -> list[Settings]:
    """The settings of the tasks; runs that have the same share an entry.

    Args:
        runs: each run's label and run.json.
    """
    found: dict[str, list[str]] = {}
    for label, record in runs:
        task = (record or {}).get("task")
        if task:
            text = json.dumps(keys.redact(task), indent=2, ensure_ascii=False, default=str)
            found.setdefault(text, []).append(label)
    return [Settings(f"settings {number}", text, labels) for number, (text, labels) in enumerate(found.items(), 1)]


def _facts(label: str, run: RunFolder) -> Iterable[tuple[str, str]]:
    """A run's facts, as they are printed, one after the other."""
    record = run.record
    if run.model != label:
        yield "Model", run.model
    if run.engine:
        yield "Engine", run.engine
    devices = _mapping(record.get("placement")).get("devices")
    if isinstance(devices, list) and devices:
        yield "Devices", ", ".join(map(str, devices))
    times = [str(record[key]) for key in ("started", "ended") if record.get(key)]
    if times:
        yield "Time", " to ".join(times)
    cost = recorded_costs(run.folder, record)
    if cost.total.sentence():
        yield "Cost of all runs in this folder", cost.total.sentence()
        for dataset, part in cost.cells.items() if len(cost.cells) > 1 else ():
            yield f"Cost of {dataset}", part.sentence()
    if _is_number(record.get("engine_held_s")):
        yield "Engine held", f"{record['engine_held_s']:,.1f} s"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
