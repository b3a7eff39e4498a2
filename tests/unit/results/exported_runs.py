"""Finished run folders for the tests of exporters: a sweep over checkpoints of one training, and a key in its task."""

from __future__ import annotations

import json
from pathlib import Path

from evalscope_evalflow.results.exporters.exported_results import ExportedResults, of_folder
from evalscope_evalflow.results.run_folders import find_runs

KEY = "sk-never-to-be-seen"
FORMULA = "=HYPERLINK(1)"


def finished_run(folder: Path, model: str, score: float | None, answers: tuple[str, ...] = ("a", "b")) -> Path:
    """Write a run folder as a Native run leaves it, with a task whose key is masked.

    Args:
        folder: of the sweep.
        model: the model's name.
        score: its score; None: it has none.
        answers: its answers; the first is right.
    """
    run = folder / model
    (run / "evalflow").mkdir(parents=True)
    interval = None if score is None else [score - 0.1, score + 0.1]
    result = {
        "score": {
            "value": score, "metric": "acc", "n": 2, "requested": 2, "answered": 2, "judged": None, "failed": 0,
            "unjudged": 0, "cut_off": 0, "empty": 0, "interval": interval, "n_groups": 2, "few_groups": True,
            "complete": score is not None, "why_not": "" if score is not None else "no verdict of the judge",
        },
        "metrics": {} if score is None else {"acc": score, "f1": score / 2},
    }  # fmt: skip
    record = {
        "schema": 1, "run_id": "r1", "model": model, "state": "complete", "engine": "llamacpp",
        "versions": {"evalscope": "1.14.1"}, "results": {"general_qa": result},
        "task": {
            "datasets": ["general_qa"],
            "generation_config": {"max_tokens": 8},
            "judge": {"models": [{"model_id": "j", "api_url": "https://u:p@judge.example/v1", "api_key": KEY}]},
            "evalflow": {"backend": "Native", "deploy": {"engine": "llamacpp", "env_vars": {"HF_TOKEN": KEY}}},
        },
    }  # fmt: skip
    (run / "evalflow" / "run.json").write_text(json.dumps(record))
    predictions = run / "predictions" / model / "general_qa_default.jsonl"
    predictions.parent.mkdir(parents=True)
    lines = [_prediction(number, answer) for number, answer in enumerate(answers)]
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def _prediction(number: int, answer: str) -> dict[str, object]:
    message = {"role": "assistant", "content": answer}
    return {
        "index": number,
        "model": "m",
        "model_output": {"choices": [{"message": message, "stop_reason": "stop"}]},
        "messages": [{"role": "user", "content": f"question {number}"}],
        "metadata": {},
    }


def sweep_of(folder: Path, **scores: float | None) -> ExportedResults:
    """The results of run folders; underscores in names stand for dashes."""
    for model, score in scores.items():
        finished_run(folder, model.replace("_", "-"), score, (FORMULA, "-3"))
    return of_folder(folder, find_runs(folder))
