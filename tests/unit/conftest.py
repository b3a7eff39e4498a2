"""Fixtures of the unit layer: small real files and a small real server; no engine, no EvalScope run."""

import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import checkpoints
import pytest


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    """The user's model cache, proxies, keys and runs must not decide a test."""
    for name in ("HF_HUB_CACHE", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))


def _string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value):
    """A value of a GGUF header with its type in front, as the format has it."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    assert isinstance(value, list)
    items = [_typed(item) for item in value]
    return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(item[4:] for item in items)


LLAMA = {
    "general.architecture": "llama",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a"],
    "tokenizer.ggml.scores": [0.0, 0.5, 1.0],
    "llama.rope.scaling.finetuned": False,
    "llama.context_length": 2048,
}


@pytest.fixture
def gguf_header():
    """The header of a GGUF file, as bytes; as the format has it, a file without tensors needs no more."""

    def header(metadata=LLAMA, version=3, tensors=(), **more):
        metadata = {**metadata, **more}
        pairs = b"".join(_string(name) + _typed(value) for name, value in metadata.items())
        infos = b"".join(  # one dimension, of floats
            _string(name) + struct.pack("<IQIQ", 1, 8, 0, offset) for name, offset in tensors
        )
        return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + pairs + infos

    return header


@pytest.fixture
def make_gguf(tmp_path, gguf_header):
    """Writes a GGUF file that is only a header."""

    def make(name="model.gguf", metadata=LLAMA, version=3):
        path = tmp_path / name
        path.write_bytes(gguf_header(metadata, version))
        return path

    return make


@pytest.fixture
def gguf_file(make_gguf):
    """A GGUF file of a model with a context of 2048 tokens."""
    return make_gguf()


@pytest.fixture
def make_checkpoint(tmp_path):
    """Writes a checkpoint folder with a config.json and one small tensor."""

    def make(name="checkpoint", **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, **config}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")
        checkpoints.write_file(folder / "model.safetensors", [("model.norm.weight", "BF16", (64,))])
        return folder

    return make


@pytest.fixture
def checkpoint_folder(make_checkpoint):
    """A checkpoint with a context of 4096 tokens."""
    return make_checkpoint()


@pytest.fixture
def make_env(tmp_path):
    """Makes a folder that looks like an environment; its interpreter finds every module, or none."""

    def make(name="env", *, has_modules=True, conda=False):
        prefix = tmp_path / name
        (prefix / "bin").mkdir(parents=True)
        python = prefix / "bin" / "python"
        python.write_text(f"#!/bin/sh\nexit {0 if has_modules else 3}\n")
        python.chmod(0o755)
        if conda:
            (prefix / "conda-meta").mkdir()
        return prefix

    return make


class Api:
    """An OpenAI-compatible API in a thread.

    Attributes:
        models: what it lists.
        key: what it asks for; None: nothing.
        replies: (status, body) by path, in place of what it would say.
        seen: (method, path, headers, body) of every request.
    """

    def __init__(self):
        self.models, self.key, self.replies, self.seen = ["m"], None, {}, []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(body) if body else None
                api.seen.append((self.command, self.path, dict(self.headers), body))
                status, answer = api._answer(self.path, self.headers, body)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _handle

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.root}/v1"

    def _answer(self, path, headers, body):
        if path in self.replies:
            reply = self.replies[path]
            return reply(body) if callable(reply) else reply
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": {"message": "Unauthorized"}}
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in self.models]}
        if path == "/v1/chat/completions" and body["model"] in self.models:
            return 200, {"choices": [{"message": {"content": "Hi"}}]}
        return 404, {"error": {"message": "there is no such thing"}}

    @property
    def paths(self):
        return [path for _, path, _, _ in self.seen]


@pytest.fixture
def api():
    found = Api()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()
