"""What can go wrong, and the exit code that says so.

None of these is a ValueError: pydantic would wrap that, and print the input beside it, keys included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from typing import Any

from evalscope_evalflow.terminal_text import printable


class ExitCode(IntEnum):
    """Exit codes of `evalflow`, and of `evalscope eval --eval-backend evalflow`."""

    COMPLETE = 0
    FAILED = 1
    BAD_CONFIG = 2
    INCOMPLETE = 3
    BLOCKED = 4
    INTERRUPTED = 130


# The end of each message about a run that was ended before it was done.
RESUME = "what was saved is kept; run the same command again to resume"


class EvalFlowError(Exception):
    """Anything that EvalFlow reports as its own failure. It can be pickled, whatever a subclass's `__init__` takes."""

    exit_code = ExitCode.FAILED

    def __str__(self) -> str:
        """The message; a terminal obeys none of it, whatever a server or a log has said."""
        return printable(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[EvalFlowError], args: tuple[Any, ...]) -> EvalFlowError:
    """An error as it was pickled, without calling its `__init__`; pickle then sets its attributes."""
    error = kind.__new__(kind)
    error.args = args
    return error


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration: where, what, and what to do about it."""

    where: str
    what: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n    {self.todo.strip()}" if self.todo else "")


class ConfigError(EvalFlowError):
    """The configuration cannot work; nothing was started.

    Attributes:
        problems: all that was found, not only the first.
    """

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return printable(str(self.problems[0]))
        return printable("\n".join([f"{len(self.problems)} problems:", *(f"- {problem}" for problem in self.problems)]))


class EngineError(EvalFlowError):
    """The engine did not start, or died while it was needed. The message holds cause, hint and log."""


class Stopped(EvalFlowError):
    """The run was stopped on purpose, by `evalflow stop`.

    Attributes:
        everything: whether all else is to be stopped with it: `evalflow stop --all`, or a Ctrl-C.
    """

    exit_code = ExitCode.INTERRUPTED
    everything = False

    @classmethod
    def all(cls, message: str) -> Stopped:
        """One that stops everything."""
        error = cls(message)
        error.everything = True
        return error


class WorkerError(EvalFlowError):
    """The process that runs the stock EvalScope task failed."""


def nearest(name: Any, known: Sequence[str]) -> str:
    """A sentence that names what is most like `name` among `known`; empty where nothing is.

    A name from a file may be of any type: YAML makes a number of `1`, and a date of `2024-01-31`.
    """
    name = str(name)[:100]  # looking for a long one takes long
    close = get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.6)
    if not close:
        lowered = {item.lower(): item for item in known}
        close = [lowered[hit] for hit in get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)]
    return f"Did you mean {close[0]!r}?" if close else ""
