"""What is asked of a node of a Ray cluster before anything is submitted; the standard library alone, sent by value."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

LOOK = (
    "import importlib.metadata as m, platform\nprint(platform.python_version())\nprint(m.version('evalscope-evalflow'))"
)


def probe_node(folders: Mapping[str, Sequence[str]], python: str | None) -> dict[str, Any]:
    """Look at a node.

    Args:
        folders: paths that have to be there, each with names of what has to be in it.
        python: the Python that jobs run by; None: the one that Ray's worker runs on.

    Returns:
        `missing`, paths that are not there; `python`, that Python's path; `versions`, of it and of EvalFlow, the
        latter empty if it is not installed; `user`, the id of the user; `error`, the words of a Python that does not
        run.
    """
    missing = [path for path in folders if not os.path.exists(path)]
    for folder, names in folders.items():
        if folder not in missing:
            paths = (os.path.join(folder, name) for name in names)
            missing += [path for path in paths if not os.path.lexists(path)][:1]
    chosen = python or sys.executable
    try:
        ran = subprocess.run([chosen, "-c", LOOK], capture_output=True, text=True, timeout=30)
        lines, words = ran.stdout.split(), ran.stderr.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        lines, words = [], [str(error)]
    return {
        "missing": missing,
        "user": os.getuid(),
        "python": chosen,
        "versions": [*lines, "", ""][:2],
        "error": words[-1] if words and not lines else "",
    }
