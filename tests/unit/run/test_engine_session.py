"""What is said and recorded of an engine that goes on from saved answers."""

from types import SimpleNamespace

import pytest

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.events.engine_events import EngineNotice, EngineStarting
from evalscope_evalflow.run import engine_session
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.state import record

FACTS = {"engine": "lmdeploy", "version": "0.18.0", "gpus": ["NVIDIA H100"]}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts an engine for a run with so many saved answers: the events."""

    def begin(answers, facts, **deploy):
        section = {"backend": "Native", "deploy": {"engine": "lmdeploy", **deploy}}
        task = {"model": str(tmp_path / "m"), "datasets": ["gsm8k"], "work_dir": str(tmp_path / "out")}
        run = Run((parsed := Task.parse({**task, "evalflow": section})), parsed.models[0], Control())
        monkeypatch.setattr(run, "answers", lambda: answers)
        monkeypatch.setattr(engine_session, "engine_facts", lambda engine, server: dict(facts))
        events = []
        run.subscribe(record.Record(run.folder, f"run-{answers}"))
        run.subscribe(SimpleNamespace(on_event=events.append))
        session = engine_session.EngineSession(run, load_engine("lmdeploy"), None, events.append)
        session.deployment = SimpleNamespace(
            start=lambda: None,
            server=SimpleNamespace(devices=SimpleNamespace(names=["0"]), stood_by_s=None),
            log="engine.log",
            argv=["x"],
            placement_facts={},
            reused=None,
            notes=[],
        )
        session.start()
        return run.folder, events

    return begin


def test_turbominds_answers_are_announced_where_a_run_goes_on(start):
    folder, (starting,) = start(0, FACTS)
    assert isinstance(starting, EngineStarting)
    assert (starting.version, starting.note) == ("0.18.0", "")
    folder, (starting, notice) = start(5, FACTS)
    assert notice == EngineNotice(starting.note)
    assert notice.text.startswith("turbomind's answers differ from run to run, even at temperature 0")
    assert [batch.get("note") for batch in record.answers_from(folder)] == [None, notice.text]
    assert len(start(5, FACTS, extra_args=["--backend", "pytorch"])[1]) == 1


def test_another_version_is_announced(start):
    start(0, FACTS, extra_args=["--backend", "pytorch"])
    now = {**FACTS, "version": "0.19.0"}
    _, (_, notice) = start(5, now, extra_args=["--backend", "pytorch"])
    assert notice.text == "the saved answers are of lmdeploy 0.18.0, and now 0.19.0"
