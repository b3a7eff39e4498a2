"""Servers that answer without end, a byte a second, too deeply nested, or with a redirect further in than they are."""

import functools
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import openai
import pytest

from evalscope_evalflow.events import redirects
from evalscope_evalflow.events.redirects import Reach, reach_of, refused_redirect
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.remote_api import check_api
from evalscope_evalflow.worker import api_clients, request_failures

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DEEP = b"[" * 100_000 + b"]" * 100_000


@contextmanager
def hostile(behave):
    """A server that does with every connection, after its request's first line has come, what it is told.

    Args:
        behave: is called with the connection and the request's bytes.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    asked = []

    def serve(connection):
        with connection:
            try:
                asked.append(connection.recv(65536))
                behave(connection, asked[-1], over)
            except OSError:
                pass  # the client has had enough

    def accept():
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        over.set()
        listening.close()


def drip(start, connection, request, over):
    """`start`, and then a byte every tenth of a second, for ever."""
    connection.sendall(start)
    while not over.wait(0.1):
        connection.sendall(b" ")


def flood(start, part, connection, request, over):
    """`start`, and then as much as is taken, for ever."""
    connection.sendall(start)
    while not over.is_set():
        connection.sendall(part)


def say(reply, connection, request, over):
    """One reply."""
    connection.sendall(reply)


LONG = HEAD + b"Content-Length: 9000000000000\r\n\r\n["


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", HEAD + b"\r\n", LONG, HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"],
    ids=["status", "header", "no-length", "length", "chunk"],
)
def test_a_byte_at_a_time_ends_at_twice_the_timeout(start):
    with hostile(functools.partial(drip, start)) as (url, _):
        began = time.monotonic()
        reply = http.request(f"{url}/v1/models", timeout_s=0.25)
        assert reply.status == 0
        assert 0.4 < time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (HEAD + b"\r\n", b"[" * 65536),
        (LONG, b"[" * 65536),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\n[[\r\n" * 10_000),
        (b"HTTP/1.1 500 No\r\n\r\n", b"[" * 65536),
    ],
    ids=["no-length", "length", "header", "headers", "chunks", "error"],
)
def test_an_endless_reply_takes_bounded_memory(start, part):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile(functools.partial(flood, start, part)) as (url, _):
        began = time.monotonic()
        assert http.request(f"{url}/v1/models", timeout_s=2).status == 0
        assert time.monotonic() - began < 30
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 6 * http.MOST_BYTES / 1024  # KiB


def test_a_reply_that_is_cut_off_is_none():
    with hostile(functools.partial(say, HEAD + b"Content-Length: 100\r\n\r\n{}")) as (url, _):
        assert http.request(f"{url}/v1/models", timeout_s=5).status == 0


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad"])
def test_a_reply_that_is_nested_too_deeply_is_no_json(status):
    reply = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n" + DEEP
    with hostile(functools.partial(say, reply)) as (url, _):
        found = http.request(f"{url}/v1/models", timeout_s=5)
        assert found.status in (200, 400)
        assert found.json is None
        assert len(found.message) <= 500
        assert check_api("api_url", f"{url}/v1", None, "m") is not None


def test_the_names_that_a_server_lists_are_waited_for_and_read_within_bounds(monkeypatch):
    monkeypatch.setattr(request_failures, "LIST_S", 0.5)

    class NotFound(Exception):
        status_code = 404

    for behave in (
        functools.partial(drip, b"HTTP/1.1 200 OK\r\nX: "),
        functools.partial(flood, HEAD + b"\r\n", b"[" * 9999),
    ):
        with hostile(behave) as (url, _):
            error = NotFound()
            error.request = httpx.Request("POST", f"{url}/v1/chat/completions")
            began = time.monotonic()
            assert request_failures.models_listed(error) == ""
            assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("127.0.0.1", Reach.MACHINE),
        ("localhost", Reach.MACHINE),
        ("::1", Reach.MACHINE),
        ("0.0.0.0", Reach.MACHINE),
        ("::ffff:127.0.0.1", Reach.MACHINE),
        ("169.254.169.254", Reach.LINK),
        ("fe80::1%eth0", Reach.LINK),
        ("10.1.2.3", Reach.PRIVATE),
        ("192.168.0.1", Reach.PRIVATE),
        ("172.20.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("1.1.1.1", Reach.WORLD),
        ("2606:4700::1111", Reach.WORLD),
        ("no-such-host.invalid", Reach.WORLD),
        ("", Reach.WORLD),
    ],
)
def test_from_where_an_address_can_be_reached(host, reach):
    assert reach_of(host) == reach


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ("https://1.1.1.1/v1", "http://127.0.0.1:8000/", True),
        ("https://1.1.1.1/v1", "http://169.254.169.254/latest/meta-data/", True),
        ("https://1.1.1.1/v1", "http://10.0.0.7/", True),
        ("https://10.0.0.8/v1", "http://localhost:11434/", True),
        ("https://1.1.1.1/v1", "file:///etc/passwd", True),
        ("https://1.1.1.1/v1", "ftp://1.1.1.1/x", True),
        ("https://1.1.1.1/v1", "https://1.0.0.1/v1", False),
        ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", False),
        ("http://127.0.0.1:1/v1", "https://1.1.1.1/v1", False),
        ("https://10.0.0.8/v1", "https://10.0.0.9/v1", False),
    ],
)
def test_a_redirect_leads_no_further_in(before, after, refused):
    assert bool(refused_redirect(before, after)) is refused


@pytest.fixture
def outside(monkeypatch):
    """A server at 127.0.0.2 that counts as one of the Internet, and redirects to one at 127.0.0.1."""
    stock = redirects.reach_of
    monkeypatch.setattr(redirects, "reach_of", lambda host: Reach.WORLD if host == "127.0.0.2" else stock(host))
    with hostile(functools.partial(say, HEAD + b"Content-Length: 2\r\n\r\n{}")) as (inner, asked):
        leads = f"HTTP/1.1 307 Away\r\nLocation: {inner}/secret\r\nContent-Length: 0\r\n\r\n".encode()
        server = socket.create_server(("127.0.0.2", 0))

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(leads)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.2:{server.getsockname()[1]}/v1", asked
        server.close()


def test_the_parent_does_not_ask_there(outside):
    url, asked = outside
    reply = http.request(f"{url}/models", api_key="sk-secret-of-the-first", timeout_s=5)
    assert reply.status == 0
    assert "127.0.0.1" in reply.text
    assert "further in" in reply.text
    assert asked == []


@pytest.mark.parametrize("name", ["OpenAI", "AsyncOpenAI"])
def test_nor_do_clients_of_models_and_judges(outside, monkeypatch, name):
    """A POST that is redirected with 307 would take the question along."""
    import asyncio

    url, asked = outside
    for kind in ("OpenAI", "AsyncOpenAI"):
        monkeypatch.setattr(getattr(openai, kind), "__init__", getattr(openai, kind).__init__)
    api_clients.patch_clients()
    client = getattr(openai, name)(base_url=url, api_key="sk-secret-of-the-first", max_retries=0)

    def ask():
        found = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "secret question"}])
        asyncio.run(found)

    with pytest.raises(openai.APIConnectionError) as caught:
        ask()
    assert "further in" in request_failures.error_reason(caught.value)
    assert asked == []


def test_a_key_goes_to_no_other_server_with_a_redirected_question(monkeypatch):
    """What httpx promises, held here: to another port the question goes without the key."""
    with hostile(functools.partial(say, HEAD + b"Content-Length: 2\r\n\r\n{}")) as (inner, asked):
        leads = f"HTTP/1.1 307 Away\r\nLocation: {inner}/v1\r\nContent-Length: 0\r\n\r\n".encode()
        with hostile(functools.partial(say, leads)) as (outer, first):
            monkeypatch.setattr(openai.OpenAI, "__init__", openai.OpenAI.__init__)
            api_clients.patch_clients()
            client = openai.OpenAI(base_url=f"{outer}/v1", api_key="sk-secret-of-the-first", max_retries=0)
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}])
    assert b"sk-secret-of-the-first" in b"".join(first)
    assert asked
    assert b"sk-secret" not in b"".join(asked)


def test_reading_of_replies_costs_no_import_that_is_slow():
    """An engine's readiness is asked ten times a second from a process that has imported little."""
    code = "import sys, json; from evalscope_evalflow.serving import http; print(json.dumps(sorted(sys.modules)))"
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert not {"httpx", "openai", "requests"} & set(found)
