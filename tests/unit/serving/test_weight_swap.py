"""A kept engine goes on with another checkpoint's weights, or a new one is started: never anything between."""

import hashlib
import os
import signal
import threading
import warnings
from pathlib import Path

import checkpoints
import psutil
import pytest
from rich.console import Console
from serving_fixtures import alive, below, read, wait_gone, wait_until

from evalscope_evalflow import deploy, release_kept
from evalscope_evalflow.cli.stop import stop_runs
from evalscope_evalflow.errors import Stopped
from evalscope_evalflow.processes import registry
from evalscope_evalflow.serving import http, start_server
from evalscope_evalflow.serving.engine_state import EngineState
from evalscope_evalflow.serving.warm_pool import POOL

CONFIG = checkpoints.dense(64, 1, 4, 2, 128, vocab_size=64, tie_word_embeddings=True)
TENSORS = list(checkpoints.tensors(CONFIG))


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch):
    monkeypatch.setattr(start_server, "GRACE_S", 0.5)
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        release_kept()


@pytest.fixture
def make(tmp_path):
    """Makes a checkpoint whose weights are of its name's own, and the deployment of it, which is kept."""

    def begin(name, *arguments, config=None, tensors=TENSORS, **options):
        folder = tmp_path / name
        if not folder.exists():
            checkpoints.write_random(folder, {**CONFIG, **(config or {})}, tensors)
        options = {"stall_timeout_s": 30, "log_dir": tmp_path / "logs", "keep_alive_s": 60.0, **options}
        return deploy(str(folder), engine="scripted-swap", extra_args=["--answer", "{weights}", *arguments], **options)

    return begin


class Used:
    """What an engine was, in one use of it: its process and those below, and its weights."""

    def __init__(self, deployment, endpoint):
        self.pid = deployment.process.wait_started()
        guard = psutil.Process(deployment.process.guard_pid)
        self.tree = [guard, *below(guard.pid)]
        self.weights, self.notes = deployment.weights, list(deployment.notes)
        self.reused, self.scratch = deployment.reused, deployment.process.scratch
        self.server, self.served = deployment.server, endpoint.model
        deployment.notes.clear()
        body = {"model": endpoint.model, "messages": [{"role": "user", "content": "Which weights?"}]}
        reply = http.request(f"{endpoint.api_url}/chat/completions", api_key=endpoint.api_key, body=body)
        assert reply.json["model"] == endpoint.model == deployment.model.name
        own = checkpoints.weights_hash(deployment.model.path)
        assert reply.json["choices"][0]["message"]["content"] == own, "it is another's answer"


def use(deployment):
    """Serve, ask once, let go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has become of kept engines; it is in `notes`, too
        with deployment as endpoint:
            return Used(deployment, endpoint)


def assert_gone(used):
    wait_gone(used.tree, 5)
    wait_until(lambda: not used.scratch.exists(), "the removal of its folder")


class TestSwap:
    def test_there_and_back(self, make):
        first, second, again = use(make("a")), use(make("b")), use(make("a"))
        assert first.pid == second.pid == again.pid
        assert [used.served for used in (first, second, again)] == ["a", "b", "a"]
        assert [used.notes for used in (first, second, again)] == [[], [], []]
        assert [used.weights.took_from for used in (first, second, again)] == ["", "a", "b"]
        assert [Path(used.weights.checkpoint).name for used in (first, second, again)] == ["a", "b", "a"]
        assert first.weights.fingerprint == again.weights.fingerprint != second.weights.fingerprint
        assert (second.weights.tensors, second.weights.compared) == (3, 3)
        assert (second.weights.read_s, second.weights.proof_s) == (0.1, 0.2)
        assert second.weights.swap_s > 0 == first.weights.swap_s
        assert second.reused is not None
        assert [entry.model for entry in registry.entries()] == ["a"]
        release_kept()
        assert_gone(again)

    def test_the_same_weights_once_more(self, make):
        """An engine that is taken as it is tells which weights it has; it did not take them now."""
        use(make("a"))
        second, third = use(make("b")), use(make("b"))
        assert (third.pid, third.weights.fingerprint) == (second.pid, second.weights.fingerprint)
        assert (third.weights.took_from, third.weights.swap_s) == ("", 0)

    def test_one_that_is_the_same_goes_before_one_that_could_be(self, make):
        first, second = use(make("a", devices="0")), use(make("b", devices="1"))
        assert first.pid != second.pid, "other devices, another engine"
        assert use(make("a", devices="0")).pid == first.pid
        assert use(make("b", devices="1")).weights.took_from == ""

    def test_the_pool_shows_whose_weights_it_has(self, make):
        use(make("a"))
        use(make("b"))
        assert [handle.model.name for handle in POOL.engines()] == ["b"]
        [entry] = registry.entries()
        assert (entry.model, entry.phase.startswith("kept until")) == ("b", True)

    def test_a_restart_loads_what_was_there_last(self, make):
        use(make("a"))
        deployment = make("b")
        with deployment as endpoint:
            used = Used(deployment, endpoint)
            os.kill(used.pid, signal.SIGKILL)
            wait_until(lambda: deployment.state is EngineState.FAILED, "the news of its death")
            deployment.release()
            deployment.start()
            again = Used(deployment, deployment.wait_ready())
        assert again.pid != used.pid
        assert again.weights.took_from == ""


FAULTS = {
    "refuse": "SwapError: only a part of x was filled",
    "die": "it died meanwhile",
    "name": "it serves another",
    "mute": "it answers no question (500): it says nothing",
    "nan": "the log-probability of its answer is nan",
    "change": "the checkpoint has changed meanwhile",
    "odd": "it does not say what it has done",
}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_new_one_is_started_with_a_word(self, make, fault):
        first, second = use(make("a", "--swap-fault", fault)), use(make("b", "--swap-fault", fault))
        self.assert_fresh(first, second, FAULTS[fault])

    def test_it_hangs(self, make):
        options = {"stall_timeout_s": 1.5}
        first = use(make("a", "--swap-fault", "hang", **options))
        second = use(make("b", "--swap-fault", "hang", **options))
        self.assert_fresh(first, second, "it has made no progress for 2 s")

    def assert_fresh(self, first, second, words):
        assert second.notes == [f"scripted-swap with a could not take b's weights: {words}; a new one is started"]
        assert second.pid != first.pid
        assert (second.weights.took_from, second.reused) == ("", None)
        # The worker has been started with the key of the one that was taken.
        assert second.server.address.api_key == first.server.address.api_key
        assert_gone(first)
        assert [handle.model.name for handle in POOL.engines()] == ["b"]

    def test_what_has_failed_once_is_not_tried_again_in_that_run(self, make):
        use(make("a", "--swap-fault", "refuse", devices="0"))
        deployment = make("b", "--swap-fault", "refuse", devices="0")
        second = use(deployment)
        assert deployment.restarts == 1
        again = use(deployment)
        assert (again.pid, again.notes) == (second.pid, []), "the new one itself is kept, and taken, as ever"


class TestOthers:
    """Nothing is tried: they cannot be swapped."""

    def assert_fresh(self, first, second):
        assert second.pid != first.pid
        assert "swapping" not in read(second.server.process.log)
        assert not any("could not take" in note for note in second.notes), second.notes
        assert_gone(first)

    @pytest.mark.parametrize(
        "changes",
        [
            {"config": {"max_position_embeddings": 77}},
            {"tensors": [*TENSORS, ("model.more", "BF16", (4,))]},
            {"tensors": TENSORS[:-1]},
            {"tensors": [*TENSORS[:-1], (*TENSORS[-1][:2], (64, 127))]},
            {"max_num_seqs": 3},
            {"api_key": "sk-mine"},
            {"swap": "never"},
            {"config": {"quantization_config": checkpoints.AWQ}},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_more_than_the_weights_differs(self, make, changes):
        self.assert_fresh(use(make("a")), use(make("b", **changes)))

    def test_a_torn_shard(self, make, tmp_path):
        first, second = use(make("a")), make("b")
        file = tmp_path / "b" / "model.safetensors"
        os.truncate(file, file.stat().st_size // 2)
        self.assert_fresh(first, use(second))

    def test_swap_is_never_wanted(self, make):
        first = use(make("a", swap="never"))
        assert (first.server.control_key, first.weights) == ("", None)
        self.assert_fresh(first, use(make("b", swap="never")))

    def test_an_argument_forbids_it(self, make):
        first = use(make("a", "--swap-forbidden"))
        assert (first.server.control_key, first.weights) == ("", None)
        self.assert_fresh(first, use(make("b", "--swap-forbidden")))

    def test_an_engine_that_knows_nothing_of_control(self, make):
        first = use(make("a", "--swap-fault", "deaf"))
        assert (first.server.control_key, first.weights) == ("", None)
        self.assert_fresh(first, use(make("b", "--swap-fault", "deaf")))

    def test_another_engine(self, make):
        first = use(make("a"))
        folder = make("b").model.path
        answer = ["--answer", checkpoints.weights_hash(folder)]
        other = deploy(folder, engine="scripted", extra_args=answer, keep_alive_s=60)
        self.assert_fresh(first, use(other))


class TestEnd:
    """In the middle of a swap; the engine would take a minute for it."""

    @pytest.fixture
    def swapping(self, make, tmp_path):
        """Begins, and calls something once the engine is asked for other weights: the first use, the deployment."""

        def begin(act):
            first = use(make("a", "--swap-seconds", "60"))
            deployment = make("b", "--swap-seconds", "60", log_dir=tmp_path / "other")

            def wait():
                wait_until(lambda: "swapping" in read(tmp_path / "logs" / "engine.log"), "the swap")
                assert deployment.state is EngineState.SWAPPING
                act(deployment)

            thread = threading.Thread(target=wait)
            thread.start()
            return first, deployment, thread

        return begin

    def assert_nothing_is_left(self, first, thread):
        thread.join(20)
        assert not any(map(alive, first.tree))
        assert not first.scratch.exists()
        assert (POOL.engines(), registry.entries()) == ([], [])

    def test_ctrl_c(self, swapping):
        first, deployment, thread = swapping(lambda deployment: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt), deployment:
            raise AssertionError("it is not ready")
        self.assert_nothing_is_left(first, thread)

    def test_stop(self, swapping, tmp_path):
        def stop(deployment):
            with (tmp_path / "said").open("w") as file:
                assert stop_runs("b", Console(file=file, width=300))

        first, deployment, thread = swapping(stop)
        with pytest.raises(Stopped), deployment:
            raise AssertionError("it is not ready")
        self.assert_nothing_is_left(first, thread)

    def test_released_by_its_owner(self, swapping):
        first, deployment, thread = swapping(lambda deployment: deployment.process.ask_to_stop())
        with pytest.raises(Exception, match="stopped while it was starting"), deployment:
            raise AssertionError("it is not ready")
        self.assert_nothing_is_left(first, thread)

    @pytest.mark.parametrize("whose", ["engine", "guard"])
    def test_killed(self, swapping, whose):
        """SIGKILL: a new one is started, and has the right weights."""

        def strike(deployment):
            pid = deployment.process.guard_pid if whose == "guard" else deployment.process.leader
            os.kill(pid, signal.SIGKILL)

        first, deployment, thread = swapping(strike)
        second = use(deployment)
        thread.join(20)
        assert second.pid != first.pid
        assert "could not take b's weights: it died meanwhile" in second.notes[0]
        assert_gone(first)


class TestControlKey:
    def test_nobody_else_has_it(self, make, tmp_path):
        deployment = make("a")
        with deployment as endpoint:
            server = deployment.server
            key = server.control_key
            assert key.startswith("ec-")
            used = Used(deployment, endpoint)
            [engine] = [process for process in used.tree if process.pid == used.pid]
            seen = "\0".join(
                part for process in used.tree for part in [*process.cmdline(), *process.environ().values()]
            )
            assert key not in seen
            assert hashlib.sha256(key.encode()).hexdigest() in engine.environ().values()
            assert hashlib.sha256(key.encode()).hexdigest() not in "\0".join(engine.cmdline())
            assert key not in repr(server) + repr(deployment) + repr(endpoint) + repr(vars(endpoint))
            assert key not in repr(server.launch) + repr(server.process.__dict__)
            files = [path for path in [*tmp_path.rglob("*"), *server.process.scratch.rglob("*")] if path.is_file()]
            assert any(path.parent == registry.folder() for path in files)
            assert not any(key.encode() in path.read_bytes() for path in files)
            assert not any(key in value for value in os.environ.values())
        again = make("b")
        with again:
            assert again.server.control_key == key

    def test_none_where_nobody_wants_other_weights(self, make):
        used = use(make("a", keep_alive_s=0))
        assert (used.server.control_key, used.weights, used.server.address.control) == ("", None, "")

    def test_it_opens_what_the_models_key_does_not(self, make):
        with make("a") as endpoint:
            root = endpoint.api_url.removesuffix("/v1")
            assert http.request(f"{root}/evalflow/swap", api_key=endpoint.api_key, body={}).status == 401
