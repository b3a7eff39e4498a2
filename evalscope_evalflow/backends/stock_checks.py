"""What EvalScope would refuse of a task's stock fields, whichever its backend, as far as its files tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from evalscope_evalflow.backends.evalscope_sources import source_problems
from evalscope_evalflow.backends.generation_ranges import range_problems
from evalscope_evalflow.config import catalog
from evalscope_evalflow.errors import Problem, nearest

if TYPE_CHECKING:
    from evalscope_evalflow.config.task import Task

# Mappings of a stock task whose numbers and switches are looked at.
_TYPED = ("generation_config", "judge")


def stock_problems(task: Task, folder: Path) -> Iterable[Problem]:
    """Unknown keys and words, and values of the wrong kind.

    Args:
        task: it.
        folder: of the `evalscope` package.
    """
    yield from source_problems(folder)
    fields = catalog.task_fields(folder)
    for name in task.stock:
        if fields and name not in fields:
            yield Problem(name, "unknown key", nearest(name, fields) or f"Known: {', '.join(fields)}")
    known = catalog.generation_fields(folder)
    common = task.stock.get("generation_config")
    yield from _generation_problems(common, known, "generation_config")
    yield from range_problems(common, "generation_config")
    models = (task.stock.get("judge") or {}).get("models") or []
    for number, judge in enumerate(models if isinstance(models, list) else [models]):
        if isinstance(judge, Mapping):
            yield from range_problems(judge.get("generation_config"), f"judge.models.{number}.generation_config")
    for model in task.models:
        where = f"model {model.name}, generation_config"
        yield from _generation_problems(model.generation_config, known, where)
        yield from range_problems(model.generation_config, where)
        if model.generation_config and not isinstance(common or {}, Mapping):
            yield Problem("generation_config", f"{where} cannot be merged with it", "Write it as a mapping.")
    for place, choices in catalog.choices(folder).items():
        yield from _choice_problems(task.stock, place, choices)
    yield from _type_problems(task, catalog.plain_types(folder))


def _generation_problems(settings: Any, known: tuple[str, ...], where: str) -> Iterable[Problem]:
    if settings is None or isinstance(settings, str) or not known:  # a string is parsed by EvalScope
        return
    if not isinstance(settings, Mapping):
        yield Problem(where, "is no mapping", "Write it as generation_config: {max_tokens: 512}.")
        return
    for name in settings:
        if name not in known:
            yield Problem(
                f"{where}.{name}",
                "EvalScope would ignore it",
                f"{nearest(str(name), known)} What only the API knows goes into `extra_body`.".strip(),
            )


def _choice_problems(part: Any, place: str, choices: Mapping[str, tuple[str, ...]]) -> Iterable[Problem]:
    """Words that EvalScope does not know, at a place of the stock task such as `judge.contract`."""
    for step in place.split("."):
        part = part.get(step) if isinstance(part, Mapping) else None
    for name, allowed in choices.items():
        value = part.get(name) if isinstance(part, Mapping) else None
        if value is not None and str(value) not in allowed:
            hint = f"{nearest(str(value), allowed)} It is one of: {', '.join(allowed)}".strip()
            yield Problem(f"{place}.{name}", f"there is no {value!r}", hint)


def _type_problems(task: Task, types: Mapping[str, Mapping[str, Any]]) -> Iterable[Problem]:
    """Numbers and switches that are none; EvalScope would find out when the engine is up. No value is shown."""
    settings = task.stock.get("dataset_args") or {}
    places = [("", task.stock, "", False), *((name, task.stock.get(name), name, False) for name in _TYPED)]
    places += [
        ("generation_config", model.generation_config, f"model {model.name}, generation_config", False)
        for model in task.models
    ]
    places += [("dataset_args", settings.get(name), f"dataset_args.{name}", True) for name in task.datasets]
    for home, part, where, strict in places:
        for name, kind in types[home].items():
            value = part.get(name) if isinstance(part, Mapping) else None
            if value is None or (not where and name == "limit"):  # that has a check of its own
                continue
            try:
                TypeAdapter(kind).validate_python(value, strict=strict)
            except ValidationError as error:
                said = error.errors(include_input=False, include_url=False, include_context=False)[0]["msg"]
                yield Problem(f"{where}.{name}".strip("."), f"EvalScope does not take it: {said}")
