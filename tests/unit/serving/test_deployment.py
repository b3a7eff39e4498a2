"""Deployments, with an engine of another package: from start to proven release, and every way it can go wrong."""

import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import openai
import psutil
import pytest
from rich.console import Console
from serving_fixtures import (
    NASTY_SIZE,
    SCRIPTED,
    SERVER,
    alive,
    below,
    bystander,
    journal,
    kill,
    read,
    returns_within,
    wait_until,
)

from evalscope_evalflow import ConfigError, EngineError, deploy
from evalscope_evalflow.cli.stop import stop_runs
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.secret_names import NO_KEY
from evalscope_evalflow.engines import Engine, known_engines, load_engine
from evalscope_evalflow.errors import Stopped
from evalscope_evalflow.processes import ports
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.serving import Deployment, http, start_server
from evalscope_evalflow.serving import deployment as deployment_module
from evalscope_evalflow.serving.engine_state import EngineState

QUESTION = [{"role": "user", "content": "Which letter?"}]


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """Makes a deployment of the scripted engine, with these arguments for its server."""
    monkeypatch.setattr(start_server, "GRACE_S", 0.5)
    made = []

    def make(*arguments, name="m", **options):
        options = {"stall_timeout_s": 30, "log_dir": tmp_path / "logs", **options}
        found = deploy("any/path", engine="scripted", name=name, extra_args=list(arguments), **options)
        made.append(found)
        return found

    yield make
    for found in made:
        if found.process is not None and not found.process.exited.is_set():
            kill(below(found.process.guard_pid) if psutil.pid_exists(found.process.guard_pid) else [])
            found.release()


@contextmanager
def watched(deployment):
    """Enter a deployment: (endpoint, its processes, guard included). At the end, nothing of it may be there."""
    with deployment as endpoint:
        tree = [psutil.Process(deployment.process.guard_pid), *below(deployment.process.guard_pid)]
        yield endpoint, tree
    assert_released(deployment, tree)


def assert_released(deployment, tree):
    assert not any(map(alive, tree))
    assert not deployment.process.scratch.exists()
    port = deployment.argv[deployment.argv.index("--port") + 1]
    lease = ports.lease("127.0.0.1", int(port))
    lease.release()
    assert lease.port == int(port), "the port, and our lease of it, is given back"


def ask(endpoint, **options):
    """One answer, over HTTP."""
    body = {"model": endpoint.model, "messages": QUESTION}
    return http.request(f"{endpoint.api_url}/chat/completions", api_key=endpoint.api_key, body=body, **options)


def failure(deployment, seconds=30):
    """The EngineError that entering a deployment ends with."""
    _, error = returns_within(seconds, deployment.__enter__, deployment.release)
    assert isinstance(error, EngineError), error
    return error


class TestEntryPoint:
    """An engine of another package is known by its metadata alone."""

    def test_known(self):
        assert known_engines()["scripted"].value == "evalflow_scripted:ScriptedEngine"
        assert isinstance(load_engine("scripted"), Engine)

    @pytest.mark.parametrize("path", [[], [str(SCRIPTED)]])
    def test_by_pythonpath(self, path):
        """Where its package is on the path, and nowhere else."""
        code = "from evalscope_evalflow.engines import known_engines; print('scripted' in known_engines())"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(bool(path))

    def test_its_checks_count(self):
        with pytest.raises(ConfigError, match="no path is given"):
            deploy(None, engine="scripted", name="m")


def test_without_any_model_what_to_give_is_told():
    with pytest.raises(
        ConfigError, match=r"deploy\(\): no model is given\n    Give a checkpoint folder or a .gguf file"
    ):
        deploy()


def test_with_block(scripted, tmp_path):
    deployment = scripted("--journal", str(tmp_path / "journal"), name="my-model")
    with bystander(), watched(deployment) as (endpoint, tree):
        assert endpoint.model == "my-model"
        assert endpoint.api_url.startswith("http://127.0.0.1:")
        assert endpoint.api_url.endswith("/v1")
        assert len(tree) == 2
        assert 0 < deployment.load_s < 30
        assert ask(endpoint).ok
    assert deployment.process.exit_code == 0
    assert [path for path, _ in journal(tmp_path / "journal")][-2:] == ["/v1/chat/completions"] * 2


def test_nothing_in_an_engines_environment_differs_from_start_to_start_without_need(scripted, monkeypatch):
    """Caches of compiled code depend on it, or lie where it says."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    seen = []
    for _ in range(2):
        with watched(scripted()) as (_, tree):
            seen.append(tree[1].environ())
    assert Path(seen[0]["TORCHINDUCTOR_CACHE_DIR"]).is_absolute()
    assert not seen[0]["TORCHINDUCTOR_CACHE_DIR"].startswith(seen[0]["TMPDIR"])
    differ = {name for name in {*seen[0], *seen[1]} if seen[0].get(name) != seen[1].get(name)}
    assert differ == {"TMPDIR", "EVALFLOW_RUN_ID", "SCRIPTED_API_KEY"}


def test_with_block_of_a_nasty_engine(scripted):
    """It ignores SIGTERM, and has a daemon and a child with no environment that do so too."""
    with bystander(), watched(scripted("--ignore-sigterm", "--daemon-children")) as (endpoint, tree):
        assert len(tree) == 1 + NASTY_SIZE
        assert ask(endpoint).ok


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_exception_in_the_block(scripted, kind):
    deployment = scripted("--daemon-children")
    with pytest.raises(kind, match="of the user"), watched(deployment) as (_, tree):
        raise kind("of the user")
    assert_released(deployment, tree)


def interrupt_when(condition, block):
    """Run a block, and press Ctrl-C as soon as a condition holds."""

    def press():
        wait_until(condition, "the moment to press Ctrl-C")
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            block()
    finally:
        thread.join()
        signal.signal(signal.SIGINT, handler)


def test_ctrl_c_in_the_block(scripted):
    deployment = scripted("--daemon-children")
    tree, inside = [], threading.Event()

    def block():
        with watched(deployment) as (_, found):
            tree.extend(found)
            inside.set()
            threading.Event().wait(30)

    interrupt_when(inside.is_set, block)
    assert len(tree) == 1 + NASTY_SIZE
    assert_released(deployment, tree)


def test_ctrl_c_while_it_starts(scripted):
    deployment = scripted("--daemon-children", "--silent-stall")

    def block():
        with deployment:
            pytest.fail("it cannot get ready")

    interrupt_when(lambda: "the children are up" in read(deployment.log), block)
    assert deployment.process.exited.is_set()
    assert not deployment.process.scratch.exists()
    assert deployment.process.left == []


def test_ctrl_c_while_it_answers(scripted):
    """In the middle of the first request, which takes its time."""
    deployment = scripted("--hang-after", "0")

    def block():
        with deployment:
            pytest.fail("it cannot get ready")

    interrupt_when(lambda: "/v1/models" in read(deployment.log), block)
    assert deployment.process.exited.is_set()


def test_nothing_runs_before_it_is_entered(scripted):
    deployment = scripted()
    assert deployment.process is None
    assert not deployment.log.exists()
    assert deployment.release()


def test_released_twice(scripted):
    deployment = scripted()
    with deployment:
        assert deployment.release()
    assert deployment.release()


def test_it_ends_with_its_last_lease(scripted):
    """Of several runs that use an engine, each gives back its own lease."""
    deployment = scripted()
    deployment.start()
    with pytest.raises(EngineError, match="is starting, not ready"):
        deployment.lease("too early")
    endpoint = deployment.wait_ready()
    (first,) = deployment.leases.held
    second = deployment.lease("run-2")
    assert deployment.keep() is None, "others use it"
    assert deployment.give_back(first) is None
    assert ask(endpoint).ok
    assert deployment.state is EngineState.READY
    assert deployment.give_back(second)
    assert deployment.state is EngineState.RELEASED
    assert 0 < second.device_s < first.device_s + second.device_s
    assert first.returned < second.returned


def test_used_twice(scripted):
    deployment = scripted()
    for _ in range(2):
        with watched(deployment) as (endpoint, _):
            assert ask(endpoint).ok


class TestKeys:
    def test_random_key_is_asked_for(self, scripted):
        with scripted() as endpoint:
            assert len(endpoint.api_key) > 30
            listing = f"{endpoint.api_url}/models"
            assert http.request(listing, api_key=endpoint.api_key).status == 200
            assert http.request(listing).status == 401
            assert http.request(listing, api_key=NO_KEY).status == 401

    def test_another_key_every_time(self, scripted):
        assert scripted().api_key != scripted().api_key

    def test_key_of_the_user(self, scripted, monkeypatch):
        monkeypatch.setenv("MY_KEY", "sk-mine")
        with scripted(api_key="${MY_KEY}") as endpoint:
            assert endpoint.api_key == "sk-mine"
            assert http.request(f"{endpoint.api_url}/models", api_key="sk-mine").ok

    def test_empty_means_none(self, scripted):
        assert scripted(api_key=NO_KEY).api_key not in (NO_KEY, "", None)

    def test_key_is_in_no_command_line_and_no_log(self, scripted):
        with watched(scripted("--daemon-children=kept", "--print-key")) as (endpoint, tree):
            for process in tree:
                assert endpoint.api_key not in "\0".join(process.cmdline())
            assert endpoint.api_key not in repr(endpoint)
        log = read(scripted().log)
        assert "the key is **********\n" in log
        assert "in two halves it is **********\n" in log
        assert endpoint.api_key not in log

    def test_key_is_in_no_error(self, scripted):
        deployment = scripted("--print-key", "--exit-after-start", "1")
        error = str(failure(deployment))
        assert deployment.api_key not in error
        assert "**********" in error


class TestClient:
    def test_answers(self, scripted):
        with scripted() as endpoint, endpoint.client() as client:
            assert [model.id for model in client.models.list()] == ["m"]
            answer = client.chat.completions.create(model=endpoint.model, messages=QUESTION)
            assert answer.choices[0].message.content.startswith("ANSWER: ")
            assert answer.usage.total_tokens > 0

    def test_streams_the_same(self, scripted):
        with scripted() as endpoint, endpoint.client() as client:
            whole = client.chat.completions.create(model=endpoint.model, messages=QUESTION)
            parts = client.chat.completions.create(model=endpoint.model, messages=QUESTION, stream=True)
            text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
            assert text == whole.choices[0].message.content

    def test_ignores_proxies(self, scripted, monkeypatch):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with scripted() as endpoint, endpoint.client(max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["m"]

    def test_options(self, scripted):
        with (
            scripted("--answer-seconds", "0.5") as endpoint,
            endpoint.client(max_retries=0, timeout=0.1) as client,
            pytest.raises(openai.APITimeoutError),
        ):
            client.chat.completions.create(model=endpoint.model, messages=QUESTION)


class TestFailures:
    @pytest.mark.parametrize("code", [0, 1, 9])
    def test_exit_while_starting(self, scripted, code):
        """Said within 2 s of the exit, with cause, hint, last lines, log and command."""
        deployment = scripted("--load-seconds", "0.5", "--exit-after-start", str(code))
        error = failure(deployment)
        noticed = time.time()
        text = str(error)
        assert f"scripted stopped while it was starting (exit code {code}, after " in text
        assert f"the script says: told to end with code {code}" in text
        assert "\n    Change the script." in text
        assert f"\n    ScriptedError: told to end with code {code}" in text
        assert f"\n  log: {deployment.log}" in text
        (command,) = [line for line in text.splitlines() if line.startswith("  command: ")]
        assert command.endswith(shlex.join(deployment.argv))
        assert str(SERVER) in text
        assert deployment.api_key not in text
        assert noticed - deployment.log.stat().st_mtime < 2, "its last line was written when it ended"
        assert deployment.process.exited.is_set()
        assert not deployment.process.scratch.exists()

    def test_the_command_is_told_with_its_variables_and_without_keys(self, scripted, monkeypatch):
        """So that it can be run by hand. A reference may be to a key, under whatever name."""
        monkeypatch.setenv("ANY_NAME", "of-a-key")
        variables = {"THREADS": "1 or 2", "HF_TOKEN": "sk-secret", "REFERENCE": "${ANY_NAME}"}
        deployment = scripted("--exit-after-start", "1", env_vars=variables, devices="0,1")
        text = str(failure(deployment))
        (command,) = [line for line in text.splitlines() if line.startswith("  command: ")]
        assert command.startswith("  command: CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,1 ")
        assert command.endswith(f"THREADS='1 or 2' REFERENCE='${{ANY_NAME}}' {shlex.join(deployment.argv)}")
        assert not any(key in text for key in ("sk-secret", "of-a-key", deployment.api_key))

    def test_killed_while_starting(self, scripted):
        deployment = scripted("--daemon-children", "--silent-stall")
        deployment.start()
        wait_until(lambda: "the children are up" in read(deployment.log), "the start")
        tree = below(deployment.process.guard_pid)
        os.kill(deployment.process.wait_started(), signal.SIGKILL)
        with pytest.raises(EngineError, match=r"exit code 137, after \d+ s\): it was killed by somebody") as caught:
            deployment.wait_ready()
        assert "the children are up" not in str(caught.value).splitlines()[0], "its last line is not the cause"
        deployment.release()
        assert_released(deployment, tree)

    def test_program_that_does_not_exist(self, scripted, monkeypatch):
        deployment = scripted()
        command = deployment.engine.command
        monkeypatch.setattr(
            deployment.engine,
            "command",
            lambda *args: type(command(*args))(["/no/such/engine", *command(*args).argv[1:]]),
        )
        error = str(failure(deployment))
        assert "exit code 127" in error
        assert "cannot run /no/such/engine" in error

    def test_stall(self, scripted):
        deployment = scripted("--silent-stall", "--daemon-children", stall_timeout_s=1.5)
        error = str(failure(deployment))
        assert "no progress" in error
        assert str(deployment.log) in error
        assert deployment.process.exited.is_set()
        assert not deployment.process.scratch.exists()

    def test_wrong_name(self, scripted):
        deployment = scripted("--wrong-name")
        assert "serves not-m, not m" in str(failure(deployment))
        assert deployment.process.exited.is_set()

    def test_chat_is_refused(self, scripted):
        deployment = scripted("--reject-chat", "400:no chat template is set")
        assert "refuses a chat request (400): no chat template is set" in str(failure(deployment))
        assert deployment.process.exited.is_set()

    def test_flood_while_starting(self, scripted):
        with watched(scripted("--flood", "5000000")) as (endpoint, _):
            assert ask(endpoint).ok
        assert scripted().log.stat().st_size > 5_000_000

    def test_an_earlier_runs_log_explains_nothing(self, scripted):
        deployment = scripted("--exit-after-start", "4")
        deployment.log.parent.mkdir(parents=True)
        deployment.log.write_text("OSError: [Errno 98] Address already in use\nScriptedError: of another day\n")
        error = failure(deployment)
        assert type(error) is EngineError
        assert "the script says: told to end with code 4" in str(error)
        assert "Address already in use" not in str(error)
        assert "of another day" not in str(error)

    def test_death_while_serving(self, scripted):
        told, other = threading.Event(), threading.Event()
        deployment = scripted("--daemon-children", "--die-after-requests", "1")
        tree = []

        def use():
            with deployment as endpoint:
                deployment.lease("another run", told.set)
                deployment.lease("a third one", other.set)
                tree.extend(below(deployment.process.guard_pid))
                assert ask(endpoint).status == 0
                assert told.wait(20)
                assert other.wait(20)
                assert deployment.state is EngineState.FAILED
                assert not any(map(alive, tree))

        with pytest.raises(EngineError, match=r"stopped while it was in use \(exit code 137"):
            use()
        assert_released(deployment, tree)

    def test_an_error_that_may_come_of_its_death_is_not_hidden_by_it(self, scripted):
        def use():
            with scripted("--die-after-requests", "1") as endpoint:
                client = endpoint.client().with_options(max_retries=0)
                client.chat.completions.create(model=endpoint.model, messages=QUESTION)

        with (
            pytest.warns(RuntimeWarning, match="stopped while it was in use"),
            pytest.raises(openai.APIConnectionError),
        ):
            use()

    def test_a_stop_is_told_to_whoever_uses_it(self, scripted):
        def use():
            with scripted() as endpoint:
                assert stop_runs(None, Console(file=io.StringIO()))
                assert ask(endpoint).status == 0

        with pytest.raises(Stopped, match="was stopped by `evalflow stop` while it was in use"):
            use()

    def test_requests_that_hang_do_not_delay_the_release(self, scripted):
        deployment = scripted("--hang-after", "1")
        with deployment as endpoint:
            asking = threading.Thread(target=lambda: ask(endpoint, timeout_s=60), daemon=True)
            asking.start()
            wait_until(lambda: "scripted_requests_running 1" in metrics(endpoint), "the request")
            _, error = returns_within(20, deployment.release, lambda: None)
            assert error is None
            asking.join(20)
            assert not asking.is_alive()


def metrics(endpoint):
    return http.request(endpoint.api_url.removesuffix("/v1") + "/metrics").text


class TestPorts:
    def test_first_choice(self, scripted):
        lease = ports.lease("127.0.0.1")
        lease.release()
        with scripted(port=lease.port) as endpoint:
            assert endpoint.api_url == f"http://127.0.0.1:{lease.port}/v1"

    def test_next_one(self, scripted):
        with scripted() as first:
            taken = int(first.api_url.split(":")[-1].removesuffix("/v1"))
            with scripted(port=taken) as second:
                assert int(second.api_url.split(":")[-1].removesuffix("/v1")) > taken
                assert ask(first).ok
                assert ask(second).ok

    @pytest.fixture
    def clash(self, api, monkeypatch):
        """A port that is taken in the moment after it was found to be free."""
        taken = int(api.root.rsplit(":", 1)[1])
        is_free = ports.is_free
        lies = [True]
        monkeypatch.setattr(ports, "is_free", lambda host, port: bool(lies and lies.pop()) or is_free(host, port))
        return taken

    def test_clash(self, scripted, clash):
        """The engine cannot bind it; it is started again, with another."""
        deployment = scripted(port=clash)
        with watched(deployment) as (endpoint, _):
            assert endpoint.api_url != f"http://127.0.0.1:{clash}/v1"
            assert ask(endpoint).ok
        assert "Address already in use" in read(deployment.log)

    def test_clash_with_a_model_server(self, scripted, clash, api):
        """Whoever has the port answers as one would; ours is the one that has to."""
        api.replies["/health"] = (200, {})
        api.models = ["another"]
        with watched(scripted(port=clash)) as (endpoint, _):
            assert ask(endpoint).ok

    def test_clash_with_a_server_of_the_same_model(self, scripted, clash, api):
        """Somebody else's, who asks for no key: it must not be taken for ours."""
        api.replies["/health"] = (200, {})
        with watched(scripted(port=clash)) as (endpoint, _):
            assert endpoint.api_url != api.url
            assert ask(endpoint).ok

    def test_first_start_is_not_told_as_an_exit(self, scripted, tmp_path):
        """To the one who waits for the end of the engine, an engine that was started anew lives."""
        told = []
        deployment = scripted("--bind-fails-once", str(tmp_path / "once"))
        deployment._request = replace(deployment._request, on_exit=lambda: told.append("exit"))
        with deployment as endpoint:
            assert (tmp_path / "once").exists()
            assert ask(endpoint).ok
            assert told == []
            assert deployment.restarts == 1
        assert told == ["exit"]

    def test_always(self, scripted):
        deployment = scripted("--bind-fails")
        error = failure(deployment)
        assert "the port is taken" in str(error)
        assert read(deployment.log).count("Address already in use") == deployment_module.START_ATTEMPTS
        assert deployment.process.exited.is_set()

    def test_no_address_to_bind(self, scripted):
        with (
            pytest.raises(ConfigError, match=r"deploy\.port: cannot listen at 192\.0\.2\.1"),
            scripted(host="192.0.2.1"),
        ):
            pytest.fail("it cannot start")

    def test_every_address(self, scripted):
        """It binds them all; we go by loopback."""
        with scripted(host="0.0.0.0") as endpoint:
            assert endpoint.api_url.startswith("http://127.0.0.1:")
            assert ask(endpoint).ok

    def test_ipv6(self, scripted):
        with scripted(host="::1") as endpoint:
            assert endpoint.api_url.startswith("http://[::1]:")
            assert ask(endpoint).ok

    def test_lease_is_given_back_if_there_is_no_command(self, scripted, monkeypatch):
        leased = []
        lease = ports.lease
        monkeypatch.setattr(ports, "lease", lambda *args: leased.append(lease(*args)) or leased[-1])
        deployment = scripted()

        def fail(*_):
            raise RuntimeError("the engine's package has a fault")

        monkeypatch.setattr(deployment.engine, "command", fail)
        with pytest.raises(RuntimeError, match="has a fault"), deployment:
            pytest.fail("it cannot start")
        (first,) = leased
        again = lease("127.0.0.1", first.port)
        again.release()
        assert again.port == first.port


class TestSettings:
    def environment(self, deployment):
        """The environment of the engine's process."""
        return psutil.Process(deployment.process.wait_started()).environ()

    def test_variables(self, scripted, monkeypatch):
        monkeypatch.setenv("OF_THE_USER", "1")
        deployment = scripted(env_vars={"OF_THE_ENGINE": 2}, devices=[0, 3])
        with deployment:
            env = self.environment(deployment)
            assert (env["OF_THE_USER"], env["OF_THE_ENGINE"]) == ("1", "2")
            assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("0,3", "PCI_BUS_ID")
            assert env["TMPDIR"] == str(deployment.process.scratch)

    def test_all_devices(self, scripted, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        deployment = scripted()
        with deployment:
            assert "CUDA_VISIBLE_DEVICES" not in self.environment(deployment)

    def test_log_folder(self, scripted, tmp_path):
        deployment = scripted(log_dir=tmp_path / "some" / "where")
        with deployment:
            assert deployment.log == tmp_path / "some" / "where" / "engine.log"
            assert "listening on" in read(deployment.log)

    def test_log_folder_of_the_user(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        found = deploy("any/path", engine="scripted")
        assert found.log.is_relative_to(tmp_path)
        assert found.log.name == "engine.log"

    def test_name(self):
        assert deploy("some/where/my-model/", engine="scripted").model.name == "my-model"

    def test_runs_have_different_names(self):
        assert len({new_run_id() for _ in range(100)}) == 100


def test_remote(api):
    """An API that runs elsewhere is checked, used and left alone."""
    api.key = "sk-theirs"
    deployment = deploy("m", api_url=f"{api.url}/chat/completions", api_key="sk-theirs")
    with deployment as endpoint:
        assert (endpoint.api_url, endpoint.model, endpoint.api_key) == (api.url, "m", "sk-theirs")
        assert deployment.process is None
        with endpoint.client() as client:
            assert [model.id for model in client.models.list()] == ["m"]
    assert http.request(f"{api.url}/models", api_key="sk-theirs").ok


def test_remote_that_refuses(api):
    api.key = "sk-theirs"
    with pytest.raises(ConfigError, match="401") as caught:
        deploy("m", api_url=api.url, api_key="sk-wrong")
    assert "sk-wrong" not in str(caught.value)


def test_two_at_a_time(scripted, tmp_path):
    """Each has its own port, key, folder and end."""
    one, other = scripted(), scripted(log_dir=tmp_path / "other")
    with watched(other) as (there, _):
        with watched(one) as (here, _):
            assert here.api_url != there.api_url
            assert http.request(f"{here.api_url}/models", api_key=there.api_key).status == 401
        assert ask(there).ok


def test_start_and_wait_apart(tmp_path):
    """As a flow does it: what can be done meanwhile is done meanwhile."""
    model, settings = ModelConfig(name="m", path="any"), DeployConfig(engine="scripted")
    deployment = Deployment(load_engine("scripted"), model, settings, log=tmp_path / "engine.log", run_id=new_run_id())
    key = deployment.api_key
    try:
        deployment.start()
        endpoint = deployment.wait_ready()
        assert endpoint.api_key == key
        assert deployment.wait_ready() == endpoint
        assert Path(deployment.argv[1]) == SERVER
    finally:
        assert deployment.release()
