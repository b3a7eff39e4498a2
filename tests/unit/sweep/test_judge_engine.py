"""The sweep's judge, on an engine that is made up: who waits for it, and who is told of its end."""

import threading
from types import SimpleNamespace
from typing import ClassVar

import pytest

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import EvalFlowError, Stopped
from evalscope_evalflow.sweep import judge_engine
from evalscope_evalflow.sweep.judge_engine import MOST_USERS, JudgeEngine

WAIT_S = 10.0


class FakeDeployment:
    """Ready at once; `die` ends it."""

    made: ClassVar[list["FakeDeployment"]] = []
    fails = False

    def __init__(self, engine, model, deploy, *, log, run_id, on_exit, shared):
        self.reused, self.notes = None, []
        self.model, self.log, self.die = model, log, on_exit
        self.api_key, self.process, self.load_s, self.was_stopped = "key", None, 0.1, False
        self.released = threading.Event()
        FakeDeployment.made.append(self)

    def start(self):
        pass

    def wait_ready(self):
        if FakeDeployment.fails:
            raise EvalFlowError("no room")
        return SimpleNamespace(api_url=f"http://h/{len(FakeDeployment.made)}")

    def failure(self, when, cause):
        return EvalFlowError(f"died {when}")

    def release(self):
        self.released.set()
        return SimpleNamespace(problems=list, warnings=list)


@pytest.fixture
def judge(monkeypatch, tmp_path):
    monkeypatch.setattr(judge_engine, "Deployment", FakeDeployment)
    FakeDeployment.made, FakeDeployment.fails = [], False
    section = {"models": [{"path": "/m"}], "judge": {"path": "/b.gguf", "deploy": {"max_restarts": 1}}}
    task = Task.parse(
        {"datasets": ["general_mcq"], "work_dir": str(tmp_path), "evalflow": {"backend": "Native", **section}}
    )
    made = JudgeEngine(task, lambda text: None, lambda text: None)
    yield made
    made.end()


def fine():
    pass


def test_it_is_used_and_released_at_the_end(judge):
    judge.begin({"devices": "1"})
    with judge.use(fine, lambda why: None) as use:
        assert (use.name, use.api_key, use.wait_ready()) == ("b", "key", "http://h/1")
    judge.end()
    assert judge.deploy.devices == "1"
    assert [item.released.is_set() for item in FakeDeployment.made] == [True]


def test_a_death_is_told_and_it_is_started_again_as_often_as_it_may(judge):
    judge.begin({})
    for number in (1, 2):
        lost = threading.Event()
        with judge.use(fine, lambda why, lost=lost: lost.set()) as use:
            assert use.wait_ready() == f"http://h/{number}"
            FakeDeployment.made[-1].die()
            assert lost.wait(WAIT_S)
    with pytest.raises(EvalFlowError, match="the judge: died while it judged"), judge.use(fine, lambda why: None):
        pass
    assert all(item.released.wait(WAIT_S) for item in FakeDeployment.made)


def test_whoever_waits_is_told_that_it_could_not_be_started(judge):
    FakeDeployment.fails = True
    judge.begin({})
    with pytest.raises(EvalFlowError, match="the judge: no room"), judge.use(fine, lambda why: None) as use:
        use.wait_ready()


def test_who_is_cancelled_waits_no_longer(judge):
    cancelled = threading.Event()

    def check():
        if cancelled.is_set():
            raise Stopped("cancelled")

    found = []

    def wait():
        try:
            with judge.use(check, lambda why: None):
                pass
        except Stopped as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    cancelled.set()
    judge.wake()
    thread.join(WAIT_S)
    assert len(found) == 1


def test_only_so_many_are_judged_at_once(judge):
    judge.begin({})
    inside, more = [judge.use(fine, lambda why: None) for _ in range(MOST_USERS)], threading.Event()
    for block in inside:
        block.__enter__()

    def one_more():
        with judge.use(fine, lambda why: None):
            more.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    assert not more.wait(0.2)
    for block in inside:
        block.__exit__(None, None, None)
    assert more.wait(WAIT_S)
    thread.join(WAIT_S)
