"""What an answer is beside its text, by what the server says of it. Standard library only: the worker imports it.

The worker writes the answers that are not as they should be to `evalflow/answer_kinds.jsonl` in the run folder, a line
each; an answer that is made again has another line, and the last one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

FILE = "answer_kinds.jsonl"

# How models begin a thought in the text itself, and how they end it.
_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))


class AnswerKind(str, Enum):
    """What is unusual about an answer. The value is what files hold."""

    CUT_OFF = "cut_off"  # the limit of tokens was reached
    EMPTY = "empty"  # there is nothing at all
    ONLY_THOUGHTS = "only_thoughts"  # the model thought, and said nothing after it
    OPEN_THOUGHT = "open_thought"  # the text begins with a thought that never ends
    TOOL_CALL = "tool_call"  # a tool is called in place of text
    REFUSED = "refused"  # the server calls it a refusal


NO_TEXT = (AnswerKind.EMPTY, AnswerKind.ONLY_THOUGHTS, AnswerKind.TOOL_CALL)


def kinds_of(output: Mapping[str, Any], *, tools: bool = False) -> list[AnswerKind]:
    """What is unusual about an answer; empty if nothing is.

    Args:
        output: EvalScope's ModelOutput as a mapping; of its first choice, `stop_reason` and the message's `content` and
            `tool_calls` are looked at.
        tools: whether the model was offered tools, so that calling one is an answer.
    """
    choices = output.get("choices") or [{}]
    message = choices[0].get("message") or {}
    found = []
    if choices[0].get("stop_reason") in ("max_tokens", "model_length"):
        found.append(AnswerKind.CUT_OFF)
    content = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "".join(str(part.get("text") or "") for part in parts if part.get("type") == "text").strip()
    thought = any(part.get("type") == "reasoning" and part.get("reasoning") for part in parts)
    if any(part.get("refusal") for part in parts):
        found.append(AnswerKind.REFUSED)
    for begin, end in _TAGS:
        if not text.startswith(begin):
            continue
        if end not in text:
            return [*found, AnswerKind.OPEN_THOUGHT]
        thought, text = True, text.rpartition(end)[2].strip()
    calls = bool(message.get("tool_calls"))
    if text or (calls and tools):
        return found
    if calls:
        return [*found, AnswerKind.TOOL_CALL]
    return [*found, AnswerKind.ONLY_THOUGHTS if thought else AnswerKind.EMPTY]
