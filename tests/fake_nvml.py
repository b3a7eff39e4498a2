"""A driver of NVIDIA that says what a test has written (nvml/nvml.c).

The search path of libraries is fixed when a process starts: what shall see the driver runs in a child process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "nvml" / "nvml.c"
H100 = "81559"  # MiB


def build(folder: Path) -> Path:
    """The folder that holds the library."""
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True)
    return folder


class Driver:
    """The driver's state, and the environment in which a child process sees it."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.state = folder / "nvml-state"
        self.env = {**os.environ, "LD_LIBRARY_PATH": str(build(library)), "NVML_STATE": str(self.state)}
        self.write()

    def write(self, *lines: str) -> None:
        """Replace the state as a whole; nvml.c says what lines there are."""
        new = self.state.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self.state)

    def python(self, code: str, *args: str, env: dict[str, str] | None = None) -> Any:
        """Run Python code in a child process; what it prints last, which has to be JSON."""
        done = subprocess.run(
            [sys.executable, "-c", code, *args], env={**self.env, **(env or {})}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def gpu(uuid: str, used_mib: int = 4, total: str = H100, kind: str = "device") -> str:
    """The line of a GPU, or (`kind` mig) of an instance of the one before it."""
    return f"{kind} {uuid} {total} {used_mib} NVIDIA H100 80GB HBM3"


def process(uuid: str, pid: int | str, mib: int | str, kind: str = "compute") -> str:
    """The line of a process on a device."""
    return f"process {uuid} {kind} {pid} {mib}"
