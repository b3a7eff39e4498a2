"""What runs on a node of a Ray cluster: an actor that holds one job's resources while the job runs as its child.

The actor is sent to the nodes by value and uses the standard library and Ray alone, so the Python that Ray runs on
there may lack EvalFlow; the Python of the job's command needs it. The job runs under EvalFlow's guard, whose owner is
the actor's process: whatever ends that, Ray's memory monitor, a lost raylet or a killed node, the job ends with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

PACKAGE = "evalscope_evalflow"
GRACE_S = 60.0  # a job that is asked to end releases its engine and writes its record
ORPHAN_GRACE_S = 20.0
# Its process ends at once, and a process of its own goes on as the command.
APART = """
import os, sys
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
os.setsid()
os.dup2(0, 1)
os.execv(sys.argv[1], sys.argv[1:])
"""
DEVICES = "VISIBLE"  # in the names of variables by which Ray gives an actor its devices, of any maker


class NodeJob:
    """One job, from the actor's creation to the end of the job's processes."""

    def __init__(self, command: Sequence[str], log: str, environment: Mapping[str, str], own_python: bool) -> None:
        """Start the job.

        Args:
            command: the job's command; its first word is a Python.
            log: file for its output.
            environment: variables that it gets on top of the node's.
            own_python: whether it runs by the command's Python; if not, by the one that Ray's worker runs on.

        Raises:
            RuntimeError: EvalFlow is not installed in that Python.
        """
        self.since = time.time()
        python = command[0] if own_python else sys.executable
        status, status_end = os.pipe()
        guard = [
            python, "-IS", guard_of(python),
            "--owner", str(os.getpid()), "--owner-start", str(start_of(os.getpid())),
            "--status-fd", str(status_end), "--log", log,
            "--grace", str(GRACE_S), "--orphan-grace", str(ORPHAN_GRACE_S),
            "--", python, *command[1:],
        ]  # fmt: skip
        try:
            self._guard = start_apart(guard, {**node_environment(), **environment}, status_end)
        finally:
            os.close(status_end)
        threading.Thread(target=self._until_gone, args=(status, own_handle()), daemon=True).start()

    def where(self) -> tuple[str, float]:
        """The id of the node that the job runs on, and when it began (s since the epoch)."""
        import ray

        return ray.get_runtime_context().get_node_id(), self.since

    def stop(self) -> None:
        """Ask the job to end in order; returns at once."""
        with suppress(ProcessLookupError):  # it has ended, and this actor is about to
            signal.pidfd_send_signal(self._guard, signal.SIGTERM)

    def leave(self) -> None:
        """End this actor, which gives its resources back."""
        import ray

        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _until_gone(self, status: int, me: Any) -> None:
        """Wait until nothing of the job is left, and end the actor then."""
        with os.fdopen(status, "rb") as lines:
            for _ in lines:  # a pipe that nobody reads would fill up
                pass
        me.leave.options(num_returns=0).remote()  # a result that somebody may fetch would delay the end


def start_apart(command: Sequence[str], environment: Mapping[str, str], passed: int) -> int:
    """Start a process that is no child of this one: those Ray kills before it ends its worker, and so the guard.

    Args:
        command: it.
        environment: its environment.
        passed: a descriptor that it inherits.

    Returns:
        A pidfd of it.
    """
    with open(os.devnull, "r+b") as null:
        between = subprocess.Popen(
            [command[0], "-IS", "-c", APART, *command],
            env=dict(environment), stdin=null, stdout=subprocess.PIPE, stderr=null, pass_fds=[passed],
            start_new_session=True,
        )  # fmt: skip
        pid, _ = between.communicate()
    return os.pidfd_open(int(pid))


def own_handle() -> Any:
    """A handle to the actor that this runs in."""
    import ray

    return ray.get_runtime_context().current_actor


def guard_of(python: str) -> str:
    """The guard's file in the environment of a Python.

    Raises:
        RuntimeError: EvalFlow is not installed there.
    """
    look = f"import importlib.util as u; print(u.find_spec({PACKAGE!r}).submodule_search_locations[0])"
    found = subprocess.run([python, "-c", look], capture_output=True, text=True, env=node_environment(), check=False)
    if not found.stdout.strip():
        raise RuntimeError(f"{python} on this node has no evalscope-evalflow: {found.stderr.strip()[-500:]}")
    return os.path.join(found.stdout.strip(), "processes", "guard.py")


def start_of(pid: int) -> int:
    """A process's start time in clock ticks since boot."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().decode("latin-1").rsplit(")", 1)[1].split()[19])


def node_environment() -> dict[str, str]:
    """The variables that Ray's worker was started with, and the devices that it was given.

    Not what Ray sets for itself, such as OMP_NUM_THREADS, which would slow engines down to the CPUs that are reserved.
    """
    with open("/proc/self/environ", "rb") as file:
        began = {os.fsdecode(item.split(b"=", 1)[0]) for item in file.read().split(b"\0")}
    return {
        name: value
        for name, value in os.environ.items()
        if (name in began or DEVICES in name) and not name.startswith("RAY_")
    }
