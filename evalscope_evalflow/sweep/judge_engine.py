"""The judge that a sweep deploys: one engine for all of its models, started again when it dies, and released."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from evalscope_evalflow.config.own_judge import judge_deploy
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim, claim
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import RESUME, EvalFlowError, Stopped
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.run.control import JudgeUse
from evalscope_evalflow.serving import Deployment, Watch
from evalscope_evalflow.serving.health import Symptom

MOST_USERS = 4  # models that are judged at once: each has a process that imports EvalScope


class JudgeEngine:
    """Lives in a thread of its own, from `begin` to `end`; every other method may be called in any thread.

    Attributes:
        model: the judge.
        deploy: how it is served, before devices were chosen for it.
        engine: its kind.
        left: what of it could not be released, a line each.
    """

    def __init__(self, task: Task, log: Callable[[str], None], warn: Callable[[str], None]) -> None:
        """
        Args:
            task: a task with a judge of its own.
            log: is called with a line on what happens.
            warn: is called with a line that must not be missed.
        """
        assert task.flow.judge is not None
        self.model, self.deploy = task.flow.judge, judge_deploy(task.flow)
        self.engine = resolve_engine(self.model, self.deploy)
        self.left: list[str] = []
        self._log_file: Path = task.work_dir / "evalflow" / "judge.log"
        self._log, self._warn = log, warn
        self._changed = threading.Condition(threading.RLock())
        self._deployment: Deployment | None = None  # while it may be used
        self._url = ""  # once it is ready
        self._error: EvalFlowError | None = None  # it is given up
        self._cause: Symptom | None = None
        self._gone = self._over = False
        self._users: list[Callable[[str], None]] = []
        self._thread: threading.Thread | None = None

    @property
    def has_begun(self) -> bool:
        """Whether `begin` or `refuse` was called."""
        return self._thread is not None or self._error is not None

    def claim(self) -> Claim:
        """The devices that it may be given.

        Raises:
            ConfigError: it fits nowhere.
        """
        return claim(self.engine, self.model, self.deploy)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start it with these settings of `deploy`, and return at once."""
        self.deploy = self.deploy.model_copy(update=dict(settings))
        self._thread = threading.Thread(target=self._live, daemon=True, name="evalflow judge")
        self._thread.start()

    def refuse(self, error: EvalFlowError) -> None:
        """It cannot be started: whoever waits for it is told."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    @contextmanager
    def use(self, check: Callable[[], None], lost: Callable[[str], None]) -> Iterator[JudgeUse]:
        """A block in which a model uses it; entering waits until it is started, and not too many use it.

        Args:
            check: raises an error if the model was cancelled; called before each wait, and after `wake`.
            lost: is called with why it does not work any more.

        Raises:
            EvalFlowError: it could not be started, or has died too often.
        """
        with self._changed:
            self._wait(lambda: self._deployment is not None and len(self._users) < MOST_USERS, check)
            assert self._deployment is not None
            used = _Use(self, self._deployment, check)
            self._users.append(lost)
        try:
            yield used
        finally:
            with self._changed:
                self._users = [user for user in self._users if user is not lost]
                self._changed.notify_all()

    def wake(self) -> None:
        """Have every model that waits call its `check` again."""
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """Release it, and wait for that."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
            deployment = self._deployment
        if deployment is not None and deployment.process is not None:
            deployment.process.ask_to_stop()
        if self._thread is not None:
            self._thread.join()

    def url_of(self, deployment: Deployment, check: Callable[[], None]) -> str:
        """Wait until this deployment is ready; its URL.

        Raises:
            EvalFlowError: it was given up.
        """
        with self._changed:
            self._wait(lambda: bool(self._url) or self._deployment is not deployment, check)
            return self._url if self._deployment is deployment else ""

    def _wait(self, until: Callable[[], bool], check: Callable[[], None]) -> None:
        """Wait for something; the lock is held.

        Raises:
            EvalFlowError: it was given up.
        """
        while True:
            check()
            if self._error is not None:
                raise self._error
            if until():
                return
            self._changed.wait()

    def _live(self) -> None:
        restarts = self.deploy.max_restarts
        for number in range(restarts + 1):
            try:
                reason = self._serve()
            except EvalFlowError as error:
                words = str(error)
                given_up = error if isinstance(error, Stopped) else EvalFlowError(f"the judge: {words}")
                return self.refuse(given_up)
            except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
                return self.refuse(EvalFlowError(f"the judge: {type(error).__name__}: {error}"))
            if reason is None:
                return None
            if number < restarts:
                self._warn(f"judge {self.model.name}: starting it again ({number + 1} of {restarts})")
        return self.refuse(EvalFlowError(f"the judge: {reason}; {RESUME}"))

    def _serve(self) -> str | None:
        """From its start to its release. Returns why it died; None: it was not needed any more.

        Raises:
            EvalFlowError: it could not be started, or was stopped.
        """
        name = f"judge {self.model.name}"
        self._cause, self._gone = None, False
        deployment = Deployment(
            self.engine, self.model, self.deploy, log=self._log_file, run_id=new_run_id(), on_exit=self._exited,
            shared=True,
        )  # fmt: skip
        reason = None
        try:
            deployment.start()
            begun = "goes on with a model's" if deployment.reused else "starting"
            self._log(f"{name}: {begun} {self.engine.name} (log: {deployment.log})")
            for note in deployment.notes:
                self._log(f"{name}: {note}")
            with self._changed:
                self._deployment, self._url = deployment, ""
                self._changed.notify_all()
            endpoint = deployment.wait_ready()
            self._log(f"{name}: {self.engine.name} is ready ({deployment.load_s or 0:.1f} s)")
            with ExitStack() as watched, self._changed:
                if deployment.process is not None:
                    watched.enter_context(
                        Watch(self.engine, deployment.process, endpoint, self.deploy.stall_timeout_s, self._unwell)
                    )
                self._url = endpoint.api_url
                self._changed.notify_all()
                while not (self._over or self._gone or self._cause):
                    self._changed.wait()
                over = self._over
            if not over:
                if deployment.was_stopped:
                    raise Stopped(f"the judge was ended by `evalflow stop`; {RESUME}")
                failure = deployment.failure("while it judged", self._cause)
                reason = str(failure)
                self._warn(f"{name}: {reason.splitlines()[0]}")
        except EvalFlowError:
            if not self._over:
                raise
        finally:
            with self._changed:
                self._deployment, self._url = None, ""
                users, self._users = self._users, []
            for user in users:
                user(f"the judge {reason or 'was ended'}")
            with self._changed:
                self._changed.notify_all()
            self._release(deployment)
        return reason

    def _release(self, deployment: Deployment) -> None:
        name, released = f"judge {self.model.name}", deployment.release()
        for line in (*released.problems(), *released.warnings()):
            self._warn(f"{name}: {self.engine.name} was ended, but {line}")
        self.left += [f"the judge's {self.engine.name} was ended, but {line}" for line in released.problems()]
        if released and deployment.load_s is not None:
            self._log(f"{name}: {self.engine.name} and all it started are gone")

    def _exited(self) -> None:
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _unwell(self, cause: Symptom) -> None:
        with self._changed:
            self._cause = cause
            self._changed.notify_all()


class _Use:
    """One model's use of a deployment of the judge."""

    def __init__(self, judge: JudgeEngine, deployment: Deployment, check: Callable[[], None]) -> None:
        self._judge, self._deployment, self._check = judge, deployment, check

    @property
    def name(self) -> str:
        """The judge's name."""
        return self._deployment.model.name

    @property
    def log(self) -> str:
        """The file of its engine's output."""
        return str(self._deployment.log)

    @property
    def api_key(self) -> str:
        """Its key."""
        return self._deployment.api_key

    def wait_ready(self) -> str:
        """Wait until it can be asked; the base URL of its API (empty: it was lost meanwhile)."""
        return self._judge.url_of(self._deployment, self._check)
