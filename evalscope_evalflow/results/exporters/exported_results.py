"""What exporters get: the scores of finished runs, and the run folders with their samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results.outcome import FlowResult
from evalscope_evalflow.results.run_folders import RunFolder, ScoreRecord, find_runs
from evalscope_evalflow.results.score_rows import ScoreRow, score_rows

if TYPE_CHECKING:
    import pandas
    import pyarrow


@dataclass(frozen=True)
class ExportedResults:
    """The results of one task, or of finished run folders.

    Attributes:
        work_dir: where exported files go: the run's `work_dir`, or the folder that is shown.
        scores: a row for each model, dataset and metric; a dataset without a score has one, too, which says why.
        runs: the run folders, with settings, versions and counts; a model that failed early has none.
    """

    work_dir: Path
    scores: tuple[ScoreRow, ...]
    runs: tuple[RunFolder, ...]

    def samples(self) -> pandas.DataFrame:
        """Every sample of every run as a DataFrame; its columns are those of `evalscope_evalflow.load(DIR).samples`."""
        import pyarrow as pa

        from evalscope_evalflow.results.sample_cache import as_frame

        return as_frame(pa.concat_tables(self.sample_tables()).unify_dictionaries())

    def sample_tables(self) -> Iterator[pyarrow.Table]:
        """The samples as an Arrow table for each run, one after the other; an empty one where there is no run."""
        import pyarrow as pa

        from evalscope_evalflow.results import sample_cache

        if not self.runs:
            yield sample_cache.empty_table().add_column(0, "run", pa.array([], pa.dictionary(pa.int32(), pa.string())))
        for run in self.runs:
            table = sample_cache.read_table(run)
            names = pa.DictionaryArray.from_arrays(pa.array([0] * table.num_rows, pa.int32()), pa.array([run.name]))
            yield table.add_column(0, "run", names)


def of_result(result: FlowResult) -> ExportedResults:
    """What a run that has just ended exports.

    Args:
        result: the results of every model, failed ones included.
    """
    return ExportedResults(result.task.work_dir, tuple(score_rows(result)), tuple(_runs_of(result)))


def _runs_of(result: FlowResult) -> Iterator[RunFolder]:
    for item in result.models:
        try:
            found = find_runs(item.folder)
        except ConfigError:  # it failed before it had one
            continue
        for run in found:
            if run.folder == item.folder:  # below it may be that of a model whose name is a path
                yield replace(run, name=item.model.name)


def of_folder(work_dir: Path, runs: list[RunFolder]) -> ExportedResults:
    """What finished folders export.

    Args:
        work_dir: where files go.
        runs: the run folders, as `find_runs` gives them.
    """
    rows = [row for run in runs for record in run.scores.values() for row in _rows_of(run.name, record)]
    return ExportedResults(work_dir, tuple(rows), tuple(runs))


def _rows_of(name: str, record: ScoreRecord) -> Iterator[ScoreRow]:
    """A row for each metric of a score as a folder has it, the headline metric first."""
    row = ScoreRow(
        name,
        record.dataset,
        record.metric,
        record.value,
        requested=record.requested,
        answered=record.answered,
        scored=record.n,
        failed=record.failed,
        judged=record.judged,
        fallbacks=record.unjudged,
        cut_off=record.cut_off,
        empty=record.empty,
        complete=record.complete,
        why_not=record.why_not,
        remarks="; ".join(record.remarks),
        interval_low=record.interval[0] if record.interval else None,
        interval_high=record.interval[1] if record.interval else None,
        few_groups=record.few_groups,
        n_groups=record.n_groups,
    )
    yield row
    for metric, value in record.metrics.items():
        if metric != record.metric:
            yield replace(
                row,
                metric=metric,
                score=value,
                headline=False,
                interval_low=None,
                interval_high=None,
                few_groups=None,
                n_groups=None,
            )
