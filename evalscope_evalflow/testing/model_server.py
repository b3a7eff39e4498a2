"""An API with one model, for the conformance suite of backends: it counts what it is asked, and fails on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOO_LONG = "This model's maximum context length is 8 tokens. However, your messages resulted in 99 tokens."


class ModelServer(ThreadingHTTPServer):
    """An API with one model, which counts what it is asked.

    Attributes:
        prompts: the prompts of all requests but those that check whether the API is there, as they came.
        refused: one prompt that is too long for the model; None: none.
        held_after: number of answers after which it gives no more until it is closed; None: never.
    """

    daemon_threads = True

    def __init__(self, name: str, key: str, answer: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.key, self.answer = name, key, answer
        self.prompts: list[str] = []
        self.refused: str | None = None
        self.held_after: int | None = None
        self.holding = threading.Event()
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base URL of its API."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @contextmanager
    def served(self) -> Iterator[ModelServer]:
        """Serve, in a thread, for the length of a block."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def log_message(self, *args: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        if self._allowed():
            self._reply(200, {"object": "list", "data": [{"id": self.server.name, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if not self._allowed():
            return
        if 1 not in (body.get("max_tokens"), body.get("max_completion_tokens")):  # not the check before a run
            prompt = json.dumps(body["messages"], sort_keys=True)
            with server.lock:
                held = server.held_after is not None and len(server.prompts) >= server.held_after
                server.prompts.append(prompt)
            if held:
                server.holding.set()
                server.closing.wait()
                return
            if prompt == server.refused:
                self._reply(400, {"error": {"message": TOO_LONG, "code": 400, "type": "BadRequestError"}})
                return
        message = {"role": "assistant", "content": server.answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self._reply(
            200,
            {
                "id": "1", "object": "chat.completion", "created": 0, "model": server.name,
                "choices": [choice], "usage": usage,
            },
        )  # fmt: skip

    def _allowed(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {self.server.key}":
            return True
        self._reply(401, {"error": {"message": "no such key"}})
        return False

    def _reply(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
