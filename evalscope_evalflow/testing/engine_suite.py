"""Tests that every engine passes. For an engine of your own, subclass one of the two classes in a pytest module:

    from evalscope_evalflow.testing.engine_suite import ServerConformance, Subject

    class TestMyEngine(ServerConformance):
        subject = Subject("mine", "/models/small", broken={"extra_args": ["--no-such-option"]}, cause="no-such-option")

`EngineConformance` is for engines that cannot serve a model where the tests run, for instance for want of a GPU.
This module needs pytest; nothing in EvalFlow imports it. docs/contributing/add-an-engine.md says more.
It is over 400 lines, as all that an engine has to satisfy stands in one place.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.secret_names import is_secret_name
from evalscope_evalflow.engines import HONOURABLE, Command, LogPattern, command_of
from evalscope_evalflow.engines.options.extra_args import check_extra_args
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes import ports
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.serving import Deployment, Endpoint, http
from evalscope_evalflow.serving.readiness import NO_SUCH_PATH, listed_models
from evalscope_evalflow.testing.engine_subject import (
    ADDRESS,
    AREAS,
    ENDS_WITHIN_S,
    KEY,
    NAME,
    PROPERTY,
    REPORTED_WITHIN_S,
    FailedStart,
    RunningServer,
    Subject,
    area,
    count_tests,
    gone,
    watch_end,
)

__all__ = [
    "AREAS",
    "PROPERTY",
    "EngineConformance",
    "RunningServer",
    "ServerConformance",
    "Subject",
    "area",
    "count_tests",
]
SAMPLED_TOKENS = 6
REPEATING, OPEN = "Repeat exactly: yes yes yes yes yes yes", "Tell me a story that begins with a strange word."
# Paths that servers of this kind have beside OpenAI's.
KNOWN_PATHS = ("/completion", "/completions", "/generate", "/infill", "/invocations", "/tokenize", "/v1/embeddings")


class EngineConformance:
    """What holds of every local engine, whether or not it can serve here.

    Attributes:
        subject: the engine, and how to use it. Where only a fixture knows that, override the fixture `tested`.
    """

    subject: ClassVar[Subject]

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls) -> Subject:
        """The engine, and how to use it."""
        return cls.subject

    @pytest.fixture(autouse=True)
    def _noted(self, request: pytest.FixtureRequest) -> None:
        """Write down for the XML report what a test was about."""
        about = getattr(request.function, "conformance_area", None)
        if about is not None:
            tested: Subject = request.getfixturevalue("tested")
            # As `record_property` does, which warns of the newer one of pytest's two formats.
            request.node.user_properties.append((PROPERTY, f"{tested.engine}/{about}"))

    def _command(self, tested: Subject, *, path: str | None = None, **more: Any) -> Command:
        settings = tested.settings(**more)
        model = tested.model.model_copy(update={"path": path or tested.path})
        return command_of(tested.load(), model, settings, ADDRESS, Environment.find(settings.env))

    # command

    @area("command")
    def test_a_good_model_and_good_settings_are_no_problem(self, tested: Subject) -> None:
        assert list(tested.load().check(tested.model, tested.settings())) == []
        assert list(tested.load().check_settings(tested.settings())) == []
        assert list(tested.load().check_installed(tested.settings())) == []
        # A ready-made group among them has to be unpacked: `*WHERE_IS_IT`.
        assert all(isinstance(item, LogPattern) for item in tested.load().log_patterns)

    @area("command")
    def test_a_model_without_a_path_is_a_problem(self, tested: Subject) -> None:
        problems = list(tested.load().check(ModelConfig(name=NAME), tested.settings()))
        assert problems
        assert all(problem.where and problem.what for problem in problems)

    @area("command")
    def test_the_command_runs_a_program_that_is_there_and_is_the_same_every_time(self, tested: Subject) -> None:
        command = self._command(tested)
        assert command.argv
        assert all(isinstance(word, str) for word in command.argv)
        assert shutil.which(command.argv[0])
        assert command == self._command(tested)

    @area("command")
    def test_the_command_says_where_to_listen(self, tested: Subject) -> None:
        command = self._command(tested)
        said = {part for word in (*command.argv, *command.env.values()) for part in word.replace("=", " ").split()}
        both = f"{ADDRESS.host}:{ADDRESS.port}"
        assert ADDRESS.host in said or any(both in word for word in said), "else it may listen at every address"
        assert str(ADDRESS.port) in said or any(both in word for word in said)

    @area("command")
    def test_paths_hold_in_the_folder_in_which_it_runs(
        self, tested: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "model").symlink_to(tested.path)
        (tmp_path / "chat.jinja").write_text("{{ messages }}")
        command = self._command(tested, path="model" if Path(tested.path).exists() else None)
        assert "model" not in command.argv, "it is started in another folder"
        if "chat_template" in tested.load().honours:
            assert "chat.jinja" not in self._command(tested, chat_template="chat.jinja").argv

    @area("command")
    def test_it_honours_the_settings_that_it_says_it_does_and_no_other(self, tested: Subject, tmp_path: Path) -> None:
        engine = tested.load()
        assert engine.honours <= set(HONOURABLE)
        assert not engine.needs_gpu or "devices" in engine.honours, "without it, no device is given to the engine"
        (tmp_path / "chat.jinja").write_text("{{ messages }}")
        template = str(tmp_path / "chat.jinja")
        values: dict[str, Any] = {
            "tensor_parallel": 2,
            "data_parallel": 2,
            "max_model_len": 321,
            "chat_template": template,
        }
        for name, value in values.items():
            base: dict[str, Any] = {
                **dict.fromkeys(("max_model_len", "chat_template")),
                "tensor_parallel": 1,
                "data_parallel": 1,
            }
            changed = self._command(tested, **{**base, name: value}) != self._command(tested, **base)
            assert changed == (name in engine.honours), f"{name}: is it to be among `honours`?"
            refused = [problem.where for problem in engine.check_settings(tested.settings(**{**base, name: value}))]
            assert (f"deploy.{name}" in refused) == (name not in engine.honours)

    # environment

    @area("environment")
    def test_its_version_is_found_in_its_environment(self, tested: Subject) -> None:
        engine = tested.load()
        found = engine.version(Environment.find(tested.settings().env))
        assert bool(found) == bool(engine.distribution), "name the package that has its version, as `distribution`"

    @area("environment")
    def test_an_environment_that_is_not_there_is_a_problem(self, tested: Subject, tmp_path: Path) -> None:
        problems = list(tested.load().check_installed(tested.settings(env=str(tmp_path / "none"))))
        assert [problem.where for problem in problems] == ["deploy.env"]

    @area("environment")
    def test_an_environment_without_it_is_a_problem_that_says_what_to_install(
        self, tested: Subject, tmp_path: Path
    ) -> None:
        engine = tested.load()
        venv.create(tmp_path / "bare", symlinks=True)
        problems = list(engine.check_installed(tested.settings(env=str(tmp_path / "bare"))))
        if not engine.modules:  # it needs nothing of an environment but its interpreter
            assert problems == []
            return
        (problem,) = problems
        assert engine.modules[0] in problem.what
        assert "install" in problem.todo

    @area("environment")
    def test_the_command_is_that_of_the_environment(self, tested: Subject, tmp_path: Path) -> None:
        venv.create(tmp_path / "other", symlinks=True)
        usual, other = self._command(tested), self._command(tested, env=str(tmp_path / "other"))
        python = str(Environment.find(tested.settings().env).python)
        assert python not in other.argv
        if python in usual.argv:
            assert other.argv[0] == str(tmp_path / "other" / "bin" / "python")

    # key

    @area("key")
    def test_the_key_is_in_the_environment_and_marked_as_one(self, tested: Subject) -> None:
        command = self._command(tested)
        assert KEY not in " ".join(command.argv), "others could read it"
        assert {name for name, value in command.env.items() if KEY in value} <= set(command.secrets)
        assert KEY in command.env.values(), "without a key, everybody on the machine may use the server"

    @area("key")
    @pytest.mark.parametrize("word", ["--api-key", "--api_key=x"])
    def test_a_key_in_extra_args_is_a_problem(self, tested: Subject, word: str) -> None:
        problems = list(tested.load().check_keys(tested.settings(extra_args=[word])))
        assert any("api_key" in problem.todo for problem in problems)

    # served name

    @area("served name")
    def test_the_command_has_the_served_name(self, tested: Subject) -> None:
        command = self._command(tested)
        assert NAME in [*command.argv, *command.env.values()]

    # failure

    @area("failure")
    def test_a_start_that_fails_is_reported_with_its_cause(self, failed: FailedStart, tested: Subject) -> None:
        message = str(failed.error)
        assert failed.reported_after_s < REPORTED_WITHIN_S
        assert tested.cause in message.splitlines()[0]
        assert "  its last lines:" in message
        assert message.startswith(f"{tested.engine} stopped while it was starting (exit code ")
        assert f"log: {failed.log}" in message
        assert "command: " in message
        assert KEY not in message
        if tested.dies is not None:
            assert f"(exit code {tested.dies}, " in message

    @area("failure")
    def test_the_log_of_a_start_that_fails_is_kept_without_the_key(self, failed: FailedStart) -> None:
        assert failed.log.stat().st_size > 0
        assert KEY not in failed.log.read_text(errors="replace")

    # release

    @area("release")
    def test_a_start_that_fails_leaves_nothing(self, failed: FailedStart) -> None:
        assert gone(failed.processes) == []
        assert failed.released
        assert ports.is_free("127.0.0.1", failed.port)

    # extra arguments

    @area("extra arguments")
    def test_extra_arguments_come_last_and_as_they_are(self, tested: Subject) -> None:
        words = ["--one", "two words", '{"three": 3}']
        usual = self._command(tested, extra_args=[])
        assert self._command(tested, extra_args=words).argv == [*usual.argv, *words]

    @area("extra arguments")
    def test_what_it_takes_is_no_problem_and_what_it_does_not_know_is_one(self, tested: Subject) -> None:
        engine = tested.load()
        given = [*tested.settings().extra_args, *tested.extra_args]
        assert list(check_extra_args(engine, tested.settings(extra_args=given))) == []
        unknown = [
            problem.what for problem in check_extra_args(engine, tested.settings(extra_args=["--no-such-option"]))
        ]
        if engine.parser is not None and not engine.parser.target.endswith(".py"):
            assert engine.distribution, "its version decides when the options are read anew"
        if engine.parser is None:  # then it says so itself, when it is started
            assert unknown == []
        else:
            assert unknown == [f"{engine.name} has no option --no-such-option"]

    @area("extra arguments")
    def test_what_has_a_setting_is_a_problem_that_names_the_setting(self, tested: Subject) -> None:
        engine = tested.load()
        for option, setting in engine.reserved_options.items():
            if is_secret_name(option.lstrip("-").removesuffix("s")):
                continue  # has a message of its own
            problems = list(check_extra_args(engine, tested.settings(extra_args=[option, "1"])))
            assert any(setting in problem.todo for problem in problems), option
            assert list(check_extra_args(engine, tested.settings(extra_args=[f"{option}=1"]))), option

    @pytest.fixture(scope="class")
    @classmethod
    def failed(cls, tested: Subject, tmp_path_factory: pytest.TempPathFactory) -> FailedStart:
        """What is left of a start with settings that are broken."""
        log = tmp_path_factory.mktemp("failed") / "engine.log"
        lease = ports.lease("127.0.0.1")
        lease.release()
        settings = tested.settings(**{**tested.broken, "api_key": KEY, "port": lease.port})
        deployment = Deployment(tested.load(), tested.model, settings, log=log, run_id=new_run_id())
        deployment.start()
        processes: list[psutil.Process] = []
        try:
            assert deployment.process is not None
            ended = watch_end(deployment.process.wait_started())
            processes = RunningServer(deployment, Endpoint("", NAME)).processes
            with pytest.raises(EngineError) as caught:
                deployment.wait_ready()
            reported_after_s = time.monotonic() - ended()
        finally:
            released = deployment.release()
        return FailedStart(caught.value, reported_after_s, log, lease.port, processes, bool(released))


class ServerConformance(EngineConformance):
    """What holds of an engine that serves here. Where there is a server already, override the fixture `server`."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tested: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
        """The engine, serving, for all tests that leave it as it is."""
        with started(tested, tested.path, tmp_path_factory.mktemp("server") / "engine.log") as server:
            yield server

    @area("readiness")
    def test_when_it_is_ready_it_is_healthy_and_answers(self, server: RunningServer) -> None:
        path, key = server.deployment.engine.health_path, None
        if path is None:
            path, key = "/v1/models", server.endpoint.api_key
        assert http.request(f"{server.root}{path}", api_key=key, direct=True).status == 200
        reply = server.chat(server.endpoint.api_key)
        assert reply.status == 200, reply.text
        assert reply.json["choices"][0]["message"]["role"] == "assistant"
        assert server.deployment.load_s is not None

    @area("readiness")
    def test_it_listens_at_the_address_that_it_was_given_and_at_no_other(self, server: RunningServer) -> None:
        listening = {
            connection.laddr.ip
            for process in server.processes
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == server.port
        }
        assert listening == {server.deployment.deploy.host}

    @area("readiness")
    def test_it_has_the_counters_by_which_a_hang_is_seen(self, server: RunningServer, tested: Subject) -> None:
        counters = tested.load().counters
        reply = http.request(f"{server.root}/metrics", api_key=server.endpoint.api_key, direct=True)
        names = {line.split("{")[0].split(" ")[0] for line in reply.text.splitlines() if not line.startswith("#")}
        for group in (counters.in_flight, counters.progress) if counters else ():
            assert set(group) & names, f"{reply.status}: none of {group}"

    @area("key")
    def test_without_its_key_it_answers_nobody(self, server: RunningServer) -> None:
        for key in (None, "sk-of-somebody-else"):
            assert server.chat(key).status in (401, 403)
            assert http.request(f"{server.endpoint.api_url}/models", api_key=key, direct=True).status in (401, 403)

    @area("key")
    def test_every_path_that_serves_is_closed_without_the_key(self, server: RunningServer) -> None:
        """Servers have more of them than one thinks of: vLLM answers `/invocations`, which is full inference."""
        listed = [path for path, methods in server.paths().items() if "POST" in methods]
        for path in {*listed, *KNOWN_PATHS}:
            url = server.root + path.replace("{", "").replace("}", "")
            status = http.request(url, body={}, timeout_s=60, direct=True).status
            assert status in (401, 403) or (path not in listed and status in NO_SUCH_PATH), f"{path}: {status}"

    @area("key")
    def test_nobody_can_read_its_key(self, server: RunningServer) -> None:
        key = server.endpoint.api_key
        assert len(key) > 16
        for process in server.processes:
            assert key not in " ".join(process.cmdline())
        assert key not in server.deployment.log.read_text(errors="replace")

    @area("served name")
    def test_it_lists_the_name_that_it_was_given(self, server: RunningServer) -> None:
        reply = http.request(f"{server.endpoint.api_url}/models", api_key=server.endpoint.api_key, direct=True)
        assert listed_models(reply.json) == [server.endpoint.model]

    @area("environment")
    def test_it_runs_in_an_empty_folder_of_its_own_with_a_temporary_one(self, server: RunningServer) -> None:
        assert server.deployment.process is not None
        leader = psutil.Process(server.deployment.process.leader)
        assert leader.cwd() != os.getcwd()
        assert leader.environ()["TMPDIR"].startswith(str(server.deployment.process.scratch))

    @pytest.fixture(scope="class")
    @classmethod
    def second(cls, tested: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
        """One more server, for the tests that end it; its checkpoint brings sampling defaults."""
        folder = tmp_path_factory.mktemp("second")
        path = with_sampling_defaults(tested.path, folder / "model")
        with started(tested, path, folder / "engine.log") as server:
            yield server

    @area("served name")
    def test_sampling_defaults_of_the_checkpoint_do_not_apply(self, second: RunningServer, tested: Subject) -> None:
        """Else results would change with a file that nobody looks at; it is seen where the model is a folder."""
        again = [second.chat(second.endpoint.api_key, max_tokens=SAMPLED_TOKENS).json for _ in range(2)]
        first, other = (answer["choices"][0]["message"]["content"] for answer in again)
        assert first == other, "temperature 0 was asked for"
        used = again[0].get("usage", {}).get("completion_tokens", SAMPLED_TOKENS)
        ended = again[0]["choices"][0].get("finish_reason") == "stop"
        assert used == SAMPLED_TOKENS or ended, "the checkpoint's max_new_tokens of 2 applied"
        # With a penalty of 9 it would not say again what stands in the question.
        plain, without = (second.says(REPEATING, SAMPLED_TOKENS, **more) for more in ({}, {"repetition_penalty": 1.0}))
        assert plain == without, "the checkpoint's repetition_penalty of 9 applied"

    @area("served name")
    def test_a_temperature_above_0_samples(self, second: RunningServer, tested: Subject) -> None:
        """Also where the checkpoint says something else, such as `do_sample: false`."""
        if tested.samples:
            sampled = [second.says(OPEN, 2 * SAMPLED_TOKENS, temperature=1.0) for _ in range(4)]
            assert len(set(sampled)) > 1, f"four times the same: {sampled[0]!r}"

    @area("release")
    def test_it_ends_on_sigterm_and_nothing_of_it_is_left(self, second: RunningServer) -> None:
        processes, port = second.processes, second.port
        process = second.deployment.process
        assert process is not None
        assert process.leader is not None
        ended = watch_end(process.leader)
        began = time.monotonic()
        os.kill(process.leader, signal.SIGTERM)
        assert ended() - began < ENDS_WITHIN_S
        released = second.deployment.release()
        assert released, json.dumps(released.problems())
        assert gone(processes, timeout_s=0) == []
        assert ports.is_free("127.0.0.1", port)
        assert not process.scratch.exists()


@contextlib.contextmanager
def started(tested: Subject, path: str, log: Path) -> Iterator[RunningServer]:
    """The engine, serving a model; at the end, it has to leave nothing."""
    settings = tested.settings(extra_args=[*tested.settings().extra_args, *tested.extra_args])
    model = tested.model.model_copy(update={"path": path})
    deployment = Deployment(tested.load(), model, settings, log=log, run_id=new_run_id())
    try:
        deployment.start()
        yield RunningServer(deployment, deployment.wait_ready())
    finally:
        released = deployment.release()
    assert released, json.dumps(released.problems())


def with_sampling_defaults(path: str, copy: Path) -> str:
    """A checkpoint with sampling defaults that would be seen; what is no folder stays as it is."""
    if not os.path.isdir(path):
        return path
    copy.mkdir()
    for item in Path(path).iterdir():
        (copy / item.name).symlink_to(item.resolve())
    defaults = copy / "generation_config.json"
    own = json.loads(defaults.read_text(encoding="utf-8")) if defaults.exists() else {}
    defaults.unlink(missing_ok=True)
    changed = {"do_sample": True, "temperature": 2.0, "repetition_penalty": 9.0, "max_new_tokens": 2}
    defaults.write_text(json.dumps({**own, **changed}), encoding="utf-8")
    return str(copy)
