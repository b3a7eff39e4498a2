"""Stands for EvalScope in a worker: answers and verdicts as an earlier run has saved them, asked for one by one.

All else of the worker is real: its main, the channel, and the files that EvalFlow itself writes there.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TEMPLATE = "STAND_IN_TEMPLATE"  # names the folder of that run
FILE = "general_mcq_tiny.jsonl"


def install() -> None:
    """Have the worker of this process use it."""
    importlib.import_module("evalscope_evalflow.worker.main").load_half = lambda _: StandIn  # type: ignore[attr-defined]


class StandIn:
    """A worker half."""

    def __init__(self, request: Any, channel: Any) -> None:
        from evalscope_evalflow.worker.answer_kinds import KindsFile
        from evalscope_evalflow.worker.budget import Budget
        from evalscope_evalflow.worker.request_failures import Failures

        self.channel, self.task = channel, request.stock_task
        self.folder = Path(self.task["work_dir"])
        self.model = str(self.task["model_id"])
        self.template = Path(os.environ[TEMPLATE]) / self.model
        self.failures = Failures(request.failures_file, request.failure_cause)
        self.kinds = KindsFile(str(self.folder / "evalflow"), 16)
        self.budget = Budget(str(self.folder / "evalflow"), request.budget, 16)
        self.lock = threading.Lock()

    def prepare(self) -> None:
        for path in self.template.glob("evalflow/saved/**/*.json"):
            target = self.folder / path.relative_to(self.template)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for path in (self.template / "evalflow").glob("benchmarks.json"):
            shutil.copy(path, self.folder / "evalflow" / path.name)

    def infer(self) -> None:
        from evalscope_evalflow.events.answers import AnswerKind
        from evalscope_evalflow.events.worker_events import DatasetAnswered

        url = self.channel.wait_for_model()

        def answer(row: dict[str, Any]) -> None:
            asked = f"question {row['index']}"
            said = _ask(url, self.model, asked, os.environ["EVALSCOPE_API_KEY"])
            cut = said["finish_reason"] == "length" or row["model_output"]["choices"][0]["stop_reason"] == "max_tokens"
            with self.channel.aborting():
                self.budget._write({"kind": "answer", "dataset": "general_mcq", "tokens": 2})
                self.kinds.add("general_mcq", "tiny", row["index"], [AnswerKind.CUT_OFF] if cut else [])
                self._save("predictions", row)

        answered = self._each("predictions", answer)
        with self.channel.aborting():
            for line in (self.template / "evalflow" / "failures.jsonl").read_text().splitlines():
                item = json.loads(line)
                if ("general_mcq", "tiny", str(item["sample"])) not in self.failures._known:
                    self.failures.add("general_mcq", "tiny", item["sample"], item["cause"], item["kind"], False, "no")
        self.channel.emit(DatasetAnswered("general_mcq", requested=answered + 1, answered=answered))

    def judge(self, at_once: int | None) -> None:
        models = (self.task.get("judge") or {}).get("models")

        def verdict(row: dict[str, Any]) -> None:
            if models:
                _ask(models[0]["api_url"], "judge", f"verdict on {row['index']}", "none")
            with self.channel.aborting():
                self._save("reviews", row)

        self._each("reviews", verdict)
        for path in self.template.glob("reports/*/*.json"):
            target = self.folder / path.relative_to(self.template)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target.with_suffix(".new"))
            os.replace(target.with_suffix(".new"), target)

    def _each(self, kind: str, do: Callable[[dict[str, Any]], None]) -> int:
        rows = [json.loads(line) for line in (self.template / kind / self.model / FILE).read_text().splitlines()]
        path = self.folder / kind / self.model / FILE
        there = {json.loads(line)["index"] for line in path.read_text().splitlines()} if path.exists() else set()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(do, [row for row in rows if row["index"] not in there]))
        return len(rows)

    def _save(self, kind: str, row: dict[str, Any]) -> None:
        from evalscope_evalflow.events.json_lines import FileError, append

        path = self.folder / kind / self.model / FILE
        with self.lock:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(error.errno, error.strerror, str(path.parent)) from error
            append(path, json.dumps(row) + "\n")


def _ask(url: str, model: str, text: str, key: str) -> dict[str, Any]:
    body = json.dumps({"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": text}]})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", body.encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["choices"][0]
