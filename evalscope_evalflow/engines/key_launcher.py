"""Starts a server that takes its API key as an argument, hands it the key from the environment, and closes it.

An argument can be read by every user of the machine. So the key comes in the variable EVALFLOW_ENGINE_API_KEY, and
is put where the server's argparse parser would have put it. Run by its path, with the interpreter of the engine's
environment, which need not have EvalFlow:

    python key_launcher.py OPTION PROGRAM ARGUMENTS…

OPTION is the server's option for its key, without dashes; with a plus sign behind it (`api-keys+`), it takes several
keys and is given a list. PROGRAM is "package.module" to run as with `python -m`, or "package.module:function" to call.

Servers check their key on some paths only: vLLM answers `/invocations`, which is full inference, without it. So where
uvicorn serves, every request has to have the key before the application sees it, but for what only shows that the
server is well (`OPEN_PATHS`). The variable stays set, as servers spawn processes that serve, too: these import this
file as `__mp_main__`.
"""

from __future__ import annotations

import argparse
import hmac
import importlib
import importlib.abc
import importlib.machinery
import os
import runpy
import sys
from typing import Any

KEY_VARIABLE = "EVALFLOW_ENGINE_API_KEY"
OPEN_PATHS = ("/health", "/ping", "/metrics", "/version", "/load", "/docs", "/openapi.json", "/favicon.ico")
OPEN_METHODS = ("GET", "HEAD")
REFUSAL = b'{"error": {"message": "the API key is missing, or is another one", "code": 401}}'


class RequireKey:
    """An ASGI application that answers 401 to requests without the key, and passes on all others."""

    def __init__(self, app: Any, key: str) -> None:
        self.app, self._key = app, key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or self._may_pass(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})

    def _may_pass(self, scope: Any) -> bool:
        method, path = scope.get("method"), scope["path"].removeprefix(scope.get("root_path", ""))
        if method == "OPTIONS" or (method in OPEN_METHODS and path.rstrip("/") in OPEN_PATHS):
            return True
        for name, value in scope["headers"]:
            given = b""
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
            elif name == b"x-api-key":
                given = value
            if hmac.compare_digest(given, self._key):
                return True
        return False


class _Uvicorn(importlib.abc.MetaPathFinder):
    """Puts `RequireKey` before whatever uvicorn serves, once somebody imports it; nothing is imported for that."""

    def __init__(self, key: str) -> None:
        self._key = key

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "uvicorn.config":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_close(module: Any) -> None:
                execute(module)
                _close(module.Config, self._key)

            spec.loader.exec_module = execute_and_close  # type: ignore[method-assign]
        return spec


def _close(config: Any, key: str) -> None:
    """Let uvicorn's `Config` load every application behind the key."""
    load = config.load

    def load_closed(self: Any) -> None:
        load(self)
        self.loaded_app = RequireKey(self.loaded_app, key)

    config.load = load_closed


def close_server(key: str) -> None:
    """From here on, what uvicorn serves in this process asks for the key."""
    if "uvicorn.config" in sys.modules:
        _close(sys.modules["uvicorn.config"].Config, key)
    else:
        sys.meta_path.insert(0, _Uvicorn(key))


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
    close_server(os.environ[KEY_VARIABLE])
if __name__ == "__main__":  # the workers of some servers import this file again
    main()
