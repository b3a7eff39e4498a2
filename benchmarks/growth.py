"""How planning, resuming and the live view grow with the number of cells (models × datasets).

    python benchmarks/growth.py --json growth.json

For each size it makes a sweep on disk: checkpoints whose weights are holes, and run folders as EvalScope and EvalFlow
leave them. Then the commands of a user run as they are, each in a process of its own: `evalflow check` on a sweep that
is new, half done and done, and `evalflow run` on the one that is done. Nothing is left to do there, so no engine is
started and EvalScope is not imported. Figures are those of the whole process, from its start to its end, by the clock
and in CPU time: on a machine with other work the second says more. What a cell takes is the slope between two sizes.

The live view is led through a whole sweep on eight devices, without engines: every model is begun, loads, evaluates,
is judged and ends, and the view is drawn after each of these steps.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.run import fingerprints as fingerprint
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state import failures
from evalscope_evalflow.sweep import run

DATASETS = ["arc", "bbh", "ceval", "gsm8k", "hellaswag", "humaneval", "ifeval", "math_500", "mmlu", "winogrande"]
SIZES = (10, 100, 1_000, 10_000)
DEVICES = 8
SAMPLES = 200  # of each dataset: 0.4 MB of answers
SHAPES = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
INTERPRETER = "#!/bin/sh\nexit 0\n"  # of an environment that has every module: nothing runs in it here
SEMANTICS = {
    "semantic_id": "quality.accuracy.ratio", "metric_name": "Accuracy", "display_name": None, "kind": "quality",
    "direction": "higher_is_better", "raw_unit": None, "value_range": {"min": 0.0, "max": 1.0},
    "display_kind": "percent", "display_multiplier": 100.0, "display_unit": "%", "display_precision": 1,
}  # fmt: skip


class Sweep:
    """Models and their run folders on disk.

    Attributes:
        file: the task.
        task: the same, read.
    """

    def __init__(self, folder: Path, models: int) -> None:
        self.folder = folder
        python = folder / "env" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(INTERPRETER)
        python.chmod(0o755)
        for number in range(models):
            make_checkpoint(folder / "checkpoints" / f"step-{number}")
        self.file = folder / "sweep.json"
        section = {
            "backend": "Native",
            "models": [
                {"name": f"step-{number}", "path": str(folder / "checkpoints" / f"step-{number}")}
                for number in range(models)
            ],
            "deploy": {"engine": "vllm", "env": str(folder / "env"), "max_model_len": 2048},
        }
        self.file.write_text(
            json.dumps(
                {
                    "datasets": DATASETS,
                    "limit": SAMPLES,
                    "generation_config": {"max_tokens": 512, "temperature": 0.0},
                    "work_dir": str(folder / "work"),
                    "evalflow": section,
                }
            )
        )
        self.task = Task.load(self.file)
        (folder / "rows").mkdir()
        for dataset in DATASETS:
            for kind in ("predictions", "reviews"):
                rows = "".join(f"{json.dumps(make_row(kind, index))}\n" for index in range(SAMPLES))
                (folder / "rows" / f"{kind}-{dataset}").write_text(rows)

    def finish(self, first: int, end: int) -> None:
        """Leave the run folders of some models as a run would that has done everything."""
        for model in self.task.models[first:end]:
            self._finish(model)

    def _finish(self, model: Any) -> None:
        folder = self.task.folder(model)
        for name in ("predictions", "reviews", "reports"):
            (folder / name / model.name).mkdir(parents=True, exist_ok=True)
        (folder / "evalflow").mkdir(exist_ok=True)
        common = fingerprint.predictions(self.task, model, DATASETS[0])
        cause, verdicts = failures.cause(self.task, model), fingerprint.verdicts(self.task)
        cells = {}
        for dataset in DATASETS:
            for kind in ("predictions", "reviews"):  # links: what is in them is the same for every model
                path = folder / kind / model.name / f"{dataset}_main.jsonl"
                os.link(self.folder / "rows" / f"{kind}-{dataset}", path)
            report = folder / "reports" / model.name / f"{dataset}.json"
            report.write_text(json.dumps(make_report(model.name, dataset), indent=2))
            cells[dataset] = asdict(ledger.Cell(common, SAMPLES, SAMPLES, cause, verdicts, report.stat().st_mtime_ns))
        ledger.path_in(folder).write_text(json.dumps(cells, indent=1))
        # The rest as the command itself leaves it: the record, and the rows of each file.
        run(replace(self.task, models=(model,)), Reporter(quiet=True))


def make_checkpoint(folder: Path) -> None:
    """A checkpoint with all of its metadata and no weights: config, tokenizer, a safetensors file that is a hole."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", **SHAPES,
        "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 0}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 2048, "chat_template": "x" * 2000}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {f"t{i}": i for i in range(4000)}}}))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for layer in range(30):
        for part, shape in (("q_proj", (576, 576)), ("k_proj", (192, 576)), ("v_proj", (192, 576)),
                            ("o_proj", (576, 576)), ("gate_proj", (1536, 576)), ("up_proj", (1536, 576)),
                            ("down_proj", (576, 1536)), ("input_layernorm", (576, 1)),
                            ("post_attention_layernorm", (576, 1))):  # fmt: skip
            begin, end = end, end + 2 * shape[0] * shape[1]
            header[f"model.layers.{layer}.{part}.weight"] = {
                "dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]
            }  # fmt: skip
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def make_row(kind: str, index: int) -> dict[str, Any]:
    """A row of EvalScope's files, of its usual size."""
    text = "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning. How many are left? " * 8
    messages = [{"id": "7da5415d", "content": text, "source": None, "role": "user", "tool_call_id": None}]
    if kind == "reviews":
        score = {"value": {"acc": 1.0}, "status": "success", "judge_summary": None, "prediction": "13"}
        return {"index": index, "target": "13", "messages": messages, "sample_score": {"score": score}}
    usage = {"input_tokens": 131, "output_tokens": 207, "total_tokens": 338, "reasoning_tokens": None}
    choices = [{"message": {"content": text}, "stop_reason": "stop"}]
    output = {"id": "chatcmpl-b1oo76", "choices": choices, "usage": usage}
    return {"index": index, "model": "m", "model_output": output, "messages": messages, "metadata": {}}


def make_report(model: str, dataset: str) -> dict[str, Any]:
    """A report as EvalScope 1.14 writes it: 8 kB, most of it the meaning of its figures."""
    identity = {"name": "accuracy", "aggregation": "mean", "dimensions": {}}
    subset = {"name": "main", "score": 0.5, "num": SAMPLES, "metadata": None, "is_aggregate": False}
    category = {"name": ["default"], "num": SAMPLES, "score": 0.5, "macro_score": 0.5, "subsets": [subset]}
    statistics = dict.fromkeys(("mean", "std", "min", "25%", "50%", "75%", "90%", "99%", "max"), 0.41)
    counts = {"requested": SAMPLES, "succeeded": SAMPLES, "errored": 0}
    figures = ("n_samples", "latency", "throughput.avg_output_tps", "throughput.avg_req_ps", "usage.input_tokens",
               "usage.output_tokens", "usage.total_tokens")  # fmt: skip
    return {
        "schema_version": 2, "name": f"{model}@{dataset}", "dataset_name": dataset, "dataset_pretty_name": dataset,
        "dataset_description": "Questions that take two to eight steps to answer. " * 30, "model_name": model,
        "metrics": [
            {"identity": identity, "legacy_name": None, "num": SAMPLES, "score": 0.5, "macro_score": 0.5,
             "categories": [category], "semantics": SEMANTICS}
        ],
        "analysis": "N/A",
        "perf_metrics": {
            "summary": {"n_samples": SAMPLES, "latency": statistics,
                        "usage": dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), statistics)},
            "metric_semantics": dict.fromkeys(figures, SEMANTICS),
        },
        "primary_metric_identity": identity, "primary_metric_unavailable_reason": None, "judge_summary": None,
        "execution_summary": {**counts, "incomplete": False, "subsets": {"main": counts}}, "num": SAMPLES,
    }  # fmt: skip


def measure(command: str, sweep: Sweep) -> dict[str, float]:
    """Run `evalflow COMMAND FILE` once: seconds of time and of CPU, and the most memory that it had."""
    env = {**os.environ, "EVALFLOW_RUNTIME_DIR": str(sweep.folder / "runtime"), "CUDA_VISIBLE_DEVICES": ""}
    with (sweep.folder / "output").open("w+b") as output:
        began = time.monotonic()
        words = [sys.executable, "-m", "evalscope_evalflow", command, str(sweep.file)]
        process = subprocess.Popen(words, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"evalflow {command} failed:\n{output.read().decode()[-3000:]}")
    return {
        "seconds": round(seconds, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="cells: ten for each model")
    parser.add_argument("--folder", type=Path, help="where the sweeps are made; default: a temporary folder")
    parser.add_argument("--live", type=int, help=argparse.SUPPRESS)  # for a process of its own
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    if args.live:
        print(json.dumps(live(args.live)))
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="evalflow-growth-", dir=args.folder) as folder:
        for cells in args.sizes:
            models = cells // len(DATASETS)
            sweep = Sweep(Path(folder) / str(cells), models)
            row: dict[str, Any] = {"cells": cells, "models": models, "new": measure("check", sweep)}
            sweep.finish(0, models // 2)
            row["half"] = measure("check", sweep)
            sweep.finish(models // 2, models)
            row["done"] = measure("check", sweep)
            row["resume"] = measure("run", sweep)
            row["live"] = measure_live(models)
            found.append(row)
            sys.stderr.write(f"{json.dumps(row)}\n")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def measure_live(models: int) -> dict[str, float]:
    """`live` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--live", str(models)], capture_output=True, text=True, check=True,
        env={**os.environ, "LINES": "50", "COLUMNS": "120"},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def live(models: int) -> dict[str, float]:
    """Lead the view through a sweep: CPU milliseconds for drawing it once, and megabytes that it takes."""
    reporter = Reporter()
    reporter._console = Console(file=io.StringIO(), force_terminal=True, height=50, width=120)
    names = [f"step-{number}" for number in range(models)]
    before = psutil.Process().memory_info().rss
    began, drawn = time.process_time(), 0
    view = LiveReporter(reporter, names)
    console = Console(file=io.StringIO(), force_terminal=True, height=50, width=120)
    for first in range(0, models, DEVICES):
        batch = names[first : first + DEVICES]
        for step in ("loading", "evaluating", "judging"):
            for number, name in enumerate(batch):
                view.given(name, str(number))
                view.begin(name, step)
                view.update(name, f"{step}: 120 answers")
                console.print(view.view())
                drawn += 1
                view.end(name)
        for name in batch:
            future: Future[None] = Future()
            future.set_result(None)
            view.ended(name, future)
        console.file.seek(0)
        console.file.truncate()
    seconds = time.process_time() - began
    return {
        "draw_ms": round(1000 * seconds / drawn, 2),
        "mb": round((psutil.Process().memory_info().rss - before) / 1e6, 1),
    }


def show(found: list[dict[str, Any]]) -> None:
    print("| cells | plan, new, s | plan, half done, s | plan, done, s | resume, s | peak MB: plan, resume "
          "| live view: ms of CPU a drawing, MB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for row in found:
        times = " | ".join(
            f"{row[name]['seconds']:.2f} ({row[name]['cpu_s']:.2f})" for name in ("new", "half", "done", "resume")
        )
        view = f"{row['live']['draw_ms']:.1f}, {row['live']['mb']:.1f}"
        print(f"| {row['cells']:,} | {times} | {row['new']['peak_mb']:.0f}, {row['resume']['peak_mb']:.0f} | {view} |")
    print(f"\nIn brackets: CPU time. Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
