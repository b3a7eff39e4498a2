"""What exporters get: the scores of finished runs, and the run folders with their samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results.loaded import Results
from evalscope_evalflow.results.outcome import FlowResult
from evalscope_evalflow.results.run_folders import RunFolder, find_runs
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
        datasets: those whose samples are exported; None: all.
    """

    work_dir: Path
    scores: tuple[ScoreRow, ...]
    runs: tuple[RunFolder, ...]
    datasets: frozenset[str] | None = None

    def samples(self) -> pandas.DataFrame:
        """Every sample of every run as a DataFrame; its columns are those of `evalscope_evalflow.load(DIR).samples`."""
        import pandas as pd

        from evalscope_evalflow.results import sample_cache

        if not self.runs:
            return pd.DataFrame(columns=["run", *sample_cache.COLUMNS])
        frame = sample_cache.read_all(self.runs)
        return frame if self.datasets is None else frame[frame["dataset"].isin(self.datasets)].reset_index(drop=True)

    def sample_tables(self) -> Iterator[pyarrow.Table]:
        """The samples as an Arrow table for each run, one after the other, with the same columns."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from evalscope_evalflow.results import sample_cache

        for run in self.runs:
            table = sample_cache.read_table(run)
            if self.datasets is not None:
                named = table.column("dataset").cast(pa.string())
                table = table.filter(pc.is_in(named, value_set=pa.array(sorted(self.datasets))))
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


def of_folder(work_dir: Path, runs: Sequence[RunFolder], datasets: Sequence[str] | None = None) -> ExportedResults:
    """What finished folders export.

    Args:
        work_dir: where files go.
        runs: the run folders, as `find_runs` gives them.
        datasets: names of the datasets to export; None: all.
    """
    names = {field.name for field in fields(ScoreRow)}
    rows = [
        ScoreRow(**{name: value for name, value in row.items() if name in names} | {"model": row["run"]})
        for row in Results(runs).rows()
        if datasets is None or row["dataset"] in datasets
    ]
    chosen = None if datasets is None else frozenset(datasets)
    return ExportedResults(work_dir, tuple(rows), tuple(runs), chosen)
