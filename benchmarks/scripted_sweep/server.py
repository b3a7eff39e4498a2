"""The engine's process: silent for as long as its model takes to load, then a server that answers what readiness asks.

python -IS server.py HOST PORT MODEL
"""

import json
import os
import signal
import sys
import threading
import time

began = time.monotonic()
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402

from journal import note, read_script  # noqa: E402

host, port, model = sys.argv[1], int(sys.argv[2]), sys.argv[3]
MESSAGE = {"role": "assistant", "content": "A"}
CHAT = {
    "id": "1", "object": "chat.completion", "created": 0, "model": model,
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip
REPLIES = {
    "/health": {},
    "/v1/models": {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "nobody"}]},
    "/v1/chat/completions": CHAT,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = REPLIES.get(self.path)
        body = json.dumps(found or {}).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def end(*_: object) -> None:
    note("engine ended", model)
    os._exit(0)


signal.signal(signal.SIGTERM, end)
devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
note("engine began", model, at=began, devices=[name for name in devices.split(",") if name])
load_s = read_script()["models"][model]["load_s"]
threading.Event().wait(max(0.0, began + load_s - time.monotonic()))
server = ThreadingHTTPServer((host, port), Handler)
note("engine ready", model)
server.serve_forever()
