"""The worker's share of the CPU while the engine loads: the engine's start is what everybody waits for."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable

LOWER_BY = 10  # nice(2): a tenth of the CPU time of whoever else wants it, and all that nobody wants
_CAP_SYS_NICE = 23


def give_way() -> Callable[[], None]:
    """Lower this process's priority, if it may be raised again: without privileges, Linux does not let it.

    Returns:
        What raises it again, every thread's that has come meanwhile included.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if not _may_have(before):
        return lambda: None

    def restore() -> None:
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, int(task), before)

    os.setpriority(os.PRIO_PROCESS, 0, min(before + LOWER_BY, 19))
    return restore


def _may_have(priority: int) -> bool:
    """Whether this process may raise itself to a priority."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        capable = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
        if capable >> _CAP_SYS_NICE & 1:
            return True
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    return limit == resource.RLIM_INFINITY or 20 - limit <= priority
