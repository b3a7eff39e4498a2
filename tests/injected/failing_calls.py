"""Builds the library that makes chosen calls fail (`failing_calls.c`), says what it shall do, and reads what it saw."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("failing_calls.c")
EVERY_CALL_BELOW = 50  # of a file with more calls, some are chosen
CHOSEN = 20

# What may happen to a call; the errors are those that local disks, quotas and NFS give.
ACTS: dict[str, tuple[str, ...]] = {
    "open": ("ENOSPC", "EIO", "EDQUOT", "EACCES", "kill", "kill-after"),
    "write": ("ENOSPC", "EIO", "EDQUOT", "short", "cut-ENOSPC", "full-ENOSPC", "kill", "kill-after"),
    "close": ("EIO", "EDQUOT"),
    "rename": ("EACCES", "EIO", "ENOSPC", "kill", "kill-after"),
    "link": ("EACCES", "ENOSPC", "EIO", "kill-after"),
    "mkdir": ("ENOSPC", "EACCES", "EDQUOT", "kill-after"),
    "truncate": ("EIO", "kill-after"),
    "sync": ("EIO", "ENOSPC"),
    "unlink": ("EACCES", "EIO", "kill"),
    "read": ("EIO", "EACCES"),
}

# Parts of names that differ from run to run.
_CHANGING = [
    (re.compile(r"\d{8}[-_]\d{6}(-[0-9a-f]{8})?"), "*"),
    (re.compile(r"evalflow-[0-9a-f]{10}"), "evalflow-*"),
    (re.compile(r"\.\d+\.new"), ".*.new"),
    (re.compile(r"(\.export-[a-z]+-)[^/]+"), r"\1*"),
    (re.compile(r"port-\d+"), "port-*"),
    (re.compile(r"tmp[a-z0-9_]{8}"), "tmp*"),
    (re.compile(r"tmp/[a-z0-9_]{8}$"), "tmp/????????"),
    (re.compile(r"\.task-config-[a-z0-9_]{8}"), ".task-config-*"),
    (re.compile(r"\.rerun-[0-9a-f]{32}"), ".rerun-*"),
    (re.compile(r"#\d+ \(deleted\)"), "*(deleted)"),
]
_NOT_OURS = ("data/", "task.yaml", "policy.yaml")  # the user's


@dataclass(frozen=True, order=True)
class Fault:
    """One call of one process, and what happens to it.

    Attributes:
        role: whose call it is: parent, worker or guard.
        op: which call.
        path: the file below the watched folder, as a pattern.
        at: the number of the call, from 1.
        act: what happens (see `failing_calls.c`).
    """

    role: str
    op: str
    path: str
    at: int
    act: str

    def __str__(self) -> str:
        return f"{self.role}: {self.op} {self.at} of {self.path}: {self.act}"

    @property
    def kills(self) -> bool:
        """Whether the process is killed."""
        return self.act.startswith("kill")


def library() -> Path:
    """The library, built with the machine's C compiler where that has not been done yet.

    Raises:
        OSError: there is no `cc`.
        subprocess.CalledProcessError: it does not compile.
    """
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    built = Path(tempfile.gettempdir(), f"failing-calls-{os.getuid()}-{digest}.so")
    if not built.exists():
        new = built.with_suffix(f".{os.getpid()}.new")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", new, SOURCE, "-ldl"], check=True)
        os.replace(new, built)
    return built


class Control:
    """The files by which the library is told what to do, outside of the watched folder."""

    def __init__(self, folder: Path, root: Path) -> None:
        """
        Args:
            folder: for these files.
            root: the watched folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._root = folder / "control", root
        self._log, self._hits = folder / "calls.log", folder / "hits"

    def watch(self) -> None:
        """From now on, write down all calls, and let none fail."""
        self._log.unlink(missing_ok=True)
        self.path.write_text(f"root={self._root}\nlog={self._log}\n")

    def inject(self, fault: Fault) -> None:
        """From now on, let this happen."""
        self._hits.write_bytes(b"\0" * 8)
        self.path.write_text(
            f"root={self._root}\nrole={fault.role}\nop={fault.op}\npath={fault.path}\nat={fault.at}\nact={fault.act}\n"
            f"hits={self._hits}\n"
        )

    def rest(self) -> None:
        """From now on, neither."""
        self.path.write_text("")

    def struck(self) -> bool:
        """Whether the call that was to fail has come."""
        return bool(struct.unpack("II", self._hits.read_bytes())[1])

    def calls(self) -> Counter[tuple[str, str, str]]:
        """How often each role did what to each file, where names that change are patterns."""
        found: Counter[tuple[str, str, str]] = Counter()
        for line in self._log.read_text(errors="replace").splitlines():
            role, op, path = line.split(" ", 2)
            if not path.startswith(_NOT_OURS):
                found[role, op, steady_name(path)] += 1
        return found


def steady_name(path: str) -> str:
    """A path with patterns in place of what differs from run to run."""
    path = path.replace("[", "?").replace("]", "?")
    for pattern, steady in _CHANGING:
        path = pattern.sub(steady, path)
    return path


def faults_of(calls: Counter[tuple[str, str, str]], seed: int) -> Iterator[Fault]:
    """Every fault: all calls of files with few, and the first, middle and last with some between of the others.

    Args:
        calls: of an undisturbed run.
        seed: for the choice.
    """
    dice = random.Random(seed)
    for (role, op, path), count in sorted(calls.items()):
        numbers: Iterable[int] = range(1, count + 1)
        if count >= EVERY_CALL_BELOW:
            some = dice.sample(range(1, count + 1), CHOSEN)
            numbers = sorted({1, count // 2, count, *some})
        for at in numbers:
            for act in ACTS[op]:
                yield Fault(role, op, path, at, act)


def begin(role: str, control: str) -> None:
    """In a process that has the library: look as this role from now on, by this control file."""
    ctypes.CDLL(None).failing_calls_begin(role.encode(), control.encode())
