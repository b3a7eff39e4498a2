"""What stock EvalScope hides when it runs VLMEvalKit: `{}` and exit code 0 come of everything.

What we make of the same is in test_vlmevalkit_failures.py and test_vlmevalkit_runs.py. Model and judge are scripted
servers, all else is real, in one process for all.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vlm_data
from vlm_runs import JUDGE_KEY, MODEL_KEY, UNCLEAR, files_with, serve, texts, verdicts

pytestmark = pytest.mark.real
FAILED = "Failed to obtain answer via API."
DEAD = "http://127.0.0.1:9/v1"
STOCK = Path(__file__).resolve().parents[2] / "stock_vlmevalkit.py"


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
        """What `run_task` returns; what it leaves behind is in `left`."""
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
        self.left: dict[str, Any] = json.loads(self.process.stdout.readline())
        return self.left["returned"]

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


def test_a_server_that_hangs_is_asked_ten_times_for_each_sample(
    stock: Stock, place: Path, good: tuple[str, str]
) -> None:
    """Its own patience is 330 s, so that this takes 55 minutes; here it is 1.1 s.

    The first of all: a run that says `retry` changes it for whatever else runs in its process.
    """
    with serve(place, "m.o-1", MODEL_KEY, "--hang-after", "0") as model:
        url = f"{model.url}/chat/completions"
        asked = {"name": "CustomAPIModel", "type": "m.o-1", "api_base": url, "key": MODEL_KEY, "timeout": 1}
        work = place / "stock-hung"
        returned = stock.run(work, "", good[1], ["shapes"], model=[asked], retry=None, mode="infer", limit=1)
        assert returned == {}
        assert len(model.prompts) == 10
    assert FAILED in texts(work / "m_o-1" / "m_o-1_shapes.xlsx")


def test_a_dead_model_is_judged_and_the_verdicts_outlive_its_recovery(
    stock: Stock, place: Path, good: tuple[str, str]
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
    stock: Stock, place: Path, good: tuple[str, str]
) -> None:
    work = place / "stock-judge-down"
    assert stock.run(work, good[0], DEAD, ["shapes", "LogicVista", "MathVista_MINI"]) == {}
    rule = "no GPT-based answer matching"
    assert all(rule in item["log"] for item in verdicts(work, "shapes_openai_result").values())
    assert not list(work.rglob("*LogicVista*score.csv"))
    assert not list(work.rglob("*MathVista*score.csv"))
    assert stock.run(work, *good, ["shapes"]) == {}
    assert all(rule in item["log"] for item in verdicts(work, "shapes_openai_result").values())


def test_a_smaller_limit_cuts_what_is_there_and_reuse_means_nothing(
    stock: Stock, place: Path, good: tuple[str, str]
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


def test_a_conversation_with_a_failure_in_it_is_an_answer(stock: Stock, place: Path, good: tuple[str, str]) -> None:
    work = place / "stock-talk"
    with serve(place, "m.o-1", MODEL_KEY, "--answer", UNCLEAR, "--fail-prompt", "Then stone=500") as model:
        assert stock.run(work, model.url, good[1], ["MMDU"]) == {}
    told = texts(work / "m_o-1" / "m_o-1_MMDU.xlsx")
    assert "one would think who has seen many of them before', 'Failed to obtain answer" in told.replace("&apos;", "'")
    assert len(verdicts(work, "MMDU_gpt-4o")) == vlm_data.ROWS["MMDU"]


def test_leftovers_bring_failures_back(stock: Stock, place: Path, good: tuple[str, str]) -> None:
    work = place / "stock-leftover"
    folder = work / "m_o-1"
    folder.mkdir(parents=True)
    (folder / "m_o-1_shapes_PREV.pkl").write_bytes(pickle.dumps({0: f"{FAILED} before"}))
    (folder / "m_o-1_shapes_supp.pkl").write_bytes(pickle.dumps({1: f"{FAILED} now"}))
    assert stock.run(work, *good, ["shapes"], mode="infer") == {}
    assert f"{FAILED} before" in texts(folder / "m_o-1_shapes.xlsx")
    assert f"{FAILED} now" in texts(folder / "m_o-1_shapes.xlsx")


def test_wemath_divides_by_what_is_not_there(stock: Stock, place: Path, good: tuple[str, str]) -> None:
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


def test_a_judge_that_fails_midway_makes_answers_wrong_permanently(
    stock: Stock, place: Path, good: tuple[str, str]
) -> None:
    work, part = place / "stock-judge-midway", "MathVista_MINI_gpt-4o-mini"
    with serve(place, "referee", JUDGE_KEY, "--answer", "{letter}", "--fail-prompt", "is 1 + 1=500") as judge:
        assert stock.run(work, good[0], judge.url, ["MathVista_MINI"]) == {}
    before = verdicts(work, part)
    assert before[1] == {"log": before[1]["log"], "res": ""}
    assert "All 5 retries failed" in before[1]["log"]
    assert list(work.rglob("*MathVista*score.csv"))
    assert stock.run(work, *good, ["MathVista_MINI"]) == {}
    assert verdicts(work, part) == before


def test_a_judge_that_nobody_understands_is_replaced_by_chance(
    stock: Stock, place: Path, good: tuple[str, str]
) -> None:
    work = place / "stock-mumbling"
    with serve(place, "referee", JUDGE_KEY, "--answer", "who knows") as judge:
        assert stock.run(work, good[0], judge.url, ["shapes", "WeMath"]) == {}
    for name in ("shapes", "WeMath"):
        assert any(name in file for file in files_with(work, "randomly generate one")), name


def test_an_exception_is_told_in_a_log_alone(stock: Stock, place: Path, good: tuple[str, str]) -> None:
    assert stock.run(place / "stock-open", *good, [vlm_data.OPEN]) == {}
    log = stock.log.read_text()
    assert f"{vlm_data.OPEN} combination failed" in log
    assert "NotImplementedError" in log


def test_what_it_leaves_in_the_process(stock: Stock, place: Path, good: tuple[str, str]) -> None:
    """Whoever judges next in this process asks this judge, with this key; TLS is not what it was."""
    assert stock.run(place / "stock-left", *good, ["shapes"], mode="infer") == {}
    assert stock.left["variables"]["OPENAI_API_KEY"] == JUDGE_KEY
    assert not stock.left["verifies"]
    assert stock.run(place / "stock-left", *good, ["shapes"], mode="infer", LOCAL_LLM=None) == {}
    assert stock.left["variables"] == {}, "one of its settings is missing, and the others are ignored"


def test_keys_are_in_its_files(stock: Stock, place: Path, good: tuple[str, str]) -> None:
    work = place / "stock-dead"
    if not work.exists():
        stock.run(work, *good, ["shapes"])
    for key in (JUDGE_KEY, MODEL_KEY):
        assert {"task_config.yaml", "eval_log.log"} <= set(files_with(work, key))
    assert MODEL_KEY.encode() in stock.log.read_bytes()
