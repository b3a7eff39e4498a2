"""`eval_type` is obeyed or refused, through every door."""

import pytest

from evalscope_evalflow.config.eval_types import ASKED_BY
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError

TASK = {
    "eval_backend": "evalflow", "model": "m", "api_url": "http://127.0.0.1:1/v1", "datasets": ["general_qa"],
    "evalflow": {"backend": "Native"},
}  # fmt: skip
OTHERS = ["anthropic_api", "openai_responses_api", "mock_llm", "litellm", "text2image", "llm_ckpt", "checkpoint"]


def by_file(**more):
    return Task.parse({**TASK, **more})


def by_object(**more):
    from evalscope.config import TaskConfig

    from evalscope_evalflow.plugin.evalflow_backend import to_task

    return to_task(TaskConfig(**TASK, **more))


@pytest.mark.parametrize("door", [by_file, by_object])
@pytest.mark.parametrize("eval_type", OTHERS)
def test_any_other_interface_is_refused(door, eval_type):
    with pytest.raises(ConfigError) as error:
        door(eval_type=eval_type)
    (problem,) = error.value.problems
    assert problem.where == "eval_type"
    assert repr(str(eval_type)).strip("'") in problem.what
    assert problem.todo.startswith("Leave it out")


@pytest.mark.parametrize("door", [by_file, by_object])
@pytest.mark.parametrize("eval_type", [None, *ASKED_BY])
def test_chat_completions_are_what_is_asked_for(door, eval_type):
    assert "eval_type" not in door(eval_type=eval_type).stock


def test_an_object_without_a_model_is_not_taken_for_the_mock():
    from evalscope.config import TaskConfig

    from evalscope_evalflow.plugin.evalflow_backend import to_task

    models = {"backend": "Native", "models": [{"name": "m", "api_url": "http://127.0.0.1:1/v1"}]}
    made = TaskConfig(eval_backend="evalflow", datasets=["general_qa"], evalflow=models)
    again = TaskConfig(**made.to_dict())
    assert [to_task(item).models[0].name for item in (made, again)] == ["m", "m"]


def test_the_chat_template_of_models_that_evalscope_loads_is_refused():
    with pytest.raises(ConfigError, match=r"Set `deploy\.chat_template`"):
        by_file(chat_template="{{ messages }}")
