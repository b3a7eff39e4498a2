"""The exporters to MLflow (a real SQLite store) and Weights & Biases (real offline runs)."""

import json
import struct
import sys
from pathlib import Path

import pytest
from exported_runs import KEY, sweep_of
from mlflow import MlflowClient
from wandb.proto import wandb_internal_pb2

from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results.exporters import export, load_exporter, mlflow_exporter, wandb_exporter
from evalscope_evalflow.results.exporters.tracked_runs import step_of, tracked_runs
from evalscope_evalflow.testing.exporter_suite import ExporterSuite


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A database for all tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def mlflow_store(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return store


def mlflow_runs(store, folder):
    """The runs of a folder that are not deleted."""
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("evalflow")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in runs if run.data.tags["evalflow.folder"].endswith(f":{folder}")]


class TestMlflow(ExporterSuite):
    choice = "mlflow"

    @pytest.fixture(autouse=True)
    def _store(self, mlflow_store):
        self.store = mlflow_store

    def read(self, folder):
        found = []
        for run in mlflow_runs(self.store, folder):
            scores = [(name, value) for name, value in run.data.metrics.items() if name.endswith("/accuracy")]
            found += [(run.info.run_name, name.removesuffix("/accuracy"), f"{value:.4f}") for name, value in scores]
            missing = [json.loads(tag) for name, tag in run.data.tags.items() if name.startswith("evalflow.missing")]
            found += [(model, dataset, "") for model, dataset, _ in missing]
        return found


class TestWandb(ExporterSuite):
    choice = {"name": "wandb", "mode": "offline"}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path_factory, monkeypatch):
        self.place = tmp_path_factory.mktemp("offline")
        self.seen = set()
        monkeypatch.setenv("WANDB_DIR", str(self.place))

    def export(self, exporter, result):
        self.seen = set(self.place.glob("wandb/offline-run-*"))  # an export makes new runs
        return super().export(exporter, result)

    def read(self, folder):
        found = []
        for run in wandb_runs(self.place):
            if run["folder"] in self.seen:
                continue
            [metrics] = run["history"] or [{}]
            scores = [(name, value) for name, value in metrics.items() if name.endswith("/accuracy")]
            found += [(run["name"], name.removesuffix("/accuracy"), f"{value:.4f}") for name, value in scores]
            found += [(model, dataset, "") for model, dataset, _ in run["missing"]]
        return found


def wandb_runs(place):
    """What the offline runs below a folder hold."""
    runs = []
    for path in sorted(Path(place).glob("wandb/offline-run-*/*.wandb")):
        run = {"folder": path.parent, "history": [], "missing": [], "config": {}}
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                run["name"] = record.run.display_name
                run["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
                run["history"].append(values)
            if record.WhichOneof("record_type") == "summary":
                for item in record.summary.update:
                    if "evalflow.missing" in (item.key, *item.nested_key):
                        run["missing"] = json.loads(item.value_json)
        runs.append(run)
    return runs


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log format, behind a header of seven bytes."""
    data, place, part = path.read_bytes(), 7, b""
    block = 32768
    while place + 7 <= len(data):
        left = block - place % block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("step-500", ("steps", 500)),
        ("sft/step-500", ("sft", 500)),
        ("sft-step_500", ("sft", 500)),
        ("sft-v2-checkpoint-1000", ("sft-v2", 1000)),
        ("global_step20", ("steps", 20)),
        ("run/iter_3", ("run", 3)),
        ("step", ("step", None)),
        ("qwen2.5-7b", ("qwen2.5-7b", None)),
        ("footstep-3", ("footstep-3", None)),
        ("step-5-merged", ("step-5-merged", None)),
        ("=1+1", ("=1+1", None)),
    ],
)
def test_a_name_tells_series_and_step(model, expected):
    assert step_of(model) == expected


def test_checkpoints_of_one_training_are_one_run_with_a_curve_for_each_dataset(tmp_path):
    runs = tracked_runs(sweep_of(tmp_path, step_10=0.5, step_9=0.4, step_100=None, base=0.3))
    assert {run.name: [point.step for point in run.points] for run in runs} == {"base": [None], "steps": [9, 10, 100]}
    steps = next(run for run in runs if run.name == "steps")
    assert [point.metrics.get("general_qa/acc") for point in steps.points] == [0.4, 0.5, None]
    assert steps.points[0].metrics == {
        "general_qa/acc": 0.4,
        "general_qa/acc/interval_low": pytest.approx(0.3),
        "general_qa/acc/interval_high": pytest.approx(0.5),
        "general_qa/complete": 1.0,
        "general_qa/scored": 2.0,
        "general_qa/f1": 0.2,
    }
    assert steps.points[2].missing == [("general_qa", "no verdict of the judge")]
    assert steps.settings["generation_config.max_tokens"] == 8
    assert steps.settings["engine"] == "llamacpp"


def test_two_models_of_one_step_are_two_runs(tmp_path):
    runs = tracked_runs(sweep_of(tmp_path, step_1=0.5, **{"global_step1": 0.4}))
    assert sorted(run.name for run in runs) == ["step-1", "steps"]


def test_mlflow_has_a_curve_over_steps_and_a_second_export_replaces_it(tmp_path, mlflow_store):
    results = sweep_of(tmp_path, step_1=0.5, step_2=0.6)
    exporter = load_exporter(FlowConfig.parse({"exporters": ["mlflow"]}).exporters[0])
    said = []
    assert export(results, [exporter], said.append, said.append) == []
    assert export(results, [exporter], said.append, said.append) == []
    assert said == [f"exported by mlflow: 1 run(s) in experiment 'evalflow' of {mlflow_store}"] * 2
    [run] = mlflow_runs(mlflow_store, tmp_path)
    assert (run.info.run_name, run.info.status) == ("steps", "FINISHED")
    history = MlflowClient(tracking_uri=mlflow_store).get_metric_history(run.info.run_id, "general_qa/acc")
    assert sorted((point.step, point.value) for point in history) == [(1, 0.5), (2, 0.6)]
    assert run.data.params["generation_config.max_tokens"] == "8"
    assert run.data.params["judge.models.0.api_url"] == "https://judge.example/v1"
    assert KEY not in Path(mlflow_store.removeprefix("sqlite:///")).read_bytes().decode("latin-1")


def test_wandb_has_a_curve_over_steps_and_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["evalflow", "--judge_api_key", KEY])
    exporter = load_exporter(FlowConfig.parse({"exporters": [{"name": "wandb", "mode": "offline"}]}).exporters[0])
    said = []
    export(sweep_of(tmp_path, step_1=0.5, step_2=0.6), [exporter], said.append, said.append)
    assert said == [
        f"exported by wandb: 1 offline run(s) of project 'evalflow'; upload: wandb sync {tmp_path}/wandb/offline-run-*"
    ]
    [run] = wandb_runs(tmp_path)
    assert run["name"] == "steps"
    assert [(item["_step"], item["general_qa/acc"]) for item in run["history"]] == [(1, 0.5), (2, 0.6)]
    assert run["config"]["engine"] == "llamacpp"
    for path in (tmp_path / "wandb").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def check(choice):
    chosen = FlowConfig.parse({"exporters": [choice]}).exporters[0]
    with pytest.raises(ConfigError) as error:
        load_exporter(chosen, "evalflow.exporters.0")
    [problem] = error.value.problems
    return problem


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_library_that_is_missing_is_named_before_anything_starts_with_the_command_that_installs_it(name, monkeypatch):
    for module in (mlflow_exporter, wandb_exporter):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    problem = check(name)
    assert problem.where == "evalflow.exporters.0"
    assert f"the exporter {name} needs {name}" in problem.what
    assert f"[{name}]" in problem.todo


def test_a_store_on_a_server_needs_no_database_library(monkeypatch):
    monkeypatch.setattr(mlflow_exporter, "find_spec", lambda name: True if name == "mlflow" else None)
    assert "sqlalchemy, alembic" in check({"name": "mlflow", "tracking_uri": "sqlite:///x.db"}).what
    choice = FlowConfig.parse({"exporters": [{"name": "mlflow", "tracking_uri": "https://mlflow.example"}]})
    assert load_exporter(choice.exporters[0]).name == "mlflow"


def test_a_password_in_the_section_is_refused_and_not_shown():
    problem = check({"name": "mlflow", "tracking_uri": f"https://user:{KEY}@mlflow.example"})
    assert problem.where == "evalflow.exporters.0.tracking_uri"
    assert "MLFLOW_TRACKING_PASSWORD" in problem.todo
    assert KEY not in str(problem)


def test_an_error_that_names_the_store_is_shown_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nosuchscheme://user:{KEY}@host/x")
    exporter = load_exporter(FlowConfig.parse({"exporters": ["mlflow"]}).exporters[0])
    warned = []
    export(sweep_of(tmp_path, base=0.5), [exporter], warned.append)
    assert warned[0].startswith("exporter mlflow failed, and wrote nothing: ")
    assert KEY not in warned[0]


def test_online_runs_need_a_key_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "mode: offline" in check("wandb").todo
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    assert load_exporter(FlowConfig.parse({"exporters": ["wandb"]}).exporters[0]).mode == "online"
