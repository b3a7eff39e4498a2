"""The record of a run: `evalflow/run.json` and `evalflow/events.jsonl` in the run folder. No key is in it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evalscope_evalflow import keys

FOLDER = "evalflow"
_RESERVE = ".reserve"
_RESERVE_BYTES = 64 * 1024


class Record:
    """What happened in one run of one model, kept on disk as it happens.

    Attributes:
        folder: where it and the logs are.
    """

    def __init__(self, run_folder: Path, run_id: str, **start: Any) -> None:
        self.folder = run_folder / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data: dict[str, Any] = {
            "run_id": run_id,
            "state": "running",
            "started": _now(),
            "pid": os.getpid(),
            "host": platform.node(),
            "versions": {name: _version(name) for name in ("evalscope-evalflow", "evalscope", "xllamacpp", "vllm")},
            **keys.redact(start),
        }
        # Given up when the disk is full, so that the record can still say how the run ended.
        (self.folder / _RESERVE).write_bytes(b"\0" * _RESERVE_BYTES)
        self.event("started")
        self.save()

    def set(self, **fields: Any) -> None:
        """Add to the record, and save it."""
        self._data.update(keys.redact(fields))
        self.save()

    def event(self, name: str, **details: Any) -> None:
        """Append to the events, if that can be: a diary that cannot be written must not end what it tells of."""
        line = json.dumps({"time": _now(), "event": name, **keys.redact(details)}, default=str)
        with suppress(OSError), (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
