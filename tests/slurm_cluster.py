"""A real Slurm cluster on this machine: two nodes with two pretended GPUs each, for tests.

Debian's packages `slurm-wlm` and `munge` are enough, without systemd, cgroups or slurmdbd. It needs root: slurmd
starts jobs as their owners. Everything lies in one folder, and only processes that were started here are ended.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scontrol", "scancel", "munged", "mungekey")
READY_S = 60.0
END_S = 30.0
POLL_S = 0.1
NODES = ("n1", "n2")
GPUS = 2  # of each node
LOST_AFTER_S = 10  # until the controller takes a silent node for lost

# CPUs are pretended as well: jobs of these tests mostly wait.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SlurmdTimeout={lost_after}
KillWait=10
ReturnToService=2
SlurmUser=root
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={names} MaxTime=1 State=UP
"""


class SlurmCluster:
    """The cluster; the commands of this process and of its children find it while it runs.

    Attributes:
        root: its folder.
        daemons: its processes by name: `munged`, `slurmctld`, `n1`, `n2`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start it and wait until both nodes are idle.

        Raises:
            AssertionError: Slurm is not installed, or the nodes do not come up.
        """
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        assert not missing, f"install Debian's packages slurm-wlm and munge: {', '.join(missing)} not found"
        for name in ("state", "log"):
            (self.root / name).mkdir(parents=True)
        self._write_configuration()
        os.environ["SLURM_CONF"] = str(self.root / "slurm.conf")
        self._start_munge()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.states() == dict.fromkeys(NODES, "idle"), "both nodes are idle", READY_S)

    def stop(self) -> None:
        """Cancel what is queued or runs, and end the daemons, by their PIDs."""
        if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
            subprocess.run(["scancel", "--user", "root"], capture_output=True, timeout=END_S, check=False)
            self.wait_until_empty()
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(END_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        os.environ.pop("SLURM_CONF", None)

    def start_controller(self) -> None:
        """Start slurmctld; what it had saved goes on."""
        self.daemons["slurmctld"] = self._run("slurmctld", ["slurmctld", "-D"])
        wait_for(lambda: ask(["scontrol", "ping"], {0, 1}).returncode == 0, "slurmctld answers", READY_S)

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self.daemons[node] = self._run(node, ["slurmd", "-D", "-N", node])

    def kill(self, name: str) -> None:
        """SIGKILL a daemon."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def kill_node(self, node: str) -> None:
        """SIGKILL a node's slurmd and all that it has started, as if its power was cut."""
        self.kill(node)
        for process in [*self.steps(node), *self.processes(node)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def bring_back(self, node: str) -> None:
        """Start a node's slurmd again and wait until the node can be used."""
        if self.daemons[node].poll() is not None:
            self.start_node(node)
        wait_for(lambda: self.states().get(node) in ("idle", "mixed", "allocated"), f"{node} is back", READY_S)

    def processes(self, node: str) -> list[psutil.Process]:
        """What runs in jobs on a node, found by the environment that Slurm gives a job and all that it starts."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                if env.get("SLURMD_NODENAME") == node and env.get("SLURM_CONF") == str(self.root / "slurm.conf"):
                    found |= {item.pid: item for item in (process, *process.children(recursive=True))}
        return list(found.values())

    def processes_of(self, job: str) -> list[psutil.Process]:
        """What runs in one job, by its id, with the slurmstepd that has started it left out."""
        found = []
        for process in (item for node in NODES for item in self.processes(node)):
            with suppress(psutil.Error):
                env = process.environ()
                element = env.get("SLURM_ARRAY_TASK_ID")
                if job == (f"{env['SLURM_ARRAY_JOB_ID']}_{element}" if element else env.get("SLURM_JOB_ID")):
                    found.append(process)
        return found

    def node_of(self, job: str) -> str:
        """The node that a job runs on."""
        return ask(["squeue", "-h", "-j", job, "-o", "%N"], {0}).stdout.strip()

    def steps(self, node: str) -> list[psutil.Process]:
        """The slurmstepds above what runs in jobs on a node."""
        above = {parent.pid: parent for process in self.processes(node) for parent in process.parents()}
        return [process for process in above.values() if process.name().startswith("slurmstepd")]

    def states(self) -> dict[str, str]:
        """The state of each node."""
        lines = ask(["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"], {0, 1}).stdout.split("\n")
        return dict(line.split() for line in lines if line)

    def jobs(self) -> list[str]:
        """Ids of jobs that are queued, run or end."""
        return ask(["squeue", "-h", "-r", "-o", "%i"], {0}).stdout.split()

    def wait_until_empty(self) -> None:
        """Wait until no job is queued or runs."""
        wait_for(lambda: not self.jobs(), "no job is queued or runs", READY_S)

    def _write_configuration(self) -> None:
        """slurm.conf and gres.conf, with files in place of GPUs."""
        host, ports = socket.gethostname(), free_ports(1 + len(NODES))
        nodes, gpus = [], ["AutoDetect=off"]
        for node, port in zip(NODES, ports[1:], strict=True):
            nodes.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=4000 "
                f"Gres=gpu:{GPUS}"
            )
            for number in range(GPUS):
                os.mknod(self.root / f"{node}gpu{number}", 0o20666, os.makedev(1, 3))  # as /dev/null
            gpus.append(f"NodeName={node} Name=gpu File={self.root}/{node}gpu[0-{GPUS - 1}]")
        text = CONF.format(
            host=host,
            controller=ports[0],
            root=self.root,
            nodes="\n".join(nodes),
            names=",".join(NODES),
            lost_after=LOST_AFTER_S,
        )
        (self.root / "slurm.conf").write_text(text)
        (self.root / "gres.conf").write_text("\n".join(gpus) + "\n")

    def _start_munge(self) -> None:
        """munged with a key and a socket of its own."""
        folder = self.root / "munge"
        folder.mkdir(mode=0o755)
        subprocess.run(["mungekey", "--create", f"--keyfile={folder}/key"], check=True, timeout=END_S)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        arguments = [f"--{option}={folder}/{name}" for option, name in files.items()]
        self.daemons["munged"] = self._run("munged", ["munged", "--foreground", "--force", *arguments])
        wait_for((folder / "socket").exists, "munged has made its socket", READY_S)

    def _run(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.root / "log" / f"{name}.out").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def ask(command: list[str], codes: set[int], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands; its exit code has to be one of these."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_S, env=env, check=False)
    assert done.returncode in codes or 1 in codes, (command, done.stdout, done.stderr)
    return done


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it does not in time.
    """
    tick = threading.Event()
    for _ in range(int(timeout_s / POLL_S)):
        if condition():
            return
        tick.wait(POLL_S)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
