"""What is known of a command under a guard: how it is run, what its guard reports, and whose it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.processes.exit_reason import ExitReason
from evalscope_evalflow.processes.registry import Registration


@dataclass(frozen=True)
class CommandSpec:
    """A command, and how it is to be run; SupervisedProcess describes the fields."""

    argv: Sequence[str]
    env: Mapping[str, str]
    run_id: str
    secrets: Sequence[str]
    grace_s: float
    stdin: int
    pass_fds: Sequence[int]
    cwd: Path | None
    output: Callable[[bytes], None] | None
    role: str
    movable: bool


@dataclass
class GuardReport:
    """What the guard has reported of its command so far.

    Attributes:
        leader: PID of the command itself.
        tree: every process that was seen of it: start times in clock ticks since boot, by PID.
        shm: inodes of the shared memory that it uses.
        exit_code: the command's, or 128 + signal; None while it runs.
        reason: why it ended; of a command that has not, or whose guard was killed, that the guard was killed.
        left: PIDs that survived even SIGKILL.
        removed: files in /dev/shm that it left, and that were deleted.
        signal: name of the signal that somebody else than the owner has sent to the guard; empty if nobody has.
        log: the log that the guard was moved to; empty if it was not.
    """

    leader: int | None = None
    tree: dict[int, int] = field(default_factory=dict)
    shm: set[int] = field(default_factory=set)
    exit_code: int | None = None
    reason: ExitReason = ExitReason.GUARD_KILLED
    left: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    signal: str = ""
    log: str = ""

    def update(self, line: Mapping[str, Any]) -> None:
        """Take in a status line."""
        self.leader = line.get("leader", self.leader)
        self.log = line.get("log", self.log)
        self.tree.update(line.get("tree", ()))
        self.shm.update(line.get("shm", ()))
        if "exit" in line:
            self.exit_code, self.reason = line["exit"], ExitReason(line["reason"])
            self.left, self.removed, self.signal = line["left"], line["removed"], line["signal"]


@dataclass
class Owner:
    """Who a command belongs to now, and since when.

    Attributes:
        entry: the run's registration.
        log: file that its output goes to.
        on_exit: is called when the whole tree is gone.
        log_start: size of the log, in bytes, when it began to be theirs.
        oom_kills: the kernel's count at that time.
    """

    entry: Registration | None
    log: Path
    on_exit: Callable[[], None] | None
    log_start: int
    oom_kills: int
