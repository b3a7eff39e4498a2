"""An engine's handle: it is started, becomes ready, may be kept, and is released."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.api_url import api_base, public_url
from evalscope_evalflow.config.secret_names import NO_KEY
from evalscope_evalflow.devices.nvml import split
from evalscope_evalflow.devices.placement import choosing
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes.exit_reason import Exit
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving.endpoint import Endpoint
from evalscope_evalflow.serving.engine_failure import RetryableStartError, engine_failure, start_failure
from evalscope_evalflow.serving.engine_state import EngineState, StateMachine
from evalscope_evalflow.serving.engine_use import Ahead, Request, Use, api_key, nothing_ahead, own_entry
from evalscope_evalflow.serving.health import Symptom
from evalscope_evalflow.serving.leases import Lease, Leases
from evalscope_evalflow.serving.release import Release
from evalscope_evalflow.serving.server import Server
from evalscope_evalflow.serving.start_server import prepare_server
from evalscope_evalflow.serving.wanted_engine import WantedEngine
from evalscope_evalflow.serving.warm_pool import POOL, Keeping
from evalscope_evalflow.serving.weight_swap import Weights
from evalscope_evalflow.serving.with_block import enter, leave

START_ATTEMPTS = 3


class Deployment:
    """One engine, from its start to its proven release; runs hold leases on it.

    Attributes:
        engine: its kind.
        model: what it serves.
        deploy: how, as it was asked for.
        notes: what the user should know of engines that were kept.
        leases: who uses it.
        restarts: how often it was started again after it had failed.
        keeping: until when the warm pool has it, and what happens then; only while its state is KEPT.
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
        shared: bool = False,
        swaps: bool = False,
        standby: Ahead = nothing_ahead,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            engine: what serves it.
            model: what is served.
            deploy: how it is served.
            log: file that the engine's output is appended to.
            run_id: identifies every process of the run, which holds the first lease.
            on_exit: is called, in a thread, when the engine's processes are gone, for whatever reason.
            entry: the run's, as `evalflow ps` shows it; default: one of its own.
            waiting: models that wait for devices.
            shared: whether other models of the sweep may use it, too: then it can be kept whatever `keep_alive_s` is.
            swaps: whether they need its weights to be replaced by theirs.
            standby: gives a process that was started ahead, once, if there is one.
        """
        self.engine, self.model, self.deploy = engine, model, deploy
        self.notes: list[str] = []
        self.leases = Leases()
        self.restarts = 0
        self.keeping: Keeping | None = None
        key = api_key(engine, model, deploy)
        self._request = Request(log, run_id, on_exit, entry, waiting, key, shared, swaps, standby)
        self._machine = StateMachine()
        self._entry = entry
        self._server: Server | None = None
        self._use = Use(log)
        self._wanted = WantedEngine(engine, model, deploy, shared, lambda text: self.notes.append(text))

    @property
    def weights(self) -> Weights | None:
        """Which weights it answers with, once it is ready; None: it cannot tell."""
        return self._wanted.weights

    @property
    def state(self) -> EngineState:
        """Where it is in its life."""
        return self._machine.state

    @property
    def server(self) -> Server | None:
        """Its process, with port and devices; None before its start, and for an API that runs elsewhere."""
        return self._server

    @property
    def process(self) -> SupervisedProcess | None:
        """The process, under its guard; None where there is none, and while the engine is kept: it is nobody's then."""
        return None if self._server is None or self.state is EngineState.KEPT else self._server.process

    @property
    def run_id(self) -> str:
        """The run that wants it."""
        return self._request.run_id

    @property
    def log(self) -> Path:
        """File that its output goes to."""
        return self._use.log

    @property
    def load_s(self) -> float | None:
        """How long loading took, in seconds, once it is ready."""
        return self._use.load_s

    @property
    def reused(self) -> str | None:
        """The run that started it, where it was kept since (`deploy.keep_alive_s`); None: it is newly started."""
        return self._use.reused

    @property
    def argv(self) -> list[str]:
        """Its command; empty before the start, and for an API that runs elsewhere."""
        return self._server.launch.argv if self._server is not None else []

    @property
    def placement_facts(self) -> dict[str, Any]:
        """The devices and sizes that were chosen, with the arithmetic; empty where nothing is deployed here."""
        return dict(self._server.launch.placement.facts) if self._server is not None else {}

    @property
    def api_key(self) -> str:
        """The key of the endpoint to be; known before it is up."""
        return (self._server.address.api_key if self._server else self._request.api_key) or NO_KEY

    @property
    def is_ready(self) -> bool:
        """Whether it has become ready, and was not released or kept since."""
        return self.state is EngineState.READY

    def lease(self, run_id: str, on_exit: Callable[[], None] | None = None) -> Lease:
        """Use it together with those who do so already; `give_back` returns the lease.

        Args:
            run_id: who uses it.
            on_exit: is called, in a thread, when the engine's processes are gone, for whatever reason.

        Raises:
            EngineError: it is not ready.
        """
        with self._machine.lock:
            if not self.is_ready:
                raise EngineError(f"{self.engine.name} with {self.model.name} is {self.state.value}, not ready")
            return self.leases.take(self.model.name, run_id, on_exit)

    def give_back(self, lease: Lease) -> Release | None:
        """Return a lease. The engine ends with the last one.

        Returns:
            What is left of the engine; None: others use it.
        """
        return self.release() if self.leases.give_back(lease) else None

    def start(self) -> None:
        """Start it, or take the same one if it was kept, and return at once.

        Raises:
            ConfigError: it fits on no devices, or cannot listen at its address.
        """
        self.restarts += self._machine.failures > self.restarts
        if not self.engine.local:  # only its address is noted
            for state in (EngineState.STARTING, EngineState.READY):
                self._machine.to(state)
            if self._entry is not None:
                self._entry.set(api_url=public_url(self._endpoint().api_url))
            return
        if self._request.entry is None:
            self._entry = own_entry(self.run_id, self.engine, self.model)
        assert self._entry is not None
        kept = self._wanted.take(self._entry, self._exited)
        if kept is not None:
            self._take_over(kept)
            return
        POOL.release_one(self)  # it was kept, and something else is wanted of it now
        self._machine.to(EngineState.STARTING)
        with choosing():  # until our command is written down, and with it what we have taken
            self._use = Use.begin(self._request.log)
            about = self.engine, self.model, self.deploy, self._request, self._wanted.identity, self._entry
            self._server = server = prepare_server(*about, self._exited)
            self._register(server)
            self._entry.phase("loading")
            server.begin()
        self.leases.take(self.model.name, self.run_id, self._request.on_exit)

    def _take_over(self, kept: Deployment) -> None:
        """Go on with the server of a handle that was kept, which may be this one; that handle is released."""
        server, kept._server, kept.keeping = kept._server, None, None
        assert server is not None
        if kept is not self:
            kept._machine.to(EngineState.RELEASED)
        if not self._wanted.needs_swap(server):
            server.model = self.model  # of several that one engine serves, it is asked by this one's name now
        self._server = server
        # Whoever has been told its key asks a new one with that, if this one turns out to be of no use.
        self._request = replace(self._request, api_key=server.address.api_key)
        self._machine.to(EngineState.STARTING)
        self._use = Use.begin(server.process.log, server.launch.run_id)
        self._register(server)
        self.leases.take(self.model.name, self.run_id, self._request.on_exit)

    def _register(self, server: Server) -> None:
        devices = server.deploy.devices or ""
        self.leases.use_devices(len(split(devices)))
        assert self._entry is not None
        self._entry.set(api_url=server.api_url, port=server.address.port, devices=devices)

    def wait_ready(self) -> Endpoint:
        """Wait until the engine is ready.

        Raises:
            EngineError: it stopped, stalled, or serves something else; the message explains it.
            Stopped: by `evalflow stop`.
        """
        again = retry_if_exception_type(RetryableStartError)
        for attempt in Retrying(stop=stop_after_attempt(START_ATTEMPTS), retry=again, reraise=True):
            with attempt, ExitStack() as stack:
                if self._entry is not None:
                    stack.push(self._entry.as_stopped)
                if attempt.retry_state.attempt_number > 1:
                    self.release()
                    self.start()
                return self._wait_ready()
        raise AssertionError("tenacity ends with a result or an error")

    def _wait_ready(self) -> Endpoint:
        if self.is_ready:
            return self._endpoint()
        server = self._server
        assert server is not None
        try:
            if self._wanted.needs_swap(server):
                self._machine.to(EngineState.SWAPPING)
                self._phase("loading")
            self._wanted.wait_until_usable(server, self.reused is not None)
        except EngineError as error:
            self._machine.fail()
            if (found := start_failure(server, error)) is not error:
                raise found from error
            raise
        exited = server.process.exited
        if not exited.is_set():
            server.devices.poll()
        with self._machine.lock:
            if not exited.is_set():
                self._use.load_s = time.monotonic() - self._use.began
                self._machine.to(EngineState.READY)
        if not self.is_ready and self.load_s is None:
            self._machine.fail()
            raise start_failure(server, self.failure("while it was starting"))
        if exited.is_set():  # just now, perhaps before anybody would have been notified
            self._exited()
        self._phase("ready")
        return self._endpoint()

    def _phase(self, name: str) -> None:
        if self._entry is not None:
            self._entry.phase(name)

    def _endpoint(self) -> Endpoint:
        url = self._server.api_url if self._server is not None else api_base(self.model.api_url or "")
        return Endpoint(url, self.model.served_name, self.api_key)

    def _exited(self) -> None:
        """Its processes are gone: tell whoever uses it.

        While it starts, `wait_ready` tells, and may start another; of one that is kept, the next who wants it is told.
        """
        server = self._server
        if server is None or not server.process.exited.is_set():
            return  # it was an earlier one
        with self._machine.lock:
            state = self.state
            if not server.process.stop_requested:
                self._machine.fail()
        if state is EngineState.KEPT:
            POOL.died(self)
        elif self._use.load_s is not None:
            self.leases.notify_exit()

    def failure(self, when: str, cause: Symptom | Exit | None = None) -> EngineError:
        """The error that explains why the engine does not serve any more.

        Args:
            when: such as "while it was starting".
            cause: what was seen of it; default: how its process ended.
        """
        assert self._server is not None
        return engine_failure(self._server, when, time.monotonic() - self._use.began, self.log, cause)

    def keep(self, notify: Callable[[Release], None] | None = None, seconds: float = 0) -> float | None:
        """Keep the engine for the next one who wants the same, in place of `release`.

        Args:
            notify: is called, in whatever thread, with what its end has left behind, if it ends without being used.
            seconds: for how long at least; it is `deploy.keep_alive_s` where that is longer.

        Returns:
            Until when, in seconds since the epoch; None: it is not kept, and has to be released.
        """
        server, seconds = self._server, max(seconds, self.deploy.keep_alive_s)
        wanted = bool(seconds) and self.is_ready and len(self.leases.held) <= 1
        if not wanted or server is None or server.launch.identity is None or not server.is_healthy():
            return None
        until = POOL.keep(self, seconds, notify or (lambda released: None))
        if until is not None:
            self._let_go()
        return until

    def become_kept(self, keeping: Keeping) -> bool:
        """From now on the warm pool has it.

        Returns:
            Whether it lives; if not, nothing was changed.
        """
        process = self.process
        with self._machine.lock:
            if not self.is_ready or process is None or not process.hand_over(keeping.entry, self._exited):
                return False
            self.keeping = keeping
            self._machine.to(EngineState.KEPT)
            return True

    def release_kept(self) -> Release:
        """End an engine that the warm pool has had."""
        assert self._server is not None
        try:
            return self._server.release()
        finally:
            self._machine.to(EngineState.RELEASED)

    def release(self) -> Release:
        """End the engine and everything it started; wait, for a bounded time, until nothing of it is left.

        An engine that is kept is the warm pool's, and stays.

        Returns:
            What is left of it; true if nothing is, as far as can be known.
        """
        if self.state is EngineState.KEPT:
            return Release()
        try:
            if self._server is None:
                return Release()
            if not self._server.process.exited.is_set():
                self._phase("releasing")
            released = self._server.release()
            if self._use.load_s is not None:
                self.leases.notify_exit()
            return released
        finally:
            if self.state is not EngineState.RELEASED:
                self._machine.to(EngineState.RELEASED)
            self._let_go()

    def _let_go(self) -> None:
        """End this use: give back what is not the engine's own, and copy what it has printed meanwhile."""
        self.leases.give_back_all()
        if self._entry is not None and self._request.entry is None:
            if self.state is EngineState.RELEASED:
                self._entry.end_commands()  # one that a Ctrl-C came between
            self._entry.close()
        self._use.copy_log(self._request.log)

    def __enter__(self) -> Endpoint:
        return enter(self)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        leave(self, error)

    @property
    def was_stopped(self) -> bool:
        """Whether `evalflow stop`, or whoever else, has had it ended."""
        return self._entry is not None and bool(self._entry.stopped)
