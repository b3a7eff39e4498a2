"""The HTML report of finished or unfinished runs, and of a comparison of them: one file that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING

from evalscope_evalflow.config.install_hint import PACKAGE
from evalscope_evalflow.results import sample_cache
from evalscope_evalflow.results.html.cost_lines import cost_lines
from evalscope_evalflow.results.html.page_data import Page, Plot, ScoreLine
from evalscope_evalflow.results.html.page_rendering import render
from evalscope_evalflow.results.html.report_parts import report_parts
from evalscope_evalflow.results.html.run_facts import run_facts, shared_settings
from evalscope_evalflow.results.html.sample_choice import MOST_SAMPLES, Reader, embedded_samples
from evalscope_evalflow.results.html.score_plot import MOST_MARKS, need_matplotlib, score_plots
from evalscope_evalflow.results.run_folders import RunFolder, ScoreRecord, find_runs
from evalscope_evalflow.results.sample_filters import wrong_samples

if TYPE_CHECKING:
    from pandas import DataFrame

    from evalscope_evalflow.results.comparison.comparison_data import Comparison

MOST_LINES = 1000  # in a table beside the one of headline scores; a line takes about 250 bytes


def report_html(
    runs: Sequence[RunFolder],
    comparison: Comparison | None = None,
    *,
    title: str = "",
    most_samples: int = MOST_SAMPLES,
    datasets: Iterable[str] | None = None,
) -> str:
    """A report as one HTML document.

    Args:
        runs: the runs, in the order of the report.
        comparison: a comparison of them; its labels are taken for the runs.
        title: of the page; default: how many models and datasets there are.
        most_samples: how many samples are in it at most.
        datasets: only these; default: all.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    need_matplotlib()
    labels = _labels(runs, comparison)
    wanted = None if datasets is None else set(datasets)
    scores, more, parts = [], [], []
    for label, run in zip(labels, runs, strict=True):
        for score in _of(wanted, run.scores).values():
            scores.append(_headline(label, score))
            more += _others(label, score)
        parts += [line for line in report_parts(run, label) if wanted is None or line.dataset in wanted]
    plots = score_plots(scores)
    costs = cost_lines(list(zip(labels, runs, strict=True)), wanted)
    settings = shared_settings([(label, run.record) for label, run in zip(labels, runs, strict=True)])
    names = {label: item.name for item in settings for label in item.runs}
    return render(
        Page(
            title=title or _title(scores),
            made=f"Made on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by EvalFlow {version(PACKAGE)}.",
            runs=[run_facts(label, run, names.get(label, "")) for label, run in zip(labels, runs, strict=True)],
            scores=scores,
            more_scores=more[:MOST_LINES],
            parts=parts[:MOST_LINES],
            plots=plots,
            not_drawn=_left_out(scores, plots, len(more), len(parts)),
            settings=settings,
            costs=costs,
            samples=embedded_samples(
                [(label, _reader(run, wanted)) for label, run in zip(labels, runs, strict=True)], most_samples
            ),
        ),
        comparison,
    )


def comparison_html(comparison: Comparison) -> str:
    """A report of the runs that a comparison is of, with the comparison first.

    Args:
        comparison: a comparison of runs whose folders are still there.

    Raises:
        ConfigError: matplotlib is not installed, or a run folder is gone.
    """
    runs = [run for item in comparison.runs for run in find_runs(item.folder) if str(run.folder) == item.folder]
    return report_html(runs, comparison, title=_compared(comparison), datasets=comparison.datasets)


def _compared(comparison: Comparison) -> str:
    """What is compared with what."""
    bases = [run.label for run in comparison.baselines]
    others = [run.label for run in comparison.runs if run.baseline is not None]
    name = others[0] if len(others) == 1 else f"{len(others)} models"
    return f"{name} compared with {bases[0] if len(bases) == 1 else f'{len(bases)} baselines'}"


def _labels(runs: Sequence[RunFolder], comparison: Comparison | None) -> list[str]:
    """A name for each run that no other has: the comparison's, the model's, or with the folder."""
    known = {} if comparison is None else {item.folder: item.label for item in comparison.runs}
    names = [known.get(str(run.folder)) or run.name or run.model for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({run.folder})" for name, run in zip(names, runs, strict=True)]


def _of(wanted: set[str] | None, scores: Mapping[str, ScoreRecord]) -> dict[str, ScoreRecord]:
    """The scores on the wanted datasets."""
    return {name: score for name, score in scores.items() if wanted is None or name in wanted}


def _headline(label: str, score: ScoreRecord) -> ScoreLine:
    """The line of a score in the table."""
    low, high = score.interval or (None, None)
    return ScoreLine(
        run=label,
        dataset=score.dataset,
        metric=score.metric,
        value=score.value,
        low=low,
        high=high,
        few_groups=bool(score.few_groups),
        text=score.shown,
        n=score.covered,
        requested=score.requested,
        failed=score.failed,
        unjudged=score.unjudged,
        cut_off=score.cut_off,
        complete=score.complete,
        note="; ".join(dict.fromkeys(filter(None, (score.why_not, *score.notes, *score.remarks)))),
    )


def _others(label: str, score: ScoreRecord) -> list[ScoreLine]:
    """The lines of a dataset's other metrics."""
    return [
        ScoreLine(run=label, dataset=score.dataset, metric=name, value=value, n=score.n, complete=score.complete)
        for name, value in score.metrics.items()
        if name != score.metric
    ]


def _reader(run: RunFolder, wanted: set[str] | None) -> Reader:
    """What reads the run's samples on the wanted datasets."""

    def read(columns: Sequence[str] | None) -> DataFrame:
        frame = sample_cache.read(run, None if columns is None else [name for name in columns if name != "wrong"])
        about = (frame[name].tolist() for name in ("dataset", "score", "state"))
        frame = frame.assign(wrong=wrong_samples(run, *about))
        return frame if wanted is None else frame[frame["dataset"].isin(wanted)]

    return read


def _title(scores: Sequence[ScoreLine]) -> str:
    """What the report is about."""
    runs, datasets = ({getattr(line, name) for line in scores} for name in ("run", "dataset"))
    one = next(iter(runs)) if len(runs) == 1 else f"{len(runs)} models"
    return f"{one} on {next(iter(datasets)) if len(datasets) == 1 else f'{len(datasets)} datasets'}"


def _left_out(scores: Sequence[ScoreLine], plots: Sequence[Plot], more: int, parts: int) -> str:
    """What the pictures and tables do not have."""
    drawn = {plot.dataset for plot in plots}
    missing = {line.dataset for line in scores if line.value is not None} - drawn
    said = []
    in_all = len(drawn) + len(missing)
    if missing:
        said.append(f"Only {len(drawn)} of {in_all} datasets are drawn, {MOST_MARKS} scores at most.")
    for count, name in ((more, "other metrics"), (parts, "categories and subsets")):
        if count > MOST_LINES:
            said.append(f"{MOST_LINES:,} of {count:,} scores of {name} are in this file.")
    return " ".join(said)
