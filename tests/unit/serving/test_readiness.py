"""When an engine counts as ready, and when waiting for it is given up."""

import os
import re
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import pytest
from serving_fixtures import SERVER, SLEEP, guarded, journal, python, read, returns_within, wait_until

from evalscope_evalflow.engines import Address
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes import ports
from evalscope_evalflow.serving import http, readiness
from evalscope_evalflow.serving.http import Reply
from evalscope_evalflow.serving.readiness import Progress, Readiness

KEY = "sk-scripted"


@pytest.fixture
def serve(tmp_path):
    """Runs the scripted server under a guard: (SupervisedProcess, Readiness of it)."""

    @contextmanager
    def run(*arguments, stall=30.0, model="m"):
        lease = ports.lease("127.0.0.1")
        argv = [sys.executable, "-IS", str(SERVER), "--port", str(lease.port), "--model", "m"]
        argv += ["--journal", str(tmp_path / "journal"), *map(str, arguments)]
        env = {**os.environ, "SCRIPTED_API_KEY": KEY}
        try:
            with guarded(argv, tmp_path / "engine.log", env=env) as process:
                yield process, Readiness(process, Address("127.0.0.1", lease.port, KEY), model, stall)
        finally:
            lease.release()

    return run


@pytest.fixture
def beside(tmp_path, api):
    """A process that only lives, and an API in this process in the place of its server: (process, Readiness)."""
    api.replies["/health"] = (200, {})

    @contextmanager
    def run(command=SLEEP, *, stall=30.0, key=None, **options):
        with guarded(command, tmp_path / "engine.log") as process:
            process.wait_started()
            process.listens_at = lambda port: True  # the API is this process's own
            yield process, Readiness(process, Address("127.0.0.1", urlsplit(api.root).port, key), "m", stall, **options)

    return run


def wait(process, ready, seconds=30):
    """Wait for readiness: the error, if there is one."""
    _, error = returns_within(seconds, ready.wait, process.stop)
    if error is not None and not isinstance(error, EngineError):
        raise error
    return error


def sequence(*replies):
    """One reply after the other; the last one for ever."""
    left = list(replies)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


def test_steps(serve, tmp_path):
    """It is healthy, lists the model, and has answered, in this order; the model is asked once."""
    with serve() as (process, ready):
        assert wait(process, ready) is None
        paths = [path for path, _ in journal(tmp_path / "journal")]
        assert list(dict.fromkeys(paths)) == ["/health", "/v1/models", "/v1/chat/completions"]
        assert (paths.count("/health"), paths.count("/v1/chat/completions")) == (1, 1)
        assert not process.exited.is_set()


def test_not_before_it_listens(serve):
    with serve("--load-seconds", 1) as (process, ready):
        began = time.monotonic()
        assert wait(process, ready) is None
        assert time.monotonic() - began >= 1


def test_not_before_the_model_has_answered(serve):
    with serve("--answer-seconds", 1.5) as (process, ready):
        began = time.monotonic()
        assert wait(process, ready) is None
        assert time.monotonic() - began >= 1.5


def test_not_while_it_is_unhealthy(beside, api):
    api.replies["/health"] = sequence((503, {}), (503, {}), (200, {}))
    with beside() as (process, ready):
        assert wait(process, ready) is None
    assert api.paths == ["/health"] * 3 + ["/v1/models", "/v1/chat/completions"]


@pytest.mark.parametrize("script", ["--load-seconds", "--unhealthy-seconds"])
def test_readiness_is_noticed_within_a_fifth_of_a_second(serve, tmp_path, script):
    """From silence, or from 503s: the median of three starts, each a little longer, so that no phase is favoured."""
    late = []
    for number in range(3):
        with serve(script, 0.5 + 0.07 * number) as (process, ready):
            assert wait(process, ready) is None
            now = time.monotonic()
        healthy_at = float(re.findall(r"healthy at (\S+)", read(tmp_path / "engine.log"))[-1])
        late.append(now - healthy_at)
    assert min(late) > 0, late
    assert median(late) < 0.2, late


def test_slow_replies_are_asked_for_less_often(beside, api):
    """A server that needs its time for each of them is left half of it."""
    began = []

    def slow(body):
        began.append(time.monotonic())
        time.sleep(0.3)
        return (503, {}) if len(began) < 4 else (200, {})

    api.replies["/health"] = slow
    with beside() as (process, ready):
        assert wait(process, ready) is None
    assert min(later - earlier for earlier, later in pairwise(began)) > 0.55


class Clock:
    """A process that lives, and time that passes only where it is waited for: 75 s until the server is ready."""

    log = Path("/dev/null")

    def __init__(self):
        self.now, self.polls, self.exited = 1000.0, 0, self

    def is_set(self):
        return False

    def wait(self, seconds):
        self.now += seconds

    def cpu_seconds(self):
        return self.now

    def listens_at(self, port):
        return True

    def request(self, url, **options):
        self.polls += 1
        if url.endswith("/models"):
            return Reply(200, '{"data": [{"id": "m"}]}')
        return Reply(200 if self.now >= 1075.0 else 503, "")


def test_pauses_grow_while_a_server_says_that_it_is_not_ready(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(readiness.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(readiness.http, "request", clock.request)
    monkeypatch.setattr(Readiness, "_connects", lambda self: True)
    Readiness(clock, Address("127.0.0.1", 1, KEY), "m", 300).wait()
    assert clock.polls < 150, "565 lines of its log were ours"
    assert clock.now < 1075 + readiness.LONGEST_PAUSE_S + 0.5


def test_asking_an_engine_reads_no_certificates(api, monkeypatch):
    """Which takes 20 ms of CPU time: most of a core, for nothing."""
    api.replies["/health"] = (503, {})
    monkeypatch.setattr(ssl, "SSLContext", None)
    assert http.request(f"{api.root}/health", direct=True).status == 503
    assert http.request(f"{api.root}/health").status == 503, "loopback takes no proxy"


def test_not_before_it_can_list_its_models(beside, api):
    listing = {"data": [{"id": "m"}]}
    api.replies["/v1/models"] = sequence((503, "loading"), (404, ""), (200, listing))
    with beside() as (process, ready):
        assert wait(process, ready) is None
    assert api.paths.count("/v1/models") == 3


def test_answer_is_asked_for_again_after_a_5xx(serve, tmp_path):
    with serve("--status-for-request", "1=503", "--status-for-request", "2=500") as (process, ready):
        assert wait(process, ready) is None
        assert len([path for path, _ in journal(tmp_path / "journal") if path == "/v1/chat/completions"]) == 3


def test_one_small_request(beside, api):
    """With the key, for the model, of one token."""
    api.key = KEY
    with beside(key=KEY) as (process, ready):
        assert wait(process, ready) is None
    (body,) = [body for _, path, _, body in api.seen if path == "/v1/chat/completions"]
    assert (body["model"], body["max_tokens"]) == ("m", 1)


def test_wrong_name(serve):
    with serve("--wrong-name") as (process, ready):
        error = wait(process, ready)
        assert "serves not-m, not m" in str(error)
        assert "the model's `name`" in str(error)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_a_health_path_is_reported_at_once(beside, api, status):
    """Not after the stall timeout, as if it made no progress; with what was asked, and what the answer was."""
    api.replies["/health"] = (status, {})
    with beside() as (process, ready):
        error = str(wait(process, ready, seconds=5))
    assert f"answers GET /health with {status}" in error
    assert "`health_path`; None: it has none" in error
    assert api.paths == ["/health"]


def test_somebody_elses_server_without_a_health_path_is_no_failure(beside, api):
    """Ours is about to say that the port is taken."""
    api.replies["/health"] = sequence((404, {}), (404, {}), (200, {}))
    with beside() as (process, ready):
        process.listens_at = lambda port: api.paths.count("/health") >= 3
        assert wait(process, ready) is None


def test_the_key_goes_to_nobody_else_who_has_the_port(beside, api):
    """Another user may have taken it between our choice and the engine's start."""
    api.replies["/health"] = sequence((401, {}), (401, {}), (401, {}), (200, {}))
    with beside(key=KEY) as (process, ready):
        process.listens_at = lambda port: len(api.seen) >= 3
        assert wait(process, ready) is None
    keys = [headers.get("Authorization") for _, path, headers, _ in api.seen if path == "/health"]
    assert keys[:3] == [None] * 3
    assert keys[-1] == f"Bearer {KEY}"


def test_another_health_path(beside, api):
    api.replies = {"/health": (404, {}), "/v1/ok": (200, {})}
    with beside(health_path="/v1/ok") as (process, ready):
        assert wait(process, ready) is None
    assert api.paths == ["/v1/ok", "/v1/models", "/v1/chat/completions"]


def test_an_engine_that_has_none_is_ready_when_it_lists_its_model_and_answers(beside, api):
    api.replies = {"/v1/models": sequence((503, "loading"), (200, {"data": [{"id": "m"}]}))}
    with beside(health_path=None) as (process, ready):
        assert wait(process, ready) is None
    assert api.paths == ["/v1/models", "/v1/models", "/v1/chat/completions"]


def test_what_it_answered_last_is_in_the_error(beside, api):
    api.replies["/health"] = (503, {"error": "no GPU yet"})
    with beside(stall=1) as (process, ready):
        error = str(wait(process, ready))
    assert "no progress for 1 s" in error
    assert "/health: no GPU yet (503)" in error


def test_several_names(beside, api):
    api.models = ["alias", "m"]
    with beside() as (process, ready):
        assert wait(process, ready) is None


@pytest.mark.parametrize("status", [400, 404, 422])
def test_chat_is_refused(serve, status):
    with serve("--reject-chat", f"{status}:there is no chat template") as (process, ready):
        error = str(wait(process, ready))
        assert f"refuses a chat request ({status}): there is no chat template" in error
        assert "deploy.chat_template" in error


def test_busy_is_no_refusal(beside, api):
    """429 and 408 mean that it shall be asked again."""
    answer = (200, {"choices": [{"message": {"content": "Hi"}}]})
    api.replies["/v1/chat/completions"] = sequence((429, {"error": {"message": "queue is full"}}), (408, {}), answer)
    with beside() as (process, ready):
        assert wait(process, ready) is None
    assert api.paths.count("/v1/chat/completions") == 3


def test_stall(serve, tmp_path):
    with serve("--silent-stall", stall=1.5) as (process, ready):
        began = time.monotonic()
        error = str(wait(process, ready))
        assert time.monotonic() - began >= 1.5
        assert "no progress for 2 s" in error
        assert "deploy.stall_timeout_s" in error
        assert str(tmp_path / "engine.log") in error
        assert not process.exited.is_set(), "to release it is the deployment's business"


def test_server_that_always_fails_is_given_up(serve):
    """The lines that it writes about our own requests, and the CPU time for them, are no progress."""
    with serve("--fail-every", "1=500", stall=2) as (process, ready):
        assert isinstance(wait(process, ready, seconds=20), EngineError)


def test_server_that_is_never_healthy_is_given_up(serve):
    """The same, where `/health` is asked again and again."""
    with serve("--unhealthy", stall=2) as (process, ready):
        assert isinstance(wait(process, ready, seconds=20), EngineError)


def test_log_is_progress(tmp_path):
    """Slow, but it says so."""
    lease = ports.lease("127.0.0.1")  # where nothing listens yet
    code = "import time\nfor n in range(600): print(n, flush=True); time.sleep(0.5)"
    with guarded(python(code), tmp_path / "engine.log") as process:
        ready = Readiness(process, Address("127.0.0.1", lease.port, None), "m", 1.5)
        thread = threading.Thread(target=lambda: wait(process, ready), daemon=True)
        thread.start()
        thread.join(3.5)
        assert thread.is_alive(), "given up"
        process.stop()
        thread.join(20)
        assert not thread.is_alive()
    lease.release()


def test_cpu_time_is_progress(beside, api):
    """Silent, but it works."""
    api.replies["/health"] = (503, {})
    with beside(python("while True: pass"), stall=1.5) as (process, ready):
        thread = threading.Thread(target=lambda: wait(process, ready), daemon=True)
        thread.start()
        thread.join(3.5)
        assert thread.is_alive(), "given up"
        api.replies["/health"] = (200, {})
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("code", [0, 3])
def test_exit(serve, code):
    with serve("--load-seconds", 0.5, "--exit-after-start", code) as (process, ready):
        assert wait(process, ready) is None
        assert process.exited.is_set()
        assert process.exit_code == code


def test_exit_is_noticed_at_once(beside, api):
    api.replies["/health"] = (503, {})
    with beside() as (process, ready):
        ended = []
        thread = threading.Thread(target=lambda: (wait(process, ready), ended.append(time.monotonic())))
        thread.start()
        wait_until(lambda: api.paths.count("/health") > 1, "polling")
        process.stop()
        stopped = time.monotonic()
        thread.join(20)
        assert ended[0] - stopped < 2


def test_exit_in_the_middle_of_the_first_answer(serve, tmp_path):
    with serve("--hang-after", 0) as (process, ready):
        threading.Thread(
            target=lambda: (
                wait_until(lambda: "/v1/chat/completions" in read(tmp_path / "journal"), "the request"),
                process.stop(),
            )
        ).start()
        assert wait(process, ready, seconds=20) is None
        assert process.exited.is_set()


def test_proxy_is_not_asked(serve, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serve() as (process, ready):
        assert wait(process, ready) is None


class Stub:
    """What Progress looks at."""

    def __init__(self, log: Path):
        self.log, self.cpu = log, 0.0

    def cpu_seconds(self):
        return self.cpu


class TestProgress:
    """On a clock that the test moves."""

    @pytest.fixture
    def stub(self, tmp_path):
        return Stub(tmp_path / "log")

    @pytest.fixture
    def look(self, stub, monkeypatch):
        """Lets a time pass, then looks."""
        now = [1000.0]
        monkeypatch.setattr(readiness.time, "monotonic", lambda: now[0])
        progress = Progress(stub)

        def look(seconds=readiness.PROGRESS_EVERY_S):
            now[0] += seconds
            return progress.stalled_s()

        look.progress = progress
        return look

    def test_nothing_moves(self, look):
        assert [look() for _ in range(3)] == [1, 2, 3]

    def test_log_grows(self, look, stub):
        look(5)
        stub.log.write_text("a line\n")
        assert look() == 0
        assert look() == 1

    def test_log_is_rotated(self, look, stub):
        stub.log.write_text("many lines\n")
        look()
        look(5)
        stub.log.write_text("one\n")
        assert look() == 0

    def test_work(self, look, stub):
        look(5)
        stub.cpu += 0.8
        assert look() == 0

    def test_a_part_of_it_ends(self, look, stub):
        """Its CPU time is gone from the sum."""
        stub.cpu = 10
        look()
        look(5)
        stub.cpu = 3
        assert look() == 0

    def test_what_our_requests_cost(self, look, stub):
        """They are answered in CPU time that is no progress; more than that is."""
        look.progress.listening = True
        for _ in range(20):
            look.progress.requests += 10
            stub.cpu += 0.12
            stalled = look()
        assert stalled == 20
        look.progress.requests += 10
        stub.cpu += 0.3
        assert look() == 0

    def test_idle_server(self, look, stub):
        """Its timers use a little CPU time in every second: that never adds up to work."""
        for _ in range(100):
            stub.cpu += 0.01
            stalled = look()
        assert stalled == 100
