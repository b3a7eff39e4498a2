"""A judge that the tests can look over the shoulder of: OpenAI-compatible, in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from typing_extensions import Self

Reply = str | int  # what it says, or the status of an error


class JudgeServer:
    """Serves the model `judge`.

    Attributes:
        asked: the prompts that it was sent, each as one text; preflight's question is not one of them.
        reply: makes the reply to the n-th of them (from 1); by default it finds every answer right.
        most_at_once: the largest number of requests that were there at the same time.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.reply: Callable[[int], Reply] = lambda _: '{"verdict": "A"}'
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(200, {"object": "list", "data": [{"id": "judge", "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = "\n".join(str(message["content"]) for message in body["messages"])
                if body.get("max_tokens") == 1:
                    return self.answer(200, completion("A"))
                with judge._lock:
                    judge.asked.append(text)
                    number = len(judge.asked)
                    judge._now += 1
                    judge.most_at_once = max(judge.most_at_once, judge._now)
                try:
                    said = judge.reply(number)
                finally:
                    with judge._lock:
                        judge._now -= 1
                if isinstance(said, int):
                    return self.answer(said, {"error": {"message": "the judge is unwell", "code": said}})
                return self.answer(200, completion(said))

            def answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def settings(self) -> dict[str, Any]:
        """For a task's `judge`: it judges everything."""
        model = {"model_id": "judge", "api_url": self.url, "api_key": "EMPTY"}
        return {"strategy": "llm", "models": [{**model, "generation_config": {"retries": 0, "retry_interval": 0}}]}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def completion(text: str) -> dict[str, Any]:
    """A chat completion that says a text."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
