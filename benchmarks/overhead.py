"""From command to result: by hand (start the engine, poll, stock `evalscope eval`, stop it) against EvalFlow.

    python benchmarks/overhead.py llamacpp MODEL.gguf [--pairs 5] [--json FILE]
    python benchmarks/overhead.py vllm CHECKPOINT --env ENV --items 4
    python benchmarks/overhead.py vllm VLM --env ENV --items 16 --backend VLMEvalKit --worker_env ENV

The same engine command, task and data, in pairs of alternating order. By hand `/health` is polled every second. A
ratio is by hand / ours, so that more is better; it is the median of the pairs' ratios, all else are medians. Beside
that: a rerun with everything saved; the time from the last answer to the engine's end; and what the `evalflow`
process and its guards use.
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
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from case import Case, Timing, VlmCase


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        if args.backend == "VLMEvalKit":
            case: Case = VlmCase(args.engine, args.model, args.env, args.items, Path(folder), args.worker_env)
        else:
            case = Case(args.engine, args.model, args.env, args.items, Path(folder))
        with case.ready():
            ways: dict[str, Callable[[Path], Timing]] = {"by hand": case.by_hand, "evalflow": case.evalflow}
            if args.evalscope:
                ways["evalscope"] = case.evalscope
            timings, last = run_pairs(ways, args.pairs, Path(folder))
            result = {
                "engine": args.engine, "backend": args.backend, "items": args.items, "pairs": args.pairs,
                "ways": {name: summary(runs, timings["by hand"]) for name, runs in timings.items()},
                "rerun": rerun(case, last, args.reruns) if args.reruns else None,
                "runs": {name: [asdict(timing) for timing in runs] for name, runs in timings.items()},
            }  # fmt: skip
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))


def run_pairs(
    ways: dict[str, Callable[[Path], Timing]], pairs: int, folder: Path
) -> tuple[dict[str, list[Timing]], dict[str, Path]]:
    """Every way, in turn. The timings, and the folders of the last pair."""
    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    last = {}
    for number in range(pairs):
        names = list(ways)
        for name in names if number % 2 else reversed(names):
            last[name] = folder / f"{name.replace(' ', '-')}-{number}"
            last[name].mkdir()
            timing = ways[name](last[name])
            timings[name].append(timing)
            print(f"{name:9} {timing.total:7.2f} s, start {timing.start:.2f} s", file=sys.stderr, flush=True)
    return timings, last


def rerun(case: Case, last: dict[str, Path], times: int) -> dict[str, Any]:
    """The last pair once more, with everything saved: stock EvalScope's way, and ours, which has to start nothing."""
    stock, ours = [], []
    for _ in range(times):
        began = time.perf_counter()
        done = subprocess.run(
            case.stock_again(last["by hand"]), capture_output=True, text=True, check=True, env=case.stock_variables()
        )
        stock.append(time.perf_counter() - began)
        case.check(done.stdout + done.stderr, last["by hand"] / "out")
        events = last["evalflow"] / "out" / "evalflow" / "events.jsonl"
        before = len(events.read_text())
        timing = time_of(case.command(last["evalflow"]), case)
        ours.append(timing)
        if '"PhaseBegan"' in events.read_text()[before:]:
            raise SystemExit("the rerun has started something")
    return {
        "stock_s": statistics.median(stock), "evalflow_s": statistics.median(ours), "times": times,
        "evalflow_to_stock": statistics.median(b / a for a, b in zip(stock, ours, strict=True)),
    }  # fmt: skip


def time_of(command: list[str], case: Case) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, **case.variables})
    return time.perf_counter() - began


def summary(runs: list[Timing], by_hand: list[Timing]) -> dict[str, Any]:
    """Medians of one way."""
    found: dict[str, Any] = {
        "total_s": median(run.total for run in runs),
        "by_hand_to_this": median(hand.total / run.total for run, hand in zip(runs, by_hand, strict=True)),
        "engine_start_s": median(run.start for run in runs),
        "engine_end_s": median(run.free for run in runs),
    }
    if runs[0].usage:
        found["overlap"] = median(run.share for run in runs if run.share is not None)
        found["usage"] = {
            phase: {
                key: median(vars(run.usage[phase])[key] for run in runs if run.usage[phase].seconds)
                for key in vars(runs[0].usage[phase])
            }
            for phase in runs[0].usage
        }
    return found


def median(values: Iterable[float]) -> float:
    """The median; not a number, of none."""
    found = list(values)
    return round(statistics.median(found), 3) if found else float("nan")


def show(result: dict[str, Any]) -> None:
    """The tables."""
    title = f"{result['engine']}, {result['backend']}, {result['items']} items, {result['pairs']} pairs"
    print(f"{title}\n\n| | total, s | by hand / this | engine's start, s | last answer to engine's end, s |")
    print("|---|---|---|---|---|")
    for name, way in result["ways"].items():
        cells = way["total_s"], way["by_hand_to_this"], way["engine_start_s"], way["engine_end_s"]
        print(f"| {name} |", " | ".join(f"{cell:.2f}" for cell in cells), "|")
    ours = result["ways"]["evalflow"]
    print(f"\nThe engine's start hid {ours['overlap']:.0%} of the worker's. The `evalflow` process, and its guards:\n")
    print("| while | CPU, % of a core | memory, MB | guards' CPU | guards' memory |\n|---|---|---|---|---|")
    for phase, used in ours["usage"].items():
        cells = 100 * used["cpu"], used["rss_mb"], 100 * used["guards_cpu"], used["guards_rss_mb"]
        print(f"| {phase} ({used['seconds']:.1f} s) |", " | ".join(f"{cell:.1f}" for cell in cells), "|")
    again = result["rerun"]
    if again:
        print(
            f"\nRerun with everything saved: stock {again['stock_s']:.2f} s, evalflow {again['evalflow_s']:.2f} s, "
            f"evalflow / stock {again['evalflow_to_stock']:.3f}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["llamacpp", "vllm"])
    parser.add_argument("model", help="GGUF file or checkpoint folder")
    parser.add_argument("--env", help="environment that has the engine")
    parser.add_argument("--backend", choices=["Native", "VLMEvalKit"], default="Native")
    parser.add_argument("--worker_env", help="environment that has EvalScope with VLMEvalKit")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--reruns", type=int, default=3, help="how often both are run again, with everything saved")
    parser.add_argument("--evalscope", action="store_true", help="time `evalscope eval --eval-backend evalflow`, too")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
