"""VLMEvalKit in two passes, each a stock task of EvalScope: `mode: infer`, and `mode: eval` over what that has saved.

VLMEvalKit hides nearly every failure. So its functions are replaced at a few places, each of which is looked for
first: the two clients, what saves answers and verdicts as they come, what reads and writes files, and what runs a
dataset, whose exceptions it would swallow. Prompts, scoring rules and files are VLMEvalKit's own.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_ahead_judging import JudgeAhead
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_answers import Answers, bring_in_line
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import (
    Api,
    client_args,
    converse,
    install_judge,
    make_model_class,
)
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_data import (
    DataError,
    check_data_folder,
    check_same_version,
    correct_wemath,
    data_file,
    import_vlmevalkit,
    load_dataset,
    naming_rows,
)
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import FAILED, Files, datasets_in, whole_writes
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_judging import Judging, Outcome, drop_stale, group_of
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_patching import (
    call,
    missing,
    replace_everywhere,
    seam,
    without_reuse,
)
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_report import figures, write
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_sample_scoring import keep_samples
from evalscope_evalflow.events.worker_events import AllAnswered, DatasetAnswered, VerdictsDropped
from evalscope_evalflow.events.worker_requests import StartTask
from evalscope_evalflow.worker.answer_kinds import KindsFile
from evalscope_evalflow.worker.budget import NOWHERE, Budget
from evalscope_evalflow.worker.channel import Channel
from evalscope_evalflow.worker.credentials import MODEL_KEY, masked, resolve
from evalscope_evalflow.worker.evalscope_client import retry_only_what_is_transient
from evalscope_evalflow.worker.import_ahead import import_ahead, openai_client
from evalscope_evalflow.worker.judge_probe import JudgeProbe
from evalscope_evalflow.worker.progress_meter import ProgressMeter
from evalscope_evalflow.worker.request_failures import Failures, Unanswered, classify, error_text, run_error

MODEL = "CustomAPIModel"  # the name under which EvalScope makes VLMEvalKit ask an API
MODEL_DEFAULTS = {"temperature": 0, "max_tokens": 2048}  # VLMEvalKit's own, where the task says nothing
MODEL_PATIENCE = {"timeout": 600, "retries": 3}


class VLMEvalKitWorker:
    """The phases of `eval_backend: VLMEvalKit`."""

    def __init__(self, request: StartTask, channel: Channel) -> None:
        """
        Args:
            request: what to do; its settings are `model`, `served_name` (the API's), `datasets`, `limit`,
                `generation_config`, `model_args`, `judge` (None where there is none) and `verify_md5`.
            channel: to the parent.
        """
        self.settings, self.stock_task, self.channel = request.settings, request.stock_task, channel
        self.work_dir = Path(self.stock_task["work_dir"])
        self.failures = Failures(request.failures_file, request.failure_cause)
        limits = {**MODEL_DEFAULTS, **(self.settings.get("generation_config") or {})}
        self.kinds = KindsFile(os.path.dirname(request.failures_file), limits["max_tokens"])
        judged = "judge" in request.phases  # else its key may be missing
        self.judge_config: dict[str, Any] | None = resolve(self.settings.get("judge")) if judged else None
        self.files: dict[str, Files] = {}
        self.data: dict[str, Any] = {}  # VLMEvalKit's datasets
        self.errors: dict[str, str] = {}
        self.reached: set[str] = set()  # datasets that VLMEvalKit has come to in this pass
        self.api: Api | None = None
        self.progress = ProgressMeter(channel.emit, self.settings["datasets"])
        folder = os.path.dirname(request.failures_file)
        self.budget = Budget(folder, request.budget, limits["max_tokens"], self.progress)
        self.answered = threading.local()  # of this thread: what is unusual about the model's last answer
        self.probe = JudgeProbe(channel, every_thread=True)
        self.answers: dict[str, Answers] = {}
        self.now: Answers | None = None  # on the dataset that is asked
        self.open: set[tuple[str, str]] = set()  # samples that the model has still to be asked
        self._closing = threading.Lock()

    @classmethod
    def import_ahead(cls) -> None:
        """Import what every task needs."""
        import_vlmevalkit()
        openai_client()

    def prepare(self) -> None:
        """Import VLMEvalKit, patch it, and load the data.

        Raises:
            ValueError: a dataset is not there, or is not the published one.
        """
        check_data_folder()
        import_vlmevalkit()
        from vlmeval.dataset import SUPPORTED_DATASETS

        retry_only_what_is_transient()
        self._patch()
        known = {*SUPPORTED_DATASETS, *self.settings["datasets"], *datasets_in(self.work_dir)}
        for dataset in self.settings["datasets"]:
            self.files[dataset] = Files(self.work_dir, self.settings["model"], dataset, known)
        problems = []
        for dataset in self.settings["datasets"]:
            try:
                files, limit = self.files[dataset], self.settings.get("limit")
                self.data[dataset] = load_dataset(dataset, self._build, files, self.settings["verify_md5"])
                self.answers[dataset] = Answers(files, self.data[dataset], limit, self.failures, self.load, self.dump)
            except Exception as error:  # noqa: BLE001 - a download, a parser, a dataset's own code
                traceback.print_exc()
                problems.append(str(error) if isinstance(error, DataError) else f"{dataset}: {error}")
        if problems:
            raise ValueError("; ".join(problems))

    def infer(self) -> None:
        """Save every answer that can be had."""
        left = []
        for dataset in self.settings["datasets"]:
            bring_in_line(self.answers[dataset], self.kinds, self.channel)
            rows = self.answers[dataset].to_ask()
            if rows:
                check_same_version(self.files[dataset], importlib.metadata.version("ms-vlmeval"))
                left.append(dataset)
                self.open.update((dataset, row) for row in rows)
            else:
                self._note_answers(dataset)
        if left:
            if self.judge_config is not None:  # one answer of each dataset is judged ahead
                self._install_judge()
            self._run("infer", left, self.stock_task["eval_config"]["nproc"])
        self._raise_if_nothing_worked(left, "answered")

    def judge(self, at_once: int | None) -> None:
        """Score what is saved; the model is gone."""
        self.errors.clear()
        self.probe.wait()
        self._install_judge()
        left = []
        for dataset in self.settings["datasets"]:
            self.files[dataset].report.unlink(missing_ok=True)  # it stands on what is about to change
            bring_in_line(self.answers[dataset], self.kinds, self.channel)
            self.files[dataset].bring_back_verdicts((self.settings.get("judges") or {}).get(dataset, "unknown"))
            if not self.files[dataset].predictions.exists():
                self.files[dataset].write(error="no score: there is no answer", judged=None, fallbacks={}, scored=0)
                continue
            self._drop_stale(dataset)
            left.append(dataset)
        if left:
            self._run("eval", left, at_once or self.stock_task["eval_config"]["nproc"])
        self._raise_if_nothing_worked(left, "judged")

    def _install_judge(self) -> None:
        install_judge(self.judge_config, self.judging.heard, self.probe, self.budget, self.channel.judge_url)

    def _run(self, mode: str, datasets: list[str], at_once: int) -> None:
        """A stock task."""
        from evalscope.config import TaskConfig
        from evalscope.run import run_task

        self.mode = mode
        self.reached.clear()
        config = {**self.stock_task["eval_config"], "mode": mode, "data": datasets, "nproc": at_once}
        config["model"] = [dict(item) for item in config["model"]]
        run_task(TaskConfig.from_dict({**self.stock_task, "eval_config": config}))
        for dataset in datasets:
            if dataset not in self.reached:  # some splits are passed over without a word
                self.errors.setdefault(dataset, f"VLMEvalKit does not {'score' if mode == 'eval' else 'ask'} it")
            if dataset in self.errors:
                self.files[dataset].write(error=self.errors[dataset])

    def _raise_if_nothing_worked(self, datasets: list[str], what: str) -> None:
        if datasets and all(dataset in self.errors for dataset in datasets):
            raise ValueError(
                f"no dataset could be {what}: " + "; ".join(f"{name}: {self.errors[name]}" for name in datasets)
            )

    def _patch(self) -> None:
        """Replace what hides failures."""
        import vlmeval.config
        import vlmeval.dataset.utils.wemath as wemath
        import vlmeval.inference_mt
        import vlmeval.run
        import vlmeval.smp.file
        import vlmeval.utils.mp_util

        load, dump = seam(vlmeval.smp.file, "load"), seam(vlmeval.smp.file, "dump")
        self.load, self.dump = load, whole_writes(dump)
        self.judging = Judging(load, self.dump, self.progress)
        self.ahead = JudgeAhead(self.probe, load, self.dump, self.judging.heard)
        replace_everywhere(load, self.judging.load_chosen)
        replace_everywhere(dump, self.judging.dump_made)
        replace_everywhere(seam(vlmeval.utils.mp_util, "track_progress_rich"), self._track)
        replace_everywhere(seam(vlmeval.inference_mt, "chat_mt"), converse)
        for name in ("infer_data_job", "infer_data_job_mt", "infer_data_job_video"):
            setattr(vlmeval.run, name, self._infer_with(seam(vlmeval.run, name)))
        self._build = seam(vlmeval.run, "build_dataset")
        vlmeval.run.build_dataset = self._dataset
        without_reuse(vlmeval.run)
        if MODEL not in vlmeval.config.supported_VLM:
            raise missing(f"the model {MODEL}")
        vlmeval.config.supported_VLM[MODEL] = make_model_class(self._model_api, MODEL_DEFAULTS)
        seam(wemath, "evaluate_compute_final_scores")
        seam(wemath, "evaluate_update_main_results_df")
        correct_wemath(wemath)

    def _import_ahead(self) -> None:
        import_ahead(openai_client)

    def _model_api(self) -> Api:
        if self.api is None:
            ready = self.budget.has_room  # else no request is sent, and the model not waited for
            url = self.channel.wait_for_model(self._import_ahead) if ready else NOWHERE
            settings = {**MODEL_PATIENCE, **(self.settings.get("generation_config") or {})}
            settings.pop("batch_size", None)
            model_args = client_args(resolve(self.settings.get("model_args")))
            self.api = Api(self.settings["served_name"], url, os.environ[MODEL_KEY], settings, model_args)
            self.api.answered = self.answered
            self.budget.watch(self.api.model)
        return self.api

    # data

    def _dataset(self, name: str, **_: Any) -> Any:
        """A dataset for VLMEvalKit's run, which changes what it is given."""
        found = copy.copy(self.data[name])
        found.data = found.data.copy()
        if hasattr(found, "build_prompt"):
            found.build_prompt = naming_rows(found.build_prompt, data_file(name), self.answers[name].place)
        stock = found.evaluate
        found.evaluate = lambda eval_file, **options: self._evaluate(name, stock, **options)
        return found

    def _infer_with(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """VLMEvalKit's inference of one dataset, whose files hold nothing but answers."""

        def infer(*args: Any, **options: Any) -> Any:
            self.now = self.answers[options["dataset"].dataset_name]
            dataset = self.now.files.dataset
            self.reached.add(dataset)
            self.budget.dataset = dataset
            total, saved = len(self.now.rows), len(self.now.answered())
            self.progress.begin(dataset, judging=False, total=total, saved=saved)
            try:
                result = self.now.ask(lambda: stock(*args, **options))
            except Exception as error:
                kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
                self.errors[dataset] = f"{kind}{error}"
                raise
            finally:
                self.progress.end()
            keep_samples(self.now.files, self.now.chosen(), self.now.texts(), None)
            self._note_answers(dataset)
            return result

        return infer

    def _note_answers(self, dataset: str) -> None:
        requested, answered = self.answers[dataset].finish()
        self.channel.emit(DatasetAnswered(dataset, requested, answered))

    def _track(self, func: Any, tasks: Any = (), nproc: int = 1, save: Any = None, keys: Any = None, **_: Any) -> Any:
        """VLMEvalKit's `track_progress_rich`, in either phase."""
        if self.mode == "eval":
            return self.judging.track(func, tasks, nproc, save, keys)
        if self.probe.asks_here:
            return self.ahead.track(func, tasks, nproc, save, keys)
        tasks = list(tasks)
        if keys is None or save is None:  # not what is saved: such as frames of videos
            with ThreadPoolExecutor(max(1, nproc)) as pool:
                return list(pool.map(lambda task: call(func, task), tasks))
        saved = self.load(save) if Path(save).exists() else {}
        results: list[Any] = [None] * len(tasks)
        with ThreadPoolExecutor(max(1, min(nproc, len(tasks)))) as pool:
            futures = {pool.submit(self._answer, func, task, keys[number]): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                number = futures[future]
                results[number] = saved[keys[number]] = future.result()
        self.dump(saved, save)
        return results

    def _answer(self, func: Any, task: Any, key: Any) -> str:
        """One answer, saved; or VLMEvalKit's text for a failure, with why written down; else the worker ends."""
        assert self.now is not None
        with self.channel.aborting():
            answer = self._ask(func, task, key)
        self._close(self.now.files.dataset, str(key))
        return answer

    def _close(self, dataset: str, row: str) -> None:
        """When the last sample is done the model is needed no more: VLMEvalKit's files can be made without it."""
        with self._closing:
            was_open = bool(self.open)
            self.open.discard((dataset, row))
            if was_open and not self.open:
                self.progress.report()  # while the engine is still held
                self.channel.emit(AllAnswered())

    def _ask(self, func: Any, task: Any, key: Any) -> str:
        now = self.now
        assert now is not None
        assert now.journal is not None
        dataset, row = now.files.dataset, str(key)
        asked = task if isinstance(task, dict) else {}
        message = asked.get("message") or asked.get("messages")  # the second is a conversation
        cause = now.cause(message)
        try:
            self.failures.expect(dataset, "default", row, cause)
            now.check_pictures(row, message)
            self.answered.kinds = []
            answer = str(call(func, task))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            kind, transient = classify(error)
            if kind == "run":
                self.channel.abort(run_error(error))
            said = masked(error_text(error))
            if not (isinstance(error, Unanswered) and said.startswith("not asked again: ")):
                self.failures.add(dataset, "default", row, cause, kind, transient, said)
            now.failed[row] = {
                "kind": kind, "transient": transient, "message": " ".join(said.split())[:500],
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }  # fmt: skip
            self.progress.sample(failed=True)
            return f"{FAILED} via API."
        self.kinds.add(dataset, "default", row, getattr(self.answered, "kinds", []))
        now.journal.add(key, answer)
        self.progress.sample()
        self.ahead.offer(self.data[dataset], key, answer, self.channel.judge_ahead)
        return answer

    # verdicts

    def _drop_stale(self, dataset: str) -> None:
        files, data = self.files[dataset], self.data[dataset].data
        answers = self.answers[dataset].texts()
        fallbacks = len(files.read().get("fallbacks") or {})
        dropped = drop_stale(files, self.load, self.dump, answers, group_of(dataset, data))
        if dropped or fallbacks:
            self.channel.emit(VerdictsDropped(dataset, dropped + fallbacks))

    def _evaluate(self, dataset: str, stock: Callable[..., Any], **options: Any) -> Any:
        """VLMEvalKit's evaluation of one dataset, and the report on it."""
        self.reached.add(dataset)
        self.budget.dataset = dataset
        files = self.files[dataset]
        data, rows = self.answers[dataset].chosen(), self.answers[dataset].rows
        answered = self.answers[dataset].answered()
        try:
            outcome = self.judging.evaluate(stock, files, data, answered, **options)
            self._report(dataset, outcome, data, len(rows), answered)
        except Exception as error:
            self.errors[dataset] = f"it could not be scored: {type(error).__name__}: {error}"
            files.write(error=self.errors[dataset], scored=0)
            raise
        finally:
            self.progress.end()
        return outcome.result

    def _report(self, dataset: str, outcome: Outcome, data: Any, requested: int, answered: set[str]) -> None:
        files = self.files[dataset]
        judge = self.judge_config["model_id"] if self.judge_config else None
        kinds = dict(Counter(outcome.fallbacks.values()))
        files.write(
            requested=requested, answered=len(answered), scored=len(outcome.scored), left_out=len(outcome.left_out),
            judged=None if judge is None else len(outcome.scored) + len(outcome.left_out), fallbacks=outcome.fallbacks,
            examples=outcome.examples, judge=judge, error=None, stamp=files.stamp(),
        )  # fmt: skip
        keep_samples(files, data, self.answers[dataset].texts(), self.load)
        if outcome.result is None:
            files.write(error="no score: no sample has a verdict")
            return
        rows = data[data["index"].astype(str).isin(set(outcome.scored))]
        found = figures(dataset, outcome.result, rows)
        write(
            files.report, dataset=dataset, model=self.settings["model"], found=found, scored=len(outcome.scored),
            requested=requested, judge=judge, fallbacks=kinds, own=bool(files.read().get("own")),
        )  # fmt: skip
