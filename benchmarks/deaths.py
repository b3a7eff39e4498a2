"""How long it takes until one is told that the engine has died in mid-run: by stock EvalScope, and by EvalFlow.

    python benchmarks/deaths.py llamacpp MODEL.gguf [--times 3] [--json FILE]
    python benchmarks/deaths.py vllm CHECKPOINT --env ENV [--victim EngineCore]

The engine gets SIGKILL when the first answer is saved, and is not started again (`max_restarts: 0`). `--victim` is
part of a process's command line, below the engine's, such as vLLM's `EngineCore`: then its own process lives on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from case import Case
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

GIVE_UP_S = 300


def main() -> None:
    args = parse()
    told: dict[str, list[float]] = {"stock": [], "evalflow": []}
    with tempfile.TemporaryDirectory() as folder:
        case = Case(args.engine, args.model, args.env, args.items, Path(folder))
        case.max_tokens = 200
        case.deploy["max_restarts"] = 0
        for number in range(args.times):
            for name, way in (("stock", by_hand), ("evalflow", ours)):
                work = Path(folder) / f"{name}-{number}"
                work.mkdir()
                told[name].append(way(case, work, args.victim))
                print(f"{name:8} {told[name][-1]:.2f} s", file=sys.stderr, flush=True)
    result = {name: statistics.median(seconds) for name, seconds in told.items()}
    print(
        f"{args.engine}, killed: {args.victim or 'the engine'}; from its death to the error, medians of {args.times}\n"
    )
    print("| | s |\n|---|---|")
    for name, seconds in result.items():
        print(f"| {name} | {seconds:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({"engine": args.engine, "victim": args.victim, "error_s": result, "all": told}))


def by_hand(case: Case, work: Path, victim: str) -> float:
    """Seconds until stock EvalScope ends with an error."""
    with case.server(work) as (server, port), (work / "log").open("wb") as log:
        process = subprocess.Popen(case.stock(work, port), stdout=log, stderr=log, env=case.stock_variables())
        try:
            wait_for_an_answer(work / "out", process)
            killed = kill(psutil.Process(server.pid), victim)
            process.wait(GIVE_UP_S)
            return time.perf_counter() - killed
        finally:
            process.kill()
            process.wait()


def ours(case: Case, work: Path, victim: str) -> float:
    """Seconds until `evalflow` says so."""
    with (work / "stdout").open("wb") as output:
        process = subprocess.Popen(case.command(work), stdout=output, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_an_answer(work / "out", process)
        command = json.loads((work / "out" / "evalflow" / "run.json").read_text())["command"]
        below = psutil.Process(process.pid).children(recursive=True)
        killed = kill(next(child for child in below if child.cmdline() == command), victim)
        assert process.stderr is not None
        for line in process.stderr:
            if "in the middle of the evaluation" in line:
                return time.perf_counter() - killed
        raise SystemExit("evalflow has not said that the engine died")
    finally:
        process.terminate()
        process.wait(60)


def wait_for_an_answer(folder: Path, process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Wait until one is saved."""

    def saved() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"it ended before it could be disturbed, with exit code {process.returncode}")
        return any(path.stat().st_size for path in folder.glob("predictions/*/*.jsonl"))

    Retrying(retry=retry_if_result(lambda found: not found), wait=wait_fixed(0.05), stop=stop_after_delay(GIVE_UP_S))(
        saved
    )


def kill(engine: psutil.Process, victim: str) -> float:
    """SIGKILL the engine, or a process below it; when."""
    target = engine
    if victim:
        target = next(child for child in engine.children(recursive=True) if victim in " ".join(child.cmdline()))
    with suppress(psutil.NoSuchProcess):
        target.kill()
    return time.perf_counter()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["llamacpp", "vllm"])
    parser.add_argument("model", help="GGUF file or checkpoint folder")
    parser.add_argument("--env", help="environment that has the engine")
    parser.add_argument("--victim", default="", help="part of the command line of a process below the engine's")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    main()
