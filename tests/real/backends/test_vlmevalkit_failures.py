"""What we make of failures that stock EvalScope hides when it runs VLMEvalKit (test_vlmevalkit_stock.py shows those).

Model and judge are scripted servers, all else is real. Each run imports VLMEvalKit anew, which takes 20 s: so a run
shows several things, and the tests look at it.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import environments
import pandas
import pytest
import vlm_data
from vlm_runs import JUDGE_KEY, MODEL_KEY, UNCLEAR, Outcome, files_with, free_port, run, serve, task, texts, verdicts

from evalscope_evalflow.backends.known_sources import changed_places
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_sources import PLACES
from evalscope_evalflow.config.catalog import vlmevalkit_folder
from evalscope_evalflow.errors import ConfigError, EvalFlowError, ExitCode

pytestmark = pytest.mark.real
FAILED = "Failed to obtain answer via API."
DEAD = "http://127.0.0.1:9/v1"
ELSEWHERE = {"accept": ["api_url"]}  # the servers of another test, at another port
STOCK = Path(__file__).resolve().parents[2] / "stock_vlmevalkit.py"
MIXED = [vlm_data.CUSTOM, "LogicVista", "MathVista_MINI", "DynaMath"]
LOST, LONG, UNJUDGED, MUMBLED = "'bread'", "'snow'", "'tiger'", "'piano'"


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


@pytest.fixture(scope="module")
def port() -> int:
    """Of the model that fails first, and works then."""
    return free_port()


@pytest.fixture(scope="module")
def disturbed(data: Path, vlmeval_env: Path, place: Path, port: int) -> tuple[Path, Outcome]:
    """A run with a model that fails on some questions, and a judge that is silent on others."""
    return disturb(place / "disturbed", vlmeval_env, place, port)


def disturb(work: Path, env: Path, place: Path, port: int) -> tuple[Path, Outcome]:
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
        return work, run(task(work, env, model.url, f"{judge.url}/chat/completions", MIXED))


class TestDisturbed:
    def test_every_failure_is_counted_by_kind(self, disturbed: tuple[Path, Outcome]) -> None:
        _, found = disturbed
        shapes, logic, dyna = (found.cells[name] for name in ("shapes", "LogicVista", "DynaMath"))
        assert found.code == ExitCode.INCOMPLETE
        assert (shapes.requested, shapes.answered, shapes.failed) == (8, 6, 2)
        assert shapes.failures == {"server_error": 1, "context_too_long": 1}
        assert (shapes.judged, shapes.fallbacks, shapes.succeeded) == (4, 2, 4)
        assert "the judge's reply could not be parsed for 1 of 6 answers, e.g. 'who knows'" in shapes.notes
        assert any(note.startswith("the judge's server failed for 1 of 6 answers: ") for note in shapes.notes)
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
        at = [number for number, (event, _) in enumerate(events) if event == "AllAnswered"]
        assert len(at) == 1
        rest = [dataset for event, dataset in events[at[0] :] if event == "DatasetAnswered"]
        assert rest == [MIXED[-1]]
        assert ("AnswersSaved", None) in events[at[0] :]

    def test_one_answer_of_each_dataset_is_judged_while_others_are_answered(
        self, disturbed: tuple[Path, Outcome]
    ) -> None:
        lines = (disturbed[0] / "evalflow" / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        ahead = [number for number, event in enumerate(events) if event["event"] == "JudgeProbed"]
        assert {events[number]["dataset"] for number in ahead} <= set(MIXED)
        assert len(ahead) >= 2
        assert ahead[0] < [event["event"] for event in events].index("AllAnswered")

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
        (note,) = shapes.notes
        assert note.startswith("1 × context too long (permanent): ")


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
    back = run(task(work, vlmeval_env, DEAD, good[1], names, mode="judge", reuse={"accept": ["api_url"]}))
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
        # Whether it is there, and one answer ahead of its time; the answers are the same, and so are the verdicts.
        assert len(judge.prompts) == 2
    assert found.code == ExitCode.COMPLETE
    assert found.scores["shapes"] == undisturbed.scores["shapes"]
    assert "Failed to obtain" not in texts(folder / "m_o-1_shapes.xlsx")


def test_reuse_false_is_fresh_and_a_smaller_limit_asks_nothing(
    data: Path, vlmeval_env: Path, place: Path, undisturbed: Outcome
) -> None:
    work = place / "fresh"
    answers = work / "m_o-1" / "m_o-1_shapes.xlsx"
    shutil.copytree(place / "undisturbed", work)
    before = list(pandas.read_excel(answers)["prediction"])
    with (
        serve(place, "m.o-1", MODEL_KEY, "--answer", UNCLEAR) as model,
        serve(place, "referee", JUDGE_KEY, "--answer", "{letter}") as judge,
    ):
        asked = task(work, vlmeval_env, model.url, judge.url, ["shapes"], reuse=ELSEWHERE)
        model.forget()
        fewer = run(replace(asked, stock={**asked.stock, "limit": 2})).cells["shapes"]
        assert (fewer.complete, fewer.requested, fewer.answered) == (True, 2, 2)
        assert len(model.prompts) <= 1, "a look whether the API is there"
        found = run(task(work, vlmeval_env, model.url, judge.url, ["shapes"], reuse=False))
        assert len(model.prompts) >= vlm_data.ROWS["shapes"]
    assert found.scores["shapes"] == undisturbed.scores["shapes"]
    (kept,) = work.glob("evalflow/kept/*/m_o-1/m_o-1_shapes.xlsx")
    assert list(pandas.read_excel(kept)["prediction"]) == before, "what the limit leaves out stays"


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
    assert events.count("EngineDied") >= 1


def test_data_that_is_not_there_and_data_that_is_another(
    data: Path, vlmeval_env: Path, place: Path, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before anything is asked, with what to do."""
    with serve(place, "m.o-1", MODEL_KEY) as model, serve(place, "referee", JUDGE_KEY) as judge:
        asked = task(
            place / "data", vlmeval_env, model.url, judge.url, ["MathVista_MINI", "nowhere_set"], verify_md5=True
        )
        with pytest.raises(ConfigError, match=r"(?s)no dataset 'nowhere_set'.*nowhere_set\.tsv"):
            run(asked)
        with pytest.raises(ConfigError, match=rf"{vlm_data.OPEN}\.tsv:1: .* does not score open questions"):
            run(task(place / "data", vlmeval_env, model.url, judge.url, [vlm_data.OPEN]))
        # A file that is not the published one; and one with a right answer that was mended.
        work, names = place / "other-data", ["MathVista_MINI", "shapes"]
        shutil.copytree(place / "undisturbed", work)
        shutil.copytree(data, place / "other-LMUData")
        monkeypatch.setenv("LMUData", str(place / "other-LMUData"))
        with pytest.raises(EvalFlowError, match=r"MathVista_MINI\.tsv is not the published.*verify_md5: false"):
            run(task(work, vlmeval_env, model.url, judge.url, names, verify_md5=True, reuse=ELSEWHERE))
        assert (place / "other-LMUData" / "MathVista_MINI.tsv").exists()
        changed = place / "other-LMUData" / "shapes.tsv"
        rows = pandas.read_csv(changed, sep="\t", dtype=str)
        rows.loc[0, "answer"] = next(letter for letter in "AB" if letter != rows.loc[0, "answer"])
        rows.to_csv(changed, sep="\t", index=False)
        model.forget()
        found = run(task(work, vlmeval_env, model.url, judge.url, ["shapes"], reuse=ELSEWHERE))
        assert found.cells["shapes"].complete
        assert found.scores["shapes"] != undisturbed.scores["shapes"]
        assert len(model.prompts) <= 1, "a look whether the API is there"


def test_another_version_of_vlmevalkits_fails_and_scores_alike(
    data: Path, place: Path, good: tuple[str, str], undisturbed: Outcome, disturbed: tuple[Path, Outcome], port: int
) -> None:
    """Its loops, files and checks of completeness are others: what is patched has to fit both."""
    env = environments.next_vlmeval_env()
    work, found = disturb(place / "next", env, place, port)
    for dataset, cell in disturbed[1].cells.items():
        other = found.cells[dataset]
        counts = [(item.requested, item.answered, item.judged, item.fallbacks, item.failures) for item in (cell, other)]
        assert counts[0] == counts[1], dataset
    assert found.scores == disturbed[1].scores
    mended = run(task(work, env, *good, MIXED, reuse=ELSEWHERE))
    assert mended.code == ExitCode.COMPLETE
    assert mended.scores == undisturbed.scores


def test_what_is_patched_is_known_by_its_source(vlmeval_env: Path) -> None:
    for env in (vlmeval_env, environments.next_vlmeval_env()):
        folder = vlmevalkit_folder(str(env))
        assert folder is not None
        assert changed_places(folder, PLACES) == []
