"""Prepares the server of an engine (its devices, its port, its command), and waits until it can be used."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.config.loopback import no_proxy_variables
from evalscope_evalflow.config.secret_names import is_secret_name
from evalscope_evalflow.devices.nvml import CUDA_VISIBLE_DEVICES, split
from evalscope_evalflow.devices.placement import place
from evalscope_evalflow.engines import Address, Engine, command_of
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.processes import ports
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving.engine_caches import cache_variables
from evalscope_evalflow.serving.engine_failure import RetryableStartError
from evalscope_evalflow.serving.engine_identity import FAMILY, Identity
from evalscope_evalflow.serving.engine_use import Request
from evalscope_evalflow.serving.readiness import Readiness
from evalscope_evalflow.serving.release import DeviceWatch
from evalscope_evalflow.serving.server import Launch, Server
from evalscope_evalflow.serving.standby_engine import GRACE_S, EngineCommand
from evalscope_evalflow.serving.weight_swap import digest, new_control_key


def prepare_server(
    engine: Engine,
    model: ModelConfig,
    deploy: DeployConfig,
    request: Request,
    identity: Identity | None,
    entry: Registration,
    on_exit: Callable[[], None],
) -> Server:
    """Choose devices and a port, and make the command; the process is not started.

    Args:
        engine: what serves the model.
        model: what is served.
        deploy: how.
        request: who wants it.
        identity: what makes another engine the same; None: it is not to be kept.
        entry: where the command is registered.
        on_exit: is called, in a thread, when its processes are gone.

    Raises:
        ConfigError: it fits on no devices, or cannot listen at its address.
    """
    placement = place(engine, model, deploy, waiting=request.waiting, run_id=request.run_id)
    asked, deploy = deploy, placement.apply(deploy)
    try:
        port = ports.lease(deploy.host, deploy.port)
    except OSError as error:
        raise ConfigError(Problem("deploy.port", str(error), "Choose another port, or leave it out.")) from error
    try:
        control_key = new_control_key() if _may_swap(engine, deploy, request, identity) else ""
        control = digest(control_key) if control_key else ""
        address = Address(deploy.host, port.port, request.api_key, control)
        env = Environment.find(deploy.env)
        command = command_of(engine, model, deploy, address, env)
        values = {name: reveal(value, name) or "" for name, value in deploy.env_vars.items()}
        secret = (*command.secrets, *filter(is_secret_name, values))
        limits = _device_variables(deploy)
        public = {**limits, **command.env, **deploy.env_vars}  # as written: a reference may be to a key
        shown = [f"{name}={shlex.quote(public[name])}" for name in public if name not in secret]
        variables = {**env.variables(os.environ), **limits, **command.env, **values}
        launch = Launch(request.run_id, env.wrap(command.argv), shown, placement, identity)
        request.log.parent.mkdir(parents=True, exist_ok=True)
        # Ours come last: a process whose first variable is set anew cannot change its title, as vLLM's do.
        variables = {**variables, **cache_variables(variables), **no_proxy_variables(variables)}
        # Whoever came to the devices since before its start: a process that stands by begins when it is taken.
        devices = DeviceWatch(_watched_devices(deploy))
        found = EngineCommand(command.argv, variables, frozenset(command.env), secret)
        process, stood_by_s = _stood_by(engine, env, found, request, entry, on_exit)
        process = process or SupervisedProcess(
            launch.argv,
            env=variables,
            log=request.log,
            run_id=f"{request.run_id}-engine",
            secrets=secret,
            grace_s=GRACE_S,
            on_exit=on_exit,
            entry=entry,
            role="engine",
        )
        return Server(engine, model, deploy, address, launch, process, port, devices, asked, control_key, stood_by_s)
    except BaseException:
        port.release()
        raise


def _stood_by(
    engine: Engine,
    env: Environment,
    command: EngineCommand,
    request: Request,
    entry: Registration,
    on_exit: Callable[[], None],
) -> tuple[SupervisedProcess | None, float | None]:
    """A process that stood by and becomes this engine now, and for how many seconds it did; None: there is none."""
    standby = request.standby()
    if standby is None:
        return None, None
    process = standby.take(engine, env, command, log=request.log, entry=entry, on_exit=on_exit)
    if process is None:
        standby.end()
        return None, None
    return process, round(time.monotonic() - standby.began, 3)


def _may_swap(engine: Engine, deploy: DeployConfig, request: Request, identity: Identity | None) -> bool:
    """Whether its weights may be replaced one day: else it gets no control at all."""
    wanted = request.swaps or deploy.keep_alive_s > 0
    return bool(wanted and identity and FAMILY in identity and request.api_key and not engine.why_no_swap(deploy))


def wait_until_usable(server: Server, stall_timeout_s: float, log: Callable[[str], None] | None = None) -> None:
    """Wait until a server is ready, or has exited (`process.exited` tells which).

    Args:
        server: the server; its process was started.
        stall_timeout_s: seconds without progress after which it is given up.
        log: given for a server that was kept: it only has to answer, and this is called with a line if it does not.

    Raises:
        RetryableStartError: a server that was kept does not answer; a new one has to be started.
        EngineError: it makes no progress, or serves something else.
    """
    if log is None:
        health = server.engine.health_path
        Readiness(server.process, server.address, server.model.name, stall_timeout_s, health).wait()
    elif not server.answers():  # which takes a moment; meanwhile others begin, as when it loads
        if server.process.stop_requested:  # nobody wants it any more
            server.process.exited.wait()
            return
        text = f"the {server.name} that was kept does not answer any more; a new one is started"
        log(text)
        raise RetryableStartError(text)


def _device_variables(deploy: DeployConfig) -> dict[str, str]:
    """Variables that limit the engine to its devices."""
    if deploy.devices is None:
        return {}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", CUDA_VISIBLE_DEVICES: deploy.devices}


def _watched_devices(deploy: DeployConfig) -> tuple[str, ...] | None:
    """The devices to watch: those of `devices`, unless the user's own variables say something else; None: all."""
    return None if deploy.devices is None or CUDA_VISIBLE_DEVICES in deploy.env_vars else split(deploy.devices)
