"""An engine that runs: whose it is may change, until it is released."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.devices.placement import Placement
from evalscope_evalflow.engines import Address, Engine
from evalscope_evalflow.processes import ports
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.engine_identity import Identity
from evalscope_evalflow.serving.readiness import one_token
from evalscope_evalflow.serving.release import DeviceWatch, Release, prove

ANSWER_TIMEOUT_S = 20.0  # of an engine that is loaded and has nothing to do
HEALTH_TIMEOUT_S = 2.0


@dataclass(eq=False)
class Running:
    """An engine under its guard, with all that has to be given back at its end.

    Attributes:
        run_id: of the run that started it.
        engine: its kind.
        model: what it serves.
        deploy: how; devices and sizes as they were chosen.
        process: it.
        address: where it answers, and its key.
        argv: its command.
        placement: the choice of devices.
        lease: of its port.
        devices: who came to its devices since before its start.
        identity: what another start has to have in common with it, to be the same; None: it is not to be kept.
    """

    run_id: str
    engine: Engine
    model: ModelConfig
    deploy: DeployConfig
    process: SupervisedProcess
    address: Address
    argv: list[str]
    placement: Placement
    lease: ports.PortLease
    devices: DeviceWatch
    identity: Identity | None = None

    @property
    def name(self) -> str:
        """Engine and model, for messages."""
        return f"{self.engine.name} with {self.model.name}"

    def is_healthy(self) -> bool:
        """Whether its process lives, and says that it is well."""
        if self.process.exited.is_set():
            return False
        return http.request(f"{self.address.root}/health", timeout_s=HEALTH_TIMEOUT_S, direct=True).ok

    def answers(self) -> bool:
        """Whether it answers one token, soon."""
        reply = http.request(
            f"{self.address.root}/v1/chat/completions",
            api_key=self.address.api_key,
            body=one_token(self.model.name),
            timeout_s=ANSWER_TIMEOUT_S,
            direct=True,
        )
        return reply.ok

    def release(self) -> Release:
        """End it and everything it started; wait, for a bounded time, until nothing of it is left."""
        if not self.process.exited.is_set():
            self.devices.look()  # the last moment at which it can be told what is its own
        try:
            self.process.stop()
            return prove(self.process, self.deploy.host, self.address.port, self.devices)
        finally:
            self.lease.release()


def copy_log(source: Path, start: int, target: Path) -> None:
    """Append what a log has from a place on to another; all that it has, if it has been rotated since."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as said, target.open("ab") as file:
        said.seek(start if start <= source.stat().st_size else 0)
        shutil.copyfileobj(said, file)
