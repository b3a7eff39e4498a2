"""Runs commands up to where their arguments are parsed. Run by its path, in an engine's environment.

On its input: a JSON object with `preload` (modules to import once) and `cases`, each `argv` (what follows the
interpreter: a script, or `-m` and a module), `env`, and `out`, the file that gets what was parsed as JSON, or the
error. Each case is a fork. What it prints last is a list of exit codes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import runpy
import sys
from typing import Any

KEYS = ("api_key", "api_keys")  # our launchers set them after the program's own parser is done
real = argparse.ArgumentParser.parse_args


class Parsed(argparse.Namespace):
    """Says what was parsed, and ends the process, when the program begins to read it."""

    def __getattribute__(self, name: str) -> Any:
        if name in KEYS or name.startswith("__"):
            return super().__getattribute__(name)
        json.dump(self.__dict__, sys.stdout, default=str)
        sys.stdout.flush()
        os._exit(0)


def parse(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
    parsed = Parsed()
    parsed.__dict__.update(vars(real(parser, *args, **kwargs)))
    return parsed


def run(case: dict[str, Any]) -> None:
    out = os.open(case["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(os.open(case["out"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.environ.update(case["env"])
    argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign, assignment]
    words = case["argv"]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    task = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        for name in task["preload"]:
            importlib.import_module(name)
    codes = []
    for case in task["cases"]:
        child = os.fork()
        if child == 0:
            try:
                run(case)
            except SystemExit as error:
                os._exit(error.code if isinstance(error.code, int) else 99)
            os._exit(97)  # it parsed nothing
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
