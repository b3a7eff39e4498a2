"""Which devices an engine gets, and how many of them share a replica of the model.

The rule: tensor parallelism over the smallest power of two of devices that divides the model and whose memory holds
the weights and the KV cache of one sequence. Devices that are left become replicas, while nobody waits for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from filelock import FileLock, Timeout

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig
from evalscope_evalflow.devices.nvml import (
    ALL,
    CUDA_VISIBLE_DEVICES,
    NO_DEVICE,
    Device,
    DriverError,
    split,
)
from evalscope_evalflow.devices.pool import ChosenBy, Pool, describe, find, in_blocks
from evalscope_evalflow.devices.shared_devices import beside_others, check_share
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.engines.checkpoints.memory import Demand, gib
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.processes import registry

CHOOSING_S = 30.0  # a start takes less than a second
CHOOSING_POLL_S = 0.01  # several models of a task begin at once
TENSOR = "deploy.tensor_parallel"
DEVICES = "deploy.devices"


@dataclass(frozen=True)
class Placement:
    """Where an engine runs.

    Attributes:
        devices: as CUDA_VISIBLE_DEVICES has them; None: nothing is said, and the engine sees what it finds.
        tensor_parallel: devices that share a replica.
        data_parallel: replicas.
        lines: the choice and its arithmetic, for people.
        facts: the same for the record; bytes are integers.
        doubts: what speaks against it, where the user has decided it all the same.
    """

    devices: str | None
    tensor_parallel: int = 1
    data_parallel: int = 1
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    def apply(self, deploy: DeployConfig) -> DeployConfig:
        """The settings with the choice in them."""
        chosen = {
            "devices": self.devices,
            "tensor_parallel": self.tensor_parallel,
            "data_parallel": self.data_parallel,
        }
        return deploy.model_copy(update=chosen)


def place(
    engine: Engine,
    model: ModelConfig,
    deploy: DeployConfig,
    *,
    waiting: int = 0,
    run_id: str = "",
    among: Collection[str] | None = None,
) -> Placement:
    """Choose devices, tensor and data parallelism; what is given as numbers is kept.

    Args:
        engine: what serves the model.
        model: it.
        deploy: how.
        waiting: models that wait for devices; then there is one replica.
        run_id: of the run that it is for; empty: nothing is started, and engines that are kept count as gone.
        among: names of devices, if it may have these alone.

    Raises:
        ConfigError: it fits nowhere, or there are too few devices.
    """
    if deploy.tensor_parallel == AUTO and engine.spreads == "heads" and "tensor_parallel" not in engine.honours:
        deploy = deploy.model_copy(update={"tensor_parallel": 1})
    if not engine.uses_devices(deploy):
        kept = None if CUDA_VISIBLE_DEVICES in deploy.env_vars else _kept(deploy)
        return _by_number(engine.demand(model, deploy), deploy, kept, len(split(kept or "")))
    try:
        pool = find(deploy, run_id)
    except DriverError as error:
        raise ConfigError(Problem(DEVICES, str(error), "See what nvidia-smi says.")) from None
    if among is not None:
        pool = dataclasses.replace(pool, devices={name: pool.devices[name] for name in pool.devices if name in among})
    if engine.spreads == "layers":
        return _layers(
            engine, model, deploy, pool if among is None else dataclasses.replace(pool, chosen_by=ChosenBy.EVALFLOW)
        )
    demand = engine.demand(model, deploy)
    unmeasured = len(pool.devices) - len(pool.measured)
    if not pool.known or (unmeasured and (pool.chosen_by is not ChosenBy.EVALFLOW or not pool.measured)):
        kept = None if pool.chosen_by is ChosenBy.ENV_VARS else _kept(deploy)
        return _by_number(demand, deploy, kept, len(pool.devices))
    if pool.chosen_by is ChosenBy.ENV_VARS:  # they need not be idle
        pool = beside_others(pool, demand.memory)
    return _Choice(engine, model, deploy, pool, demand, waiting).make()


@contextlib.contextmanager
def choosing() -> Iterator[None]:
    """While one run chooses and says what it took, no other run of this user chooses."""
    lock = None
    with contextlib.suppress(OSError, Timeout):  # then two may take the same, as with other users' programs
        lock = FileLock(registry.folder() / "placement.lock")
        lock.acquire(timeout=CHOOSING_S, poll_interval=CHOOSING_POLL_S)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _layers(engine: Engine, model: ModelConfig, deploy: DeployConfig, pool: Pool) -> Placement:
    """For an engine that shares out layers, and leaves to the CPU what has no room: as few idle devices as hold it."""
    if pool.chosen_by is ChosenBy.ENV_VARS:
        return Placement(None)
    if not pool.known:
        return Placement(_kept(deploy))
    if pool.chosen_by is ChosenBy.USER:
        return Placement(",".join(pool.devices))
    demand = engine.demand(model, deploy)
    devices = sorted(pool.measured.items(), key=lambda item: -item[1].total_bytes)
    need = demand.on_each(1)
    taken: list[str] = []
    room = 0
    for name, device in devices:
        if taken and room >= need.weight_bytes + need.kv_bytes:
            break
        taken.append(name)
        room += max(0, demand.memory.kv_room(device.total_bytes, 0))
    if not taken:
        return Placement(NO_DEVICE, lines=("no device is idle: on the CPU alone",))
    line = (
        f"devices {describe({name: device for name, device in devices if name in taken})}, if {engine.name} was built "
        f"for them: {demand.describe_weights()} + {gib(need.kv_bytes)} of KV cache, room for {gib(room)}; the rest is "
        "left to the CPU"
    )
    facts = {"devices": taken, "weight_bytes": need.weight_bytes, "kv_bytes": need.kv_bytes, "room_bytes": room}
    return Placement(",".join(taken), lines=(line,), facts=facts)


def _kept(deploy: DeployConfig) -> str | None:
    """`devices` as it goes to the engine where no driver can be asked."""
    return None if deploy.devices in (AUTO, ALL) else deploy.devices


def _by_number(demand: Demand, deploy: DeployConfig, devices: str | None, count: int) -> Placement:
    """Where nobody tells of memory: what is given, or all of `count` devices, as far as the model divides."""
    replicas = deploy.replicas
    if deploy.tensor_parallel != AUTO:
        tensor = deploy.tensor_parallel
    else:
        tensor = [size for size in _powers(max(1, count // replicas)) if not demand.shape.why_not(size)][-1]
    facts = {"tensor_parallel": tensor, "data_parallel": replicas}
    if tensor * replicas == 1:
        return Placement(devices, facts=facts)
    line = f"tensor_parallel {tensor}, data_parallel {replicas}; the memory of its devices is not known"
    return Placement(devices, tensor, replicas, (line,), facts)


def _powers(most: int) -> list[int]:
    """1, 2, 4, … up to `most`."""
    return [1 << exponent for exponent in range(max(1, most).bit_length())]


@dataclass
class _Choice:
    """One choice among devices whose memory is known."""

    engine: Engine
    model: ModelConfig
    deploy: DeployConfig
    pool: Pool
    demand: Demand
    waiting: int

    def make(self) -> Placement:
        """Choose.

        Raises:
            ConfigError: nothing fits.
        """
        if not self.pool.devices:
            raise ConfigError(self._too_few(1))
        given = self.deploy.tensor_parallel
        replicas = self.deploy.replicas
        wanted = _powers(len(self.pool.devices)) if given == AUTO else [given]
        reasons = {size: self.demand.shape.why_not(size) for size in wanted}
        sizes = [size for size in wanted if not reasons[size]]
        if not sizes:
            raise ConfigError(Problem(TENSOR, f"{self.model.name}: {reasons[wanted[0]]}", "Choose another, or auto."))
        rejected: list[str] = []
        for size in sizes:
            group = self._group(size, replicas)
            if group is None:
                continue
            if given != AUTO or self._fits(size, group):
                return self._placement(size, group, rejected)
            rejected.append(self._sum(size, group))
        world = self.demand.memory.pipeline
        smallest = sizes[0] * replicas * world
        if smallest > len(self.pool.devices):
            raise ConfigError(self._too_few(smallest))
        raise ConfigError(self._too_large(sizes, replicas))

    def _group(self, size: int, replicas: int) -> dict[str, Device] | None:
        """Devices of one kind that are enough, the largest kind first; else of all kinds; None if they are too few."""
        count = size * replicas * self.demand.memory.pipeline
        if self.pool.chosen_by is ChosenBy.ENV_VARS:  # the engine takes the first of these, whatever they are
            if len(self.pool.measured) < count:
                return None
            if self._fits(size, self.pool.measured):
                return self.pool.measured
            return dict(list(self.pool.measured.items())[:count])
        kinds: dict[tuple[str, int], dict[str, Device]] = {}
        for name, device in self.pool.measured.items():
            kinds.setdefault((device.name, device.total_bytes), {})[name] = device
        groups = sorted(kinds.values(), key=lambda group: -_least(group))
        enough = [group for group in groups if len(group) >= count and not (_is_mig(group) and count > 1)]
        fitting = [group for group in enough if self._fits(size, group)]
        everything = self.pool.measured
        if len(groups) > 1 and len(everything) >= count and not _is_mig(everything):
            enough.append(everything)
            fitting += [everything] if self._fits(size, everything) else []
        return next(iter(fitting or enough), None)

    def _fits(self, size: int, group: Mapping[str, Device]) -> bool:
        return self.demand.sequences(size, _least(group)) >= 1

    def _placement(self, size: int, group: dict[str, Device], rejected: list[str]) -> Placement:
        world = size * self.demand.memory.pipeline
        replicas, why = self._replicas(world, group)
        blocks = list(in_blocks(list(group), world, list(self.pool.everywhere)))[:replicas]
        names = [name for block in blocks for name in block]
        total = _least({name: group[name] for name in names})
        need = self.demand.on_each(size)
        sequences = self.demand.sequences(size, total)
        measured = {name: self.pool.measured[name] for name in names}
        for name, device in measured.items():
            if name in self.pool.others and not self.demand.memory.of_free:
                check_share(name, device, self.pool.others[name], self.demand.memory, self.engine.name)
        head = (
            f"devices {describe(measured)} of {len(self.pool.everywhere)} "
            f"{'here' if self.pool.chosen_by is ChosenBy.EVALFLOW else 'named'}: tensor_parallel {size}, "
            f"data_parallel {replicas}{why}"
        )
        if self.demand.weights is None:
            lines = [head, "how much memory it needs is not known: its files are not here to be measured"]
        else:
            lines = [head, self._sum(size, group)]
            lines += [f"not on fewer: {text}" for text in rejected[-1:]]
        doubts = []
        if sequences < 1:
            doubts.append(f"may not fit: {self._sum(size, group)}")
        if self.pool.chosen_by is ChosenBy.ENV_VARS:
            doubts += [f"device {name} {self.pool.others[name]}" for name in names if name in self.pool.others]
        if size & (size - 1):
            doubts.append(f"tensor_parallel {size} is no power of two, which engines are made for")
        facts = {
            "devices": names,
            "tensor_parallel": size,
            "data_parallel": replicas,
            "context_tokens": self.demand.tokens,
            "weight_bytes": self.demand.weight_bytes,
            "weight_bytes_per_device": need.weight_bytes,
            "kv_bytes_per_device": need.kv_bytes,
            "device_bytes": total,
            "lines": lines,
        }
        devices = None if self.pool.chosen_by is ChosenBy.ENV_VARS else ",".join(names)
        return Placement(devices, size, replicas, tuple(lines), facts, tuple(doubts))

    def _replicas(self, world: int, group: Mapping[str, Device]) -> tuple[int, str]:
        """How many, and, where there is room for more, why not more."""
        if self.deploy.data_parallel != AUTO:
            return self.deploy.data_parallel, ""
        most = 1 if _is_mig(group) else len(group) // world
        if most == 1:
            return 1, ""
        if self.waiting:
            return 1, f", as {self.waiting} more model{'s wait' if self.waiting > 1 else ' waits'} for devices"
        if self.engine.replicates == "none":
            return 1, f", as {self.engine.name} has no replicas behind one address"
        if self.engine.replicates == "dense" and self.demand.shape.experts:
            return 1, f", as {self.engine.name} would share its experts out over all replicas"
        if self.demand.weights is None:
            return 1, ", as its size is not known"
        return most, ""

    def _sum(self, size: int, group: Mapping[str, Device]) -> str:
        """The arithmetic of one device."""
        demand, total = self.demand, _least(group)
        need = demand.on_each(size)
        parts = size * demand.memory.pipeline
        weights = demand.describe_weights() if parts == 1 else (
            f"{gib(need.weight_bytes)} of {demand.describe_weights()}"
        )  # fmt: skip
        kv = f"{gib(need.kv_bytes)} of KV cache for {demand.tokens} tokens"
        if not need.kv_bytes:
            kv = "KV cache of unknown size"
        each = "the device" if parts == 1 else f"each of {parts} devices"
        return (
            f"{each} has to hold {weights} + {kv} = {gib(need.weight_bytes + need.kv_bytes)}, "
            f"of {demand.memory.describe(total)}{_times(demand.sequences(size, total))}"
        )

    def _too_few(self, count: int) -> Problem:
        """There are not as many devices as are needed."""
        here = len(self.pool.devices)
        if self.pool.chosen_by is not ChosenBy.EVALFLOW:
            product = (
                f"tensor_parallel {self.deploy.tensor_parallel} × data_parallel {self.deploy.data_parallel}"
                + (f" × {self.demand.memory.pipeline} stages" if self.demand.memory.pipeline > 1 else "")
            ).replace(" × data_parallel auto", "").replace("tensor_parallel auto × ", "")  # fmt: skip
            return Problem(
                TENSOR,
                f"{product} takes {count} devices, and `devices` has {here}",
                "Lower them, or name more devices.",
            )
        if here + len(self.pool.others) < count:
            what = (
                f"{count} devices are needed, and {CUDA_VISIBLE_DEVICES} or this machine has "
                f"{here + len(self.pool.others)}"
            )
            return Problem(TENSOR, what, "Lower tensor_parallel or data_parallel.")
        reasons = "; ".join(f"device {name} {why}" for name, why in self.pool.others.items())
        idle = ", ".join(self.pool.devices) or "none"
        return Problem(
            DEVICES,
            f"{count} idle device{'s are' if count > 1 else ' is'} needed, and idle here: {idle} ({reasons})",
            "Wait until they are free" + ("." if self.engine.needs_gpu else '; to run on CPUs, set devices: "".'),
        )

    def _too_large(self, sizes: list[int], replicas: int) -> Problem:
        """It does not fit, however it is split."""
        best: tuple[float, int, dict[str, Device]] | None = None
        for size in sizes:
            group = self._group(size, replicas)
            if group is not None:
                found = self.demand.sequences(size, _least(group))
                if best is None or found >= best[0]:
                    best = found, size, group
        if best is None:
            what = f"{sizes[0] * replicas} devices are needed, and instances of split GPUs (MIG) cannot work together"
            return Problem(TENSOR, what, "Set tensor_parallel and data_parallel to 1, or leave them out.")
        _, size, group = best
        tokens = self.demand.tokens_that_fit(size, _least(group))
        todo = f"Lower max_model_len to {tokens} (--eval_max_model_length). " if tokens else ""
        if self.pool.others:
            todo += "Not idle: " + "; ".join(f"device {name} {why}" for name, why in self.pool.others.items()) + ". "
        if not tokens:
            todo += "Use more or larger devices, or a quantised checkpoint. "
        blocked = [why for count in _powers(len(self.pool.devices)) if (why := self.demand.shape.why_not(count))]
        todo += f"({blocked[0]}.) " if blocked else ""
        todo += "If you know better, set tensor_parallel."
        return Problem(TENSOR, f"{self.model.name} does not fit: {self._sum(size, group)}", todo)


def _times(sequences: float) -> str:
    """How many sequences have room, in words."""
    if sequences < 1:
        return ": too little"
    if sequences == float("inf"):
        return ""
    return f": room for {sequences:.1f} such sequences" if sequences < 1000 else ": room for over 1000 such sequences"


def _least(group: Mapping[str, Device]) -> int:
    """Memory of the smallest device."""
    return min(device.total_bytes for device in group.values())


def _is_mig(group: Mapping[str, Device]) -> bool:
    """Whether instances of split GPUs are among them: a process of CUDA sees one of these and no more."""
    return any(device.uuid.startswith("MIG-") for device in group.values())
