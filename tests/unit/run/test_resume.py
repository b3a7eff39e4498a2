"""What is left to do, and what may be gone on from: told by files alone."""

import json
import os

import pytest

from evalscope_evalflow.backends import load_backend, local_content
from evalscope_evalflow.backends.native.rows_files import SavedRows, add_verdicts, judge_id
from evalscope_evalflow.backends.selection import Change, change
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.run import fingerprints
from evalscope_evalflow.run.resume import check_saved, check_there_is_something_to_judge, remaining
from evalscope_evalflow.state import cells as saved_cells
from evalscope_evalflow.state import failures
from evalscope_evalflow.sweep.plan import cells
from evalscope_evalflow.worker.request_failures import Failures

JUDGE = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:1/v1", "api_key": "sk-1"}]}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"0" * 64)
    return folder


@pytest.fixture
def make(tmp_path, checkpoint):
    """Makes a task; `flow` are settings of the section."""

    def task(flow=(), deploy=(), **stock):
        stock = {
            "datasets": ["general_qa", "general_mcq"], "limit": 4, "generation_config": {"temperature": 0.0}, **stock
        }  # fmt: skip
        section = {"backend": "Native", "deploy": {"engine": "vllm", **dict(deploy)}, **dict(flow)}
        data = {"model": str(checkpoint), "model_id": "m", "work_dir": str(tmp_path / "out"), **stock}
        return Task.parse({**data, "evalflow": section})

    return task


def write(task, dataset, answers=4, requested=4, verdicts=True, report=True, judge=None):
    """Leave a run folder as a run would."""
    model = task.models[0]
    folder = task.folder(model)
    for kind, there in (("predictions", True), ("reviews", verdicts)):
        path = folder / kind / "m" / f"{dataset}_s.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if there:
            path.write_text("".join(json.dumps({"index": index}) + "\n" for index in range(answers)))
    (folder / "evalflow").mkdir(exist_ok=True)
    changes = {}
    if verdicts:
        changes["verdicts"] = fingerprints.verdicts(task, dataset)
    if report:
        path = folder / "reports" / "m" / f"{dataset}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        summary = {"requested": requested, "succeeded": answers, "errored": requested - answers}
        metric = {"name": "acc", "score": 1.0, "num": answers}
        data = {"dataset_name": dataset, "model_name": "m", "metrics": [metric], "execution_summary": summary}
        path.write_text(json.dumps({**data, "judge_summary": judge}))
        changes["report"] = path.stat().st_mtime_ns
    saved_cells.update(
        folder, dataset, predictions=fingerprints.predictions(task, model, dataset), requested=requested,
        answered=answers, cause=failures.cause(task, model), **changes,
    )  # fmt: skip


def left(task):
    found = remaining(task, task.models[0])
    return found.infer, found.judge


def both(task, **how):
    for dataset in task.datasets:
        write(task, dataset, **how)


def test_in_an_empty_folder_all_is(make):
    assert left(make()) == (["general_qa", "general_mcq"],) * 2
    assert left(make({"mode": "infer"})) == (["general_qa", "general_mcq"], [])
    assert remaining(make(), make().models[0]).phases == ["infer", "judge"]


def test_with_every_verdict_nothing_is(make):
    task = make()
    both(task)
    assert left(task) == ([], [])
    assert remaining(task, task.models[0]).phases == []


def test_with_every_answer_no_engine_is_needed(make):
    task = make()
    both(task, verdicts=False, report=False)
    assert left(task) == ([], task.datasets)
    assert left(make({"mode": "infer"})) == ([], [])
    assert left(make({"mode": "judge"})) == ([], task.datasets)


def test_one_answer_that_is_missing_is_asked_and_its_dataset_judged_again(make):
    task = make()
    both(task)
    path = task.work_dir / "predictions" / "m" / "general_mcq_s.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert left(task) == (["general_mcq"], ["general_mcq"])
    assert left(make({"mode": "judge"})) == ([], []), "its report stands on more than is there"


def test_a_sample_whose_data_was_bad_is_looked_at_again(make):
    """Its picture may be there by now, which the worker sees."""
    task = make()
    both(task, answers=3)
    noted = Failures(str(failures.path_in(task.work_dir)), failures.cause(task, task.models[0]))
    for dataset in task.datasets:
        noted.add(dataset, "s", 3, "c", "bad_data", False, "a.png does not exist")
    assert left(task) == (task.datasets, task.datasets)


def test_what_failed_permanent_is_not_asked_again_while_its_cause_is_the_same(make):
    task = make(deploy={"max_model_len": 64})
    both(task, answers=3)
    assert left(task) == (task.datasets, task.datasets), "nobody knows why they are missing"
    noted = Failures(str(failures.path_in(task.work_dir)), failures.cause(task, task.models[0]))
    for dataset in task.datasets:
        noted.add(dataset, "s", 3, "c", "context_too_long", False, "too long")
    assert left(task) == ([], [])
    assert remaining(task, task.models[0]).permanent == dict.fromkeys(task.datasets, 1)
    assert str(cells(task, task.models[0])[0]) == "general_qa: done, 3 answers are saved, 1 failed permanently"
    longer = make(deploy={"max_model_len": 128})
    assert left(longer) == (task.datasets, task.datasets)
    noted.add("general_qa", "s", 3, "c", "timeout", True, "slow")
    assert left(task) == (["general_qa"], ["general_qa"])


def test_fallbacks_are_judged_again(make):
    task = make(judge=JUDGE)
    both(task, judge={"status": "degraded", "total": 4, "valid_observations": 1, "total_observations": 4})
    assert left(task) == ([], task.datasets)
    both(task, judge={"status": "success", "total": 4, "valid_observations": 4, "total_observations": 4})
    assert left(task) == ([], [])


def test_another_judge_judges_anew_and_another_address_does_not(make):
    both(make(judge=JUDGE))
    moved = {"models": [{**JUDGE["models"][0], "api_url": "https://elsewhere.example/v1", "api_key": "sk-2"}]}
    assert left(make(judge=moved)) == ([], [])
    other = make(judge={"models": [{**JUDGE["models"][0], "model_id": "k"}]})
    assert left(other) == ([], other.datasets)
    assert remaining(other, other.models[0]).rejudge == other.datasets
    assert remaining(make(), make().models[0]).rejudge == other.datasets


def test_a_report_that_somebody_changed_is_made_again(make):
    task = make()
    both(task)
    path = task.work_dir / "reports" / "m" / "general_qa.json"
    os.utime(path, ns=(0, 1))
    assert left(task) == ([], ["general_qa"])
    path.unlink()
    assert left(task) == ([], ["general_qa"])


def test_without_reuse_all_is_left(make):
    both(make())
    assert left(make({"reuse": False})) == (["general_qa", "general_mcq"],) * 2


def changes(task):
    return [str(problem) for problem in check_saved(task, task.models[0])]


def test_the_same_task_may_go_on(make):
    both(make())
    same = {"flow": {"judge_max_num_seqs": 7}, "judge": JUDGE, "eval_batch_size": 3}
    generation = {"temperature": 0.0, "timeout": 60, "retries": 1}
    assert changes(make(deploy={"port": 9000, "max_num_seqs": 9}, generation_config=generation, **same)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"limit": 8}, "limit was 4 and is 8"),
        ({"limit": None}, "limit was 4 and is not set"),
        ({"seed": 7}, "seed was not set and is 7"),
        ({"generation_config": {"temperature": 0.5}}, "generation_config.temperature was 0.0 and is 0.5"),
        ({"generation_config": {"temperature": 0.0, "top_p": 0.1}}, "generation_config.top_p was not set and is 0.1"),
        ({"dataset_args": {"general_qa": {"few_shot_num": 1}}}, "dataset_args.few_shot_num was not set and is 1"),
        ({"deploy": {"chat_template": "{{ messages }}"}}, 'chat_template was not set and is "{{ messages }}"'),
    ],
)
def test_another_task_may_not_and_the_difference_is_named(make, change, says):
    both(make())
    found = changes(make(**change))
    assert found
    assert says in found[0]
    assert "reuse: false" in found[0]
    assert changes(make({"reuse": False}, **{k: v for k, v in change.items() if k != "flow"})) == []


def test_another_checkpoint_may_not(make, checkpoint):
    both(make())
    os.utime(checkpoint / "model.safetensors", ns=(0, 1))
    assert "checkpoint.model.safetensors was" in changes(make())[0]
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "config.json").write_text('{"a": 1}')
    assert {"config.json", "model.safetensors"} <= {
        word.split("checkpoint.")[1] for word in changes(make())[0].split() if word.startswith("checkpoint.")
    }


def test_a_checkpoint_may_be_moved(make, checkpoint, tmp_path):
    both(make())
    checkpoint.rename(tmp_path / "moved")
    assert changes(make(model=str(tmp_path / "moved"))) == []


def test_with_no_answers_left_any_task_may_begin(make):
    both(make())
    for path in (make().work_dir / "predictions").rglob("*.jsonl"):
        path.unlink()
    assert changes(make(limit=8)) == []


def test_there_must_be_something_to_judge(make):
    task = make({"mode": "judge"})
    write(task, "general_qa", report=False, verdicts=False)
    (problem,) = check_there_is_something_to_judge(task, task.models[0])
    assert "holds no answers of m on general_mcq" in str(problem)
    assert "mode: infer" in str(problem)


def test_no_key_is_written(make):
    task = make(judge=JUDGE)
    both(task)
    assert "sk-1" not in saved_cells.path_in(task.work_dir).read_text()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"general_qa": 3}', '{"general_qa": {"unknown": 1}}'])
def test_a_broken_ledger_means_that_all_is_left(make, text):
    task = make()
    both(task)
    saved_cells.path_in(task.work_dir).write_text(text)
    assert left(task) == (task.datasets, task.datasets)


def test_a_metric_that_could_not_be_computed_is_scored_again_when_asked_for(make):
    task = make()
    both(task)
    saved_cells.update(task.folder(task.models[0]), "general_qa", metrics_failed={"BLEU": [4, "no data"]})
    assert left(task) == ([], [])
    again = make({"mode": "judge"})
    assert left(again) == ([], ["general_qa"])
    assert remaining(again, again.models[0]).verdicts == [], "it asks no judge"
    result = next(item for item in task_results(task) if item.dataset == "general_qa")
    assert result.complete
    assert result.remarks == [
        "BLEU could not be computed for 4 of 4 answers, and has no score for them: no data; when that is mended, score "
        "them again with `mode: judge`"
    ]


def task_results(task):
    saved = load_backend("Native").look(task, task.models[0])
    return [saved.described(item) for item in saved.results({})]


def known_rows(task, dataset, limit=4, content=None):
    """What the worker writes down when it has brought the saved answers in line with the rows."""
    data = {"seen": "s", "content": content} if content else None
    header = {"chosen": {"limit": limit, "repeats": 1}, "requested": limit, "data": data}
    SavedRows(task.folder(task.models[0]), dataset).write_header(**header)


def test_where_rows_are_known_another_limit_goes_on(make):
    both(make())
    for dataset in make().datasets:
        known_rows(make(), dataset)
    assert left(make()) == ([], [])
    assert changes(make(limit=8)) == changes(make(limit=None)) == changes(make(repeats=2)) == []
    for more in (make(limit=8), make(limit=None), make(repeats=2)):
        found = remaining(more, more.models[0])
        assert (found.infer, found.judge, found.may_ask_nothing) == (more.datasets, more.datasets, False)
    fewer = make(limit=2)
    found = remaining(fewer, fewer.models[0])
    assert (found.infer, found.judge) == (fewer.datasets, fewer.datasets)
    assert found.may_ask_nothing
    assert found.verdicts == []
    judged = make({"mode": "judge"}, limit=2)
    assert left(judged) == ([], judged.datasets)


def test_changed_data_is_noticed_with_nothing_left_to_do(make, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "s.jsonl").write_text("1\n")
    task = make(datasets=["general_qa"], dataset_args={"general_qa": {"local_path": str(data)}})
    write(task, "general_qa")
    known_rows(task, "general_qa", content=local_content.content(data)["content"])
    assert left(task) == ([], [])
    os.utime(data / "s.jsonl", ns=(0, 1))
    assert left(task) == ([], []), "it is its content that counts"
    (data / "s.jsonl").write_text("2\n")
    found = remaining(task, task.models[0])
    assert (found.infer, found.judge, found.may_ask_nothing) == (["general_qa"], ["general_qa"], True)
    data.rename(tmp_path / "moved")
    (tmp_path / "moved" / "s.jsonl").write_text("1\n")
    moved = make(datasets=["general_qa"], dataset_args={"general_qa": {"local_path": str(tmp_path / "moved")}})
    assert left(moved) == ([], [])


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((None, 1), (None, 1), None),
        ((4, 1), (4, 1), None),
        ((4, 1), (8, 1), Change.MORE),
        ((4, 1), (None, 1), Change.MORE),
        ((None, 1), (4, 1), Change.FEWER),
        ((8, 2), (4, 2), Change.FEWER),
        ((8, 2), (8, 1), Change.FEWER),
        ((8, 1), (4, 2), Change.MORE),
        ((0.5, 1), (0.25, 1), Change.FEWER),
        ((1, 1), (1.0, 1), Change.MORE),  # a sample, and all of them
        ((100, 1), (0.5, 1), Change.MORE),
    ],
)
def test_a_choice_is_larger_or_smaller(before, now, expected):
    old, new = ({"limit": limit, "repeats": repeats} for limit, repeats in (before, now))
    assert change(old, new) is expected


def test_back_to_an_earlier_judge_none_is_asked(make):
    other = {"models": [{**JUDGE["models"][0], "model_id": "k"}]}
    both(make(judge=other))
    task = make(judge=JUDGE)
    assert remaining(task, task.models[0]).verdicts == task.datasets
    for dataset in task.datasets:
        kept = SavedRows(task.work_dir, dataset).verdicts(judge_id(fingerprints.verdicts(task)), "s")
        add_verdicts(kept, [{"evalflow": {"answer": str(number), "scored": "s"}} for number in range(4)])
    found = remaining(task, task.models[0])
    assert (found.rejudge, found.judge, found.verdicts) == (task.datasets, task.datasets, [])
