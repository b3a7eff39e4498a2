"""The launcher that hands a server its key, and puts a gate before whatever it serves."""

import asyncio
import base64
import hashlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import psutil
import pytest

from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import key_launcher
from evalscope_evalflow.engines.base import CONTROL_VARIABLE, KEY_VARIABLE
from evalscope_evalflow.processes import ports
from evalscope_evalflow.serving import http

KEY, CONTROL = "sk-of-the-launcher", "ec-of-the-owner"
SHA = hashlib.sha256(CONTROL.encode()).hexdigest()
INSIDE = "evalflow_vllm_control"  # a module of inside/
LAUNCHER = SimpleNamespace(**runpy.run_path(key_launcher(Environment.find(None), "x", "y")[1], run_name="launcher"))
MODEL = ["/v1/models", "/v1/chat/completions", "/v1/completions", "/tokenize", "/v1/responses/r-1"]
OPEN = ["/health", "/ping", "/metrics", "/version", "/openapi.json"]
# What the model's key must not open, whatever the application would make of it.
CLOSED = [
    "/", "/invocations", "/inference/v1/generate", "/collective_rpc", "/v1/load_lora_adapter", "/reset_prefix_cache",
    "/sleep", "/wake_up", "/server_info", "/evalflow/swap", "/evalflow/weights", "/evalflow/", "/evalflow",
    "/metrics/x", "/metrics/../collective_rpc", "/v1/models/../../sleep", "/v1/responses/../../collective_rpc",
    "/v1/responses/..", "/v1/responses/r/../x", "//v1/models", "/v1//models", "/health/x", "/healthz", "/HEALTH",
    "/V1/models", "v1/models", "", "/v1/models\x00", "/v1/models;x", "/v1/models/x", "/docs/oauth2-redirect", "*",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "ODD"]


class Gate:
    """A gate before an application that says what has reached it.

    Attributes:
        reached: (type, path) of each request that has.
    """

    def __init__(self, control=f"{INSIDE} {SHA}", app=None):
        self.reached = []
        self._app = app
        self.gate = LAUNCHER.Gate(self._answer, KEY, control, "the served one")

    async def _answer(self, scope, receive, send):
        self.reached.append((scope["type"], scope.get("path")))
        if self._app is not None:
            await self._app()
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"reached"})

    async def ask(self, path, key=None, method="GET", kind="http", header=b"authorization", body=(b"{}",), **scope):
        """Status and message of its answer; of what is no HTTP, the messages that it has sent."""
        value = b"" if key is None else key.encode() if header == b"x-api-key" else f"Bearer {key}".encode()
        headers = [] if key is None else [(header, value)]
        parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
        parts[-1]["more_body"] = False
        sent = []

        async def receive():
            return parts.pop(0)

        async def send(message):
            sent.append(message)

        scope = {"type": kind, "path": path, "headers": headers, **scope}
        if kind == "http":
            scope["method"] = method
        await self.gate(scope, receive, send)
        if kind != "http":
            return sent
        found = json.loads(sent[1]["body"]) if sent[1]["body"] != b"reached" else None
        if found is not None and "error" in found:
            assert found["error"]["code"] == sent[0]["status"]
            found = found["error"]["message"]
        return sent[0]["status"], found

    def status(self, *args, **options):
        return asyncio.run(self.ask(*args, **options))[0]


@pytest.fixture
def gate():
    return Gate()


class TestModelKey:
    @pytest.mark.parametrize("method", METHODS)
    def test_no_key_opens_what_shows_that_it_is_well_and_nothing_else(self, gate, method):
        shows = method in ("GET", "HEAD")
        assert {gate.status(path, method=method) for path in OPEN} == {200 if shows else 401}
        reached = len(gate.reached)
        for key in (None, "", "sk-other", KEY + "x", KEY[:-1], SHA, KEY.upper()):
            assert {gate.status(path, key, method) for path in [*MODEL, *CLOSED]} == {401}
        assert len(gate.reached) == reached

    @pytest.mark.parametrize("method", METHODS)
    def test_the_models_key_opens_its_paths_and_nothing_else(self, gate, method):
        assert {path: gate.status(path, KEY, method) for path in CLOSED} == dict.fromkeys(CLOSED, 403)
        assert gate.reached == []
        assert {gate.status(path, KEY, method) for path in MODEL} == {200}

    def test_a_slash_at_the_end_changes_nothing(self, gate):
        assert gate.status("/v1/models/", KEY) == 200
        assert gate.status("/v1/models/") == 401
        assert gate.status("/invocations/", KEY) == 403
        assert gate.status("/metrics/") == 200
        assert gate.status("/metrics/", method="POST") == 401

    def test_a_root_path_is_no_part_of_the_path(self, gate):
        for path, status in (("/api/v1/models", 200), ("/api/collective_rpc", 403), ("/api", 403), ("/apihealth", 403)):
            assert gate.status(path, KEY, root_path="/api") == status
        assert gate.status("/api/health", root_path="/api") == 200
        assert gate.status("/v1/models/api", KEY, root_path="/api") == 403

    def test_the_key_may_come_in_either_header(self, gate):
        assert gate.status("/v1/messages", KEY, "POST", header=b"x-api-key") == 200
        assert gate.status("/v1/messages", "sk-other", "POST", header=b"x-api-key") == 401
        assert gate.status("/v1/models", KEY, header=b"cookie") == 401

    @pytest.mark.parametrize(("key", "code"), [(None, 1008), (KEY, 1008), (KEY + "x", 1008)])
    @pytest.mark.parametrize("path", ["/v1/realtime", "/v1/models", "/health", "/evalflow/swap"])
    def test_websockets_are_closed(self, gate, path, key, code):
        assert asyncio.run(gate.ask(path, key, kind="websocket")) == [{"type": "websocket.close", "code": code}]
        assert gate.reached == []

    @pytest.mark.parametrize("kind", ["webtransport", "", "HTTP"])
    @pytest.mark.parametrize("key", [None, KEY, CONTROL])
    def test_kinds_of_scopes_that_nobody_knows_reach_nothing(self, gate, kind, key):
        assert asyncio.run(gate.ask("/v1/models", key, kind=kind)) == []
        assert gate.reached == []

    def test_the_application_starts_and_ends_without_a_key(self, gate):
        asyncio.run(gate.ask("", kind="lifespan"))
        assert [kind for kind, _ in gate.reached] == ["lifespan"]


class TestControlKey:
    def test_it_opens_everything(self, gate):
        found = {gate.status(path, CONTROL, method) for path in MODEL for method in METHODS}
        assert found == {200}
        others = [path for path in CLOSED if not path.startswith("/evalflow/")]
        assert {gate.status(path, CONTROL) for path in others} == {200}
        asyncio.run(gate.ask("/v1/realtime", CONTROL, kind="websocket"))
        assert gate.reached[-1] == ("websocket", "/v1/realtime")

    def test_its_digest_opens_nothing(self, gate):
        assert {gate.status(path, SHA) for path in CLOSED} == {401}

    def test_where_none_is_configured_nobody_controls(self):
        gate = Gate(control="")
        for key in (CONTROL, "", hashlib.sha256(b"").hexdigest(), SHA):
            assert {gate.status(path, key, "POST") for path in CLOSED} == {401}
        assert {gate.status(path, KEY, "POST") for path in CLOSED} == {403}
        assert gate.reached == []

    def test_the_module_is_given_the_application_and_what_is_asked(self, gate, monkeypatch):
        answers = []

        async def answer(served, action, request):
            answers.append((served, action, request))
            return {"done": action}

        monkeypatch.setitem(sys.modules, INSIDE, SimpleNamespace(answer=answer))
        body = (b'{"new": ', b'"/b"}')
        assert asyncio.run(gate.ask("/evalflow/swap", CONTROL, "POST", body=body)) == (200, {"done": "swap"})
        assert answers == [("the served one", "swap", {"new": "/b"})]
        assert gate.reached == []

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ([b'{"new": '], "JSONDecodeError"),
            ([b"\x80"], "UnicodeDecodeError"),
            ([b"x" * 40_000, b"x" * 40_000], "ValueError: the request is too long"),
            ([b'{"text": "' + b"x" * 70_000 + b'"}'], "ValueError: the request is too long"),
        ],
    )
    def test_a_body_that_is_none_is_refused(self, gate, monkeypatch, body, words):
        monkeypatch.setitem(sys.modules, INSIDE, SimpleNamespace(answer=None))
        status, message = asyncio.run(gate.ask("/evalflow/swap", CONTROL, "POST", body=body))
        assert status == 500
        assert words in message

    def test_an_error_of_the_module_is_told_and_the_gate_opens_again(self, gate, monkeypatch):
        async def answer(served, action, request):
            raise RuntimeError("they are doubtful")

        monkeypatch.setitem(sys.modules, INSIDE, SimpleNamespace(answer=answer))
        found = asyncio.run(gate.ask("/evalflow/swap", CONTROL, "POST"))
        assert found == (500, "RuntimeError: they are doubtful")
        assert gate.status("/v1/models", KEY) == 200


class TestDrain:
    """No request reaches the model while its owner asks for something, and those under way are waited for."""

    @pytest.fixture
    def stage(self, monkeypatch):
        """A gate whose requests to the model, and whose control, end when they are told to."""
        found = SimpleNamespace(asked=asyncio.Event(), answered=asyncio.Event(), swap=asyncio.Event(), swapping=False)

        async def app():
            found.asked.set()
            await found.answered.wait()

        async def answer(served, action, request):
            found.swapping = True
            await found.swap.wait()
            return {}

        monkeypatch.setitem(sys.modules, INSIDE, SimpleNamespace(answer=answer))
        found.gate = Gate(app=app)
        return found

    def test_those_under_way_end_first(self, stage):
        async def run():
            asking = asyncio.create_task(stage.gate.ask("/v1/completions", KEY, "POST"))
            await stage.asked.wait()
            swapping = asyncio.create_task(stage.gate.ask("/evalflow/swap", CONTROL, "POST"))
            await _steps()
            assert not stage.swapping
            refused = await stage.gate.ask("/v1/completions", KEY, "POST")
            assert refused == (503, "the model's weights are being replaced")
            assert (await stage.gate.ask("/evalflow/weights", CONTROL, "POST"))[0] == 409
            stage.answered.set()
            assert (await asking)[0] == 200
            await _steps()
            assert stage.swapping
            assert (await stage.gate.ask("/v1/models", KEY))[0] == 503
            assert (await stage.gate.ask("/health"))[0] == 200
            stage.swap.set()
            assert (await swapping)[0] == 200
            assert (await stage.gate.ask("/v1/models", KEY))[0] == 200

        asyncio.run(run())

    def test_they_are_not_waited_for_for_ever(self, stage, monkeypatch):
        monkeypatch.setitem(LAUNCHER.Gate.__call__.__globals__, "DRAIN_S", 0.05)

        async def run():
            asking = asyncio.create_task(stage.gate.ask("/v1/completions", KEY, "POST"))
            await stage.asked.wait()
            status, message = await stage.gate.ask("/evalflow/swap", CONTROL, "POST")
            assert status == 500
            assert "requests to the model have not ended" in message
            assert not stage.swapping
            stage.answered.set()
            assert (await asking)[0] == 200

        asyncio.run(run())

    def test_one_that_breaks_off_is_not_waited_for(self, stage):
        async def run():
            asking = asyncio.create_task(stage.gate.ask("/v1/completions", KEY, "POST"))
            await stage.asked.wait()
            asking.cancel()
            stage.swap.set()
            assert (await stage.gate.ask("/evalflow/swap", CONTROL, "POST"))[0] == 200

        asyncio.run(run())


async def _steps():
    """Let others go on until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


# A server that checks no key at all. With `--spawn`, another process of it serves, as vLLM's do with replicas.
SERVER = """\
import argparse, multiprocessing


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["method"].encode()})


def serve(port):
    import uvicorn

    uvicorn.run(app, port=port, lifespan="off", log_level="warning")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--spawn", action="store_true")
    parser.add_argument("--api-key")
    args = parser.parse_args()
    if args.spawn:
        child = multiprocessing.get_context("spawn").Process(target=serve, args=(args.port,), daemon=True)
        child.start()
        child.join()
    else:
        serve(args.port)
"""


@contextmanager
def served(folder, *arguments):
    """The server by the launcher, with control: (its URL, its process)."""
    (folder / "open_server.py").write_text(SERVER)
    lease = ports.lease("127.0.0.1")
    lease.release()
    argv = [*key_launcher(Environment.find(None), "api-key", "open_server:main"), "--port", str(lease.port), *arguments]
    env = {**os.environ, "PYTHONPATH": str(folder), KEY_VARIABLE: KEY, CONTROL_VARIABLE: f"{INSIDE} {SHA}"}
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{lease.port}"
        while not http.request(f"{url}/health").ok:
            with pytest.raises(subprocess.TimeoutExpired):  # it has not ended
                process.wait(0.05)
        yield url, psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # what it has spawned serves on without it
        process.wait(30)


def raw(url, target, method="GET", key=None):
    """The status of a request whose target is sent as it is."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.putrequest(method, target)
    if key:
        connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def handshake(url, path, key=None):
    """The status that a websocket's handshake is answered with."""
    parts = urlsplit(url)
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}", "Sec-WebSocket-Version: 13",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]  # fmt: skip
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as link:
        link.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(link.recv(64).split()[1])


@pytest.mark.parametrize("arguments", [(), ("--spawn",)], ids=["itself", "a process that it spawns"])
def test_a_real_server(tmp_path, arguments):
    with served(tmp_path, *arguments) as (url, process):
        for path in ("/v1/chat/completions", "/invocations", "/health", "/anything"):
            assert http.request(f"{url}{path}", body={}).status == 401
            assert http.request(f"{url}{path}", body={}, api_key="sk-other").status == 401
        assert http.request(f"{url}/v1/chat/completions", body={}, api_key=KEY).text == "POST"
        assert http.request(f"{url}/invocations", body={}, api_key=KEY).status == 403
        assert http.request(f"{url}/invocations", body={}, api_key=CONTROL).text == "POST"
        assert http.request(f"{url}/health").text == "GET"
        # As they are sent: percent-encoding is taken away before the gate and the application see the path.
        assert raw(url, "/v1/chat%2Fcompletions", key=KEY) == 200
        for target in ("/%69nvocations", "/v1/models%2F..%2F..%2Fsleep", "/v1/models/../../sleep", "//v1/models",
                       "/metrics%2Fx", "/v1/responses/%2e%2e/sleep", "/v1/models%3F", "/v1/models%00"):  # fmt: skip
            assert raw(url, target, key=KEY) == 403, target
            assert raw(url, target) == 401, target
        assert raw(url, "/%68ealth?x=/invocations") == 200
        assert raw(url, "http://elsewhere/invocations", key=KEY) in (400, 403)
        for path in ("/v1/realtime", "/v1/models", "/evalflow/swap"):
            assert handshake(url, path) in (401, 403)
            if path != "/v1/models":  # without a library for websockets, uvicorn takes it for a plain request
                assert handshake(url, path, KEY) == 403
        # The module of `inside/` is found where it is served: it misses what vLLM's application has.
        found = http.request(f"{url}/evalflow/weights", body={}, api_key=CONTROL)
        assert (found.status, "has no attribute 'state'" in found.message) == (500, True), found.text
        for seen in (process, *process.children(recursive=True)):
            assert CONTROL not in "\0".join([*seen.cmdline(), *Path(f"/proc/{seen.pid}/environ").read_text().split()])
            assert KEY not in "\0".join(seen.cmdline())


def test_importing_the_launcher_imports_no_server(tmp_path):
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__mp_main__'); print('uvicorn' in sys.modules)"
    launcher = key_launcher(Environment.find(None), "api-key", "x")[1]
    argv = [sys.executable, "-S", "-c", code, launcher]
    env = {**os.environ, KEY_VARIABLE: KEY}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
