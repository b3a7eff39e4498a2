"""`evalflow show DIR`: scores and samples of finished and unfinished runs, read from their folders alone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from evalscope_evalflow.cli.export_flag import add_export, export_finished
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.errors import ConfigError, ExitCode, Problem, nearest
from evalscope_evalflow.events.json_lines import FileError
from evalscope_evalflow.events.whole_files import whole_file
from evalscope_evalflow.terminal_text import printable

if TYPE_CHECKING:
    from evalscope_evalflow.results.run_folders import RunFolder

FORMATS = ("table", "json", "html")
SHOWN = 10  # samples, unless -n says another number
FILE_WIDTH = 120  # a file has no width, and rich would take 80
_FLAGS = {
    "wrong": "samples whose score is below 1",
    "failed": "samples without an answer",
    "cut_off": "samples whose answer the limit of tokens cut off",
    "not_judged": "samples without a verdict, or without a score",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("folder", metavar="DIR", help="work_dir of a run or of a sweep, or a folder above it")
    parser.add_argument("--samples", action="store_true", help="show samples: what was asked, said and right")
    for name, words in _FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"show {words}")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these models")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="only these datasets")
    parser.add_argument("-n", type=int, default=None, metavar="N", help=f"at most N samples; default: {SHOWN}")
    parser.add_argument("--full", action="store_true", help="show long texts whole")
    parser.add_argument("--format", choices=FORMATS, help="default: what --output ends in (.html, .json), else table")
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    parser.add_argument("--browser", action="store_true", help="show all of it in EvalScope's dashboard, until Ctrl-C")
    parser.add_argument("--port", type=int, default=9000, help="of the dashboard, on 127.0.0.1; default: 9000")
    parser.add_argument("--output", metavar="PATH", help="write to a file; with --export, into a folder (DIR/exports)")
    add_export(parser)


def main(args: argparse.Namespace) -> int:
    """Print what a folder holds.

    Raises:
        ConfigError: it holds no run, or not the models or datasets that were asked for.
    """
    from evalscope_evalflow.results.run_folders import find_runs

    if args.n is not None and args.n < 1:
        raise ConfigError(Problem("-n", "must be 1 or more", f"It is {args.n}."))
    _refuse_together(args)
    runs = _of_models(find_runs(args.folder), args.models)
    _check_datasets(runs, args.datasets)
    if args.browser:
        from evalscope_evalflow.results.dashboard_view import serve

        serve(user_path(args.folder), runs, args.port)
        return ExitCode.COMPLETE
    if args.export:
        return _export(runs, args)
    kind = _format(args)
    if kind == "html":
        _write(_html(runs, args), args.output)
    elif kind == "json":
        _write_json(runs, args)
    elif args.output:
        with _opened(args.output) as file:
            _print(runs, args, SafeConsole(file=file, emoji=False, highlight=False, width=FILE_WIDTH))
    else:
        _print(runs, args, _console())
    return ExitCode.COMPLETE


def _refuse_together(args: argparse.Namespace) -> None:
    """Flags of which one would be left out without a word.

    Raises:
        ConfigError: there are such.
    """
    chosen = {
        "--samples": args.samples,
        **{f"--{name}": getattr(args, name) for name in _FLAGS},
        "-n": args.n is not None,
        "--full": args.full,
        "--format": args.format is not None,
        "--browser": args.browser,
    }
    beside = [flag for flag, given in chosen.items() if given]
    if args.export and beside:
        todo = "An export has every sample; --models and --datasets choose, and --json prints which files it wrote."
        raise ConfigError(Problem("--export", f"does not go with {', '.join(beside)}", todo))
    if args.browser and (args.json or args.output or args.format is not None):
        raise ConfigError(Problem("--browser", "does not go with --json, --output or --format", "Leave them out."))
    if args.json and args.format not in (None, "json"):
        raise ConfigError(Problem("--json", f"does not go with --format {args.format}", "Give one of them."))


def _format(args: argparse.Namespace) -> str:
    if args.json:
        return "json"
    ending = Path(args.output).suffix.lower().removeprefix(".") if args.output else ""
    return args.format or (ending if ending in FORMATS else "table")


def _export(runs: Sequence[RunFolder], args: argparse.Namespace) -> int:
    """Export into a folder of its own: what the runs have written stays as it is."""
    from evalscope_evalflow.results.json_output import print_document

    done = export_finished(user_path(args.folder), args.output, runs, args.datasets, args.export)
    if args.json:
        print_document("show", {"exported": done}, done.exit_code)
    return done.exit_code


def _filters(args: argparse.Namespace) -> list[str]:
    return [name for name in _FLAGS if getattr(args, name)]


def _wants_samples(args: argparse.Namespace) -> bool:
    return bool(args.samples or _filters(args) or args.n is not None or args.full)


def _print(runs: Sequence[RunFolder], args: argparse.Namespace, console: Console) -> None:
    from evalscope_evalflow.results.show_text import show_samples, show_scores

    if not _wants_samples(args):
        show_scores(runs, args.datasets, console)
        return
    show_samples(_chosen(runs, args), runs, args.full, console)


def _chosen(runs: Sequence[RunFolder], args: argparse.Namespace) -> Any:
    from evalscope_evalflow.results.sample_filters import choose_samples

    return choose_samples(runs, _filters(args), args.datasets, args.n or SHOWN)


def _write_json(runs: Sequence[RunFolder], args: argparse.Namespace) -> None:
    from evalscope_evalflow.results.json_output import document, print_document

    payload: dict[str, Any] = {"runs": [_run(run, args.datasets) for run in runs]}
    if _wants_samples(args):
        chosen = _chosen(runs, args)
        payload |= {"samples": chosen.rows, "samples_matching": chosen.matching, "samples_in_all": chosen.in_all}
    if args.output is None:
        print_document("show", payload)
        return
    import json

    _write(json.dumps(document("show", payload), indent=2) + "\n", args.output)


def _run(run: RunFolder, datasets: Sequence[str] | None) -> dict[str, Any]:
    """A run as `--json` has it."""
    from evalscope_evalflow.state.costs import recorded_costs

    record = run.record
    known = ("run_id", "started", "ended", "error", "phases_s", "engine_held_s")
    return {
        "name": run.name,
        "model": run.model,
        "folder": run.folder.absolute(),
        "state": run.state,
        **{name: record.get(name) for name in known},
        "files_gone": run.files_gone,
        "mode": run.mode,
        "backend": run.backend,
        "engine": run.engine or None,
        "versions": run.versions,
        "answers_from": run.answers_from,
        "accepted": run.accepted,
        "cost": recorded_costs(run.folder, record).as_record(),
        "scores": [asdict(score) for name, score in run.scores.items() if datasets is None or name in datasets],
    }


def _html(runs: Sequence[RunFolder], args: argparse.Namespace) -> str:
    from evalscope_evalflow.results.html.report import report_html

    most = {"most_samples": args.n} if args.n else {}
    page: str = report_html(runs, datasets=args.datasets, **most)
    return page


def _of_models(runs: list[RunFolder], names: Sequence[str] | None) -> list[RunFolder]:
    """The runs of these models, by the model's name or the name that tells runs of one model apart.

    Raises:
        ConfigError: there is none of a name.
    """
    if names is None:
        return runs
    known = list(dict.fromkeys(name for run in runs for name in (run.name, run.model)))
    for name in names:
        if name not in known:
            raise ConfigError(
                Problem(
                    "--models",
                    f"no run of {name!r} is there",
                    f"{nearest(name, known)} Known: {', '.join(known)}".strip(),
                )
            )
    return [run for run in runs if run.name in names or run.model in names]


def _check_datasets(runs: Sequence[RunFolder], names: Sequence[str] | None) -> None:
    known = list(dict.fromkeys(name for run in runs for name in run.datasets))
    for name in names or ():
        if name not in known:
            raise ConfigError(
                Problem(
                    "--datasets", f"no run has {name!r}", f"{nearest(name, known)} Known: {', '.join(known)}".strip()
                )
            )


def _console() -> Console:
    console = SafeConsole(emoji=False, highlight=False)
    if console.is_terminal or os.environ.get("COLUMNS"):
        return console
    return SafeConsole(emoji=False, highlight=False, width=FILE_WIDTH)


def _write(text: str, path: str | None) -> None:
    if path is None:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        return
    with _opened(path) as file:
        file.write(text)


@contextmanager
def _opened(path: str) -> Iterator[TextIO]:
    """A file to write to, which takes the old one's place when it is whole.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with whole_file(Path(path), "backslashreplace", "") as file:
            yield file
    except FileError as error:
        what = f"{path} cannot be written: {error.strerror}"
        raise ConfigError(Problem("--output", what, "Make room, or name another file; an older one is kept.")) from None
