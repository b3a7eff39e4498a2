"""The three seams by which backends attach to stock EvalScope.

EvalScope (1.11 to 1.x) loads no plugins. Every entry of the group `evalscope.backends` becomes a value of
`eval_backend`, by three changes to the imported modules:

- `evalscope.arguments.add_argument` also offers the entries' names and options;
- `TaskConfig` lets an entry's `prepare` see the raw fields first. No field is added to TaskConfig: it would
  be written to every task's YAML, which stock EvalScope could then not read;
- `evalscope.run.run_single_task` hands a task of such a backend to its entry.

A task with any other backend takes the stock way, unchanged. Entries are listed from metadata, and loaded
when they are asked for.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "evalscope.backends"
_attached = False


@functools.cache
def plugins() -> dict[str, EntryPoint]:
    """The plug-ins that name themselves as backends, by name; none is loaded."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@functools.cache
def load(name: str) -> Callable[..., Any]:
    """The callable of an entry.

    Raises:
        RuntimeError: its package is broken.
    """
    try:
        found: Callable[..., Any] = plugins()[name].load()
    except Exception as error:
        raise RuntimeError(f"backend {name!r} cannot be loaded from {plugins()[name].value}: {error!r}") from error
    return found


def attach() -> None:
    """Apply the seams to the imported EvalScope, once."""
    global _attached
    if _attached:
        return
    _attached = True
    from evalscope import arguments, config

    run = sys.modules["evalscope.run"]
    _offer_in_cli(arguments)
    _prepare_tasks(config.TaskConfig)
    _hand_over(run)


def _offer_in_cli(arguments: Any) -> None:
    stock = arguments.add_argument

    @functools.wraps(stock)
    def add_argument(parser: Any) -> None:
        stock(parser)
        for action in parser._actions:
            if "--eval-backend" in action.option_strings and action.choices is not None:
                action.choices = [
                    *action.choices,
                    *(name for name in plugins() if name not in action.choices),
                ]
        for name in plugins():
            try:
                add = getattr(load(name), "add_arguments", None)
            except RuntimeError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
                continue
            if add is not None:
                add(parser)

    arguments.add_argument = add_argument


def _prepare_tasks(task_config: Any) -> None:
    from pydantic_core import core_schema

    def around(values: Any, validate: Callable[[Any], Any]) -> Any:
        backend = str(values.get("eval_backend") or "").lower() if isinstance(values, Mapping) else ""
        named = (name for name in plugins() if isinstance(values, Mapping) and (name == backend or name in values))
        entry = next(map(load, named), None)
        prepare = getattr(entry, "prepare", None)
        if prepare is None:
            return validate(values)
        values = prepare(values)
        try:
            with _quiet():
                return validate(values)
        except Exception as error:  # whatever EvalScope's own validators raise of such input
            refuse = getattr(entry, "refuse", None)
            if refuse is not None:
                refuse(error)
            raise

    def schema(cls: Any, source: Any, handler: Any) -> Any:
        return core_schema.no_info_wrap_validator_function(around, handler(source))

    task_config.__get_pydantic_core_schema__ = classmethod(schema)
    task_config.model_rebuild(force=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """In this block EvalScope logs warnings alone: of a task without `model` it says that it will take a dummy."""
    logger = logging.getLogger("evalscope")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)


def _hand_over(run: Any) -> None:
    stock = run.run_single_task

    @functools.wraps(stock)
    def run_single_task(task_config: Any, *args: Any, **kwargs: Any) -> Any:
        if task_config.eval_backend not in plugins():
            return stock(task_config, *args, **kwargs)
        return load(task_config.eval_backend)(task_config, lambda other: stock(other, *args, **kwargs))

    run.run_single_task = run_single_task
