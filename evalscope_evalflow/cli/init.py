"""`evalflow init [FILE]`."""

from __future__ import annotations

import argparse
import sys

from evalscope_evalflow.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", default="evalflow.yaml", help="file to write; default: evalflow.yaml")


def main(args: argparse.Namespace) -> int:
    """Write a commented task file."""
    from evalscope_evalflow.config.template import write_template

    write_template(args.file)
    sys.stdout.write(f"Wrote {args.file}. Edit it, then: evalflow check {args.file}\n")
    return ExitCode.COMPLETE
