"""Tests that every engine passes. For an engine of your own, subclass one of the two classes in a pytest module:

    from evalscope_evalflow.conformance import ServerConformance, Subject

    class TestMyEngine(ServerConformance):
        subject = Subject("mine", "/models/small", broken={"extra_args": ["--no-such-option"]}, cause="no-such-option")

`EngineConformance` is for engines that cannot serve a model where the tests run, such as for want of a GPU.
This module needs pytest; nothing in EvalFlow imports it. docs/contributing/add-an-engine.md says more.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import threading
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psutil
import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import is_secret_name
from evalscope_evalflow.engines import Address, Command, Engine, load_engine
from evalscope_evalflow.engines.options.extra_args import check_extra_args
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes import ports
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.serving import Deployment, Endpoint, http
from evalscope_evalflow.serving.readiness import listed_models, one_token

AREAS = (
    "command", "environment", "readiness", "key", "served name", "failure", "release", "extra arguments",
)  # fmt: skip
PROPERTY = "conformance"  # of a test in pytest's XML report: ENGINE/AREA
KEY = "sk-of-the-conformance-suite"
NAME = "served-under-this-name"
TOLD_WITHIN_S = 2.0  # of a failed start's exit
ADDRESS = Address("127.0.0.2", 18123, KEY)
Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Subject:
    """An engine, and how the tests use it.

    Attributes:
        engine: its name, as in `deploy.engine`.
        path: a small model that it serves.
        deploy: settings with which it does, as in `deploy`.
        broken: settings on top of those with which it does not start.
        cause: words that its error then has to have.
        extra_args: arguments that it takes and that change nothing.
        dies: its exit code where `broken` ends it; None: any.
    """

    engine: str
    path: str
    deploy: Mapping[str, Any] = field(default_factory=dict)
    broken: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    extra_args: tuple[str, ...] = ()
    dies: int | None = None

    @property
    def model(self) -> ModelConfig:
        """The model, under the name of the tests."""
        return ModelConfig(name=NAME, path=self.path)

    def settings(self, **more: Any) -> DeployConfig:
        """`deploy`, with more on top."""
        return DeployConfig.model_validate({"engine": self.engine, **self.deploy, **more})

    def load(self) -> Engine:
        """The engine, by its entry point."""
        return load_engine(self.engine)


@dataclass(frozen=True)
class Running:
    """A server that was started by EvalFlow.

    Attributes:
        deployment: what started it.
        endpoint: where it is.
    """

    deployment: Deployment
    endpoint: Endpoint

    @property
    def root(self) -> str:
        """Its URL without a path."""
        return self.endpoint.api_url.removesuffix("/v1")

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.root.rsplit(":", 1)[1])

    @property
    def processes(self) -> list[psutil.Process]:
        """The guard, and everything below it."""
        assert self.deployment.process is not None
        guard = psutil.Process(self.deployment.process.guard_pid)
        return [guard, *guard.children(recursive=True)]

    def chat(self, key: str | None) -> http.Reply:
        """The answer to a one-token request."""
        url = f"{self.endpoint.api_url}/chat/completions"
        return http.request(url, api_key=key, body=one_token(self.endpoint.model), timeout_s=120, direct=True)


def area(name: str) -> Callable[[Test], Test]:
    """Say what a test is about."""
    assert name in AREAS

    def mark(test: Test) -> Test:
        test.conformance_area = name  # type: ignore[attr-defined]
        return test

    return mark


def count_tests(suite: type) -> dict[str, int]:
    """How many tests a class has in each area."""
    found = [getattr(getattr(suite, name), "conformance_area", None) for name in dir(suite) if name.startswith("test_")]
    return {name: found.count(name) for name in AREAS}


def gone(processes: list[psutil.Process], timeout_s: float = 10.0) -> list[psutil.Process]:
    """Those of these processes that still live after a while."""
    _, alive = psutil.wait_procs([process for process in processes if process.is_running()], timeout=timeout_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _watch(pid: int | None) -> Callable[[], float]:
    """Note when a process ends: a function that waits for it, and gives the time by time.monotonic()."""
    assert pid is not None
    process, ends = os.pidfd_open(pid), []

    def wait() -> None:
        select.select([process], [], [])
        ends.append(time.monotonic())
        os.close(process)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()

    def ended() -> float:
        waiting.join()
        return ends[0]

    return ended


class EngineConformance:
    """What holds of every local engine, whether or not it can serve here.

    Attributes:
        subject: the engine, and how to use it. Where only a fixture knows that, override the fixture `made`.
    """

    subject: ClassVar[Subject]

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls) -> Subject:
        """The engine, and how to use it."""
        return cls.subject

    @pytest.fixture(autouse=True)
    def _noted(self, request: pytest.FixtureRequest) -> None:
        """Write down for the XML report what a test was about."""
        about = getattr(request.function, "conformance_area", None)
        if about is not None:
            made: Subject = request.getfixturevalue("made")
            # As `record_property` does, which warns of the newer one of pytest's two formats.
            request.node.user_properties.append((PROPERTY, f"{made.engine}/{about}"))

    def _command(self, made: Subject, **more: Any) -> Command:
        settings = made.settings(**more)
        return made.load().command(made.model, settings, ADDRESS, Environment.find(settings.env))

    # command

    @area("command")
    def test_a_good_model_and_good_settings_are_no_problem(self, made: Subject) -> None:
        assert list(made.load().check(made.model, made.settings())) == []
        assert list(made.load().check_installed(made.settings())) == []

    @area("command")
    def test_a_model_without_a_path_is_a_problem(self, made: Subject) -> None:
        problems = list(made.load().check(ModelConfig(name=NAME), made.settings()))
        assert problems
        assert all(problem.where and problem.what for problem in problems)

    @area("command")
    def test_the_command_runs_a_program_that_is_there_and_is_the_same_every_time(self, made: Subject) -> None:
        command = self._command(made)
        assert command.argv
        assert all(isinstance(word, str) for word in command.argv)
        assert shutil.which(command.argv[0])
        assert command == self._command(made)

    @area("command")
    def test_the_command_says_where_to_listen(self, made: Subject) -> None:
        command = self._command(made)
        said = {part for word in (*command.argv, *command.env.values()) for part in word.replace("=", " ").split()}
        both = f"{ADDRESS.host}:{ADDRESS.port}"
        assert ADDRESS.host in said or any(both in word for word in said), "else it may listen at every address"
        assert str(ADDRESS.port) in said or any(both in word for word in said)

    # environment

    @area("environment")
    def test_an_environment_that_is_not_there_is_a_problem(self, made: Subject, tmp_path: Path) -> None:
        problems = list(made.load().check_installed(made.settings(env=str(tmp_path / "none"))))
        assert [problem.where for problem in problems] == ["deploy.env"]

    @area("environment")
    def test_an_environment_without_it_is_a_problem_that_says_what_to_install(
        self, made: Subject, tmp_path: Path
    ) -> None:
        engine = made.load()
        venv.create(tmp_path / "bare", symlinks=True)
        problems = list(engine.check_installed(made.settings(env=str(tmp_path / "bare"))))
        if not engine.modules:  # it needs nothing of an environment but its interpreter
            assert problems == []
            return
        (problem,) = problems
        assert engine.modules[0] in problem.what
        assert "install" in problem.todo

    @area("environment")
    def test_the_command_is_that_of_the_environment(self, made: Subject, tmp_path: Path) -> None:
        venv.create(tmp_path / "other", symlinks=True)
        usual, other = self._command(made), self._command(made, env=str(tmp_path / "other"))
        python = str(Environment.find(made.settings().env).python)
        assert python not in other.argv
        if python in usual.argv:
            assert other.argv[0] == str(tmp_path / "other" / "bin" / "python")

    # key

    @area("key")
    def test_the_key_is_in_the_environment_and_marked_as_one(self, made: Subject) -> None:
        command = self._command(made)
        assert KEY not in " ".join(command.argv), "others could read it"
        assert {name for name, value in command.env.items() if KEY in value} <= set(command.secrets)
        assert KEY in command.env.values(), "without a key, everybody on the machine may use the server"

    @area("key")
    @pytest.mark.parametrize("word", ["--api-key", "--api_key=x"])
    def test_a_key_in_extra_args_is_a_problem(self, made: Subject, word: str) -> None:
        problems = list(made.load().check_keys(made.settings(extra_args=[word])))
        assert any("api_key" in problem.todo for problem in problems)

    # served name

    @area("served name")
    def test_the_command_has_the_served_name(self, made: Subject) -> None:
        command = self._command(made)
        assert NAME in [*command.argv, *command.env.values()]

    # failure

    @area("failure")
    def test_a_start_that_fails_is_told_with_its_cause(self, failed: Failed, made: Subject) -> None:
        message = str(failed.error)
        assert failed.told_s < TOLD_WITHIN_S
        assert made.cause in message.splitlines()[0]
        assert "  its last lines:" in message
        assert message.startswith(f"{made.engine} stopped while it was starting (exit code ")
        assert f"log: {failed.log}" in message
        assert "command: " in message
        assert KEY not in message
        if made.dies is not None:
            assert f"(exit code {made.dies}, " in message

    @area("failure")
    def test_the_log_of_a_start_that_fails_is_kept_without_the_key(self, failed: Failed) -> None:
        assert failed.log.stat().st_size > 0
        assert KEY not in failed.log.read_text(errors="replace")

    # release

    @area("release")
    def test_a_start_that_fails_leaves_nothing(self, failed: Failed) -> None:
        assert gone(failed.processes) == []
        assert failed.released
        assert ports.is_free("127.0.0.1", failed.port)

    # extra arguments

    @area("extra arguments")
    def test_extra_arguments_come_last_and_as_they_are(self, made: Subject) -> None:
        words = ["--one", "two words", '{"three": 3}']
        usual = self._command(made, extra_args=[])
        assert self._command(made, extra_args=words).argv == [*usual.argv, *words]

    @area("extra arguments")
    def test_what_it_takes_is_no_problem_and_what_it_does_not_know_is_one(self, made: Subject) -> None:
        engine = made.load()
        given = [*made.settings().extra_args, *made.extra_args]
        assert list(check_extra_args(engine, made.settings(extra_args=given))) == []
        unknown = [problem.what for problem in check_extra_args(engine, made.settings(extra_args=["--no-such-option"]))]
        if engine.parser is None:  # then it says so itself, when it is started
            assert unknown == []
        else:
            assert unknown == [f"{engine.name} has no option --no-such-option"]

    @area("extra arguments")
    def test_what_has_a_setting_is_a_problem_that_names_the_setting(self, made: Subject) -> None:
        engine = made.load()
        for option, setting in engine.reserved_options.items():
            if is_secret_name(option.lstrip("-").removesuffix("s")):
                continue  # has a message of its own
            (problem,) = check_extra_args(engine, made.settings(extra_args=[option, "1"]))
            assert setting in problem.todo, option

    @pytest.fixture(scope="class")
    @classmethod
    def failed(cls, made: Subject, tmp_path_factory: pytest.TempPathFactory) -> Failed:
        """What is left of a start with settings that are broken."""
        log = tmp_path_factory.mktemp("failed") / "engine.log"
        lease = ports.lease("127.0.0.1")
        lease.release()
        settings = made.settings(**{**made.broken, "api_key": KEY, "port": lease.port})
        deployment = Deployment(made.load(), made.model, settings, log=log, run_id=new_run_id())
        deployment.start()
        processes: list[psutil.Process] = []
        try:
            assert deployment.process is not None
            ended = _watch(deployment.process.wait_started())
            processes = Running(deployment, Endpoint("", NAME)).processes
            with pytest.raises(EngineError) as caught:
                deployment.wait_ready()
            told_s = time.monotonic() - ended()
        finally:
            released = deployment.release()
        return Failed(caught.value, told_s, log, lease.port, processes, bool(released))


@dataclass(frozen=True)
class Failed:
    """A start that failed.

    Attributes:
        error: what was said.
        told_s: how many seconds after the end of the engine's own process.
        log: the engine's.
        port: where it should have listened.
        processes: the guard, and what was below it at the beginning.
        released: whether the release was proven.
    """

    error: EngineError
    told_s: float
    log: Path
    port: int
    processes: list[psutil.Process]
    released: bool


class ServerConformance(EngineConformance):
    """What holds of an engine that serves here. Where there is a server already, override the fixture `server`."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, made: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
        """The engine, serving."""
        settings = made.settings(extra_args=[*made.settings().extra_args, *made.extra_args])
        log = tmp_path_factory.mktemp("server") / "engine.log"
        deployment = Deployment(made.load(), made.model, settings, log=log, run_id=new_run_id())
        with deployment as endpoint:
            yield Running(deployment, endpoint)

    @area("readiness")
    def test_when_it_is_ready_it_is_healthy_and_answers(self, server: Running) -> None:
        assert http.request(f"{server.root}/health", direct=True).status == 200
        reply = server.chat(server.endpoint.api_key)
        assert reply.status == 200, reply.text
        assert reply.json["choices"][0]["message"]["role"] == "assistant"
        assert server.deployment.load_s is not None

    @area("readiness")
    def test_it_listens_at_the_address_that_it_was_given_and_at_no_other(self, server: Running) -> None:
        listening = {
            connection.laddr.ip
            for process in server.processes
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == server.port
        }
        assert listening == {server.deployment.deploy.host}

    @area("readiness")
    def test_it_has_the_counters_by_which_a_hang_is_seen(self, server: Running, made: Subject) -> None:
        counters = made.load().counters
        reply = http.request(f"{server.root}/metrics", api_key=server.endpoint.api_key, direct=True)
        names = {line.split("{")[0].split(" ")[0] for line in reply.text.splitlines() if not line.startswith("#")}
        for group in (counters.in_flight, counters.progress) if counters else ():
            assert set(group) & names, f"{reply.status}: none of {group}"

    @area("key")
    def test_without_its_key_it_answers_nobody(self, server: Running) -> None:
        for key in (None, "sk-of-somebody-else"):
            assert server.chat(key).status in (401, 403)
            assert http.request(f"{server.endpoint.api_url}/models", api_key=key, direct=True).status in (401, 403)

    @area("key")
    def test_nobody_can_read_its_key(self, server: Running) -> None:
        key = server.endpoint.api_key
        assert len(key) > 16
        for process in server.processes:
            assert key not in " ".join(process.cmdline())
        assert key not in server.deployment.log.read_text(errors="replace")

    @area("served name")
    def test_it_lists_the_name_that_it_was_given(self, server: Running) -> None:
        reply = http.request(f"{server.endpoint.api_url}/models", api_key=server.endpoint.api_key, direct=True)
        assert listed_models(reply.json) == [server.endpoint.model]

    @area("environment")
    def test_it_runs_in_an_empty_folder_of_its_own_with_a_temporary_one(self, server: Running) -> None:
        assert server.deployment.process is not None
        leader = psutil.Process(server.deployment.process.leader)
        assert leader.cwd() != os.getcwd()
        assert leader.environ()["TMPDIR"].startswith(str(server.deployment.process.scratch))

    @area("release")
    def test_when_it_is_released_nothing_of_it_is_left(self, server: Running) -> None:
        """The last one: the server is gone afterwards."""
        processes, port = server.processes, server.port
        assert server.deployment.process is not None
        scratch = server.deployment.process.scratch
        released = server.deployment.release()
        assert released, json.dumps(released.problems())
        assert gone(processes, timeout_s=0) == []
        assert ports.is_free("127.0.0.1", port)
        assert not scratch.exists()
