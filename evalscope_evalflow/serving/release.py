"""The proof that an engine is gone: its processes, its port, its files, its memory on the devices.

What the driver lists is compared with the processes that were seen of the engine while it lived. In a container the
driver may count as the host does: then all that can be said is which entries came while the engine ran, and are
still there. Such an answer is `unsure`; it is a warning, and nobody is ended or waited for because of it for long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import psutil
from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_delay, wait_fixed

from evalscope_evalflow.devices import nvml as devices
from evalscope_evalflow.devices.nvml import Device, DriverError
from evalscope_evalflow.engines.checkpoints.memory import GIB
from evalscope_evalflow.processes import guard, ports
from evalscope_evalflow.processes.supervised import SupervisedProcess

HELD_WAIT_S = 20.0  # the driver tears down the memory of a process that was killed; 80 GiB take seconds
UNSURE_WAIT_S = 5.0
PORT_WAIT_S = 1.0
POLL_S = 0.2
SLACK_BYTES = 256 * 1024 * 1024  # by which readings of memory differ without anybody's doing
T = TypeVar("T")


@dataclass(frozen=True)
class DeviceRelease:
    """What became of a device.

    Attributes:
        name: as in `deploy.devices`.
        state: `released`: nothing of ours is on it; `held`: processes of ours are; `unsure`: it cannot be told.
        pids: for `held` ours, for `unsure` those that may be.
        why: what makes it unsure.
    """

    name: str
    state: Literal["released", "held", "unsure"]
    pids: tuple[int, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Release:
    """What is left of an engine.

    Attributes:
        processes: PIDs of it that live on, even after SIGKILL.
        port: that it listened at; None where there was none.
        port_free: whether somebody could listen there now.
        port_holder: PID of who does; None where it is free, or nobody can tell.
        port_is_ours: whether that is a process of the engine.
        removed: files that it left in /dev/shm, and that were deleted.
        files: temporary files of it that could not be deleted.
        devices: what became of each device that it could use; empty without a driver of NVIDIA.
    """

    processes: tuple[int, ...] = ()
    port: int | None = None
    port_free: bool = True
    port_holder: int | None = None
    port_is_ours: bool = False
    removed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    devices: tuple[DeviceRelease, ...] = field(default=())

    def __bool__(self) -> bool:
        """Whether all is released, as far as can be known; see `warnings` for what cannot."""
        return not self.problems()

    def problems(self) -> list[str]:
        """What is left for certain, a line each."""
        lines = []
        if self.processes:
            lines.append(f"processes survive SIGKILL: {_pids(self.processes)}")
        if not self.port_free and self.port_is_ours:
            lines.append(f"port {self.port} is still held by PID {self.port_holder}")
        lines += [f"{path} could not be deleted" for path in self.files]
        lines += [
            f"device {device.name} is still held by {_pids(device.pids)}"
            for device in self.devices
            if device.state == "held"
        ]
        return lines

    def warnings(self) -> list[str]:
        """What may be left, or is somebody else's by now, a line each."""
        lines = [
            f"whether device {device.name} is released cannot be told: {device.why}"
            for device in self.devices
            if device.state == "unsure"
        ]
        if not self.port_free and not self.port_is_ours:
            holder = f"PID {self.port_holder}" if self.port_holder else "a process that cannot be seen from here"
            lines.append(f"port {self.port} has been taken by {holder}")
        return lines


class DeviceWatch:
    """Which processes come to some devices while an engine runs there, and whether they have gone when it has."""

    def __init__(self, names: Sequence[str] | None) -> None:
        """Look at the devices before the engine starts.

        Args:
            names: as in `deploy.devices`; None: all.
        """
        self._names = names
        self._before, self._trouble = self._read()
        self._came: dict[str, set[int]] = {}
        self._extra: dict[str, int] = {}

    @property
    def products(self) -> list[str]:
        """Names of the devices' products, one for each device; empty without a driver of NVIDIA."""
        return [device.name for device in self._before.values()]

    @property
    def names(self) -> list[str]:
        """Names of the devices, as CUDA_VISIBLE_DEVICES has them; empty without a driver of NVIDIA."""
        return list(self._before)

    def poll(self) -> None:
        """Look again, while the engine lives."""
        for name, device in self._read()[0].items():
            if name in self._before and not device.trouble:
                self._came.setdefault(name, set()).update(_pids_of(device) - _pids_of(self._before[name]))
                self._extra[name] = max(self._extra.get(name, 0), self._unlisted_bytes(name, device))

    def others(self, tree: Mapping[int, int]) -> list[str]:
        """Who else holds memory of these devices now, a clause each; empty where nobody does, or it cannot be told.

        Args:
            tree: PIDs of the engine's processes, with start times in ticks since boot.
        """
        ours_are_listed = any(pid in tree for pids in self._came.values() for pid in pids)
        found = []
        for name, device in self._read()[0].items():
            before = _pids_of(self._before[name]) if name in self._before else set()
            # Where the driver counts PIDs as another machine does, those that came may be ours.
            theirs = tuple(
                process
                for process in device.processes
                if process.pid not in tree and not process.screen and (ours_are_listed or process.pid in before)
            )
            if theirs:
                found.append(f"device {name} is held by {devices.holders(replace(device, processes=theirs))}")
            elif not device.processes and device.used_bytes > devices.IDLE_BYTES:
                found.append(f"device {name} is held: {devices.holders(device)}")
        return found

    def prove(self, tree: Mapping[int, int]) -> tuple[DeviceRelease, ...]:
        """What became of the devices; waits, for a while, until they are released.

        Args:
            tree: PIDs of the engine's processes, with start times in ticks since boot.
        """
        if not self._before and not self._trouble:
            return ()

        def over(state: RetryCallState) -> bool:
            found = state.outcome.result() if state.outcome else ()
            held = any(device.state == "held" for device in found)
            return (state.seconds_since_start or 0.0) >= (HELD_WAIT_S if held else UNSURE_WAIT_S)

        return _poll(lambda: self._judge_all(tree), lambda found: all(item.state == "released" for item in found), over)

    def _judge_all(self, tree: Mapping[int, int]) -> tuple[DeviceRelease, ...]:
        now, trouble = self._read()
        if trouble or self._trouble:
            return (DeviceRelease(",".join(self._names or ()) or "all", "unsure", why=trouble or self._trouble),)
        # Once a process of ours was listed by its own number, the driver counts as we do.
        ours_are_listed = any(pid in tree for pids in self._came.values() for pid in pids)
        return tuple(
            self._judge(name, before, now.get(name), tree, ours_are_listed) for name, before in self._before.items()
        )

    def _judge(
        self, name: str, before: Device, now: Device | None, tree: Mapping[int, int], ours_are_listed: bool
    ) -> DeviceRelease:
        if now is None:
            return DeviceRelease(name, "unsure", why="it is not there any more")
        if now.trouble or before.trouble:
            return DeviceRelease(name, "unsure", why=f"NVIDIA's driver says: {now.trouble or before.trouble}")
        new = _pids_of(now) - _pids_of(before)
        held = sorted(pid for pid in new if pid in tree and not _is_another(pid, tree[pid]))
        if held:
            return DeviceRelease(name, "held", tuple(held))
        if ours_are_listed:
            return DeviceRelease(name, "released")
        unknown = sorted(pid for pid in new & self._came.get(name, set()) if not psutil.pid_exists(pid))
        if unknown:
            why = f"{_pids(unknown)} came while the engine ran, and cannot be seen from here (as in a container)"
            return DeviceRelease(name, "unsure", tuple(unknown), why)
        extra = self._unlisted_bytes(name, now)
        if min(extra, self._extra.get(name, 0)) > SLACK_BYTES:
            why = f"{extra / GIB:.1f} GiB more are in use than before the start, by no process that the driver lists"
            return DeviceRelease(name, "unsure", why=why)
        return DeviceRelease(name, "released")

    def _unlisted_bytes(self, name: str, now: Device) -> int:
        """Memory that is used more than before, beyond what listed processes account for."""
        return _unaccounted(now) - _unaccounted(self._before[name])

    def _read(self) -> tuple[dict[str, Device], str]:
        try:
            return devices.read(self._names), ""
        except DriverError as error:
            return {}, str(error)


def prove(process: SupervisedProcess, host: str, port: int, watch: DeviceWatch) -> Release:
    """Wait, for a bounded time, until nothing is left of an engine that was stopped; say what is.

    Args:
        process: the engine; it has been stopped.
        host: address that it was bound to.
        port: that it listened at.
        watch: its devices.
    """
    alive = {pid for pid, start in process.tree.items() if _lives(pid, start)} | set(process.left)

    def look() -> tuple[bool, int | None]:
        free = ports.is_free(host, port)
        return free, None if free else _listener(port)

    def settled(found: tuple[bool, int | None]) -> bool:
        free, holder = found
        return free or (holder is not None and holder not in process.tree)  # somebody else's: not waited for

    free, holder = _poll(look, settled, stop_after_delay(PORT_WAIT_S))
    return Release(
        processes=tuple(sorted(alive)),
        port=port,
        port_free=free,
        port_holder=holder,
        port_is_ours=holder in alive,
        removed=tuple(process.removed),
        files=(str(process.scratch),) if process.scratch.exists() else (),
        devices=watch.prove(process.tree),
    )


def _poll(look: Callable[[], T], good: Callable[[T], bool], stop: Callable[[RetryCallState], bool]) -> T:
    """The first good answer, or the last one."""
    poll = Retrying(
        retry=retry_if_result(lambda found: not good(found)),
        wait=wait_fixed(POLL_S),
        stop=stop,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else look(),
    )
    found: T = poll(look)
    return found


def _pids_of(device: Device) -> set[int]:
    return {process.pid for process in device.processes}


def _unaccounted(device: Device) -> int:
    return device.used_bytes - sum(process.used_bytes or 0 for process in device.processes)


def _lives(pid: int, start: int) -> bool:
    """Whether a process lives that has this PID and started at that time."""
    found = guard.stat(pid)
    return found is not None and found[0] != "Z" and found[2] == start


def _is_another(pid: int, start: int) -> bool:
    """Whether the PID has been given to another process since."""
    found = guard.stat(pid)
    return found is not None and found[2] != start


def _listener(port: int) -> int | None:
    """PID of the process that listens at a TCP port, where it may be known."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port:
                return connection.pid
    return None


def _pids(pids: Sequence[int]) -> str:
    return ("PID " if len(pids) == 1 else "PIDs ") + ", ".join(map(str, pids))
