"""One answer is judged ahead; its reply is the judge's when it is asked the same again."""

import io
import json
import threading

import pytest

from evalscope_evalflow.sweep.judge_limit import JudgeBudget
from evalscope_evalflow.worker.channel import Channel
from evalscope_evalflow.worker.judge_probe import JudgeProbe


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def probe(said):
    return JudgeProbe(Channel(said, io.StringIO()))


def events(said):
    return [json.loads(line) for line in said.getvalue().splitlines()]


def judged(probe, request, reply, why=None, repeats=1):
    def judge():
        for _ in range(repeats):
            probe.ask(request, lambda: reply)
        return why

    return judge


def never():
    raise AssertionError("nothing is asked")


def test_a_reply_is_used_once_for_the_same_request(probe, said):
    probe.offer("a", judged(probe, "q", "first", repeats=2))
    probe.wait()
    assert probe.ask("q", never) == "first"
    assert probe.ask("q", never) == "first"
    assert probe.ask("q", lambda: "new") == "new"
    assert events(said) == [
        {"event": "JudgeProbed", "dataset": "a", "requests": 2, "kind": "", "said": "", "expected": ""}
    ]


def test_another_request_is_made(probe):
    probe.offer("a", judged(probe, "q", "first"))
    probe.wait()
    assert probe.ask("another", lambda: "new") == "new"


def test_one_answer_of_a_dataset_is_judged(probe, said):
    gate = threading.Event()

    def slow():
        gate.wait(10)
        return probe.ask("q", lambda: None)

    probe.offer("a", slow)
    probe.offer("a", never)  # while it is judged
    gate.set()
    probe.wait()
    probe.offer("a", never)  # and after it
    probe.offer("b", judged(probe, "q", "", ("unreadable", "B", "a letter")))
    probe.wait()
    assert [(event["dataset"], event["kind"], event["said"]) for event in events(said)] == [
        ("a", "", ""),
        ("b", "unreadable", "B"),
    ]


def test_an_answer_that_took_no_judge_tells_nothing_and_the_next_is_judged(probe, said):
    probe.offer("a", lambda: None)
    probe.wait()
    probe.offer("a", judged(probe, "q", "A"))
    probe.wait()
    assert len(events(said)) == 1


def test_a_request_that_failed_is_made_again(probe, said):
    def judge():
        with pytest.raises(OSError, match="down"):
            probe.ask("q", fail)
        return "server_error", "down", ""

    def fail():
        raise OSError("down")

    probe.offer("a", judge)
    probe.wait()
    assert probe.ask("q", lambda: "up") == "up"
    assert [event["kind"] for event in events(said)] == ["server_error"]


def test_a_dataset_whose_code_fails_ends_nothing(probe, said, capsys):
    probe.offer("a", never)
    probe.wait()
    assert events(said) == []
    assert "one answer could not be judged ahead" in capsys.readouterr().err


def test_of_several_models_the_first_asks_ahead():
    budget = JudgeBudget(4)
    assert budget.first_of(["a", "b"]) == ["a", "b"]
    assert budget.first_of(["b", "c"]) == ["c"]
