"""One task, done by hand with stock EvalScope and by EvalFlow: the same engine command, model, data and settings."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zlib import compress, crc32

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from usage import Usage, UsageOf

from evalscope_evalflow.cli import demo
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import Address, load_engine

BIN = Path(sys.executable).parent
SCRIPTED = Path(__file__).resolve().parents[1] / "tests" / "scripted" / "scripted_server.py"
CONCURRENCY = 4
KEY, JUDGE_KEY = "key", "judge-key"
BY_HAND_POLL_S = 1.0
CPU = {
    "env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    "extra_args": ["--enforce-eager", "--dtype", "bfloat16"],
    "max_model_len": 1024,
    "max_num_seqs": 8,
}
WORDS = ["apple", "river", "stone", "cloud", "piano", "tiger", "bread", "snow"]


@dataclass
class Timing:
    """Seconds of one run, and where they went.

    Attributes:
        total: all of it.
        start: of that, the engine's start, as whoever waited for it saw it.
        free: from the last answer to the moment that nothing of the engine was left; by hand, from SIGTERM.
        share: of the worker's start, how much the engine's start hid; None by hand.
        usage: of the `evalflow` process; None by hand.
    """

    total: float
    start: float
    free: float
    share: float | None = None
    usage: dict[str, Usage] = field(default_factory=dict)


class Case:
    """One engine, one model, one task of the Native backend.

    Attributes:
        backend: the stock backend's name.
    """

    backend = "Native"
    datasets = ("general_mcq",)
    max_tokens = 16

    def __init__(self, engine: str, model: str, env: str | None, items: int, folder: Path) -> None:
        """
        Args:
            engine: its name.
            model: file or folder.
            env: environment that has the engine; None: this one.
            items: how many are asked.
            folder: for what all runs share.
        """
        self.engine, self.items = engine, items
        options: dict[str, Any] = dict(CPU) if engine == "vllm" else {"max_model_len": 1024, "max_num_seqs": 4}
        self.deploy = {"engine": engine, **options, **({"env": env} if env else {})}
        self.model = os.path.abspath(os.path.expanduser(model))
        self.dataset_args = {"general_mcq": demo.dataset_args(demo.data_folder())["general_mcq"]}
        self.variables: dict[str, str] = {}
        self.adapter: str | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Whatever else it takes, for the length of the block."""
        yield

    # by hand

    def by_hand(self, work: Path) -> Timing:
        """Start, poll, evaluate, stop."""
        began = time.perf_counter()
        with self.server(work) as (process, port):
            start = time.perf_counter() - began
            done = subprocess.run(
                self.stock(work, port), capture_output=True, text=True, check=True, env=self.stock_variables()
            )
            told = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            process.wait()
        ended = time.perf_counter()
        self.check(done.stdout + done.stderr, work / "out")
        (work / "port").write_text(str(port))
        return Timing(ended - began, start, ended - told)

    @contextmanager
    def server(self, work: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """The engine, started with the command that EvalFlow makes, and polled until its `/health` says 200."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = DeployConfig.model_validate(self.deploy)
        env = Environment.find(config.env)
        model = ModelConfig.parse({"name": "m", "path": self.model, "adapter": self.adapter})
        command = load_engine(self.engine).command(model, config, Address("127.0.0.1", port, KEY), env)
        variables = {**env.variables(os.environ), **command.env, **config.env_vars}
        with (work / "engine.log").open("wb") as log:
            process = subprocess.Popen(env.wrap(command.argv), stdout=log, stderr=log, env=variables)
        try:
            poll = Retrying(
                retry=retry_if_result(lambda up: not up), wait=wait_fixed(BY_HAND_POLL_S), stop=stop_after_delay(300)
            )
            poll(lambda: healthy(port))
            yield process, port
        finally:
            process.kill()
            process.wait()

    def stock(self, work: Path, port: int, *more: str) -> list[str]:
        """Stock EvalScope's command."""
        return [
            str(BIN / "evalscope"), "eval", "--model", "m", "--api-url", f"http://127.0.0.1:{port}/v1",
            "--api-key", KEY, "--eval-type", "openai_api", "--no-timestamp", *self._task(work), *more,
        ]  # fmt: skip

    def stock_again(self, work: Path) -> list[str]:
        """The same once more, with everything saved and no server."""
        return self.stock(work, int((work / "port").read_text()), "--use-cache", str(work / "out"))

    def stock_variables(self) -> dict[str, str]:
        """Its environment."""
        return {**os.environ, **self.variables, "EVALFLOW_DISABLE": "1"}

    def _task(self, work: Path) -> list[str]:
        return [
            "--datasets", "general_mcq", "--dataset-args", json.dumps(self.dataset_args), "--limit", str(self.items),
            "--generation-config", json.dumps({"max_tokens": self.max_tokens, "temperature": 0.0}),
            "--eval-batch-size", str(CONCURRENCY), "--work-dir", str(work / "out"),
        ]  # fmt: skip

    # ours

    def section(self) -> dict[str, Any]:
        """The section `evalflow`."""
        return {"backend": "Native", "deploy": self.deploy}

    def evalflow(self, work: Path) -> Timing:
        """The `evalflow` command."""
        return self._ours(self.command(work), work)

    def command(self, work: Path) -> list[str]:
        """The `evalflow` command's words."""
        task = {
            "datasets": list(self.datasets), "limit": self.items, "eval_batch_size": CONCURRENCY,
            "generation_config": {"max_tokens": self.max_tokens, "temperature": 0.0},
            "model": self.model, "model_id": "m", "work_dir": str(work / "out"), "evalflow": self.section(),
            **self.stock_fields(),
        }  # fmt: skip
        file = work / "task.json"
        file.write_text(json.dumps(task))
        return [str(BIN / "evalflow"), "run", str(file)]

    def stock_fields(self) -> dict[str, Any]:
        """Fields of the task that the backend needs."""
        return {"dataset_args": self.dataset_args}

    def evalscope(self, work: Path) -> Timing:
        """`evalscope eval --eval-backend evalflow`."""
        command = [str(BIN / "evalscope"), "eval", "--eval-backend", "evalflow",
                   "--evalflow", json.dumps(self.section()), "--model", self.model, "--model-id", "m",
                   *self._task(work)]  # fmt: skip
        return self._ours(command, work)

    def _ours(self, command: list[str], work: Path) -> Timing:
        began = time.perf_counter()
        with (work / "stdout").open("wb") as output, (work / "stderr").open("wb") as errors:
            process = subprocess.Popen(command, stdout=output, stderr=errors, env={**os.environ, **self.variables})
            with UsageOf(process.pid) as usage:
                process.wait()
        total = time.perf_counter() - began
        said = (work / "stderr").read_text()
        if process.returncode:
            raise SystemExit(f"{shlex.join(command)} failed:\n{said}")
        self.check((work / "stdout").read_text(), work / "out")
        start = float(re.findall(r"is ready at \S+ \((\d+\.\d+) s\)", said)[-1])
        when = events(work / "out")
        used = {
            name: usage.between(when[f"PhaseBegan {name}"], when[f"PhaseEnded {name}"]) for name in ("load", "infer")
        }
        record = json.loads((work / "out" / "evalflow" / "run.json").read_text())
        free = when["PhaseEnded release"] - self.last_answer(work / "out", when)
        return Timing(total, start, free, record["overlap"]["share"], used)

    def last_answer(self, folder: Path, when: dict[str, float]) -> float:
        """When the last answer was saved, in seconds since the epoch."""
        return max(path.stat().st_mtime for path in folder.glob("predictions/*/*.jsonl"))

    def check(self, output: str, folder: Path) -> None:
        """Whether every item was answered and scored: a fast failure is no result."""
        reports = list(folder.glob("reports/*/general_mcq.json"))
        if len(reports) != 1 or json.loads(reports[0].read_text())["execution_summary"]["succeeded"] != self.items:
            raise SystemExit(f"not every item was scored:\n{output}")


class VlmCase(Case):
    """A multiple-choice set with images, by VLMEvalKit; the judge is a scripted server that answers at once."""

    backend = "VLMEvalKit"
    datasets = ("words",)

    def __init__(self, engine: str, model: str, env: str | None, items: int, folder: Path, worker_env: str) -> None:
        """
        Args:
            worker_env: environment that has EvalScope with VLMEvalKit.
        """
        super().__init__(engine, model, env, items, folder)
        self.worker_env, self.folder = os.path.abspath(os.path.expanduser(worker_env)), folder
        self.variables = {"LMUData": str(folder)}
        with (folder / "words.tsv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["index", "image", "question", *"ABCD", "answer", "category"])
            for number in range(items):
                options = [WORDS[(number + step) % len(WORDS)] for step in range(4)]
                question = f"{number}: which word is '{options[0]}'"
                writer.writerow([number, base64.b64encode(png(number)).decode(), question, *options, "A", "words"])

    @contextmanager
    def ready(self) -> Iterator[None]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.judge_url = f"http://127.0.0.1:{port}/v1"
        command = [
            sys.executable,
            "-IS",
            str(SCRIPTED),
            "--port",
            str(port),
            "--model",
            "judge",
            "--answer",
            "{letter}",
        ]
        with (self.folder / "judge.log").open("wb") as log:
            variables = {**os.environ, "SCRIPTED_API_KEY": JUDGE_KEY}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
        try:
            Retrying(retry=retry_if_result(lambda up: not up), wait=wait_fixed(0.1))(lambda: healthy(port))
            yield
        finally:
            process.kill()
            process.wait()

    def stock(self, work: Path, port: int, *more: str) -> list[str]:
        model = {
            "name": "CustomAPIModel", "type": "m", "api_base": f"http://127.0.0.1:{port}/v1/chat/completions",
            "key": KEY, "temperature": 0.0, "max_tokens": self.max_tokens,
        }  # fmt: skip
        config = {
            "data": list(self.datasets), "model": [model], "limit": self.items, "nproc": CONCURRENCY, "reuse": True,
            "OPENAI_API_BASE": f"{self.judge_url}/chat/completions", "OPENAI_API_KEY": JUDGE_KEY, "LOCAL_LLM": "judge",
        }  # fmt: skip
        file = work / "stock.json"
        file.write_text(json.dumps(config))
        return [
            f"{self.worker_env}/bin/evalscope", "eval", "--eval-backend", "VLMEvalKit", "--eval-config", str(file),
            "--work-dir", str(work / "out"), "--no-timestamp", *more,
        ]  # fmt: skip

    def stock_again(self, work: Path) -> list[str]:
        return self.stock(work, int((work / "port").read_text()))

    def section(self) -> dict[str, Any]:
        return {"backend": "VLMEvalKit", "worker_env": self.worker_env, "deploy": self.deploy}

    def stock_fields(self) -> dict[str, Any]:
        judge = {"model_id": "judge", "api_url": self.judge_url, "api_key": JUDGE_KEY}
        return {"judge": {"models": [judge]}}

    def last_answer(self, folder: Path, when: dict[str, float]) -> float:
        return when["AllAnswered"]

    def check(self, output: str, folder: Path) -> None:
        scores, answers = list(folder.glob("m/m_words_acc.csv")), list(folder.glob("m/m_words.xlsx"))
        if not scores or not answers or "combination failed" in output or "Failed to obtain" in texts(answers[0]):
            raise SystemExit(f"not every item was scored:\n{output}")


def healthy(port: int) -> bool:
    """Whether the engine's health endpoint says 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def events(folder: Path) -> dict[str, float]:
    """When things happened in a run, in seconds since the epoch."""
    when = {}
    for line in (folder / "evalflow" / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        name = f"{event['event']} {event.get('phase', '')}".strip()
        when[name] = datetime.fromisoformat(event["time"]).timestamp()
    return when


def texts(file: Path) -> str:
    """All text in an Excel file."""
    with zipfile.ZipFile(file) as parts:
        return "".join(parts.read(name).decode() for name in parts.namelist() if name.endswith(".xml"))


def png(number: int, side: int = 112) -> bytes:
    """A picture in one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + crc32(kind + data).to_bytes(4, "big")

    row = b"\0" + bytes((number * 37 % 256, number * 91 % 256, number * 53 % 256)) * side
    head = side.to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", compress(row * side)) + chunk(b"IEND", b"")
