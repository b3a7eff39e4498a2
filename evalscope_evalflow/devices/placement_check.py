"""Checks the devices of a model before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig
from evalscope_evalflow.devices.nvml import ALL, DriverError, check_devices
from evalscope_evalflow.devices.placement import TENSOR, place
from evalscope_evalflow.devices.pool import find, no_accelerator
from evalscope_evalflow.devices.yielding import yielding_devices
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.errors import ConfigError, Problem


def check_placement(
    engine: Engine, model: ModelConfig, deploy: DeployConfig, warn: Callable[[str], None], waiting: int = 0
) -> Iterator[Problem]:
    """What is wrong with the devices of a model, whoever chooses them; `warn` is called with each doubt."""
    idle = engine.needs_idle_devices and engine.uses_devices(deploy)
    needs_gpu = engine.needs_gpu and engine.uses_devices(deploy)
    going = yielding_devices()
    problems = list(check_devices(_names(deploy), deploy.env_vars, idle=idle, going=going, needs_gpu=needs_gpu))
    if deploy.tensor_parallel != AUTO and engine.spreads == "heads":
        why = engine.demand(model, deploy).shape.why_not(deploy.tensor_parallel)
        if why:
            problems.append(Problem(TENSOR, f"{model.name}: {why}", "Choose another, or auto."))
    yield from problems
    if problems:
        return
    try:
        placement = place(engine, model, deploy, waiting=waiting)
    except ConfigError as error:
        yield from error.problems
        return
    for doubt in placement.doubts:
        warn(f"{model.name}: {doubt}")
    if idle and engine.needs_gpu and no_accelerator():
        warn(
            f"{model.name}: {engine.name} needs a GPU, and this machine shows none of any maker: it will probably stop "
            "at its start. llamacpp and vLLM's CPU build need none."
        )


def _names(deploy: DeployConfig) -> str | None:
    """The devices whose existence and idleness the user is answered for."""
    if deploy.devices == AUTO:
        return None
    if deploy.devices != ALL:
        return deploy.devices
    try:
        return ",".join(find(deploy).devices)
    except DriverError:
        return "0"  # of which the check says that it does not answer
