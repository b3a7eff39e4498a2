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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalscope_evalflow.config import AUTO, DeployConfig
from evalscope_evalflow.devices import nvml as devices
from evalscope_evalflow.devices import yielding
from evalscope_evalflow.devices.nvml import ALL, CUDA_VISIBLE_DEVICES, NO_DEVICE, DriverError, split
from evalscope_evalflow.processes.registry import Registration, new_run_id
from evalscope_evalflow.serving.diagnosis import diagnose_process
from evalscope_evalflow.serving.engine_identity import NAME, Identity, differ_in_weights_alone, differences

if TYPE_CHECKING:
    from evalscope_evalflow.engines import Engine
    from evalscope_evalflow.serving.deployment import Deployment
    from evalscope_evalflow.serving.release import Release


@dataclass(eq=False)
class Keeping:
    """How long an engine is kept, and what happens then.

    Attributes:
        until: when it goes, in seconds since the epoch.
        entry: its own entry in the registry.
        notify: is called with what its end left behind.
        timer: ends it.
    """

    until: float
    entry: Registration
    notify: Callable[[Release], None]
    timer: threading.Timer


class WarmPool:
    """The engines that this process keeps: handles whose state is KEPT. Every method may be called in any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kept: list[Deployment] = []
        self._lost: list[tuple[Identity, str]] = []
        self._at_exit = False
        os.register_at_fork(after_in_child=self._forget)  # a child that exits must not end its parent's engines

    def _forget(self) -> None:
        """Keep nothing, and end nothing."""
        self._lock = threading.RLock()
        self._kept, self._lost, self._at_exit = [], [], False

    def keep(self, handle: Deployment, seconds: float, notify: Callable[[Release], None]) -> float | None:
        """Keep an engine that its user is done with.

        Args:
            handle: a ready engine; it has an identity.
            seconds: for how long.
            notify: is called with what its end left behind, in whatever thread.

        Returns:
            Until when, in seconds since the epoch; None: it has just died, and is its user's to release.
        """
        server, until = handle.server, time.time() + seconds
        assert server is not None
        entry = Registration(
            new_run_id(), one_command=True, model=server.model.name, engine=server.engine.name,
            devices=server.deploy.devices or "", api_url=server.api_url, port=server.address.port,
            phase=f"kept until {clock(until)}",
        )  # fmt: skip
        timer = threading.Timer(seconds, self._expire, [handle])
        timer.daemon = True  # it is not waited for when the process ends
        with self._lock:
            if not handle.become_kept(Keeping(until, entry, notify, timer)):
                entry.close()
                return None
            self._kept.append(handle)
            timer.start()
            if not self._at_exit:
                atexit.register(self._exit, os.getpid())
                self._at_exit = True
        return until

    def take(
        self,
        identity: Identity,
        entry: Registration,
        on_exit: Callable[[], None],
        log: Callable[[str], None],
        *,
        swaps: bool = True,
    ) -> Deployment | None:
        """The handle of the same engine, if one is kept and says that it is well; its process is the caller's then.

        Where there is none, one whose weights can be replaced by those that are wanted will do: its identity differs.

        Args:
            identity: what is wanted.
            entry: the caller's, in the registry.
            on_exit: is called, in a thread, when its processes are gone.
            log: is called with why one that was kept cannot be had.
            swaps: whether one with other weights will do.
        """
        with self._lock:
            for text in [text for lost, text in self._lost if lost == identity]:
                log(text)
            self._lost = [item for item in self._lost if item[0] != identity]
            handle = next((handle for handle in self._kept if _identity(handle) == identity), None)
            if swaps and handle is None:
                handle = next((handle for handle in self._kept if _can_take(handle, identity)), None)
            if handle is None or not self._remove(handle):
                return None
        server, keeping = handle.server, handle.keeping
        assert server is not None
        assert keeping is not None
        try:
            if server.is_healthy() and server.process.hand_over(entry, on_exit):
                keeping.entry.close()
                return handle
        except BaseException:
            _end(handle)
            raise
        log(f"the {server.name} that was kept does not answer any more; a new one is started")
        _end(handle)
        return None

    def make_room(self, engine: Engine, deploy: DeployConfig, identity: Identity, log: Callable[[str], None]) -> None:
        """End those whose devices an engine that is about to be started may need.

        Args:
            engine: what is started.
            deploy: how.
            identity: its own.
            log: is called with a line for each that goes.
        """
        with self._lock:
            if not self._kept:
                return
            wanted = _needs(engine, deploy)
            going = [handle for handle in self._kept if _meet(wanted, _needs_of(handle))]
            going = [handle for handle in going if self._remove(handle)]
        for handle in going:
            assert handle.server is not None
            why = "its devices may be needed"
            its_own = _identity(handle) or {}
            if its_own.get(NAME) == identity.get(NAME):
                why = f"another one is wanted now: {', '.join(differences(its_own, identity)[:3])} changed"
            log(f"the {handle.server.name} that was kept is released: {why}")
        _release(going)

    def release_one(self, handle: Deployment) -> None:
        """End an engine, if it is kept."""
        with self._lock:
            going = self._remove(handle)
        if going:
            _end(handle)

    def release(self) -> list[Release]:
        """End all of them, at once."""
        with self._lock:
            going = [handle for handle in list(self._kept) if self._remove(handle)]
        return _release(going)

    def engines(self) -> list[Deployment]:
        """Those that are kept now."""
        with self._lock:
            return list(self._kept)

    def died(self, handle: Deployment) -> None:
        """The processes of a kept engine are gone, and nobody here ended them; the next one who wants it is warned."""
        server = handle.server
        assert server is not None
        process = server.process
        how = "was ended by somebody else, as by `evalflow stop`" if process.stopped else (
            f"died while nobody used it (exit code {process.exit_code}): "
            f"{diagnose_process(process, server.engine).cause}; log: {process.log}"
        )  # fmt: skip
        with self._lock:
            going = self._remove(handle)
            if going and server.launch.identity is not None:
                self._lost.append((server.launch.identity, f"the {server.name} that was kept {how}"))
        if going:
            _end(handle)

    def _remove(self, handle: Deployment) -> bool:
        """Take it out, whoever was first; the lock is held."""
        if handle not in self._kept:
            return False
        self._kept.remove(handle)
        if handle.keeping is not None:
            handle.keeping.timer.cancel()
        return True

    def _expire(self, handle: Deployment) -> None:
        """Its time is over."""
        self.release_one(handle)

    def _exit(self, pid: int) -> None:
        """The process ends."""
        if pid == os.getpid():
            self.release()


POOL = WarmPool()


def release_kept() -> list[Release]:
    """Let go of every engine that `keep_alive_s` keeps in this process, and wait until nothing of it is left.

    Returns:
        What is left of each; true where nothing is. A warning says what is left, too.
    """
    return POOL.release()


def going_devices() -> frozenset[str]:
    """Names and UUIDs of the devices that kept engines hold: an engine that needs them will find them free."""
    found: set[str] = set()
    for handle in POOL.engines():
        needed = _needs_of(handle)
        if needed and handle.server is not None:
            found |= needed | set(split(handle.server.deploy.devices or ""))
    return frozenset(found)


yielding.add_holder(going_devices)


def ports() -> set[int]:
    """The ports of kept engines."""
    return {handle.server.address.port for handle in POOL.engines() if handle.server is not None}


def clock(seconds: float) -> str:
    """A time of day, with the date, from seconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _release(going: Iterable[Deployment]) -> list[Release]:
    """End several; they take their time together."""
    going = list(going)
    for handle in going:
        if handle.server is not None:
            handle.server.process.ask_to_stop()
    return [_end(handle) for handle in going]


def _end(handle: Deployment) -> Release:
    """End one that is no longer in the pool; a warning tells what is left of it."""
    keeping = handle.keeping
    assert keeping is not None
    try:
        keeping.entry.phase("releasing")
        released = handle.release_kept()
    finally:
        keeping.entry.close()
    keeping.notify(released)
    for line in (*released.problems(), *released.warnings()):
        text = f"{handle.engine.name} with {handle.model.name} was ended, but {line}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    return released


def _identity(handle: Deployment) -> Identity | None:
    return handle.server.launch.identity if handle.server is not None else None


def _can_take(handle: Deployment, identity: Identity) -> bool:
    """Whether the weights of a kept engine can be replaced by those that are wanted."""
    its_own, server = _identity(handle), handle.server
    return bool(its_own and server and server.control_key and differ_in_weights_alone(its_own, identity))


def _needs_of(handle: Deployment) -> frozenset[str] | None:
    """The devices of a kept engine, as they were chosen."""
    return _needs(handle.server.engine, handle.server.deploy) if handle.server is not None else frozenset()


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
