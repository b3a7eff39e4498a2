"""Who wants an engine, and one use of it."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.processes import cleanup
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.serving.standby_engine import StandbyEngine


def api_key(engine: Engine, model: ModelConfig, deploy: DeployConfig) -> str | None:
    """The key that an API asks for; a random one for an engine of ours, as loopback is open to every local user.

    Raises:
        ConfigError: the variable that a reference names is not set.
    """
    key = reveal(deploy.api_key if engine.local else model.api_key, "api_key")
    return key or (f"ef-{secrets.token_urlsafe(24)}" if engine.local else None)


def own_entry(run_id: str, engine: Engine, model: ModelConfig) -> Registration:
    """The entry in the registry of an engine that is no run's."""
    with contextlib.suppress(OSError):
        cleanup.clean()  # what died without a guard may hold the devices
    return Registration(run_id, one_command=True, model=model.name, engine=engine.name)


Ahead = Callable[[], StandbyEngine | None]  # gives a process that was started ahead, once, if there is one


def nothing_ahead() -> StandbyEngine | None:
    """No process was started ahead."""
    return None


@dataclass(frozen=True)
class Request:
    """Who wants an engine; Deployment describes the fields."""

    log: Path
    run_id: str
    on_exit: Callable[[], None] | None
    entry: Registration | None
    waiting: int
    api_key: str | None
    shared: bool = False
    swaps: bool = False
    standby: Ahead = nothing_ahead


@dataclass
class Use:
    """One use of an engine, from its start, or its being taken from the warm pool.

    Attributes:
        log: file that its output goes to; of one that was kept, that of the run which started it.
        log_start: size of that file, in bytes, when the use began.
        began: when that was; a reading of time.monotonic().
        load_s: how long loading took, once it is ready.
        reused: the run that started it, where it was kept since.
    """

    log: Path
    log_start: int = 0
    began: float = 0.0
    load_s: float | None = None
    reused: str | None = None

    @classmethod
    def begin(cls, log: Path, reused: str | None = None) -> Use:
        """From here on what the engine does, and prints to this file, belongs to this use."""
        return cls(log, log.stat().st_size if log.exists() else 0, time.monotonic(), reused=reused)

    def copy_log(self, target: Path) -> None:
        """Append what was printed during this use to another file; all of its log, where that was rotated since."""
        if self.log == target:
            return
        with contextlib.suppress(OSError):  # the run that started it may have been deleted
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("rb") as file, target.open("ab") as copy:
                file.seek(self.log_start if self.log_start <= self.log.stat().st_size else 0)
                shutil.copyfileobj(file, copy)
        self.log = target
