"""How the end of a model's part is recorded."""

import json

import pytest
from test_resume import checkpoint, make  # noqa: F401 - fixtures

from evalscope_evalflow.errors import EvalFlowError
from evalscope_evalflow.run import model_run


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted"),
        (EvalFlowError("no memory"), "failed", "no memory"),
        (RuntimeError(), "failed", "RuntimeError"),
    ],
)
def test_an_end_without_words_is_recorded_as_what_it_was(make, monkeypatch, error, state, said):  # noqa: F811
    def end(*_):
        raise error

    monkeypatch.setattr(model_run, "_evaluate", end)
    task = make()
    with pytest.raises(type(error)):
        model_run.run_model(task, task.models[0])
    found = json.loads((task.folder(task.models[0]) / "evalflow" / "run.json").read_text())
    assert (found["state"], found["error"]) == (state, said)
