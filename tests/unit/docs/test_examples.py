"""The examples are tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from doc_blocks import ROOT

from evalscope_evalflow.config.task import Task

EXAMPLES = ROOT / "examples"
ENGINES = ["llamacpp", "lmdeploy", "remote", "sglang", "vllm"]


def test_there_is_one_for_each_engine_and_two_more() -> None:
    assert sorted(file.stem for file in EXAMPLES.glob("*.yaml")) == sorted([*ENGINES, "sweep", "vlmevalkit"])


def test_vlmevalkits_is_for_vlmevalkit() -> None:
    assert Task.load(EXAMPLES / "vlmevalkit.yaml").flow.backend == "VLMEvalKit"


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engines_is_for_that_engine_and_its_data_is_there(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    task = Task.load(EXAMPLES / f"{engine}.yaml")
    assert task.flow.deploy.engine == engine
    assert task.flow.backend == "Native"
    for settings in task.stock["dataset_args"].values():
        assert list(Path(settings["local_path"]).glob("*.jsonl"))


def test_the_sweeps_has_a_model_for_every_checkpoint(make_checkpoint: Any, tmp_path: Path) -> None:
    for step in (2000, 10000, 1000):
        make_checkpoint(f"ckpts/step-{step}")
    text = (EXAMPLES / "sweep.yaml").read_text()
    (tmp_path / "sweep.yaml").write_text(text.replace("/ckpts", str(tmp_path / "ckpts")))
    task = Task.load(tmp_path / "sweep.yaml")
    assert [model.name for model in task.models] == ["step-1000", "step-2000", "step-10000"]
