"""How many devices a job needs of those that an executor offers, by the checkpoint's arithmetic.

Nothing here looks at the devices of the machine that it runs on: a job may be submitted where there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig
from evalscope_evalflow.devices.nvml import split
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.engines.checkpoints.memory import Demand, gib
from evalscope_evalflow.errors import ConfigError, Problem


@dataclass(frozen=True)
class Offer:
    """Devices that an executor can give one job, all on one machine.

    Attributes:
        devices: how many.
        device_bytes: memory of each; None: not known, so that any number that the model can be split over will do.
    """

    devices: int
    device_bytes: int | None = None


def devices_needed(model: ModelConfig, deploy: DeployConfig, offer: Offer) -> int:
    """The least number of devices that serve a model; 0 for an API, and for an engine that uses none.

    Tensor parallelism is over a power of two of devices that divides the model, as in devices/placement.py. Numbers
    that the user gave are kept.

    Args:
        model: the model.
        deploy: how it is served.
        offer: what it can be given.

    Raises:
        ConfigError: it does not fit what is offered, or needs more devices.
    """
    engine = resolve_engine(model, deploy)
    if not engine.local or deploy.devices == "" or not engine.uses_devices(deploy):
        return 0
    demand = engine.demand(model, deploy)
    if engine.spreads == "layers":
        return _for_layers(demand, offer)
    replicas = 1 if deploy.data_parallel == AUTO else deploy.data_parallel
    if deploy.tensor_parallel != AUTO:
        return _within(offer, deploy.tensor_parallel * replicas * demand.memory.pipeline, model)
    if offer.device_bytes is None:
        named = () if deploy.devices in (AUTO, "all") else split(deploy.devices or "")
        return _within(offer, max(len(named), replicas * demand.memory.pipeline), model)
    for size in _splits(demand, offer.devices):
        if demand.sequences(size, offer.device_bytes) >= 1:
            return _within(offer, size * replicas * demand.memory.pipeline, model)
    sizes = list(_splits(demand, offer.devices))
    what = f"{model.name} does not fit on {_devices(offer.devices)} of {gib(offer.device_bytes)}"
    what += _sum(demand, sizes[-1]) if sizes else ""
    todo = "Lower max_model_len, or use more or larger devices. If you know better, set tensor_parallel."
    raise ConfigError(Problem("deploy.tensor_parallel", what, todo))


def _for_layers(demand: Demand, offer: Offer) -> int:
    """For an engine that gives each device some layers, and leaves to the CPU what has no room."""
    if not offer.devices or offer.device_bytes is None:
        return min(1, offer.devices)
    need = demand.on_each(1)
    room = max(1, demand.memory.kv_room(offer.device_bytes, 0))
    return max(1, min(offer.devices, -(-(need.weight_bytes + need.kv_bytes) // room)))


def _splits(demand: Demand, devices: int) -> Iterator[int]:
    """1, 2, 4, … devices, as far as they are there and the model can be split over so many."""
    size = 1
    while size <= devices:
        if not demand.shape.why_not(size):
            yield size
        size *= 2


def _within(offer: Offer, count: int, model: ModelConfig) -> int:
    """This number of devices.

    Raises:
        ConfigError: so many are not offered.
    """
    if count > offer.devices:
        be = "is" if offer.devices == 1 else "are"
        what = f"{model.name} needs {_devices(count)}, and {offer.devices} {be} offered to one job"
        todo = "Lower tensor_parallel or data_parallel, or use nodes with more devices."
        raise ConfigError(Problem("deploy.tensor_parallel", what, todo))
    return count


def _devices(count: int) -> str:
    return f"{count} device{'' if count == 1 else 's'}"


def _sum(demand: Demand, size: int) -> str:
    """What each of the most devices that a model can be split over would have to hold."""
    need = demand.on_each(size)
    kv = f"{gib(need.kv_bytes)} of KV cache for {demand.tokens} tokens"
    whose = "it" if size == 1 else f"each of {size}"
    return f": {whose} would have to hold {gib(need.weight_bytes)} of weights and {kv}"
