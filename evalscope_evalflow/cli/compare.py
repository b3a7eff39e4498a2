"""`evalflow compare DIR…`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.errors import ConfigError, ExitCode, Problem, nearest
from evalscope_evalflow.events.whole_files import whole_file
from evalscope_evalflow.results.json_output import print_text

if TYPE_CHECKING:
    from evalscope_evalflow.results.comparison.compare_runs import LoadedRun, Rules
    from evalscope_evalflow.results.comparison.comparison_data import Comparison, Kind

FORMATS = ("table", "md", "csv", "json", "html")
SHOWN = 20  # samples, unless -n says another number
IN_A_REPORT = 200
MOST = {"html": IN_A_REPORT, "csv": sys.maxsize}
_ENDS = {".htm": "html", ".html": "html", ".md": "md", ".markdown": "md", ".csv": "csv", ".json": "json"}
FILE_WIDTH = 120  # a file has no width, and rich would take 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="run folders, or folders of sweeps")
    add_comparison(parser)
    parser.add_argument("--min_share", "--min-share", type=share, default=None, metavar="SHARE",
                        help="share of the samples that has to have a score in both runs; default: 0.95")  # fmt: skip
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="compare these alone")
    parser.add_argument("--samples", action="store_true", help="show the samples whose scores differ")
    parser.add_argument("-n", type=int, default=None, metavar="N",
                        help=f"at most N samples; default: {SHOWN}, in HTML {IN_A_REPORT}, in CSV all")  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default=None,
                        help="default: what the name of --output ends with, or else table")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    parser.add_argument("--output", metavar="FILE", help="write to a file")


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """What `compare` and `gate` have in common."""
    parser.add_argument("--baseline", metavar="NAME|DIR|DIR:NAME",
                        help="what each run is compared with: a model, a folder, or a model in it")  # fmt: skip
    parser.add_argument("--models", nargs="+", metavar="NAME", help="compare these models alone")
    parser.add_argument("--allow", nargs="+", metavar="KIND", default=[],
                        help="compare although these differ: data, prompt, judge, metric, backend")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Compare runs and print what was found."""
    from evalscope_evalflow.results.comparison.compare_runs import MIN_SHARE, Rules

    rules = Rules(
        args.min_share or MIN_SHARE, allowed_kinds(args.allow), tuple(args.datasets) if args.datasets else None
    )
    kind = "json" if args.json else args.format or format_of(args.output)
    if args.n is not None and args.n < 1:
        raise ConfigError(Problem("-n", f"must be 1 or more, and is {args.n}"))
    samples = args.samples or args.n is not None or kind == "html"
    most = (args.n or MOST.get(kind, SHOWN)) if samples else None
    comparison, runs = compare_folders(args.folders, args.baseline, args.models, rules, most)
    compared = list(comparison.compared())
    if not compared:
        raise ConfigError(*_nothing_compared(comparison))
    code = ExitCode.COMPLETE if len(compared) == len(comparison.cells) else ExitCode.INCOMPLETE
    if kind == "table":
        _show(comparison, args.output)
    elif kind == "json" and args.output is None:
        _print_json(comparison, code)
    else:
        write(rendered(comparison, runs, kind, code, samples=samples), args.output)
    return code


def compare_folders(
    folders: Sequence[str], baseline: str | None, models: Sequence[str] | None, rules: Rules, most: int | None
) -> tuple[Comparison, list[LoadedRun]]:
    """The comparison of what is in these folders, and its runs.

    Args:
        folders: run folders, or folders of sweeps.
        baseline: a model, a folder, or `FOLDER:MODEL`.
        models: names of the models to compare; None: all.
        rules: what may be compared.
        most: how many samples that differ to look at; None: none.

    Raises:
        ConfigError: a folder is none, or there is nothing to compare.
    """
    from dataclasses import replace

    from evalscope_evalflow.results.comparison.chosen_runs import choose_runs
    from evalscope_evalflow.results.comparison.compare_runs import compare, load_runs
    from evalscope_evalflow.results.comparison.flips import flips

    runs = load_runs(choose_runs(folders, baseline, models), rules)
    _check_datasets(rules, runs)
    comparison = compare(runs, rules)
    if most is None:
        return comparison, runs
    found, total = flips(comparison, runs, rules, most)
    return replace(comparison, flips=found, flips_in_all=total), runs


def allowed_kinds(names: Sequence[str]) -> frozenset[Kind]:
    """The kinds of differences that `--allow` names, apart or joined by commas.

    Raises:
        ConfigError: one is none that is ever refused.
    """
    from evalscope_evalflow.results.comparison.comparison_data import Kind

    known = [kind.value for kind in Kind if kind.refused]
    given = [name for item in names for name in item.split(",") if name]
    for name in given:
        if name not in known:
            raise ConfigError(
                Problem("--allow", f"{name!r} is none", f"{nearest(name, known)} Known: {', '.join(known)}")
            )
    return frozenset(map(Kind, given))


def share(text: str) -> float:
    """A share above 0 and up to 1, as an argument."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and up to 1")
    return value


def format_of(path: str | None) -> str:
    """The format that a file's name asks for."""
    return _ENDS.get(Path(path).suffix.lower(), "table") if path else "table"


def rendered(
    comparison: Comparison, runs: Sequence[LoadedRun], kind: str, code: ExitCode, *, samples: bool = False
) -> str:
    """A comparison in a format other than the table; as CSV either the comparisons or the samples.

    Raises:
        ConfigError: what draws the report is not installed.
    """
    from evalscope_evalflow.results.comparison import comparison_files

    if kind == "html":
        from evalscope_evalflow.results.html.report import comparison_html

        return comparison_html(comparison)
    if kind == "json":
        return as_json("compare", comparison_files.as_payload(comparison), code)
    if kind == "html":
        from evalscope_evalflow.results.html.report import report_html

        return report_html([run.chosen.run for run in runs], comparison, datasets=comparison.datasets)
    if kind == "md":
        return comparison_files.as_markdown(comparison)
    return (comparison_files.samples_csv if samples else comparison_files.as_csv)(comparison)


def _print_json(comparison: Comparison, code: ExitCode) -> None:
    from evalscope_evalflow.results.comparison.comparison_files import as_payload
    from evalscope_evalflow.results.json_output import print_document

    print_document("compare", as_payload(comparison), code)


def as_json(command: str, payload: Mapping[str, Any], code: ExitCode) -> str:
    """A command's result in the envelope that all commands share."""
    import json

    from evalscope_evalflow.results.json_output import document

    return json.dumps(document(command, payload, code), indent=2, allow_nan=False) + "\n"


def write(text: str, path: str | None, *, append: bool = False) -> None:
    """Write to a file, or to standard output.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is None:
        print_text(text)
        return
    try:
        if append:
            with Path(path).open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.write(text)
        else:
            with whole_file(Path(path), "backslashreplace", "") as file:
                file.write(text)
    except OSError as error:
        todo = "Make room, or name another file; an older one is kept."
        raise ConfigError(Problem(path, f"cannot be written: {error.strerror}", todo)) from None


def a_wide_console(file: object = None) -> Console:
    """A console for tables that wrap by themselves; a file is 120 columns wide, unless COLUMNS says another width."""
    console = SafeConsole(emoji=False, highlight=False, file=file)  # type: ignore[arg-type]
    if console.is_terminal or os.environ.get("COLUMNS"):
        return console
    return SafeConsole(emoji=False, highlight=False, file=file, width=FILE_WIDTH)  # type: ignore[arg-type]


def _show(comparison: Comparison, path: str | None) -> None:
    import io

    from evalscope_evalflow.results.comparison.comparison_text import show_comparison

    if path is None:
        show_comparison(comparison, a_wide_console())
        return
    text = io.StringIO()
    show_comparison(comparison, a_wide_console(text))
    write(text.getvalue(), path)


def _check_datasets(rules: Rules, runs: Sequence[LoadedRun]) -> None:
    known = list(dict.fromkeys(name for run in runs for name in run.datasets))
    for name in rules.datasets or ():
        if name not in known:
            raise ConfigError(
                Problem("--datasets", f"no run has {name!r}", f"{nearest(name, known)} Known: {', '.join(known)}")
            )


def _nothing_compared(comparison: Comparison) -> list[Problem]:
    """Why there is nothing to show, a problem for each cell that was refused."""
    if not comparison.cells:
        has = {
            run.label: [item.dataset for item in comparison.scores if item.run == run.label] for run in comparison.runs
        }
        words = "; ".join(f"{label} has {', '.join(names) or 'no sample'}" for label, names in has.items())
        return [Problem("compare", "the runs have no dataset in common", words)]
    return [Problem(f"{cell.run} / {cell.dataset}", f"not compared: {cell.refused}") for cell in comparison.cells]
