"""Bad input gets a clear error, in seconds, with nothing started: on the real commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from evalscope_evalflow import ConfigError

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent

SECTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"deplyo": {}}, ["evalflow.deplyo", "Did you mean 'deploy'?"]),
    "unknown engine": (
        {"deploy": {"engine": "vlm"}},
        ["unknown engine 'vlm'", "'vllm'", "Known: llamacpp, lmdeploy, remote"],
    ),
    "missing folder": ({"models": [{"name": "m", "path": "/no/such/folder"}]}, ["/no/such/folder does not exist"]),
    "no checkpoint": ({"models": [{"name": "m", "path": "EMPTY_FOLDER"}]}, ["is no checkpoint", "config.json"]),
    "remote without URL": (
        {"models": [{"name": "m"}], "deploy": {"engine": "remote"}},
        ["needs the API's URL", "--remote_api_url"],
    ),
    "engine not installed": (
        {"models": [{"name": "m", "path": "CHECKPOINT"}], "deploy": {"engine": "vllm"}},
        ["vllm is not installed in", "[vllm]", "--conda_env"],
    ),
    "a mask for a key": ({"deploy": {"api_key": "**********"}}, ["is the mask of a key", "${API_KEY}"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an empty folder and something that looks like a checkpoint."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"\0" * 16)
    return tmp_path


def filled(section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The section with real paths."""
    text = json.dumps(section)
    text = text.replace("EMPTY_FOLDER", str(folder / "empty")).replace("CHECKPOINT", str(folder / "checkpoint"))
    result: dict[str, Any] = json.loads(text)
    return result


@pytest.mark.parametrize("door", ["evalflow", "evalscope", "python"])
@pytest.mark.parametrize("what", SECTIONS)
def test_sections(what: str, door: str, folder: Path, gguf: Path) -> None:
    section, says = SECTIONS[what]
    section = {"backend": "Native", **filled(section, folder)}
    model = {} if "models" in section else {"model": str(gguf)}
    task = {"datasets": ["general_mcq"], "work_dir": str(folder / "work"), **model, "evalflow": section}
    refused(task, says, door, folder)


@pytest.mark.parametrize("door", ["evalflow", "evalscope", "python"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {
                "datasets": ["genral_mcq", "general_mcq"],
                "dataset_args": {"general_mcq": {"local_path": "FOLDER", "subset_list": ["t"]}},
            },
            [
                "no benchmark 'genral_mcq'",
                "Did you mean 'general_mcq'?",
                "general_mcq, FOLDER/t_val.jsonl:2: it has no options",
                "Write each option under its letter",
            ],
        ),
        ({"eval_config": {"backend": "Native"}}, ["both `evalflow` and `eval_config`"]),
    ],
)
def test_tasks(change: dict[str, Any], says: list[str], door: str, folder: Path, gguf: Path) -> None:
    task = {
        "datasets": ["general_mcq"],
        "model": str(gguf),
        "work_dir": str(folder / "work"),
        "evalflow": {"backend": "Native"},
    }
    rows = [{"question": "q", "A": "a", "answer": "A"}, {"question": "q", "options": ["a"], "answer": "A"}]
    (folder / "t_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    change, says = json.loads(json.dumps([change, says]).replace("FOLDER", str(folder)))
    refused({**task, **change}, says, door, folder)


def refused(task: dict[str, Any], says: list[str], door: str, folder: Path) -> None:
    """The task is refused, with these words, in seconds, and nothing was started."""
    file = folder / "task.json"
    file.write_text(json.dumps(task))
    before = psutil.Process().children()  # other tests' own
    if door == "python":
        from evalscope.run import run_task

        with pytest.raises(ConfigError) as caught:
            run_task(str(file))
        said = str(caught.value)
        assert psutil.Process().children() == before
    else:
        began = time.monotonic()
        options = ["--evalflow", json.dumps(task["evalflow"])] if "eval_config" in task else []
        if door == "evalflow":
            command = [BIN / "evalflow", "run", file]
        else:
            command = [BIN / "evalscope", "eval", "--eval-backend", "evalflow", "--eval-config", file, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        said = done.stderr
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in said
        assert time.monotonic() - began < 60
    for words in says:
        assert words in said
    assert not (folder / "work" / "evalflow" / "engine.log").exists()


def test_as_many_names_as_paths(gguf: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "evalflow", "--work_dir", tmp_path / "w", "--eval_model_name", "a", "b", "--eval_model_path", gguf,
         "--datasets", "general_mcq"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "1 given for 2 names" in done.stderr
