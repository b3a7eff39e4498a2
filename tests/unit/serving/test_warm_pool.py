"""Engines that are kept after their use: taken again, ended in time, and in nobody's way."""

import os
import re
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager

import psutil
import pytest
from fake_nvml import Driver
from rich.console import Console
from serving_fixtures import SCRIPTED, alive, below, kill, read, wait_gone, wait_until

from evalscope_evalflow import deploy, release_kept
from evalscope_evalflow.cli.ps import show_runs
from evalscope_evalflow.cli.stop import stop_runs
from evalscope_evalflow.processes import ports, registry
from evalscope_evalflow.serving import http, start_server
from evalscope_evalflow.serving.warm_pool import POOL

KEEP_S = 60.0


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch):
    monkeypatch.setattr(start_server, "GRACE_S", 0.5)
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        release_kept()


@pytest.fixture
def scripted(tmp_path):
    """Makes a deployment of the scripted engine that is kept, with these arguments for its server."""
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"weights")

    def make(*arguments, name="m", log="logs", **options):
        options = {"stall_timeout_s": 30, "log_dir": tmp_path / log, "keep_alive_s": KEEP_S, **options}
        return deploy(str(checkpoint), engine="scripted", name=name, extra_args=list(arguments), **options)

    return make


class Used:
    """What an engine was, in one use of it."""

    def __init__(self, deployment, endpoint):
        self.leader = psutil.Process(deployment.process.wait_started())
        self.guard = psutil.Process(deployment.process.guard_pid)
        self.tree = [self.guard, *below(self.guard.pid)]
        self.endpoint, self.reused, self.notes = endpoint, deployment.reused, list(deployment.notes)
        deployment.notes.clear()
        self.scratch = deployment.process.scratch
        assert ask(endpoint).ok


def ask(endpoint):
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": "Which letter?"}]}
    return http.request(f"{endpoint.api_url}/chat/completions", api_key=endpoint.api_key, body=body)


def use(deployment):
    """Serve, ask once, let go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has become of kept engines; it is in `notes`, too
        with deployment as endpoint:
            return Used(deployment, endpoint)


def can_lease(port):
    lease = ports.lease("127.0.0.1", port)
    lease.release()
    return lease.port == port


def assert_gone(used, seconds=15):
    wait_gone(used.tree, seconds)
    wait_until(lambda: not used.scratch.exists(), "the removal of its folder")


def entries():
    return [(entry.model, entry.phase) for entry in registry.entries()]


class TestReuse:
    def test_the_same_engine(self, scripted, tmp_path):
        first = use(scripted())
        [(model, phase)] = entries()
        assert model == "m"
        assert phase.startswith(f"kept until {time.strftime('%Y-%m-%d')}")
        began = time.monotonic()
        deployment = scripted(log="other")
        second = use(deployment)
        assert time.monotonic() - began < 2
        assert second.leader == first.leader
        assert second.endpoint == first.endpoint, "address and key"
        assert (first.reused, second.notes) == (None, [])
        assert second.reused is not None
        assert deployment.load_s < 1
        assert [model for model, _ in entries()] == ["m"]
        third = use(scripted())
        assert (third.leader, third.reused) == (first.leader, second.reused)
        assert release_kept()
        assert_gone(first, seconds=0.1)
        assert entries() == []

    def test_each_use_has_its_log(self, scripted, tmp_path):
        use(scripted())
        use(scripted(log="other"))
        assert read(tmp_path / "logs" / "engine.log").count("listening on") == 1
        other = read(tmp_path / "other" / "engine.log")
        assert "listening on" not in other
        assert other.count("POST /v1/chat/completions") == 2, "whether it answers, and ours"

    def test_a_deployment_may_be_entered_again(self, scripted):
        deployment = scripted()
        assert use(deployment).leader == use(deployment).leader

    def test_while_it_is_used_it_is_the_users(self, scripted):
        use(scripted())
        deployment = scripted()
        with deployment:
            assert POOL.engines() == []
            [entry] = registry.entries()
            assert (entry.run_id, entry.phase) == (deployment.run_id, "ready")
            assert entry.commands["engine"].guard.pid == deployment.process.guard_pid
            assert release_kept() == []
            assert deployment.is_ready

    def test_the_last_one_keeps_nothing(self, scripted):
        first = use(scripted())
        second = use(scripted(keep_alive_s=0))
        assert second.leader == first.leader
        assert_gone(first, seconds=0.1)
        assert (entries(), POOL.engines()) == ([], [])

    def test_two_at_once(self, scripted):
        """One is taken by one of them alone."""
        first = use(scripted(devices="0"))
        found = []
        barrier = threading.Barrier(2)

        def run(log):
            deployment = scripted(log=log, devices="0")
            barrier.wait()
            with deployment as endpoint:
                found.append(Used(deployment, endpoint))
                barrier.wait()

        threads = [threading.Thread(target=run, args=(log,)) for log in ("a", "b")]
        [thread.start() for thread in threads]
        [thread.join(30) for thread in threads]
        assert sorted(used.leader == first.leader for used in found) == [False, True]
        assert len(release_kept()) == 2
        assert_gone(found[0], 1)
        assert_gone(found[1], 1)


class TestAnother:
    @contextmanager
    def changed(self, scripted, why, **options):
        """Another engine is started, for this reason; the first one has gone before."""
        first = use(scripted())
        yield
        second = use(scripted(**options))
        assert second.leader != first.leader
        assert_gone(first, seconds=0.1)
        assert any(why in note for note in second.notes), second.notes

    def test_checkpoint(self, scripted, tmp_path):
        with self.changed(scripted, "the checkpoint changed"):
            (tmp_path / "model" / "model.safetensors").write_bytes(b"WEIGHTS")

    def test_settings(self, scripted):
        with self.changed(scripted, "deploy.max_num_seqs changed", max_num_seqs=3):
            pass

    def test_key(self, scripted):
        with self.changed(scripted, "the key changed", api_key="sk-mine"):
            pass

    def test_variable_of_the_engine(self, scripted):
        with self.changed(scripted, "the variable OF_THE_ENGINE changed", env_vars={"OF_THE_ENGINE": "1"}):
            pass

    def test_variable_of_the_process(self, scripted, monkeypatch):
        with self.changed(scripted, "the variable OF_THE_USER changed"):
            monkeypatch.setenv("OF_THE_USER", "1")

    def test_file_among_the_arguments(self, scripted, tmp_path):
        adapter = tmp_path / "answer"
        adapter.write_text("one")
        first = use(scripted("--answer", str(adapter)))
        adapter.write_text("another")
        second = use(scripted("--answer", str(adapter)))
        assert second.leader != first.leader

    def test_patience_makes_no_other(self, scripted):
        first = use(scripted())
        assert use(scripted(stall_timeout_s=77, max_restarts=0, keep_alive_s=9)).leader == first.leader

    def test_model(self, scripted):
        with self.changed(scripted, "its devices may be needed", name="other"):
            pass

    def test_model_on_other_devices(self, scripted):
        first = use(scripted(devices="0"))
        second = use(scripted(devices="1,2", name="other"))
        third = use(scripted(devices="2,3", name="third"))
        assert alive(first.leader)
        assert_gone(second, seconds=0.1)
        assert use(scripted(devices="0")).leader == first.leader
        assert alive(third.leader)


class TestEnd:
    def test_time(self, scripted):
        first = use(scripted(keep_alive_s=1.0))
        assert alive(first.leader)
        assert_gone(first)
        wait_until(lambda: entries() == [], "the end of its entry")
        port = int(first.endpoint.api_url.rsplit(":", 1)[1].removesuffix("/v1"))
        wait_until(lambda: can_lease(port), "the end of the lease of its port")

    def test_error(self, scripted):
        deployment = scripted()
        endpoint = deployment.__enter__()
        used = Used(deployment, endpoint)
        deployment.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert_gone(used, seconds=0.1)
        assert POOL.engines() == []

    def test_sick(self, scripted):
        deployment = scripted("--sick-after", "1")
        with deployment as endpoint:
            with pytest.raises(AssertionError):
                Used(deployment, endpoint)
            tree = below(deployment.process.guard_pid)
        assert not any(map(alive, tree))
        assert POOL.engines() == []

    def test_death(self, scripted):
        first = use(scripted())
        first.leader.kill()
        wait_until(lambda: POOL.engines() == [], "the news of its death")
        assert_gone(first)
        second = use(scripted())
        assert second.leader != first.leader
        assert len(second.notes) == 1
        assert "died while nobody used it (exit code 137): " in second.notes[0]
        assert use(scripted()).notes == []

    def test_silence(self, scripted, monkeypatch):
        """Its process lives, and answers no more."""
        monkeypatch.setattr("evalscope_evalflow.serving.server.ANSWER_TIMEOUT_S", 0.5)
        first = use(scripted("--hang-after", "2"))  # readiness, and ours
        second = use(scripted("--hang-after", "2"))
        assert second.leader != first.leader
        assert second.notes == ["the scripted with m that was kept does not answer any more; a new one is started"]
        assert_gone(first, seconds=0.1)

    def test_guard(self, scripted):
        """SIGKILL, to the guard of an engine with a daemon that has no environment."""
        first = use(scripted("--daemon-children"))
        [kept] = POOL.engines()
        wait_until(lambda: {p.pid for p in first.tree[1:]} <= set(kept.server.process.tree), "the guard's look at them")
        first.guard.kill()
        assert_gone(first)
        assert use(scripted("--daemon-children")).leader != first.leader

    def test_stop(self, scripted, tmp_path):
        first = use(scripted())
        with (tmp_path / "said").open("w") as file:
            show_runs(Console(file=file, width=300))
            assert stop_runs("m", Console(file=file, width=300))
        said = read(tmp_path / "said")
        assert "kept until" in said
        assert "is stopped; nothing of it runs any more" in said
        assert_gone(first, seconds=2)
        assert any("ended by somebody else" in note for note in use(scripted()).notes)


# Uses the scripted engine once; arguments: folder for logs, seconds, more code.
OWNER = """
import json, os, sys, time
from evalscope_evalflow import deploy
from evalscope_evalflow.serving import start_server
start_server.GRACE_S = 0.3
log, seconds, code = sys.argv[1:]
deployment = deploy("any/path", engine="scripted", name="m", log_dir=log, keep_alive_s=float(seconds),
                    extra_args=["--daemon-children", "--ignore-sigterm"])
with deployment:
    guard = deployment.process.guard_pid
print(json.dumps(guard), flush=True)
exec(code)
"""


class TestOwner:
    @contextmanager
    def owner(self, tmp_path, code):
        """A process that keeps an engine: (it, what lives below its guard, guard included)."""
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path / "log"), "600", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SCRIPTED)},
        )
        tree = []
        try:
            guard = int(process.stdout.readline())
            tree = [psutil.Process(guard), *below(guard)]
            yield process, tree
        finally:
            process.kill()
            process.wait()
            kill(tree)

    def test_exit(self, tmp_path):
        """At once, with nothing left: nobody waits for the end of its time."""
        with self.owner(tmp_path, "sys.stdin.readline()") as (process, tree):
            assert len(tree) == 4
            process.communicate(timeout=20)
            assert process.returncode == 0
            assert not any(map(alive, tree))
            assert registry.entries() == []

    @pytest.mark.parametrize("how", ["kill", "terminate"])
    def test_killed(self, tmp_path, how):
        with self.owner(tmp_path, "time.sleep(600)") as (process, tree):
            getattr(process, how)()
            process.wait(20)
            wait_gone(tree)

    def test_exit_of_a_forked_child(self, tmp_path):
        code = "if not os.fork(): sys.exit()\nos.wait(); print('forked', flush=True); time.sleep(60)"
        with self.owner(tmp_path, code) as (process, tree):
            assert process.stdout.readline() == b"forked\n"
            assert all(map(alive, tree))


# On a device of the scripted driver: what preflight says of a second model there, and what becomes of the first one.
DEVICES = """
import json, os, sys, warnings
from evalscope_evalflow import ConfigError, deploy
from evalscope_evalflow.serving.warm_pool import POOL
state, log = sys.argv[1:]
warnings.simplefilter("ignore")

def write(*lines):
    with open(state + ".new", "w") as file:
        file.write("".join(f"{line}\\n" for line in lines))
    os.replace(state + ".new", state)

def busy(number, pid):
    return [f"device GPU-{number} 81559 70000 NVIDIA H100 80GB HBM3", f"process GPU-{number} compute {pid} 70000"]

def make(name, devices):
    return deploy("any/path", engine="scripted", name=name, log_dir=log, keep_alive_s=60, devices=devices)

free = [f"device GPU-{number} 81559 4 NVIDIA H100 80GB HBM3" for number in range(2)]
write(*free)
first = make("m", "0")
with first:
    process = first.process
    write(*busy(0, process.wait_started()), free[1])
found = {}
for devices in ("0", "GPU-0", "auto", "all"):
    try:
        make("other", devices)
        found[devices] = "fits"
    except ConfigError as error:
        found[devices] = str(error)
found["alive"] = not process.exited.is_set()
with make("there", "1"):
    pass
found["kept"] = [kept.model.name for kept in POOL.engines()]
second = make("other", "GPU-0")
look = second.start
def start():
    look()
    found["gone before"] = process.exited.is_set()
second.start = start
write(*free)
with second:
    pass
found["in the end"] = [kept.model.name for kept in POOL.engines()]
print(json.dumps(found))
"""


def test_devices(tmp_path, tmp_path_factory):
    """A kept engine's memory is no obstacle to the next model, nor is the engine ended for one that has others."""
    driver = Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)
    found = driver.python(DEVICES, str(driver.state), str(tmp_path / "log"), env={"PYTHONPATH": str(SCRIPTED)})
    assert found == {
        "0": "fits", "GPU-0": "fits", "auto": "fits", "all": "fits", "alive": True, "kept": ["m", "there"],
        "gone before": True, "in the end": ["there", "other"],
    }  # fmt: skip


def test_what_is_asked(scripted, tmp_path):
    """For its health when it is put away and taken, and for one token when it is taken: no start's checks."""
    use(scripted())
    before = len(requests(tmp_path))
    use(scripted())
    assert requests(tmp_path)[before:] == ["/health", "/v1/chat/completions", "/v1/chat/completions", "/health"]


def requests(tmp_path):
    """The paths that the server was asked for, by its log."""
    return re.findall(r'"(?:GET|POST) (\S+) HTTP', read(tmp_path / "logs" / "engine.log"))
