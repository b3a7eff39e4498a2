"""Looking for what should not be there any more."""

from __future__ import annotations

from pathlib import Path

import psutil


def servers_of(model: Path) -> set[int]:
    """PIDs of every process of this machine that was told to serve a model."""
    return {p.pid for p in psutil.process_iter(["cmdline"]) if str(model) in (p.info["cmdline"] or [])}
