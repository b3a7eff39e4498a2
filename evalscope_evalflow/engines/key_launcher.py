"""Starts a server that takes its API key as an argument, hands it the key from the environment, and closes it.

An argument can be read by every user of the machine. So the key comes in the variable EVALFLOW_ENGINE_API_KEY, and
is put where the server's argparse parser would have put it. Run by its path, with the interpreter of the engine's
environment, which need not have EvalFlow:

    python key_launcher.py OPTION PROGRAM ARGUMENTS…

OPTION is the server's option for its key, without dashes; with a plus sign behind it (`api-keys+`), it takes several
keys and is given a list. PROGRAM is "package.module" to run as with `python -m`, or "package.module:function" to call.

Servers check their key on some paths only: vLLM answers `/invocations`, which is full inference, without it. So where
uvicorn serves, requests come to a gate before the application sees them. What only shows that the server is well
(`OPEN_PATHS`) needs no key. The paths of inference (`MODEL_PATHS`) need the model's key. Everything else, websockets
included, needs the control key, which this process knows as a SHA-256 only (EVALFLOW_ENGINE_CONTROL: "MODULE SHA256");
without that variable, nobody can reach it. MODULE is one of those in `inside/`, and answers at `/evalflow/…`.

The variables stay set, as servers spawn processes that serve, too: these import this file as `__mp_main__`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import runpy
import sys
from typing import Any

KEY_VARIABLE = "EVALFLOW_ENGINE_API_KEY"
CONTROL_VARIABLE = "EVALFLOW_ENGINE_CONTROL"
CONTROL_PATH = "/evalflow/"
OPEN_PATHS = ("/health", "/ping", "/metrics", "/version", "/load", "/docs", "/openapi.json", "/favicon.ico")
OPEN_METHODS = ("GET", "HEAD")
MODEL_PATHS = (
    "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
    "/v1/messages/count_tokens", "/v1/embeddings", "/v1/score", "/v1/rerank", "/v1/audio/transcriptions",
    "/v1/audio/translations", "/v1/audio/speech", "/v1/images/generations", "/v1/images/edits", "/tokenize",
    "/detokenize", "/generate",
)  # fmt: skip
MODEL_PATH = re.compile(r"/v1/responses/[\w-]+(/cancel)?")  # one answer that is kept
DRAIN_S = 30.0  # that requests to the model may take to end once its weights are to be replaced
MOST_BYTES = 1 << 16  # of a request for control


class Gate:
    """An ASGI application that passes on what the key of the request allows, and refuses everything else."""

    def __init__(self, app: Any, key: str, control: str = "", served: Any = None) -> None:
        """
        Args:
            app: what is behind it.
            key: the model's.
            control: "MODULE SHA256": what answers at `/evalflow/…`, and of which key; empty: nothing does.
            served: the server's own application, without what uvicorn has put around it.
        """
        module, _, self._control = control.partition(" ")
        self.app, self._key, self._served = app, key.encode(), served
        self._module = module
        self._asking = 0  # requests to the model that are under way
        self._idle: asyncio.Event | None = None  # while weights are being replaced: set once there are none

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = path.rstrip("/") or "/"
        given = [hashlib.sha256(key).hexdigest() for key in _keys(scope)]
        has_control = bool(self._control) and any(hmac.compare_digest(key, self._control) for key in given)
        if kind == "http" and path in OPEN_PATHS and scope["method"] in OPEN_METHODS:
            await self.app(scope, receive, send)
        elif has_control and kind == "http" and path.startswith(CONTROL_PATH):
            await self._answer(path.removeprefix(CONTROL_PATH), receive, send)
        elif has_control:
            await self.app(scope, receive, send)
        elif not self._has_key(scope):
            await _refuse(scope, send, 401, "the API key is missing, or is another one")
        elif kind == "websocket" or not (path in MODEL_PATHS or MODEL_PATH.fullmatch(path)):
            await _refuse(scope, send, 403, f"the model's API key does not open {path}")
        elif self._idle is not None:
            await _refuse(scope, send, 503, "the model's weights are being replaced")
        else:
            await self._ask(scope, receive, send)

    def _has_key(self, scope: Any) -> bool:
        return any(hmac.compare_digest(key, self._key) for key in _keys(scope))

    async def _ask(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on a request to the model."""
        self._asking += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._asking -= 1
            if self._idle is not None and not self._asking:
                self._idle.set()

    async def _drained(self, idle: asyncio.Event) -> None:
        """Wait until no request to the model is under way.

        Raises:
            RuntimeError: they have not ended in time.
        """
        try:
            await asyncio.wait_for(idle.wait(), DRAIN_S)
        except asyncio.TimeoutError:
            raise RuntimeError(f"requests to the model have not ended within {DRAIN_S:.0f} s") from None

    async def _answer(self, action: str, receive: Any, send: Any) -> None:
        """Do what the owner asks for; no request reaches the model meanwhile."""
        if self._idle is not None:
            await _reply(send, 409, {"error": {"message": "the weights are being replaced already", "code": 409}})
            return
        self._idle = asyncio.Event()
        try:
            if self._asking:
                await self._drained(self._idle)
            answer = importlib.import_module(self._module).answer
            await _reply(send, 200, await answer(self._served, action, json.loads(await _body(receive))))
        except Exception as error:  # noqa: BLE001 - whatever it is, the owner has to know
            message = f"{type(error).__name__}: {error}"
            await _reply(send, 500, {"error": {"message": message, "code": 500}})
        finally:
            self._idle = None


def _keys(scope: Any) -> list[bytes]:
    """The keys that a request comes with."""
    found = []
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
        elif name == b"x-api-key":
            found.append(value)
    return found


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            raise ValueError("the request is too long")
        if not message.get("more_body"):
            return body or b"{}"


async def _refuse(scope: Any, send: Any, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    challenge = [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await _reply(send, status, {"error": {"message": message, "code": status}}, challenge)


async def _reply(send: Any, status: int, body: Any, headers: Any = ()) -> None:
    headers = [(b"content-type", b"application/json"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


class _Uvicorn(importlib.abc.MetaPathFinder):
    """Puts the gate before whatever uvicorn serves, once somebody imports it; nothing is imported for that."""

    def __init__(self, key: str, control: str) -> None:
        self._key, self._control = key, control

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "uvicorn.config":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_close(module: Any) -> None:
                execute(module)
                _close(module.Config, self._key, self._control)

            spec.loader.exec_module = execute_and_close  # type: ignore[method-assign]
        return spec


def _close(config: Any, key: str, control: str) -> None:
    """Let uvicorn's `Config` load every application behind the gate."""
    load = config.load

    def load_closed(self: Any) -> None:
        load(self)
        self.loaded_app = Gate(self.loaded_app, key, control, self.app)

    config.load = load_closed


def close_server(key: str, control: str = "") -> None:
    """From here on, what uvicorn serves in this process asks for keys.

    Args:
        key: the model's.
        control: "MODULE SHA256", as `Gate` has it. Processes that this one spawns find the module, too.
    """
    if control:
        sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside"))
    if "uvicorn.config" in sys.modules:
        _close(sys.modules["uvicorn.config"].Config, key, control)
    else:
        sys.meta_path.insert(0, _Uvicorn(key, control))


def hand_over(option: str, key: str) -> None:
    """Let every parser that knows the option find this key there."""
    name = option.rstrip("+")
    attribute = name.replace("-", "_")
    value = [key] if option.endswith("+") else key
    parse = argparse.ArgumentParser.parse_args

    def parse_with_key(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        found: Any = parse(parser, *args, **kwargs)
        if not hasattr(found, attribute):
            parser.error(f"this version knows no --{name}: it would answer everybody on this machine")
        setattr(found, attribute, value)
        return found

    argparse.ArgumentParser.parse_args = parse_with_key  # type: ignore[method-assign, assignment]


def main() -> None:
    # Run by its path, a file of ours named like the engine would be found in the engine's place.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    option, program, *arguments = sys.argv[1:]
    key = os.environ.get(KEY_VARIABLE, "")
    if key:
        hand_over(option, key)
    module, _, function = program.partition(":")
    sys.argv = [module.partition(".")[0], *arguments]
    if function:
        getattr(importlib.import_module(module), function)()
    else:
        runpy.run_module(module, run_name="__main__")


if __name__ in ("__main__", "__mp_main__") and os.environ.get(KEY_VARIABLE):
    close_server(os.environ[KEY_VARIABLE], os.environ.get(CONTROL_VARIABLE, ""))
if __name__ == "__main__":  # the workers of some servers import this file again
    main()
