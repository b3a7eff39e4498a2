"""Starts SGLang's server in this process. Run by its path, with an interpreter that has sglang.

SGLang takes its key only as an argument, which every user of the machine could read. So the key comes from the
environment, and is put where SGLang's parser would have put it.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import warnings
from typing import Any

KEY_VARIABLE = "EVALFLOW_SGLANG_API_KEY"
MODULE = "sglang.launch_server"


def hand_over(key: str) -> None:
    """Let every parser that knows `--api-key` find this key there."""
    parse = argparse.ArgumentParser.parse_args

    def parse_with_key(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        found: Any = parse(parser, *args, **kwargs)
        if not hasattr(found, "api_key"):
            parser.error("this SGLang knows no --api-key: it would answer everybody on this machine")
        found.api_key = key
        return found

    argparse.ArgumentParser.parse_args = parse_with_key  # type: ignore[method-assign, assignment]


def main() -> None:
    # Run by its path, a file of ours named `sglang` would be found in SGLang's place.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    key = os.environ.pop(KEY_VARIABLE, "")
    if key:
        hand_over(key)
    # It advises `sglang serve`, which asks a hub what kind of model it is before it comes to the same.
    warnings.filterwarnings("ignore", message=".*sglang serve.*")
    runpy.run_module(MODULE, run_name="__main__")


if __name__ == "__main__":  # its workers import this file again
    main()
