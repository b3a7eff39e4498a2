"""Eight adapters of one base on vLLM: by hand (`vllm serve` and stock `evalscope eval` for each), and ours.

    python benchmarks/adapters.py BASE ENV [--adapters 8] [--by-hand 8] [--items 8] [--json FILE]

Adapters of rank 8 and 16 with random numbers are made for BASE. Both ways run in turn on the same machine, one after
the other. With `--by-hand N` less than all are done by hand, and the time of all is extrapolated from their mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from case import BIN, Case
from safetensors.numpy import save_file

from evalscope_evalflow.engines.checkpoints import safetensors_headers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("env")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--by-hand", type=int, default=8)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = Case("vllm", args.base, args.env, args.items, Path(folder))
        made = [
            make_adapter(Path(folder, f"lora-{n}"), Path(case.model), 8 + 8 * (n % 2), n) for n in range(args.adapters)
        ]
        ours = together(case, made, Path(folder, "ours"))
        by_hand = [alone(case, path, Path(folder, f"hand-{path.name}")) for path in made[: args.by_hand]]
    all_by_hand = statistics.mean(by_hand) * args.adapters
    found = {
        "adapters": args.adapters, "items": args.items, "ours_s": round(ours, 1), "by_hand_s": round(all_by_hand, 1),
        "by_hand_each_s": [round(seconds, 1) for seconds in by_hand], "ratio": round(all_by_hand / ours, 2),
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def make_adapter(folder: Path, base: Path, rank: int, seed: int) -> Path:
    """An adapter of all query and value projections of a base, with random numbers."""
    chance, found = np.random.default_rng(seed), {}
    for name, (_, shape) in safetensors_headers.tensors(base).items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{stem}.lora_A.weight"] = (chance.standard_normal((rank, shape[1])) * 0.05).astype(np.float32)
            found[f"{stem}.lora_B.weight"] = (chance.standard_normal((shape[0], rank)) * 0.02).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(found, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": rank, "lora_alpha": 16, "bias": "none",
              "target_modules": ["q_proj", "v_proj"]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def alone(case: Case, adapter: Path, work: Path) -> float:
    """Seconds of one adapter by hand: start, poll, evaluate, stop."""
    work.mkdir()
    case.adapter = str(adapter)
    return case.by_hand(work).total


def together(case: Case, adapters: list[Path], work: Path) -> float:
    """Seconds of all of them with one command."""
    work.mkdir()
    models = [{"path": case.model, "adapter": str(path)} for path in adapters]
    task: dict[str, Any] = {
        "datasets": ["general_mcq"], "dataset_args": case.dataset_args, "limit": case.items, "eval_batch_size": 4,
        "generation_config": {"max_tokens": case.max_tokens, "temperature": 0.0}, "work_dir": str(work / "out"),
        "evalflow": {"backend": "Native", "deploy": {**case.deploy, "devices": ""}, "models": models},
    }  # fmt: skip
    file = work / "task.json"
    file.write_text(json.dumps(task))
    began = time.perf_counter()
    done = subprocess.run([str(BIN / "evalflow"), "run", str(file)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    starts = done.stderr.count(": starting vllm") + done.stdout.count(": starting vllm")
    assert starts == 1, f"{starts} engines were started"
    return seconds


if __name__ == "__main__":
    main()
