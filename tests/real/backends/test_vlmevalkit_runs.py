"""VLMEvalKit on an engine that is deployed: phases, kills and resumption, and datasets of other families.

Engine and judge do as they are told, all else is real.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import psutil
import pytest
import vlm_data
import yaml
from evalscope.report import Report
from evalscope.run import run_task
from judge_server import JudgeServer
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from vlm_runs import JUDGE_KEY, MODEL_KEY, UNCLEAR, files_with, run, serve, task

from evalscope_evalflow.errors import ConfigError, ExitCode

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent
DATASETS = ["shapes", "LogicVista"]
SAMPLES = sum(vlm_data.ROWS[name] for name in DATASETS)
JUDGE_VARIABLES = ("OPENAI_API_BASE", "OPENAI_API_KEY", "LOCAL_LLM")


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The datasets, where VLMEvalKit looks for them."""
    folder = tmp_path_factory.mktemp("LMUData")
    vlm_data.write_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        for name in JUDGE_VARIABLES:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


def letter(judge: JudgeServer, number: int) -> str:
    """A verdict that depends on what is judged alone."""
    return "ABCD"[int(hashlib.sha256(judge.asked[number - 1].encode()).hexdigest(), 16) % 4]


def asked(work: Path, env: Path, judge: JudgeServer | None, *script: str, **section: Any) -> dict[str, Any]:
    """A task as a user writes it."""
    model = judge and {"model_id": "judge", "api_url": judge.url, "api_key": JUDGE_KEY}
    return {
        "eval_backend": "evalflow", "model": "/any/path", "model_id": "m", "datasets": DATASETS, "work_dir": str(work),
        "eval_batch_size": 1, "generation_config": {"max_tokens": 16, "temperature": 0.0},
        **({"judge": {"models": [model]}} if model else {}),
        "evalflow": {
            "backend": "VLMEvalKit", "worker_env": str(env), "verify_md5": False,
            "deploy": {"engine": "scripted", "extra_args": ["--answer", UNCLEAR, *script]}, **section,
        },
    }  # fmt: skip


def record(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "evalflow" / "run.json").read_text())
    return found


def engine_left(work: Path) -> list[str]:
    """What there is of the engine: its processes, by their arguments, and its port."""
    command = record(work)["command"]
    port = command[command.index("--port") + 1]
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if "scripted_server" in line and f"--port {port}" in line:
                left.append(line)
    with socket.socket() as probe:
        return left + ([f"port {port}"] if probe.connect_ex(("127.0.0.1", int(port))) == 0 else [])


class Whole:
    """A run that nothing happens to, by EvalScope's own `run_task`.

    Attributes:
        reports: what that returns.
        seen: what there was of the engine at each request to the judge.
        at_once: most requests that the judge had at the same time.
        variables: of this process, as they were before and after.
    """

    def __init__(self, work: Path, env: Path, judge: JudgeServer) -> None:
        self.work, self.seen = work, list[list[str]]()

        def reply(number: int) -> str:
            self.seen.append(engine_left(work))
            time.sleep(0.3)
            return letter(judge, number)

        judge.reply, judge.most_at_once = reply, 0
        before = dict(os.environ)
        self.reports: dict[str, Report] = run_task(asked(work, env, judge, judge_max_num_seqs=2))
        self.variables = before, dict(os.environ)
        self.at_once, self.asked = judge.most_at_once, len(judge.asked)
        judge.asked.clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, vlmeval_env: Path, judge: JudgeServer) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole") / "work", vlmeval_env, judge)


def test_run_task_returns_evalscopes_reports(whole: Whole) -> None:
    assert {name: report.num for name, report in whole.reports.items()} == {
        name: vlm_data.ROWS[name] for name in DATASETS
    }
    for name, report in whole.reports.items():
        saved = Report.from_json(str(whole.work / "reports" / "m" / f"{name}.json"))
        assert saved.to_dict() == report.to_dict()


def test_the_engine_is_gone_before_the_judge_is_asked(whole: Whole) -> None:
    while_answering = [left for left in whole.seen if left]
    assert whole.seen[len(while_answering) :] == [[]] * (SAMPLES - len(while_answering))
    assert len(while_answering) <= len(DATASETS), "one answer of each dataset is judged ahead, as a probe"
    assert whole.asked == SAMPLES


def test_judging_costs_the_engine_nothing(whole: Whole) -> None:
    found = record(whole.work)
    assert list(found["phases_s"]) == ["load", "infer", "release", "save", "judge"]
    assert found["phases_s"]["judge"] >= SAMPLES * 0.3 / 2
    without = sum(seconds for name, seconds in found["phases_s"].items() if name not in ("save", "judge"))
    assert 0 < found["engine_held_s"] <= without + 0.5


def test_the_judges_settings_stay_in_the_worker(whole: Whole) -> None:
    before, after = whole.variables
    assert [name for name in JUDGE_VARIABLES if before.get(name) != after.get(name)] == []
    assert not any(JUDGE_KEY in value for value in after.values())
    assert files_with(whole.work, JUDGE_KEY) == []
    assert whole.at_once == 2


class Command:
    """`evalflow run`, to be killed."""

    def __init__(self, folder: Path, what: dict[str, Any]) -> None:
        file = folder / "task.yaml"
        file.write_text(yaml.safe_dump(what))
        self.log = folder / "command.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [BIN / "evalflow", "run", file], stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(SCRIPTED)},
            )  # fmt: skip

    def wait(self) -> int:
        try:
            return self.process.wait(timeout=200)
        finally:
            self.process.kill()


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def prompts(journal: Path) -> int:
    return sum(1 for line in journal.read_text().splitlines() if json.loads(line)["prompt"])


def test_killed_while_it_asks_and_while_it_judges(
    whole: Whole, vlmeval_env: Path, judge: JudgeServer, tmp_path: Path
) -> None:
    """SIGKILL to the whole command, twice; nothing is asked or judged again, and the scores are the same."""
    work, first, second = tmp_path / "work", tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    slow = ("--answer-seconds", "0.3")
    answers = work / "evalflow" / "vlmevalkit" / "shapes.answers.jsonl"

    # Answers today; nobody has thought of a judge yet.
    command = Command(tmp_path, asked(work, vlmeval_env, None, *slow, "--journal", str(first), mode="infer"))
    third = Retrying(
        retry=retry_if_result(lambda enough: not enough), wait=wait_fixed(0.02), stop=stop_after_delay(120)
    )
    third(lambda: lines(answers) >= SAMPLES // 3 or command.process.poll() is not None)
    command.process.kill()
    assert command.wait() == -9, command.log.read_text()
    port = record(work)["command"][record(work)["command"].index("--port") + 1]
    saved = lines(answers)
    assert SAMPLES // 3 <= saved < vlm_data.ROWS["shapes"]

    def die(number: int) -> str:
        if number == 6:
            os.kill(record(work)["pid"], 9)
        time.sleep(0.5)
        return letter(judge, number)

    # The rest of the answers, from another port; then a judge.
    judge.reply = die
    command = Command(
        tmp_path, asked(work, vlmeval_env, judge, *slow, "--journal", str(second), judge_max_num_seqs=1)
    )  # fmt: skip
    assert command.wait() == -9, command.log.read_text()
    assert port not in record(work)["command"]
    assert prompts(second) == 1 + SAMPLES - saved, "one to see that it works, and what was missing"
    (verdicts,) = (work / "m").glob("m_shapes_openai_result.pkl")
    judged = len(pickle.loads(verdicts.read_bytes()))
    assert 0 < judged < 6

    judge.asked.clear()
    judge.reply = lambda number: letter(judge, number)
    command = Command(tmp_path, asked(work, vlmeval_env, judge))
    assert command.wait() == 0, command.log.read_text()
    assert "command" not in record(work), "there was nothing to start an engine for"
    assert len(judge.asked) == SAMPLES - judged
    for name, report in whole.reports.items():
        found = Report.from_json(str(work / "reports" / "m" / f"{name}.json"))
        assert [(item.name, item.score) for item in found.metrics] == [
            (item.name, item.score) for item in report.metrics
        ]


def test_other_families_of_datasets(vlmeval_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of a conversation that fails is no answer either, and WeMath has a score where nothing is right."""
    monkeypatch.setenv("PRED_FORMAT", "tsv")  # VLMEvalKit would write other files than those that are read
    monkeypatch.setenv("MMEVAL_ROOT", str(tmp_path / "elsewhere"))
    names = [*vlm_data.OTHERS, "WeMath"]
    marks = "{'Overall Score': 7, 'Creativity': 7, 'Richness': 7, 'Visual Perception': 7, 'Logical Coherence': 7, "
    marks += "'Answer Accuracy': 7, 'Image Relationship Understanding': 7}"
    script = ["--answer-prompt", "Is it=Yes", "--answer-prompt", "Step =D", "--fail-prompt", "Then stone=500"]
    script += ["--fail-prompt", "apple, turn 2=500"]  # a question with its options in another order
    before = set(Path("/tmp").glob("*.xlsx"))
    with (
        serve(tmp_path, "m.o-1", MODEL_KEY, "--answer", UNCLEAR, *script) as model,
        serve(tmp_path, "referee", JUDGE_KEY, "--answer", "{letter}", "--answer-prompt", f"Richness={marks}") as judge,
    ):
        found = run(task(tmp_path / "work", vlmeval_env, model.url, judge.url, names))
    assert found.code == ExitCode.INCOMPLETE
    talk, circular = found.cells.pop("MMDU"), found.cells.pop("MMBench_DEV_EN")
    assert (talk.requested, talk.answered, talk.failures, talk.judged) == (3, 2, {"server_error": 1}, 2)
    assert {metric.score for metric in talk.metrics} == {70.0}
    assert "Overall Score" in talk.metrics[0].name
    assert (circular.requested, circular.answered, circular.failures) == (8, 7, {"server_error": 1})
    assert circular.metrics[0].samples == 4, "the other order's question leaves the score as a whole"
    answers = openpyxl.load_workbook(tmp_path / "work" / "m_o-1" / "m_o-1_MMBench_DEV_EN.xlsx").active
    assert answers is not None
    assert answers.max_row == 1 + 7, "and its other answers are kept"
    for name, cell in found.cells.items():
        assert cell.complete, (name, cell.notes)
        assert cell.answered == cell.metrics[0].samples == vlm_data.ROWS[name], name
    assert found.cells["MME"].metrics[0].score == 50.0
    assert found.cells["WeMath"].metrics[0].score == 0.0
    assert not (tmp_path / "elsewhere").exists()
    assert set(Path("/tmp").glob("*.xlsx")) <= before


def test_what_cannot_be_scored_is_told_before_anything_is_started(vlmeval_env: Path, tmp_path: Path) -> None:
    with serve(tmp_path, "referee", JUDGE_KEY) as judge:
        nobody = task(tmp_path / "work", vlmeval_env, "http://127.0.0.1:9/v1", judge.url, ["DocVQA_TEST"])
        with pytest.raises(ConfigError, match=r"does not score DocVQA_TEST: its right answers are not published"):
            run(nobody)
        dead = task(tmp_path / "work", vlmeval_env, "http://127.0.0.1:9/v1", judge.url, ["shapes"])
        with pytest.raises(ConfigError, match=r"model m\.o-1.*cannot be reached"):
            run(dead)
    assert not (tmp_path / "work").exists()


def test_an_api_that_goes_away_is_given_up(vlmeval_env: Path, tmp_path: Path) -> None:
    """By one probe, not by every question; what it had answered by then is kept, and judged."""
    with (
        serve(tmp_path, "m.o-1", MODEL_KEY, "--answer", UNCLEAR, "--stop-listening-after", "5") as model,
        serve(tmp_path, "referee", JUDGE_KEY, "--answer", "{letter}") as judge,
    ):
        asked = task(tmp_path / "work", vlmeval_env, model.url, judge.url, DATASETS)
        patience = {**asked.stock["generation_config"], "timeout": 1, "retries": 0}
        found = run(replace(asked, stock={**asked.stock, "generation_config": patience, "eval_batch_size": 1}))
        # The port is closed, and open connections are not: the client may have two, and each takes one more.
        assert len(model.prompts) in (5 + 1, 5 + 2)
    assert found.code == ExitCode.INCOMPLETE
    shapes, logic = (found.cells[name] for name in DATASETS)
    assert (shapes.answered, shapes.judged, shapes.failures) == (4, 4, {"api_down": 4})
    assert (logic.answered, logic.failures) == (0, {"api_down": 5})
