"""vLLM's start from its owner's word until it is ready: in a fresh process, and in one that has stood by.

    python benchmarks/standby.py CHECKPOINT ENV [--rounds 3] [--json FILE]

ENV is an environment with vLLM. In each round an engine is started as always, and released; then a process stands by
until all that it imports ahead is imported, which is not counted, and becomes the engine. Both answer one question with
eight tokens, and the answers have to be equal. A ratio is stood by / fresh.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.serving import Deployment, http
from evalscope_evalflow.serving.standby_engine import StandbyEngine

WAIT_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("env")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = ModelConfig(name="m", path=args.checkpoint)
    deploy = DeployConfig(
        engine="vllm", env=args.env, max_model_len=2048, max_num_seqs=8,
        env_vars={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        extra_args=["--enforce-eager", "--dtype", "bfloat16"],
    )  # fmt: skip
    rounds = []
    for _ in range(args.rounds):
        fresh, stood_by = start(model, deploy, None), start(model, deploy, ahead(model, deploy))
        assert fresh["answer"] == stood_by["answer"], (fresh, stood_by)
        rounds.append({"fresh_s": fresh["seconds"], "stood_by_s": stood_by["seconds"]})
    found = {
        **{name: statistics.median(item[name] for item in rounds) for name in rounds[0]},
        "ratio": round(statistics.median(item["stood_by_s"] / item["fresh_s"] for item in rounds), 2),
        "rounds": rounds,
    }
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def ahead(model: ModelConfig, deploy: DeployConfig) -> StandbyEngine:
    """A process that has imported all that it can."""
    standby = StandbyEngine(resolve_engine(model, deploy), deploy)
    leader, deadline = standby.process.wait_started(), time.monotonic() + WAIT_S
    scratch = standby.process.scratch
    while not ((scratch / f"forks-{leader}").exists() and "imported ahead in" in standby.process.log.read_text()):
        if time.monotonic() > deadline or standby.process.exited.is_set():
            raise RuntimeError(f"nothing is imported: {standby.process.log.read_text()}")
        time.sleep(0.2)
    tree = [psutil.Process(standby.process.guard_pid), *psutil.Process(standby.process.guard_pid).children(True)]
    print(f"stands by with {sum(process.memory_info().rss for process in tree) / 2**30:.1f} GiB")
    return standby


def start(model: ModelConfig, deploy: DeployConfig, standby: StandbyEngine | None) -> dict[str, Any]:
    """Seconds until it is ready, and its answer."""
    waiting = [standby]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        deployment = Deployment(
            resolve_engine(model, deploy), model, deploy, log=Path(folder, "engine.log"), run_id=new_run_id(),
            standby=lambda: waiting.pop() if waiting else None,
        )  # fmt: skip
        with deployment as endpoint:
            seconds = round(time.monotonic() - began, 1)
            body = {"model": endpoint.model, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
            reply = http.request(
                f"{endpoint.api_url}/completions", api_key=endpoint.api_key, body=body, timeout_s=120, direct=True
            )
            assert reply.ok, reply
            took = deployment.server is not None and deployment.server.stood_by_s is not None
            assert took == (standby is not None)
            answer = json.loads(reply.text)["choices"][0]["text"]
    print(f"{'stood by' if standby else 'fresh'}: {seconds} s", flush=True)
    return {"seconds": seconds, "answer": answer}


if __name__ == "__main__":
    main()
