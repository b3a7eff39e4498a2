"""Generation settings that no API takes."""

import pytest

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.backends.generation_ranges import range_problems
from evalscope_evalflow.config.task import Task


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -5), ("max_tokens", 0), ("n", 0), ("temperature", 7), ("temperature", -0.1), ("top_p", 0),
        ("top_p", 1.1), ("top_k", -2), ("min_p", 2), ("frequency_penalty", 3), ("repetition_penalty", 0),
        ("timeout", 0), ("retries", -1), ("batch_size", 0),
    ],
)  # fmt: skip
def test_a_number_outside_of_its_range(name, value):
    (problem,) = range_problems({name: value}, "generation_config")
    assert problem.where == f"generation_config.{name}"
    assert problem.what.startswith(f"{value}: input should be ")


def test_what_works_is_no_problem():
    settings = {"max_tokens": 1, "temperature": 0, "top_p": 1.0, "top_k": -1, "retries": 0, "n": 3, "seed": -1}
    assert list(range_problems(settings, "generation_config")) == []
    assert list(range_problems({"temperature": "hot"}, "generation_config")) == []
    assert list(range_problems(None, "generation_config")) == []


def test_the_judges_too():
    judge = {"model_id": "j", "api_url": "http://127.0.0.1:9/v1", "generation_config": {"temperature": 3}}
    task = Task.parse(
        {
            "model": "m",
            "api_url": "http://127.0.0.1:9/v1",
            "datasets": ["gsm8k"],
            "judge": {"models": [judge]},
            "evalflow": {"backend": "Native"},
        }
    )
    assert "judge.models.0.generation_config.temperature" in [item.where for item in load_backend("Native").check(task)]
