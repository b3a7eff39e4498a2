"""A run of `evalflow` that is watched from outside, struck, and looked at afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_table as table
import psutil
import yaml
from private_disk import PrivateDisk
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

BIN = Path(sys.executable).parent
SCRIPTED = Path(__file__).resolve().parents[1] / "scripted"
LOOK_EVERY_S = 0.05
GONE_WITHIN_S = 5.0
PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def orphans_come_here() -> Iterator[None]:
    """Whatever loses its parent in the block becomes a child of the tests, and so cannot be overlooked."""
    libc = ctypes.CDLL(None)
    before = {process.pid for process in psutil.Process().children()}
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for process in psutil.Process().children():  # nobody else asks how they ended
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if process.pid not in before and process.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(process.pid, os.WNOHANG)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Wait until a condition returns something true, and return that."""
    poll = Retrying(
        retry=retry_if_result(lambda found: not found),
        wait=wait_fixed(LOOK_EVERY_S),
        stop=stop_after_delay(seconds),
        retry_error_callback=lambda _: None,
    )
    found = poll(condition)
    assert found, f"not within {seconds} s: {what}"
    return found


def _heed_signals() -> None:
    """The tests themselves may run under nohup, or in a script's background, which their children would inherit."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


class FaultRun:
    """A command on a task, and all that it starts.

    Attributes:
        process: the command itself, the orchestrator.
        work: its run folder, as the tests reach it.
        ended: when it ended, by time.monotonic(); None: it still runs.
        leaders: the engine's process at each of its starts, and when it was seen to be gone.
        began: when the first of them was seen.
    """

    def __init__(
        self,
        task: dict[str, Any],
        folder: Path,
        *,
        work: Path,
        disk: PrivateDisk,
        command: tuple[str, ...] = ("evalflow", "run"),
    ) -> None:
        """Start it.

        Args:
            task: what the YAML file holds.
            folder: for that file and the output.
            work: the task's work_dir, as the tests reach it.
            disk: what it has for itself.
            command: what reads the file.
        """
        self.work = work
        self.ended: float | None = None
        self.began: float | None = None
        self.leaders: dict[int, float | None] = {}
        # Not in pytest's long folder: the paths of unix sockets must not exceed 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix="faults-"))
        self._before = {process.pid for process in psutil.Process().children(recursive=True)}
        self._disk = disk
        self._variables = {**os.environ, "TMPDIR": str(self.scratch), "PYTHONPATH": str(SCRIPTED)}
        file = folder / "task.yaml"
        file.write_text(yaml.safe_dump(task))
        self._log = folder / f"output-{time.monotonic_ns()}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                disk.inside(BIN / command[0], *command[1:], file),
                stdout=output, stderr=output, start_new_session=True, preexec_fn=_heed_signals,
                env=self._variables,
            )  # fmt: skip

    def output(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command of ours, with the same surroundings."""
        return subprocess.run(
            self._disk.inside(BIN / words[0], *words[1:]),
            capture_output=True, text=True, timeout=120, check=False, env=self._variables,
        )  # fmt: skip

    def tree(self) -> list[psutil.Process]:
        """All that lives of it, orphans included."""
        alive = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in self._before and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def find(self, who: str) -> psutil.Process | None:
        """One of its processes, if it is there."""
        if who == table.ORCHESTRATOR:
            return psutil.Process(self.process.pid)
        marks = {
            table.ENGINE_CORE: lambda words, name: "EngineCore" in name,
            table.WORKER_GUARD: lambda words, name: _guards(words, "evalscope_evalflow/worker"),
            table.ENGINE_GUARD: lambda words, name: (
                _guards(words, "") and not _guards(words, "evalscope_evalflow/worker")
            ),
            table.WORKER: lambda words, name: words[-1].endswith("evalscope_evalflow/worker"),
            table.CHILD: lambda words, name: words[-1].endswith("# of the scripted server"),
        }
        found = []
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline() or [""]
                guarded = _guards(words, "")
                if who == table.ENGINE:
                    hit = not guarded and ("--host" in words and "--port" in words)
                else:
                    hit = marks[who](words, process.name()) and (guarded or "guard" not in who)
                    hit = hit and not (guarded and "guard" not in who)
                if hit:
                    found.append(process)
        return max(found, key=lambda process: process.create_time(), default=None)

    def answers(self) -> dict[int, str]:
        """What is saved: the answer to each sample. None may be there twice."""
        return answers_in(self.work)

    def record(self) -> dict[str, Any]:
        """run.json; empty if there is none."""
        path = self.work / "evalflow" / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def events(self) -> str:
        """events.jsonl."""
        path = self.work / "evalflow" / "events.jsonl"
        return path.read_text() if path.exists() else ""

    def requests(self) -> int:
        """Chat requests that the engines have answered, by their log."""
        log = (self.work / "evalflow" / "engine.log").read_text(errors="replace")
        return log.count("stop processing:") + log.count("POST /v1/chat/completions")

    def look(self) -> None:
        """Note what has changed."""
        if self.ended is None and self.process.poll() is not None:
            self.ended = time.monotonic()
        engine = self.find(table.ENGINE)
        if engine is not None:
            self.began = self.began or time.monotonic()
            self.leaders.setdefault(engine.pid, None)
        for pid, gone in self.leaders.items():
            if gone is None and (engine is None or engine.pid != pid):
                self.leaders[pid] = time.monotonic()

    def struck_by_script(self) -> float | None:
        """When the script of the scripted server did what it shall, by time.monotonic(); its first time."""
        log = self.work / "evalflow" / "engine.log"
        found = (
            re.search(r"a fault of the script, at ([\d.]+)", log.read_text(errors="replace")) if log.exists() else None
        )
        return float(found[1]) if found else None

    def wait_loading(self, script: tuple[str, ...]) -> None:
        """Wait until the engine is loading: its process is there, and says so where it can."""
        wait_for(lambda: self.find(table.ENGINE), "the engine's process")
        mark = "the children are up" if "--daemon-children" in script else "loading" if script else ""
        log = self.work / "evalflow" / "engine.log"
        wait_for(lambda: not mark or (log.exists() and mark in log.read_text()), "the engine is loading")
        wait_for(lambda: self.find(table.WORKER), "the worker's process")

    def wait_evaluating(self, count: int = 3, seconds: float = 300) -> None:
        """Wait until some answers are saved."""

        def saved() -> bool:
            assert self.process.poll() is None, self.output()
            return count_answers(self.work) >= count

        wait_for(saved, f"{count} answers; it says:\n{self.output()}", seconds)

    def wait_judging(self, count: int = 3) -> None:
        """Wait until some verdicts are saved."""

        def saved() -> bool:
            assert self.process.poll() is None, self.output()
            return sum(path.read_bytes().count(b"\n") for path in self.work.glob("reviews/*/*.jsonl")) >= count

        wait_for(saved, f"{count} verdicts; it says:\n{self.output()}", 300)

    def wait_releasing(self) -> None:
        """Wait until the engine is told to stop."""
        wait_for(lambda: '"PhaseBegan", "phase": "release"' in self.events(), "the release", 300)

    def ports(self) -> list[int]:
        """Ports that the engine was given."""
        words = self.record().get("command") or []
        return [int(words[words.index("--port") + 1])] if "--port" in words else []

    def left_behind(self) -> list[str]:
        """What should not be there any more: processes, ports, files in the temporary folder and shared memory."""
        left = []
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                left.append(f"{process.pid} {process.cmdline()}")
        for port in self.ports():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    left.append(f"port {port}: {error}")
        # The folder of locks on ports is of the machine, and stays.
        left += [str(path) for path in self.scratch.iterdir() if not path.name.startswith("evalflow-ports-")]
        return left + [str(path) for path in self._disk.shared_memory()]

    def close(self) -> None:
        """End whatever a test that failed has left."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(psutil.Process().children(), timeout=0)  # collects what has come to us and is dead
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _guards(words: list[str], command: str) -> bool:
    """Whether a command line is a guard's, of a command."""
    return len(words) > 2 and words[2].endswith("/guard.py") and words[-1].endswith(command)


def count_answers(work: Path) -> int:
    """Lines of saved answers."""
    return sum(path.read_bytes().count(b"\n") for path in work.glob("predictions/*/*.jsonl"))


def answers_in(work: Path) -> dict[int, str]:
    """The answer to each sample, as saved. None may be there twice."""
    found: dict[int, str] = {}
    for path in work.glob("predictions/*/*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                item = json.loads(line)
            except ValueError:
                continue  # torn by SIGKILL, or a full disk: it is asked once more
            assert item["index"] not in found, "answered twice"
            found[item["index"]] = item["model_output"]["choices"][0]["message"]["content"]
    return found
