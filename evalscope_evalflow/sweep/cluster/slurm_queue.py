"""What Slurm's commands print: jobs as squeue has them, and nodes as sinfo has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Stage
from evalscope_evalflow.sweep.cluster.slurm_settings import minutes

# Of each job, array elements one by one: id, state, nodes, reason, when it was submitted, when it began.
JOB_FORMAT = "%i|%T|%N|%V|%S|%r"
# Of each node and partition: node, partition (the default one with a star), devices, features, default and most time.
NODE_FORMAT = "%N|%P|%G|%f|%L|%l"
_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
_GPUS = re.compile(r"gpu(?::(?P<type>[A-Za-z][^:,()]*))?:(?P<count>\d+)")
_NOTHING = {"", "(null)", "None", "N/A", "n/a"}


@dataclass(frozen=True)
class Node:
    """A node in a partition.

    Attributes:
        name: of the node.
        partition: of the partition.
        default: whether that is the cluster's default.
        gpus: how many of each type; the type may be empty.
        features: that a constraint may name.
        limit_min: a job's time limit there if it names none (min); None: there is none.
    """

    name: str
    partition: str
    default: bool
    gpus: Mapping[str, int]
    features: frozenset[str]
    limit_min: int | None

    def count(self, gpu_type: str) -> int:
        """GPUs of a type; of any, if that is empty."""
        return self.gpus.get(gpu_type, 0) if gpu_type else sum(self.gpus.values())


def read_jobs(text: str) -> dict[str, JobStatus]:
    """Jobs by id, as squeue prints them in JOB_FORMAT."""
    found = {}
    for line in text.splitlines():
        job, state, nodes, submitted, began, reason = (*line.split("|", 5), "", "", "", "", "")[:6]
        if not state:
            continue
        stage = Stage.QUEUED if state in _QUEUED else Stage.RUNNING if state in _RUNNING else Stage.GONE
        why = "" if reason in _NOTHING else reason
        if stage is Stage.GONE:
            why = state if not why or why == "NonZeroExitCode" else f"{state} ({why})"
        since = _time(submitted if stage is Stage.QUEUED else began)
        found[job] = JobStatus(stage, "" if stage is Stage.QUEUED or nodes in _NOTHING else nodes, since, why)
    return found


def read_nodes(text: str) -> list[Node]:
    """Nodes, as sinfo prints them in NODE_FORMAT, each once for every partition that it is in."""
    found = []
    for line in dict.fromkeys(text.splitlines()):
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 6:
            continue
        name, partition, gres, features, default_time, most_time = parts
        gpus: dict[str, int] = {}
        for match in _GPUS.finditer(gres):
            gpus[match["type"] or ""] = gpus.get(match["type"] or "", 0) + int(match["count"])
        names = frozenset() if features in _NOTHING else frozenset(features.split(","))
        limit = _limit(default_time)
        limit = _limit(most_time) if limit is None else limit
        found.append(Node(name, partition.rstrip("*"), partition.endswith("*"), gpus, names, limit))
    return found


def usable(nodes: Iterable[Node], *, partition: str, constraint: str, names: Sequence[str]) -> list[Node]:
    """The nodes that a job may run on.

    Args:
        nodes: all there are.
        partition: the job's; empty: the default one.
        constraint: features as sbatch has them; only those joined by `&` are looked at, others are left to Slurm.
        names: of the only nodes that are allowed; empty: all.
    """
    wanted = set(constraint.split("&")) if re.fullmatch(r"[\w.-]+(&[\w.-]+)*", constraint) else set()

    def fits(node: Node) -> bool:
        here = node.partition == partition if partition else node.default
        return here and wanted <= node.features and (not names or node.name in names)

    return [node for node in nodes if fits(node)]


def expanded(hostlist: str) -> Iterator[str]:
    """Names in a list of hosts such as `n[1-3,07],login`."""
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist):
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", item)
        if match is None:
            yield item
            continue
        before, ranges, after = match.groups()
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                for rest in expanded(after) if after else [""]:
                    yield f"{before}{number:0{len(first)}}{rest}"


def _limit(text: str) -> int | None:
    try:
        return minutes(text)
    except ValueError:
        return None


def _time(text: str) -> float | None:
    """Seconds since the epoch; squeue prints times of the zone that this process is in."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
