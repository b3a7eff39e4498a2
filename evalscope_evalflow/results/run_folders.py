"""Finds the run folders below a folder, and reads what their records say, with no task file and without EvalScope.

Imports neither pandas nor scipy: `evalflow show` is to be quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends import Backend, DatasetResult, load_backend
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.results.run_folder_problems import no_folder, no_run, readable
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state import record as records

NATIVE, VLMEVALKIT = "Native", "VLMEvalKit"
UNKNOWN = "unknown"
FILES_GONE = "the files of these answers are no longer there: a score is left, and no samples"
_NO_ANSWERS = {"reports", "evalflow"}  # folders of a run folder
DEEPEST = 8  # a model's name may be a path
# What lies in a run folder and holds no other one.
_NOT_RUNS = {"predictions", "reviews", "reports", "configs", "logs", "evalflow"}


@dataclass(frozen=True)
class ScoreRecord:
    """One model's score on one dataset, as a run folder has it.

    Attributes:
        dataset: the dataset's name.
        metric: the headline metric's name; empty where there is no report.
        value: the score; None: there is none that could be trusted, and `why_not` says why.
        n: samples that the value covers. Without one: 0, or of a run without a record, those that have a score.
        requested: samples that were to be answered; None: never counted.
        answered: samples that were answered.
        judged: samples with a verdict of the judge's own; None: no judge is used.
        failed: samples that have no answer, or could not be scored.
        unjudged: samples that the judge gave no usable verdict on.
        cut_off: answers that the limit of tokens cut off.
        empty: answers without any text.
        answer_kinds: what is unusual about answers, by kind (values of `AnswerKind`).
        interval: the value's 95 % confidence interval; None: not computed.
        n_groups: independent groups of samples that it is computed from; None: not computed.
        few_groups: whether these are too few for the interval to be exact; None: not computed.
        complete: whether the value covers every sample, each judged as it should be.
        why_not: why the value is missing or incomplete; empty where it is complete.
        metrics: every figure of the report by its name, the headline first.
        failures: samples without an answer or a score, by the kind of failure.
        notes: why it is incomplete, line by line.
        remarks: what stands beside the score, line by line.
        run_id: the run that made it; empty: not known.
        ended: when that run ended (ISO 8601); empty: not known, or it has not.
    """

    dataset: str
    metric: str = ""
    value: float | None = None
    n: int = 0
    requested: int | None = None
    answered: int = 0
    judged: int | None = None
    failed: int = 0
    unjudged: int = 0
    cut_off: int = 0
    empty: int = 0
    answer_kinds: dict[str, int] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    n_groups: int | None = None
    few_groups: bool | None = None
    complete: bool = False
    why_not: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    run_id: str = ""
    ended: str = ""

    @property
    def text(self) -> str:
        """The value with four decimals; empty where there is none."""
        return "" if self.value is None else f"{self.value:.4f}"

    @property
    def shown(self) -> str:
        """The same as a table has it: `not judged` where there are answers alone, and else `none` without a value."""
        if self.value is not None:
            return self.text
        return "not judged" if self.answered and not (self.n or self.metric or self.failed) else "none"

    @property
    def covered(self) -> int:
        """Samples that have a score; of answers alone, those that have one."""
        return self.answered if self.shown == "not judged" else self.n


@dataclass(frozen=True)
class RunFolder:
    """A run folder: one model on its datasets.

    Attributes:
        folder: it.
        model: the model's name.
        record: what run.json says, as `state.record.read` gives it; empty where it cannot be read.
        name: the model's name, or the folder's path below the searched one where several models have the same name.
    """

    folder: Path
    model: str
    record: Mapping[str, Any]
    name: str = ""

    @cached_property
    def cells(self) -> dict[str, ledger.Cell]:
        """What cells.json says, by dataset: what answers and verdicts depend on."""
        return ledger.read(self.folder)

    @property
    def state(self) -> str:
        """`running`, `complete`, `incomplete`, `failed`, `stopped` or `died`; `unknown` without a record."""
        return str(self.record.get("state") or UNKNOWN)

    @property
    def task(self) -> dict[str, Any]:
        """The task of the folder's last run: EvalScope's fields, and the section `evalflow`."""
        task = self.record.get("task")
        return task if isinstance(task, dict) else {}

    @property
    def section(self) -> dict[str, Any]:
        """The section `evalflow` of that task."""
        section = self.task.get("evalflow")
        return section if isinstance(section, dict) else {}

    @property
    def mode(self) -> str:
        """`all`, `infer` (answers alone) or `judge`."""
        return str(self.section.get("mode") or "all")

    @cached_property
    def backend(self) -> str:
        """The stock backend's name."""
        known = [
            self.section.get("backend"),
            *((cell.predictions or {}).get("backend") for cell in self.cells.values()),
        ]
        for name in known:
            if isinstance(name, str) and name and name != "auto":
                return name
        return VLMEVALKIT if os.path.isdir(self.folder / "evalflow" / "vlmevalkit") else NATIVE

    def load_backend(self) -> Backend:
        """The stock backend.

        Raises:
            ConfigError: this installation has none of that name; the message names the folder.
        """
        try:
            return load_backend(self.backend)
        except ConfigError as error:
            what = f"{self.backend} has evaluated it: {error.problems[0].what}"
            todo = "Install the package that has it, or give the other folders alone."
            raise ConfigError(Problem(str(self.folder), what, todo)) from error

    @property
    def versions(self) -> dict[str, str | None]:
        """Versions of packages by their names: EvalFlow's, EvalScope's, the engine's."""
        versions = self.record.get("versions")
        return versions if isinstance(versions, dict) else {}

    @property
    def engine(self) -> str:
        """The engine's name; empty where none was started."""
        return str(self.record.get("engine") or "")

    @property
    def answers_from(self) -> list[dict[str, Any]]:
        """What the answers were made with, an entry for each engine that made some."""
        found = self.record.get("answers_from")
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    @property
    def accepted(self) -> list[str]:
        """Differences between the task and the saved answers that were accepted, in words."""
        return list(dict.fromkeys(text for cell in self.cells.values() for text in cell.accepted or ()))

    @cached_property
    def datasets(self) -> list[str]:
        """Every dataset of which the folder holds something, those of its last task first."""
        asked = self.task.get("datasets")
        listed = [str(name) for name in asked] if isinstance(asked, list) else []
        return list(dict.fromkeys([*listed, *_results(self.record), *self.cells]))

    @cached_property
    def scores(self) -> dict[str, ScoreRecord]:
        """A score for each dataset, which every door shows: the record's, and where it has none, what its files hold.

        Where the record's version computed no interval, as 0.1, it is computed from the samples.
        """
        found = _results(self.record)
        missing = [dataset for dataset in self.datasets if dataset not in found]
        old = [dataset for dataset in found if found[dataset].value is not None and not self._says_interval(dataset)]
        if missing or old:
            from evalscope_evalflow.results.unrecorded_scores import unrecorded_scores

            found |= unrecorded_scores(self, missing, {dataset: found[dataset] for dataset in old})
        gone = (FILES_GONE,) if self.files_gone else ()
        return {
            name: replace(found[name], remarks=(*found[name].remarks, *gone)) if found[name].answered else found[name]
            for name in self.datasets
        }

    @cached_property
    def files_gone(self) -> bool:
        """Whether the backend's files with the answers have been removed; the record still has their scores."""
        if self.backend not in (NATIVE, VLMEVALKIT):
            return False
        files = self.load_backend().sample_files(self.folder, self.model)
        places = [path.relative_to(self.folder).parts[:2] for path in files]
        return not any(place[0] not in _NO_ANSWERS or place[1] == "vlmevalkit" for place in places)

    def _says_interval(self, dataset: str) -> bool:
        """Whether the version that wrote the record computed intervals; null stands for a score that has none."""
        items = _mapping(self.record.get("earlier_results")) | _mapping(self.record.get("results"))
        return "interval" in _mapping(_mapping(items.get(dataset)).get("score"))


def result_record(result: DatasetResult) -> dict[str, Any]:
    """A result as run.json holds it."""
    return {
        "score": result.score.as_record(),
        "metrics": {metric.name: result.value_of(metric) for metric in result.metrics},
        "requested": result.requested,
        "answered": result.answered,
        "succeeded": result.succeeded,
        "failed": result.failed,
        "judged": result.judged,
        "fallbacks": result.fallbacks,
        "failures": result.failures,
        "notes": result.notes,
        "remarks": result.remarks,
    }


def find_runs(path: str | os.PathLike[str]) -> list[RunFolder]:
    """The run folders at and below a folder: one of a single run, each of a sweep, or all below `outputs`.

    Args:
        path: a folder.

    Returns:
        At least one, in the order of their paths; numbers in names count as numbers.

    Raises:
        ConfigError: there is none, or none but of a newer version of EvalFlow; beside others, that one is left out
            with a warning.
    """
    top = user_path(path)
    if not os.path.isdir(top):
        raise ConfigError(no_folder(top))
    folders = {folder.resolve(): folder for folder in reversed([*_run_folders(top, 0)])}  # links may lead to one twice
    found = [_read(folder) for folder in reversed(folders.values())]
    if not found:
        raise ConfigError(no_run(top))
    found = readable(found)
    names = [run.model for run in found]
    return [
        replace(run, name=run.model if names.count(run.model) == 1 else os.path.relpath(run.folder, top))
        for run in found
    ]


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    ours = folder / records.FOLDER
    if os.path.isfile(ours / "run.json") or os.path.isfile(ledger.path_in(folder)):
        yield folder
    if depth == DEEPEST:
        return
    try:
        below = [entry.name for entry in os.scandir(folder) if os.path.isdir(entry)]
    except OSError:  # not ours to read
        return
    for name in sorted(below, key=natural):
        if name not in _NOT_RUNS and not name.startswith("."):
            yield from _run_folders(folder / name, depth + 1)


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key to sort names by, so that step-9 comes before step-10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _read(folder: Path) -> RunFolder:
    record = records.read(folder) or {}
    model = record.get("model")
    if model and (os.path.isabs(str(model)) or ".." in Path(str(model)).parts):
        model = None  # of a record that somebody else has written: its files would be looked for anywhere
    return RunFolder(folder, str(model) if model else _model_name(folder), record, str(model or folder.name))


def _model_name(folder: Path) -> str:
    """The name of a model whose record cannot be read."""
    found = sorted((folder / "predictions").glob("*")) if os.path.isdir(folder / "predictions") else []
    return found[0].name if len(found) == 1 else folder.resolve().name


def _results(record: Mapping[str, Any]) -> dict[str, ScoreRecord]:
    """The results that a record holds: those of its run, and those of earlier runs that still stand."""
    run_id, ended = str(record.get("run_id") or ""), str(record.get("ended") or "")
    found: dict[str, ScoreRecord] = {}
    for dataset, item in _mapping(record.get("earlier_results")).items():
        if isinstance(item, dict):
            made = score_record(str(dataset), item)
            found[str(dataset)] = replace(
                made, run_id=str(item.get("run_id") or ""), ended=str(item.get("ended") or "")
            )
    for dataset, item in _mapping(record.get("results")).items():
        if isinstance(item, dict):
            found[str(dataset)] = replace(score_record(str(dataset), item), run_id=run_id, ended=ended)
    return found


def score_record(dataset: str, item: Mapping[str, Any]) -> ScoreRecord:
    """A score as run.json holds it; of 0.1, whose records have no `score`, what their counts tell.

    Args:
        dataset: the dataset's name.
        item: the dataset's part of `results`.
    """
    score, metrics = _mapping(item.get("score")), _mapping(item.get("metrics"))
    succeeded, fallbacks = _count(item.get("succeeded")), _count(item.get("fallbacks"))
    notes = _texts(item.get("notes"))
    if not score:
        judged = item.get("judged")
        value = None if (fallbacks and not judged) or not succeeded else next(iter(metrics.values()), None)
        whole = value is not None and not fallbacks and not notes and succeeded >= _count(item.get("requested"))
        score = {
            "value": value, "metric": next(iter(metrics), ""), "n": succeeded if value is not None else 0,
            "judged": judged, "unjudged": fallbacks, "failed": item.get("failed"), "complete": whole,
            "why_not": "" if whole else "; ".join(notes) or ("incomplete" if metrics else "not judged"),
        }  # fmt: skip
    return ScoreRecord(
        dataset=dataset,
        metric=str(score.get("metric") or ""),
        value=_number(score.get("value")),
        n=_count(score.get("n")),
        requested=_count(score.get("requested") or item.get("requested")) or None,
        answered=_count(score.get("answered") or item.get("answered") or succeeded),
        judged=score["judged"] if isinstance(score.get("judged"), int) else None,
        failed=_count(score.get("failed")),
        unjudged=_count(score.get("unjudged")),
        cut_off=_count(score.get("cut_off")),
        empty=_count(score.get("empty")),
        answer_kinds=_mapping(score.get("answer_kinds")),
        interval=_interval(score.get("interval")),
        n_groups=score["n_groups"] if isinstance(score.get("n_groups"), int) else None,
        few_groups=score["few_groups"] if isinstance(score.get("few_groups"), bool) else None,
        complete=bool(score.get("complete")),
        why_not=str(score.get("why_not") or ""),
        metrics={str(name): _number(value) for name, value in metrics.items()},
        failures=_mapping(item.get("failures")),
        notes=notes,
        remarks=_texts(item.get("remarks")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _interval(value: Any) -> tuple[float, float] | None:
    ends = [_number(end) for end in value] if isinstance(value, list) else []
    low, high = ends if len(ends) == 2 else (None, None)
    return None if low is None or high is None else (low, high)
