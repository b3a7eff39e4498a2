"""The same evaluation through every door gives the same scores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
SECTION = {"backend": "Native", "deploy": {"engine": "llamacpp", "max_model_len": 1024, "max_num_seqs": 1}}


def run(
    *command: object, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command of this environment, to its end."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=300,
        check=False,
    )


def scores(work_dir: str | Path) -> dict[str, Any]:
    """Every report's scores and samples, and every answer in it."""
    found = {}
    for path in sorted(Path(work_dir).glob("**/reports/*/*.json")):
        report = json.loads(path.read_text())
        found[report["dataset_name"]] = [(metric["score"], metric["num"]) for metric in report["metrics"]]
    answers = {}
    for path in Path(work_dir).glob("**/predictions/*/*.jsonl"):
        for line in path.read_text().splitlines():
            item = json.loads(line)
            answers[item["index"]] = item["model_output"]["choices"][0]["message"]["content"]
    return {"reports": found, "answers": answers}


@pytest.fixture(scope="session")
def expected(gguf: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By hand: `deploy`, and stock EvalScope in a process where EvalFlow is switched off."""
    from evalscope_evalflow import deploy

    work = tmp_path_factory.mktemp("by-hand")
    with deploy(
        str(gguf), name="smol", engine="llamacpp", max_model_len=1024, max_num_seqs=1, log_dir=work
    ) as endpoint:
        done = run(
            BIN / "evalscope", "eval", "--model", endpoint.model, "--api-url", endpoint.api_url,
            "--api-key", endpoint.api_key, "--eval-type", "openai_api", "--datasets", "general_mcq",
            "--dataset-args", json.dumps(_dataset_args(data)), "--eval-batch-size", "1",
            "--generation-config", '{"max_tokens": 6, "temperature": 0.0}',
            "--work-dir", work / "out", "--no-timestamp",
            env={"EVALFLOW_DISABLE": "1"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = scores(work / "out")
    assert len(found["answers"]) == 8
    return found


def _dataset_args(data: Path) -> dict[str, Any]:
    template = "{question}\n{choices}\nReply with the letter alone, as in ANSWER: A"
    return {"general_mcq": {"local_path": str(data), "subset_list": ["tiny"], "prompt_template": template}}


@pytest.fixture
def task(stock_task: dict[str, Any], gguf: Path) -> dict[str, Any]:
    """The task as a file would hold it."""
    return {**stock_task, "model": str(gguf), "model_id": "smol", "eval_backend": "evalflow", "evalflow": SECTION}


def test_dict(task: dict[str, Any], expected: dict[str, Any]) -> None:
    from evalscope.report import Report
    from evalscope.run import run_task

    result = run_task(task)
    assert list(result) == ["general_mcq"]
    assert isinstance(result["general_mcq"], Report)
    on_disk = json.loads(Path(task["work_dir"], "reports", "smol", "general_mcq.json").read_text())
    assert result["general_mcq"].to_dict() == on_disk
    assert scores(task["work_dir"]) == expected


def test_object(task: dict[str, Any], expected: dict[str, Any]) -> None:
    from evalscope.config import TaskConfig
    from evalscope.run import run_task

    config = TaskConfig(**task)
    with pytest.raises(ValueError, match="evalflow"):
        config.evalflow = {}
    result = run_task(config)
    assert result["general_mcq"].num == 8
    assert scores(task["work_dir"]) == expected


def test_yaml_file_and_list(task: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    from evalscope.config import TaskConfig
    from evalscope.run import run_task

    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(task))
    assert run_task(str(file))["general_mcq"].num == 8
    assert scores(task["work_dir"]) == expected
    again = run_task([TaskConfig(**{**task, "work_dir": str(tmp_path / "second")})])
    assert [list(result) for result in again] == [["general_mcq"]]
    assert scores(tmp_path / "second") == expected


def test_json_file_with_models(task: dict[str, Any], expected: dict[str, Any], gguf: Path, tmp_path: Path) -> None:
    from evalscope.run import run_task

    models = [{"name": "one", "path": str(gguf)}, {"name": "two", "path": str(gguf), "deploy": {"max_model_len": 512}}]
    section = {**SECTION, "models": models}
    file = tmp_path / "task.json"
    file.write_text(json.dumps({**{k: v for k, v in task.items() if not k.startswith("model")}, "evalflow": section}))
    result = run_task(str(file))
    assert {name: list(reports) for name, reports in result.items()} == {"one": ["general_mcq"], "two": ["general_mcq"]}
    for name in ("one", "two"):
        assert scores(Path(task["work_dir"]) / name) == expected


@pytest.mark.parametrize(
    "door", ["whole task in --eval-config", "section in --eval-config", "--evalflow file", "--evalflow JSON"]
)
def test_evalscope_command(door: str, task: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    stock = ["--model", task["model"], "--model-id", "smol", "--datasets", "general_mcq",
             "--dataset-args", json.dumps(task["dataset_args"]), "--eval-batch-size", "1",
             "--generation-config", json.dumps(task["generation_config"])]  # fmt: skip
    if door.startswith("whole"):
        file.write_text(yaml.safe_dump({**task, "work_dir": "elsewhere", "limit": 2}))
        options = ["--eval-config", file, "--limit", "8"]
    elif door.startswith("section"):
        file.write_text(yaml.safe_dump(SECTION))
        options = [*stock, "--eval-config", file]
    else:
        file.write_text(yaml.safe_dump(SECTION))
        options = [*stock, "--evalflow", file if door.endswith("file") else json.dumps(SECTION)]
    done = run(BIN / "evalscope", "eval", "--eval-backend", "evalflow", *options, "--work-dir", task["work_dir"])
    assert done.returncode == 0, done.stderr
    assert "8/8" in done.stdout
    assert "HTTP Request" not in done.stderr
    assert len(done.stderr.splitlines()) < 15, "as quiet as `evalflow run`"
    assert scores(task["work_dir"]) == expected


def test_evalflow_command_from_a_file(task: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(task))
    done = run(BIN / "evalflow", "run", file)
    assert done.returncode == 0, done.stderr
    assert "8/8" in done.stdout
    assert scores(task["work_dir"]) == expected


def flags_of(task: dict[str, Any]) -> list[str]:
    """The task, as flags."""
    return [
        "--work-dir", task["work_dir"], "--eval_model_name", "smol", "--eval-model-path", task["model"],
        "--eval_backend", "Native", "--datasets", "general_mcq", "--dataset_args", json.dumps(task["dataset_args"]),
        "--eval_max_new_tokens", "6", "--eval_max_num_seqs", "1", "--eval_max_model_length", "1024",
    ]  # fmt: skip


def test_evalflow_flags(task: dict[str, Any], expected: dict[str, Any]) -> None:
    done = run(BIN / "evalflow", *flags_of(task))
    assert done.returncode == 0, done.stderr
    assert scores(Path(task["work_dir"]) / "smol") == expected


def test_other_ways_to_the_command_plan_the_same(task: dict[str, Any]) -> None:
    programs = ["evalflow"], ["python", "-m", "evalscope_evalflow"], ["python", "examples/evalflow.py"]
    plans = set()
    for name, *words in programs:
        done = run(BIN / name, *words, *flags_of(task), "--dry_run", cwd=Path(__file__).parents[3])
        assert done.returncode == 0, done.stderr
        assert "general_mcq: to do" in done.stdout
        plans.add(re.sub(r"\S+/python[\d.]*", "python", done.stdout))  # each names its own interpreter
    assert len(plans) == 1, plans
