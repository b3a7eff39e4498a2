"""Makes run folders of the Native backend out of nothing, for what reads finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def lines(path: Path, rows: Sequence[Any]) -> None:
    """Write a JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def answer(index: int, text: str = "A", question: str | None = None, **output: Any) -> dict[str, Any]:
    """A row of a predictions file."""
    message = {"role": "assistant", "content": text, "source": "generate", "id": f"random-{index}"}
    asked = {"role": "user", "content": question or f"question {index}", "id": f"other-{index}"}
    usage = {"input_tokens": 5, "output_tokens": 7}
    model_output = {"choices": [{"message": message, "stop_reason": "stop"}], "usage": usage, "time": 0.5, **output}
    return {"index": index, "model_output": model_output, "messages": [asked, message]}


def review(
    index: int, value: float | None = 1.0, target: Any = "A", question: str | None = None, repeats: int = 1, **more: Any
) -> dict[str, Any]:
    """A row of a reviews file; `more` goes into its score."""
    row = answer(index, question=question)
    score = {"value": {} if value is None else {"acc": value}, "extracted_prediction": "A", "main_score_name": "acc"}
    sample_score = {
        "score": {**score, **more}, "sample_id": index, "group_id": index // repeats,
        "generation_index": index % repeats,
    }  # fmt: skip
    return {"index": index, "target": target, "messages": row["messages"], "sample_score": sample_score}


def judged(index: int, verdict: str = "A", why: str = "for a reason", **more: Any) -> dict[str, Any]:
    """A row of a reviews file that a judge scored."""
    parsed = {"reasoning": why, "verdict": verdict}
    attempt = {"status": "success", "parsed_value": parsed, "raw_response": json.dumps(parsed)}
    summary = {"status": "success", "valid_observations": 1, "total_observations": 1}
    value = float(verdict == "A")
    return review(index, value, judge_summary=summary, metadata={"judge_attempts": [attempt]}, **more)


def unjudged(index: int, said: str = "judge down") -> dict[str, Any]:
    """A row of a reviews file on which the judge gave no verdict."""
    attempt = {"status": "error", "error": f"JudgeFailed: server_error: {said}"}
    summary = {"status": "unavailable", "valid_observations": 0, "total_observations": 1}
    return review(index, None, judge_summary=summary, metadata={"judge_attempts": [attempt]})


def report(folder: Path, model: str, dataset: str, score: float, num: int, **more: Any) -> None:
    """A report of EvalScope's."""
    identity = {"name": "accuracy", "aggregation": "mean", "dimensions": {}}
    metric = {"identity": identity, "num": num, "score": score, "semantics": {"kind": "quality"}}
    found = {
        "dataset_name": dataset, "model_name": model, "metrics": [metric], "primary_metric_identity": identity,
        "execution_summary": {"requested": num, "succeeded": num, "errored": 0}, **more,
    }  # fmt: skip
    path = folder / "reports" / model / f"{dataset}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def record(folder: Path, model: str = "m", state: str = "complete", **more: Any) -> None:
    """A run.json."""
    (folder / "evalflow").mkdir(parents=True, exist_ok=True)
    found = {
        "schema": 2, "run_id": "run-1", "state": state, "model": model, "ended": "2026-01-01T00:00:00+00:00",
        "task": {"datasets": ["d"], "evalflow": {"backend": "Native"}}, "results": {}, **more,
    }  # fmt: skip
    (folder / "evalflow" / "run.json").write_text(json.dumps(found))


def result(value: float | None, n: int, metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    """A dataset's part of run.json's results."""
    score = {
        "value": value, "metric": metric, "n": n, "requested": n, "answered": n, "judged": None, "failed": 0,
        "unjudged": 0, "cut_off": 0, "empty": 0, "answer_kinds": {}, "interval": None, "complete": True, "why_not": "",
        **more,
    }  # fmt: skip
    return {
        "score": score, "metrics": {metric: value}, "requested": n, "answered": n, "succeeded": n, "failed": 0,
        "judged": None, "fallbacks": 0, "failures": {}, "notes": [], "remarks": [],
    }  # fmt: skip


def run(folder: Path, scores: Sequence[float], model: str = "m", dataset: str = "d", repeats: int = 1) -> Path:
    """A complete run on one dataset whose samples have these scores; of repeats, those of a question together."""
    questions = [f"question {index // repeats}" for index in range(len(scores))]
    rows = [answer(index, f"said {index}", questions[index]) for index in range(len(scores))]
    lines(folder / "predictions" / model / f"{dataset}_s.jsonl", rows)
    found = [
        review(index, value, f"target {index // repeats}", questions[index], repeats)
        for index, value in enumerate(scores)
    ]
    lines(folder / "reviews" / model / f"{dataset}_s.jsonl", found)
    mean = round(sum(scores) / len(scores), 4)
    report(folder, model, dataset, mean, len(scores))
    task = {"datasets": [dataset], "evalflow": {"backend": "Native"}}
    record(folder, model, task=task, results={dataset: result(mean, len(scores))})
    return folder
