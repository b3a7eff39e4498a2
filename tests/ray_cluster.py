"""Two real Ray nodes with two pretended GPUs each, on this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from evalscope_evalflow.sweep.cluster.ray_node_job import NodeJob

GPUS, CPUS = 2, 4
# A node that is killed is noticed within seconds, not after half a minute.
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


class TwoNodes:
    """A cluster of a head and one more node.

    Attributes:
        address: of the cluster, as the executor takes it.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self._second = self._add("second")

    @property
    def second_raylet(self) -> int:
        """PID of the second node's raylet, which is the parent of Ray's processes there."""
        pid: int = self._second.all_processes["raylet"][0].process.pid
        return pid

    def kill_raylet(self) -> None:
        """SIGKILL the raylet of the second node, and give the cluster a new second node."""
        self._kill(self._second, "raylet")
        self._second = self._add("second")

    def kill_node(self) -> None:
        """SIGKILL all of the second node's Ray processes, and give the cluster a new one."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._add("second")

    def _add(self, name: str) -> Any:
        return self._cluster.add_node(num_cpus=CPUS, num_gpus=GPUS, node_name=name, include_dashboard=False)

    def _kill(self, node: Any, kind: str) -> None:
        for found in node.all_processes[kind]:
            found.process.kill()
            found.process.wait()  # its workers take a zombie to be alive


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start the cluster; all of it is gone afterwards."""
    from ray.cluster_utils import Cluster

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    head = {
        "num_cpus": CPUS,
        "num_gpus": GPUS,
        "node_name": "first",
        "include_dashboard": False,
        "_system_config": QUICK,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield TwoNodes(cluster)
    finally:
        cluster.shutdown()
        left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        for process in psutil.wait_procs(left, timeout=10)[1]:
            process.kill()


def actor_processes() -> list[psutil.Process]:
    """Ray's processes that hold a job each, on both nodes."""
    titles = ((process, process.info["cmdline"] or [""]) for process in psutil.process_iter(["cmdline"]))
    return [process for process, title in titles if title[0].startswith(f"ray::{NodeJob.__name__}")]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Everything alive that has a folder in its command or its environment, but for Ray's own and this process's."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            ended = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if not ended and process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it does not in time.
    """
    deadline, tick = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        tick.wait(0.05)


def wait_gone(folder: Path, timeout_s: float = 40.0) -> None:
    """Wait until no process of a folder is left.

    Raises:
        AssertionError: some are; it names them.
    """
    deadline, tick = time.monotonic() + timeout_s, threading.Event()
    while left := processes_of(folder):
        assert time.monotonic() < deadline, [(process, process.ppid(), process.cmdline()) for process in left]
        tick.wait(0.05)
