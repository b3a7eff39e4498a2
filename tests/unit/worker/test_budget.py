"""What is bought is written down, and a budget is never exceeded."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from evalscope_evalflow.events.json_lines import FileError
from evalscope_evalflow.events.spending import FILE, read
from evalscope_evalflow.worker.budget import Budget
from evalscope_evalflow.worker.request_failures import Unanswered, classify

PROMPT = "x" * 27  # 10 tokens, as they are estimated


class Model:
    """Answers with 30 tokens, prompts included."""

    def __init__(self, usage=30):
        self.asked, self.usage = 0, usage
        self.gate = threading.Event()
        self.gate.set()

    def generate(self, input):
        self.asked += 1
        self.gate.wait()
        if input == "fail":
            raise ValueError("no")
        usage = SimpleNamespace(total_tokens=self.usage, input_tokens=0, output_tokens=0) if self.usage else None
        return SimpleNamespace(usage=usage, completion="y" * 30)

    async def generate_async(self, input):
        return Model.generate(self, input)


def watched(folder, model, max_tokens=20, **limits):
    budget = Budget(str(folder), limits, max_tokens)
    budget.dataset = "d"
    budget.watch(model)
    return budget


def spent(folder):
    return read(folder / FILE)


def test_what_is_bought_is_counted_without_a_budget_too(tmp_path):
    model = Model()
    watched(tmp_path, model)
    model.generate(PROMPT)
    asyncio.run(model.generate_async(PROMPT))
    assert (spent(tmp_path).tokens, spent(tmp_path).by_dataset) == (60, {"d": (2, 60)})


def test_nothing_more_is_asked_when_it_is_reached_in_this_run_or_the_next(tmp_path):
    model = Model()
    watched(tmp_path, model, tokens=100)
    for _ in range(3):
        model.generate(PROMPT)
    for again in (model, Model()):
        if again is not model:
            watched(tmp_path, again, tokens=100)
        before = again.asked
        with pytest.raises(
            Unanswered, match=r"budget of 100 tokens is used up: 90 are used.*raise budget\.tokens"
        ) as e:
            again.generate(PROMPT)
        assert classify(e.value) == ("over_budget", True)
        assert again.asked == before
    raised = Model()
    watched(tmp_path, raised, tokens=120)
    raised.generate(PROMPT)
    assert spent(tmp_path).tokens == 120


def test_requests_at_once_do_not_exceed_it_and_wait_for_what_is_left(tmp_path):
    model = Model(usage=15)  # half of what each may take
    watched(tmp_path, model, tokens=100)

    def ask(_):
        try:
            model.generate(PROMPT)
        except Unanswered:
            return 0
        return 1

    with ThreadPoolExecutor(20) as pool:
        answered = sum(pool.map(ask, range(20)))
    assert answered == model.asked == 5, "75 are used, and one more may take 30"
    assert spent(tmp_path).tokens == 75


def test_a_request_that_fails_gives_back_what_was_kept_for_it(tmp_path):
    model = Model()
    watched(tmp_path, model, tokens=40)
    with pytest.raises(ValueError, match="no"):
        model.generate("fail")
    model.generate(PROMPT)
    assert spent(tmp_path).tokens == 30


def test_where_the_server_does_not_say_it_is_estimated(tmp_path):
    model = Model(usage=None)
    watched(tmp_path, model)
    model.generate(PROMPT)
    assert spent(tmp_path).tokens == 20


def test_without_max_tokens_the_largest_answer_stands_for_it(tmp_path):
    model = Model()
    budget = watched(tmp_path, model, max_tokens=None, tokens=70)
    model.generate(PROMPT)
    model.generate(PROMPT)
    assert budget.has_room
    with pytest.raises(Unanswered):
        model.generate(PROMPT)


def test_images_cost_tokens_too(tmp_path):
    model = Model()
    watched(tmp_path, model, tokens=1000)
    message = SimpleNamespace(content=[SimpleNamespace(text="hi"), SimpleNamespace(image="data:…")])
    with pytest.raises(Unanswered):
        model.generate([message])


def test_requests_to_the_judge_are_counted_before_they_are_sent(tmp_path):
    budget = Budget(str(tmp_path), {"judge_requests": 2}, None)
    budget.judge_request()
    budget.judge_request()
    with pytest.raises(Unanswered, match="budget of 2 judge requests is used up"):
        budget.judge_request()
    assert spent(tmp_path).judge_requests == 2
    with pytest.raises(Unanswered):
        Budget(str(tmp_path), {"judge_requests": 2}, None).judge_request()
    Budget(str(tmp_path), {}, None).judge_request()


def test_half_a_line_costs_nothing_and_swallows_nothing(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"kind": "answer", "dataset": "d", "tokens": 5}) + '\n{"kind": "ans')
    model = Model()
    watched(tmp_path, model)
    model.generate(PROMPT)
    assert spent(tmp_path).tokens == 35


class Usage:
    """Answers with tokens, in and out."""

    def generate(self, input):
        return SimpleNamespace(
            usage=SimpleNamespace(total_tokens=30, input_tokens=20, output_tokens=10), completion="yes"
        )

    async def generate_async(self, input):
        return self.generate(input)


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_tokens_in_and_out_are_written_down_apart(tmp_path):
    model = Usage()
    watched(tmp_path, model)
    model.generate(PROMPT)
    (line,) = lines(tmp_path)
    assert (line["tokens"], line["input_tokens"], line["output_tokens"]) == (30, 20, 10)
    other = Model(usage=30)  # a server that only says how many there are in all
    watched(tmp_path, other)
    other.generate(PROMPT)
    assert "input_tokens" not in lines(tmp_path)[-1]


def test_a_judges_tokens_are_written_down_once_however_many_benchmarks_share_its_client(tmp_path):
    budget, judge = Budget(str(tmp_path), {}, None), Usage()
    budget.dataset = "d"
    budget.watch_judge(judge)
    budget.watch_judge(judge)
    budget.judge_request()
    judge.generate(PROMPT)
    assert [line["kind"] for line in lines(tmp_path)] == ["judge_request", "judge_reply"]
    assert lines(tmp_path)[1] == {
        "schema": 2, "kind": "judge_reply", "dataset": "d", "tokens": 30, "input_tokens": 20, "output_tokens": 10,
    }  # fmt: skip
    assert (spent(tmp_path).tokens, spent(tmp_path).judge_requests) == (0, 1)


def test_what_could_not_be_written_down_is_written_with_the_next(tmp_path, monkeypatch):
    """An answer must not be lost for its bill."""
    budget = Budget(str(tmp_path), {"judge_requests": 3}, None)
    full = tmp_path / "full"
    monkeypatch.setattr(budget, "_path", full / "usage.jsonl")  # a folder that is not there
    budget.judge_request()
    with pytest.raises(FileError, match="usage"):
        budget.settle()
    full.mkdir()
    budget.judge_request()
    budget.settle()
    assert read(full / "usage.jsonl").judge_requests == 2
    assert len((full / "usage.jsonl").read_text().splitlines()) == 2
