"""Checkpoints of one architecture on vLLM: an engine for each by hand, and one engine that takes all their weights.

    python benchmarks/swap.py sweep CHECKPOINT ENV [--models 6] [--by-hand 6] [--items 24] [--json FILE]
    python benchmarks/swap.py equal CHECKPOINT ENV [--models 3] [--questions 200] [--json FILE]

`sweep`: `vllm serve`, polled every second, and stock `evalscope eval`, for each checkpoint, one after the other; then
all of them with one `evalflow run`. With `--by-hand N` less than all are done by hand, and the time of all is
extrapolated from their mean. The switch is the time from the last answer to one model to the first question to the
next, as a part of the engine's start by hand.

`equal`: the log-probabilities of the answers to the questions, one request at a time, from a fresh start on each
checkpoint, from a second fresh start on the first, and from one engine that takes the weights in a shuffled order,
each checkpoint twice.

The other checkpoints are made from CHECKPOINT: the lowest bits of all its weights are changed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from case import BIN, Case

from evalscope_evalflow import Endpoint, deploy, release_kept

Answers = list[tuple[str, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sweep", "equal"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("env")
    parser.add_argument("--models", type=int)
    parser.add_argument("--by-hand", type=int, default=6)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    number = args.models or (6 if args.what == "sweep" else 3)
    with tempfile.TemporaryDirectory() as folder:
        paths = [trained(args.checkpoint, Path(folder, f"step-{n + 1}"), n) for n in range(number)]
        case = Case("vllm", str(paths[0]), args.env, args.items, Path(folder))
        found = sweep(case, paths, args.by_hand) if args.what == "sweep" else equal(case, paths, args.questions)
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def trained(source: Path, target: Path, steps: int) -> Path:
    """A copy of a checkpoint in 16 bits, whose weights all differ a little for steps > 0."""
    shutil.copytree(source, target)
    for file in target.glob("*.safetensors") if steps else ():
        raw = bytearray(file.read_bytes())
        words = np.frombuffer(raw, dtype="<u2", offset=8 + struct.unpack("<Q", raw[:8])[0])
        words ^= np.random.default_rng(steps).integers(0, 8, len(words), dtype=np.uint16)
        file.write_bytes(raw)
    return target


def sweep(case: Case, paths: list[Path], by_hand: int) -> dict[str, Any]:
    """By hand against one command."""
    work = paths[0].parent
    ours, switches = together(case, paths, work / "ours")
    timings = []
    for path in paths[:by_hand]:
        case.model = str(path)
        (work / f"hand-{path.name}").mkdir()
        timings.append(case.by_hand(work / f"hand-{path.name}"))
    each = [timing.total for timing in timings]
    start = statistics.median(timing.start for timing in timings)
    switch = statistics.median(item["switch_s"] for item in switches)
    return {
        "models": len(paths), "items": case.items, "ours_s": round(ours, 1),
        "by_hand_s": round(statistics.mean(each) * len(paths), 1), "by_hand_each_s": [round(item, 1) for item in each],
        "ratio": round(statistics.mean(each) * len(paths) / ours, 2),
        "start_by_hand_s": round(start, 1), "switch_s": round(switch, 2), "switch_to_start": round(switch / start, 3),
        "switches": switches,
    }  # fmt: skip


def together(case: Case, paths: list[Path], work: Path) -> tuple[float, list[dict[str, float]]]:
    """Seconds of all of them with one command, and what each switch took."""
    work.mkdir()
    task: dict[str, Any] = {
        "datasets": ["general_mcq"], "dataset_args": case.dataset_args, "limit": case.items, "eval_batch_size": 4,
        "generation_config": {"max_tokens": case.max_tokens, "temperature": 0.0}, "work_dir": str(work / "out"),
        "evalflow": {
            "backend": "Native", "deploy": {**case.deploy, "devices": ""}, "models": [str(path) for path in paths],
        },
    }  # fmt: skip
    file = work / "task.json"
    file.write_text(json.dumps(task))
    began = time.perf_counter()
    done = subprocess.run([str(BIN / "evalflow"), "run", str(file)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    said = done.stderr + done.stdout
    if done.returncode or said.count(": starting vllm") != 1:
        raise SystemExit(said)
    switches = []
    for before, path in itertools.pairwise(paths):
        weights = json.loads((work / "out" / path.name / "evalflow" / "run.json").read_text())["weights"]
        last = max(
            time_of(row) for row in events(work / "out" / before.name) if row.get("ended") and not row["judging"]
        )
        first = min(time_of(row) for row in events(work / "out" / path.name) if row["event"] == "EngineReady")
        names = ("swap_s", "read_s", "proof_s")
        switches.append({"switch_s": round(first - last, 3), **{name: weights[name] for name in names}})
    return seconds, switches


def events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run."""
    return [json.loads(line) for line in (folder / "evalflow" / "events.jsonl").read_text().splitlines()]


def time_of(row: dict[str, Any]) -> float:
    """When an event happened, in seconds since the epoch."""
    return datetime.fromisoformat(row["time"]).timestamp()


def equal(case: Case, paths: list[Path], number: int) -> dict[str, Any]:
    """How many answers of swapped weights differ from those of fresh starts."""
    questions = [f"Question {n}: what is {n * 7 % 50} + {n % 13}? Answer:" for n in range(number)]
    settings = {**case.deploy, "log_dir": str(paths[0].parent / "logs")}
    fresh: dict[str, Answers] = {}
    for path in paths:
        with deploy(str(path), **settings) as endpoint:
            fresh[path.name] = answers(endpoint, questions)
    with deploy(str(paths[0]), **settings) as endpoint:
        again = answers(endpoint, questions)
    order = [*paths, *paths]
    random.Random(1).shuffle(order)
    swapped = []
    try:
        for path in order:
            began = time.perf_counter()
            engine = deploy(str(path), keep_alive_s=900, **settings)
            with engine as endpoint:
                seconds = time.perf_counter() - began
                given = answers(endpoint, questions)
                assert engine.weights is not None
                swapped.append({
                    "model": path.name, "took_from": engine.weights.took_from, "ready_s": round(seconds, 2),
                    "proof_s": engine.weights.proof_s, "different": different(given, fresh[path.name]),
                })  # fmt: skip
    finally:
        release_kept()
    first, other = paths[0].name, paths[1].name
    return {
        "questions": number, "tokens": sum(len(found) for _, found in fresh[first]),
        "fresh_and_fresh": different(again, fresh[first]), "of_two_models": different(fresh[first], fresh[other]),
        "swapped": swapped,
    }  # fmt: skip


def answers(endpoint: Endpoint, questions: list[str]) -> Answers:
    """The text of each answer, and the log-probabilities of its tokens."""
    client, found = endpoint.client(), []
    for question in questions:
        reply = client.completions.create(
            model=endpoint.model,
            prompt=question,
            max_tokens=6,
            temperature=0,
            logprobs=1,
            extra_body={"ignore_eos": True},
        ).choices[0]
        found.append((reply.text, list(reply.logprobs.token_logprobs)))
    return found


def different(one: Answers, other: Answers) -> int:
    """How many answers differ, in their text or in any log-probability."""
    return sum(a != b for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
