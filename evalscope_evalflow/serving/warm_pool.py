"""Warm engines: kept for a while after their last use, by this process, for whoever wants the same one next.

A kept engine is under its guard as before, so that it ends with this process, however that ends. Its entry in the
registry is one of its own: `evalflow ps` shows it, `evalflow stop` ends it. Nobody has to wait for it: it goes when
its time is over, when the process ends, and before another engine is started that may need its devices.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evalscope_evalflow.config import AUTO, DeployConfig
from evalscope_evalflow.devices import nvml as devices
from evalscope_evalflow.devices import yielding
from evalscope_evalflow.devices.nvml import ALL, CUDA_VISIBLE_DEVICES, NO_DEVICE, DriverError, split
from evalscope_evalflow.processes.registry import Registration, new_run_id
from evalscope_evalflow.serving.diagnosis import diagnose_process
from evalscope_evalflow.serving.engine_identity import NAME, Identity, differences

if TYPE_CHECKING:
    from evalscope_evalflow.engines import Engine
    from evalscope_evalflow.serving.release import Release
    from evalscope_evalflow.serving.running import Running


@dataclass(eq=False)
class Kept:
    """An engine that nobody uses now.

    Attributes:
        running: it.
        entry: its own, in the registry.
        until: when it goes, in seconds since the epoch.
        tell: is called with what its end left behind.
        timer: ends it.
    """

    running: Running
    entry: Registration
    until: float
    tell: Callable[[Release], None]
    timer: threading.Timer = field(init=False)

    def release(self) -> Release:
        """End it."""
        try:
            self.entry.phase("releasing")
            released = self.running.release()
        finally:
            self.entry.close()
        self.tell(released)
        for line in (*released.problems(), *released.warnings()):
            warnings.warn(f"{self.running.name} was ended, but {line}", RuntimeWarning, stacklevel=2)
        return released


class Store:
    """The engines that this process keeps. Every method may be called in any thread."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)  # a child that exits must not end its parent's engines

    def forget(self) -> None:
        """Keep nothing, and end nothing."""
        self._lock = threading.RLock()
        self._kept: list[Kept] = []
        self._lost: list[tuple[Identity, str]] = []
        self._at_exit = False

    def keep(self, running: Running, seconds: float, tell: Callable[[Release], None]) -> float | None:
        """Keep an engine that its user is done with.

        Args:
            running: it; it has an identity.
            seconds: for how long.
            tell: is called with what its end left behind, in whatever thread.

        Returns:
            Until when, in seconds since the epoch; None: it has just died, and is its user's to release.
        """
        until = time.time() + seconds
        entry = Registration(
            new_run_id(), one_command=True, model=running.model.name, engine=running.engine.name,
            devices=running.deploy.devices or "", api_url=f"{running.address.root}/v1", port=running.address.port,
            phase=f"kept until {clock(until)}",
        )  # fmt: skip
        kept = Kept(running, entry, until, tell)
        kept.timer = threading.Timer(seconds, self._expire, [kept])
        kept.timer.daemon = True  # it is not waited for when the process ends
        with self._lock:
            if not running.process.hand_over(entry, lambda: self._died(kept)):
                entry.close()
                return None
            self._kept.append(kept)
            kept.timer.start()
            if not self._at_exit:
                atexit.register(self._exit, os.getpid())
                self._at_exit = True
        return kept.until

    def take(
        self, identity: Identity, entry: Registration, on_exit: Callable[[], None], say: Callable[[str], None]
    ) -> Running | None:
        """The engine that is this one, if one is kept and says that it is well; it is the caller's then.

        Args:
            identity: what is wanted.
            entry: the caller's, in the registry.
            on_exit: is called, in a thread, when its processes are gone.
            say: is told why one that was kept is not to be had.
        """
        with self._lock:
            for text in [text for lost, text in self._lost if lost == identity]:
                say(text)
            self._lost = [item for item in self._lost if item[0] != identity]
            kept = next((kept for kept in self._kept if kept.running.identity == identity), None)
            if kept is None or not self._remove(kept):
                return None
        try:
            if kept.running.is_healthy() and kept.running.process.hand_over(entry, on_exit):
                kept.entry.close()
                return kept.running
        except BaseException:
            kept.release()
            raise
        say(f"the {kept.running.name} that was kept does not answer any more; a new one is started")
        kept.release()
        return None

    def make_room(self, engine: Engine, deploy: DeployConfig, identity: Identity, say: Callable[[str], None]) -> None:
        """End those whose devices an engine that is about to be started may need.

        Args:
            engine: what is started.
            deploy: how.
            identity: its own.
            say: is told of each that goes.
        """
        with self._lock:
            if not self._kept:
                return
            wanted = _needs(engine, deploy)
            going = [kept for kept in self._kept if _meet(wanted, _needs(kept.running.engine, kept.running.deploy))]
            going = [kept for kept in going if self._remove(kept)]
        for kept in going:
            why = "its devices may be needed"
            its_own = kept.running.identity or {}
            if its_own.get(NAME) == identity.get(NAME):
                why = f"another one is wanted now: {', '.join(differences(its_own, identity)[:3])} changed"
            say(f"the {kept.running.name} that was kept is released: {why}")
        _release(going)

    def release(self) -> list[Release]:
        """End all of them, at once."""
        with self._lock:
            going = [kept for kept in list(self._kept) if self._remove(kept)]
        return _release(going)

    def engines(self) -> list[Running]:
        """Those that are kept now."""
        with self._lock:
            return [kept.running for kept in self._kept]

    def _remove(self, kept: Kept) -> bool:
        """Take it out, whoever was first; the lock is held."""
        if kept not in self._kept:
            return False
        self._kept.remove(kept)
        kept.timer.cancel()
        return True

    def _expire(self, kept: Kept) -> None:
        """Its time is over."""
        with self._lock:
            going = self._remove(kept)
        if going:
            kept.release()

    def _died(self, kept: Kept) -> None:
        """Its processes are gone, by nobody's wish here; the next one who wants it is told."""
        process = kept.running.process
        how = "was ended by somebody else, as by `evalflow stop`" if process.stopped else (
            f"died while nobody used it (exit code {process.exit_code}): "
            f"{diagnose_process(process, kept.running.engine.log_patterns).cause}; log: {process.log}"
        )  # fmt: skip
        with self._lock:
            going = self._remove(kept)
            if going and kept.running.identity is not None:
                self._lost.append((kept.running.identity, f"the {kept.running.name} that was kept {how}"))
        if going:
            kept.release()

    def _exit(self, pid: int) -> None:
        """The process ends."""
        if pid == os.getpid():
            self.release()


STORE = Store()


def release_kept() -> list[Release]:
    """Let go of every engine that `keep_alive_s` keeps in this process, and wait until nothing of it is left.

    Returns:
        What is left of each; true where nothing is. What is left is told by a warning as well.
    """
    return STORE.release()


def going_devices() -> frozenset[str]:
    """Names and UUIDs of the devices that kept engines hold: an engine that needs them will find them free."""
    found: set[str] = set()
    for running in STORE.engines():
        needed = _needs(running.engine, running.deploy)
        if needed:
            found |= needed | set(split(running.deploy.devices or ""))
    return frozenset(found)


yielding.add_holder(going_devices)


def ports() -> set[int]:
    """The ports of kept engines."""
    return {running.address.port for running in STORE.engines()}


def clock(seconds: float) -> str:
    """A time of day, with the date, from seconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _release(going: Iterable[Kept]) -> list[Release]:
    """End several; they take their time together."""
    going = list(going)
    for kept in going:
        kept.running.process.ask_to_stop()
    return [kept.release() for kept in going]


def _needs(engine: Engine, deploy: DeployConfig) -> frozenset[str] | None:
    """The devices that an engine has, or may be given, by UUID where there is one; None: it may be any.

    Without a driver of NVIDIA nobody knows: then memory and processors are what engines compete for.
    """
    variable = deploy.env_vars.get(CUDA_VISIBLE_DEVICES)
    named = deploy.devices if variable is None else variable
    if engine.uses_devices(deploy) and (named is None or named in (AUTO, ALL)):
        return None
    names = split(named or "") if engine.uses_devices(deploy) else ()
    if names in ((), (NO_DEVICE,)):
        return frozenset() if devices.devices() else None
    known: dict[str, devices.Device] = {}
    with contextlib.suppress(DriverError):
        known = devices.read(names)
    return frozenset(known[name].uuid or name if name in known else name for name in names)


def _meet(one: frozenset[str] | None, other: frozenset[str] | None) -> bool:
    """Whether two engines may need the same device."""
    if one == frozenset() or other == frozenset():
        return False
    return one is None or other is None or bool(one & other)
