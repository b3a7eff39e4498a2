"""GPUs as NVIDIA's driver sees them (NVML): which there are, and whose processes hold memory on them.

Where there is no driver of NVIDIA, there is nothing to be said, and nothing is imported: pynvml costs 80 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, TypeAlias

import psutil

from evalscope_evalflow.engines.checkpoints.memory import GIB
from evalscope_evalflow.errors import EvalFlowError, Problem

LIBRARY = "libnvidia-ml.so.1"
CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
ALL = "all"  # in `deploy.devices`: every device of the machine
NO_DEVICE = "-1"  # in CUDA_VISIBLE_DEVICES: run on the CPU
# What others may hold of an idle device: a desktop's screen, or the context of an idle program. vLLM takes 90 %.
IDLE_BYTES, IDLE_SHARE = GIB, 0.05


class DriverError(EvalFlowError):
    """There is a driver, but it does not answer."""


@dataclass(frozen=True)
class DeviceProcess:
    """A process that the driver lists.

    Attributes:
        pid: as the driver counts; in a container that may be the host's number.
        used_bytes: memory that it holds; None where the driver does not say.
        screen: whether it only draws on a screen.
    """

    pid: int
    used_bytes: int | None
    screen: bool = False


@dataclass(frozen=True)
class Device:
    """A GPU, or an instance of one that is split by MIG.

    Attributes:
        index: in the order of the PCI bus; of a MIG instance, its GPU's.
        uuid: such as `GPU-…` or `MIG-…`.
        name: of the product.
        total_bytes: of memory; 0 where the driver does not say.
        used_bytes: of memory, by whomever, without what the driver reserves for itself.
        processes: all that hold memory, be it for computing, for graphics or through MPS.
        trouble: why the driver did not tell all of this; empty if it did.
    """

    index: int
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    processes: tuple[DeviceProcess, ...]
    trouble: str = ""


_Answer: TypeAlias = tuple[dict[str, Device], ...] | None  # one for each list that was asked for; None: no driver
_LOOK: ContextVar[dict[tuple[tuple[str, ...] | None, ...], _Answer] | None] = ContextVar("look", default=None)


def devices() -> list[Device]:
    """Every GPU of this machine, or its instances where MIG splits it; none where no driver of NVIDIA answers."""
    with contextlib.suppress(DriverError):
        return list(read(None).values())
    return []


def read(names: Sequence[str] | None) -> dict[str, Device]:
    """Devices by the names that CUDA_VISIBLE_DEVICES has for them; those that do not exist are left out.

    Args:
        names: indices, or (the beginnings of) UUIDs; None: every GPU, by its index, and of one that is split by MIG
            every instance, by its UUID.

    Raises:
        DriverError: there is a driver, but it does not answer.
    """
    found = _ask(names)
    return {} if found is None else found[0]


@contextlib.contextmanager
def cached_reads() -> Iterator[None]:
    """In this block the driver is asked the same thing once, by this thread.

    For a pass over many models that starts nothing: each time, bringing the driver up takes from some ms to a second.
    """
    outer = _LOOK.get()
    token = _LOOK.set({} if outer is None else outer)
    try:
        yield
    finally:
        _LOOK.reset(token)


def _ask(*lists: Sequence[str] | None) -> _Answer:
    """Devices by each of these lists of names; None where there is no driver."""
    wanted = tuple(None if names is None else tuple(names) for names in lists)
    look = _LOOK.get()
    if look is not None and wanted in look:
        return look[wanted]
    with driver() as nvml:  # once: without persistence mode it takes the driver a second to come up
        found = None if nvml is None else tuple(_read(nvml, names) for names in wanted)
    if look is not None:
        look[wanted] = found
    return found


def _read(nvml: Any, names: Sequence[str] | None) -> dict[str, Device]:
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        raise DriverError(f"NVIDIA's driver does not answer: {error}") from error
    wanted = list(_all_names(nvml, count)) if names is None else names
    found = {name: _find(nvml, name, count) for name in wanted}
    return {name: device for name, device in found.items() if device is not None}


@contextlib.contextmanager
def driver() -> Iterator[Any]:
    """The module pynvml, ready for use; None where there is no driver.

    Raises:
        DriverError: there is one, but it does not answer.
    """
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        yield None
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:  # a CUDA image on a machine that has no GPU
            yield None
            return
        raise DriverError(f"NVIDIA's driver does not answer: {error}") from error
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _all_names(nvml: Any, count: int) -> Iterator[str]:
    """Names of all there is."""
    for index in range(count):
        instances: list[str] = []
        with contextlib.suppress(nvml.NVMLError):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            instances = [nvml.nvmlDeviceGetUUID(handle) for handle in _instances(nvml, gpu)]
        yield from instances or [str(index)]


def _find(nvml: Any, name: str, count: int) -> Device | None:
    """A device by its name."""
    try:
        found = handle_of(nvml, name, count)
    except nvml.NVMLError as error:
        return Device(int(name), "", "", 0, 0, (), str(error))
    return None if found is None else _describe(nvml, *found)


def handle_of(nvml: Any, name: str, count: int) -> tuple[int, Any] | None:
    """Index and handle of a device, of `count`, by its name; None: there is none.

    Raises:
        NVMLError: it has fallen off the bus.
    """
    if name.isdecimal():
        if int(name) >= count:
            return None
        handle = nvml.nvmlDeviceGetHandleByIndex(int(name))
        return int(name), next(_instances(nvml, handle), handle)  # CUDA takes the first instance
    for index in range(count) if name.startswith(("GPU-", "MIG-")) else ():
        with contextlib.suppress(nvml.NVMLError):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            for handle in (gpu, *_instances(nvml, gpu)):
                if nvml.nvmlDeviceGetUUID(handle).startswith(name):
                    return index, handle
    return None


def _instances(nvml: Any, gpu: Any) -> Iterator[Any]:
    """Handles of the instances of a GPU that is split by MIG."""
    try:
        if nvml.nvmlDeviceGetMigMode(gpu)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)
    except nvml.NVMLError:  # it is of a kind that cannot be split
        return
    for number in range(count):
        with contextlib.suppress(nvml.NVMLError):  # there need not be as many
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)


def _describe(nvml: Any, index: int, handle: Any) -> Device:
    """What the driver says of a device."""
    device = Device(index, "", "", 0, 0, ())
    try:
        device = replace(device, uuid=nvml.nvmlDeviceGetUUID(handle), name=nvml.nvmlDeviceGetName(handle))
        with contextlib.suppress(nvml.NVMLError_NotSupported):  # memory that it shares with the CPU
            total, used = _memory(nvml, handle)
            device = replace(device, total_bytes=total, used_bytes=used)
        return replace(device, processes=_processes(nvml, handle))
    except nvml.NVMLError as error:
        return replace(device, trouble=str(error))


def _too_old(nvml: Any) -> type[Exception]:
    """What is raised where the driver does not have a function; nvidia-ml-py did not always have its own class."""
    found: type[Exception] = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError_FunctionNotFound)
    return found


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """(total, used) bytes."""
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_ArgumentVersionMismatch):
        info = nvml.nvmlDeviceGetMemoryInfo(handle)  # drivers before 510 count what they reserve as used
    return info.total, info.used


def _processes(nvml: Any, handle: Any) -> tuple[DeviceProcess, ...]:
    """The union of the three lists; one that is in several has the largest of its amounts."""
    silent = (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission, _too_old(nvml))
    computing, drawing = [], []
    with contextlib.suppress(*silent):  # vGPU, WSL, old drivers: memory readings are all there is
        computing += nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    with contextlib.suppress(nvml.NVMLError, _too_old(nvml)):  # not every device has these two
        computing += nvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)
    with contextlib.suppress(nvml.NVMLError, _too_old(nvml)):
        drawing += nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    used: dict[int, int | None] = {}
    for item in (*computing, *drawing):
        amounts = [amount for amount in (used.get(item.pid), item.usedGpuMemory) if amount is not None]
        used[item.pid] = max(amounts, default=None)
    compute = {item.pid for item in computing}
    return tuple(DeviceProcess(pid, amount, pid not in compute) for pid, amount in sorted(used.items()))


def split(text: str) -> tuple[str, ...]:
    """The names in a list as CUDA_VISIBLE_DEVICES has it."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def driver_versions() -> dict[str, str]:
    """Versions of NVIDIA's driver, as `driver`, and of the newest CUDA it runs, as `driver_cuda`."""
    found: dict[str, str] = {}
    with contextlib.suppress(DriverError), driver() as nvml:
        if nvml is None:
            return found
        with contextlib.suppress(nvml.NVMLError, _too_old(nvml)):
            found["driver"] = nvml.nvmlSystemGetDriverVersion()
        with contextlib.suppress(nvml.NVMLError, _too_old(nvml)):
            number = nvml.nvmlSystemGetCudaDriverVersion_v2()
            found["driver_cuda"] = f"{number // 1000}.{number % 1000 // 10}"
    return found


def check_devices(
    text: str | None,
    env_vars: Mapping[str, str],
    *,
    idle: bool = True,
    going: Container[str] = (),
    needs_gpu: bool = False,
) -> Iterator[Problem]:
    """What is wrong with `deploy.devices`.

    Nothing, where the driver of NVIDIA is not there to ask: the list goes to the engine as it is, and means nothing
    to one that runs on CPUs, and the same to one on AMD's GPUs. Nothing either where `env_vars` say which devices
    are used.

    Args:
        text: the list, such as "0,1".
        env_vars: `deploy.env_vars`.
        idle: whether the devices must be idle too.
        going: names or UUIDs of those that will be, whoever uses them now.
        needs_gpu: whether the engine cannot do without any.
    """
    where = "deploy.devices"
    names = split(text or "")
    if not names or names == (NO_DEVICE,) or CUDA_VISIBLE_DEVICES in env_vars:
        return
    try:
        answer = _ask(None, names)
    except DriverError as error:
        yield Problem(
            where, str(error), "See what nvidia-smi says; after an update of the driver, restart the machine."
        )
        return
    if answer is None:
        return
    known, found = answer
    without = ": see what nvidia-smi says" if needs_gpu else ": leave it out to run on CPUs"
    here = "; ".join(f"{name}: {title(device)}" for name, device in known.items())
    for name in dict.fromkeys(names):
        if names.count(name) > 1 and name in found:
            yield Problem(where, f"device {name} is named {names.count(name)} times", "Name it once.")
        if name.startswith("MIG-GPU-") and name not in found:
            continue  # the older kind of name, which only CUDA understands
        if name not in found:
            yield Problem(
                where,
                f"there is no device {name}",
                f"Here are {here}." if known else f"The driver knows none at all{without}.",
            )
        elif found[name].trouble:
            yield Problem(where, f"device {name} does not answer: {found[name].trouble}", "See what nvidia-smi says.")
        elif idle and is_busy(found[name]) and name not in going and found[name].uuid not in going:
            free = [other for other, device in known.items() if not device.trouble and not is_busy(device)]
            yield Problem(
                where,
                f"device {name} ({title(found[name])}) is in use: {holders(found[name])}",
                (f"Idle here: {', '.join(free)}. " if free else "No device is idle. ")
                + f"To share it all the same, leave `devices` out and set {CUDA_VISIBLE_DEVICES} in `env_vars`.",
            )


def is_busy(device: Device) -> bool:
    """Whether so much of its memory is held that an engine, which takes nearly all of it, would not start."""
    limit = max(IDLE_BYTES, device.total_bytes * IDLE_SHARE)
    if not device.total_bytes and None in [process.used_bytes for process in device.processes]:
        return True
    return held_bytes(device) > limit


def held_bytes(device: Device) -> int:
    """How much of its memory is held; what processes hold may be more than what the driver has added up."""
    return max(device.used_bytes, sum(process.used_bytes or 0 for process in device.processes))


def is_idle(device: Device) -> bool:
    """Whether nobody holds memory there, but for what draws the screen."""
    return not device.trouble and not is_busy(device) and all(process.screen for process in device.processes)


def title(device: Device) -> str:
    return device.name + (f", {device.total_bytes / GIB:.0f} GiB" if device.total_bytes else "")


def holders(device: Device) -> str:
    """Who holds how much."""
    if not device.processes:
        return f"{device.used_bytes / GIB:.1f} GiB, by processes that cannot be seen from here"
    return ", ".join(
        f"PID {process.pid} ({describe_process(process.pid)}"
        + ("" if process.used_bytes is None else f", {process.used_bytes / GIB:.1f} GiB")
        + ")"
        for process in device.processes
    )


def describe_process(pid: int) -> str:
    """Whose process it is, and what it runs. Its arguments are not shown: there may be keys among them."""
    if pid == os.getpid():
        return "this process"
    try:
        process = psutil.Process(pid)
        user, command = process.username(), process.name()
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words:
                command = PurePath(words[0]).name or command
            if command.startswith("python") and words[1:2] == ["-m"] and len(words) > 2:
                command += f" -m {words[2]}"
            elif command.startswith("python") and len(words) > 1 and not words[1].startswith("-"):
                command += f" {PurePath(words[1]).name}"
    except psutil.Error:
        return "cannot be seen from here"
    return f"{user}, {command}"
