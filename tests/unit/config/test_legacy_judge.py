"""EvalScope's old form of the judge."""

import pytest
from evalscope.config import TaskConfig

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError

MODEL = {"model_id": "judge", "api_url": "http://127.0.0.1:9/v1", "api_key": "EMPTY"}
OLD = {"judge_strategy": "llm", "judge_model_args": {**MODEL, "system_prompt": "Be fair."}}
TASK = {"model": "m", "api_url": "http://127.0.0.1:9/v1", "datasets": ["gsm8k"]}


def parse(**stock):
    return Task.parse({**TASK, **stock, "evalflow": {}})


def test_it_is_read_as_stock_evalscope_reads_it():
    task = parse(**OLD)
    assert task.stock["judge"] == {"strategy": "llm", "models": [MODEL], "contract": {"system_prompt": "Be fair."}}
    assert "old form" in task.notes[0]
    stock = TaskConfig(**TASK, **OLD).judge
    assert stock == TaskConfig(**TASK, judge=task.stock["judge"]).judge


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**OLD, "judge": {"models": [MODEL]}}, "no place beside `judge`"),
        ({"judge_model_args": ["judge"]}, "judge_model_args: is no mapping"),
        ({"judge_model_args": {**MODEL, "score_pattern": "x"}}, "judge.contract.score_mapping"),
    ],
)
def test_what_has_no_translation_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        parse(**given)
