"""Which backend a task has that names none."""

import json
import re
from pathlib import Path

import old_run_folders
import pytest
import yaml

from evalscope_evalflow.cli.flags import add_flags, mapping_from_flags
from evalscope_evalflow.cli.parser import Parser
from evalscope_evalflow.config import FlowConfig, ModelConfig
from evalscope_evalflow.config.catalog import DEFAULT_VLM_DATASETS
from evalscope_evalflow.config.default_backend import answered_by, known_backends
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.config.template import template
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.state import cells

ROOT = Path(__file__).parents[3]
NAMES_OF_VLMEVALKIT = ["MMStar", "hle", "MMBench_DEV_EN"]


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
    (tmp_path / "LMUData").mkdir()


@pytest.fixture
def worker_env(tmp_path):
    """An environment with EvalScope and VLMEvalKit, as far as files tell; its interpreter lists VLMEvalKit's names."""
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    (packages / "evalscope" / "benchmarks").mkdir(parents=True)
    names = {name: f"evalscope.benchmarks.{name}" for name in ("gsm8k", "arc", "hle")}
    (packages / "evalscope" / "benchmarks" / "_index.json").write_text(json.dumps(names))
    (packages / "vlmeval" / "dataset").mkdir(parents=True)
    (packages / "vlmeval" / "dataset" / "all.py").write_text("URLS = {'hle': 'https://…', \"MMStar\": 'https://…'}\n")
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho imported >> {tmp_path}/imports\necho '{json.dumps(NAMES_OF_VLMEVALKIT)}'\n")
    python.chmod(0o755)
    return tmp_path / "env"


def parse(*datasets, **section):
    return Task.parse({"datasets": list(datasets), "model": "/m", "work_dir": "/none", "evalflow": section})


def backend(*datasets, **section):
    return parse(*datasets, **section).flow.backend


def refused(*datasets, **section):
    with pytest.raises(ConfigError) as error:
        parse(*datasets, **section)
    return str(error.value)


def test_evalscopes_own_benchmarks_are_natives():
    assert backend("gsm8k") == backend("general_qa", "arc") == "Native"


def test_the_six_are_vlmevalkits_without_a_look_into_it():
    assert backend(*DEFAULT_VLM_DATASETS) == backend("WeMath") == "VLMEvalKit"


def test_a_file_in_lmudata_makes_a_name_vlmevalkits(tmp_path):
    (tmp_path / "LMUData" / "mine.tsv").touch()
    assert backend("mine", "MathVision") == "VLMEvalKit"


def test_other_names_are_vlmevalkits_if_it_has_them(worker_env):
    assert backend("MMStar", "MMBench_DEV_EN", worker_env=str(worker_env)) == "VLMEvalKit"


def test_vlmevalkit_is_not_imported_for_a_name_that_it_never_writes(worker_env, tmp_path):
    assert backend("gsm8k", worker_env=str(worker_env)) == "Native"
    assert not (tmp_path / "imports").exists()


def test_a_name_of_both_is_an_error_that_says_so(worker_env, tmp_path):
    assert refused("hle", worker_env=str(worker_env)) == (
        "evalflow.backend: Native and VLMEvalKit both have hle\n    Set `backend` in the section (--eval_backend)."
    )
    assert (tmp_path / "imports").exists()
    assert backend("hle", worker_env=str(worker_env), backend="native") == "Native"


def test_what_stands_beside_it_decides_about_a_name_of_both(worker_env):
    assert backend("hle", "gsm8k", worker_env=str(worker_env)) == "Native"
    assert backend("hle", "MMStar", worker_env=str(worker_env)) == "VLMEvalKit"


def test_a_file_of_a_native_benchmarks_name_makes_it_a_name_of_both(tmp_path):
    (tmp_path / "LMUData" / "gsm8k.tsv").touch()
    assert "Native and VLMEvalKit both have gsm8k" in refused("gsm8k")


def test_datasets_of_two_backends_are_an_error_that_says_whose_each_is():
    assert refused("gsm8k", "WeMath") == (
        "datasets: are of several backends: gsm8k is Native's, WeMath is VLMEvalKit's\n"
        "    Make a task of each backend's datasets; a task has one backend."
    )


def test_an_unknown_name_is_an_error_with_the_nearest_of_all(worker_env, tmp_path):
    said = refused("gsm9k", "WeMat")
    assert "datasets: no backend has a dataset 'gsm9k'\n    Did you mean 'gsm8k'?" in said
    assert "Did you mean 'WeMath'?" in said
    assert "VLMEvalKit, which has others, is not installed in" in said
    assert f"{tmp_path}/LMUData/gsm9k.tsv" in said
    assert "Did you mean 'MMStar'?" in refused("MMStr", worker_env=str(worker_env))


def test_a_backend_that_is_named_is_not_looked_for():
    assert backend("gsm9k", backend="VLMEvalKit") == "VLMEvalKit"
    assert backend("WeMath", backend="native") == "Native"


def test_auto_may_be_written():
    assert backend("gsm8k", backend="auto") == "Native"
    stock = {"datasets": ["gsm8k"], "model": "/m", "eval_backend": "Native", "evalflow": {"backend": "auto"}}
    assert Task.parse(stock).flow.backend == "Native"


def test_an_unknown_backend_is_refused_with_the_known_ones():
    assert refused("gsm8k", backend="Nativ").startswith(
        "evalflow.backend: unknown backend 'Nativ'. Did you mean 'Native'? Known: auto, Native, VLMEvalKit"
    )
    assert {"VLMEvalKit", "Native"} <= set(known_backends())


def test_the_backend_that_was_found_is_in_what_the_record_keeps():
    task = parse("gsm8k")
    assert task.part(task.models[0])["evalflow"]["backend"] == "Native"


class TestFolders:
    """Whoever has answered keeps the folder."""

    def answered(self, folder, name, dataset="gsm8k"):
        cells.update(folder, dataset, predictions={"backend": name, "limit": 4}, answered=4)

    def task(self, folder, *names, **section):
        section = {"models": [{"name": name, "path": f"/{name}"} for name in names], **section}
        return {"datasets": ["gsm8k"], "work_dir": str(folder), "evalflow": section}

    def test_its_backend_goes_before_the_datasets(self, tmp_path):
        assert Task.parse(self.task(tmp_path, "m")).flow.backend == "Native"
        (tmp_path / "m" / "evalflow").mkdir(parents=True)
        self.answered(tmp_path / "m", "VLMEvalKit")
        assert Task.parse(self.task(tmp_path, "m", "new")).flow.backend == "VLMEvalKit"

    def test_not_where_nothing_is_reused_or_nothing_answered(self, tmp_path):
        (tmp_path / "m" / "evalflow").mkdir(parents=True)
        cells.update(tmp_path / "m", "gsm8k", requested=4)
        assert answered_by(tmp_path / "m") == set()
        self.answered(tmp_path / "m", "VLMEvalKit")
        assert Task.parse(self.task(tmp_path, "m", reuse=False)).flow.backend == "Native"

    def test_folders_of_two_backends_are_an_error(self, tmp_path):
        for name, backend in (("a", "Native"), ("b", "VLMEvalKit")):
            (tmp_path / name / "evalflow").mkdir(parents=True)
            self.answered(tmp_path / name, backend)
        with pytest.raises(ConfigError, match="results in work_dir are of several backends: Native, VLMEvalKit"):
            Task.parse(self.task(tmp_path, "a", "b"))

    @pytest.mark.parametrize("broken", ["", "[]", "{", '{"schema": 2}', '{"d": {"predictions": 1}}', '{"d": 1}'])
    def test_what_cannot_be_read_says_nothing(self, tmp_path, broken):
        (tmp_path / "evalflow").mkdir()
        (tmp_path / "evalflow" / "cells.json").write_text(broken)
        assert answered_by(tmp_path) == set()

    @pytest.mark.parametrize(
        ("name", "backend"), [("complete", "Native"), ("judged", "Native"), ("vlmevalkit", "VLMEvalKit")]
    )
    def test_folders_of_version_0_1_say_so_too(self, tmp_path, name, backend):
        old_run_folders.unpack(name, tmp_path)
        assert answered_by(tmp_path / "work") == {backend}


def blocks(path):
    return re.findall(r"```(\w+)\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def written_tasks():
    """Every task in examples, README and docs that says what to evaluate."""
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield path.name, yaml.safe_load(path.read_text())
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, (language, text) in enumerate(blocks(path)):
            if language in ("yaml", "json"):
                data = yaml.safe_load(text)
                if isinstance(data, dict) and isinstance(data.get("datasets"), list) and "evalflow" in data:
                    yield f"{path.name} {number}", data
    yield "evalflow init", yaml.safe_load(template())


def test_there_are_written_tasks():
    assert len(list(written_tasks())) >= 8


@pytest.mark.parametrize(("name", "data"), [pytest.param(*task, id=task[0]) for task in written_tasks()])
def test_every_written_task_has_the_same_backend_without_saying_so(name, data, tmp_path, monkeypatch):
    """In 0.1, a task that did not say ran on VLMEvalKit's datasets with VLMEvalKit, and on no others."""
    monkeypatch.chdir(ROOT)
    section = dict(data["evalflow"] or {})
    named = section.pop("backend", None)
    section.pop("worker_env", None)
    section["models"] = [{"name": "m", "path": "/m"}]
    stock = {key: value for key, value in data.items() if key not in ("model", "model_id", "api_url", "work_dir")}
    found = Task.parse({**stock, "work_dir": str(tmp_path), "evalflow": section}).flow.backend
    assert found == (named if named not in (None, "auto") else backend_of_0_1(data["datasets"]))


def backend_of_0_1(datasets):
    return "VLMEvalKit" if set(datasets) <= set(DEFAULT_VLM_DATASETS) else "Native"


@pytest.mark.parametrize(
    ("words", "backend"),
    [
        ([], "VLMEvalKit"),
        (["--datasets", "gsm8k"], "Native"),
        (["--datasets", "WeMath"], "VLMEvalKit"),
        (["--datasets", "gsm8k", "--eval_backend", "VLMEvalKit"], "VLMEvalKit"),
        (["--eval_backend", "native"], "Native"),
    ],
)
def test_the_command_alike(words, backend, tmp_path):
    parser = Parser()
    add_flags(parser)
    base = ["--work_dir", str(tmp_path), "--eval_model_name", "m", "--eval_model_path", "/m"]
    assert Task.parse(mapping_from_flags(parser.parse_args([*base, *words]))).flow.backend == backend


def test_python_objects_alike(tmp_path):
    flow = FlowConfig(models=[ModelConfig(name="m", path="/m")])
    data = {"datasets": ["gsm8k"], "work_dir": str(tmp_path)}
    assert flow.backend == "auto"
    assert Task.parse(data, flow).flow.backend == Task.parse({**data, "evalflow": flow}).flow.backend == "Native"
