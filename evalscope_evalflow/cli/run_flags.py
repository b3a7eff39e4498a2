"""`evalflow --work_dir … --eval_model_name …`: a run without a file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from evalscope_evalflow import __version__
from evalscope_evalflow.cli.execute import execute
from evalscope_evalflow.cli.flags import add_flags, mapping_from_flags
from evalscope_evalflow.cli.parser import Parser, normalise
from evalscope_evalflow.errors import ExitCode


def run_flags(argv: list[str], commands: Mapping[str, str]) -> int:
    """Run the task that flags spell, or print the help.

    Args:
        argv: the flags.
        commands: the commands with what each does, for the help.
    """
    parser = parser_of(commands)
    if not argv:
        parser.print_help()
        return ExitCode.BAD_CONFIG
    args = parser.parse_args(normalise(argv, parser))
    return execute(mapping_from_flags(args), verbose=args.verbose, check=args.dry_run, as_json=args.json)


def parser_of(commands: Mapping[str, str]) -> Parser:
    """The parser of the flags of a run without a file; its help lists the commands."""
    listed = "\n".join(f"  evalflow {name:10} {text}" for name, text in commands.items())
    parser = Parser(
        prog="evalflow",
        usage="evalflow COMMAND …, or evalflow --work_dir DIR --eval_model_name NAME … for a run without a file",
        description="Deploy models, evaluate them with EvalScope, leave nothing behind.\n\n"
        f"commands (evalflow COMMAND --help tells more):\n{listed}",
        epilog="Dashes and underscores mean the same. Exit codes: 0 complete, 1 failed, "
        "2 bad configuration,\n3 finished but incomplete, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"evalflow {__version__}")
    add_flags(parser)
    return parser
