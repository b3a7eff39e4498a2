"""Keys: put in their places for EvalScope, and kept out of what it writes."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from evalscope_evalflow.events import any_json

KEY_PREFIX = "EVALFLOW_KEY_"  # variables that the parent puts keys into
MODEL_KEY = "EVALSCOPE_API_KEY"  # read by EvalScope where a task has no key of its own
JUDGE_KEY = f"{KEY_PREFIX}OWN_JUDGE"  # of a judge that is an engine of this sweep's
MASK = "**********"
SHORT = 8  # characters; a key of fewer may be an ordinary word
# Fields of messages that programs read, ours and servers': they are never changed.
NO_TEXT = frozenset({"event", "kind", "dataset", "subset", "sample", "code", "type", "param", "object", "status"})


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


def mask_text(text: str, keys: Iterable[str]) -> str:
    """A text that is shown, without keys. A short key is masked where it is a word: it may be a part of any other."""
    for key in keys:
        text = text.replace(key, MASK) if len(key) >= SHORT else re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", MASK, text)
    return text


def mask_fields(data: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A parsed message without keys in its texts; what it is about, and of what kind, stays as it is."""
    keys = tuple(keys)

    def convert(node: Any, name: str = "") -> Any:
        if isinstance(node, dict):
            return {key: convert(value, str(key)) for key, value in node.items()}
        if isinstance(node, list):
            return [convert(value, name) for value in node]
        return mask_text(node, keys) if isinstance(node, str) and name not in NO_TEXT else node

    masked_data: dict[str, Any] = convert(data)
    return masked_data


def masked(text: str) -> str:
    """A text without keys."""
    return mask_text(text, known_keys())


def mask_keys() -> None:
    """Keep keys that servers repeat out of EvalScope's log, and out of the errors that it saves with verdicts."""
    import logging

    known = known_keys()
    format_record = logging.Handler.format

    def format_masked(self: logging.Handler, record: logging.LogRecord) -> str:
        return mask_text(format_record(self, record), known)

    logging.Handler.format = format_masked  # type: ignore[method-assign]
    for name in ("httpx", "httpx2"):  # which of them openai uses depends on its version
        with contextlib.suppress(ImportError):
            _mask_errors(importlib.import_module(name).Response, known)


def mask_body(body: bytes, keys: Iterable[str]) -> bytes:
    """The body of an error without keys; JSON stays the JSON that it is."""
    text = body.decode("utf-8", "replace")
    if not any(key in text for key in keys):
        return body
    try:
        data = any_json.loads(text)
    except ValueError:
        return mask_text(text, keys).encode()
    return json.dumps(mask_fields({"": data}, keys)[""]).encode()


def _mask_errors(response_class: Any, known: list[str]) -> None:
    """Mask keys in the body of every reply that is an error. An answer is never touched: a key may be a word of it."""
    read, aread = response_class.read, response_class.aread

    def masked(response: Any) -> bytes:
        if response.is_error and known:
            response._content = mask_body(response._content, known)
        return bytes(response._content)

    def read_masked(self: Any) -> bytes:
        read(self)
        return masked(self)

    async def aread_masked(self: Any) -> bytes:
        await aread(self)
        return masked(self)

    response_class.read, response_class.aread = read_masked, aread_masked
