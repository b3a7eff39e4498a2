"""What of a task runs on the cluster, what stays in the submitting process, and what identifies it.

A cluster job answers, and nothing else. Models behind APIs, scoring and judging stay, and so do all keys.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config import keys
from evalscope_evalflow.config.loopback import is_loopback
from evalscope_evalflow.config.secret_names import MASK, NO_KEY, is_secret_name
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.engine_groups import members_together
from evalscope_evalflow.sweep.job import Job

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Of the section: what changes nothing about the answers of one model, or about whether they are asked for again.
_NOT_ANSWERS = {
    *("models", "mode", "judge", "judge_max_num_seqs", "executor", "exporters", "on_incomplete", "verbose", "dry_run"),
    "budget",
    "watch",
}
_OF_OTHERS = {"adapters", "base_name"}  # of a model: those that share its engine, which may be done by now
_OF_JUDGES = ("judge", "judge_strategy", "judge_model_args", "analysis_report")


@dataclass(frozen=True)
class Unit:
    """What is submitted as one job: models that use one engine, one after the other.

    Attributes:
        jobs: the models' jobs, each for answering alone, in the order of their turns.
        devices: that it needs.
    """

    jobs: tuple[Job, ...]
    devices: int

    @property
    def models(self) -> list[str]:
        """The models' names."""
        return [job.model.name for job in self.jobs]


def runs_on_cluster(job: Job) -> bool:
    """Whether a job needs an engine; an API is asked, and answers are judged, where the task was submitted."""
    return job.asks_model and resolve_engine(job.model, job.deploy).local


def groups_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that go together, as they use one engine, in the order of their turns."""
    found: list[list[Job]] = []
    for number in members_together(jobs):
        job = jobs[number]
        if found and job.group and found[-1][0].group == job.group:
            found[-1].append(job)
        else:
            found.append([job])
    return found


def answering(job: Job) -> Job:
    """The part of a job that runs on the cluster: no judge is named in it, and no key of one."""
    task = job.task
    flow = task.flow.model_copy(
        update={"mode": "infer", "judge": None, "exporters": [], "deploy": _without_key(task.flow.deploy)}
    )
    model = job.model.model_copy(update={"deploy": {k: v for k, v in job.model.deploy.items() if k != "api_key"}})
    if task.multi_model:
        flow = flow.model_copy(update={"models": [model]})
    stock = {name: value for name, value in task.stock.items() if name not in _OF_JUDGES}
    alone = dataclasses.replace(
        task, flow=flow, stock=stock, models=(model,), request_slots=None, judge_slots=None, notes=()
    )
    size = dataclasses.replace(job.size, verdicts=0)
    return dataclasses.replace(job, task=alone, size=size, phases=("infer",), asks_own_judge=False)


def scoring(job: Job, devices: str | None = None) -> Job:
    """The part of a job that is left when its answers are saved: nothing is asked of its model.

    Args:
        job: the job.
        devices: that its engine was given, for the record; None: as the task has it.
    """
    job = job if devices is None else job.with_deploy(devices=devices)
    flow = job.task.flow.model_copy(update={"mode": "judge"})
    flow.model_fields_set.discard("mode")  # it is not the user's, and the record has what the user set
    # Its checkpoint was compared on the node when the last answer had come, and may be deleted by now.
    task = dataclasses.replace(job.task, flow=flow, whole={})
    return dataclasses.replace(job, task=task, phases=("judge",))


def again(job: Job) -> Job:
    """A job that was begun and goes on: what it has archived is not archived again."""
    if job.task.flow.reuse is not False:
        return job
    flow = job.task.flow.model_copy(update={"reuse": True})
    return dataclasses.replace(job, task=dataclasses.replace(job.task, flow=flow))


def identity(job: Job) -> str:
    """A hash of all that a model's answers would be made with; how many of them are saved already does not count."""
    task = job.task
    described = {
        "stock": {name: value for name, value in task.stock.items() if name not in _OF_JUDGES},
        "section": task.flow.model_dump(mode="json", exclude_unset=True, exclude=_NOT_ANSWERS),
        "model": job.model.model_dump(mode="json", exclude_unset=True, exclude=_OF_OTHERS),
        "folder": str(task.folder(job.model)),
    }
    text = json.dumps(keys.redact(described), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def saved_answers(job: Job) -> int:
    """How many answers of a job's model this machine sees now."""
    saved = load_backend(job.task.flow.backend).look(job.task, job.model)
    return sum(saved.answers(dataset) for dataset in job.task.datasets)


def answered_result(job: Job) -> ModelResult:
    """The result of a job that is to be answered alone, of what is saved."""
    saved = load_backend(job.task.flow.backend).look(job.task, job.model)
    datasets = [saved.described(result) for result in saved.predicted()]
    return ModelResult(job.model, saved.folder, datasets)


def key_problems(job: Job, pass_env: Collection[str]) -> Iterator[Problem]:
    """Keys that a job would carry to the cluster, and references to variables that it would not find there.

    Args:
        job: as `answering` has it.
        pass_env: names of the variables that jobs get.
    """
    seen = set()
    for place, value in _secrets({"stock": job.task.stock, "evalflow": job.task.flow, "model": job.model}, ""):
        if place in seen:
            continue
        seen.add(place)
        name = _REFERENCE.fullmatch(value)
        if name is None:
            what = "is a key, and a cluster job would carry it in a file"
            todo = "Put it in an environment variable, write ${NAME} here, and name that in executor.pass_env."
            yield Problem(place, what, todo)
        elif name[1] not in pass_env:
            what = f"names the variable {name[1]}, which jobs on the cluster do not get"
            yield Problem(place, what, f"Add {name[1]} to executor.pass_env.")


def host_problems(job: Job) -> Iterator[Problem]:
    """An address at which others on the cluster's network would reach the engine."""
    host = job.deploy.host
    listens_everywhere = host in ("0.0.0.0", "::")
    own = is_loopback(f"http://{f'[{host}]' if ':' in host else host}")
    if resolve_engine(job.model, job.deploy).local and (listens_everywhere or not own):
        what = f"{host} can be reached over the network, and on a cluster engines listen at loopback alone"
        yield Problem("deploy.host", what, "Leave it out: engine and worker run on the same node.")


def _secrets(node: Any, place: str, name: str = "") -> Iterator[tuple[str, str]]:
    """Where keys are in a tree, with each as it is written there."""
    if isinstance(node, BaseModel):
        yield from _secrets(node.to_section() if hasattr(node, "to_section") else node.model_dump(), place)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _secrets(value, f"{place}.{key}".strip("."), str(key))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _secrets(value, f"{place}.{number}", name)
    elif isinstance(node, SecretStr):
        yield place, node.get_secret_value()
    elif isinstance(node, str) and is_secret_name(name) and node not in ("", NO_KEY, MASK):
        yield place, node


def _without_key(deploy: Any) -> Any:
    """How a model is served, without a key of one's own: an engine on a node gets a random one."""
    return deploy.model_copy(update={"api_key": None})
