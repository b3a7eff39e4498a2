"""The parser of every command, and the flags that several have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

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
    """An argparse parser that names the flag that was probably meant."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if message.startswith("unrecognized arguments: "):
            known = [option for action in self._actions for option in action.option_strings]
            # Names alone: the value of a flag that is not ours may be a key.
            words = [word.split("=")[0] for word in message.split(": ", 1)[1].split() if word.startswith("-")]
            message = "unknown flag " + ", ".join(words) if words else "some words belong to no flag"
            hint = nearest(words[0], known) if words else ""
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
