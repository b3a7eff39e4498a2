"""The record of a run: `evalflow/run.json` and `evalflow/events.jsonl` in the run folder. No key is in it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from evalscope_evalflow.config import keys

FOLDER = "evalflow"
DIED = "died"
CLOCK_ERROR_S = 5.0  # a start time is counted from the boot, by a clock that may have been set since
_RESERVE = ".reserve"
_RESERVE_BYTES = 64 * 1024


class Record:
    """What happened in one run of one model, kept on disk as it happens.

    Attributes:
        folder: where it and the logs are.
        left: what of its engines could not be released, a line each.
    """

    def __init__(self, run_folder: Path, run_id: str, **start: Any) -> None:
        self.folder = run_folder / FOLDER
        self.left: list[str] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        before = read(run_folder)
        self._data: dict[str, Any] = {
            "run_id": run_id,
            "state": "running",
            "started": _now(),
            "pid": os.getpid(),
            "pid_started": _start_of(os.getpid()),
            "host": platform.node(),
            "versions": {
                name: _version(name)
                for name in ("evalscope-evalflow", "evalscope", "xllamacpp", "vllm", "lmdeploy", "sglang")
            },
            **keys.redact(start),
        }
        if before and before["state"] == DIED:
            self.event(DIED, run_id=before.get("run_id"), pid=before.get("pid"))
        # Given up when the disk is full, so that the record can still say how the run ended.
        (self.folder / _RESERVE).write_bytes(b"\0" * _RESERVE_BYTES)
        self.event("started")
        self.save()

    def set(self, **fields: Any) -> None:
        """Add to the record, and save it."""
        self._data.update(keys.redact(fields))
        self.save()

    def event(self, name: str, **details: Any) -> None:
        """Append to the events."""
        append_event(self.folder, name, **details)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase of the run; its seconds add up if there are several, as when an engine is started again."""
        began = time.monotonic()
        self.event("phase begins", phase=name)
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            phases = self._data.setdefault("phases_s", {})
            phases[name] = round(phases.get(name, 0) + seconds, 3)
            self.event("phase ends", phase=name, seconds=round(seconds, 3))

    def held(self, seconds: float) -> None:
        """Add to the seconds that an engine was there for this run, from its start to its end."""
        self.set(engine_held_s=round(self._data.get("engine_held_s", 0) + seconds, 3))

    def finish(self, state: str, **fields: Any) -> None:
        """The run has ended, as `complete`, `incomplete`, `failed` or `interrupted`."""
        with suppress(OSError):
            (self.folder / _RESERVE).unlink()
        self.set(state=state, ended=_now(), **fields)
        self.event(state)

    def save(self) -> None:
        """Write run.json as a whole, or leave the old one."""
        new = self.folder / ".run.json.new"  # one run a folder: nobody else writes it
        try:
            new.write_text(json.dumps(self._data, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
            new.replace(self.folder / "run.json")
        finally:
            new.unlink(missing_ok=True)


def append_event(folder: Path, name: str, **details: Any) -> None:
    """Append to the events, if that can be: a diary that cannot be written must not end what it tells of.

    Args:
        folder: `evalflow` in a run folder.
        name: the event's.
        details: more about it.
    """
    line = json.dumps({"time": _now("milliseconds"), "event": name, **keys.redact(details)}, default=str)
    with suppress(OSError), (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(run_folder: Path) -> dict[str, Any] | None:
    """What run.json in a run folder says; None if there is none that can be read.

    A run that was killed had no time to write how it ended: its state is then `died`.
    """
    try:
        data = json.loads((run_folder / FOLDER / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict):
        return None
    if data.get("state") == "running" and data.get("host") == platform.node():
        started = _start_of(data.get("pid"))
        if started is None or abs(started - (data.get("pid_started") or started)) > CLOCK_ERROR_S:
            data["state"] = DIED
    return data


def mark_dead(run_folder: Path, run_id: str) -> None:
    """Write down that a run has died, if its record is still there and still says that it runs."""
    data = read(run_folder)
    if data is None or data.get("run_id") != run_id or data["state"] != DIED:
        return
    new = run_folder / FOLDER / ".run.json.new"
    with suppress(OSError):
        try:
            new.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            new.replace(run_folder / FOLDER / "run.json")
        finally:
            new.unlink(missing_ok=True)


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
