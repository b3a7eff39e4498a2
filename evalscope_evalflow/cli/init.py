"""`evalflow init [FILE] [--model X] [--data qa.jsonl]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from evalscope_evalflow.errors import ConfigError, ExitCode, Problem
from evalscope_evalflow.terminal_text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", default="evalflow.yaml", help="file to write; default: evalflow.yaml")
    parser.add_argument(
        "--model", metavar="MODEL", help="GGUF file, checkpoint's folder or pattern, a hub's ORG/NAME, or an API's URL"
    )
    parser.add_argument("--name", metavar="NAME", help="the model's name; default: that of its file, folder or API")
    parser.add_argument("--data", metavar="FILE", help="questions of your own: a file, or a folder of such files")


def main(args: argparse.Namespace) -> int:
    """Write a commented task file, filled in with what is given.

    Raises:
        ConfigError: the file is there already, or a model or data is not what can be evaluated.
    """
    from evalscope_evalflow.config.template import Filling, write_template

    if args.name and not args.model:
        raise ConfigError(Problem("--name", "is the name of --model, which is not given"))
    if Path(args.file).exists():  # before anything is asked or linked
        raise ConfigError(Problem(args.file, "is there already", "Give another name."))
    said: list[str] = []
    filling: dict[str, Any] = {}
    if args.model:
        from evalscope_evalflow.cli import model_kind

        model = model_kind.recognise(args.model, args.name)
        said += [f"{args.model} is {model.words}.", *model.notes]
        filling["model"] = model.entry
    if args.data:
        from evalscope_evalflow.cli import data_kind

        data = data_kind.recognise(args.data)
        filling |= {
            "backend": data.backend,
            "dataset": data.dataset,
            "settings": data.settings,
            "work_dir": f"outputs/{data.files[0].stem}",
        }
        said.append(f"{args.data} is {data.words}: {data.dataset}.")
        if data.backend == data_kind.VLMEVALKIT and (link := data_kind.link_into_lmudata(data.files[0])):
            said.append(f"VLMEvalKit reads {link}, which is a link to it now.")
    write_template(args.file, Filling(**filling))
    sys.stdout.write(printable("".join(f"{line}\n" for line in said)) + _next(args))
    return ExitCode.COMPLETE


def _next(args: argparse.Namespace) -> str:
    """What to type next."""
    if args.model and args.data:
        return f"Wrote {args.file}.\nNext: evalflow check {args.file}\n      evalflow run {args.file}\n"
    missing = " and ".join(word for word, given in (("models", args.model), ("datasets", args.data)) if not given)
    return f"Wrote {args.file}.\nNext: write your {missing} into it, then: evalflow check {args.file}\n"
