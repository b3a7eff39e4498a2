"""The shapes of stock fields that are looked into before anything is started: what a file holds may be of any type."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from evalscope_evalflow.config.user_paths import why_no_path
from evalscope_evalflow.errors import Problem

# Stock fields that are mappings, and how they are written.
MAPPINGS = {
    "judge": "{models: [{model_id: …, api_url: …}]}",
    "dataset_args": "{NAME: {local_path: …, subset_list: […]}}",
}
_TEXTS = ("api_url", "model_id", "work_dir", "eval_backend", "eval_type", "dataset_hub", "dataset_dir")
_JUDGES_TEXTS = ("model_id", "judge_id", "api_url", "eval_type")


def shape_problems(data: Mapping[Any, Any]) -> Iterator[Problem]:
    """Fields of a task that are of another kind than they can be.

    Args:
        data: a task, as a file holds it.
    """
    for key in data:
        if not isinstance(key, str):
            yield Problem(str(key), f"is a key that is no text ({type(key).__name__})", "Put it into quotes.")
    for name, form in MAPPINGS.items():
        if data.get(name) is not None and not isinstance(data[name], Mapping):
            yield Problem(name, f"is no mapping ({kind_of(data[name])})", f"Write it as {name}: {form}.")
    yield from _texts(data, _TEXTS, "")
    yield from _path(data.get("work_dir"), "work_dir")
    if data.get("eval_config") is not None and not isinstance(data["eval_config"], (str, Mapping)):
        yield Problem("eval_config", f"is no mapping ({kind_of(data['eval_config'])})")
    settings = data.get("dataset_args")
    for name, item in settings.items() if isinstance(settings, Mapping) else ():
        yield from _of_dataset(name, item)
    judge = data.get("judge")
    if isinstance(judge, Mapping):
        yield from _of_judge(judge)


def kind_of(value: Any) -> str:
    """What a value is, in a file's words; never the value, which may be a key."""
    names = {str: "a text", list: "a list", dict: "a mapping", bool: "true or false", int: "a number"}
    names[float] = names[int]
    return names.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def _of_dataset(name: Any, settings: Any) -> Iterator[Problem]:
    where = f"dataset_args.{name}"
    if not isinstance(name, str):
        yield Problem(where, "is no name of a benchmark", "Put it into quotes.")
    if settings is None:
        return
    if not isinstance(settings, Mapping):
        yield Problem(where, f"is no mapping ({kind_of(settings)})", "Write it as {local_path: …, subset_list: […]}.")
        return
    yield from _keys(settings, where)
    yield from _texts(settings, ("local_path",), where)
    yield from _path(settings.get("local_path"), f"{where}.local_path")
    subsets = settings.get("subset_list")
    if subsets is not None and not isinstance(subsets, (list, tuple)):
        yield Problem(f"{where}.subset_list", f"is no list ({kind_of(subsets)})", "Write it as [NAME, NAME].")


def _path(value: Any, where: str) -> Iterator[Problem]:
    """Whether there could be a file of that name; anything but a path is another check's."""
    why = why_no_path(value) if isinstance(value, (str, os.PathLike)) else ""
    if why:
        yield Problem(where, f"is no path: {why}")


def _of_judge(judge: Mapping[Any, Any]) -> Iterator[Problem]:
    yield from _keys(judge, "judge")
    yield from _mappings(judge, ("contract", "generation_config"), "judge")
    models = judge.get("models")
    listed = [models] if isinstance(models, Mapping) else models
    if listed is not None and not isinstance(listed, (list, tuple)):
        yield Problem("judge.models", f"is no list ({kind_of(listed)})", "Write it as [{model_id: …, api_url: …}].")
        return
    for number, model in enumerate(listed or ()):
        where = f"judge.models.{number}"
        if hasattr(model, "model_dump"):  # an object of EvalScope's
            continue
        if not isinstance(model, Mapping):
            yield Problem(where, f"is no mapping ({kind_of(model)})", "It has model_id, api_url and api_key.")
            continue
        yield from _keys(model, where)
        yield from _texts(model, _JUDGES_TEXTS, where)
        yield from _mappings(model, ("generation_config", "model_args"), where)


def _keys(found: Mapping[Any, Any], where: str) -> Iterator[Problem]:
    for key in found:
        if not isinstance(key, str):
            yield Problem(f"{where}.{key}", f"is a key that is no text ({kind_of(key)})", "Put it into quotes.")


def _mappings(found: Mapping[Any, Any], names: tuple[str, ...], where: str) -> Iterator[Problem]:
    for name in names:
        value = found.get(name)
        if value is not None and not isinstance(value, Mapping) and not hasattr(value, "model_dump"):
            yield Problem(f"{where}.{name}", f"is no mapping ({kind_of(value)})")


def _texts(found: Mapping[Any, Any], names: tuple[str, ...], where: str) -> Iterator[Problem]:
    for name in names:
        value = found.get(name)
        if value is not None and not isinstance(value, (str, os.PathLike)):
            place = f"{where}.{name}" if where else name
            yield Problem(place, f"is no text ({kind_of(value)})", "Put it into quotes.")
