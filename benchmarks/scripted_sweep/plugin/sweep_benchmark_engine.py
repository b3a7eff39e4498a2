"""The scripted engine, as a package of its own that is found by its entry point: this folder goes on PYTHONPATH."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import Address, Command, Engine
from evalscope_evalflow.errors import Problem

SERVER = Path(__file__).parents[1] / "server.py"


class Timed(Engine):
    """A server that is ready when the benchmark's script says so."""

    name = "timed"
    honours = frozenset({"devices", "tensor_parallel", "data_parallel"})  # names of slots

    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        return ()

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        return Command([str(env.python), "-IS", str(SERVER), address.host, str(address.port), model.name])
