"""A driver of NVIDIA that says what a test has written (nvml/nvml.c).

The search path of libraries is fixed when a process starts: what shall see the driver runs in a child process.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
from functools import cache
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
        code_file, out, err = (self.state.with_suffix(suffix) for suffix in (".py", ".out", ".err"))
        code_file.write_text(code)
        job = {
            "code": str(code_file), "args": args, "env": {**self.env, **(env or {})}, "out": str(out), "err": str(err),
        }  # fmt: skip
        assert _zygote(self.env["LD_LIBRARY_PATH"]).run(job) == 0, err.read_text()
        return json.loads(out.read_text().splitlines()[-1])


# Has imported what every child needs, which takes half a second of CPU time, and forks one for each line of its input.
ZYGOTE = """
import json, os, sys
import evalscope_evalflow.devices.claims, evalscope_evalflow.serving

def become(job):
    os.environ.clear()
    os.environ.update(job["env"])
    sys.path[:0] = [part for part in job["env"].get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.argv = ["-c", *job["args"]]
    for number, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        fd = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, number)
        os.close(fd)
    with open(job["code"]) as file:
        return file.read()

def next_code():
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            return become(job)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)

code = next_code()
if code is not None:
    exec(compile(code, "<child>", "exec"), {"__name__": "__main__"})
"""


class _Zygote:
    """A process whose library path has the driver, and whose forks run the tests' code."""

    def __init__(self, library_path: str) -> None:
        env = {**os.environ, "LD_LIBRARY_PATH": library_path}
        command = [sys.executable, "-c", ZYGOTE]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self._end)

    def run(self, job: dict[str, Any]) -> int:
        """Run a job; its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        assert ready, "not within 60 s"
        return int(self._process.stdout.readline())

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


@cache
def _zygote(library_path: str) -> _Zygote:
    return _Zygote(library_path)


def gpu(uuid: str, used_mib: int = 4, total: str = H100, kind: str = "device") -> str:
    """The line of a GPU, or (`kind` mig) of an instance of the one before it."""
    return f"{kind} {uuid} {total} {used_mib} NVIDIA H100 80GB HBM3"


def utilisation(uuid: str, percent: int) -> str:
    """The line of how busy a device is, after its own line."""
    return f"utilisation {uuid} {percent}"


def process(uuid: str, pid: int | str, mib: int | str, kind: str = "compute") -> str:
    """The line of a process on a device."""
    return f"process {uuid} {kind} {pid} {mib}"
