"""The devices that an engine may be given: those that are named, or what of this machine is idle."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from evalscope_evalflow.config import AUTO, DeployConfig
from evalscope_evalflow.devices.nvml import (
    ALL,
    CUDA_VISIBLE_DEVICES,
    NO_DEVICE,
    Device,
    devices,
    holders,
    is_idle,
    read,
    split,
    title,
)
from evalscope_evalflow.devices.yielding import yielding_devices
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.processes import registry

DEV = Path("/dev")
# NVIDIA's, the same under WSL, AMD's, Intel's, Ascend's, and others.
ACCELERATORS = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd", "dri/renderD*", "davinci[0-9]*", "accel/*")


class ChosenBy(Enum):
    """Who has decided which devices an engine may have."""

    EVALFLOW = "EvalFlow"  # they are idle, and as many of them are taken as are needed
    USER = "deploy.devices"  # they are named, and all of them are used
    ENV_VARS = "deploy.env_vars"  # a variable names them, and nothing is added to that


@dataclass(frozen=True)
class Pool:
    """Devices to choose from.

    Attributes:
        devices: by the names that CUDA_VISIBLE_DEVICES has for them; of those that are named but unknown to the driver,
            or where there is no driver, None.
        chosen_by: who has decided that it is these.
        others: devices of this machine that are not in the pool, with the reason in words.
        everywhere: names of all of them, in the driver's order.
    """

    devices: Mapping[str, Device | None] = field(default_factory=dict)
    chosen_by: ChosenBy = ChosenBy.EVALFLOW
    others: Mapping[str, str] = field(default_factory=dict)
    everywhere: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there is a driver that knows devices."""
        return bool(self.everywhere)

    @property
    def measured(self) -> dict[str, Device]:
        """Those whose memory is known."""
        return {name: device for name, device in self.devices.items() if device is not None and device.total_bytes}


def find(deploy: DeployConfig, run_id: str = "") -> Pool:
    """The devices that these settings leave to choose from.

    Where the driver of NVIDIA is not there to ask, names are taken as they are, and `auto` and `all` are no devices.

    Args:
        deploy: the settings.
        run_id: of the run that they are for; what other runs have taken is not idle, loaded or not. Empty: they are
            only asked for, and those of engines that are kept count as idle, as a start would end these first.

    Raises:
        DriverError: there is a driver, but it does not answer.
    """
    variable = deploy.env_vars.get(CUDA_VISIBLE_DEVICES)
    if variable is not None:
        return _named(split(variable), ChosenBy.ENV_VARS)
    if deploy.devices not in (AUTO, ALL):
        return _named(split(deploy.devices or ""), ChosenBy.USER)
    own = os.environ.get(CUDA_VISIBLE_DEVICES)  # as a batch system sets it for its job
    here = read(None if own is None else split(own))
    if deploy.devices == ALL:
        return Pool(here, ChosenBy.USER, everywhere=tuple(here))
    if not here:
        return Pool()
    taken = _taken(run_id)
    going = frozenset() if run_id else yielding_devices()
    others = {
        name: why
        for name, device in here.items()
        if going.isdisjoint((name, device.uuid)) and (why := _why_not(name, device, taken))
    }
    free = {name: device for name, device in here.items() if name not in others}
    return Pool(free, ChosenBy.EVALFLOW, others, tuple(here))


def no_accelerator() -> bool:
    """Whether this machine shows none of any maker: no driver of NVIDIA, and no device node of another one's."""
    return not devices() and not any(next(DEV.glob(pattern), None) for pattern in ACCELERATORS)


def _named(names: tuple[str, ...], chosen_by: ChosenBy) -> Pool:
    if names in ((), (NO_DEVICE,)):
        return Pool({}, chosen_by)
    found = read(names)
    return Pool({name: found.get(name) for name in names}, chosen_by, everywhere=tuple(found))


def _why_not(name: str, device: Device, taken: Mapping[str, str]) -> str:
    """Why a device is not to be taken; empty if it is idle."""
    if device.trouble:
        return f"does not answer: {device.trouble}"
    for other in (name, *([device.uuid] if device.uuid else [])):
        if other in taken:
            return f"is given to run {taken[other]}"
    return "" if is_idle(device) else f"is in use: {holders(device)}"


def _taken(run_id: str) -> dict[str, str]:
    """The devices of other runs' engines, with the run: while an engine loads, its devices may still look idle."""
    taken: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for entry in registry.entries():
            loads = "engine" in entry.commands and entry.state in ("running", "ending")
            if loads and entry.run_id != run_id and not _shares(entry.engine):
                taken.update(dict.fromkeys(split(entry.devices), entry.run_id))
    return taken


def _shares(engine: str) -> bool:
    """Whether an engine leaves room for others on its devices."""
    try:
        return not load_engine(engine).needs_idle_devices
    except ConfigError:
        return False


def describe(pool: Mapping[str, Device]) -> str:
    """Devices in words, such as "0,1 (NVIDIA H100 80GB HBM3, 80 GiB)"."""
    kinds: dict[str, list[str]] = {}
    for name, device in pool.items():
        kinds.setdefault(title(device), []).append(name)
    return "; ".join(f"{','.join(names)} ({kind})" for kind, names in kinds.items())


def in_blocks(names: list[str], size: int, everywhere: list[str]) -> Iterator[list[str]]:
    """Groups of so many devices, the nearest neighbours first.

    Devices that share a switch, a bridge or a socket have numbers next to each other, in blocks that begin at a
    multiple of their size; the driver's order is that of the PCI bus.

    Args:
        names: those that can be chosen.
        size: of a group.
        everywhere: every device of the machine, in the driver's order.
    """
    left = list(names)
    for start in range(0, len(everywhere) - size + 1, size):
        block = everywhere[start : start + size]
        if all(name in left for name in block):
            yield block
            left = [name for name in left if name not in block]
    for start in range(0, len(left) - size + 1, size):
        yield left[start : start + size]
