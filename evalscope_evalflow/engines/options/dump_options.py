"""Prints the options of a program's argparse parser as JSON. Run by its path, in the program's environment.

The program's own entry point is called, and stopped where it would parse its arguments: so whatever its version
offers is seen, and nothing of it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import runpy
import signal
import sys
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1


class Found(BaseException):
    """The parser, on its way out of the program; no `except Exception` there shall stop it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(target: str, words: list[str]) -> argparse.ArgumentParser:
    """The parser for command lines that start with these words.

    Args:
        target: the program: "package.module:function", or a script's path.
        words: its subcommand.
    """

    def found(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        raise Found(parser)

    sys.argv = [target, *words]
    argparse.ArgumentParser.parse_known_args = found  # type: ignore[method-assign, assignment]
    try:
        if target.endswith(".py"):
            runpy.run_path(target, run_name="__main__")
        else:
            module, _, function = target.partition(":")
            getattr(importlib.import_module(module), function)()
    except Found as caught:
        parser = caught.parser
    else:
        raise SystemExit(f"{target} parses no arguments")
    for word in words:
        choices = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
        parser = choices[word]
    return parser


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # whoever asked is gone: nobody needs the answer
    # Run by its path, a file of ours named like the engine would be found in the engine's place.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    with contextlib.redirect_stdout(sys.stderr):
        parser = parser_of(sys.argv[1], sys.argv[2:])
    options = [
        {
            "names": list(action.option_strings),
            "nargs": action.nargs,
            "choices": [str(choice) for choice in action.choices] if action.choices else None,
            "type": action.type.__name__ if action.type in (int, float) else None,
        }
        for action in parser._actions
        if action.option_strings
    ]
    print(json.dumps({"abbreviations": parser.allow_abbrev, "options": options}))


if __name__ == "__main__":
    main()
