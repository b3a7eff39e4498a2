"""The worker's process: it speaks the worker's protocol (evalscope_evalflow/worker/__init__.py), and waits.

A folder with this as `bin/python` poses as the environment that has EvalScope (`worker_env`), so that this is run
instead of the worker. What it writes are the files that EvalScope would write, as far as they are read.
"""

import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from journal import note, read_script

status = os.fdopen(int(os.environ["EVALFLOW_STATUS_FD"]), "w", buffering=1)


def say(event: str, **details: object) -> None:
    print(json.dumps({"event": event, **details}), file=status)


def listen() -> dict:
    line = sys.stdin.readline()
    if not line:
        os._exit(1)
    return json.loads(line)


class Clock:
    """Waiting for what takes some time, so that what is done meanwhile takes none."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def wait(self, seconds: float) -> None:
        self.at += seconds
        threading.Event().wait(max(0.0, self.at - time.monotonic()))


def write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def rows(number: int) -> str:
    return "".join(f'{{"index": {index}}}\n' for index in range(number))


def report(model: str, dataset: str, number: int) -> str:
    metric = {"name": "mean_acc", "score": 1.0, "num": number, "identity": {"name": "mean_acc"}}
    return json.dumps(
        {
            "model_name": model,
            "dataset_name": dataset,
            "metrics": [metric],
            "primary_metric_identity": metric["identity"],
            "execution_summary": {"requested": number, "succeeded": number, "errored": 0},
            "judge_summary": {"status": "success", "total": number},
        }
    )


request = listen()
task, phases = request["stock_task"], request["phases"]
model, folder, datasets = task["model"], task["work_dir"], task["datasets"]
script = read_script()
samples, times = script["samples"], script["models"][model]
say("WorkerImported")
if "infer" in phases:
    say("WorkerWaiting")
    if listen()["request"] != "ModelReady":
        os._exit(1)
    say("WorkerAsking")
    note("going", model)
    clock = Clock()
    for dataset in datasets:
        clock.wait(times["answer_s"][dataset])
        write(f"{folder}/predictions/{model}/{dataset}_main.jsonl", rows(samples[dataset]))
        say("DatasetAnswered", dataset=dataset, requested=samples[dataset], answered=samples[dataset])
    note("predicted", model)
    say("AnswersSaved")
if "judge" in phases:
    while (word := listen())["request"] != "JudgeAnswers":
        pass
    at_once = word["at_once"] or request["judge_batch_size"]
    note("judging began", model, at_once=at_once)
    say("WorkerJudging")
    clock = Clock()
    for dataset in datasets:
        clock.wait(times["verdict_s"][dataset] / at_once)
        write(f"{folder}/reviews/{model}/{dataset}_main.jsonl", rows(samples[dataset]))
        write(f"{folder}/reports/{model}/{dataset}.json", report(model, dataset, samples[dataset]))
    note("judging ended", model)
say("WorkerDone")
