"""The `evalflow` command: one file per command, and the flags."""

from evalscope_evalflow.cli.command_line import main

__all__ = ["main"]
