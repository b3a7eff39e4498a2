"""What `deploy.keep_alive_s` saves: two tasks in a list given to `run_task`, with the engine kept and not.

    python benchmarks/warm.py MODEL [--engine llamacpp] [--env ENV] [--pairs 5] [--items 8] [--json FILE]

Pairs in turn, in alternating order, in one process that has EvalScope imported, as a notebook has. Reported are
medians of the second task: all of it, and its phase `load`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from evalscope_evalflow import release_kept
from evalscope_evalflow.cli import demo

KEEP_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--engine", default="llamacpp")
    parser.add_argument("--env")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"released": [], "kept": []}
    for number in range(args.pairs):
        for way in list(found) if number % 2 else reversed(found):
            found[way].append(second_task(args, KEEP_S if way == "kept" else 0))
    rows = {
        way: {name: round(statistics.median(item[name] for item in items), 2) for name in items[0]}
        for way, items in found.items()
    }
    print("\n| the engine is | second task, s | of that loading, s |\n|---|---|---|")
    for way, row in rows.items():
        print(f"| {way} | {row['total']} | {row['load']} |")
    if args.json:
        args.json.write_text(json.dumps({"medians": rows, "runs": found}, indent=2) + "\n")


def second_task(args: argparse.Namespace, keep_alive_s: float) -> dict[str, float]:
    """Seconds of the second of two tasks."""
    from evalscope.run import run_task

    deploy = {"engine": args.engine, "max_model_len": 1024, "max_num_seqs": 4, "keep_alive_s": keep_alive_s}
    with tempfile.TemporaryDirectory() as folder:
        ends = []
        for name in ("first", "second"):
            task: dict[str, Any] = {
                "model": os.path.abspath(os.path.expanduser(args.model)),
                "model_id": "model",
                "datasets": ["general_mcq"],
                "dataset_args": {"general_mcq": demo.dataset_args(demo.data_folder())["general_mcq"]},
                "limit": args.items,
                "generation_config": {"max_tokens": 16, "temperature": 0.0},
                "work_dir": f"{folder}/{name}",
                "eval_backend": "evalflow",
                "evalflow": {"backend": "Native", "deploy": {**deploy, **({"env": args.env} if args.env else {})}},
            }
            run_task([task])
            ends.append(time.monotonic())
        record = json.loads(Path(folder, "second", "evalflow", "run.json").read_text())
        release_kept()
    assert bool(record.get("reused")) == bool(keep_alive_s)
    return {"total": ends[1] - ends[0], "load": record["phases_s"]["load"]}


if __name__ == "__main__":
    main()
