"""What is recorded of a run, in words: engine, times, versions, command, settings, and what it cost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from evalscope_evalflow.config import keys
from evalscope_evalflow.results.html.page_data import RunFacts, Settings
from evalscope_evalflow.results.run_folders import RunFolder

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


def shared_settings(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Settings]:
    """The settings of the tasks; runs that have the same share an entry.

    Args:
        runs: each run's label and run.json.
    """
    found: dict[str, list[str]] = {}
    for label, record in runs:
        shared, _ = _split(_mapping(record.get("task")))
        if shared:
            found.setdefault(json.dumps(shared, indent=2, ensure_ascii=False, default=str), []).append(label)
    return [Settings(f"settings {number}", text, labels) for number, (text, labels) in enumerate(found.items(), 1)]


def _split(task: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A task's settings without keys: those of all models, and the model's own."""
    shared = dict(keys.redact(task))
    own = {name: shared.pop(name) for name in ("model", "model_id") if shared.get(name)}
    section = dict(_mapping(shared.get("evalflow")))
    models = section.get("models")
    if isinstance(models, list) and len(models) == 1:
        own |= dict(_mapping(models[0])) or {"model": models[0]}
        shared["evalflow"] = {name: value for name, value in section.items() if name != "models"}
    return shared, own


def _facts(label: str, run: RunFolder) -> Iterable[tuple[str, str]]:
    """A run's facts, as they are printed, one after the other."""
    record = run.record
    if run.model != label:
        yield "Model", run.model
    if run.engine:
        yield "Engine", run.engine
    batches = [_batch(item) for item in run.answers_from]
    if batches:
        yield "Answers from", "; ".join(dict.fromkeys(batches))
    own = _split(run.task)[1]
    if own:
        yield "Its settings", json.dumps(own, ensure_ascii=False, default=str)
    devices = _mapping(record.get("placement")).get("devices")
    if isinstance(devices, list) and devices:
        yield "Devices", ", ".join(map(str, devices))
    times = [_time(str(record[key])) for key in ("started", "ended") if record.get(key)]
    if times:
        yield "Time (UTC)", " to ".join(times)
    if _is_number(record.get("engine_held_s")):
        yield "Engine held", f"{record['engine_held_s']:,.1f} s"


def _batch(item: Mapping[str, Any]) -> str:
    """What answers were made with: the engine, its version, and the GPUs."""
    gpus = item.get("gpus")
    names = ", ".join(map(str, gpus)) if isinstance(gpus, list) else ""
    made_with = " ".join(str(item[name]) for name in ("engine", "version") if item.get(name)) or "an unknown engine"
    return f"{made_with} on {names}" if names else made_with


def _time(text: str) -> str:
    """A time of the record (ISO 8601) without what a reader does not need; as it is, if it is of another form."""
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
