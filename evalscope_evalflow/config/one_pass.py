"""A pass over many models that starts nothing: what is read again within it, of the same file, is remembered.

Preflight and the plan ask the same of one checkpoint or environment several times, in places that know nothing of each
other. Outside of a pass everything is read anew, as files change while engines run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

MOST_REMEMBERED = 1000  # things; the oldest is forgotten first, so that memory stays flat with any number of models
T = TypeVar("T")
_MEMORY: ContextVar[dict[Hashable, Any] | None] = ContextVar("evalflow_one_pass", default=None)


@contextmanager
def one_pass() -> Iterator[None]:
    """A block that is one pass, in this thread; one inside of another belongs to that."""
    outer = _MEMORY.get()
    token = _MEMORY.set({} if outer is None else outer)
    try:
        yield
    finally:
        _MEMORY.reset(token)


def remembered(key: Hashable, read: Callable[[], T]) -> T:
    """What was read before in this pass, or is read now. An error is not remembered.

    Args:
        key: tells it from all else: what is read, and of what.
        read: reads it.
    """
    memory = _MEMORY.get()
    if memory is None:
        return read()
    if key in memory:
        found: T = memory[key]
        return found
    if len(memory) >= MOST_REMEMBERED:
        del memory[next(iter(memory))]
    found = memory[key] = read()
    return found
