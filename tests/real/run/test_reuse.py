"""What a rerun of a task that has changed asks, and what it shows: by one folder that is used again and again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tls_server import TlsServer, completion

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
GENERATION = {"max_tokens": 8, "temperature": 0.0, "retries": 0}


@pytest.fixture
def api() -> Iterator[TlsServer]:
    with TlsServer(None, ["m"], "sk-1") as server:
        server.reply = lambda _: (200, {}, completion("m", "ANSWER: A"))
        yield server


class Task:
    """A task of one's own data, run in one folder."""

    def __init__(self, folder: Path, api: TlsServer) -> None:
        self.folder, self.api = folder, api
        for name in ("mcq", "qa"):
            (folder / name).mkdir()
        (folder / "qa" / "t.jsonl").write_text('{"query": "Say it.", "response": "ANSWER: A"}\n')

    def rows(self, *rows: tuple[str, str]) -> None:
        lines = [{"question": text, "A": "1", "B": "2", "C": "3", "D": "4", "answer": right} for text, right in rows]
        (self.folder / "mcq" / "t_val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def evalflow(self, command: str, *datasets: str, code: int = 0, **more: Any) -> str:
        args = {"general_mcq": {"local_path": "mcq", "subset_list": ["t"]}}
        args["general_qa"] = {"local_path": "qa", "subset_list": ["t"], "metric_list": ["Rouge"]}
        model = {"name": "m", "api_url": self.api.url, "api_key": "sk-1"}
        section = {"backend": "Native", "models": [model], **more.pop("flow", {})}
        task = {
            "datasets": list(datasets or ["general_mcq"]), "dataset_args": args, "work_dir": "out",
            "generation_config": GENERATION, "evalflow": section, **more,
        }  # fmt: skip
        (self.folder / "task.yaml").write_text(yaml.safe_dump(task))
        self.api.asked.clear()
        done = subprocess.run(
            [BIN / "evalflow", command, "task.yaml"],
            cwd=self.folder, capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ),
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def result(self, dataset: str = "general_mcq") -> tuple[float, int]:
        """Score and samples of the last run."""
        record = json.loads((self.folder / "out" / "m" / "evalflow" / "run.json").read_text())
        found = record["results"][dataset]
        return found["score"]["value"], found["succeeded"]


def test_a_folder_is_used_again_with_other_data_limits_and_datasets(api: TlsServer, tmp_path: Path) -> None:
    task = Task(tmp_path, api)
    task.rows(("one", "A"), ("two", "A"), ("three", "B"), ("four", "A"))
    task.evalflow("run", limit=2)
    assert (len(api.asked), task.result()) == (2, (1.0, 2))

    # a larger limit, and another dataset: only what is new is asked
    task.evalflow("run", "general_qa", "general_mcq")
    assert (len(api.asked), task.result()) == (3, (0.75, 4))
    assert task.result("general_qa") == (1.0, 1)

    # a right answer is mended, a question is another, the order too, and the limit is smaller
    task.rows(("five", "A"), ("two", "B"), ("one", "A"), ("three", "A"), ("four", "A"))
    said = task.evalflow("check", limit=4)
    assert "its data has changed" in said
    said = task.evalflow("run", limit=4)
    assert (len(api.asked), task.result()) == (1, (0.75, 4))
    assert "five" in json.dumps(api.asked)
    assert "2 saved answers to be scored anew, as the right answer has changed" in said
    assert "nothing is left to do" in task.evalflow("run", limit=4)

    # back to all, and asked twice: the answer that was put aside is there
    task.evalflow("run", repeats=2)
    assert (len(api.asked), task.result()) == (5, (0.8, 10))
    task.evalflow("run", "general_qa")
    assert not api.asked
    assert task.result("general_qa") == (1.0, 1)


def test_a_budget_ends_the_asking_and_holds_for_the_next_run(api: TlsServer, tmp_path: Path) -> None:
    body = completion("m", "ANSWER: A")
    body["usage"] = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}
    api.reply = lambda _: (200, {}, body)
    task = Task(tmp_path, api)
    task.rows(("one", "A"), ("two", "A"), ("three", "B"), ("four", "A"))
    flow = {"budget": {"tokens": 180}}
    said = task.evalflow("run", code=3, flow=flow)
    asked = len(api.asked)
    assert 1 <= asked <= 3
    assert task.result()[1] == asked
    assert f"budget of 180 tokens is used up: {50 * asked} are used" in " ".join(said.split())
    said = task.evalflow("run", code=3, flow=flow)
    assert not api.asked
    assert "is used up" in said
    task.evalflow("run", flow={"budget": {"tokens": 1000}})
    assert len(api.asked) == 4 - asked
