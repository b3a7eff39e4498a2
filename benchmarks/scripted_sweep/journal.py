"""What engines and workers of the benchmark are told, and what they write down. Standard library only."""

from __future__ import annotations

import json
import os
import time
from typing import Any

SCRIPT = "SWEEP_BENCHMARK_SCRIPT"  # variable with the path of the script, JSON; the journal is beside it


def read_script() -> dict[str, Any]:
    """`models`, by name: `load_s`, `answer_s` and `verdict_s`, real seconds, the last two by dataset; `samples`."""
    with open(os.environ[SCRIPT], encoding="utf-8") as file:
        script: dict[str, Any] = json.load(file)
    return script


def note(event: str, model: str, **more: Any) -> None:
    """Append a line to the journal, in one write; `time` is of the machine's monotonic clock."""
    at = more.pop("at", None) or time.monotonic()
    line = json.dumps({"time": at, "event": event, "model": model, **more}) + "\n"
    with open(f"{os.environ[SCRIPT]}.journal", "ab", buffering=0) as file:
        file.write(line.encode())
