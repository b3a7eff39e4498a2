"""JSON of any origin: what is nested too deeply for whoever walks over it, or is too large, is no JSON for us.

In `events`, as the parent and the worker read such JSON alike.
"""

from __future__ import annotations

import json
import os
from typing import Any

DEEPEST = 200  # levels; Python gives up at about a thousand, in whatever function it is then
MOST_BYTES = 1 << 28  # of a checkpoint's file; the index of the largest ones has some MiB


def loads(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON (json.JSONDecodeError), or nested in more than DEEPEST levels.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if brackets > DEEPEST:
        _check_depth(found)
    return found


def load_file(path: str | os.PathLike[str], most_bytes: int = -1) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        most_bytes: of a file that somebody else has made; below 0: any number.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON in UTF-8, is nested too deeply, or is larger.
    """
    with open(path, "rb") as file:
        data = file.read() if most_bytes < 0 else file.read(most_bytes + 1)
    if 0 <= most_bytes < len(data):
        raise ValueError(f"it has more than {most_bytes >> 20} MiB")
    return loads(data.decode("utf-8"))


_TOO_DEEP = f"it is nested in more than {DEEPEST} levels"


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            item
            for inner in level
            for item in (inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ())
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)
