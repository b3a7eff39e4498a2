"""`evalflow check FILE`."""

from __future__ import annotations

import argparse

from evalscope_evalflow.cli.execute import execute, task_from_file
from evalscope_evalflow.cli.parser import add_file, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    """Check the task in a file, and print its plan."""
    return execute(task_from_file(args.file, args.work_dir), verbose=args.verbose, check=True, as_json=args.json)
