"""How long it takes to compare many runs: made-up sweeps, read from their caches.

    python benchmarks/compare.py
    python benchmarks/compare.py --models 20 --datasets 5 --samples 200

Run folders are as EvalScope and EvalFlow leave them, with short texts. Files of models are hard links to those of a
few, so that a million samples fit; scores differ between models. What is measured is `evalflow compare` as a process of
its own, and the comparison alone, without reading.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))

import made_up_run

DISTINCT = 4  # models whose files are written; the others' are links to them


def make_sweep(folder: Path, models: int, datasets: int, samples: int) -> None:
    """A sweep's folder, with caches that are as new as its files."""
    names = [f"dataset{number}" for number in range(datasets)]
    for number in range(models):
        run, model = folder / f"step-{number}", f"step-{number}"
        source = folder / f"step-{number % DISTINCT}"
        for name in names:
            if number < DISTINCT:
                _write(run, model, name, samples, number)
            else:
                _link(source, run, model, name)
        results = {name: made_up_run.result(0.5, samples) for name in names}
        task = {"datasets": names, "evalflow": {"backend": "Native"}}
        made_up_run.record(run, model, task=task, results=results)


def _write(run: Path, model: str, dataset: str, samples: int, seed: int) -> None:
    draw = random.Random(f"{dataset} {seed}")
    scores = [float(draw.random() < 0.5 + seed / 40) for _ in range(samples)]
    questions = [f"{dataset}: question {number}" for number in range(samples)]
    answers = [made_up_run.answer(number, f"said {number}", question) for number, question in enumerate(questions)]
    reviews = [
        made_up_run.review(number, score, f"right {number}", questions[number]) for number, score in enumerate(scores)
    ]
    made_up_run.lines(run / "predictions" / model / f"{dataset}_main.jsonl", answers)
    made_up_run.lines(run / "reviews" / model / f"{dataset}_main.jsonl", reviews)
    made_up_run.report(run, model, dataset, round(sum(scores) / samples, 4), samples)


def _link(source: Path, run: Path, model: str, dataset: str) -> None:
    for kind, name in (
        ("predictions", f"{dataset}_main.jsonl"),
        ("reviews", f"{dataset}_main.jsonl"),
        ("reports", f"{dataset}.json"),
    ):
        target = run / kind / model / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source / kind / source.name / name, target)


def fill_caches(folder: Path) -> tuple[float, int]:
    """Write the cache of every run; seconds of the first, which is read from its files, and its samples."""
    import pyarrow.parquet as pq

    from evalscope_evalflow.results import sample_cache
    from evalscope_evalflow.results.run_folders import find_runs

    runs = find_runs(folder)
    began = time.monotonic()
    first = sample_cache.read_table(runs[0])
    seconds = time.monotonic() - began
    for run in runs[1:DISTINCT]:
        sample_cache.read_table(run)
    for number, run in enumerate(runs[DISTINCT:], DISTINCT):
        table = pq.read_table(sample_cache.path_in(runs[number % DISTINCT].folder))
        made_of = {**(table.schema.metadata or {}), b"evalflow": sample_cache._made_of(run)}
        pq.write_table(table.replace_schema_metadata(made_of), sample_cache.path_in(run.folder), compression="zstd")
    return seconds, first.num_rows


def run_command(*words: str) -> tuple[float, float]:
    """Seconds and MiB at most of a command that has to succeed."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "evalscope_evalflow", *words])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"evalflow {' '.join(words)} ended with {process.returncode}")
    return time.monotonic() - began, used.ru_maxrss / 1024


def compare_alone(folder: Path) -> tuple[float, int]:
    """Seconds of comparing what has been read, and how many cells."""
    from evalscope_evalflow.results.comparison.chosen_runs import choose_runs
    from evalscope_evalflow.results.comparison.compare_runs import Rules, compare, load_runs

    runs = load_runs(choose_runs([str(folder)]), Rules())
    compare(runs[:2])  # imports
    began = time.monotonic()
    found = compare(runs)
    return time.monotonic() - began, len(found.cells)


def measure(models: int, datasets: int, samples: int) -> dict[str, Any]:
    """All figures for one size."""
    folder = Path(tempfile.mkdtemp(prefix="evalflow-compare-"))
    try:
        make_sweep(folder, models, datasets, samples)
        first_s, first_n = fill_caches(folder)
        whole_s, mib = run_command("compare", str(folder), "--format", "csv", "--output", os.devnull)
        with_samples_s, _ = run_command("compare", str(folder), "--format", "csv", "--samples", "--output", os.devnull)
        alone_s, cells = compare_alone(folder)
    finally:
        shutil.rmtree(folder)
    return {
        "models": models, "datasets": datasets, "samples of each": samples, "cells": cells,
        "first read of one run without a cache, s": round(first_s, 2), "its samples": first_n,
        "evalflow compare, from caches, s": round(whole_s, 2), "at most, MiB": round(mib),
        "the same with --samples, s": round(with_samples_s, 2), "comparing alone, s": round(alone_s, 2),
        "of that for 1,000 cells, s": round(alone_s / cells * 1000, 2),
    }  # fmt: skip


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--datasets", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args()
    print(json.dumps(measure(args.models, args.datasets, args.samples), indent=1))


if __name__ == "__main__":
    main()
