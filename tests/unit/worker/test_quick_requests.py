"""Requests that the openai package does not take part in: they look like its own, and so do their failures."""

import gzip
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import openai
import pytest
from openai import NOT_GIVEN

from evalscope_evalflow.worker import quick_requests
from evalscope_evalflow.worker.quick_requests import QuickRequests, quicken
from evalscope_evalflow.worker.request_failures import error_reason

COMPLETION = {
    "id": "1", "object": "chat.completion", "created": 0, "model": "m", "unknown": [1],
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "é"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}  # fmt: skip


class Server:
    """Replies as it is told, and keeps what came.

    Attributes:
        replies: raw parts (status, headers, body) of the next replies; then all is well. None: it says nothing, and
            ends the connection.
        seen: headers and body of each request.
        connections: how many were opened.
    """

    def __init__(self):
        self.replies, self.seen, self.connections, self.waits = [], [], 0, threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                server.connections += 1
                super().setup()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.seen.append((dict(self.headers), body))
                reply = server.replies.pop(0) if server.replies else (200, {}, json.dumps(COMPLETION).encode())
                if reply is None:
                    self.close_connection = True
                    return
                if reply == "wait":
                    server.waits.wait(10)
                    self.close_connection = True
                    return
                status, headers, content = reply
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                if "Transfer-Encoding" not in headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = headers.get("Connection") == "close" or "hidden-end" in headers

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.waits.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(openai.OpenAI, "_calculate_retry_timeout", lambda *_, **__: 0.0)


def client_of(url, **options):
    return openai.OpenAI(api_key="k", base_url=url, http_client=openai.DefaultHttpxClient(trust_env=False), **options)


@contextmanager
def both(server, **options):
    """The package's own client, and one whose requests are quick; that has learnt the usual form."""
    stock, quick = client_of(server.url, **options), client_of(server.url, **options)
    quicken(SimpleNamespace(api=SimpleNamespace(client=quick)))
    ask(quick)
    server.seen.clear()
    yield stock, quick


def ask(client, text="hi", **more):
    request = {"messages": [{"role": "user", "content": text}], "model": "m", "max_tokens": 3, "temperature": 0.0}
    return client.chat.completions.create(**request, tools=NOT_GIVEN, tool_choice=NOT_GIVEN, **more)


def outcome(client, **more):
    """What comes of a request: a completion, or what is looked at of an error."""
    try:
        return ask(client, **more).model_dump()
    except Exception as error:  # noqa: BLE001 - compared
        status = getattr(error, "status_code", None)
        cause = type(error.__cause__).__name__
        return type(error).__name__, cause, status, str(error), getattr(error, "body", None), error_reason(error)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"text": 'é "quoted" \u2028 \U0001f600 \n'},
        {"seed": 3, "stop": ["x"], "extra_body": {"top_k": 3, "chat_template_kwargs": {"thinking": False}}},
        {"timeout": 30},
        {"response_format": {"type": "json_object"}, "logit_bias": {"1": 2}},
        {
            "text": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}},
            ]
        },
    ],
)
def test_the_same_request_and_the_same_completion(server, more, monkeypatch):
    with both(server) as (stock, quick):
        expected = outcome(stock, **more)
        outcome(quick, **more)  # teaches the form
        asked = Counter()
        monkeypatch.setattr(
            quick_requests.Connections, "ask",
            lambda self, *args, ask=quick_requests.Connections.ask: asked.update("x") or ask(self, *args),
        )  # fmt: skip
        assert outcome(quick, **more) == expected
        assert asked["x"] == 1
    (headers, body), _, (quick_headers, quick_body) = server.seen
    assert quick_body == body
    assert headers.pop("Accept-Encoding")
    assert quick_headers.pop("Accept-Encoding") == "identity"
    assert {name.lower(): value for name, value in quick_headers.items()} == {
        name.lower(): value for name, value in headers.items()
    }


@pytest.mark.parametrize(
    "replies",
    [
        [(400, {}, b'{"error": {"message": "maximum context length"}}')],
        [(401, {}, b"no")],
        [(404, {}, b'{"error": {"message": "no such model"}}')],
        [(500, {}, b"broken")],
        [(500, {}, b"broken")] * 3,
        [(429, {"Retry-After": "0"}, b"{}"), (200, {}, json.dumps(COMPLETION).encode())],
        [(200, {}, b"{half")],
        [(200, {"Content-Type": "text/html"}, b"<html>")],
        [(200, {}, b"[]")],
        [(200, {"Content-Encoding": "gzip"}, gzip.compress(json.dumps(COMPLETION).encode()))],
        [(200, {"Transfer-Encoding": "chunked"}, b"2\r\n{}\r\n0\r\n\r\n")],
        [(204, {}, b"")],
        [None],
        [None] * 3,
    ],
)
def test_whatever_else_comes_of_it_is_what_the_package_makes_of_it(server, replies):
    with both(server) as (stock, quick):
        server.replies = list(replies)
        expected, times = outcome(stock), len(server.seen)
        server.seen.clear()
        server.replies = list(replies)
        assert outcome(quick) == expected
        assert len(server.seen) == times
        assert outcome(quick) == outcome(stock)  # and the next is answered


@pytest.mark.parametrize("retries", [0, 1])
def test_a_timeout_is_the_packages_and_so_is_a_server_that_is_gone(server, retries):
    with both(server, max_retries=retries, timeout=0.3) as (stock, quick):
        server.replies = ["wait"] * 4
        expected = outcome(stock)
        assert expected[:2] == ("APITimeoutError", "ReadTimeout")
        assert outcome(quick) == expected
        assert len(server.seen) == 2 * (1 + retries)
        server.waits.set()
        server.server.shutdown()
        server.server.server_close()
        expected = outcome(stock)
        assert outcome(quick) == expected
        assert expected[:2] == ("APIConnectionError", "ConnectError")
        assert expected[-1] == "connection refused"


def test_connections_are_kept_and_one_that_the_server_has_ended_is_replaced(server):
    with both(server) as (_, quick):
        before = server.connections
        for _ in range(5):
            ask(quick)
        assert server.connections == before + 1
        server.replies = [(200, {"hidden-end": "1"}, json.dumps(COMPLETION).encode())]
        ask(quick)
        ask(quick)
        assert server.connections == before + 2
        assert len(server.seen) == 7


def test_many_threads_each_have_their_own_answer(server):
    with both(server) as (_, quick):
        threads = [threading.Thread(target=ask, args=(quick, str(number))) for number in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    asked = sorted(int(json.loads(body)["messages"][0]["content"]) for _, body in server.seen)
    assert asked == list(range(30))


def test_a_form_whose_bytes_would_be_others_goes_the_packages_way(server, monkeypatch):
    monkeypatch.setattr(quick_requests, "_body", lambda keys, request: b"{}")
    monkeypatch.setattr(quick_requests.Connections, "ask", lambda *_: pytest.fail("it was sent"))
    with both(server) as (stock, quick):
        assert outcome(quick) == outcome(stock)
    assert all(b"hi" in body for _, body in server.seen)


@pytest.mark.parametrize("url", ["https://127.0.0.1:1/v1", "http://api.example/v1"])
def test_clients_of_others_are_left_alone(url):
    client = client_of(url)
    before = client.chat.completions.create
    quicken(SimpleNamespace(api=SimpleNamespace(client=client)))
    quicken(SimpleNamespace(api=SimpleNamespace()))
    assert client.chat.completions.create == before


def test_a_client_is_changed_once(server):
    model = SimpleNamespace(api=SimpleNamespace(client=client_of(server.url)))
    quicken(model)
    once = model.api.client.chat.completions.create
    quicken(model)
    assert model.api.client.chat.completions.create is once


def test_half_a_character_is_refused_as_the_package_does(server):
    with both(server) as (stock, quick):
        expected = outcome(stock, text="\ud83d")
        assert outcome(quick, text="\ud83d") == expected
        assert expected[0] == "UnicodeEncodeError"


def test_requests_of_ever_new_forms_are_not_remembered_for_ever(server, monkeypatch):
    monkeypatch.setattr(quick_requests, "_MOST_FORMS", 3)
    client = client_of(server.url)
    quick = QuickRequests(client)
    quick.install(client)
    for number in range(6):
        ask(client, extra_body={f"x{number}": 1})
    assert len(quick._forms) == 3
