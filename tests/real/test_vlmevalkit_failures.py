"""What stock EvalScope hides when it runs VLMEvalKit, and what we make of the same.

Model and judge are scripted servers, all else is real. Each run imports VLMEvalKit anew, which takes 20 s: so a run
shows several things, and the tests look at it.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vlm_data
from vlm_runs import JUDGE_KEY, MODEL_KEY, UNCLEAR, Outcome, files_with, free_port, run, serve, task, texts

from evalscope_evalflow.errors import ConfigError, EvalFlowError, ExitCode

pytestmark = pytest.mark.real
FAILED = "Failed to obtain answer via API."
DEAD = "http://127.0.0.1:9/v1"
STOCK = Path(__file__).resolve().parents[1] / "stock_vlmevalkit.py"
MIXED = [vlm_data.CUSTOM, "LogicVista", "MathVista_MINI", "DynaMath"]
LOST, LONG, UNJUDGED, MUMBLED = "'bread'", "'snow'", "'tiger'", "'piano'"


class Stock:
    """Stock EvalScope's process."""

    def __init__(self, env: Path, log: Path) -> None:
        self.log = log
        self._errors = log.open("wb")
        self.process = subprocess.Popen(
            [env / "bin" / "python", STOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "EVALFLOW_DISABLE": "1"}, text=True,
        )  # fmt: skip

    def run(self, work: Path, model_url: str, judge_url: str, datasets: list[str], **more: Any) -> Any:
        """What `run_task` returns."""
        model = {"name": "CustomAPIModel", "type": "m.o-1", "api_base": f"{model_url}/chat/completions"}
        config = {
            "data": datasets, "model": [{**model, "key": MODEL_KEY, "retry": 1, "timeout": 10}], "nproc": 4, "retry": 1,
            "reuse": True, "OPENAI_API_BASE": f"{judge_url}/chat/completions", "OPENAI_API_KEY": JUDGE_KEY,
            "LOCAL_LLM": "referee", **more,
        }  # fmt: skip
        asked = {"eval_backend": "VLMEvalKit", "eval_config": config, "work_dir": str(work), "no_timestamp": True}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._errors.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The datasets, where VLMEvalKit looks for them."""
    folder = tmp_path_factory.mktemp("LMUData")
    vlm_data.write_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        yield folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlm")


@pytest.fixture(scope="module")
def stock(data: Path, vlmeval_env: Path, place: Path) -> Iterator[Stock]:
    process = Stock(vlmeval_env, place / "stock.log")
    yield process
    process.end()


@pytest.fixture(scope="module")
def good(place: Path) -> Iterator[tuple[str, str]]:
    """A model and a judge that work: their URLs."""
    with (
        serve(place, "m.o-1", MODEL_KEY, "--answer", UNCLEAR) as model,
        serve(place, "referee", JUDGE_KEY, "--answer", "{letter}") as judge,
    ):
        yield model.url, judge.url


@pytest.fixture(scope="module")
def undisturbed(data: Path, vlmeval_env: Path, place: Path, good: tuple[str, str]) -> Outcome:
    """What comes out when nothing goes wrong."""
    found = run(task(place / "undisturbed", vlmeval_env, *good, MIXED))
    assert found.code == ExitCode.COMPLETE
    return found


def verdicts(work: Path, part: str) -> dict[Any, Any]:
    (path,) = work.glob(f"m_o-1/m_o-1_{part}.pkl")
    found: dict[Any, Any] = pickle.loads(path.read_bytes())
    return found


class TestStock:
    """What there is to be put right."""

    def test_a_dead_model_is_judged_and_the_verdicts_outlive_its_recovery(
        self, stock: Stock, place: Path, good: tuple[str, str]
    ) -> None:
        work = place / "stock-dead"
        assert stock.run(work, DEAD, good[1], ["shapes"]) == {}
        assert FAILED in texts(work / "m_o-1" / "m_o-1_shapes.xlsx")
        before = verdicts(work, "shapes_openai_result")
        assert len(before) == vlm_data.ROWS["shapes"]
        assert (work / "m_o-1" / "m_o-1_shapes_acc.csv").exists()
        assert stock.run(work, *good, ["shapes"]) == {}
        assert FAILED not in texts(work / "m_o-1" / "m_o-1_shapes.xlsx")
        assert verdicts(work, "shapes_openai_result") == before

    def test_a_judge_that_is_down_is_replaced_by_a_rule_or_by_silence(
        self, stock: Stock, place: Path, good: tuple[str, str]
    ) -> None:
        work = place / "stock-judge-down"
        assert stock.run(work, good[0], DEAD, ["shapes", "LogicVista"]) == {}
        rule = "no GPT-based answer matching"
        assert all(rule in item["log"] for item in verdicts(work, "shapes_openai_result").values())
        assert not list(work.rglob("*LogicVista*score.csv"))
        assert stock.run(work, *good, ["shapes"]) == {}
        assert all(rule in item["log"] for item in verdicts(work, "shapes_openai_result").values())

    def test_a_smaller_limit_cuts_what_is_there_and_reuse_means_nothing(
        self, stock: Stock, place: Path, good: tuple[str, str]
    ) -> None:
        work = place / "stock-limit"
        assert stock.run(work, *good, ["shapes"], mode="infer") == {}
        written = (work / "m_o-1" / "m_o-1_shapes.xlsx").read_bytes()
        assert stock.run(work, DEAD, good[1], ["shapes"], mode="infer", reuse=False) == {}
        assert FAILED.encode() not in written
        assert FAILED not in texts(work / "m_o-1" / "m_o-1_shapes.xlsx")  # all of it was reused
        assert "snow" in texts(work / "m_o-1" / "m_o-1_shapes.xlsx")
        assert stock.run(work, *good, ["shapes"], mode="infer", limit=2) == {}
        assert "'snow'" not in texts(work / "m_o-1" / "m_o-1_shapes.xlsx")

    def test_leftovers_bring_failures_back(self, stock: Stock, place: Path, good: tuple[str, str]) -> None:
        work = place / "stock-leftover"
        folder = work / "m_o-1"
        folder.mkdir(parents=True)
        (folder / "m_o-1_shapes_PREV.pkl").write_bytes(pickle.dumps({0: FAILED, 1: FAILED}))
        assert stock.run(work, *good, ["shapes"], mode="infer") == {}
        assert FAILED in texts(folder / "m_o-1_shapes.xlsx")

    def test_wemath_divides_by_what_is_not_there(self, stock: Stock, place: Path, good: tuple[str, str]) -> None:
        work = place / "stock-wemath"
        # Three questions, two of them not mastered: a third is right, and a half of each of the others.
        with serve(place, "m.o-1", MODEL_KEY, "--answer", "A", "--answer-prompt", "2steps_multi=D") as model:
            assert stock.run(work, model.url, good[1], ["WeMath"]) == {}
        (scores,) = work.rglob("*WeMath*score.csv")
        assert "99.81%" in scores.read_text()
        with serve(place, "m.o-1", MODEL_KEY, "--answer", "D") as model:
            assert stock.run(place / "stock-wemath-none", model.url, good[1], ["WeMath"]) == {}
        assert not list((place / "stock-wemath-none").rglob("*score.csv"))
        assert b"ZeroDivisionError" in stock.log.read_bytes()

    def test_keys_are_in_its_files(self, stock: Stock, place: Path, good: tuple[str, str]) -> None:
        work = place / "stock-dead"
        if not work.exists():
            stock.run(work, *good, ["shapes"])
        assert "task_config.yaml" in files_with(work, JUDGE_KEY)
        assert "task_config.yaml" in files_with(work, MODEL_KEY)
        assert MODEL_KEY.encode() in stock.log.read_bytes()


@pytest.fixture(scope="module")
def port() -> int:
    """Of the model that fails first, and works then."""
    return free_port()


@pytest.fixture(scope="module")
def disturbed(data: Path, vlmeval_env: Path, place: Path, port: int) -> tuple[Path, Outcome]:
    """A run with a model that fails on some questions, and a judge that is silent on others."""
    work = place / "disturbed"
    with (
        serve(
            place, "m.o-1", MODEL_KEY, "--answer", UNCLEAR, "--fail-prompt", f"{LOST}=500",
            "--fail-prompt-like", f"{LONG}=vllm", "--fail-prompt", "number 5=503", port=port,
        ) as model,
        serve(
            place, "referee", JUDGE_KEY, "--answer", "{letter}", "--fail-prompt", f"{UNJUDGED}=500",
            "--answer-prompt", f"{MUMBLED}=who knows", "--fail-prompt", "after stone=500",
        ) as judge,
    ):  # fmt: skip
        return work, run(task(work, vlmeval_env, model.url, f"{judge.url}/chat/completions", MIXED))


class TestDisturbed:
    def test_every_failure_is_counted_by_kind(self, disturbed: tuple[Path, Outcome]) -> None:
        _, found = disturbed
        shapes, logic, dyna = (found.cells[name] for name in ("shapes", "LogicVista", "DynaMath"))
        assert found.code == ExitCode.INCOMPLETE
        assert (shapes.requested, shapes.answered, shapes.failed) == (8, 6, 2)
        assert shapes.failures == {"server_error": 1, "context_too_long": 1}
        assert (shapes.judged, shapes.fallbacks, shapes.succeeded) == (4, 2, 4)
        assert "1 × no verdict: unreadable" in shapes.notes
        assert "1 × no verdict: server error" in shapes.notes
        assert (logic.answered, logic.judged, logic.fallbacks) == (5, 4, 1)
        assert (dyna.answered, dyna.failed) == (5, 1)
        assert found.cells["MathVista_MINI"].complete

    def test_error_texts_and_random_verdicts_are_nowhere(self, disturbed: tuple[Path, Outcome]) -> None:
        work, _ = disturbed
        for path in work.glob("m_o-1/*.xlsx"):
            assert "Failed to obtain" not in texts(path), path
            assert "randomly generate" not in texts(path), path
        assert len(verdicts(work, "shapes_openai_result")) == 4
        assert len(verdicts(work, "LogicVista_gpt4o-mini")) == 4

    def test_the_model_is_let_go_before_any_file_is_made_of_the_last_answers(
        self, disturbed: tuple[Path, Outcome]
    ) -> None:
        lines = (disturbed[0] / "evalflow" / "events.jsonl").read_text().splitlines()
        events = [(event["event"], event.get("dataset")) for event in map(json.loads, lines)]
        at = [number for number, (event, _) in enumerate(events) if event == "worker answered"]
        assert len(at) == 1
        rest = [dataset for event, dataset in events[at[0] :] if event == "worker dataset predicted"]
        assert rest == [MIXED[-1]]
        assert ("worker predicted", None) in events[at[0] :]

    def test_a_group_without_all_its_variants_leaves_the_score(self, disturbed: tuple[Path, Outcome]) -> None:
        dyna = disturbed[1].cells["DynaMath"]
        assert dyna.metrics[0].samples == 4
        assert any("variants of the same question" in note for note in dyna.notes)

    def test_the_report_says_what_the_score_stands_on(self, disturbed: tuple[Path, Outcome]) -> None:
        work, _ = disturbed
        report = json.loads((work / "reports" / "m.o-1" / "shapes.json").read_text())
        assert report["execution_summary"]["incomplete"]
        assert report["execution_summary"]["succeeded"] == 4
        assert report["judge_summary"]["status"] == "degraded"
        assert report["judge_summary"]["judge_models"] == ["referee"]
        assert report["judge_summary"]["failures"] == {"server_error": 1, "unreadable": 1}

    def test_no_key_is_anywhere(self, disturbed: tuple[Path, Outcome]) -> None:
        work, _ = disturbed
        assert files_with(work, MODEL_KEY) == []
        assert files_with(work, JUDGE_KEY) == []


@pytest.fixture(scope="module")
def recovered(
    disturbed: tuple[Path, Outcome], vlmeval_env: Path, place: Path, port: int
) -> tuple[Outcome, list[dict[str, Any]], list[dict[str, Any]]]:
    """The same folder, with servers that work, but for a question that stays too long."""
    work, _ = disturbed
    with (
        serve(
            place, "m.o-1", MODEL_KEY, "--answer", UNCLEAR, "--fail-prompt-like", f"{LONG}=vllm", port=port
        ) as model,
        serve(place, "referee", JUDGE_KEY, "--answer", "{letter}") as judge,
    ):  # fmt: skip
        model.forget()
        found = run(task(work, vlmeval_env, model.url, judge.url, MIXED))
        asked = model.prompts, judge.prompts
        model.forget()
        judge.forget()
        again = run(task(work, vlmeval_env, model.url, judge.url, MIXED))
        assert again.scores == found.scores
        assert not model.prompts, "all that can be answered is"
        assert len(judge.prompts) == 0, "and is judged"
        return found, *asked


class TestRecovered:
    def test_only_what_is_missing_is_asked(self, recovered: tuple[Outcome, list[Any], list[Any]]) -> None:
        found, model, judge = recovered
        # The two transient ones, after a look whether the API is there; what is too long is not asked again.
        assert len(model) == 1 + 2
        shapes = 1 + 2  # the answer that came, and the two without a verdict
        assert len(judge) == 1 + shapes + 1 + found.cells["DynaMath"].requested - 4

    def test_scores_are_those_of_an_undisturbed_run(
        self, recovered: tuple[Outcome, list[Any], list[Any]], undisturbed: Outcome
    ) -> None:
        found, _, _ = recovered
        for name in ("LogicVista", "MathVista_MINI", "DynaMath"):
            assert found.cells[name].complete, name
            assert found.scores[name] == undisturbed.scores[name]
        shapes = found.cells["shapes"]
        assert (shapes.answered, shapes.judged, shapes.fallbacks) == (7, 7, 0)
        assert shapes.notes == ["1 × context too long (permanent)"]


def test_judge_down_then_back(
    data: Path, vlmeval_env: Path, place: Path, good: tuple[str, str], undisturbed: Outcome
) -> None:
    """Answers today, the judge dies, and comes back: `mode: judge`, with a leftover of VLMEvalKit's beside it."""
    work = place / "judge-down"
    names = ["shapes", "LogicVista", "MathVista_MINI"]
    with serve(place, "referee", JUDGE_KEY, "--answer", "{letter}", "--stop-listening-after", "4") as judge:
        down = run(task(work, vlmeval_env, good[0], judge.url, names))
    assert down.code == ExitCode.INCOMPLETE
    assert sum(cell.fallbacks for cell in down.cells.values()) > 0
    assert all(cell.answered == cell.requested for cell in down.cells.values())
    (work / "m_o-1" / "m_o-1_shapes_PREV.pkl").write_bytes(pickle.dumps({0: FAILED, 1: FAILED}))
    back = run(task(work, vlmeval_env, DEAD, good[1], names, mode="judge"))
    assert back.code == ExitCode.COMPLETE
    assert back.scores == {name: undisturbed.scores[name] for name in names}


def test_an_answers_file_that_is_gone_is_made_anew_and_nothing_brings_failures_back(
    data: Path, vlmeval_env: Path, place: Path, undisturbed: Outcome
) -> None:
    work = place / "gone"
    folder = work / "m_o-1"
    shutil.copytree(place / "undisturbed", work)
    (folder / "m_o-1_shapes.xlsx").unlink()
    (folder / "m_o-1_shapes_PREV.pkl").write_bytes(pickle.dumps({0: FAILED, 1: "A"}))
    (folder / "m_o-1_shapes_supp.pkl").write_bytes(pickle.dumps({2: FAILED}))
    with (
        serve(place, "m.o-1", MODEL_KEY, "--answer", UNCLEAR) as model,
        serve(place, "referee", JUDGE_KEY, "--answer", "{letter}") as judge,
    ):
        found = run(task(work, vlmeval_env, model.url, judge.url, ["shapes"]))
        assert len(model.prompts) == 1 + vlm_data.ROWS["shapes"]
        assert len(judge.prompts) == 1, "the answers are the same, and so are the verdicts"
    assert found.code == ExitCode.COMPLETE
    assert found.scores["shapes"] == undisturbed.scores["shapes"]
    assert "Failed to obtain" not in texts(folder / "m_o-1_shapes.xlsx")


def test_reuse_false_is_fresh_and_a_smaller_limit_is_refused(
    data: Path, vlmeval_env: Path, place: Path, undisturbed: Outcome
) -> None:
    work = place / "fresh"
    answers = work / "m_o-1" / "m_o-1_shapes.xlsx"
    shutil.copytree(place / "undisturbed", work)
    before = answers.read_bytes()
    with (
        serve(place, "m.o-1", MODEL_KEY, "--answer", UNCLEAR) as model,
        serve(place, "referee", JUDGE_KEY, "--answer", "{letter}") as judge,
    ):
        asked = task(work, vlmeval_env, model.url, judge.url, ["shapes"])
        with pytest.raises(ConfigError, match="limit was not set and is 2"):
            run(replace(asked, stock={**asked.stock, "limit": 2}))
        assert answers.read_bytes() == before
        model.forget()
        found = run(task(work, vlmeval_env, model.url, judge.url, ["shapes"], reuse=False))
        assert len(model.prompts) >= vlm_data.ROWS["shapes"]
    assert found.scores["shapes"] == undisturbed.scores["shapes"]
    (kept,) = work.glob("evalflow/kept/*/m_o-1/m_o-1_shapes.xlsx")
    assert kept.read_bytes() == before


def test_the_engine_dies_at_a_third_and_the_scores_are_the_same(
    data: Path, vlmeval_env: Path, place: Path, good: tuple[str, str], undisturbed: Outcome, tmp_path: Path
) -> None:
    names = ["shapes", "LogicVista", "MathVista_MINI"]
    work = place / "killed"
    marker = tmp_path / "journal.jsonl"
    script = ["--answer", UNCLEAR, "--answer-seconds", "0.2", "--journal", str(marker), "--die-after-requests", "7"]
    asked = task(
        work, vlmeval_env, DEAD, good[1], names, deploy={"engine": "scripted", "extra_args": script, "max_restarts": 3}
    )
    local = asked.models[0].model_copy(update={"path": str(tmp_path), "api_url": None, "api_key": None})
    found = run(replace(asked, stock={**asked.stock, "eval_batch_size": 1}, models=(local,)))
    assert found.code == ExitCode.COMPLETE
    assert found.scores == {name: undisturbed.scores[name] for name in names}
    record = json.loads((work / "evalflow" / "run.json").read_text())
    assert record["phases_s"]["infer"] > 0
    events = [json.loads(line)["event"] for line in (work / "evalflow" / "events.jsonl").read_text().splitlines()]
    assert events.count("engine died") >= 1


def test_data_that_is_not_there_and_data_that_is_another(data: Path, vlmeval_env: Path, place: Path) -> None:
    """Told before anything is asked, with what to do."""
    with serve(place, "m.o-1", MODEL_KEY) as model, serve(place, "referee", JUDGE_KEY) as judge:
        asked = task(
            place / "data", vlmeval_env, model.url, judge.url, ["MathVista_MINI", "nowhere_set"], verify_md5=True
        )
        with pytest.raises(ConfigError, match=r"(?s)no dataset 'nowhere_set'.*nowhere_set\.tsv"):
            run(asked)
        asked = task(place / "data", vlmeval_env, model.url, judge.url, ["MathVista_MINI"], verify_md5=True)
        with pytest.raises(EvalFlowError, match=r"MathVista_MINI\.tsv is not the published.*verify_md5: false"):
            run(asked)
        assert (data / "MathVista_MINI.tsv").exists()
