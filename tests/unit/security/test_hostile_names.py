"""Names of models, datasets and subsets lead to no file outside of the run folder."""

import json

import made_up_run as made
import pytest

from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.config.model_name import is_name
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results.run_folders import find_runs
from evalscope_evalflow.run.preflight import preflight

OUTWARD = [
    "../x",
    "a/../../x",
    "/etc/x",
    "/",
    "..",
    ".",
    "a//b",
    "a/",
    "./a",
    "a\0b",
    "a\nb",
    "\x1b[2Jx",
    "x" * 300,
    " .. ",
]


@pytest.fixture
def task(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("data/qa.jsonl", "x.jsonl"):
        (tmp_path / name).write_text('{"query": "1+1?", "response": "2"}\n')
    return {
        "datasets": ["general_qa"],
        "dataset_args": {"general_qa": {"local_path": str(tmp_path / "data"), "subset_list": ["qa"]}},
        "work_dir": str(tmp_path / "work"),
        "evalflow": {"models": [{"name": "m", "api_url": "http://127.0.0.1:9/v1"}]},
    }


def told(task):
    with pytest.raises(ConfigError) as caught:
        preflight(Task.parse(task))
    return str(caught.value)


@pytest.mark.parametrize("name", OUTWARD)
def test_of_a_model(task, name):
    task["evalflow"]["models"][0]["name"] = name
    assert "is no name for a model" in told(task)


def test_an_api_may_know_a_model_by_a_path(task):
    task["evalflow"]["models"][0].update(name="/models/m")
    assert "`model_id` is what an API knows it by" in told(task)
    task["evalflow"]["models"][0].update(name="org/m", model_id="/models/m")
    assert "cannot be reached" in told(task)  # nothing else is wrong


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize("backend", ["Native", "VLMEvalKit"])
def test_of_a_dataset(task, name, backend):
    task["datasets"] = [name]
    task["evalflow"]["backend"] = backend
    assert "is no name for a dataset" in told(task)


@pytest.mark.parametrize("name", OUTWARD)
def test_of_a_subset(task, name):
    task["dataset_args"]["general_qa"]["subset_list"] = ["qa", name]
    assert "is no name for a subset" in told(task)


@pytest.mark.parametrize(
    "name", ["m", "org/m", "Qwen3-0.6B", "step 4000", "检查点", "-rf", "$(touch x)", "a..b", "...a", "~"]
)
def test_ordinary_names_are_names(name):
    assert is_name(name)


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../outside"])
def test_a_record_of_somebody_elses_leads_nowhere(tmp_path, name, capsys):
    """`show` of a run folder whose record names a model by a path: reports are looked for in that folder alone."""
    folder = tmp_path / "runs" / "one"
    made.run(folder, [1, 0, 1], model="m", dataset="d")
    made.report(tmp_path / "runs" / "two" / "x", "outside", "secret", 0.5, 4)
    made.record(folder, name)
    (found,) = find_runs(folder)
    assert found.model == "m"
    assert cli.main(["show", str(folder), "--json"]) == 0
    assert "secret" not in json.dumps(json.loads(capsys.readouterr().out))


def test_an_export_writes_below_its_folder_alone(tmp_path):
    folder = tmp_path / "run"
    made.run(folder, [1, 0, 1], model="m", dataset="d")
    made.record(folder, "../../x")
    before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
    assert cli.main(["show", str(folder), "--export", "csv", "--export", "jsonl"]) == 0
    assert {path for path in tmp_path.rglob("*") if folder not in path.parents} == before
