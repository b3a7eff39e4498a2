"""What `evalflow check` says that a task would do."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.state import answer_counts
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.sweep.plan import Cell, cells, plan_of
from evalscope_evalflow.sweep.show_plan import show_plan, shown_path


@pytest.fixture
def task(tmp_path, gguf_file, make_env):
    env = str(make_env())

    def make(stock=(), **section):
        return Task.parse(
            {
                **dict(stock),
                "datasets": ["general_qa", "general_mcq", "gsm8k"],
                "work_dir": str(tmp_path / "out"),
                "evalflow": {
                    "backend": "Native",
                    "models": [{"name": "m", "path": str(gguf_file)}],
                    "deploy": {"env": env, "devices": "2,3"},
                    **section,
                },
            }
        )

    return make


@pytest.fixture
def folder(tmp_path):
    """A run folder in which general_qa is done and general_mcq was begun."""
    run = tmp_path / "out" / "m"
    for dataset, lines in (("general_qa_a", 4), ("general_qa_b", 2), ("general_mcq_default", 3)):
        path = run / "predictions" / "m" / f"{dataset}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"index": 0}\n' * lines)
    identity = {"name": "accuracy", "aggregation": "mean", "dimensions": {}}
    report = {
        "dataset_name": "general_qa",
        "model_name": "m",
        "metrics": [{"identity": identity, "num": 6, "score": 0.5}],
        "primary_metric_identity": identity,
        "execution_summary": {"requested": 6, "succeeded": 6, "errored": 0},
    }
    path = run / "reports" / "m" / "general_qa.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))
    reviews = run / "reviews" / "m" / "general_qa_a.jsonl"
    reviews.parent.mkdir(parents=True)
    reviews.write_text('{"index": 0}\n' * 6)
    (run / "evalflow").mkdir()
    facts = {"requested": 6, "answered": 6, "verdicts": {}, "report": path.stat().st_mtime_ns}
    ledger.update(run, "general_qa", **facts)
    return run


def test_in_a_new_folder_everything_is_to_do(task):
    found = task()
    assert cells(found, found.models[0]) == [Cell(name, "to do") for name in found.datasets]


def test_what_is_done_what_was_begun_and_what_is_to_do(task, folder):
    found = task()
    assert cells(found, found.models[0]) == [
        Cell("general_qa", "done", 6),
        Cell("general_mcq", "started", 3),
        Cell("gsm8k", "to do"),
    ]


def test_a_report_that_lacks_samples_is_made_again(task, folder):
    path = folder / "reports" / "m" / "general_qa.json"
    report = json.loads(path.read_text())
    report["execution_summary"].update(succeeded=5, errored=1)
    path.write_text(json.dumps(report))
    found = task()
    assert cells(found, found.models[0])[0] == Cell("general_qa", "answered", 6)


def test_without_reuse_everything_is_to_do(task, folder):
    found = task(reuse=False)
    assert {cell.state for cell in cells(found, found.models[0])} == {"to do"}


def test_the_plan_names_engine_devices_command_and_cells(task, folder):
    out = io.StringIO()
    show_plan(task(), Console(file=out, soft_wrap=True))
    lines = out.getvalue().splitlines()
    assert any("llamacpp on devices 2,3: " in line and "--alias m" in line for line in lines)
    assert "  general_qa: done, 6 answers are saved" in lines
    assert "  general_mcq: started, 3 answers are saved" in lines
    assert "  gsm8k: to do" in lines
    assert lines[-1] == "Nothing was started."
    assert set(folder.iterdir()) == {folder / name for name in ("predictions", "reviews", "reports", "evalflow")}


def test_several_models_are_shown_with_their_turn_and_what_they_are_given(task, gguf_file, make_gguf):
    larger = make_gguf("larger.gguf")
    larger.write_bytes(larger.read_bytes() + bytes(10**6))
    models = [{"name": "small", "path": str(gguf_file)}, {"name": "large", "path": str(larger)}]
    out = io.StringIO()
    show_plan(task(models=models), Console(file=out, width=10000))
    assert out.getvalue().count("Port 0, in a command, stands for one that is free.") == 1
    small, large = out.getvalue().split("large →")
    assert "llamacpp on devices such as 2: " in small
    assert "number 2 of 2 to begin, when it can have 1 of the devices 2, 3" in small
    assert "number 1 of 2 to begin" in large
    assert "llamacpp on devices 2: " in large


def test_a_judge_that_is_deployed_has_a_turn_and_may_go_on_with_a_models_engine(task, gguf_file, make_gguf):
    other = make_gguf("judge.gguf")
    models = [{"name": "m", "path": str(gguf_file)}, {"name": "other", "path": str(other)}]

    def plan(name):
        deploy, judge = {"env": task().flow.deploy.env, "devices": "2"}, {"path": str(gguf_file), "name": name}
        return plan_of(task(models=models, deploy=deploy, judge=judge, stock={"judge": {"strategy": "llm"}}), print)

    alone = plan("boss")
    judge = alone.schedule[-1]
    assert (judge.model, judge.devices, judge.engine_of) == ("judge boss", ("2",), "")
    before = [item for item in alone.schedule if item is not judge]
    assert judge.begins_s == max(item.answered_s for item in before)
    assert judge.ends_s > judge.begins_s + 30, "a start, and verdicts"
    assert judge.ends_s == max(item.ends_s for item in before)
    assert (
        alone.engines[-1] == "judge boss: llamacpp on 2, after the last model's answers there; one start for 2 models"
    )
    shared = plan("m")
    assert [item.model for item in shared.schedule] == ["other", "m", "judge m"]
    assert shared.schedule[-1].engine_of == "m"
    assert shared.engines[-1] == "judge m: llamacpp on 2, with m's engine; for 2 models"
    assert shared.schedule[-1].ends_s == pytest.approx(judge.ends_s - 30, abs=1)


@pytest.mark.parametrize(
    ("path", "shown"),
    [("out/m", "out/m"), ("..out/m", "..out/m"), ("../out/m", "{above}/out/m"), ("/elsewhere/m", "/elsewhere/m")],
)
def test_a_path_that_would_climb_is_shown_as_an_absolute_one(tmp_path, monkeypatch, path, shown):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert shown_path(Path(path)) == shown.format(above=tmp_path)


def test_saved_answers_that_were_cut_off_are_shown_with_what_to_do(task, folder):
    line = {"dataset": "general_mcq", "subset": "default", "kinds": ["cut_off"], "max_tokens": 64}
    lines = [json.dumps({**line, "sample": str(number)}) for number in range(2)]
    answer_counts.path_in(folder).write_text("\n".join(lines))
    out = io.StringIO()
    show_plan(task(), Console(file=out, soft_wrap=True))
    shown = out.getvalue().splitlines()
    place = shown.index("  general_mcq: started, 3 answers are saved")
    assert shown[place + 1] == ("    2 of 3 answers were cut off at max_tokens 64; raise generation_config.max_tokens")
