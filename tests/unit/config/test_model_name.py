import os

import pytest

from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.config.model_name import name_of
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/Qwen3-0.6B/", "Qwen3-0.6B"),
        ("/models/Small.Q4_1.GGUF", "Small.Q4_1"),
        ("/cache/hub/models--Qwen--Qwen3-0.6B", "Qwen3-0.6B"),
        ("/models/检查点 7", "检查点 7"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
    ],
)
def test_a_model_is_named_by_the_last_part_of_its_path(path, name):
    assert name_of(path) == name


def test_the_folder_above_has_the_name_of_that_folder(tmp_path, monkeypatch):
    (tmp_path / "mine" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "below")
    assert name_of("..") == "mine"
    assert name_of(".") == "below"
    task = Task.parse({"model": "..", "datasets": ["general_mcq"], "evalflow": {"backend": "Native"}})
    assert task.models[0].name == "mine"
    assert os.path.abspath(task.models[0].path) == str(tmp_path / "mine")


@pytest.mark.parametrize("name", [".", "..", " .. ", "a\nb", "a\0b", "9" * 161, "点" * 54])
def test_a_name_under_which_nothing_can_be_filed_is_refused_at_its_place(name):
    with pytest.raises(ConfigError, match=r"evalflow.models.0.name: .* is no name for a model"):
        FlowConfig.parse({"models": [{"name": name, "path": "/x"}]}, "evalflow")
