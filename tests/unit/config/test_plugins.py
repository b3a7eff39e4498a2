"""What a notebook shows of an error: what happened and what to do, not our frames."""

import traceback

import pytest

from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.plugin import evalflow_backend as backend


def frames(caught):
    return [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_of_a_section_that_cannot_work():
    with pytest.raises(ConfigError, match=r"evalflow\.deploy\.prt: unknown key") as caught:
        backend.prepare({"eval_backend": "evalflow", "evalflow": {"deploy": {"prt": 80}}})
    assert frames(caught) == ["test_of_a_section_that_cannot_work", "prepare"]
    assert caught.value.__suppress_context__


def test_of_a_run(monkeypatch):
    def refuse(task_config):
        try:
            raise OSError("inner")
        except OSError as error:
            raise ConfigError(Problem("model", "does not exist")) from error

    monkeypatch.setattr(backend, "to_task", refuse)
    with pytest.raises(ConfigError, match="model: does not exist") as caught:
        backend.run(None, None)
    assert frames(caught) == ["test_of_a_run", "run"]
    assert caught.value.__cause__ is None
