"""Keys: put in their places for EvalScope, and kept out of what it writes."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

KEY_PREFIX = "EVALFLOW_KEY_"  # variables that the parent puts keys into
MODEL_KEY = "EVALSCOPE_API_KEY"  # read by EvalScope where a task has no key of its own
MASK = "**********"


def resolve(node: Any, secret: bool = False) -> Any:
    """Put keys in place of the references to our environment.

    Those of judges and of `model_args` become SecretStr, which EvalScope masks in what it writes.
    """
    from pydantic import SecretStr

    if isinstance(node, dict):
        return {name: resolve(value, secret or name in ("judge", "model_args")) for name, value in node.items()}
    if isinstance(node, list):
        return [resolve(value, secret) for value in node]
    if isinstance(node, str) and node.startswith("${" + KEY_PREFIX):
        key = os.environ[node[2:-1]]
        return SecretStr(key) if secret else key
    return node


def known_keys() -> list[str]:
    """The keys that we were given, the longest first: one may be a part of another."""
    found = [value for name, value in os.environ.items() if name.startswith(KEY_PREFIX) or name == MODEL_KEY]
    return sorted({key for key in found if key and key != "EMPTY"}, key=len, reverse=True)


def masked(text: str) -> str:
    """A text without keys."""
    for key in known_keys():
        text = text.replace(key, MASK)
    return text


def mask_keys() -> None:
    """Keep keys that servers repeat out of EvalScope's log, and out of the errors that it saves with verdicts."""
    import logging

    known = known_keys()
    format_record = logging.Handler.format

    def format_masked(self: logging.Handler, record: logging.LogRecord) -> str:
        text = format_record(self, record)
        for key in known:
            text = text.replace(key, MASK)
        return text

    logging.Handler.format = format_masked  # type: ignore[method-assign]
    for name in ("httpx", "httpx2"):  # which of them openai uses depends on its version
        with contextlib.suppress(ImportError):
            _mask_errors(importlib.import_module(name).Response, known)


def _mask_errors(response_class: Any, known: list[str]) -> None:
    """Mask keys in the body of every reply that is an error. An answer is never touched: a key may be a word of it."""
    read, aread = response_class.read, response_class.aread

    def masked(response: Any) -> bytes:
        if response.is_error:
            for key in known:
                response._content = response._content.replace(key.encode(), MASK.encode())
        return bytes(response._content)

    def read_masked(self: Any) -> bytes:
        read(self)
        return masked(self)

    async def aread_masked(self: Any) -> bytes:
        await aread(self)
        return masked(self)

    response_class.read, response_class.aread = read_masked, aread_masked
