"""A model, deployed: started, ready, released."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import NO_KEY, is_secret_name, reveal
from evalscope_evalflow.devices.nvml import CUDA_VISIBLE_DEVICES, split
from evalscope_evalflow.devices.placement import Placement, choosing, place
from evalscope_evalflow.engines import Address, Engine, command_of
from evalscope_evalflow.errors import ConfigError, EngineError, EvalFlowError, Problem, Stopped
from evalscope_evalflow.processes import cleanup, ports
from evalscope_evalflow.processes.exit_reason import Exit
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.diagnosis import diagnose_process
from evalscope_evalflow.serving.endpoint import Endpoint
from evalscope_evalflow.serving.engine_identity import Identity, identity
from evalscope_evalflow.serving.health import Hang, Symptom, Unhealthy
from evalscope_evalflow.serving.readiness import Readiness
from evalscope_evalflow.serving.release import DeviceWatch, Release
from evalscope_evalflow.serving.running import Running, copy_log
from evalscope_evalflow.serving.warm_pool import STORE

if TYPE_CHECKING:
    from collections.abc import Callable

START_ATTEMPTS = 3
DEATH_SEEN_S = 0.5  # an engine's death is known here within a tenth of a second


class RetryableStartError(EngineError):
    """A start that may succeed a moment later, such as after somebody took the port just before it was bound."""


class Deployment:
    """One engine serving one model, from start to proven release.

    Attributes:
        process: the engine under its guard; None for an API that runs elsewhere, or before the start.
        load_s: how long loading took, in seconds, once it is ready.
        reused: the run that started it, where it was kept since (`deploy.keep_alive_s`); None: it is newly started.
        notes: what the user should know of engines that were kept.
        placement: the devices that were chosen at the last start; None before that.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModelConfig,
        deploy: DeployConfig,
        *,
        log: Path,
        run_id: str,
        on_exit: Callable[[], None] | None = None,
        entry: Registration | None = None,
        waiting: int = 0,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            engine: what serves it.
            model: what is served.
            deploy: how.
            log: file that the engine's output is appended to.
            run_id: identifies every process of the run.
            on_exit: is called, in a thread, when the engine's processes are gone, for whatever reason.
            entry: the run's, as `evalflow ps` shows it; default: one of its own.
            waiting: models that wait for devices.
        """
        self.engine, self.model, self.deploy, self.log, self.run_id = engine, model, deploy, log, run_id
        self.process: SupervisedProcess | None = None
        self.argv: list[str] = []
        self._variables: list[str] = []  # those of the command that may be shown, as a shell takes them
        self.load_s: float | None = None
        self.reused: str | None = None
        self.notes: list[str] = []
        self.placement: Placement | None = None
        self._waiting = waiting
        self._on_exit = on_exit
        self._given_entry = self._entry = entry
        self._started = 0.0
        self._own_log = log
        self._lock = threading.Lock()
        self._watched = self._told = False
        self._lease: ports.PortLease | None = None
        self._endpoint: Endpoint | None = None
        self._running: Running | None = None
        self._identity: Identity | None = None
        self._released = Release()
        key = reveal(model.api_key if not engine.local else deploy.api_key, "api_key")
        # Every local server asks for a key: on a shared machine, loopback is open to all its users.
        self._key = key or (f"ef-{secrets.token_urlsafe(24)}" if engine.local else None)

    @property
    def api_key(self) -> str:
        """The key of the endpoint to be; known before it is up."""
        return self._key or NO_KEY

    @property
    def placement_facts(self) -> dict[str, Any]:
        """The devices and sizes that were chosen, with the arithmetic; empty where nothing is deployed here."""
        return dict(self.placement.facts) if self.placement is not None else {}

    @property
    def is_ready(self) -> bool:
        """Whether it has become ready, and has not been released or kept since."""
        return self._endpoint is not None

    def start(self) -> None:
        """Start the engine, or take the same one if it was kept, and return at once. Nothing to do where it runs
        elsewhere."""
        if not self.engine.local:
            assert self.model.api_url is not None
            self._endpoint = Endpoint(http.api_base(self.model.api_url), self.model.name, self.api_key)
            if self._entry is not None:
                self._entry.set(api_url=http.public(self._endpoint.api_url))
            return
        if self._given_entry is None:
            with contextlib.suppress(OSError):
                cleanup.clean()  # what died without a guard may hold the devices
            self._entry = Registration(self.run_id, one_command=True, model=self.model.name, engine=self.engine.name)
        assert self._entry is not None
        if self.deploy.keep_alive_s or STORE.engines():
            self._identity = identity(self.engine, self.model, self.deploy)
            kept = STORE.take(self._identity, self._entry, self._exited, self.notes.append)
            if kept is not None:
                self._adopt(kept)
                return
            STORE.make_room(self.engine, self.deploy, self._identity, self.notes.append)
        with choosing():  # until our command is written down, and with it what we have taken
            self._start()

    def _adopt(self, kept: Running) -> None:
        """Go on with an engine that is ready already."""
        assert self._entry is not None
        self._running, self.process, self.argv = kept, kept.process, kept.argv
        self.placement, self.reused = kept.placement, kept.run_id
        self._address, self._key = kept.address, kept.address.api_key
        self._entry.set(api_url=f"{kept.address.root}/v1", port=kept.address.port, devices=kept.deploy.devices or "")
        self._begin(kept.process.log)

    def _begin(self, log: Path) -> None:
        """From here on what the engine does, and says in this file, is ours."""
        self.log = log
        self._watched = self._told = False
        self._started = time.monotonic()
        self._log_start = log.stat().st_size if log.exists() else 0

    def _start(self) -> None:
        self.placement = place(self.engine, self.model, self.deploy, waiting=self._waiting, run_id=self.run_id)
        deploy = self.placement.apply(self.deploy)
        try:
            self._lease = ports.lease(deploy.host, deploy.port)
        except OSError as error:
            raise ConfigError(Problem("deploy.port", str(error), "Choose another port, or leave it out.")) from error
        address = Address(deploy.host, self._lease.port, self._key)
        env = Environment.find(deploy.env)
        command = command_of(self.engine, self.model, deploy, address, env)
        self.argv = env.wrap(command.argv)
        self._address, self.reused = address, None
        self._begin(self._own_log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        devices = DeviceWatch(_devices_used(deploy))
        assert self._entry is not None
        self._entry.set(api_url=f"{address.root}/v1", port=address.port, devices=deploy.devices or "")
        self._entry.phase("loading")
        variables = {name: reveal(value, name) or "" for name, value in deploy.env_vars.items()}
        secret = (*command.secrets, *filter(is_secret_name, variables))
        public = {**_devices(deploy), **command.env, **deploy.env_vars}  # as written: a reference may be to a key
        self._variables = [f"{name}={shlex.quote(public[name])}" for name in public if name not in secret]
        self.process = SupervisedProcess(
            self.argv,
            env={**env.variables(os.environ), **_devices(deploy), **command.env, **variables},
            log=self.log,
            run_id=f"{self.run_id}-engine",
            secrets=secret,
            on_exit=self._exited,
            entry=self._entry,
            role="engine",
        )
        self.process.start()
        self._running = Running(
            self.run_id, self.engine, self.model, deploy, self.process, address, self.argv, self.placement,
            self._lease, devices, self._identity,
        )  # fmt: skip
        self._lease = None

    def wait_ready(self) -> Endpoint:
        """Wait until the engine is ready.

        Raises:
            EngineError: it stopped, stalled, or serves something else; the message explains it.
            Stopped: by `evalflow stop`.
        """
        attempts = Retrying(
            stop=stop_after_attempt(START_ATTEMPTS), retry=retry_if_exception_type(RetryableStartError), reraise=True
        )
        for attempt in attempts:
            with attempt, ExitStack() as told:
                told.push(self._as_stopped)
                if attempt.retry_state.attempt_number > 1:
                    self.release()
                    self.start()
                return self._wait_ready()
        raise AssertionError("tenacity ends with a result or an error")

    def _as_stopped(self, *error: Any) -> None:
        if self._entry is not None:
            self._entry.as_stopped(*error)

    def _wait_ready(self) -> Endpoint:
        if self._endpoint is not None:
            return self._endpoint
        assert self.process is not None
        assert self._running is not None
        if self.reused is not None:
            self._check_reused(self._running)
        else:
            Readiness(
                self.process, self._address, self.model.name, self.deploy.stall_timeout_s, self.engine.health_path
            ).wait()
        if self.process.exited.is_set():
            raise self.failure("while it was starting")
        self._running.devices.look()
        self._watched = True
        if self.process.exited.is_set():
            self._exited()
        self.load_s = time.monotonic() - self._started
        if self._entry is not None:
            self._entry.phase("ready")
        self._endpoint = Endpoint(f"{self._address.root}/v1", self.model.name, self.api_key)
        return self._endpoint

    def _check_reused(self, kept: Running) -> None:
        """Whether it really answers, which takes a moment; meanwhile others begin, as when it loads."""
        if kept.answers():
            return
        if kept.process.stop_requested:  # nobody wants it any more
            kept.process.exited.wait()
        else:
            self.notes.append(f"the {kept.name} that was kept does not answer any more; a new one is started")
            raise RetryableStartError(self.notes[-1])

    def _exited(self) -> None:
        """Tell, once; while it starts, `wait_ready` tells, and may start another."""
        with self._lock:
            tell = self._watched and not self._told
            self._told = self._told or tell
        if tell and self._on_exit is not None:
            self._on_exit()

    def failure(self, when: str, cause: Symptom | Exit | None = None) -> EngineError:
        """The error that explains why the engine does not serve any more.

        Args:
            when: such as "while it was starting".
            cause: what was seen of it; default: how its process ended.
        """
        assert self.process is not None
        found = diagnose_process(self.process, self.engine.log_patterns)
        after = f"after {time.monotonic() - self._started:.0f} s"
        hint = found.hint
        if isinstance(cause, Hang):
            first, hint = f"{self.engine.name} {cause} ({when}, {after})", ""
        elif isinstance(cause, Unhealthy):
            first = f"{self.engine.name} {cause} ({when}, {after}): {found.cause}"
        else:
            code = self.process.exit_code if cause is None else cause.code
            first = f"{self.engine.name} stopped {when} (exit code {code}, {after}): {found.cause}"
        lines = [
            first,
            *([f"    {hint}"] if hint else []),
            "  its last lines:",
            *(f"    {line}" for line in found.tail),
            f"  log: {self.log}",
            f"  command: {' '.join([*self._variables, shlex.join(self.argv)])}",
        ]
        return (RetryableStartError if found.again else EngineError)("\n".join(lines))

    def keep(self, tell: Callable[[Release], None] | None = None) -> float | None:
        """Keep the engine for the next one who wants the same, in place of `release`, if `deploy.keep_alive_s` says so.

        Args:
            tell: is called, in whatever thread, with what its end has left behind, if it ends without having been used.

        Returns:
            Until when, in seconds since the epoch; None: it is not kept, and has to be released.
        """
        running, seconds = self._running, self.deploy.keep_alive_s
        if not seconds or running is None or running.identity is None or not self.is_ready or not running.is_healthy():
            return None
        until = STORE.keep(running, seconds, tell or (lambda released: None))
        if until is None:
            return None
        self._endpoint = self._running = self.process = None
        self._give_up()
        return until

    def release(self) -> Release:
        """End the engine and everything it started; wait, for a bounded time, until nothing of it is left.

        Returns:
            What is left of it; true if nothing is, as far as can be known.
        """
        self._endpoint = None
        try:
            if self._running is not None:
                if self._entry is not None and not self._running.process.exited.is_set():
                    self._entry.phase("releasing")
                self._released = self._running.release()
                self._running = None
            return self._released
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """Give back what is not the engine's own, and take along what it has said to us."""
        if self._lease is not None:  # of a start that came to nothing
            self._lease.release()
            self._lease = None
        if self._entry is not None and self._given_entry is None:
            self._entry.end_commands()
            self._entry.close()
        if self.log != self._own_log:
            with contextlib.suppress(OSError):  # the run that started it may have been deleted
                copy_log(self.log, self._log_start, self._own_log)
            self.log = self._own_log

    def __enter__(self) -> Endpoint:
        try:
            self.start()
            endpoint = self.wait_ready()
            for note in self.notes:
                warnings.warn(note, RuntimeWarning, stacklevel=2)
            return endpoint
        except BaseException as error:
            self.release()
            if isinstance(error, EvalFlowError):  # what is to be done stands in the message, not in our frames
                raise error.with_traceback(None) from None
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.keep() is not None:
            return
        ended = self._ended_meanwhile(DEATH_SEEN_S if isinstance(error, Exception) else 0)
        released = self.release()
        for line in released.warnings():
            warnings.warn(f"{self.engine.name} was ended, but {line}", RuntimeWarning, stacklevel=2)
        if ended is not None and error is not None:  # which is most likely what came of it
            warnings.warn(str(ended).splitlines()[0], RuntimeWarning, stacklevel=2)
        elif ended is not None:
            raise ended
        if not released and error is None:
            raise EngineError(f"{self.engine.name} was ended, but " + "; ".join(released.problems()))

    def _ended_meanwhile(self, wait_s: float) -> EvalFlowError | None:
        """Why the engine has ended while somebody used it; None if it has not.

        Args:
            wait_s: how long to wait for that, where somebody may have seen it first, by an answer that did not come.
        """
        process = None if self._running is None else self._running.process
        if process is None or process.stop_requested or not process.exited.wait(wait_s):
            return None
        if self._entry is not None and self._entry.stopped:
            return Stopped(f"{self.engine.name} was stopped by `evalflow stop` while it was in use")
        return self.failure("while it was in use")


def _devices(deploy: DeployConfig) -> dict[str, str]:
    """Variables that limit the engine to its devices."""
    if deploy.devices is None:
        return {}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", CUDA_VISIBLE_DEVICES: deploy.devices}


def _devices_used(deploy: DeployConfig) -> tuple[str, ...] | None:
    """The devices to watch: those of `devices`, unless the user's own variables say something else; None: all."""
    return None if deploy.devices is None or CUDA_VISIBLE_DEVICES in deploy.env_vars else split(deploy.devices)
