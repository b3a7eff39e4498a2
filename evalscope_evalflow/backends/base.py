"""What a stock backend of EvalScope is to us: a stock task to make, and results to read."""

from __future__ import annotations

import inspect
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalscope_evalflow.backends.dataset_result import DatasetResult
from evalscope_evalflow.backends.sample import Sample
from evalscope_evalflow.backends.selection import Change
from evalscope_evalflow.config.secret_names import is_secret_name
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.events.worker_requests import StartTask
from evalscope_evalflow.state import answer_counts, failures
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state.answer_counts import AnswerCounts
from evalscope_evalflow.state.failures import Failure

if TYPE_CHECKING:
    from evalscope_evalflow.config import ModelConfig
    from evalscope_evalflow.config.task import Task

INTERFACE_VERSION = 1
Stamps = Mapping[Path, int]  # report files, and when they were written (ns since the epoch)


class Saved(ABC):
    """What a run folder holds of one model, dataset by dataset.

    Each of its files is read once at most, when it is first needed. So it is true for one look, and a new one is made
    for the next: runs change what it tells of.

    Attributes:
        folder: the run folder.
    """

    def __init__(self, task: Task, model: ModelConfig) -> None:
        self.task, self.model, self.folder = task, model, task.folder(model)

    @cached_property
    def cells(self) -> dict[str, ledger.Cell]:
        """What the last run wrote down."""
        return ledger.read(self.folder)

    @cached_property
    def _answer_counts(self) -> dict[str, AnswerCounts]:
        return answer_counts.read(self.folder)

    def answer_counts(self, dataset: str) -> AnswerCounts:
        """How many answers of a dataset are cut off, without text, or otherwise not as they should be."""
        return self._answer_counts.get(dataset) or AnswerCounts()

    def described(self, result: DatasetResult) -> DatasetResult:
        """A result with what is known of its answers beside their text."""
        return described(result, self.answer_counts(result.dataset), self.cell(result.dataset))

    def cell(self, dataset: str) -> ledger.Cell:
        """The same of one dataset."""
        return self.cells.get(dataset) or ledger.Cell()

    def ended_by(self, dataset: str) -> list[str]:
        """What ended the last run of a dataset, in words; empty if nothing did."""
        error = self.cell(dataset).error
        return [] if error is None else [f"it was ended by {error}"]

    @abstractmethod
    def stamps(self) -> Stamps:
        """The reports, so that none of them is later taken for a new one.

        The key is a report's place in `reports/`, also where it lies outside since it holds no score.
        """

    def report_path(self, dataset: str) -> Path:
        """The place in `reports/` of a dataset's report, whether there is one or not."""
        return self.folder / "reports" / self.model.name / f"{dataset}.json"

    @abstractmethod
    def results(self, before: Stamps) -> list[DatasetResult]:
        """What a run has made, dataset by dataset; reports that are as they were before it are not its own."""

    @abstractmethod
    def answers(self, dataset: str) -> int:
        """Answers that are saved."""

    @abstractmethod
    def verdicts(self, dataset: str) -> int:
        """Answers that have a verdict, be it a rule's."""

    @abstractmethod
    def failures(self, dataset: str) -> list[Failure]:
        """Samples that have no answer, or no score, and why."""

    def requested(self, dataset: str) -> int | None:
        """Samples that are chosen, when they were last counted; None: they never were."""
        return self.cell(dataset).requested

    def change(self, dataset: str) -> Change | None:
        """How the dataset, as the task chooses it now, differs from what is answered; None: not, or nobody knows."""
        return None

    def may_differ(self, dataset: str) -> frozenset[str]:
        """Settings of the task that may be others than those of the saved answers, as rows are told apart."""
        return frozenset()

    def earlier_verdicts(self, dataset: str, judge: Mapping[str, Any]) -> int:
        """Verdicts that a judge gave before another one did, and that are kept.

        Args:
            dataset: it.
            judge: what they depend on, as `Cell.verdicts` has it.
        """
        return 0

    def counted(self, dataset: str) -> dict[str, list[int]] | None:
        """Rows of files, as the ledger keeps them; None where nothing is counted."""
        return None

    def predicted(self) -> list[DatasetResult]:
        """What is answered, dataset by dataset, where nothing is to be judged yet."""
        results = []
        for dataset in self.task.datasets:
            requested = self.requested(dataset) or 0
            answered = min(requested, self.answers(dataset))
            found = [item for item in self.failures(dataset) if item.kind != failures.SCORING]
            results.append(
                DatasetResult(
                    dataset, requested=requested, answered=answered, failed=requested - answered,
                    notes=[*failures.notes(found), *self.ended_by(dataset)],
                    failures=failures.by_kind(found), predicted_only=True,
                )
            )  # fmt: skip
        return results


def described(result: DatasetResult, counts: AnswerCounts, cell: ledger.Cell) -> DatasetResult:
    """A result with what is known of its answers beside their text.

    Args:
        result: it.
        counts: how many of its answers are cut off, without text, or otherwise not as they should be.
        cell: what the last run wrote down of it.
    """
    remarks = counts.remarks(result.answered or result.succeeded)
    if result.report is not None:
        remarks += [
            f"{metric} could not be computed for {number} of {result.succeeded} answers, and has no score for them: "
            f"{said if len(said) <= failures.SHOWN else said[: failures.SHOWN] + '…'}; when that is mended, score them "
            "again with `mode: judge`"
            for metric, (number, said) in (cell.metrics_failed or {}).items()
        ]
    return replace(result, answer_kinds=counts.kinds, remarks=[*result.remarks, *remarks])


class Backend(ABC):
    """A stock backend of EvalScope: the half that runs here. It starts no process and imports no EvalScope.

    A new one is a folder with two files, this half and the worker half, and an entry point in the group
    `evalflow.backends`, whose name is `name`.

    Attributes:
        interface_version: version of this interface that the backend was written for.
        name: as in the section's `backend`.
        worker_half: the half that runs in the worker, as `FILE.py:CLASS`; FILE.py lies beside the file of this half.
        distributions: installed packages of the worker's environment whose versions run.json records.
    """

    interface_version: ClassVar[int] = INTERFACE_VERSION
    name: ClassVar[str]
    worker_half: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]] = ("evalscope",)

    @abstractmethod
    def recognises(self, dataset: str, settings: Mapping[str, Any], worker_env: str | None) -> bool:
        """Whether this backend has a dataset. Decides which backend a task means that names none.

        Args:
            dataset: its name.
            settings: what the task's `dataset_args` say of it.
            worker_env: the environment that evaluates; None: this one.

        Raises:
            ConfigError: what the backend needs is not in that environment.
        """

    def check_installed(self, worker_env: str | None) -> Iterable[Problem]:
        """What the worker's environment lacks for this backend. Nothing is imported."""
        return ()

    @abstractmethod
    def check(self, task: Task) -> Iterable[Problem]:
        """What is wrong with a task, as far as files tell. Nothing is started."""

    def check_data(self, task: Task, notify: Callable[[str], None]) -> Iterable[Problem]:
        """What is wrong with the task's own data, as far as there is time to look: see data_files.LOOK_S.

        Args:
            task: the whole task.
            notify: is called with what may be no obstacle, and with how much was looked at, if it was not everything.
        """
        return ()

    @abstractmethod
    def stock_task(self, task: Task, model: ModelConfig, max_num_seqs: int) -> dict[str, Any]:
        """The fields of EvalScope's TaskConfig for one model, without the URL and the key of the model's API.

        Args:
            task: the whole task.
            model: one of its models.
            max_num_seqs: requests that the model's engine serves at once.
        """

    def worker_settings(self, task: Task, model: ModelConfig) -> dict[str, Any]:
        """What the worker half needs beside the stock task; keys in it may be SecretStr or references."""
        return {}

    @abstractmethod
    def look(self, task: Task, model: ModelConfig) -> Saved:
        """What a model's run folder holds now."""

    @abstractmethod
    def archive(self, task: Task, model: ModelConfig, archive: Path) -> bool:
        """Move all results of a run folder to another folder, for `reuse: false`.

        Returns:
            Whether there were any.
        """

    @abstractmethod
    def archive_verdicts(self, task: Task, model: ModelConfig, dataset: str, archive: Path) -> bool:
        """Move the verdicts and the report of a dataset out of the way, as another judge gave them.

        A backend may keep verdicts where it finds them when that judge is back, which `Saved.earlier_verdicts` tells.

        Args:
            task: the whole task.
            model: one of its models.
            dataset: it.
            archive: a folder for what nobody will look for.

        Returns:
            Whether there were any.
        """

    def row_files(self, folder: Path) -> Iterable[Path]:
        """The JSON-lines files of a run folder that the backend appends results to.

        Before a run goes on, a last row that was never finished is cut off them.
        """
        return ()

    def samples(self, folder: Path, model: str, dataset: str) -> Iterator[Sample]:
        """What was asked, answered and scored, sample by sample, read from a run folder's files alone.

        Samples that were never asked are left out. Nothing is unpickled, and neither EvalScope nor a task is needed.

        Args:
            folder: the run folder.
            model: the model's name.
            dataset: the dataset's name.
        """
        return iter(())

    def saved_result(self, folder: Path, model: str, dataset: str) -> DatasetResult | None:
        """What became of a dataset, as far as a run folder's files alone tell: no run has written a result of it.

        Args:
            folder: the run folder.
            model: the model's name.
            dataset: the dataset's name.

        Returns:
            None where nothing is known.
        """
        return None

    def sample_files(self, folder: Path, model: str) -> Iterable[Path]:
        """The files of a run folder that `samples` reads: a cache of samples is of them as they are.

        Args:
            folder: the run folder.
            model: the model's name.
        """
        return ()

    def published_samples(self, task: Task, dataset: str) -> int | None:
        """Number of samples of a dataset, for estimates of time; None where it is not known."""
        return None

    def stamps(self, task: Task, model: ModelConfig) -> Stamps:
        """`Saved.stamps`, now."""
        return self.look(task, model).stamps()

    def asks_judge(self, task: Task, dataset: str) -> bool:
        """Whether a dataset of a task with a judge is scored by that; where this is not known: yes."""
        return True

    @property
    def worker_half_place(self) -> str:
        """Where the worker half is, as `/path/of/file.py:CLASS`."""
        file, _, name = self.worker_half.partition(":")
        return f"{Path(inspect.getfile(type(self))).with_name(file)}:{name}"

    def start_task(self, task: Task, model: ModelConfig, phases: Sequence[str], max_num_seqs: int) -> StartTask:
        """The first request to the worker.

        Args:
            task: the whole task.
            model: one of its models.
            phases: what to do, of `infer` and `judge`.
            max_num_seqs: requests that the model's engine serves at once.
        """
        judged = bool((task.stock.get("judge") or {}).get("models"))
        stock, settings = self.stock_task(task, model, max_num_seqs), self.worker_settings(task, model)
        if "judge" not in phases:  # its key need not be there today
            stock, settings = _without_judge_keys(stock), _without_judge_keys(settings)
        return StartTask(
            worker_half=self.worker_half_place,
            phases=list(phases),
            stock_task=stock,
            failures_file=str(failures.path_in(task.folder(model))),
            failure_cause=failures.cause(task, model),
            judge_batch_size=task.flow.judge_max_num_seqs if judged else None,
            settings=settings,
            request_slots=task.request_slots,
            judge_slots=task.judge_slots,
            budget=task.flow.caps.model_dump(),
            own_judge=task.flow.judge is not None,
        )


def _without_judge_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose `judge` has no key: be it EvalScope's `judge`, or one of its models."""

    def without(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {name: without(value) for name, value in node.items() if not is_secret_name(name)}
        return [without(item) for item in node] if isinstance(node, list) else node

    return {name: without(value) if name == "judge" else value for name, value in settings.items()}


def move_to(archive: Path, folder: Path, paths: Iterable[Path]) -> bool:
    """Move files and folders of a run folder to the same places in an archive.

    Args:
        archive: the folder to move to.
        folder: the run folder.
        paths: in the run folder; those that do not exist are passed over.

    Returns:
        Whether there were any.
    """
    found = [path for path in paths if path.exists()]
    for path in found:
        target = archive / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(path), target)
    return bool(found)
