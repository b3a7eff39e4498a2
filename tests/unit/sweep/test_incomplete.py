"""Matches of a pattern that are still being written."""

import io

import pytest
from rich.console import Console

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, ExitCode
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.sweep.incomplete import without_incomplete
from evalscope_evalflow.sweep.show_plan import show_plan


@pytest.fixture
def checkpoints(tmp_path, make_checkpoint):
    for number in (1, 2, 10):
        make_checkpoint(f"ckpts/step-{number}")
    folder = tmp_path / "ckpts"
    (folder / "step-3").mkdir()
    half = folder / "step-4"
    half.mkdir()
    (half / "config.json").write_text("{}")
    cut = make_checkpoint("ckpts/step-5") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    return folder


def parse(*models, **section):
    return Task.parse({"datasets": ["gsm8k"], "evalflow": {"models": list(models), **section}})


def test_they_are_skipped_with_the_reason(checkpoints):
    task, skipped = without_incomplete(parse({"path": f"{checkpoints}/step-*"}))
    assert [model.name for model in task.models] == ["step-1", "step-2", "step-10"]
    assert [model.name for model in task.flow.models] == ["step-1", "step-2", "step-10"]
    assert list(skipped) == ["step-3", "step-4", "step-5"]
    assert "no config.json" in skipped["step-3"]
    assert "no weights" in skipped["step-4"]
    assert "damaged" in skipped["step-5"]


def test_with_refuse_nothing_starts(checkpoints):
    with pytest.raises(ConfigError, match=r"3 of the 6 matches of .*step-\* are no checkpoints: .*no config\.json"):
        without_incomplete(parse({"path": f"{checkpoints}/step-*"}, on_incomplete="refuse"))


def test_a_pattern_with_nothing_whole_is_refused(checkpoints):
    with pytest.raises(ConfigError, match="2 of the 2 matches"):
        without_incomplete(parse({"path": f"{checkpoints}/step-[34]"}))


def test_a_model_that_is_named_is_preflights_matter(checkpoints):
    task, skipped = without_incomplete(parse({"path": f"{checkpoints}/step-3"}, {"path": f"{checkpoints}/step-1*"}))
    assert skipped == {}
    with pytest.raises(ConfigError, match="step-3 is no checkpoint"):
        show_plan(task)


def test_broken_gguf_files_too(tmp_path, make_gguf):
    make_gguf("q1.gguf")
    (tmp_path / "q2.gguf").write_bytes(b"GGUF")
    task, skipped = without_incomplete(parse({"path": f"{tmp_path}/q*.gguf"}))
    assert [model.name for model in task.models] == ["q1"]
    assert list(skipped) == ["q2"]


def test_a_run_without_them_is_incomplete(tmp_path):
    model = ModelConfig(name="a", path="/a")
    result = FlowResult(parse({"path": "/a"}), [ModelResult(model, tmp_path)], {"b": "has no weights"})
    assert result.exit_code is ExitCode.INCOMPLETE
    assert result.rows()[-1] == ("b", [], "skipped: has no weights")


def test_the_plan_says_so(tmp_path, make_gguf, make_env):
    make_gguf("q1.gguf")
    (tmp_path / "q2.gguf").write_bytes(b"GGUF")
    deploy = {"env": str(make_env()), "devices": ""}
    task = Task.parse(
        {
            "datasets": ["gsm8k"],
            "work_dir": str(tmp_path / "out"),
            "evalflow": {"models": [{"path": f"{tmp_path}/q*.gguf"}], "deploy": deploy},
        }
    )
    out = io.StringIO()
    show_plan(task, Console(file=out, width=200))
    assert "q2 is skipped" in out.getvalue()
    assert "1 model(s)" in out.getvalue()
