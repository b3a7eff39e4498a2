"""Watching with real files, a real clock and real run folders; evaluations only write what a run would leave."""

import json
import random
import shutil
import threading
from itertools import count, pairwise

import checkpoints
import made_up_run
import pytest

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.watch_settings import WatchConfig
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, EvalFlowError, ExitCode, Problem
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.results.run_folders import find_runs
from evalscope_evalflow.run import fingerprints
from evalscope_evalflow.run.checkpoint_changes import CheckpointChanged, CheckpointFiles, digest_of, facts_of
from evalscope_evalflow.state import cells
from evalscope_evalflow.sweep.watching import watcher as watching
from evalscope_evalflow.sweep.watching.watcher import watch

DATASET, QUESTIONS, POLL_S, QUIET_S = "general_mcq", 4, 0.1, 0.3
ENDS = {"poll_s": POLL_S, "quiet_s": QUIET_S, "idle_timeout_s": 60}
TENSORS = [(f"layers.{number}.weight", "BF16", (16, 4)) for number in range(4)]


class Said(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def log(self, text, *, style=""):
        self.lines.append(text)

    def __contains__(self, text):
        return any(text in line for line in self.lines)


class Evaluations:
    """Stands for `run_prepared`: it compares files as a run does, and writes a run folder.

    Attributes:
        begun: names, in their order.
        during: is called with a model's name while it is evaluated.
        failing: names of models whose evaluation fails.
    """

    def __init__(self):
        self.begun, self.rounds, self.facts = [], [], {}
        self.during = lambda name: None
        self.failing = set()

    def __call__(self, prepared, reporter, finished=lambda item: None):
        task = prepared.task
        self.rounds.append([model.name for model in task.models])
        results = []
        for model in task.models:
            try:
                results.append(self.evaluate(task, model))
            except EvalFlowError as error:
                results.append(ModelResult(model, task.folder(model), error=error))
            finished(results[-1])
        return FlowResult(task, results, prepared.skipped)

    def evaluate(self, task, model):
        files, folder = CheckpointFiles(model, task.whole.get(model.name)), task.folder(model)
        files.check_first()
        self.begun.append(model.name)
        facts = facts_of(model)
        predictions = fingerprints.predictions(task, model, DATASET)
        self.during(model.name)
        if model.name in self.failing:
            raise EvalFlowError("the engine did not start")
        files.check("while it was evaluated", deleted_counts=False)
        self.facts[model.name] = facts
        made_up_run.run(folder, [1.0] * QUESTIONS, model.name, DATASET)
        report = folder / "reports" / model.name / f"{DATASET}.json"
        cells.update(
            folder, DATASET, predictions=predictions, requested=QUESTIONS, answered=QUESTIONS,
            verdicts=fingerprints.verdicts(task, DATASET), report=report.stat().st_mtime_ns,
        )  # fmt: skip
        return ModelResult(model, folder)


@pytest.fixture
def runs(monkeypatch):
    found = Evaluations()
    monkeypatch.setattr(watching, "run_prepared", found)
    return found


@pytest.fixture
def task(tmp_path):
    """A task that watches for `ckpts/step-*`."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"id": str(n), "question": "?", "A": "a", "B": "b", "answer": "A"} for n in range(QUESTIONS)]
    (data / "tiny_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "ckpts").mkdir()
    return {
        "datasets": [DATASET],
        "dataset_args": {DATASET: {"local_path": str(data), "subset_list": ["tiny"]}},
        "work_dir": str(tmp_path / "work"),
        "evalflow": {
            "backend": "Native",
            "models": [{"path": str(tmp_path / "ckpts" / "step-*")}],
            "deploy": {"engine": "scripted"},
        },
    }


@pytest.fixture
def write(tmp_path):
    """Writes a checkpoint, whole and marked unless it is said otherwise."""

    def write(name, marker="STABLE", content=0):
        folder = tmp_path / "ckpts" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "content": content}))
        (folder / "tokenizer.json").write_text("{}")
        checkpoints.write_file(folder / "model.safetensors", TENSORS)
        if marker:
            (folder / marker).touch()
        return folder

    return write


def scores(work):
    return {run.model for run in find_runs(work) if any(score.value is not None for score in run.scores.values())}


def test_each_checkpoint_is_evaluated_once_as_it_appears_and_a_restart_does_nothing(task, write, runs, tmp_path):
    write("step-1")
    appears = {"step-1": "step-2", "step-2": "step-3"}
    runs.during = lambda name: name in appears and write(appears[name])
    found = watch(task, Said(), until=3, **ENDS)
    assert runs.begun == ["step-1", "step-2", "step-3"]
    assert [item.model.name for item in found.flow.models] == runs.begun
    assert scores(tmp_path / "work") == set(runs.begun)
    assert json.loads((tmp_path / "work" / "summary.json").read_text())["models"].keys() == set(runs.begun)
    again = watch(task, Said(), once=True, **ENDS)
    assert len(runs.begun) == 3
    assert [item.model.name for item in again.flow.models] == runs.begun


@pytest.mark.parametrize(
    ("order", "expected"), [("newest", ["step-30", "step-20"]), ("oldest", ["step-10", "step-20"])]
)
def test_the_order_the_steps_and_the_size_of_a_round_are_as_set(task, write, runs, order, expected):
    for name in ("step-10", "step-20", "step-25", "step-30"):
        write(name)
    watch(task, Said(), once=True, order=order, every=10, round_size=2, **ENDS)
    assert runs.rounds[0] == expected
    assert "step-25" not in runs.begun
    assert len(runs.begun) == 3


def test_a_change_while_it_is_evaluated_leaves_no_score_and_it_is_evaluated_again(task, write, runs, tmp_path):
    folder = write("step-1")
    numbers = count()
    runs.during = lambda name: (
        next(numbers) or (folder / "config.json").write_text('{"architectures": [], "content": 1}')
    )
    watch(task, Said(), once=True, **ENDS)
    assert runs.begun == ["step-1", "step-1"]
    assert scores(tmp_path / "work") == {"step-1"}


def test_a_change_afterwards_withdraws_the_score(task, write, runs, tmp_path):
    folder = write("step-1")
    watch(task, Said(), once=True, **ENDS)
    assert scores(tmp_path / "work") == {"step-1"}
    (folder / "STABLE").unlink()
    (folder / "config.json").write_text('{"architectures": [], "content": 2}')
    said = Said()
    watch(task, said, once=True, marker="STABLE", **ENDS)
    assert scores(tmp_path / "work") == set()
    assert "step-1: its files changed after it was evaluated: config.json differs; its answers are in" in said
    assert list((tmp_path / "work" / "step-1" / "evalflow" / "kept").glob("*/predictions"))
    (folder / "STABLE").touch()
    watch(task, Said(), once=True, marker="STABLE", **ENDS)
    assert scores(tmp_path / "work") == {"step-1"}
    assert len(runs.begun) == 2


def test_a_checkpoint_that_is_deleted_keeps_its_score_in_the_exports(task, write, runs, tmp_path):
    folder = write("step-1")
    task["evalflow"]["exporters"] = ["csv"]
    runs.during = lambda name: name == "step-1" and shutil.rmtree(folder)
    watch(task, Said(), once=True, **ENDS)
    write("step-2")
    watch(task, Said(), once=True, **ENDS)
    assert runs.begun == ["step-1", "step-2"]
    assert {line.split(",")[0] for line in (tmp_path / "work" / "scores.csv").read_text().splitlines()[1:]} == {
        "step-1",
        "step-2",
    }


def test_what_is_broken_unfinished_deleted_or_fails_is_said_once_and_the_others_go_on(task, write, runs, tmp_path):
    broken = write("step-1")
    (broken / "model.safetensors").write_bytes(b"\1\0\0")
    half = write("step-2", marker=None)
    (half / "tokenizer.json").unlink()
    write("step-3")
    gone = write("step-4", marker=None)
    (gone / "config.json").unlink()
    write("step-5")
    runs.failing = {"step-5"}
    runs.during = lambda name: name == "step-3" and shutil.rmtree(gone)
    said = Said()
    found = watch(task, said, late_s=0.2, round_size=1, **{**ENDS, "idle_timeout_s": 1.5})
    assert sorted(runs.begun) == ["step-3", "step-5"]
    assert scores(tmp_path / "work") == {"step-3"}
    assert found.exit_code is ExitCode.FAILED
    for text in (
        "step-1: it is marked as whole, but",
        "step-2: unfinished for",
        "step-4: it was deleted before its turn",
    ):
        assert sum(text in line for line in said.lines) == 1, (text, said.lines)
    assert sum("step-5: the engine did not start" in line for line in said.lines) == 1
    assert found.flow.skipped.keys() == {"step-1", "step-2"}


def test_a_failed_one_is_tried_again_when_its_files_change(task, write, runs, tmp_path):
    folder = write("step-1")
    runs.failing = {"step-1"}
    timer = threading.Timer(0.5, lambda: (runs.failing.clear(), (folder / "config.json").write_text('{"content": 3}')))
    timer.start()
    watch(task, Said(), **{**ENDS, "idle_timeout_s": 2})
    timer.join()
    assert runs.begun == ["step-1", "step-1"]
    assert scores(tmp_path / "work") == {"step-1"}


def test_one_that_cannot_be_evaluated_keeps_none_from_being_evaluated(task, write, runs, monkeypatch):
    for number in (1, 2, 3):
        write(f"step-{number}")
    real = watching.prepare

    def prepare(task, log):
        if any(model.name == "step-2" for model in task.models):
            raise ConfigError(Problem("model step-2", "needs more memory than there is"))
        return real(task, log)

    monkeypatch.setattr(watching, "prepare", prepare)
    said = Said()
    found = watch(task, said, once=True, **ENDS)
    assert sorted(runs.begun) == ["step-1", "step-3"]
    assert sum("step-2 cannot be evaluated: model step-2: needs more memory" in line for line in said.lines) == 1
    assert found.exit_code is ExitCode.FAILED


def test_a_gate_ends_watching_with_exit_code_4(task, write, runs, tmp_path):
    write("step-1")
    base = write("base")
    task["evalflow"]["models"].insert(0, {"name": "base", "path": str(base)})
    stop = tmp_path / "stop.sh"
    stop.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/stopped\n')
    stop.chmod(0o755)
    task["evalflow"]["watch"] = {"gate": {"baseline": "base", "command": [str(stop)]}}
    low = [0.0] * 40
    real = made_up_run.run

    def worse(folder, found, model, dataset):
        return real(folder, low if model == "step-1" else [1.0] * 40, model, dataset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_up_run, "run", worse)
        found = watch(task, Said(), once=True, **ENDS)
    assert found.exit_code is ExitCode.BLOCKED
    assert (tmp_path / "stopped").read_text() == "step-1\n"


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_every_executor_runs_the_rounds(task, write, monkeypatch, tmp_path, executor):
    found = Evaluations()
    monkeypatch.setattr(
        "evalscope_evalflow.run.model_run.run_model", lambda task, model, *_: found.evaluate(task, model)
    )
    for number in (1, 2, 3):
        write(f"step-{number}")
    task["evalflow"]["executor"] = executor
    result = watch(task, Said(), until=3, **ENDS)
    assert sorted(found.begun) == ["step-1", "step-2", "step-3"]
    assert result.exit_code is ExitCode.COMPLETE
    assert scores(tmp_path / "work") == set(found.begun)


def test_only_one_process_watches_for_a_folder(task, write, runs):
    write("step-1")
    refused = []

    def second(name):
        try:
            watch(task, Said(), once=True, **ENDS)
        except ConfigError as error:
            refused.append(str(error))

    runs.during = second
    watch(task, Said(), once=True, **ENDS)
    assert len(refused) == 1
    assert "is watched for by another process" in refused[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": [{"path": "/x/step-1"}]}, "none has a pattern, so there is nothing to watch"),
        ({"reuse": False}, "false would ask everything again at each start"),
        ({"mode": "judge"}, "judge asks no model"),
        ({"exporters": ["cvs"]}, "csv"),
        ({"executor": "locl"}, "local"),
        ({"watch": {"markr": "X"}}, "Did you mean 'marker'?"),
        ({"watch": {"gate": {"baseline": "base", "command": "sh"}}}, "no shell is used"),
    ],
)
def test_what_cannot_work_is_said_before_there_is_any_checkpoint(task, changes, words):
    task["evalflow"] |= changes
    with pytest.raises(ConfigError) as caught:
        watch(task, Said(), once=True)
    assert words in str(caught.value)


def test_data_that_is_missing_is_said_before_there_is_any_checkpoint(task):
    task["dataset_args"][DATASET]["local_path"] = "/no/such/folder"
    with pytest.raises(ConfigError, match="/no/such/folder"):
        watch(task, Said(), once=True)


TRAININGS = 30


def test_thirty_trainings_write_in_pieces_at_once_and_each_has_one_score_of_whole_files(task, runs, tmp_path, write):
    """Threads write with pauses, some of which are longer than `quiet_s`; every second training writes markers."""
    root = tmp_path / "runs"
    task["evalflow"]["models"] = [{"path": str(root / "*" / "step-*")}]
    finals = {}

    def train(number):
        pick, folder = random.Random(number), root / f"run{number}" / "step-10"
        made = write(f"made-{number}", marker=None, content=number)
        final = {file.name: file.read_bytes() for file in made.iterdir()}
        pieces = [(name, data[a:b]) for name, data in final.items() for a, b in cut(pick, len(data))]
        order = pick.sample(list(final), len(final))
        folder.mkdir(parents=True)
        for name, part in sorted(pieces, key=lambda piece: order.index(piece[0])):
            with (folder / name).open("ab") as file:
                file.write(part)
            threading.Event().wait(pick.choice((0.0, 0.01, 0.05, 2 * QUIET_S)))
        if number % 2:
            (folder / "STABLE").touch()
        finals[f"{folder.parent.name}-step-10"] = facts_of(ModelConfig(path=str(folder), pattern="x"))

    threads = [threading.Thread(target=train, args=(number,)) for number in range(TRAININGS)]
    for thread in threads:
        thread.start()
    watch(task, Said(), **{**ENDS, "idle_timeout_s": 2.5})
    for thread in threads:
        thread.join()
    assert runs.facts == finals
    assert sorted(runs.begun) == sorted(finals)  # none had to be taken back
    assert scores(tmp_path / "work") == set(finals)


def cut(pick, size):
    places = (
        [0, *sorted(pick.sample(range(1, size), min(size - 1, pick.choice((0, 1, 3))))), size]
        if size > 1
        else [0, size]
    )
    return list(pairwise(places))


def test_changed_files_end_a_run_before_anything_is_asked(make_checkpoint):
    folder = make_checkpoint()
    model = ModelConfig(path=str(folder), pattern="x")
    expected = digest_of(model)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointChanged, match="nothing was asked"):
        CheckpointFiles(model, expected).check_first()
    CheckpointFiles(ModelConfig(path=str(folder)), "other").check_first()  # named by its path: it is the user's own


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="no file's name"):
        WatchConfig(marker="a/b")
