"""What the rest of a task would buy, by files alone."""

import json

import pytest

from evalscope_evalflow.backends.native.rows_files import SavedRows
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.events import spending
from evalscope_evalflow.run import fingerprints
from evalscope_evalflow.run.purchase import Bought, purchase
from evalscope_evalflow.run.resume import remaining
from evalscope_evalflow.state import cells

QA = '{"query": "a", "response": "b"}\n'
JUDGE = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:1/v1"}]}


@pytest.fixture
def make(tmp_path):
    def task(flow=(), limit=4, **stock):
        section = {"backend": "Native", "deploy": {"engine": "remote"}, **dict(flow)}
        data = {"model": "m", "api_url": "http://127.0.0.1:1/v1", "work_dir": str(tmp_path / "out"), "limit": limit}
        stock = {"datasets": ["general_qa"], "dataset_args": {"general_qa": {"local_path": str(tmp_path)}}, **stock}
        return Task.parse({**data, **stock, "evalflow": section})

    return task


def save(task, answers, verdicts, requested):
    folder = task.folder(task.models[0])
    for kind, number in (("predictions", answers), ("reviews", verdicts)):
        path = folder / kind / "m" / "general_qa_s.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"index": index}) + "\n" for index in range(number)))
    (folder / "evalflow").mkdir(exist_ok=True)
    facts = fingerprints.predictions(task, task.models[0], "general_qa")
    verdicts_on = fingerprints.verdicts(task, "general_qa")
    cells.update(folder, "general_qa", predictions=facts, requested=requested, verdicts=verdicts_on)
    chosen = {"limit": task.stock.get("limit"), "repeats": 1}
    SavedRows(folder, "general_qa").write_header(chosen=chosen, requested=requested)
    lines = [{"kind": spending.ANSWER, "dataset": "general_qa", "tokens": 100}] * answers
    lines += [{"kind": spending.JUDGE_REQUEST, "dataset": "general_qa"}] * verdicts
    (folder / "evalflow" / spending.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def words(task):
    return str(purchase(task, task.models[0], remaining(task, task.models[0]), Bought(task)))


def test_before_the_first_answer_the_number_may_be_unknown(make):
    assert (
        words(make())
        == "it would ask for the answers on general_qa (how many is known when the data is loaded), tokens unknown"
    )


def test_what_is_missing_costs_what_answers_have_cost(make):
    task = make(judge=JUDGE, dataset_args={})
    save(task, answers=3, verdicts=2, requested=5)
    assert words(task) == "it would ask for 2 answers, about 200 tokens; 3 verdicts"


def test_another_limit_buys_what_is_new(make):
    save(make(dataset_args={}), answers=4, verdicts=4, requested=4)
    assert words(make(dataset_args={}, limit=8)) == "it would ask for about 4 answers, about 400 tokens"
    assert words(make(dataset_args={}, limit=2)) == "it would ask for nothing"
    assert words(make(dataset_args={}, repeats=2)) == "it would ask for about 4 answers, about 400 tokens"


def test_another_judge_buys_verdicts_alone(make):
    save(make(judge=JUDGE, dataset_args={}), answers=4, verdicts=4, requested=4)
    other = make(judge={"models": [{**JUDGE["models"][0], "model_id": "k"}]}, dataset_args={})
    assert words(other) == "it would ask for 4 verdicts"


def test_verdicts_that_are_none_are_bought_again(make):
    task = make(judge=JUDGE, dataset_args={})
    save(task, answers=4, verdicts=4, requested=4)
    path = task.work_dir / "reports" / "m" / "general_qa.json"
    path.parent.mkdir(parents=True)
    summary = {"status": "degraded", "total": 4, "valid_observations": 3, "total_observations": 4}
    report = {"dataset_name": "general_qa", "model_name": "m", "metrics": [], "judge_summary": summary}
    path.write_text(json.dumps({**report, "execution_summary": {"requested": 4, "succeeded": 4}}))
    cells.update(task.work_dir, "general_qa", report=path.stat().st_mtime_ns)
    assert words(task) == "it would ask for 1 verdict"


def test_how_much_of_a_budget_is_used(make):
    task = make({"budget": {"tokens": 1000, "judge_requests": 10}}, dataset_args={})
    save(task, answers=3, verdicts=2, requested=5)
    assert Bought(task).budget_lines(task.models[0]) == [
        "budget: 300 of 1,000 tokens are used",
        "budget: 2 of 10 judge requests are used",
    ]


def test_with_the_budget_used_up_no_engine_is_started(make):
    save(make(dataset_args={}), answers=3, verdicts=3, requested=5)
    for tokens, room in ((300, False), (310, False), (400, True)):
        task = make({"budget": {"tokens": tokens}}, dataset_args={}, generation_config={"max_tokens": 20})
        assert remaining(task, task.models[0]).may_ask_nothing is not room


@pytest.mark.parametrize(("name", "text", "limit", "subsets", "said"), [
    ("qa.jsonl", QA + "\n" + QA, None, ["qa"], "about 2 answers"),
    ("qa.jsonl", QA * 9, 4, ["qa"], "about 4 answers"),
    ("qa_test.csv", 'query,response\n"a\nb",c\nd,e\n', None, ["qa"], "about 2 answers"),
    ("qa.jsonl", QA, 4, ["qa", "more"], "the answers on general_qa (how many is known"),
])  # fmt: skip
def test_the_rows_of_a_local_file_are_counted(make, tmp_path, name, text, limit, subsets, said):
    (tmp_path / name).write_text(text)
    settings = {"general_qa": {"local_path": str(tmp_path), "subset_list": subsets}}
    assert words(make(dataset_args=settings, limit=limit)).startswith(f"it would ask for {said}")
    if len(subsets) == 1:
        settings = {"general_qa": {"local_path": str(tmp_path / name)}}
        assert words(make(dataset_args=settings, limit=limit)).startswith(f"it would ask for {said}")
