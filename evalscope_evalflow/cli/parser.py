"""The parser of every command, and the flags that several have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

from evalscope_evalflow.errors import ExitCode, Problem, nearest


class WrongArguments(SystemExit):
    """The command line cannot be understood; that has been said on standard error.

    Attributes:
        problem: what is wrong with it.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(int(ExitCode.BAD_CONFIG))
        self.problem = problem


class Parser(argparse.ArgumentParser):
    """An argparse parser that names the flag that was probably meant, and words that belong to none."""

    _given: Sequence[str] = ()  # the arguments
    _left: Sequence[str] = ()  # those that are not known

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class; what is not known is kept for the message, word by word."""
        self._given = list(sys.argv[1:] if args is None else args)
        found, left = super().parse_known_args(self._given, namespace)
        self._left = left
        return found, left

    def _refuse(self, left: Sequence[str], given: Sequence[str]) -> NoReturn:
        """Name what is not known. A word that stands behind a flag, ours or not, is never named: it may be a key."""
        flags = [word.split("=")[0] for word in left if word.startswith("-")]
        if flags:
            known = {name.lstrip("-"): name for action in self._actions for name in action.option_strings}
            near = nearest(flags[0].lstrip("-"), list(known))  # the dashes make all flags alike
            for plain, name in known.items():
                near = near.replace(f"'{plain}'", f"'{name}'")
            self._end("unknown flag " + ", ".join(flags), near)
        behind = {word for before, word in pairwise(given) if before.startswith("-")}
        words = [repr(word) for word in left if word not in behind]
        one = "word belongs" if len(left) == 1 else "words belong"
        what = f"{', '.join(words)} belong{'s' if len(words) == 1 else ''} to no flag"
        self._end(what if len(words) == len(left) else f"{len(left)} {one} to no flag", self._taken())

    def _taken(self) -> str:
        """How many words the command takes, where that is a fixed number."""
        own = [action for action in self._actions if not action.option_strings]
        if not own or any(action.nargs is not None for action in own):
            return ""
        return f"{self.prog} takes one {own[0].metavar or own[0].dest}." if len(own) == 1 else ""

    def error(self, message: str) -> NoReturn:
        if self._left:
            self._refuse(self._left, self._given)
        self._end(message)

    def _end(self, message: str, hint: str = "") -> NoReturn:
        todo = f"All flags: {self.prog} --help"
        self._print_message(
            f"{self.prog}: {message}" + (f"\n    {hint}" if hint else "") + f"\n    {todo}\n", sys.stderr
        )
        raise WrongArguments(Problem(self.prog, message, f"{hint} {todo}".strip()))


def normalise(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Arguments with underscores in the names of a parser's flags; values stay as they are."""
    names = {option for action in parser._actions for option in action.option_strings}
    result = []
    for word in argv:
        name, equals, value = word.partition("=")
        plain = f"--{name[2:].replace('-', '_')}"
        result.append(f"{plain}{equals}{value}" if name.startswith("--") and plain in names else word)
    return result


def add_file(parser: argparse.ArgumentParser) -> None:
    """A task file, and what of it can be set on the command line."""
    parser.add_argument("file", help="YAML or JSON file")
    parser.add_argument("--work_dir", help="where results go, instead of the file's work_dir")
    add_verbose(parser)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """`--verbose`."""
    parser.add_argument("--verbose", action="store_true", help="show what EvalScope prints")


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output, and no table")
