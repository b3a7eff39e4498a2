"""Starts LMDeploy's API server in this process. Run by its path, with an interpreter that has lmdeploy.

LMDeploy takes its key only as an argument, which every user of the machine could read, and which swallows the words
after it. So the key comes from the environment, and is put where LMDeploy's parser would have put it.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

KEY_VARIABLE = "EVALFLOW_LMDEPLOY_API_KEY"


def hand_over(key: str) -> None:
    """Let every parser that knows `--api-keys` find this key there."""
    parse = argparse.ArgumentParser.parse_args

    def parse_with_key(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        found: Any = parse(parser, *args, **kwargs)
        if not hasattr(found, "api_keys"):
            parser.error("this LMDeploy knows no --api-keys: it would answer everybody on this machine")
        found.api_keys = [key]
        return found

    argparse.ArgumentParser.parse_args = parse_with_key  # type: ignore[method-assign, assignment]


def main() -> None:
    # Run by its path, a file of ours named `lmdeploy` would be found in LMDeploy's place.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    key = os.environ.pop(KEY_VARIABLE, "")
    if key:
        hand_over(key)
    from lmdeploy.cli import run

    sys.argv = ["lmdeploy", *sys.argv[1:]]
    run()


if __name__ == "__main__":
    main()
