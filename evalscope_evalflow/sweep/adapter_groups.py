"""Adapters: which models of a sweep are adapters of one base, and so asked of one engine, each by its own name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.engines.adapters import base_of, is_adapter
from evalscope_evalflow.engines.checkpoints.checkpoint_location import locate
from evalscope_evalflow.sweep.engine_groups import Group
from evalscope_evalflow.sweep.job import Job, single_model_task


def with_bases(task: Task) -> Task:
    """The task in which a model that is given by its adapter's folder alone has the base that the folder names.

    Where that base is not on this machine, the model stays as it is, for preflight to explain.
    """
    models = tuple(map(_with_base, task.models))
    if models == task.models:
        return task
    notes = [
        f"{found.name}: {found.adapter} is an adapter; its base is {found.path}"
        for given, found in zip(task.models, models, strict=True)
        if given != found
    ]
    flow = task.flow.model_copy(update={"models": list(models)}) if task.multi_model else task.flow
    return replace(task, flow=flow, models=models, notes=(*task.notes, *notes))


def _with_base(model: ModelConfig) -> ModelConfig:
    adapter = model.adapter or (model.path if model.path and is_adapter(model.path) else None)
    if adapter is None or (model.adapter and model.path):
        return model
    base = base_of(adapter)
    return model if base is None else model.model_copy(update={"path": base, "adapter": adapter})


def share_adapters(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, in which those that can ask one engine for adapters of one base have it serve all of them.

    Adapters share an engine where base and settings are the same, and the engine tells them apart by their names. The
    base itself is asked there too if its answers are known to be the same then; else it has an engine of its own.
    """
    keys = {number: _key(job) for number, job in enumerate(jobs)}
    wanted = {key for number, key in keys.items() if key and jobs[number].model.adapter}
    members: dict[str, list[int]] = {}
    for number, key in keys.items():
        if key in wanted and (jobs[number].model.adapter or _base_fits(jobs[number])):
            members.setdefault(key, []).append(number)
    found = list(jobs)
    for key, numbers in members.items():
        models = [jobs[number].model for number in numbers]
        adapters = {model.name: model.adapter for model in models if model.adapter}
        bases = [number for number in numbers if not jobs[number].model.adapter]
        for number in bases[1:]:  # the same checkpoint under a second name: an engine serves it under one
            numbers.remove(number)
        base = jobs[bases[0]].model.name if bases else _free_name(jobs[numbers[0]].model, adapters)
        group = Group(f"adapters {key}") if len(numbers) > 1 else Group()
        for number in numbers:
            job = jobs[number]
            model = job.model.model_copy(update={"adapters": adapters, "base_name": base})
            alone = single_model_task(job.task, job.model)
            flow = alone.flow.model_copy(update={"models": [model]}) if alone.multi_model else alone.flow
            found[number] = replace(job, task=replace(alone, flow=flow, models=(model,)), group=group)
    return found


def adapter_lines(jobs: Iterable[Job]) -> list[str]:
    """What `evalflow check` says of adapters that share an engine."""
    groups: dict[str, list[ModelConfig]] = {}
    for job in jobs:
        if job.group and not job.group.swaps and job.model.served_adapters:
            groups.setdefault(job.group.key, []).append(job.model)
    return [
        f"{', '.join(model.name for model in models)}: one engine serves {_with_what(models)} of {models[0].path}"
        for models in groups.values()
    ]


def _with_what(models: Sequence[ModelConfig]) -> str:
    adapters = sum(1 for model in models if model.adapter)
    return f"{adapters} adapters{' and the base itself,' if len(models) > adapters else ''}"


def _base_fits(job: Job) -> bool:
    return resolve_engine(job.model, job.deploy).base_beside_adapters(job.deploy)


def _key(job: Job) -> str:
    """Equal for models that one engine can serve as a base and its adapters; empty where there is no such engine."""
    model, deploy = job.model, job.deploy
    if not job.asks_model or not model.path or not resolve_engine(model, deploy).shares_adapters:
        return ""
    settings = deploy.model_dump(mode="json", exclude={"swap"})
    base = os.path.realpath(locate(model.path))
    return hashlib.sha256(json.dumps([base, settings], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _free_name(model: ModelConfig, adapters: Iterable[str]) -> str:
    """A name for a base that nobody asks."""
    name = model.model_copy(update={"adapters": dict.fromkeys(adapters, ""), "base_name": None}).engine_name
    return name
