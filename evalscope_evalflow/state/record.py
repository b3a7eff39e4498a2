"""The record of a run: `evalflow/run.json` and `evalflow/events.jsonl` in the run folder. No key is in it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.api_events import ApiBack, ApiEvent, ApiGivenUp, ApiSilent
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.engine_events import (
    EngineKept,
    EngineReleased,
    EngineReused,
    EngineStarting,
    EngineStoodBy,
    EngineWeights,
    OwnJudgeUsed,
)
from evalscope_evalflow.events.json_lines import append
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import (
    FilesReadAhead,
    OverlapMeasured,
    Phase,
    PhaseEnded,
    PreviousRunDied,
    Progress,
    ResultsArchived,
    RunFinished,
    RunStarted,
    WorkPlanned,
)
from evalscope_evalflow.events.schema import ESCAPED, SCHEMA
from evalscope_evalflow.events.whole_files import write_whole
from evalscope_evalflow.events.worker_events import WorkerStoodBy
from evalscope_evalflow.state.costs import read_costs

FOLDER = "evalflow"
OURS = "evalscope-evalflow"
DIED = "died"
CLOCK_ERROR_S = 5.0  # a start time is counted from the boot, by a clock that may have been set since
MEASURED = (Phase.LOAD, Phase.INFER, Phase.SAVE, Phase.RELEASE, Phase.JUDGE)
NOT_RECORDED = (Progress,)
PROGRESS_EVERY_S = 60.0
# What a run that only scores goes on to say of the run that has answered.
_OF_ANSWERING = ("engine", "command", "placement", "weights", "reused", "read_ahead", "worker_ahead", "overlap",
                 "release", "engine_held_s", "phases_s")  # fmt: skip
_RESERVE = ".reserve"
_RESERVE_BYTES = 64 * 1024


class Record:
    """Keeps what happens in one run of one model on disk, as it happens. A subscriber to the run's events.

    Attributes:
        folder: where it and the logs are.
    """

    def __init__(
        self,
        run_folder: Path,
        run_id: str,
        *,
        versions: Mapping[str, str | None] | None = None,
        continues: bool = False,
        **start: Any,
    ) -> None:
        """Begin a new run.json, and go on with events.jsonl.

        Args:
            run_folder: the run folder.
            run_id: the run's name.
            versions: of packages in the worker's environment, by name; the engine's comes when it is started.
            continues: whether it scores what the last run has answered, whose engine the record goes on to describe.
            start: fields of run.json that are known from the start, such as `task` and `model`.
        """
        self.folder = run_folder / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._progress = ("", False), 0.0  # what was reported last, and when
        before = read(run_folder)
        self._data: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": run_id,
            "state": "running",
            "started": _now(),
            "pid": os.getpid(),
            "pid_started": _start_of(os.getpid()),
            "host": platform.node(),
            "versions": {OURS: _version(OURS), **(versions or {})},
            "answers_from": (before or {}).get("answers_from") or [],
            **_redacted(start),
        }
        if continues and before:
            self._data |= _of_answering(before)
            self._data["versions"] = {**(before.get("versions") or {}), **self._data["versions"]}
        earlier = _earlier_results(before or {}, (start.get("task") or {}).get("datasets") or ())
        if earlier:
            self._data["earlier_results"] = earlier
        if before and before["state"] == DIED:
            append_event(self.folder, PreviousRunDied(before.get("run_id"), before.get("pid")))
        # Given up when the disk is full, so that the record can still say how the run ended.
        (self.folder / _RESERVE).write_bytes(b"\0" * _RESERVE_BYTES)
        self.on_event(RunStarted(run_id))

    def on_event(self, event: Event) -> None:
        """Write an event down.

        Raises:
            OSError: run.json cannot be written.
        """
        if isinstance(event, NOT_RECORDED) or (isinstance(event, DatasetProgress) and not self._is_due(event)):
            return
        if isinstance(event, RunFinished):
            with suppress(OSError):
                (self.folder / _RESERVE).unlink()
        short = dataclasses.replace(event, results=None) if isinstance(event, RunFinished) else event
        append_event(self.folder, short)  # run.json has the results
        if self._take(event):
            self.save()

    def save(self) -> None:
        """Write run.json as a whole, or leave the old one.

        Raises:
            OSError: it cannot be written.
        """
        _write(self.folder, self._data)

    def _is_due(self, event: DatasetProgress) -> bool:
        """Whether this is the first or the last report on a dataset, or the first since a minute."""
        what, now = (event.dataset, event.judging), time.monotonic()
        begins = what != self._progress[0]
        if not (begins or event.ended or now - self._progress[1] >= PROGRESS_EVERY_S):
            return False
        self._progress = ("", False) if event.ended else what, now
        return True

    def _take(self, event: Event) -> bool:
        """Put what an event says into the record; whether it has to be written now."""
        data = self._data
        if isinstance(event, PhaseEnded) and event.phase in MEASURED:
            seconds = data.setdefault("phases_s", {})  # they add up, as when an engine is started again
            seconds[event.phase.value] = round(seconds.get(event.phase.value, 0) + event.seconds, 3)
            return False
        if isinstance(event, RunStarted):
            return True
        if isinstance(event, WorkPlanned):
            data["phases"] = event.phases
        elif isinstance(event, (EngineStarting, EngineReused)):
            data.update(engine=event.engine, command=_redacted(event.command), placement=event.placement)
            data["versions"][event.engine] = event.version
            if isinstance(event, EngineReused) or event.local:
                self._answers_come_from(event)
            if isinstance(event, EngineReused):
                data["reused"] = {"run_id": event.run_id, "log": event.log}
            else:
                data.pop("reused", None)
            data.pop("weights", None)
            data.pop("engine_ahead", None)
        elif isinstance(event, EngineWeights):
            facts = dataclasses.asdict(event)
            data["weights"] = {name: value for name, value in facts.items() if name != "engine"}
        elif isinstance(event, ApiEvent):
            self._api(event)
        elif isinstance(event, FilesReadAhead):
            data["read_ahead"] = dataclasses.asdict(event)
        elif isinstance(event, EngineStoodBy):
            data["engine_ahead"] = {"stood_by_s": event.stood_by_s}
        elif isinstance(event, WorkerStoodBy):
            data["worker_ahead"] = dataclasses.asdict(event)
        elif isinstance(event, OwnJudgeUsed):
            data["judge"] = {"name": event.judge, "log": event.log}
        elif isinstance(event, OverlapMeasured):
            data["overlap"] = dataclasses.asdict(event)
        elif isinstance(event, EngineKept):
            self._held(event.held_s)
            data["release"] = {"released": False, "kept_until": event.until}
        elif isinstance(event, EngineReleased):
            self._held(event.held_s)
            data["release"] = {"released": event.released, **_redacted(event.details)}
        elif isinstance(event, ResultsArchived):
            if event.datasets is not None:
                return False
            data.pop("earlier_results", None)  # nothing of theirs is in the folder any more
        elif isinstance(event, RunFinished):
            data.update(state=event.state.value, ended=_now(), cost=read_costs(self.folder.parent).as_record())
            if event.error is not None:
                data["error"] = event.error
            if event.results is not None:
                data["results"] = _redacted(event.results)
        else:
            return False
        return True

    def _answers_come_from(self, event: EngineStarting | EngineReused) -> None:
        """From now on, answers come from this engine: what it runs with, beside what those before came from."""
        earlier = self._data["answers_from"] if event.answers else []
        batch = {"run_id": self._data["run_id"], **event.facts, "answers_before": event.answers}
        if event.note:
            batch["note"] = event.note
        if earlier and earlier[-1]["answers_before"] == event.answers:  # the last one has added none
            earlier = earlier[:-1]
        self._data["answers_from"] = [*earlier, _redacted(batch)]

    def _api(self, event: ApiEvent) -> None:
        """How an API that runs elsewhere is: `down`, `busy`, … or `back`, with the seconds that it was not usable."""
        known = self._data.setdefault("apis", {}).setdefault(event.api, {"unusable_s": 0.0})
        if isinstance(event, (ApiBack, ApiGivenUp)):
            known["unusable_s"] = round(known["unusable_s"] + event.seconds, 1)
        state = type(event).__name__.removeprefix("Api").lower()
        known.update(url=event.url, model=event.model, state="given up" if state == "givenup" else state, since=_now())
        known["reason"] = getattr(event, "reason", None)
        if isinstance(event, ApiSilent):
            known["reason"] = f"no answer for {event.seconds:.0f} s to {event.requests} requests"

    def _held(self, seconds: float) -> None:
        """Add to the seconds that an engine was there for this run, from its start to its end."""
        self._data["engine_held_s"] = round(self._data.get("engine_held_s", 0) + seconds, 3)


def _of_answering(before: dict[str, Any]) -> dict[str, Any]:
    """What a record says of its engine, with where and in which run that answered."""
    found = {name: before[name] for name in _OF_ANSWERING if name in before}
    by = {name: before.get(name) for name in ("run_id", "host", "started", "ended")}
    return {**found, "answered": before.get("answered") or by}


def _earlier_results(before: Mapping[str, Any], datasets: Collection[str]) -> dict[str, Any]:
    """Results of earlier runs in the folder that still stand, as the run to come is not on their datasets.

    Args:
        before: the record so far.
        datasets: those of the run to come.
    """
    made_by = {"run_id": before.get("run_id"), "ended": before.get("ended")}
    results, earlier = before.get("results"), before.get("earlier_results")
    found = {
        **(earlier if isinstance(earlier, dict) else {}),
        **{
            name: {**item, **made_by}
            for name, item in (results if isinstance(results, dict) else {}).items()
            if isinstance(item, dict)
        },
    }
    return {name: item for name, item in found.items() if name not in datasets}


def append_event(folder: Path, event: Event) -> None:
    """Append to the events, if that can be: a diary that cannot be written must not end what it tells of.

    Args:
        folder: `evalflow` in a run folder.
        event: what has happened.
    """
    line = {"schema": SCHEMA, "time": _now("milliseconds"), **_redacted(event.as_dict())}
    with suppress(OSError):
        append(folder / "events.jsonl", json.dumps(line, default=str) + "\n")


def read(run_folder: Path) -> dict[str, Any] | None:
    """What run.json in a run folder says; None if there is none that can be read.

    A run that was killed had no time to write how it ended: its state is then `died`.
    """
    try:
        data = any_json.load_file(run_folder / FOLDER / "run.json")
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict):
        return None
    if data.get("state") == "running" and data.get("host") == platform.node():
        started = _start_of(data.get("pid"))
        if started is None or abs(started - (data.get("pid_started") or started)) > CLOCK_ERROR_S:
            data["state"] = DIED
    return data


def answers_from(run_folder: Path) -> list[dict[str, Any]]:
    """What the answers in a run folder were made with, one entry for each engine that made some, the last one last.

    Empty where none was recorded, as in folders of 0.1.
    """
    found = (read(run_folder) or {}).get("answers_from")
    return [batch for batch in found if isinstance(batch, dict)] if isinstance(found, list) else []


def mark_dead(run_folder: Path, run_id: str) -> None:
    """Write down that a run has died, if its record is still there and still says that it runs."""
    data = read(run_folder)
    if data is None or data.get("run_id") != run_id or data["state"] != DIED:
        return
    with suppress(OSError):
        _write(run_folder / FOLDER, data)


def mark_void(run_folder: Path, why: str) -> None:
    """Write down that nothing in a run folder counts any more: its record has no results, and says why.

    Raises:
        OSError: it cannot be written.
    """
    data = read(run_folder)
    if data is None:
        return
    kept = {name: value for name, value in data.items() if name not in ("results", "earlier_results", "answers_from")}
    _write(run_folder / FOLDER, {**kept, "state": "failed", "error": why})


def _write(folder: Path, data: Mapping[str, Any]) -> None:
    """Write run.json as a whole, or leave the old one.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(folder / "run.json", text, ESCAPED)


def _start_of(pid: Any) -> float | None:
    """When the process with this PID was started, in seconds since the epoch; None if there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.Error, ValueError, TypeError):
        return None


def _now(precision: str = "seconds") -> str:
    return datetime.now().astimezone().isoformat(timespec=precision)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _redacted(tree: Any) -> Any:
    """A copy without keys."""
    from evalscope_evalflow.config.keys import redact  # pydantic with it: not for commands that only read

    return redact(tree)
