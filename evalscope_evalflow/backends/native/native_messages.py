"""EvalScope's messages, as a saved row holds them: what was asked, and what the model said, as text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

_MEDIA = ("image", "audio", "video", "file")


def parted(messages: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What was asked, and what came after it: the model's answer, and whatever an agent did until then.

    Args:
        messages: those of a prediction or of a review.
    """
    known = [item for item in messages if isinstance(item, dict)] if isinstance(messages, list) else []
    for number, message in enumerate(known):
        if message.get("role") == "assistant" and message.get("source") == "generate":
            return known[:number], known[number:]
    if known and known[-1].get("role") == "assistant":
        return known[:-1], known[-1:]
    return known, []


def content(messages: list[dict[str, Any]]) -> list[Any]:
    """What of messages tells a question, wherever it is asked: no ids, and of a local file only its name."""
    return [[message.get("role"), _content(message.get("content"))] for message in messages]


def as_prompt(messages: list[dict[str, Any]]) -> str:
    """Messages as text; a single one of the user stands alone, of several each has its role before it."""
    if len(messages) == 1 and messages[0].get("role") == "user":
        return _text(messages[0].get("content"))
    return "\n\n".join(f"[{message.get('role')}]\n{_text(message.get('content'))}" for message in messages)


def answer_text(output: Mapping[str, Any], said: list[dict[str, Any]]) -> str | None:
    """The model's last word with its thoughts; None where there is none.

    Args:
        output: EvalScope's ModelOutput as a mapping; may be empty.
        said: messages after the question.
    """
    choices = output.get("choices")
    message = (choices[0] or {}).get("message") if isinstance(choices, list) and choices else None
    if not isinstance(message, dict):
        message = said[-1] if said else None
    if message is None:
        return None
    text = _text(message.get("content"))
    calls = [str((call.get("function") or {}).get("name")) for call in message.get("tool_calls") or ()]
    return "\n".join(filter(None, [text, *(f"[calls {name}]" for name in calls)]))


def _content(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [_part(part) if isinstance(part, dict) else part for part in value]


def _part(part: dict[str, Any]) -> Any:
    for name in _MEDIA:
        found = part.get(name)
        if isinstance(found, str) and found:
            return [name, hashlib.sha256(found.encode()).hexdigest() if _is_data(found) else found.rpartition("/")[2]]
    return [part.get("type"), part.get("text")]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, list):
        return str(value)
    return "\n".join(filter(None, (_part_text(part) if isinstance(part, dict) else str(part) for part in value)))


def _part_text(part: dict[str, Any]) -> str:
    for name in _MEDIA:
        found = part.get(name)
        if isinstance(found, str) and found:
            return f"[{name}]" if _is_data(found) else f"[{name} {found.rpartition('/')[2]}]"
    if part.get("reasoning"):
        return f"<think>\n{part['reasoning']}\n</think>"
    return str(part.get("text") or part.get("refusal") or "")


def _is_data(value: str) -> bool:
    """Whether media stand there themselves, and not where they are."""
    return value.startswith("data:") or len(value) > 4096
