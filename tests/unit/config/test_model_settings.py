"""What a model of a sweep may have of its own: the name at its API, and generation settings."""

import pytest

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run import fingerprints

THINK = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}, "max_tokens": 4096}
API = {"api_url": "http://127.0.0.1:9/v1", "model_id": "qwen"}


def parse(backend="Native", **stock):
    models = [{"name": "plain", **API}, {"name": "thinks", **API, "generation_config": THINK}]
    section = {"backend": backend, "models": models}
    common = {"max_tokens": 16, "extra_body": {"top_k": 1, "chat_template_kwargs": {"enable_thinking": False}}}
    return Task.parse({"datasets": ["gsm8k"], "generation_config": common, **stock, "evalflow": section})


def test_one_api_model_is_asked_in_two_ways():
    task = parse()
    plain, thinks = (load_backend("Native").stock_task(task, model, 8) for model in task.models)
    assert [item["model"] for item in (plain, thinks)] == ["qwen", "qwen"]
    assert [item["model_id"] for item in (plain, thinks)] == ["plain", "thinks"]
    assert plain["generation_config"]["max_tokens"] == 16
    assert thinks["generation_config"] == {
        "max_tokens": 4096,
        "extra_body": {"top_k": 1, "chat_template_kwargs": {"enable_thinking": True}},
    }


def test_on_vlmevalkit_too():
    task = parse("VLMEvalKit")
    plain, thinks = (load_backend("VLMEvalKit").worker_settings(task, model) for model in task.models)
    assert (plain["model"], plain["served_name"]) == ("plain", "qwen")
    assert (thinks["model"], thinks["generation_config"]["max_tokens"]) == ("thinks", 4096)


def test_answers_in_one_way_are_not_taken_for_the_others():
    task = parse()
    plain, thinks = (fingerprints.predictions(task, model, "gsm8k") for model in task.models)
    changed = " ".join(fingerprints.differences(plain, thinks))
    assert "generation_config.max_tokens was 16 and is 4096" in changed
    assert "enable_thinking" in changed


def test_a_checkpoint_has_no_other_name():
    with pytest.raises(ConfigError, match="model_id is the name at an API"):
        Task.parse({"datasets": ["gsm8k"], "evalflow": {"models": [{"path": "/m", "model_id": "q"}]}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_tokenz": 3}, "model m, generation_config.max_tokenz"), ({"temperature": "hot"}, "temperature")],
)
def test_wrong_ones_are_refused_with_their_place(settings, message):
    models = [{"name": "m", **API, "generation_config": settings}]
    task = Task.parse({"datasets": ["gsm8k"], "evalflow": {"backend": "Native", "models": models}})
    assert any(message in str(problem) for problem in load_backend("Native").check(task))
