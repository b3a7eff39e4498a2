"""A scenario run by `evalflow run`: its scheduler, guards, records and files, on engines and workers that wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import catalog

from .journal import SCRIPT
from .scenario import DATASETS, JUDGE_AT_ONCE, Scenario

HERE = Path(__file__).parent
EVALFLOW = Path(sys.executable).with_name("evalflow")


@dataclass(frozen=True)
class Measured:
    """What a run took, in real seconds.

    Attributes:
        makespan_s: from the start of the first engine's process to the last verdict.
        command_s: of the whole command.
        handover_s: from an engine's last answer to the start of the next engine on one of its devices, where a model
            was waiting for it; the mean.
        order: the models' numbers, as their engines were started.
    """

    makespan_s: float
    command_s: float
    handover_s: float
    order: tuple[int, ...]


def run(scenario: Scenario, judge_url: str, speed: float, scratch: Path) -> Measured:
    """Run it.

    Args:
        scenario: what.
        judge_url: of an API that has the model `judge`; it is asked once, before the start.
        speed: virtual seconds in a real one.
        scratch: folder for its files, which are removed.

    Raises:
        RuntimeError: it was not done as it should be.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=f"seed-{scenario.seed}-") as folder:
        work = Path(folder)
        script = work / "script.json"
        script.write_text(json.dumps(_script(scenario, speed)))
        (work / "task.json").write_text(json.dumps(_task(scenario, work, judge_url)))
        began = time.monotonic()
        done = subprocess.run(
            [EVALFLOW, "run", work / "task.json"], capture_output=True, text=True, check=False, cwd=work,
            env={**os.environ, "PYTHONPATH": str(HERE / "plugin"), SCRIPT: str(script)},
        )  # fmt: skip
        command_s = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(f"evalflow run ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        events = [json.loads(line) for line in Path(f"{script}.journal").read_text().splitlines()]
        return measure(scenario, sorted(events, key=lambda event: event["time"]), command_s)


def measure(scenario: Scenario, events: Sequence[dict[str, Any]], command_s: float) -> Measured:
    """What the journal says.

    Raises:
        RuntimeError: a device was used twice at a time, the judge more than it may be, or something was left out.
    """
    held: dict[str, str] = {}
    freed: dict[str, float] = {}
    answered: dict[str, float] = {}
    devices: dict[str, list[str]] = {}
    judging: dict[str, int] = {}
    handovers, order, ended = [], [], []
    for event in events:
        name, kind = event["model"], event["event"]
        if kind == "engine began":
            devices[name] = event["devices"]
            wanted = next(model.devices for model in scenario.models if model.name == name)
            if any(device in held for device in event["devices"]) or len(event["devices"]) != wanted:
                raise RuntimeError(f"{name} was given {event['devices']}, and taken was {held}")
            held.update(dict.fromkeys(event["devices"], name))
            last = max((freed[device] for device in event["devices"] if device in freed), default=None)
            handovers += [event["time"] - last] if last is not None else []
            order.append(int(name.rsplit("-", 1)[1]))
        elif kind == "predicted":
            answered[name] = event["time"]
        elif kind == "engine ended":
            held = {device: holder for device, holder in held.items() if holder != name}
            freed.update(dict.fromkeys(devices[name], answered[name]))
        elif kind == "judging began":
            judging[name] = event["at_once"]
            if sum(judging.values()) > JUDGE_AT_ONCE:
                raise RuntimeError(f"the judge was asked for too much at once: {judging}")
        elif kind == "judging ended":
            del judging[name]
            ended.append(name)
    if sorted(ended) != sorted(model.name for model in scenario.models):
        raise RuntimeError(f"judged were {ended}")
    start = next(event["time"] for event in events if event["event"] == "engine began")
    makespan = max(event["time"] for event in events if event["event"] == "judging ended") - start
    mean = sum(handovers) / len(handovers) if handovers else 0.0
    return Measured(makespan, command_s, mean, tuple(order))


def _script(scenario: Scenario, speed: float) -> dict[str, Any]:
    def by_dataset(values: Sequence[float]) -> dict[str, float]:
        return {name: value / speed for name, value in zip(DATASETS, values, strict=True)}

    models = {
        model.name: {
            "load_s": model.load_s / speed,
            "answer_s": by_dataset(model.answer_s),
            "verdict_s": by_dataset(model.verdict_s),
        }
        for model in scenario.models
    }
    return {"samples": dict(zip(DATASETS, scenario.samples, strict=True)), "models": models}


def _task(scenario: Scenario, work: Path, judge_url: str) -> dict[str, Any]:
    """The task, as a user would write it."""
    models = [
        {
            "name": model.name,
            "path": str(model.checkpoint.write(work / "checkpoints" / model.name)),
            "deploy": {"tensor_parallel": model.devices},
        }
        for model in scenario.models
    ]
    return {
        "datasets": list(DATASETS),
        "work_dir": str(work / "out"),
        "judge": {"models": [{"model_id": "judge", "api_url": judge_url, "api_key": "none"}]},
        "evalflow": {
            "backend": "Native",
            "worker_env": str(_worker_environment(work / "environment")),
            "models": models,
            "judge_max_num_seqs": JUDGE_AT_ONCE,
            "deploy": {
                "engine": "timed",
                "devices": ",".join(map(str, range(scenario.devices))),
                "data_parallel": 1,
                "max_num_seqs": 64,
            },
        },
    }


def _worker_environment(folder: Path) -> Path:
    """A folder that poses as an environment with EvalScope."""
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "evalscope").symlink_to(catalog.evalscope_folder())
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE / "worker.py"}"\n')
    python.chmod(0o755)
    return folder
