"""`evalflow completion SHELL`: a script that completes commands and flags."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.errors import ConfigError, ExitCode, Problem

SHELLS = ("bash", "zsh", "fish", "tcsh")
_PLACES = {
    "bash": "~/.local/share/bash-completion/completions/evalflow",
    "zsh": "~/.zfunc/_evalflow",
    "fish": "~/.config/fish/completions/evalflow.fish",
    "tcsh": "~/.evalflow-completion.tcsh, and source it in ~/.tcshrc",
}
# Arguments whose value is a path, by their names; the others complete to nothing.
_FILES = {"file", "data", "policy", "junit", "summary", "output", "eval_template"}
_FOLDERS = {"folder", "folders", "work_dir", "env", "conda_env", "worker_env", "baseline", "run"}
_EITHER = {"eval_model_path", "model"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that will read the script")


def main(args: argparse.Namespace) -> int:
    """Print the script.

    Raises:
        ConfigError: shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError:
        what = "shtab, which writes the script, is not installed"
        raise ConfigError(Problem("completion", what, install_command("completion"))) from None
    script = _without_usage(shtab.complete(whole_parser(), shell=args.shell))
    place = f"# Put it where the shell looks: evalflow completion {args.shell} > {_PLACES[args.shell]}\n"
    head, _, rest = script.partition("\n")  # zsh reads the first line
    sys.stdout.write(f"{head}\n{place}{rest}".rstrip("\n") + "\n")
    return ExitCode.COMPLETE


def _without_usage(script: str) -> str:
    """A script without shtab's own words on where to put it, which name another place."""
    head, usage, rest = script.partition("# Usage:\n")
    if not usage:
        return script
    lines = rest.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return head + "".join(lines)


def whole_parser() -> argparse.ArgumentParser:
    """The parser of the whole command: the flags of a run without a file, and every command with its own."""
    from evalscope_evalflow.cli.command_line import COMMANDS, module_of
    from evalscope_evalflow.cli.run_flags import parser_of

    parser = parser_of(COMMANDS)
    commands = parser.add_subparsers(dest="command")
    for name, text in COMMANDS.items():
        # shtab takes `%` and the like from help texts as they are
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        import_module(module_of(name)).add_arguments(command)
        _complete_paths(command)
    _complete_paths(parser)
    return parser


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in parser._actions:
        if action.dest in _FILES or action.dest in _EITHER:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
