"""An OpenAI-compatible API in this process, whose every reply a test decides, and which can go away and come back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]  # status, headers, body


def completion(text: str = "A") -> Reply:
    """An answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return 200, {}, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                     "usage": usage}  # fmt: skip


def error(status: int, message: str = "broken", **headers: str) -> Reply:
    """A refusal."""
    return status, headers, {"error": {"message": message}}


class ApiServer:
    """Serves one model.

    Attributes:
        asked: prompts that came, probes left out.
        probes: number of probes that came.
        reply: what it says to a prompt that was sent before so many times; None: it closes the connection.
        probe: what it says to a probe.
        freed: whoever waits for this has been forgotten by the server.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.probes = 0
        self.reply: Callable[[str, int], Reply | None] = lambda prompt, before: completion()
        self.probe: Callable[[], Reply | None] = completion
        self.freed = threading.Event()
        self.port = 0
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Listen, at the same port as before."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with api._lock:
                    before = api.asked.count(prompt)
                    if body.get("max_tokens") == 1:
                        api.probes += 1
                    else:
                        api.asked.append(prompt)
                reply = api.probe() if body.get("max_tokens") == 1 else api.reply(prompt, before)
                if reply is None:
                    self.connection.close()
                    return
                status, headers, data = reply
                content = json.dumps(data).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Go away: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def silence(self) -> Reply:
        """Never answer, until the test is over."""
        self.freed.wait()
        return completion()

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.freed.set()
        self.stop()
