"""Parts of EvalFlow that write files, driven without a task: a run of them takes milliseconds.

Each part has `do(folder)`, which may be cut short by a fault and is then done again, and `result(folder)`, what has to
have come of it by then, whatever happened before.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SAMPLES = 12
CUT_SAMPLES, REFUSED_SAMPLES = (3, 7), (5,)


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        do: does it, in a folder.
        result: what has come of it.
        forgiving: whether it ends well where a file cannot be written, as the next run can do without.
    """

    do: Callable[[Path], None]
    result: Callable[[Path], Any]
    forgiving: bool = False


def _explained(folder: Path, do: Callable[[], None]) -> None:
    """Do it as a run does, whose errors name the file and what to do."""
    from evalscope_evalflow.state import disk

    try:
        do()
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, OSError):  # xlsxwriter has errors of its own
            found = found.__cause__ or found.__context__
        if found is None:
            raise
        raise SystemExit(_say(disk.explain(folder, found))) from None


def _say(error: Exception) -> int:
    print(f"evalflow: {error}")
    return 1


# The record of a run.


def _record(folder: Path) -> None:
    from evalscope_evalflow.events.progress_events import DatasetProgress
    from evalscope_evalflow.events.run_events import Phase, PhaseBegan, PhaseEnded, RunFinished, RunState, WorkPlanned
    from evalscope_evalflow.state import cells
    from evalscope_evalflow.state.record import Record

    def do() -> None:
        run = folder / "work" / "m"
        run.mkdir(parents=True, exist_ok=True)
        before = cells.read(run)
        record = Record(run, "20261127-000000-abcdef01", task={"datasets": ["d", "e"]}, model="m")
        record.on_event(WorkPlanned(["infer", "judge"]))
        for number, dataset in enumerate(("d", "e"), start=1):
            for phase in (Phase.LOAD, Phase.INFER, Phase.JUDGE):
                record.on_event(PhaseBegan(phase))
                record.on_event(PhaseEnded(phase, 1.0))
            known = before.get(dataset)
            if known is None or known.answered is None:  # else it would be asked again
                with (folder.parent / "asked.txt").open("a") as file:
                    file.write(f"{dataset}\n")
                cells.update(run, dataset, requested=3, predictions={"model": "m"})
                cells.update_all(run, {dataset: {"answered": 3}})
            record.on_event(DatasetProgress(dataset, False, 3, 3, 0, 3, number, 2))
            cells.update(run, dataset, verdicts={"judge": "j"}, report=number)
        record.on_event(RunFinished(RunState.COMPLETE, None, {"d": {"score": 1.0}, "e": {"score": 0.5}}))

    _explained(folder / "work" / "m", do)


def _record_result(folder: Path) -> Any:
    from evalscope_evalflow.state import cells, record

    run = folder / "work" / "m"
    found = record.read(run) or {}
    return {
        "state": found.get("state"), "results": found.get("results"), "phases": found.get("phases"),
        "cells": {name: (cell.answered, cell.verdicts, cell.report) for name, cell in cells.read(run).items()},
        "asked": _at_most_twice(folder),
    }  # fmt: skip


def _at_most_twice(folder: Path) -> list[str]:
    """What was asked; that what was in flight at a fault was asked twice is no difference."""
    asked = (folder.parent / "asked.txt").read_text().split()
    twice = {name for name in asked if asked.count(name) > 1}
    assert all(asked.count(name) <= 2 for name in twice), asked
    assert len(twice) <= 2, f"asked twice: {twice}"
    return sorted(set(asked))


# Answers of the Native backend's worker: its own files, and EvalScope's beside them.


class _Channel:
    judge_ahead = ()

    def emit(self, event: Any) -> None:
        pass

    def aborting(self) -> Any:
        from evalscope_evalflow.worker.channel import Channel

        return Channel.aborting(self)  # type: ignore[arg-type]

    def abort(self, reason: Any) -> None:
        print(f"evalflow: {reason}: run the same command again", flush=True)
        os._exit(1)


class _Evaluator:
    """As much of EvalScope's as `NativeWorker` uses to answer, with EvalScope's own writer."""

    benchmark_name = "d"

    def __init__(self, folder: Path, budget: Any) -> None:
        from evalscope.utils.io_utils import JsonlWriter

        self._prediction_cache_lock = threading.Lock()
        self.benchmark = SimpleNamespace(save_metadata=True)
        self.path = folder / "work" / "m" / "predictions" / "m" / "d_s.jsonl"
        self.cache_manager, self._writer = self, JsonlWriter(str(self.path))
        self._asked = folder.parent / "asked.txt"
        self._model = SimpleNamespace(generate=self._generate, generate_async=None)
        budget.watch(self._model)

    def get_prediction_cache_path(self, subset: str) -> str:
        return str(self.path)

    def save_prediction_cache(self, subset: str, state: Any, metadata: bool) -> None:
        self._writer.write({"index": state.sample_id, "answer": f"answer {state.sample_id}"})

    def _predict_sample(self, sample: Any, folder: str) -> Any:
        return SimpleNamespace(sample_id=sample.id, output=self._model.generate(sample.input))

    def _generate(self, text: str) -> Any:
        number = int(text.rsplit(" ", 1)[1])
        with self._asked.open("a") as file:
            file.write(f"{number}\n")
        if number in REFUSED_SAMPLES:
            error = RuntimeError("maximum context length is 10 tokens")
            error.status_code = 400  # type: ignore[attr-defined]
            raise error
        from evalscope.api.model import ChatCompletionChoice, ModelOutput

        reason = "max_tokens" if number in CUT_SAMPLES else "stop"
        choice = ChatCompletionChoice.from_content("an answer").model_copy(update={"stop_reason": reason})
        return ModelOutput(model="m", choices=[choice])


def _answers(folder: Path) -> None:
    from evalscope_evalflow.backends.native.native_worker import NativeWorker
    from evalscope_evalflow.events.worker_requests import StartTask
    from evalscope_evalflow.state.rows import end_torn_rows

    def do() -> None:
        run = folder / "work" / "m"
        (run / "evalflow").mkdir(parents=True, exist_ok=True)
        file = run / "predictions" / "m" / "d_s.jsonl"
        if file.exists():
            end_torn_rows([file])
        there = {json.loads(line)["index"] for line in file.read_text().splitlines()} if file.exists() else set()
        request = StartTask(
            stock_task={"datasets": ["d"], "work_dir": str(run), "model_id": "m", "generation_config": {}},
            phases=["infer"], worker_half="", failures_file=str(run / "evalflow" / "failures.jsonl"),
            failure_cause="c",
        )  # fmt: skip
        worker = NativeWorker(request, _Channel())  # type: ignore[arg-type]
        worker.budget.dataset = "d"
        evaluator = _Evaluator(folder, worker.budget)

        def answer(number: int) -> None:
            sample = SimpleNamespace(id=number, input=f"question {number}", tools=[])
            item = SimpleNamespace(subset="s", sample=sample)
            try:
                worker._predict(evaluator, item, "")
            except Exception as error:  # noqa: BLE001 - EvalScope goes on with the next
                print(error)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(answer, [number for number in range(SAMPLES) if number not in there]))
        with _Channel().aborting():
            worker.budget.settle()

    _explained(folder / "work" / "m", do)


def _answers_result(folder: Path) -> Any:
    from evalscope_evalflow.state import answer_counts, failures

    run = folder / "work" / "m"
    rows = [json.loads(line) for line in (run / "predictions" / "m" / "d_s.jsonl").read_text().splitlines()]
    assert len({row["index"] for row in rows}) == len(rows), "answered twice"
    bought = [json.loads(line) for line in (run / "evalflow" / "usage.jsonl").read_text().splitlines()]
    assert len(bought) >= len(rows) - 2, "an answer is on no bill"  # but those that a kill came between
    return {
        "answers": {row["index"]: row["answer"] for row in rows},
        "cut": answer_counts.read(run)["d"].cut_off,
        "failed": [(item.sample, item.kind) for item in failures.standing(run, "m", "d")],
        "asked": _at_most_twice(folder),
    }


# Rows, verdicts and reports that are moved, when data or judge have changed.


def _rows(folder: Path) -> None:
    from evalscope_evalflow.backends.base import move_to
    from evalscope_evalflow.backends.native import benchmark_identity, rows_files
    from evalscope_evalflow.state.rows import end_torn_rows
    from evalscope_evalflow.worker.answer_kinds import KindsFile
    from evalscope_evalflow.worker.kept_reports import set_aside
    from evalscope_evalflow.worker.request_failures import Failures

    def do() -> None:
        run = folder / "work" / "m"
        saved = rows_files.SavedRows(run, "d")
        predictions, reviews = run / "predictions" / "m" / "d_s.jsonl", run / "reviews" / "m" / "d_s.jsonl"
        end_torn_rows([path for path in (predictions, reviews) if path.exists()])
        if not (run / "made").exists():
            answers = [{"index": number, "messages": [], "model_output": str(number)} for number in range(6)]
            rows_files.write_json_rows(predictions, answers)
            rows_files.write_json_rows(reviews, [{"index": n, "sample_score": {"score": {"value": {"acc": 1}}}}
                                                 for n in range(6)])  # fmt: skip
            (run / "made").mkdir()
        rows = {"s": rows_files.SubsetRows([f"a{n}" for n in range(6)], [f"s{n}" for n in range(6)])}
        saved.write_rows(rows)
        saved.write_header(path="here", changed=1)
        if reviews.exists():
            rows_files.archive_verdicts(saved, "judge-1", "s", predictions, reviews, rows)
        report = run / "reports" / "m" / "d.json"
        if not (run / "evalflow" / "kept" / "reports" / "m" / "d.json").exists():
            rows_files.write_whole(report, '{"score": 1}')
        set_aside(run, report)
        benchmark_identity._write(run / "evalflow" / "benchmarks.json", {"d": {"version": 1}})
        kinds = KindsFile(str(run / "evalflow"), 10)
        from evalscope_evalflow.events.answers import AnswerKind

        for number in (1, 2, 3):
            kinds.add("d", "s", number, [AnswerKind.EMPTY])
        kinds.count_again("d", "s", {1: [AnswerKind.CUT_OFF], 4: []})
        failures = Failures(str(run / "evalflow" / "failures.jsonl"), "c")
        for number in (1, 2):
            failures.add("d", "s", number, "x", "timeout", True, "late")
        Failures(str(run / "evalflow" / "failures.jsonl"), "c").forget("d", "s", [1])
        old = run / "old"
        if not (run / "evalflow" / "kept" / "1" / "old").exists():
            old.mkdir(exist_ok=True)
            (old / "file.txt").write_text("x")
        move_to(run / "evalflow" / "kept" / "1", run, [old])

    _explained(folder / "work" / "m", do)


def _rows_result(folder: Path) -> Any:
    from evalscope_evalflow.backends.native import rows_files
    from evalscope_evalflow.events.json_lines import objects_in
    from evalscope_evalflow.state import answer_counts

    run = folder / "work" / "m"
    saved = rows_files.SavedRows(run, "d")
    return {
        "rows": str(saved.rows()), "header": saved.header(),
        "answers": sorted(rows_files.by_index(run / "predictions" / "m" / "d_s.jsonl")),
        "verdicts": saved.count_verdicts("judge-1"), "reviews": (run / "reviews" / "m" / "d_s.jsonl").exists(),
        "report": (run / "evalflow" / "kept" / "reports" / "m" / "d.json").read_text(),
        "benchmarks": json.loads((run / "evalflow" / "benchmarks.json").read_text())["benchmarks"],
        "kinds": {name: counts.kinds for name, counts in answer_counts.read(run).items()},
        "failures": sorted({row["sample"] for row in objects_in(run / "evalflow" / "failures.jsonl")}),
        "archived": (run / "evalflow" / "kept" / "1" / "old" / "file.txt").read_text(), "old": (run / "old").exists(),
    }  # fmt: skip


# The files that EvalFlow keeps beside VLMEvalKit's.


def _vlm(folder: Path) -> None:
    import pandas as pd

    from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_rows_files, vlmevalkit_samples_files
    from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import CELL, Files, Journal, whole_writes

    def do() -> None:
        run = folder / "work" / "m"
        files = Files(run, "m", "D")
        files.folder.mkdir(parents=True, exist_ok=True)
        journal, known = Journal(files), files.read_journal()
        answers = {str(number): f"answer {number}" for number in range(8)} | {"8": "x" * (CELL + 1)}
        for index, text in answers.items():
            if index not in known:
                with (folder.parent / "asked.txt").open("a") as file:
                    file.write(f"{index}\n")
                journal.add(index, text)
        files.keep_long(answers)
        data = pd.DataFrame(
            {"index": [int(index) for index in answers], "question": "q", "prediction": answers.values()}
        )
        whole_writes(lambda *_: None)(data, str(files.predictions))
        files.write(requested=9, answered=9, stamp=files.stamp())
        files.write_rows({index: ["a", "b"] for index in answers})
        vlmevalkit_rows_files.write_aside(files.put_aside, [("a", "old answer")])
        (files.folder / f"{files.name}_judge.pkl").write_bytes(b"verdicts")
        files.write(verdicts_on={"0": "a"})
        files.keep_verdicts("judge-1")
        files.bring_back_verdicts("judge-1")
        vlmevalkit_samples_files.write(files, data, answers, None)

    _explained(folder / "work" / "m", do)


def _vlm_result(folder: Path) -> Any:
    from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_rows_files, vlmevalkit_samples_files
    from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files

    run = folder / "work" / "m"
    files = Files(run, "m", "D")
    state = files.read()
    return {
        "journal": files.read_journal(), "long": json.loads(files.long.read_text()).keys(),
        "state": [state["requested"], state["answered"], state["verdicts_on"]], "rows": files.rows(),
        "aside": vlmevalkit_rows_files.read_aside(files.put_aside), "verdicts": len(files.verdicts()),
        "of_judge": files.verdicts_of("judge-1"), "asked": _at_most_twice(folder),
        "samples": len(vlmevalkit_samples_files.read(files) or ()),
    }  # fmt: skip


# The registry of runs, the key of hashes, and small caches.


def _registry(folder: Path) -> None:
    from evalscope_evalflow.processes.registry import Command, Registration
    from evalscope_evalflow.run.dead_runs import clean_up_before
    from evalscope_evalflow.state import keyed_hashes

    def do() -> None:
        clean_up_before(print)
        run = folder / "work" / "m"
        run.mkdir(parents=True, exist_ok=True)
        entry = Registration("20261127-000000-abcdef01", model="m", work_dir=run)
        for role in ("engine", "worker"):
            scratch = folder / "tmp" / f"evalflow-{role}"
            scratch.mkdir(exist_ok=True)
            entry.starting(role, Command(run_id=f"x-{role}", scratch=scratch, log=run / "x.log"))
            entry.started(role, os.getpid())
            entry.phase("loading")
            entry.ended(role, [])
            with suppress(OSError):  # it is the guard's to remove
                scratch.rmdir()
        entry.close()
        keyed_hashes._key.cache_clear()
        keyed_hashes.keyed_hash("secret")

    _explained(folder / "work" / "m", do)


def _registry_result(folder: Path) -> Any:
    from evalscope_evalflow.processes import registry

    os.environ["EVALFLOW_RUNTIME_DIR"] = str(folder / "runtime")
    key = folder / "home" / ".local" / "state" / "evalflow" / "identity.key"
    return {"entries": len(registry.entries()), "key": [key.stat().st_size, oct(key.stat().st_mode)],
            "beside": [path.name for path in key.parent.iterdir()]}  # fmt: skip


PARTS = {
    "record": Part(_record, _record_result),
    "answers": Part(_answers, _answers_result),
    "rows": Part(_rows, _rows_result),
    "vlm": Part(_vlm, _vlm_result),
    "registry": Part(_registry, _registry_result, forgiving=True),
}
