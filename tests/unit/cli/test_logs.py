"""`evalflow logs`: of runs that live, and of folders."""

import json
import subprocess
import sys

import pytest

from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.processes import registry


def run_folder(folder, model="m", lines=30):
    ours = folder / "evalflow"
    ours.mkdir(parents=True)
    (ours / "run.json").write_text(json.dumps({"schema": 1, "model": model, "state": "complete", "results": {}}))
    for role in ("engine", "worker"):
        (ours / f"{role}.log").write_text("".join(f"{role} line {number}\n" for number in range(lines)))
    return folder


def test_the_last_lines_of_both_logs_of_a_finished_folder(tmp_path, capsys):
    folder = run_folder(tmp_path / "work")
    assert cli.main(["logs", str(folder), "-n", "2"]) == 0
    ours = folder / "evalflow"
    assert capsys.readouterr().out == (
        f"==> {ours}/engine.log <==\nengine line 28\nengine line 29\n"
        f"\n==> {ours}/worker.log <==\nworker line 28\nworker line 29\n"
    )


@pytest.mark.parametrize("n", [0, 1, 20, 5000, 100_000])
def test_one_log_has_no_heading_and_n_lines(tmp_path, capsys, n):
    folder = run_folder(tmp_path / "work", lines=20_000)  # more than is read at once
    assert cli.main(["logs", str(folder), "--worker", "-n", str(n)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"worker line {number}" for number in range(20_000)][20_000 - min(n, 20_000) :]


@pytest.fixture
def living(tmp_path):
    folder = run_folder(tmp_path / "work" / "tuned", "tuned")
    entry = registry.Registration("20260101-000000-abcd", model="tuned", engine="e", work_dir=folder)
    yield entry
    entry.close()


@pytest.mark.parametrize("name", ["20260101-000000-abcd", "20260101", "tuned"])
def test_a_run_that_lives_is_found_by_its_id_and_by_its_model(name, living, capsys):
    assert cli.main(["logs", name, "--engine", "-n", "1"]) == 0
    assert capsys.readouterr().out == "engine line 29\n"


def test_an_unknown_run_names_the_nearest_and_the_way_to_a_finished_one(living, capsys):
    assert cli.main(["logs", "tunned"]) == 2
    shown = capsys.readouterr().err
    assert "tunned: no such run\n    Did you mean 'tuned'?" in shown
    assert "evalflow logs DIR" in shown


def test_of_a_sweep_the_folders_are_named(tmp_path, capsys):
    for name in ("a", "b"):
        run_folder(tmp_path / "sweep" / name, name)
    assert cli.main(["logs", str(tmp_path / "sweep")]) == 2
    assert capsys.readouterr().err.endswith(f"Give one of them:\n    {tmp_path}/sweep/a\n    {tmp_path}/sweep/b\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["{tmp}/none"], "does not exist"),
        (["{tmp}/work", "-n", "-1"], "-1 is no number of lines"),
        (["{tmp}/work", "--engine"], "there is no log yet"),
    ],
)
def test_what_is_wrong_is_said(words, why, tmp_path, capsys):
    (run_folder(tmp_path / "work") / "evalflow" / "engine.log").unlink()
    assert cli.main(["logs", *(word.format(tmp=tmp_path) for word in words)]) == 2
    assert why in capsys.readouterr().err


def test_follow_goes_on_until_the_run_has_ended(living, tmp_path):
    log = tmp_path / "work" / "tuned" / "evalflow" / "engine.log"
    command = [sys.executable, "-m", "evalscope_evalflow", "logs", "tuned", "--engine", "-n", "1", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "engine line 29\n"
        with log.open("a") as file:
            file.write("one more\n")
        assert process.stdout.readline() == "one more\n"
        log.write_text("a new run\n")  # shorter: read from its beginning
        assert process.stdout.readline() == "a new run\n"
        living.close()
        assert process.stdout.read() == ""
        assert process.wait(10) == 0


def test_follow_ends_at_once_where_nothing_runs(tmp_path, capsys):
    folder = run_folder(tmp_path / "work")
    assert cli.main(["logs", str(folder), "--worker", "-n", "1", "--follow"]) == 0
    assert capsys.readouterr().out == "worker line 29\n"


def test_colours_are_for_terminals_alone(tmp_path, capsys):
    folder = run_folder(tmp_path / "work")
    (folder / "evalflow" / "worker.log").write_text("\x1b[1;33mWARNING\x1b[0m: \x1b[38;5;4mslow\x1b[K\n")
    assert cli.main(["logs", str(folder), "--worker"]) == 0
    assert capsys.readouterr().out == "WARNING: slow\n"
