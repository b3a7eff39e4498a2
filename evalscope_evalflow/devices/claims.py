"""What several models may share out among them: the devices that each may be given, and how many it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig
from evalscope_evalflow.devices.nvml import (
    ALL,
    CUDA_VISIBLE_DEVICES,
    NO_DEVICE,
    DriverError,
    holders,
    is_busy,
    read,
    split,
)
from evalscope_evalflow.devices.placement import place
from evalscope_evalflow.devices.pool import ChosenBy, Pool, find
from evalscope_evalflow.devices.yielding import yielding_devices
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.errors import ConfigError

MACHINE = "this machine"  # stands for whatever an engine finds, where no devices are told apart


@dataclass(frozen=True)
class Claim:
    """What a model needs of the devices, if others want some too.

    Attributes:
        devices: those that it may be given, or names of something else that one model at a time uses.
        needs: how many of them it takes at least.
        assigned: whether the engine is given the names of those it gets.
        measured: whether a driver knows their memory, so that the choice among them matters.
    """

    devices: tuple[str, ...] = ()
    needs: int = 0
    assigned: bool = False
    measured: bool = False


def claim(engine: Engine, model: ModelConfig, deploy: DeployConfig) -> Claim:
    """What a model may be given.

    Raises:
        ConfigError: it fits nowhere.
    """
    named = (
        () if deploy.devices in (AUTO, ALL) or CUDA_VISIBLE_DEVICES in deploy.env_vars else split(deploy.devices or "")
    )
    if not engine.uses_devices(deploy):
        return Claim(named, 1, assigned=True) if named else Claim((MACHINE,), 1)  # names of slots, and no more
    pool = _pool(deploy)
    if pool.chosen_by is ChosenBy.ENV_VARS:  # the engine takes the first of these, whatever they are
        return Claim(tuple(pool.devices) or (MACHINE,), max(1, len(pool.devices)))
    if not pool.known:
        return Claim(named, _by_number(engine, deploy, len(named)), assigned=True) if named else Claim((MACHINE,), 1)
    if not pool.devices:  # devices: "", for an engine on CPUs; or none is idle, for one that can do without
        return Claim((MACHINE,), 1)
    chosen = split(place(engine, model, deploy, waiting=1, among=pool.devices).devices or "")
    return Claim(tuple(pool.devices), max(1, len(chosen)), True, True)


def settle(
    engine: Engine, model: ModelConfig, deploy: DeployConfig, claimed: Claim, free: Sequence[str], waiting: int
) -> dict[str, Any] | None:
    """Settings of `deploy` that give a model devices of its own.

    Args:
        engine: what serves it.
        model: it.
        deploy: how.
        claimed: its claim.
        free: devices of the claim that nobody has; more than it needs become replicas, if nobody waits.
        waiting: models that wait for devices.

    Returns:
        None where it does not fit on what is free.
    """
    if len(free) < claimed.needs:
        return None
    if not claimed.measured:
        return {"devices": ",".join(free[: claimed.needs])} if claimed.assigned else {}
    others = busy(free) if engine.needs_idle_devices else {}
    free = [name for name in free if name not in others]
    if len(free) < claimed.needs:
        return None
    try:
        placement = place(engine, model, deploy, waiting=waiting, among=free)
    except ConfigError:
        return None
    if engine.spreads == "layers":  # with none idle it would go to the CPU, beside what runs there
        return None if placement.devices == NO_DEVICE else {"devices": placement.devices}
    return {
        "devices": placement.devices,
        "tensor_parallel": placement.tensor_parallel,
        "data_parallel": placement.data_parallel,
    }


def busy(names: Sequence[str]) -> dict[str, str]:
    """Those of these devices that somebody uses, with who does; not those of engines that are kept, and would go."""
    try:
        found = read(names)
    except DriverError as error:
        return dict.fromkeys(names, str(error))
    going = yielding_devices()
    return {
        name: holders(device)
        for name, device in found.items()
        if (device.trouble or is_busy(device)) and going.isdisjoint((name, device.uuid))
    }


def _pool(deploy: DeployConfig) -> Pool:
    try:
        return find(deploy)
    except DriverError:
        return Pool()  # preflight has said so


def _by_number(engine: Engine, deploy: DeployConfig, named: int) -> int:
    """Devices that a model takes where no driver tells of their memory."""
    if engine.spreads == "layers":
        return 1
    if deploy.tensor_parallel == AUTO:
        return named
    return min(named, deploy.tensor_parallel * deploy.replicas * engine.memory(deploy).pipeline)
