"""Reads JSON-lines files that a kill may have torn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json


def objects_in(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; half a line, of a process that was killed, is none, and neither is no file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                item = any_json.loads(line)
            except ValueError:
                continue
            if isinstance(item, dict):
                yield item
