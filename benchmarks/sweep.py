"""A sweep of ten models × six datasets on 1, 2, 4 and 8 devices, against the best schedule that there is.

    pip install -e '.[bench]'
    python benchmarks/sweep.py --seeds 20 --devices 1 2 4 8 --json sweep.json
    python benchmarks/sweep.py --simulate --seeds 200      # the scheduler's decisions alone, without processes
    python benchmarks/sweep.py --real                      # three real llama.cpp models on two slots

The models are scripted: engines and workers that wait as long as the scenario of a seed says, at 1:20 of real time, so
that all of the rest (the scheduler, guards, readiness, release, records, files) is EvalFlow's own. Reported is the
makespan, from the start of the first engine's process to the last verdict, over that of the best schedule, which knows
all times before and loses nothing between two jobs; and, of one model after the other, the same without any loss, over
ours. Seeds run at the same time as long as no more than `--engines` engines do. What is in the JSON file already is not
run again.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from evalscope_evalflow.serving import http

sys.path.insert(0, str(Path(__file__).parent))
from scripted_sweep import real, run, simulation
from scripted_sweep.best import best
from scripted_sweep.scenario import draw

JUDGE = Path(__file__).parents[1] / "tests" / "scripted" / "scripted_server.py"


@contextmanager
def judge() -> Any:
    """The URL of an API that has the model `judge`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-IS", JUDGE, "--port", str(port), "--model", "judge"], stdout=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        Retrying(retry=retry_if_result(lambda up: not up), wait=wait_fixed(0.1), stop=stop_after_delay(30))(
            lambda: http.request(f"{url}/health", timeout_s=2, direct=True).ok
        )
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait()


def measure(devices: int, seeds: list[int], args: argparse.Namespace, known: dict[str, Any]) -> None:
    """Run the seeds that are not known, several at a time; add them to what is known, and write it."""
    left = [seed for seed in seeds if f"{devices}/{seed}" not in known]
    scenarios = [draw(seed, devices) for seed in left]
    found = [best(scenario) for scenario in scenarios]  # before anything is timed

    def one(number: int) -> None:
        scenario, least = scenarios[number], found[number]
        try:
            measured = run.run(scenario, url, args.speed, args.scratch)
        except RuntimeError as error:
            print(f"{devices} devices, seed {scenario.seed}: {error}", file=sys.stderr)
            return
        row = {
            "devices": devices, "seed": scenario.seed, "speed": args.speed, **asdict(measured),
            "best_s": least.makespan_s / args.speed, "bound_s": least.bound_s / args.speed,
            "sequential_s": scenario.sequential_s / args.speed,
            "simulated_s": simulation.makespan(scenario) / args.speed,
        }  # fmt: skip
        known[f"{devices}/{scenario.seed}"] = row
        ratios = f"{row['makespan_s'] / row['best_s']:.3f}, decisions alone {row['simulated_s'] / row['best_s']:.3f}"
        print(f"{devices} devices, seed {scenario.seed}: {row['makespan_s']:.1f} s, / best {ratios}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(known, indent=1))

    with judge() as url, ThreadPoolExecutor(max(1, args.engines // devices)) as pool:
        list(pool.map(one, range(len(left))))


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print("| devices | seeds | makespan / best, median | worst | decisions alone, median | worst | sequential / ours |")
    print("|---|---|---|---|---|---|---|")
    for devices in sorted({row["devices"] for row in rows}):
        mine = [row for row in rows if row["devices"] == devices]
        ours = [row.get("makespan_s", row["simulated_s"]) for row in mine]
        ratios = [own / row["best_s"] for own, row in zip(ours, mine, strict=True)]
        decisions = [row["simulated_s"] / row["best_s"] for row in mine]
        gain = statistics.median(row["sequential_s"] / own for own, row in zip(ours, mine, strict=True))
        print(
            f"| {devices} | {len(mine)} | {statistics.median(ratios):.3f} | {max(ratios):.3f} "
            f"| {statistics.median(decisions):.3f} | {max(decisions):.3f} | {gain:.2f} |"
        )
    handovers = [row["handover_s"] for row in rows if row.get("handover_s")]
    if handovers:
        print(f"\nfrom the last answer to the next engine's process: {statistics.median(handovers):.2f} s (median)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--speed", type=float, default=20, help="virtual seconds in a real one")
    parser.add_argument("--engines", type=int, default=8, help="at most so many at the same time")
    parser.add_argument("--simulate", action="store_true", help="play the decisions through, and start nothing")
    parser.add_argument("--real", action="store_true", help="three llama.cpp models on two slots")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder for files")
    args = parser.parse_args()
    if args.real:
        figures = real.compare(args.scratch)
        print(json.dumps(figures, indent=1))
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1))
        return
    seeds = list(range(args.seeds))
    known: dict[str, Any] = {}
    if args.json and args.json.exists():
        known = json.loads(args.json.read_text())
    for devices in args.devices:
        if args.simulate:
            known |= {f"{devices}/{seed}": simulation.row(draw(seed, devices)) for seed in seeds}
        else:
            measure(devices, seeds, args, known)
    rows = [row for row in known.values() if row["devices"] in args.devices and row["seed"] in seeds]
    show(rows)
    if args.json:
        args.json.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
