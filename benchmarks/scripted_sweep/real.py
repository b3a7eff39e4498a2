"""Three real llama.cpp models on two slots: in one task, against one task after the other.

The models are one file under three names. A slot is a core: each engine computes with one thread. With more engines
than cores nothing could be gained but the overlap of loading, importing and judging.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from evalscope_evalflow.cli import demo

EVALFLOW = Path(sys.executable).with_name("evalflow")
NAMES = ("first", "second", "third")
SLOTS = ("0", "1")


def compare(scratch: Path, pairs: int = 3) -> dict[str, Any]:
    """Run both ways in turn, in alternating order.

    Returns:
        Seconds of both ways, and their ratios.

    Raises:
        RuntimeError: something was not evaluated, or two engines had a slot at the same time.
    """
    seconds: dict[str, list[float]] = {"together": [], "one by one": []}
    for number in range(pairs):
        for way in list(seconds)[:: 1 if number % 2 else -1]:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                models = _models(Path(folder))
                began = time.perf_counter()
                if way == "together":
                    _run(Path(folder), "together", models)
                else:
                    for model in models:
                        _run(Path(folder), model["name"], [model])
                seconds[way].append(time.perf_counter() - began)
                if way == "together":
                    check_slots(Path(folder) / "together")
            print(f"{way}: {seconds[way][-1]:.1f} s", file=sys.stderr, flush=True)
    ratios = [one / both for one, both in zip(seconds["one by one"], seconds["together"], strict=True)]
    return {
        "models": len(NAMES), "slots": len(SLOTS), "pairs": pairs, "seconds": seconds,
        "ratio": statistics.median(ratios), "ratios": ratios,
    }  # fmt: skip


def check_slots(work: Path) -> None:
    """No slot was held by two engines at the same time, by the events of the runs.

    Raises:
        RuntimeError: one was.
    """
    held: dict[str, list[tuple[datetime, datetime, str]]] = {}
    for name in NAMES:
        folder = work / name / "evalflow"
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        begin = _time_of(events, "PhaseBegan", "load")
        end = _time_of(events, "PhaseEnded", "release")
        task = json.loads((folder / "run.json").read_text())["task"]["evalflow"]
        slot = task["models"][0]["deploy"]["devices"]
        held.setdefault(slot, []).append((begin, end, name))
    if set(held) != set(SLOTS):
        raise RuntimeError(f"slots that were used: {sorted(held)}")
    for slot, times in held.items():
        times.sort()
        for (_, end, one), (begin, _, other) in pairwise(times):
            if begin < end:
                raise RuntimeError(f"slot {slot} was held by {one} until {end}, and by {other} from {begin} on")


def _time_of(events: list[dict[str, Any]], kind: str, phase: str) -> datetime:
    found = next(event for event in events if event["event"] == kind and event["phase"] == phase)
    return datetime.fromisoformat(found["time"])


def _models(folder: Path) -> list[dict[str, Any]]:
    models = []
    for name in NAMES:
        path = folder / f"{name}.gguf"
        path.symlink_to(demo.fetch_model())
        models.append({"name": name, "path": str(path)})
    return models


def _run(folder: Path, name: str, models: list[dict[str, Any]], **more: Any) -> None:
    """One `evalflow run` with these models; every answer has to be scored."""
    task = {
        "datasets": ["general_mcq", "general_qa"],
        "dataset_args": demo.dataset_args(demo.data_folder()),
        "generation_config": demo.GENERATION,
        "work_dir": str(folder / name),
        **more,
        "evalflow": {
            "backend": "Native",
            "models": models,
            "deploy": {
                "engine": "llamacpp", "max_model_len": 1024, "max_num_seqs": 4,
                "devices": ",".join(SLOTS if len(models) > 1 else SLOTS[:1]), "extra_args": ["--threads", "1"],
            },
        },
    }  # fmt: skip
    file = folder / f"{name}.json"
    file.write_text(json.dumps(task))
    done = subprocess.run([EVALFLOW, "run", file], capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"evalflow run ended with {done.returncode}:\n{done.stdout}{done.stderr}")
