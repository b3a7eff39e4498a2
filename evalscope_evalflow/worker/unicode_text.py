"""Halves of surrogate pairs, which no UTF-8 can hold: servers that cut an answer in the middle of an emoji send them.

JSON can spell them (`\\ud83d`), so they come in by replies and by data. In what a model or a judge says, and in what
they are asked, they become U+FFFD, as every decoder would have it; in files they stay what they are, as JSON's escape.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from evalscope_evalflow.events.schema import ESCAPED

HALVES = re.compile("[\ud800-\udfff]")
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal", "arguments", "name")


def whole(text: str) -> str:
    """A text in which pairs of halves are the characters that they stand for, and single ones U+FFFD."""
    if not HALVES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole_texts(node: Any) -> Any:
    """The same for every text of a tree of dicts and lists."""
    if isinstance(node, str):
        return whole(node)
    if isinstance(node, dict):
        return {whole_texts(key): whole_texts(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [whole_texts(value) for value in node]
    return node


def mend_texts() -> None:
    """Have EvalScope's clients and files take any text."""
    from evalscope.models import openai_compatible
    from evalscope.utils import io_utils

    api, messages = openai_compatible.OpenAICompatibleAPI, openai_compatible.openai_chat_messages
    choices = api.chat_choices_from_completion
    if hasattr(choices, "__wrapped__"):
        return

    @functools.wraps(messages)
    def asked(*args: Any, **options: Any) -> Any:
        return [whole_texts(item) for item in messages(*args, **options)]

    @functools.wraps(choices)
    def said(self: Any, completion: Any, tools: Any) -> Any:
        for choice in completion.choices or []:
            _mend(choice.message)
            for call in getattr(choice.message, "tool_calls", None) or []:
                _mend(getattr(call, "function", None))
        return choices(self, completion, tools)

    def opened(self: Any) -> Any:
        file = ensure_open(self)
        file.reconfigure(errors=ESCAPED)
        return file

    ensure_open = io_utils.JsonlWriter._ensure_open
    openai_compatible.openai_chat_messages, api.chat_choices_from_completion = asked, said
    io_utils.JsonlWriter._ensure_open = opened


def _mend(message: Any) -> None:
    for name in _TEXTS:
        text = getattr(message, name, None)
        if isinstance(text, str) and HALVES.search(text):
            setattr(message, name, whole(text))
