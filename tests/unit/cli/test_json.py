"""`--json`: each command's document has the fields that the reference lists, and nothing else is printed with it."""

import json
from dataclasses import asdict

import pytest
from old_run_folders import unpack

from evalscope_evalflow import sweep
from evalscope_evalflow.backends import DatasetResult, Metric
from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.cli import doctor
from evalscope_evalflow.cli.json_documents import FIELDS, ps_document
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.processes import registry
from evalscope_evalflow.results import json_output
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.results.sample_cache import COLUMNS
from evalscope_evalflow.sweep.cluster import job_folder, submitted_here
from evalscope_evalflow.sweep.cluster.job_folder import NodeState, Written

OPEN = {
    "skipped",
    "models[].error",
    "models[].buys.answers",
    "models[].buys.verdicts",
    "models[].datasets[].score.interval",
}


def paths(tree, here=""):
    """The fields of a document, as the reference names them; those with names of the user's own end the way."""
    if here in OPEN or not isinstance(tree, (dict, list)):
        return {here}
    if isinstance(tree, list):
        return {path for item in tree for path in paths(item, f"{here}[]")} or {f"{here}[]"}
    return {path for key, item in tree.items() for path in paths(item, f"{here}.{key}".lstrip("."))}


def document(capsys, command, code=0):
    out, _ = capsys.readouterr()
    found = json.loads(out)
    assert (found["schema"], found["exit_code"]) == (f"evalflow.{command}/1", code)
    assert found.pop("error") is None
    del found["schema"], found["exit_code"]
    return found


def assert_as_documented(found, command):
    """Each field has its line in the reference, and each line has its field."""
    have = paths(found)
    parents = {path for path in FIELDS[command] if any(other.startswith((f"{path}.", f"{path}[")) for other in have)}
    assert have | parents == set(FIELDS[command])


def test_run_prints_its_results_and_no_table(monkeypatch, make_task_file, capsys):
    whole = DatasetResult("general_qa", [Metric("acc", 0.5, 2, True)], 2, 2, 0, report="r.json")

    def run(task, reporter):
        print("what a library prints")
        return FlowResult(task, [ModelResult(model, task.folder(model), [whole]) for model in task.models], {"x": "y"})

    monkeypatch.setattr(sweep, "run", run)
    assert cli.main(["run", str(make_task_file()), "--json"]) == 3  # as something was skipped
    found = document(capsys, "run", 3)
    assert_as_documented(found, "run")
    assert found["models"][0]["datasets"][0]["score"]["value"] == 0.5
    assert found["skipped"] == {"x": "y"}


def test_a_failed_model_has_its_error_beside_the_others_scores(monkeypatch, make_task_file, capsys):
    def run(task, reporter):
        model = task.models[0]
        return FlowResult(task, [ModelResult(model, task.folder(model), [], EngineError("it died"))])

    monkeypatch.setattr(sweep, "run", run)
    assert cli.main(["run", str(make_task_file()), "--json"]) == 1
    [model] = document(capsys, "run", 1)["models"]
    assert model["error"] == {"kind": "EngineError", "message": "it died", "problems": []}


def test_flags_alone_print_a_document_as_well(monkeypatch, gguf_file, make_env, tmp_path, capsys):
    monkeypatch.setattr(sweep, "run", lambda task, reporter: FlowResult(task, []))
    words = ["--work_dir", str(tmp_path / "results"), "--eval_model_name", "tiny", "--eval_model_path", str(gguf_file)]
    assert cli.main([*words, "--datasets", "general_qa", "--json"]) == 0
    assert document(capsys, "run")["models"] == []


@pytest.mark.parametrize("words", [["check"], ["run", "--dry-run"]])
def test_check_prints_its_plan(make_task_file, capsys, words):
    assert cli.main([*words, str(make_task_file(exporters=["csv"])), "--json"]) == 0
    found = document(capsys, "check")
    assert_as_documented(found, "check")
    [model] = found["models"]
    assert "--alias" in model["serving"]["command"]
    assert model["datasets"][0]["state"] == "to do"
    assert found["exporters"] == ["csv"]


def test_check_names_every_problem_with_what_to_do(make_task_file, capsys):
    assert cli.main(["check", str(make_task_file(exportrs=["csv"], deploi={})), "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["exit_code"] == 2
    assert [problem["where"] for problem in found["error"]["problems"]] == ["evalflow.exportrs", "evalflow.deploi"]
    assert "exporters" in found["error"]["problems"][0]["todo"]
    assert "evalflow.exportrs" in err


@pytest.fixture
def cluster_job(tmp_path):
    """A folder whose cluster job runs, submitted from here."""
    folder = job_folder.jobs_folder(tmp_path) / "m-and-1-more"
    folder.mkdir(parents=True)
    of_models = dict.fromkeys(["m", "n"], str(tmp_path / "m"))
    job_folder.write_submission(folder, Written(
        "m-and-1-more", "17", "slurm", ["m", "n"], of_models, of_models, 2, submitted=1.0, host="login1",
    ))  # fmt: skip
    progress = asdict(DatasetProgress("gsm8k", False, 12, 40))
    job_folder.write_node(folder, NodeState("first", "node7", 1, 1.0, "m", "evaluating", progress))
    submitted_here.remember(tmp_path)
    return tmp_path


def test_ps_lists_cluster_jobs_of_a_folder_and_those_submitted_here(capsys, cluster_job):
    assert cli.main(["ps", str(cluster_job), "--json"]) == 0
    (job,) = document(capsys, "ps")["jobs"]
    assert [job[name] for name in ("id", "executor", "models", "node")] == ["17", "slurm", ["m", "n"], "node7"]
    assert (job["model"], job["done"], job["total"], job["followed_by"]) == ("m", 12, 40, "")
    assert cli.main(["ps"]) == 0
    out = capsys.readouterr().out
    assert "1 running, 0 queued" in out
    assert "nobody follows them" in out
    assert "job 17  m, n  on node7  m: evaluating  gsm8k  12/40" in out


def test_ps_lists_what_runs(capsys, cluster_job):
    assert cli.main(["ps", "--json"]) == 0
    assert document(capsys, "ps")["runs"] == []
    registration = registry.Registration("20260101-000000-abcd", model="m", engine="e", api_url="u", devices="0")
    try:
        cli.main(["ps", "--json"])
        assert document(capsys, "ps")["runs"][0]["progress"] is None
        registration.set(progress=asdict(DatasetProgress("gsm8k", False, 12, 40, answers_per_s=3.2)))
        cli.main(["ps", "--json"])
        found = document(capsys, "ps")
    finally:
        registration.close()
    assert_as_documented(found, "ps")
    assert found["runs"][0]["progress"]["answers_per_s"] == 3.2
    assert found["runs"][0]["model"] == "m"
    assert json_output.document("ps", ps_document([], ["run x of m"]))["cleaned"] == ["run x of m"]


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("bad", 1)])
def test_doctor_lists_what_it_found(monkeypatch, capsys, state, code):
    monkeypatch.setattr(doctor, "examine", lambda env: [doctor.Finding(state, "EvalScope", "1.14", "")])
    assert cli.main(["doctor", "--json"]) == code
    found = document(capsys, "doctor", code)
    assert_as_documented(found, "doctor")


@pytest.mark.parametrize(
    ("words", "schema", "where"),
    [
        (["check", "--json"], "check", "evalflow check"),
        (["check", "f", "--jsn", "--json"], "check", "evalflow check"),
        (["chekc", "--json"], "error", "chekc"),
        (["--json", "--work_dir", "x"], "run", "--eval_model_name"),
        (["--json", "--eval_devics", "0"], "run", "evalflow"),
    ],
)
def test_a_wrong_command_line_is_a_document_too(words, schema, where, capsys):
    try:
        code = cli.main(words)
    except SystemExit as error:
        code = error.code
    assert code == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["schema"] == f"evalflow.{schema}/1"
    assert found["error"]["problems"][0]["where"] == where
    assert where in err


def test_show_prints_its_runs_and_samples(tmp_path, capsys):
    unpack("complete", tmp_path)
    assert cli.main(["show", str(tmp_path), "--samples", "-n", "1", "--json"]) == 0
    found = document(capsys, "show")
    samples = found.pop("samples")
    assert set(samples[0]) == {"run", *COLUMNS}
    named = {"phases_s", "versions", "answers_from", "cost", "answer_kinds", "metrics", "failures", "interval"}
    for run in found["runs"]:
        for item in (run, *run["scores"]):
            item |= {name: [{}] if name == "answers_from" else None for name in named & set(item)}
    listed = {path.removesuffix("[]") for path in FIELDS["show"] if path != "samples[]" and "exported" not in path}
    assert {path.removesuffix("[]") for path in paths(found)} == listed
