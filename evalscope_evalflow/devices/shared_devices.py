"""Devices that others use as well, which an engine has only where CUDA_VISIBLE_DEVICES in `env_vars` names them."""

from __future__ import annotations

import dataclasses

from evalscope_evalflow.devices.nvml import CUDA_VISIBLE_DEVICES, Device, held_bytes, holders, is_busy, title
from evalscope_evalflow.devices.pool import Pool
from evalscope_evalflow.devices.yielding import yielding_devices
from evalscope_evalflow.engines.checkpoints.memory import Memory, gib
from evalscope_evalflow.errors import ConfigError, Problem


def beside_others(pool: Pool, memory: Memory) -> Pool:
    """These devices, as far as others leave them to an engine: what is held counts, and whoever holds it is named.

    Args:
        pool: the devices.
        memory: what the engine does with a device's memory.
    """
    going = yielding_devices()
    held = {
        name: device
        for name, device in pool.measured.items()
        if is_busy(device) and going.isdisjoint((name, device.uuid))
    }
    left = {name: dataclasses.replace(device, total_bytes=_free(device)) for name, device in held.items()}
    return dataclasses.replace(
        pool,
        devices={**pool.devices, **left} if memory.of_free else pool.devices,
        others={name: f"is in use: {holders(device)}" for name, device in held.items()},
    )


def check_share(name: str, device: Device, in_use: str, memory: Memory, engine: str) -> None:
    """Check that an engine's share of a device that others use as well is free.

    Args:
        name: of the device, as CUDA_VISIBLE_DEVICES has it.
        device: what the driver says of it.
        in_use: a clause that says by whom it is used.
        memory: what the engine does with a device's memory.
        engine: its name.

    Raises:
        ConfigError: it is not; the engine would stop at its start.
    """
    free = _free(device)
    if free >= memory.share * device.total_bytes:
        return
    less = int(100 * free / device.total_bytes) / 100 - 0.01
    what = (
        f"device {name} ({title(device)}) has {gib(free)} free, and {engine} takes {memory.share:g} of the device: "
        f"it {in_use}"
    )
    lower = f", or lower {memory.option} in extra_args to {less:.2f}" if memory.option and less > 0 else ""
    raise ConfigError(Problem(f"deploy.env_vars.{CUDA_VISIBLE_DEVICES}", what, f"Choose an idle device{lower}."))


def _free(device: Device) -> int:
    """Bytes that nobody holds there."""
    return max(1, device.total_bytes - held_bytes(device))
