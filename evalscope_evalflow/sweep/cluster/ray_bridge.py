"""The process that is connected to a Ray cluster, on behalf of the process that submits.

    python -m evalscope_evalflow.sweep.cluster.ray_bridge

JSON lines on standard input: first how to connect and what all jobs have in common, then requests; on standard output a
reply to each. It is a process of its own because Ray ends the process that is connected when the cluster's head is
lost, takes over its signal handlers, and writes to its terminal. It ends with the process that submits; jobs are
detached actors and go on.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evalscope_evalflow.sweep.cluster import ray_node_job, ray_node_probe

NAMESPACE = "evalflow"
ANSWER_S = 0.5  # until an actor has said where it runs; one that waits for room says nothing
CREATED_S = 2.0  # until the creation of actors has been asked for; of those that there is room for, until they run
ASKED_S = 5.0  # until an actor has taken the request to end
PROBE_S = 90.0  # an environment may have to be made on the node first
GUESSES = " Some common causes include"  # in Ray's words for a process that was killed
LEFT = "exit_actor() is called"  # in its words for an actor that left by itself
READY, REFUSED = "ready", "refused"


class Bridge:
    """The connection to a cluster, and handles to the actors that were asked for.

    Attributes:
        settings: what all jobs have in common: `cpus`, `memory`, `resources`, `runtime_env`.
    """

    def __init__(self, ray: Any, settings: Mapping[str, Any]) -> None:
        self.ray = ray
        self.settings = settings
        self._handles: dict[str, Any] = {}
        self._where: dict[str, Any] = {}
        ray.cloudpickle.register_pickle_by_value(ray_node_job)
        ray.cloudpickle.register_pickle_by_value(ray_node_probe)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that live: `id`, `name` and `resources`."""
        alive = (node for node in self.ray.nodes() if node["Alive"])
        return [{"id": n["NodeID"], "name": _name(n), "resources": n["Resources"]} for n in alive]

    def submit(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Create an actor for each job: `id`, `devices`, and what `NodeJob` is given."""
        shared = {"num_cpus": self.settings["cpus"], "runtime_env": self.settings["runtime_env"]}
        if self.settings["memory"] is not None:
            shared["memory"] = self.settings["memory"]
        actor = self.ray.remote(ray_node_job.NodeJob)
        for job in jobs:
            options = {
                **shared,
                "name": job["id"],
                "namespace": NAMESPACE,
                "lifetime": "detached",
                "max_restarts": 0,
                "num_gpus": job["devices"],
                "resources": self.settings["resources"],
            }
            what = (job["command"], job["log"], job["environment"], job["own_python"])
            self._handles[job["id"]] = actor.options(**options).remote(*what)
        # An actor that is named is not yet one that outlives this process: its creation is asked for a moment later.
        asked = [self._ask_where(job["id"], True) for job in jobs]
        if asked:
            self.ray.wait(asked, num_returns=len(asked), timeout=CREATED_S)
            self.nodes()

    def statuses(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Of each job: `stage`, and if it runs `node` and `since`; if it is gone, `reason` in Ray's words."""
        known = set(self.ray.util.list_named_actors())
        asked = {job: ref for job in ids if (ref := self._ask_where(job, job in known)) is not None}
        if asked:
            self.ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
        names = {node["id"]: node["name"] for node in self.nodes()}
        return {job: self._status(job, job in known, asked.get(job), names) for job in ids}

    def cancel(self, ids: Sequence[str]) -> None:
        """Ask those that run to end in order, and take back those that wait."""
        known = set(self.ray.util.list_named_actors())
        asked = []
        for job in ids:
            ref = self._ask_where(job, job in known)
            if ref is None or job not in known:
                continue
            if self._answered(ref):
                asked.append(self._handles[job].stop.remote())
            else:
                self.ray.kill(self._handles[job])
        if asked:
            self.ray.wait(asked, num_returns=len(asked), timeout=ASKED_S)

    def probe(self, nodes: Sequence[str], folders: Mapping[str, Sequence[str]], python: str | None) -> dict[str, Any]:
        """What `probe_node` says on each of these nodes, by id; `error` where it does not run there."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = self.ray.remote(ray_node_probe.probe_node)
        shared = {"num_cpus": 0, "max_retries": 0, "runtime_env": self.settings["runtime_env"]}
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            asked[task.options(**shared, scheduling_strategy=there).remote(folders, python)] = node
        done, late = self.ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
        found: dict[str, Any] = {asked[ref]: {"error": f"no answer within {PROBE_S:.0f} s"} for ref in late}
        for ref in done:
            try:
                found[asked[ref]] = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                found[asked[ref]] = {"error": words_of(error)}
        return found

    def _ask_where(self, job: str, known: bool) -> Any:
        """The actor's reply to where it runs, which may be still to come; None: nobody can be asked."""
        if job not in self._handles and known:
            try:
                self._handles[job] = self.ray.get_actor(job)
            except ValueError:  # it has ended meanwhile
                return None
        if job in self._handles and job not in self._where:
            self._where[job] = self._handles[job].where.remote()
        return self._where.get(job)

    def _answered(self, ref: Any) -> bool:
        """Whether a reply is there; an actor that has died counts as one."""
        return bool(self.ray.wait([ref], timeout=0)[0])

    def _status(self, job: str, known: bool, ref: Any, names: Mapping[str, str]) -> dict[str, Any]:
        if known and ref is not None:
            if not self._answered(ref):
                return {"stage": "queued", "reason": "waits for resources"}
            try:
                node, since = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                return {"stage": "gone", "reason": words_of(error)}
            return {"stage": "running", "node": names.get(node, node), "since": since}
        return {"stage": "gone", "reason": self._why_gone(job)}

    def _why_gone(self, job: str) -> str:
        """Ray's words for the end of an actor; empty of one that left by itself or was never known here."""
        if job not in self._handles:
            return ""
        try:
            self.ray.get(self._handles[job].where.remote(), timeout=ANSWER_S)
        except self.ray.exceptions.RayError as error:
            return words_of(error)
        return ""


def words_of(error: BaseException) -> str:
    """Ray's words for what happened, on one line, without ids; empty for an actor that left by itself."""
    lines = str(error).splitlines()
    text = " ".join(line.strip() for line in lines if not line.startswith("\t") or ": " not in line[:20])
    text = text.removeprefix("The actor died unexpectedly before finishing this task.").partition(GUESSES)[0].strip()
    return "" if LEFT in text else text[:800]


def _name(node: Mapping[str, Any]) -> str:
    """A node's name if it was given one, else its host's."""
    given, host = str(node["NodeName"]), str(node["NodeManagerHostname"])
    return host if given == node["NodeManagerAddress"] else given


def end_with(pid: int) -> None:
    """End this process as soon as that one has ended, whatever it is doing then."""
    owner = os.pidfd_open(pid)

    def watch() -> None:
        select.select([owner], [], [])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def serve(bridge: Bridge, reply: Callable[[Mapping[str, Any]], None]) -> None:
    """Do what is asked on standard input until that ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply({READY: getattr(bridge, request["do"])(**request["with"])})
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            reply({REFUSED: words_of(error) or type(error).__name__})


def main() -> int:
    """Connect, say so, and serve."""
    settings = json.loads(sys.stdin.readline())
    end_with(settings["owner"])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints

    def reply(what: Mapping[str, Any]) -> None:
        replies.write(json.dumps(what) + "\n")
        replies.flush()

    try:
        import ray

        ray.init(address=settings["address"], namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises many kinds, and its words go to the user
        reply({REFUSED: words_of(error) or type(error).__name__, "kind": type(error).__name__})
        return 1
    reply({READY: ray.__version__})
    serve(Bridge(ray, settings), reply)
    return 0


if __name__ == "__main__":
    sys.exit(main())
