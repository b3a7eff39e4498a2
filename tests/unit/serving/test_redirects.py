"""Redirects: they are followed, and the key goes to no other server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from evalscope_evalflow.serving import http
from evalscope_evalflow.worker.request_failures import models_listed

KEY = "sk-of-the-first"
Server = tuple[HTTPServer, list[str | None]]


def serve(leads_to: str | None = None) -> Server:
    """A server that lists a model, or redirects `/v1/models`; and the Authorization headers that it got."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization"))
            leads = leads_to if self.path == "/v1/models" else None
            self.send_response(302 if leads else 200)
            if leads:
                self.send_header("Location", leads)
            self.end_headers()
            self.wfile.write(b"" if leads else b'{"data": [{"id": "m"}]}')

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server, keys


@pytest.fixture
def other() -> Iterator[Server]:
    server, keys = serve()
    yield server, keys
    server.shutdown()
    server.server_close()


@pytest.fixture
def first(request: pytest.FixtureRequest, other: Server) -> Iterator[Server]:
    server, keys = serve(request.param.format(port=other[0].server_port))
    yield server, keys
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("first", ["http://127.0.0.1:{port}/v1/models/"], indirect=True)
def test_the_key_goes_to_no_other_server(first: Server, other: Server) -> None:
    reply = http.request(f"http://127.0.0.1:{first[0].server_port}/v1/models", api_key=KEY)
    assert reply.status == 200
    assert first[1] == [f"Bearer {KEY}"]
    assert other[1] == [None]


@pytest.mark.parametrize("first", ["/v1/models/"], indirect=True)
def test_on_the_same_server_it_is_kept(first: Server) -> None:
    assert http.request(f"http://127.0.0.1:{first[0].server_port}/v1/models", api_key=KEY).ok
    assert first[1] == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize("first", ["http://127.0.0.1:{port}/v1/models/"], indirect=True)
def test_nor_when_a_worker_asks_for_names(first: Server, other: Server) -> None:
    class NotFound(Exception):
        status_code = 404
        request = httpx.Request(
            "POST",
            f"http://127.0.0.1:{first[0].server_port}/v1/chat/completions",
            headers={"Authorization": f"Bearer {KEY}"},
        )

    assert models_listed(NotFound()) == "; it lists: m"
    assert first[1] == [f"Bearer {KEY}"]
    assert other[1] == [None]


@pytest.mark.parametrize(
    ("after", "same"),
    [
        ("https://api.example/v1/", True),
        ("http://api.example/v1/", True),
        ("https://api.example:8443/v1", False),
        ("http://api.example:8080/v1", False),
        ("https://other.example/v1", False),
    ],
)
def test_which_servers_are_the_same(after: str, same: bool) -> None:
    assert http._same_server("http://api.example/v1", after) is same


def test_https_is_never_left() -> None:
    assert not http._same_server("https://api.example/v1", "http://api.example/v1")
