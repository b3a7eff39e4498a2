"""How a process ended, where its log cannot say it: by a signal, by its guard's death, or for lack of memory."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from evalscope_evalflow.processes import guard

_VMSTAT = Path("/proc/vmstat")
LESS = "lower max_num_seqs or max_model_len"  # for an engine to need less


class ExitReason(Enum):
    """Why a guard ended its command, or that the guard was killed itself. The values are those of its status line."""

    COMMAND_ENDED = guard.COMMAND_ENDED
    OWNER_DIED = guard.OWNER_DIED
    SIGNALLED = guard.SIGNALLED
    GUARD_KILLED = "guard killed"


@dataclass(frozen=True)
class Exit:
    """How a command that ran under a guard ended.

    Attributes:
        code: exit code, or 128 + signal; None: it has not ended.
        reason: what came first.
        oom_kills: processes that the kernel killed for lack of memory while it ran, on the whole machine.
        less: the advice to give where it needs less memory.
    """

    code: int | None = None
    reason: ExitReason = ExitReason.COMMAND_ENDED
    oom_kills: int = 0
    less: str = LESS

    @property
    def killed(self) -> bool:
        """Whether it was ended by SIGKILL: then nothing that its log says is the cause."""
        return self.reason is ExitReason.GUARD_KILLED or self.code == 128 + signal.SIGKILL

    def explain(self) -> tuple[str, str] | None:
        """(cause, hint), if this tells more than its log can."""
        if self.reason is ExitReason.GUARD_KILLED:
            return "its guard process was killed by somebody, and it with that", "Run the same command again."
        room = f"Free memory of this machine (or raise its container's limit), or {self.less}."
        name = _name(self.code)
        if name:
            if self.killed and self.oom_kills:
                return f"the kernel killed it for lack of memory ({name})", f"{room} `dmesg` names what was killed."
            if self.killed:
                return (
                    f"it was killed by somebody, or by a limit that is not ours ({name})",
                    f"Was it memory? `dmesg` names what the kernel killed; then free some, or {self.less}.",
                )
            return f"it crashed, or was ended from outside ({name})", ""
        if self.oom_kills:
            return "the kernel has killed a process of this machine for lack of memory meanwhile", room
        return None


def oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory since the machine started; 0 where it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _name(code: int | None) -> str:
    """The signal in an exit code; empty if there is none."""
    return signal.Signals(code - 128).name if code is not None and code - 128 in set(signal.Signals) else ""
