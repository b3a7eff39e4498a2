"""EvalScope's own backend in two passes: one that predicts, and one that scores what is saved.

A request that fails makes no answer. EvalScope takes the text of some errors for the model's answer and scores it;
here such a sample fails, is not saved, and is written to the file of failures with its kind. Those that will fail
again for the same reason are not asked again.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from evalscope_evalflow.backends.native.benchmark_identity import check_benchmarks
from evalscope_evalflow.backends.native.native_data import DataError, DataErrors, is_half_a_character, missing_files
from evalscope_evalflow.backends.native.native_judging import patch_judge
from evalscope_evalflow.backends.native.native_metric_scoring import scores_only_metrics
from evalscope_evalflow.backends.native.native_report import scores_only_verdicts
from evalscope_evalflow.backends.native.native_rows_worker import NativeRows
from evalscope_evalflow.backends.native.native_verdicts import is_fallback, why_missing
from evalscope_evalflow.events.disk_errors import disk_error
from evalscope_evalflow.events.json_lines import FileError
from evalscope_evalflow.events.worker_events import DatasetAnswered, DatasetFailed, DatasetNotSplit
from evalscope_evalflow.events.worker_requests import StartTask
from evalscope_evalflow.worker.answer_kinds import KindsFile, kinds_of_output
from evalscope_evalflow.worker.budget import NOWHERE, Budget
from evalscope_evalflow.worker.channel import Channel
from evalscope_evalflow.worker.credentials import resolve
from evalscope_evalflow.worker.evalscope_client import refuse_error_texts, retry_only_what_is_transient
from evalscope_evalflow.worker.import_ahead import html_report, import_ahead, openai_client, uncollected
from evalscope_evalflow.worker.judge_probe import JudgeProbe
from evalscope_evalflow.worker.kept_reports import set_aside
from evalscope_evalflow.worker.progress_meter import ProgressMeter
from evalscope_evalflow.worker.quick_requests import quicken
from evalscope_evalflow.worker.request_failures import Failures, Unanswered, classify, error_text, run_error

_BASE_URL = "EVALSCOPE_BASE_URL"


class _AllPredicted(BaseException):
    """Leaves EvalScope's run when the last answer is saved: the reports are the second pass's."""


class NativeWorker:
    """The phases of `eval_backend: Native`.

    A benchmark with an evaluator of its own cannot be split: it is done as a whole in the first pass.
    """

    def __init__(self, request: StartTask, channel: Channel) -> None:
        """
        Args:
            request: what to do.
            channel: to the parent.
        """
        self.request, self.channel = request, channel
        self.stock_task = dict(request.stock_task)
        self.failures = Failures(request.failures_file, request.failure_cause)
        settings = self.stock_task.get("generation_config") or {}
        self.kinds = KindsFile(os.path.dirname(request.failures_file), settings.get("max_tokens"))
        self.datasets: list[str] = list(self.stock_task["datasets"])
        self.progress = ProgressMeter(channel.emit, self.datasets)
        folder = os.path.dirname(request.failures_file)
        self.budget = Budget(folder, request.budget, settings.get("max_tokens"), self.progress)
        self.probe = JudgeProbe(channel)
        self.judging = False
        self.ahead: Thread | None = None  # imports what is needed later
        self.data = DataErrors()
        self.done: set[str] = set()  # as a whole, in the first pass
        self.lost: dict[str, Exception] = {}  # what ended datasets
        self.rows = NativeRows(request, channel, self.failures, self.kinds)
        self.performance: dict[str, Any] = {}  # what the first pass has measured, for the reports of the second

    @classmethod
    def import_ahead(cls) -> None:
        """Import what every task needs."""
        cls._import()
        openai_client()
        html_report()

    @staticmethod
    def _import() -> None:
        with uncollected():
            for name in ("evalscope.run", "evalscope.evaluator"):
                importlib.import_module(name)

    def prepare(self) -> None:
        """Import EvalScope, and patch it."""
        self._import()
        from evalscope.evaluator import DefaultEvaluator

        self.default = DefaultEvaluator
        self._hold_until_go()
        self._look_at_evaluators()
        self.data.watch()
        retry_only_what_is_transient()
        patch_judge(self.probe, self.budget, (lambda: self.channel.judge_url) if self.request.own_judge else None)
        answered = self.request.settings.get("answered", self.datasets)
        check_benchmarks(Path(self.stock_task["work_dir"]) / "evalflow" / "benchmarks.json", answered)

    def infer(self) -> None:
        """Predict; EvalScope asks for the model when it first needs it."""
        from evalscope.api.mixin.llm_judge_mixin import LLMJudgeMixin

        if "judge" not in self.request.phases:  # nobody needs a judge today
            LLMJudgeMixin.validate_judge_strategy = lambda _: None
        with contextlib.suppress(_AllPredicted):
            self._run(self._predictor(), self.datasets)

    def judge(self, at_once: int | None) -> None:
        """Score what is saved; the model is gone."""
        self.judging = True
        self._wait_for_imports()
        self.probe.wait()
        os.environ.pop(_BASE_URL, None)  # a judge must never be the model itself
        folder = Path(self.stock_task["work_dir"])
        left = [dataset for dataset in self.datasets if dataset not in self.done and dataset not in self.lost]
        if left:
            for dataset in left:  # its report covers other answers or verdicts; where none is made, none is shown
                set_aside(folder, folder / "reports" / self.stock_task["model_id"] / f"{dataset}.json")
            self.stock_task["use_cache"] = str(folder)
            self._run(self._judge(at_once), left)

    def _hold_until_go(self) -> None:
        """Have EvalScope wait for the model's endpoint at the point where it makes its client."""
        from evalscope.api.model import model as model_module
        from evalscope.utils.argument_utils import get_secret_value

        make = model_module.get_model_with_task_config

        def make_when_ready(task_config: Any) -> Any:
            if self.judging:
                raise ValueError("the model is asked for while its answers are judged: set `mode: all`, and run again")
            # Not in the task: EvalScope takes a new port for a new task, and would not resume.
            ready = self.budget.has_room  # else no request is sent, and the model not waited for
            os.environ[_BASE_URL] = self.channel.wait_for_model(self._import_ahead) if ready else NOWHERE
            # EvalScope unwraps keys for its judges, and not for the model's client.
            model = make(task_config.model_copy(update={"model_args": get_secret_value(task_config.model_args)}))
            refuse_error_texts(model)
            quicken(model)
            self.budget.watch(model)
            return model

        model_module.get_model_with_task_config = make_when_ready

    def _import_ahead(self) -> None:
        """What is needed later; a report may be made in the first pass where one dataset is done as a whole."""
        later = "judge" in self.request.phases and not self.done
        self.ahead = import_ahead(openai_client, *([html_report] if later else []))

    def _wait_for_imports(self) -> None:
        if self.ahead is not None:
            self.ahead.join()

    def _run(self, evaluator: Any, datasets: list[str]) -> None:
        """Run the stock task with an evaluator of ours in place of EvalScope's default one."""
        from evalscope.api.registry import EVALUATOR_REGISTRY
        from evalscope.config import TaskConfig
        from evalscope.run import run_task

        EVALUATOR_REGISTRY["default"] = evaluator
        # With no key of its own, EvalScope reads the variable EVALSCOPE_API_KEY.
        task = {**resolve(self.stock_task), "api_key": None, "datasets": datasets}
        run_task(TaskConfig.from_dict(task))

    def _predictor(self) -> Any:
        """An evaluator that predicts, saves, and scores nothing."""
        phases, default = self, self.default

        class Predictor(default):  # type: ignore[misc, valid-type]
            def eval(self) -> Any:
                try:
                    whole = {name: data for name, data in self.benchmark.load_dataset().items() if len(data)}
                    items = []
                    if whole:
                        context = self._collect_work_items(whole)
                        items = [item for item in context.work_items if item.needs_predict]
                        # What is answered already is scored in the second pass.
                        context.work_items[:] = items
                        total = sum(map(len, whole.values()))
                        phases.progress.begin(
                            str(self.benchmark_name), judging=False, total=total, saved=total - len(items)
                        )
                        self._run_pool(context)
                    self.cache_manager.discard_review_reruns()
                finally:
                    self.finalize()
                requested = sum(map(len, whole.values()))
                failed = sum(not item.prediction_persisted for item in items)
                dataset = str(self.benchmark_name)
                counts = self._perf_request_count, self._perf_metric_count
                phases.performance[dataset] = (self.perf_collector, *counts)
                phases.channel.emit(DatasetAnswered(dataset, requested=requested, answered=requested - failed))
                if dataset == phases.datasets[-1]:
                    raise _AllPredicted
                return {}

            def _process_work_item(self, item: Any, model_prediction_dir: str) -> Any:
                return phases._predict(self, item, model_prediction_dir), None

        return Predictor

    def _look_at_evaluators(self) -> None:
        """Take note of benchmarks that bring an evaluator of their own."""
        from evalscope.api import registry

        create = registry.create_evaluator

        def create_and_look(benchmark: Any, **others: Any) -> Any:
            evaluator = create(benchmark=benchmark, **others)
            if type(evaluator) is not registry.EVALUATOR_REGISTRY["default"]:
                name = str(benchmark.name)
                if list(self.request.phases) != ["infer", "judge"] and not self.judging:
                    raise ValueError(
                        f"{name} has an evaluator of its own, which cannot be split: set `mode: all`, "
                        "with a judge that is an API"
                    )
                self.channel.emit(DatasetNotSplit(name))
                self.done.add(name)
                self._wait_for_imports()
            benchmark.load_dataset = partial(self.rows.load, benchmark, benchmark.load_dataset)
            evaluator.eval = partial(self._alone, str(benchmark.name), evaluator.eval)
            return evaluator

        registry.create_evaluator = create_and_look

    def _alone(self, dataset: str, evaluate: Callable[[], Any]) -> Any:
        """A dataset, which ends no other if it fails; if all do, the run ends as the first did."""
        self.data.begin()
        self.budget.dataset = dataset
        if dataset in self.done:  # its own evaluator does not say how many samples there are
            self.progress.begin(dataset, judging=False, total=None, saved=0)
        try:
            found = evaluate()
            self.budget.settle()
            return found
        except Exception as error:  # noqa: BLE001 - whatever a benchmark raises
            traceback.print_exc()
            self._abort_if_of_disk(error)
            self.lost[dataset] = error
            if len(self.lost) == len(self.datasets):
                raise self.data.named(*next(iter(self.lost.items()))) from None
            kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
            self.channel.emit(DatasetFailed(dataset, f"{kind}{error_text(error)}"))
        finally:
            self.progress.end()
        if not self.judging and dataset == self.datasets[-1]:
            raise _AllPredicted
        return {}

    def _abort_if_of_disk(self, error: Exception) -> None:
        """A disk that is full is full for all: what is bought from now on could not be saved."""
        found = disk_error(error, self.stock_task["work_dir"])
        if found is not None:
            self.channel.abort(found)

    def _predict(self, evaluator: Any, item: Any, folder: str) -> Any:
        """Ask for one answer, and save it; or write down why there is none. Where neither can be, the worker ends."""
        with self.channel.aborting():
            return self._predict_one(evaluator, item, folder)

    def _predict_one(self, evaluator: Any, item: Any, folder: str) -> Any:
        dataset, subset, sample = str(evaluator.benchmark_name), str(item.subset), item.sample.id
        missing = missing_files(item.sample.input)
        # Those that are missing are part of it: when they are there, it is asked again.
        cause = self.failures.cause(missing or item.sample.input)
        self.failures.expect(dataset, subset, sample, cause)
        try:
            if missing:
                raise Unanswered("bad_data", False, f"{self.data.row(subset, sample)}{missing[0]} does not exist")
            state = evaluator._predict_sample(item.sample, folder)
        except Exception as error:
            kind, transient = ("bad_data", False) if is_half_a_character(error) else classify(error)
            if kind == "run":
                self.channel.abort(run_error(error))
            self.failures.add(dataset, subset, sample, cause, kind, transient, error_text(error))
            self.progress.sample(failed=True)
            raise
        try:
            self.kinds.add(dataset, subset, sample, kinds_of_output(state.output, tools=bool(item.sample.tools)))
            with evaluator._prediction_cache_lock:
                evaluator.cache_manager.save_prediction_cache(item.subset, state, evaluator.benchmark.save_metadata)
        except OSError as error:
            file = error.filename or evaluator.cache_manager.get_prediction_cache_path(item.subset)
            raise FileError(error.errno, error.strerror, file) from error
        except Exception as error:
            self.failures.add(dataset, subset, sample, cause, "saving", True, error_text(error))
            raise
        item.prediction_persisted = True
        self.progress.sample()
        if dataset in self.channel.judge_ahead and getattr(evaluator.benchmark, "use_llm_judge", False):
            self.probe.offer(dataset, partial(_judge_ahead, evaluator, state))
        return state

    def _judge(self, at_once: int | None) -> Any:
        """An evaluator that scores, and asks the model for nothing; None: `eval_batch_size` answers at once."""
        phases, scorer = self, scores_only_verdicts(self.default, Path(self.stock_task["work_dir"]))
        scorer, saving = scores_only_metrics(scorer, self.channel), Lock()

        class Judge(scorer):  # type: ignore[misc, valid-type]
            def __init__(self, **parts: Any) -> None:
                if at_once:  # not in the task itself, which is the user's
                    parts["task_config"] = parts["task_config"].model_copy(update={"eval_batch_size": at_once})
                super().__init__(**parts)
                measured = phases.performance.get(str(self.benchmark_name))
                if measured:
                    self.perf_collector, self._perf_request_count, self._perf_metric_count = measured

            def _run_pool(self, context: Any) -> Any:
                # Where a benchmark scores all samples at once, there is nothing to count.
                total = context.total_cached + sum(not item.needs_predict for item in context.work_items)
                if total:
                    dataset, saved = str(self.benchmark_name), context.total_cached
                    phases.progress.begin(dataset, judging=True, total=total, saved=saved)
                return super()._run_pool(context)

            def _process_work_item(self, item: Any, model_prediction_dir: str) -> Any:
                if item.needs_predict:
                    raise Unanswered("unanswered", True, "it has no answer: see evalflow/failures.jsonl")
                try:
                    found = super()._process_work_item(item, model_prediction_dir)
                    with saving:
                        super()._persist_result(item, *found)
                    phases.progress.sample()
                    return found
                except Exception as error:
                    phases._abort_if_of_disk(error)
                    phases.progress.sample(failed=True)
                    dataset, subset = str(self.benchmark_name), str(item.subset)
                    sample = item.task_state.sample_id
                    with phases.channel.aborting():
                        phases.failures.add(dataset, subset, sample, "", "scoring", True, error_text(error))
                    raise

            def _persist_result(self, *_: Any) -> None:
                """It is saved already: here, in the main thread, verdicts would wait, and be lost in a kill."""

        return Judge


def _judge_ahead(evaluator: Any, state: Any) -> tuple[str, str, str] | None:
    """Judge one answer as it will be judged later; nothing is saved.

    Returns:
        Why there is no verdict (see `why_missing`); None where there is one, or the judge was not needed.
    """
    score = evaluator._review_task_state(copy.deepcopy(state))
    review = {"sample_score": score.model_dump(mode="json")}
    return why_missing(review) if is_fallback(review) else None
