"""What tests of VLMEvalKit share: runs in this process, servers that do as they are told, and a look into files."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import doors
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from evalscope_evalflow import sweep
from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ExitCode
from evalscope_evalflow.results.outcome import FlowResult

SERVER = Path(__file__).parent / "scripted" / "scripted_server.py"
MODEL_KEY, JUDGE_KEY = "sk-model-7e1", "sk-judge-9a4"
NO_PATIENCE = {"retries": 1, "timeout": 10}
# Answers that no rule reads a letter from: each takes the judge.
UNCLEAR = "{letter} it is, or so one would think who has seen many of them before"


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Server:
    """A scripted server's process.

    Attributes:
        url: the base URL of its API.
    """

    def __init__(self, port: int, journal: Path) -> None:
        self.url, self._journal = f"http://127.0.0.1:{port}/v1", journal

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """The chat requests that it got."""
        if not self._journal.exists():
            return []
        lines = map(json.loads, self._journal.read_text().splitlines())
        return [line for line in lines if line["prompt"]]

    def forget(self) -> None:
        """Begin counting anew."""
        self._journal.unlink(missing_ok=True)


@contextmanager
def serve(folder: Path, name: str, key: str, *script: str, port: int | None = None) -> Iterator[Server]:
    """Run a scripted server.

    Args:
        folder: for its journal and log.
        name: the model's.
        key: the key that it asks for.
        script: its arguments.
        port: its port; default: a free one. What fails for good is asked again of an API with another URL.
    """
    port = port or free_port()
    journal = folder / f"{name}-{port}.jsonl"
    command = [sys.executable, "-IS", str(SERVER), "--port", str(port), "--model", name, "--journal", str(journal)]
    with (folder / f"{name}-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *script], stdout=log, stderr=log, env={**os.environ, "SCRIPTED_API_KEY": key}
        )
    try:
        up = Retrying(retry=retry_if_exception_type(OSError), wait=wait_fixed(0.05), stop=stop_after_delay(20))
        up(lambda: urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close())
        yield Server(port, journal)
    finally:
        process.kill()
        process.wait()


class Outcome:
    """A run's end.

    Attributes:
        code: the exit code.
        cells: results by their datasets.
    """

    def __init__(self, result: FlowResult) -> None:
        self.code: ExitCode = result.exit_code
        self.cells: dict[str, DatasetResult] = {item.dataset: item for item in result.models[0].datasets}

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Every figure of every dataset."""
        return {name: {metric.name: metric.score for metric in cell.metrics} for name, cell in self.cells.items()}


def task(work: Path, env: Path, model_url: str, judge_url: str | None, datasets: list[str], **section: Any) -> Task:
    """A task over an API."""
    judge = {"model_id": "referee", "api_url": judge_url, "api_key": JUDGE_KEY, "generation_config": NO_PATIENCE}
    return Task.parse(
        {
            "model": "m.o-1", "api_url": model_url, "api_key": MODEL_KEY, "datasets": datasets, "work_dir": str(work),
            "generation_config": {"max_tokens": 16, "temperature": 0.0, **NO_PATIENCE}, "eval_batch_size": 4,
            **({"judge": {"models": [judge]}} if judge_url else {}),
            "evalflow": {
                "backend": "VLMEvalKit", "worker_env": str(env), "verify_md5": False,
                "deploy": {"engine": "remote", "stall_timeout_s": 2}, **section,
            },
        }
    )  # fmt: skip


def run(what: Task) -> Outcome:
    """Do it; the scores are the same through every door."""
    result = sweep.run(what)
    doors.agree(result)
    return Outcome(result)


def texts(path: Path) -> str:
    """All text in an Excel file."""
    with zipfile.ZipFile(path) as file:
        return "".join(file.read(name).decode() for name in file.namelist() if name.endswith(".xml"))


def files_with(folder: Path, text: str) -> list[str]:
    """The files below a folder that hold a text."""
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def verdicts(work: Path, part: str) -> dict[Any, Any]:
    """Verdicts as VLMEvalKit saves them, by index; `part` is the end of the file's name."""
    (path,) = work.glob(f"m_o-1/m_o-1_{part}.pkl")
    found: dict[Any, Any] = pickle.loads(path.read_bytes())
    return found
