"""Watching an engine while it works, on the scripted server: what hangs is told, what works is left alone."""

import queue
import signal
import threading
import time
from contextlib import contextmanager

import psutil
import pytest
from serving_fixtures import below, kill

from evalscope_evalflow import deploy
from evalscope_evalflow.engines import Counters, load_engine
from evalscope_evalflow.serving import Hang, Unhealthy, Watch, http
from evalscope_evalflow.serving import health as watch

STALL_S = 1.5


@pytest.fixture
def watching(tmp_path, monkeypatch):
    """Enters a watch over a scripted server with these arguments: (what is told, a function that asks it, its PID)."""
    monkeypatch.setattr(watch, "HEALTH_EVERY_S", 0.2)
    monkeypatch.setattr(watch, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(watch, "ANSWER_TIMEOUT_S", 1.0)

    @contextmanager
    def enter(*arguments, stall_s=STALL_S):
        deployment = deploy("any", engine="scripted", name="m", extra_args=list(arguments), log_dir=tmp_path)
        told = queue.Queue()
        try:
            with deployment as endpoint:
                process = deployment.process

                def ask():
                    body = {"model": "m", "messages": [{"role": "user", "content": "Which letter?"}]}
                    url = f"{endpoint.api_url}/chat/completions"
                    thread = threading.Thread(
                        target=http.request,
                        args=(url,),
                        kwargs={"api_key": endpoint.api_key, "body": body},
                        daemon=True,
                    )
                    thread.start()
                    return thread

                with Watch(deployment.engine, process, endpoint, stall_s, told.put):
                    yield told, ask, process.wait_started()
        finally:
            if deployment.process is not None and not deployment.process.exited.is_set():
                kill(below(deployment.process.guard_pid))

    return enter


def silent_for(told, seconds):
    """Whether nothing is told for so long."""
    try:
        return not told.get(timeout=seconds)
    except queue.Empty:
        return True


def test_an_engine_that_says_that_it_is_ill_is_dead(watching):
    """As vLLM's API server, which outlives its engine process by seconds, and then exits with code 0."""
    with watching("--sick-after", "1") as (told, ask, _):
        began = time.monotonic()
        ask()
        seen = told.get(timeout=10)
        assert (seen.path, seen.status) == ("/health", 503)
        assert str(seen).startswith("does not work any more: /health says '503")
        assert time.monotonic() - began < 3


def test_an_engine_whose_port_is_gone_is_dead(watching):
    """The process lives, and what listened in it does not."""
    with watching("--stop-listening-after", "1") as (told, ask, _):
        ask()
        seen = told.get(timeout=10)
        assert isinstance(seen, Unhealthy)
        assert seen.status == 0
        assert "refused" in str(seen)


@pytest.mark.parametrize("metrics", [[], ["--no-metrics"]])
def test_requests_that_go_nowhere_are_a_hang(watching, metrics):
    with watching("--hang-after", "1", *metrics) as (told, ask, _):
        ask()
        began = time.monotonic()
        seen = told.get(timeout=20)
        assert time.monotonic() - began >= STALL_S * 0.6
        assert isinstance(seen, Hang)
        assert seen.stalled_s == STALL_S
        assert str(seen).startswith("hangs: ")
        assert str(seen).endswith("raise deploy.stall_timeout_s")
        if metrics:
            assert seen.in_flight is None
            assert "no CPU time for 2 s, and no answer to a request of one token: timed out" in str(seen)
        else:
            assert (seen.in_flight, seen.counters["scripted_chat_requests_total"]) == (1, 2)
            assert "1 requests are in flight" in str(seen)
            assert "scripted_chat_requests_total 2" in str(seen)


def test_a_frozen_engine_hangs(watching):
    """It answers nothing at all, its counters neither; a timeout alone does not make it dead."""
    with watching(stall_s=2) as (told, _, pid):
        told_nothing = silent_for(told, 1)
        psutil.Process(pid).send_signal(signal.SIGSTOP)
        seen = told.get(timeout=30)
        psutil.Process(pid).send_signal(signal.SIGCONT)
        assert told_nothing
        assert str(seen).startswith("hangs: no counters for 2 s, and no answer to a request of one token")


def test_a_long_answer_that_makes_progress_is_no_hang(watching):
    with watching("--answer-seconds", str(2 * STALL_S)) as (told, ask, _):
        thread = ask()
        assert silent_for(told, 1.7 * STALL_S)
        assert thread.is_alive(), "it was in the middle of the answer all the time"


@pytest.mark.parametrize("metrics", [[], ["--no-metrics"]])
def test_an_engine_with_nothing_to_do_does_not_hang(watching, metrics):
    with watching(*metrics) as (told, ask, _):
        ask().join()
        assert silent_for(told, 2 * STALL_S)


def test_one_bad_look_may_be_chance(watching):
    with watching("--sick-once", "1") as (told, ask, _):
        ask()
        assert silent_for(told, 1.5)


def test_nothing_is_told_after_the_end(watching):
    with watching("--hang-after", "1") as (told, ask, _):
        ask()
    assert silent_for(told, 1.5 * STALL_S)


def test_a_look_costs_next_to_nothing(watching):
    """CPU time of this process, which holds the watch, in the ten looks that take ten seconds otherwise."""
    with watching() as (_, ask, _):
        ask().join()
        began = time.process_time()
        threading.Event().wait(10 * watch.HEALTH_EVERY_S)
        assert time.process_time() - began < 0.2


@pytest.mark.parametrize("name", ["vllm", "llamacpp", "scripted"])
def test_every_engine_knows_its_counters(name):
    counters = load_engine(name).counters
    lines = [f'{metric}{{model_name="m {{x}}",engine="0"}} 2.0' for metric in (*counters.in_flight, *counters.progress)]
    found = watch.read_counters("# HELP\n" + "\n".join(lines), counters)
    assert found.in_flight == 2 * len(counters.in_flight)
    assert set(found.progress) == set(counters.progress)


def test_series_of_several_replicas_are_added_up():
    text = 'run{engine="0"} 1.0\nrun{engine="1"} 2.0\ntokens_total{engine="0"} 1e+02\ntokens_total{engine="1"} 7\n'
    text += 'tokens_total_of_another 5\nrun_by_reason{a="b"} 9\n'
    found = watch.read_counters(text, Counters(("run", "wait"), ("tokens_total",)))
    assert (found.in_flight, found.progress) == (3, {"tokens_total": 107})


@pytest.mark.parametrize(
    "text", ["", "tokens_total 5", "run 5", "<html>", "run_more 3\ntokens_total_x 3", "run x\ntokens_total NaN"]
)
def test_a_page_without_the_counters_is_no_counts(text):
    assert watch.read_counters(text, Counters(("run",), ("tokens_total",))) is None
