"""VLMEvalKit in two passes, each a stock task of EvalScope: `mode: infer`, and `mode: eval` over what that has saved.

VLMEvalKit hides nearly every failure. So its functions are replaced at a few places, each of which is looked for
first: the two clients, what saves answers and verdicts as they come, what reads and writes files, and what runs a
dataset, whose exceptions it would swallow. Prompts, scoring rules and files are VLMEvalKit's own.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import ssl
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .client import retry_only_what_is_transient
from .failures import Failures, Unanswered, classify, run_error, said_by
from .parent import Parent
from .secrets import MODEL_KEY, resolve
from .vlmevalkit_client import Api, base_url, make_judge_class, make_model_class
from .vlmevalkit_files import FAILED, Files, Journal, whole_writes
from .vlmevalkit_judging import Judging, Outcome, drop_stale, group_of
from .vlmevalkit_report import figures, write

MODEL = "CustomAPIModel"  # the name under which EvalScope makes VLMEvalKit ask an API
MODEL_DEFAULTS = {"temperature": 0, "max_tokens": 2048}  # VLMEvalKit's own, where the task says nothing
MODEL_PATIENCE = {"timeout": 600, "retries": 3}
JUDGE_PATIENCE = {"timeout": 300, "retries": 3, "retry_interval": 5}


class VLMEvalKit:
    """The phases of `eval_backend: VLMEvalKit`."""

    def __init__(self, told: dict[str, Any], parent: Parent) -> None:
        """
        Args:
            told: the parent's first word; beside what all backends get: `model`, `datasets`, `limit`,
                `generation_config`, `model_args`, `judge` (None where there is none), `judge_batch_size`, `verify_md5`.
            parent: who said it.
        """
        self.told, self.parent = told, parent
        self.work_dir = Path(told["task"]["work_dir"])
        self.failures = Failures(**told["failures"])
        self.judge_config: dict[str, Any] | None = resolve(told.get("judge"))
        self.files: dict[str, Files] = {}
        self.data: dict[str, Any] = {}  # VLMEvalKit's datasets
        self.errors: dict[str, str] = {}
        self.api: Api | None = None
        self.failed: dict[str, dict[str, Any]] = {}  # of that which is asked, by index as text
        self.now = ""  # the dataset that is asked

    def prepare(self) -> None:
        """Import VLMEvalKit, put our hands on it, and load the data.

        Raises:
            ValueError: a dataset is not there, or is not the published one.
        """
        check_data_folder()
        verified = ssl._create_default_https_context
        import evalscope.run  # noqa: F401

        _latex_comparison()
        import vlmeval.run  # noqa: F401
        from vlmeval.dataset import SUPPORTED_DATASETS

        ssl._create_default_https_context = verified  # VLMEvalKit stops the whole process from looking at certificates
        retry_only_what_is_transient()
        self._take_hold()
        for dataset in self.told["datasets"]:
            self.files[dataset] = Files(self.work_dir, self.told["model"], dataset, SUPPORTED_DATASETS)
        problems = []
        for dataset in self.told["datasets"]:
            try:
                self.data[dataset] = self._load_dataset(dataset)
            except Exception as error:  # noqa: BLE001 - a download, a parser, a dataset's own code
                traceback.print_exc()
                problems.append(str(error) if isinstance(error, DataError) else f"{dataset}: {error}")
        if problems:
            raise ValueError("; ".join(problems))

    def infer(self) -> None:
        """Save every answer that can be had."""
        left = []
        for dataset in self.told["datasets"]:
            self._clean_answers(dataset)
            if self._to_ask(dataset):
                left.append(dataset)
            else:
                self._note_answers(dataset)
        if left:
            self._run("infer", left, self.told["task"]["eval_config"]["nproc"])
        self._raise_if_nothing_worked(left, "answered")

    def judge(self) -> None:
        """Score what is saved; the model is gone."""
        self.errors.clear()
        judge = self.judge_config
        api = None
        if judge is not None:
            settings = {**JUDGE_PATIENCE, **(judge.get("generation_config") or {})}
            key = _plain(judge.get("api_key")) or "EMPTY"
            api = Api(judge["model_id"], judge["api_url"], key, settings, _client(judge.get("model_args")))
            # For datasets that make a client of their own; this process does nothing else from here on.
            os.environ["OPENAI_API_BASE"] = f"{base_url(judge['api_url'])}/chat/completions"
            os.environ["LOCAL_LLM"], os.environ["OPENAI_API_KEY"] = judge["model_id"], key
        else:
            # With neither, VLMEvalKit asks a public host.
            os.environ["OPENAI_API_BASE"], os.environ["OPENAI_API_KEY"] = (
                "http://127.0.0.1:9/v1/chat/completions",
                "EMPTY",
            )
            os.environ.pop("LOCAL_LLM", None)
        import vlmeval.api

        judge_class = make_judge_class(api, self.judging.heard)
        for name in ("OpenAIWrapper", "SiliconFlowAPI", "HFChatModel"):  # all that VLMEvalKit makes judges of
            setattr(vlmeval.api, name, judge_class)
        left = []
        for dataset in self.told["datasets"]:
            self.files[dataset].report.unlink(missing_ok=True)  # it stands on what is about to change
            self._clean_answers(dataset)
            if not self.files[dataset].predictions.exists():
                self.files[dataset].write(error="no score: there is no answer", judged=None, fallbacks={}, scored=0)
                continue
            self._drop_stale(dataset)
            left.append(dataset)
        if left:
            self._run("eval", left, self.told["judge_batch_size"])
        self._raise_if_nothing_worked(left, "judged")

    def _run(self, mode: str, datasets: list[str], at_once: int) -> None:
        """A stock task."""
        from evalscope.config import TaskConfig
        from evalscope.run import run_task

        self.mode = mode
        config = {**self.told["task"]["eval_config"], "mode": mode, "data": datasets, "nproc": at_once}
        config["model"] = [dict(item) for item in config["model"]]
        run_task(TaskConfig.from_dict({**self.told["task"], "eval_config": config}))
        for dataset in datasets:
            if dataset in self.errors:
                self.files[dataset].write(error=self.errors[dataset])

    def _raise_if_nothing_worked(self, datasets: list[str], what: str) -> None:
        if datasets and all(dataset in self.errors for dataset in datasets):
            raise ValueError(
                f"no dataset could be {what}: " + "; ".join(f"{name}: {self.errors[name]}" for name in datasets)
            )

    def _take_hold(self) -> None:
        """Replace what hides failures."""
        import vlmeval.config
        import vlmeval.dataset.utils.wemath as wemath
        import vlmeval.run
        import vlmeval.smp.file
        import vlmeval.utils.mp_util

        load, dump = _seam(vlmeval.smp.file, "load"), _seam(vlmeval.smp.file, "dump")
        self.load, self.dump = load, whole_writes(dump)
        self.judging = Judging(load, self.dump)
        _everywhere(load, self.judging.load_chosen)
        _everywhere(dump, self.dump)
        _everywhere(_seam(vlmeval.utils.mp_util, "track_progress_rich"), self._track)
        for name in ("infer_data_job", "infer_data_job_mt", "infer_data_job_video"):
            setattr(vlmeval.run, name, self._infer_with(_seam(vlmeval.run, name)))
        self._build = _seam(vlmeval.run, "build_dataset")
        vlmeval.run.build_dataset = self._dataset
        _seam(vlmeval.run, "prepare_reuse_files")
        vlmeval.run.prepare_reuse_files = lambda **_: (
            None
        )  # it brings back files of folders that EvalScope does not make
        if MODEL not in vlmeval.config.supported_VLM:
            raise _missing(f"the model {MODEL}")
        vlmeval.config.supported_VLM[MODEL] = make_model_class(self._model_api, MODEL_DEFAULTS)
        _seam(wemath, "evaluate_compute_final_scores")
        _seam(wemath, "evaluate_update_main_results_df")
        correct_wemath(wemath)

    def _model_api(self) -> Api:
        if self.api is None:
            url = self.parent.wait_for_model()
            settings = {**MODEL_PATIENCE, **(self.told.get("generation_config") or {})}
            settings.pop("batch_size", None)
            model_args = _client(resolve(self.told.get("model_args")))
            self.api = Api(self.told["model"], url, os.environ[MODEL_KEY], settings, model_args)
        return self.api

    # data

    def _load_dataset(self, dataset: str) -> Any:
        from vlmeval.dataset import DATASET_CLASSES
        from vlmeval.smp import LMUDataRoot, md5

        file = Path(LMUDataRoot()) / f"{dataset}.tsv"
        kind: Any = next((item for item in DATASET_CLASSES if dataset in item.supported_datasets()), None)
        published = dict(getattr(kind, "DATASET_MD5", None) or {}) if kind else {}
        url = (getattr(kind, "DATASET_URL", None) or {}).get(dataset) if kind else None
        if kind is None and not file.exists():
            raise DataError(f"VLMEvalKit has no dataset {dataset!r}, and {file} does not exist: put your own there")
        if file.exists() and published.get(dataset) and md5(str(file)) != published[dataset]:
            if self.told["verify_md5"]:
                raise DataError(
                    f"{file} is not the published {dataset} (its MD5 differs): set `verify_md5: false` to evaluate it "
                    "all the same, or remove it to have the published one downloaded"
                )
            kind.DATASET_MD5 = {key: value for key, value in published.items() if key != dataset}
            self.files[dataset].write(note=f"{file.name} is a file of your own, not the published {dataset}")
        else:
            self.files[dataset].write(note=None)
        try:
            found = self._build(dataset)
        except Exception as error:
            where = f" from {url}" if url else ""
            if not file.exists():
                raise DataError(f"{dataset} cannot be downloaded{where} ({error}): put its file at {file}") from error
            raise DataError(f"{dataset} cannot be read from {file}: {type(error).__name__}: {error}") from error
        if found is None:
            raise DataError(f"VLMEvalKit does not take {file}: it needs a column `question`")
        if type(found).__name__ == "CustomVQADataset":
            raise DataError(
                f"{dataset}: VLMEvalKit does not score open questions of your own: give options in columns A, B, …"
            )
        return found

    def _dataset(self, name: str, **_: Any) -> Any:
        """A dataset for VLMEvalKit's run, which changes what it is given."""
        found = copy.copy(self.data[name])
        found.data = found.data.copy()
        stock = found.evaluate
        found.evaluate = lambda eval_file, **options: self._evaluate(name, stock, **options)
        return found

    def _rows(self, dataset: str) -> list[str]:
        """Indexes of the samples that are asked for."""
        indexes = [str(index) for index in self.data[dataset].data["index"]]
        return indexes[: self.told["limit"]] if self.told.get("limit") else indexes

    # answers

    def _saved(self, dataset: str) -> Any:
        """The answers' file as a DataFrame, without texts of failures; None if there is none."""
        files = self.files[dataset]
        if not files.predictions.exists():
            return None
        data = self.load(str(files.predictions))
        return data[~data["prediction"].astype(str).str.startswith(FAILED) & data["prediction"].notna()]

    def _clean_answers(self, dataset: str) -> None:
        """Keep of what earlier runs left only answers, and all of those in VLMEvalKit's file."""
        files, data = self.files[dataset], self.data[dataset].data
        came = files.read_journal()
        for path in files.unfinished():
            if path.name.endswith("_supp.pkl"):  # of a run that VLMEvalKit did by itself, and that was killed
                try:
                    came = {**{str(key): str(value) for key, value in self.load(str(path)).items()}, **came}
                except Exception:  # noqa: BLE001 - torn by a kill, in one of many ways
                    traceback.print_exc()
            path.unlink()
        saved = self._saved(dataset)
        have = self._have(saved)
        came = {row: text for row, text in came.items() if row not in have and FAILED not in text}
        lines = data[data["index"].astype(str).isin(set(came))].copy()
        lines["prediction"] = [came[str(index)] for index in lines["index"]]
        self._save(dataset, saved, lines.drop(columns="image", errors="ignore"))
        files.journal.unlink(missing_ok=True)
        have = self._have(self._saved(dataset))
        files.write(stamp=files.stamp(), answered=len(have & set(self._rows(dataset))))

    def _save(self, dataset: str, *parts: Any) -> None:
        """Make VLMEvalKit's file of answers, in the order of the dataset."""
        import pandas

        files = self.files[dataset]
        frames = [part for part in parts if part is not None and len(part)]
        if not frames:
            files.predictions.unlink(missing_ok=True)
            return
        whole = pandas.concat(frames, ignore_index=True)
        place = {str(index): number for number, index in enumerate(self.data[dataset].data["index"])}
        order = sorted(range(len(whole)), key=lambda number: place.get(str(whole["index"].iloc[number]), len(place)))
        files.folder.mkdir(parents=True, exist_ok=True)
        self.dump(whole.iloc[order], str(files.predictions))

    @staticmethod
    def _have(saved: Any) -> set[str]:
        return set() if saved is None else {str(index) for index in saved["index"]}

    def _to_ask(self, dataset: str) -> list[str]:
        """Samples without an answer, but those that fail for good."""
        have = self._have(self._saved(dataset))
        data = self.data[dataset]
        return [row for row in self._rows(dataset) if row not in have and not self._fails_for_good(dataset, row, data)]

    def _fails_for_good(self, dataset: str, row: str, data: Any) -> bool:
        known = self.files[dataset].read().get("failed", {}).get(row)
        if not known or known["transient"]:
            return False
        line = data.data[data.data["index"].astype(str) == row].iloc[0]
        try:
            self.failures.expect(dataset, "default", row, self._cause(data.build_prompt(line)))
        except Unanswered:
            return True
        return False

    def _cause(self, message: Any) -> str:
        return self.failures.cause(json.dumps(message, default=str))

    def _infer_with(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """VLMEvalKit's inference of one dataset, whose files hold nothing but answers."""

        def infer(*args: Any, **options: Any) -> Any:
            dataset = options["dataset"].dataset_name
            files = self.files[dataset]
            kept = self._saved(dataset)
            self.now = dataset
            self.failed.clear()
            self.journal = Journal(files)
            try:
                result = stock(*args, **options)
            except Exception as error:
                self.errors[dataset] = f"{type(error).__name__}: {error}"
                raise
            new = self._saved(dataset)
            if kept is not None:  # a smaller limit must not cut what is there
                kept = kept[~kept["index"].astype(str).isin(self._have(new))]
            self._save(dataset, new, kept)
            for path in files.unfinished():
                path.unlink()
            self._note_answers(dataset)
            files.journal.unlink(missing_ok=True)
            return result

        return infer

    def _note_answers(self, dataset: str) -> None:
        """Write down and tell how many there are."""
        files, rows = self.files[dataset], self._rows(dataset)
        have = self._have(self._saved(dataset))
        answered = [row for row in rows if row in have]
        failed = {**files.read().get("failed", {}), **(self.failed if self.now == dataset else {})}
        failed = {row: item for row, item in failed.items() if row in set(rows) - have}
        files.write(
            stamp=files.stamp(), requested=len(rows), answered=len(answered), failed=failed, error=None,
            file=str(files.predictions.relative_to(self.work_dir)),
        )  # fmt: skip
        self.parent.say("dataset predicted", dataset=dataset, requested=len(rows), answered=len(answered))

    def _track(
        self, func: Any, tasks: Any = (), nproc: int = 1, save: Any = None, keys: Any = None, **more: Any
    ) -> Any:
        """VLMEvalKit's `track_progress_rich`, in either phase."""
        if self.mode == "eval":
            return self.judging.track(func, tasks, nproc, save, keys)
        tasks = list(tasks)
        if keys is None or save is None:  # not what is saved: such as frames of videos
            with ThreadPoolExecutor(max(1, nproc)) as pool:
                return list(pool.map(lambda task: _call(func, task), tasks))
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
        """One answer, saved; or the text that VLMEvalKit knows for a failure, with why it failed written down."""
        dataset, row = self.now, str(key)
        cause = self._cause(task.get("message") if isinstance(task, dict) else None)
        try:
            self.failures.expect(dataset, "default", row, cause)
            answer = str(_call(func, task))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            kind, transient = classify(error)
            if kind == "run":
                self.parent.end(run_error(error))
            said = said_by(error)
            if not (isinstance(error, Unanswered) and said.startswith("not asked again: ")):
                self.failures.add(dataset, "default", row, cause, kind, transient, said)
            self.failed[row] = {
                "kind": kind, "transient": transient, "message": " ".join(said.split())[:500],
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }  # fmt: skip
            return f"{FAILED} via API."
        self.journal.add(key, answer)
        return answer

    # verdicts

    def _drop_stale(self, dataset: str) -> None:
        files, data = self.files[dataset], self.data[dataset].data
        saved = self._saved(dataset)
        answers = {str(index): str(text) for index, text in zip(saved["index"], saved["prediction"], strict=True)}
        fallbacks = len(files.read().get("fallbacks") or {})
        dropped = drop_stale(files, self.load, self.dump, answers, group_of(dataset, data))
        if dropped or fallbacks:
            self.parent.say("verdicts dropped", dataset=dataset, number=dropped + fallbacks)

    def _evaluate(self, dataset: str, stock: Callable[..., Any], **options: Any) -> Any:
        """VLMEvalKit's evaluation of one dataset, and the report on it."""
        files = self.files[dataset]
        data = self.data[dataset].data
        rows = self._rows(dataset)
        data = data[data["index"].astype(str).isin(set(rows))]
        saved = self._saved(dataset)
        answered = {str(index) for index in saved["index"]} & set(rows)
        try:
            outcome = self.judging.evaluate(stock, files, data, answered, **options)
            self._report(dataset, outcome, data, len(rows), answered)
        except Exception as error:
            self.errors[dataset] = f"it could not be scored: {type(error).__name__}: {error}"
            files.write(error=self.errors[dataset], scored=0)
            raise
        return outcome.result

    def _report(self, dataset: str, outcome: Outcome, data: Any, requested: int, answered: set[str]) -> None:
        files = self.files[dataset]
        judge = self.judge_config["model_id"] if self.judge_config else None
        kinds = dict(Counter(outcome.fallbacks.values()))
        files.write(
            requested=requested, answered=len(answered), scored=len(outcome.scored), left_out=len(outcome.left_out),
            judged=None if judge is None else len(outcome.scored) + len(outcome.left_out), fallbacks=outcome.fallbacks,
            judge=judge, error=None, stamp=files.stamp(),
        )  # fmt: skip
        if outcome.result is None:
            files.write(error="no score: no sample has a verdict")
            return
        rows = data[data["index"].astype(str).isin(set(outcome.scored))]
        found = figures(dataset, outcome.result, rows)
        write(
            files.report, dataset=dataset, model=self.told["model"], found=found, scored=len(outcome.scored),
            requested=requested, judge=judge, fallbacks=kinds,
        )  # fmt: skip


class DataError(ValueError):
    """A dataset's file is not as it should be; the message says what to do."""


def check_data_folder() -> None:
    """Whether LMUData, if it is set, is a folder: VLMEvalKit would take another one without a word."""
    folder = os.environ.get("LMUData")  # noqa: SIM112 - VLMEvalKit's own name
    if folder and not os.path.isdir(folder):
        raise ValueError(f"LMUData names {folder}, which does not exist: it is the folder of VLMEvalKit's data")


def correct_wemath(wemath: Any) -> None:
    """Have WeMath divide by the questions that there are: 525 only of the whole dataset, and 0 of none mastered."""
    update = wemath.evaluate_update_main_results_df

    def total(counts: dict[str, int]) -> int:
        """All questions: each of them is of one of these."""
        return sum(
            counts[name]
            for name in (
                "InadequateGeneralization", "InsufficientKnowledge", "CompleteMastery_loose", "RoteMemorization_loose",
            )
        )  # fmt: skip

    def compute(metrics: dict[str, Any], total_count: int) -> Any:
        rows = {name: len(metrics[f"steps2_{key}"]) + len(metrics[f"steps3_{key}"]) for name, key in _WEMATH.items()}
        everything = total(rows) or 1
        rates = {f"{name}_rate": f"{number / everything:.2%}" for name, number in rows.items() if "Rote" not in name}
        for kind in ("loose", "strict"):
            rote = rows[f"RoteMemorization_{kind}"]
            rates[f"RoteMemorization_{kind}_rate"] = f"{rote / ((rows[f'CompleteMastery_{kind}'] + rote) or 1):.2%}"
        return rows, rates

    def update_all(frame: Any, counts: dict[str, int], rates: dict[str, str]) -> Any:
        frame = update(frame, counts, rates)
        for kind in ("strict", "loose"):
            lost = 0.5 * counts["InadequateGeneralization"] + counts["InsufficientKnowledge"]
            everything = total(counts)
            score = (everything - lost - counts[f"RoteMemorization_{kind}"]) / (everything or 1)
            frame.loc[len(frame) - 1, f"Score ({kind.capitalize()})"] = f"{score:.2%}"
        return frame

    wemath.evaluate_compute_final_scores, wemath.evaluate_update_main_results_df = compute, update_all


_WEMATH = {
    "InadequateGeneralization": "filtered_rows_2",
    "InsufficientKnowledge": "filtered_rows_3",
    "CompleteMastery_loose": "filtered_rows_4_loose",
    "CompleteMastery_strict": "filtered_rows_4_strict",
    "RoteMemorization_loose": "filtered_rows_1_loose",
    "RoteMemorization_strict": "filtered_rows_1_strict",
}


def _latex_comparison() -> None:
    """Give VLMEvalKit a module that it misses, and without which MathVision takes equal formulas for different."""
    try:
        import latex2sympy2  # noqa: F401
    except ImportError:
        import latex2sympy2_extended

        sys.modules["latex2sympy2"] = latex2sympy2_extended


def _call(func: Any, task: Any) -> Any:
    if isinstance(task, dict):
        return func(**task)
    return func(*task) if isinstance(task, (tuple, list)) else func(task)


def _client(model_args: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of the OpenAI client: it is EvalScope that asks again."""
    return {"max_retries": 0, **{name: _plain(value) for name, value in (model_args or {}).items()}}


def _plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def _seam(module: Any, name: str) -> Any:
    """What is to be replaced."""
    if not hasattr(module, name):
        raise _missing(f"{module.__name__}.{name}")
    return getattr(module, name)


def _missing(what: str) -> RuntimeError:
    version = importlib.metadata.version("ms-vlmeval")
    return RuntimeError(
        f"ms-vlmeval {version} has no {what}: pip install 'evalscope-evalflow[vlmeval]' has a version that fits"
    )


def _everywhere(function: Any, ours: Any) -> None:
    """Replace a function under every name that VLMEvalKit's modules have imported it by."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "vlmeval" and module is not None:
            for attribute, value in list(vars(module).items()):
                if value is function:
                    setattr(module, attribute, ours)
