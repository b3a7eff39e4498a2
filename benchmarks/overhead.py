"""From command to result: by hand (start the engine, poll, stock `evalscope eval`, stop it) against EvalFlow.

    python benchmarks/overhead.py llamacpp MODEL.gguf [--pairs 5] [--json FILE]
    python benchmarks/overhead.py vllm CHECKPOINT --env ENV [--pairs 5]

The same engine command, task and data; pairs in turn, in alternating order. By hand the health endpoint is polled
every 0.2 s. Reported are medians, the ratio of each door to the by-hand way, and the seconds outside the engine's
start and the requests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_result, wait_fixed

from evalscope_evalflow import demo
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import Address, load_engine
from evalscope_evalflow.engines.environment import Environment

BIN = Path(sys.executable).parent
CONCURRENCY = 4
CPU = {
    "env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    "extra_args": ["--enforce-eager", "--dtype", "bfloat16"],
    "max_model_len": 1024,
    "max_num_seqs": 8,
}


@dataclass
class Timing:
    """Seconds of one run: all of it, and of that the engine's start and the requests."""

    total: float
    start: float
    requests: float

    @property
    def outside(self) -> float:
        return self.total - self.start - self.requests


class Case:
    """One engine, one model, one task."""

    def __init__(self, engine: str, model: str, env: str | None, items: int) -> None:
        self.engine, self.items = engine, items
        options: dict[str, Any] = dict(CPU) if engine == "vllm" else {"max_model_len": 1024, "max_num_seqs": 4}
        self.deploy = {"engine": engine, **options, **({"env": env} if env else {})}
        self.model = os.path.abspath(os.path.expanduser(model))
        self.dataset_args = {"general_mcq": demo.dataset_args(demo.data_folder())["general_mcq"]}

    def stock(self, work: Path) -> list[str]:
        return [
            "--datasets", "general_mcq", "--dataset-args", json.dumps(self.dataset_args), "--limit", str(self.items),
            "--generation-config", '{"max_tokens": 16, "temperature": 0.0}', "--eval-batch-size", str(CONCURRENCY),
            "--work-dir", str(work),
        ]  # fmt: skip

    def by_hand(self, work: Path) -> Timing:
        """Start, poll, evaluate, stop."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = DeployConfig.model_validate(self.deploy)
        env = Environment.find(config.env)
        command = load_engine(self.engine).command(
            ModelConfig.parse({"name": "m", "path": self.model}), config, Address("127.0.0.1", port, "key"), env
        )
        began = time.perf_counter()
        with (work / "engine.log").open("wb") as log:
            variables = {**env.variables(os.environ), **command.env, **config.env_vars}
            server = subprocess.Popen(env.wrap(command.argv), stdout=log, stderr=log, env=variables)
        Retrying(retry=retry_if_result(lambda up: not up), wait=wait_fixed(0.2))(lambda: healthy(port))
        start = time.perf_counter() - began
        done = subprocess.run(
            [BIN / "evalscope", "eval", "--model", "m", "--api-url", f"http://127.0.0.1:{port}/v1", "--api-key", "key",
             "--eval-type", "openai_api", "--no-timestamp", *self.stock(work / "out")],
            capture_output=True, text=True, check=True, env={**os.environ, "EVALFLOW_DISABLE": "1"},
        )  # fmt: skip
        server.send_signal(signal.SIGTERM)
        server.wait()
        total = time.perf_counter() - began
        check(done.stdout + done.stderr, work / "out", self.items)
        return Timing(total, start, predicting(work / "out"))

    def evalflow(self, work: Path) -> Timing:
        """The `evalflow` command."""
        task = {
            "datasets": ["general_mcq"], "dataset_args": self.dataset_args, "limit": self.items,
            "generation_config": {"max_tokens": 16, "temperature": 0.0}, "eval_batch_size": CONCURRENCY,
            "model": self.model, "model_id": "m", "work_dir": str(work / "out"),
            "evalflow": {"backend": "Native", "deploy": self.deploy},
        }  # fmt: skip
        file = work / "task.json"
        file.write_text(json.dumps(task))
        return self._ours([BIN / "evalflow", "run", file], work)

    def evalscope(self, work: Path) -> Timing:
        """`evalscope eval --eval-backend evalflow`."""
        section = json.dumps({"backend": "Native", "deploy": self.deploy})
        command = [BIN / "evalscope", "eval", "--eval-backend", "evalflow", "--evalflow", section,
                   "--model", self.model, "--model-id", "m", *self.stock(work / "out")]  # fmt: skip
        return self._ours(command, work)

    def _ours(self, command: list[Any], work: Path) -> Timing:
        began = time.perf_counter()
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        total = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{shlex.join(map(str, command))} failed:\n{done.stderr}")
        check(done.stdout, work / "out", self.items)
        start = float(re.findall(r"is ready at \S+ \((\d+\.\d+) s\)", done.stderr)[-1])
        return Timing(total, start, predicting(work / "out"))


def healthy(port: int) -> bool:
    """Whether the engine's health endpoint says 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def check(output: str, work: Path, items: int) -> None:
    """Whether every item was answered and scored: a fast failure is no result."""
    reports = list(work.glob("reports/*/general_mcq.json"))
    if len(reports) != 1 or json.loads(reports[0].read_text())["execution_summary"]["succeeded"] != items:
        raise SystemExit(f"not every item was scored:\n{output}")


def predicting(work: Path) -> float:
    """Seconds spent on requests: the sum of their latencies, over the number that ran at once."""
    latencies = [
        json.loads(line)["model_output"]["time"]
        for path in work.glob("predictions/*/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return sum(latencies) / CONCURRENCY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["llamacpp", "vllm"])
    parser.add_argument("model", help="GGUF file or checkpoint folder")
    parser.add_argument("--env", help="environment that has the engine")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    case = Case(args.engine, args.model, args.env, args.items)
    ways: dict[str, Callable[[Path], Timing]] = {
        "by hand": case.by_hand, "evalflow": case.evalflow, "evalscope": case.evalscope,
    }  # fmt: skip
    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    for number in range(args.pairs):
        names = list(ways)
        for name in names if number % 2 else reversed(names):
            with tempfile.TemporaryDirectory() as folder:
                timings[name].append(ways[name](Path(folder)))
            print(name, *(f"{value:.2f}" for value in vars(timings[name][-1]).values()), file=sys.stderr, flush=True)
    result = {}
    for name, runs in timings.items():
        ratios = [run.total / hand.total for run, hand in zip(runs, timings["by hand"], strict=True)]
        result[name] = {
            "total_s": statistics.median(run.total for run in runs),
            "ratio_to_by_hand": statistics.median(ratios),
            "engine_start_s": statistics.median(run.start for run in runs),
            "outside_start_and_requests_s": statistics.median(run.outside for run in runs),
        }
        print(f"{name:10}", *(f"{key} {value:8.3f}" for key, value in result[name].items()))
    if args.json:
        args.json.write_text(json.dumps({"engine": args.engine, "pairs": args.pairs, **result}, indent=2))


if __name__ == "__main__":
    main()
