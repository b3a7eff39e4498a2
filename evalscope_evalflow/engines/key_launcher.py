"""Starts a server that takes its API key only as an argument, and hands it the key from the environment.

An argument can be read by every user of the machine. So the key comes in the variable EVALFLOW_ENGINE_API_KEY, and
is put where the server's argparse parser would have put it. Run by its path, with the interpreter of the engine's
environment, which need not have EvalFlow:

    python key_launcher.py OPTION PROGRAM ARGUMENTS…

OPTION is the server's option for its key, without dashes; with a plus sign behind it (`api-keys+`), it takes several
keys and is given a list. PROGRAM is "package.module" to run as with `python -m`, or "package.module:function" to call.
"""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import sys
from typing import Any

KEY_VARIABLE = "EVALFLOW_ENGINE_API_KEY"


def hand_over(option: str, key: str) -> None:
    """Let every parser that knows the option find this key there."""
    name = option.rstrip("+")
    attribute = name.replace("-", "_")
    value = [key] if option.endswith("+") else key
    parse = argparse.ArgumentParser.parse_args

    def parse_with_key(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        found: Any = parse(parser, *args, **kwargs)
        if not hasattr(found, attribute):
            parser.error(f"this version knows no --{name}: it would answer everybody on this machine")
        setattr(found, attribute, value)
        return found

    argparse.ArgumentParser.parse_args = parse_with_key  # type: ignore[method-assign, assignment]


def main() -> None:
    # Run by its path, a file of ours named like the engine would be found in the engine's place.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    option, program, *arguments = sys.argv[1:]
    key = os.environ.pop(KEY_VARIABLE, "")
    if key:
        hand_over(option, key)
    module, _, function = program.partition(":")
    sys.argv = [module.partition(".")[0], *arguments]
    if function:
        getattr(importlib.import_module(module), function)()
    else:
        runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":  # the workers of some servers import this file again
    main()
