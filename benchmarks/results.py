"""How fast finished runs are read: made-up run folders, from their files and from the cache of samples.

    python benchmarks/results.py --models 100 --datasets 10 --samples 1000

Each figure is measured in a process of its own, after the imports; memory is that process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

COLUMNS = ["dataset", "question", "repeat", "occurrence", "group", "score", "state"]  # what a comparison needs
DISTINCT = 10  # run folders that are made; the others are links to their files
MEASURE = """
import json, resource, sys, time
from evalscope_evalflow.results import sample_cache
from evalscope_evalflow.results.run_folders import find_runs
import pandas, pyarrow.parquet
top, columns = sys.argv[1], json.loads(sys.argv[2])
before, cpu = time.perf_counter(), time.process_time()
rows = len(sample_cache.read_all(find_runs(top), columns))
print(json.dumps({
    "rows": rows, "seconds": time.perf_counter() - before, "cpu": time.process_time() - cpu,
    "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--datasets", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1000, help="of each model and dataset")
    parser.add_argument("--folder", help="for the files; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        measure(Path(name), args.models, args.datasets, args.samples)


def measure(top: Path, models: int, datasets: int, samples: int) -> None:
    """Make the folders, and print how long reading them takes."""
    began, random = time.perf_counter(), Random(1)
    made = [make_run(top / f"model-{number}", datasets, samples, random) for number in range(min(models, DISTINCT))]
    size = sum(path.stat().st_size for folder in made for path in folder.rglob("*.jsonl"))
    print(f"{len(made)} run folders made: {size / 1e6:.0f} MB, {time.perf_counter() - began:.1f} s")
    report("samples from files, making the cache", made_in(top, None))
    report("the same from the cache, all columns", made_in(top, None))
    report("the columns of a comparison", made_in(top, COLUMNS))
    for number in range(len(made), models):
        shutil.copytree(made[number % len(made)], top / f"model-{number}", copy_function=os.link)
    report(f"the columns of a comparison, {models} models", made_in(top, COLUMNS))
    for command in (["--help"], ["show", str(made[0])], ["show", str(made[0]), "--wrong"]):
        print(f"evalflow {command[0]} {' '.join(command[2:])}: {cpu_of(command):.2f} s of CPU")


def made_in(top: Path, columns: list[str] | None) -> dict[str, Any]:
    """Read all samples below a folder, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, top, json.dumps(columns)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def report(what: str, found: dict[str, Any]) -> None:
    print(
        f"{what}: {found['rows']:,} samples in {found['seconds']:.1f} s ({found['cpu']:.1f} s of CPU), "
        f"peak {found['memory_mb']:.0f} MB"
    )


def cpu_of(command: list[str]) -> float:
    """Seconds of CPU that a command of `evalflow` takes, from its start to its end."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "evalscope_evalflow", *command], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def make_run(folder: Path, datasets: int, samples: int, random: Random) -> Path:
    """A run folder of the Native backend; all have one model's name, so that links to its files are another run."""
    names = [f"bench{number}" for number in range(datasets)]
    results = {}
    for name in names:
        scores = [float(random.random() < 0.7) for _ in range(samples)]
        write(folder / "predictions" / "m" / f"{name}_s.jsonl", [answer(name, number) for number in range(samples)])
        write(folder / "reviews" / "m" / f"{name}_s.jsonl",
              [review(name, number, score) for number, score in enumerate(scores)])  # fmt: skip
        value = round(sum(scores) / samples, 4)
        results[name] = {
            "score": {"value": value, "metric": "accuracy", "n": samples, "requested": samples, "complete": True},
            "metrics": {"accuracy": value}, "requested": samples, "answered": samples, "succeeded": samples,
        }  # fmt: skip
    task = {"datasets": names, "evalflow": {"backend": "Native"}}
    record = {"schema": 2, "run_id": folder.name, "state": "complete", "model": "m", "task": task, "results": results}
    (folder / "evalflow").mkdir(parents=True)
    (folder / "evalflow" / "run.json").write_text(json.dumps(record))
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def messages(dataset: str, number: int) -> list[dict[str, Any]]:
    asked = f"Question {number} of {dataset}: " + "which of these is the right one? " * 8
    return [{"role": "user", "content": asked}, said(number)]


def said(number: int) -> dict[str, Any]:
    return {"role": "assistant", "source": "generate", "content": f"Let me think about {number}. " * 12 + "ANSWER: B"}


def answer(dataset: str, number: int) -> dict[str, Any]:
    """A row of a predictions file."""
    output = {
        "choices": [{"message": said(number), "stop_reason": "stop"}], "time": 1.5,
        "usage": {"input_tokens": 80, "output_tokens": 90},
    }  # fmt: skip
    return {"index": number, "model_output": output, "messages": messages(dataset, number)}


def review(dataset: str, number: int, score: float) -> dict[str, Any]:
    """A row of a reviews file."""
    found = {"value": {"acc": score}, "extracted_prediction": "B", "main_score_name": "acc"}
    sample = {"score": found, "sample_id": number, "group_id": number, "generation_index": 0}
    return {"index": number, "target": "B", "messages": messages(dataset, number), "sample_score": sample}


if __name__ == "__main__":
    main()
