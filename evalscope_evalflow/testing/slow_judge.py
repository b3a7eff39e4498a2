"""A judge for conformance suites: slow, always content, and aware of how often it is asked at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JUDGE_S = 0.3  # that a verdict takes, so that verdicts overlap


@dataclass
class _Counts:
    """Requests for verdicts: in all, now, and the most at the same time."""

    asked: int = 0
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Judge:
    """A judge that finds every answer right, slowly, and counts how often it is asked at once.

    It is a context manager: it serves within the block.
    """

    def __init__(self) -> None:
        self._counts = _Counts()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._counts))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def asked(self) -> int:
        """Verdicts that it was asked for."""
        return self._counts.asked

    @property
    def most_at_once(self) -> int:
        """The most verdicts that it was asked for at the same time."""
        return self._counts.most

    @property
    def settings(self) -> dict[str, Any]:
        """For a task's `judge`: it judges everything."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        return {"strategy": "llm", "models": [{"model_id": "judge", "api_url": url, "api_key": "EMPTY"}]}

    def __enter__(self) -> Judge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(counts: _Counts) -> type[BaseHTTPRequestHandler]:
    """How the judge answers requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply({"object": "list", "data": [{"id": "judge", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if body.get("max_tokens") == 1:  # preflight's question
                self._reply(_completion("A"))
                return
            with counts.lock:
                counts.asked += 1
                counts.now += 1
                counts.most = max(counts.most, counts.now)
            threading.Event().wait(JUDGE_S)
            with counts.lock:
                counts.now -= 1
            self._reply(_completion('{"verdict": "A"}'))

        def _reply(self, body: Mapping[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no log."""

    return Handler


def _completion(text: str) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice], "usage": usage,
    }  # fmt: skip
