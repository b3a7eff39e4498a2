"""A model and a judge that answer at once, always the same, and count what they are asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from typing_extensions import Self

REFUSED, CUT = "too much of it", "a long story"


class QuestionServer:
    """Serves any model; the one that is called `judge` gives verdicts.

    Attributes:
        asked: how often each question was asked, by model and prompt; preflight's are left out.
    """

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.answer(200, {"object": "list", "data": [{"id": name} for name in ("m", "n", "judge")]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = "\n".join(str(message["content"]) for message in body["messages"])
                if body.get("max_tokens") == 1:
                    return self.answer(200, completion("A"))
                with lock:
                    server.asked[body["model"], text] += 1
                digest = hashlib.sha256(text.encode()).digest()[0]
                if body["model"] == "judge":
                    return self.answer(200, completion(json.dumps({"verdict": "AB"[digest % 2]})))
                if REFUSED in text:
                    return self.answer(400, {"error": {"message": "maximum context length is 10 tokens", "code": 400}})
                if CUT in text:
                    return self.answer(200, completion("Let me see. First", "length"))
                return self.answer(200, completion(f"ANSWER: {'ABCD'[digest % 4]}"))

            def answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def completion(text: str, reason: str = "stop") -> dict[str, Any]:
    """A chat completion that says a text."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
