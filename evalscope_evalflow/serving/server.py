"""The server of an engine: its process, and all that has to be given back at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.devices.placement import Placement
from evalscope_evalflow.engines import Address, Engine
from evalscope_evalflow.processes import ports
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.engine_identity import Identity
from evalscope_evalflow.serving.readiness import MODELS_PATH, one_token
from evalscope_evalflow.serving.release import DeviceWatch, Release, prove

ANSWER_TIMEOUT_S = 20.0  # of an engine that is loaded and has nothing to do
HEALTH_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Launch:
    """How a server was started.

    Attributes:
        run_id: the run that started it.
        argv: its command.
        variables: `NAME=value` of its environment that may be shown, quoted for a shell.
        placement: its devices.
        identity: what another engine must have in common with it to be the same; None: it is not to be kept.
    """

    run_id: str
    argv: list[str]
    variables: list[str]
    placement: Placement
    identity: Identity | None = None


@dataclass(eq=False)
class Server:
    """An engine's process, with its port and its devices.

    Attributes:
        engine: its kind.
        model: what it serves.
        deploy: its settings; devices and sizes as they were chosen.
        address: where it answers, and its key.
        launch: how it was started.
        process: the process, under its guard.
        port: the lease of its port.
        devices: who came to its devices since before its start.
        asked: its settings as they were asked for.
        control_key: opens its control, so that its weights can be replaced; empty: they cannot.
        stood_by_s: seconds for which its process had stood by, which runs already; None: it has to be started.
        released: what was left of it at its end; None: it was not released yet.
    """

    engine: Engine
    model: ModelConfig
    deploy: DeployConfig
    address: Address
    launch: Launch
    process: SupervisedProcess
    port: ports.PortLease
    devices: DeviceWatch
    asked: DeployConfig
    control_key: str = field(default="", repr=False)
    stood_by_s: float | None = None
    released: Release | None = None

    @property
    def name(self) -> str:
        """Engine and model, for messages."""
        return f"{self.engine.name} with {self.model.name}"

    @property
    def api_url(self) -> str:
        """Base URL of its API."""
        return f"{self.address.root}/v1"

    def begin(self) -> None:
        """Start its process, unless that runs already."""
        if self.stood_by_s is None:
            self.process.start()

    def is_healthy(self) -> bool:
        """Whether its process lives, and says that it is well."""
        if self.process.exited.is_set():
            return False
        url = f"{self.address.root}{self.engine.health_path or MODELS_PATH}"
        return http.request(url, api_key=self.address.api_key, timeout_s=HEALTH_TIMEOUT_S, direct=True).ok

    def answers(self) -> bool:
        """Whether it answers a request of one token within seconds."""
        reply = http.request(
            f"{self.api_url}/chat/completions",
            api_key=self.address.api_key,
            body=one_token(self.model.name),
            timeout_s=ANSWER_TIMEOUT_S,
            direct=True,
        )
        return reply.ok

    def release(self) -> Release:
        """End it and everything it started; wait, for a bounded time, until nothing of it is left."""
        if self.released is not None:
            return self.released
        if not self.process.exited.is_set():
            self.devices.poll()  # the last moment at which it can be seen which processes are its own
        try:
            self.process.stop()
            self.released = prove(self.process, self.deploy.host, self.address.port, self.devices)
            return self.released
        finally:
            self.port.release()
