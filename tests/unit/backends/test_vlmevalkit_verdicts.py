"""Which verdicts of VLMEvalKit's judge count, and what a score is without the others; without VLMEvalKit."""

from __future__ import annotations

import pickle
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas
import pytest

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import NoVerdict, _one
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_data import correct_wemath
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_judging import (
    Judging,
    Unjudged,
    drop_stale,
    group_of,
    is_fallback,
)
from evalscope_evalflow.worker.progress_meter import ProgressMeter


def load(path: str, *_: Any) -> Any:
    return pickle.loads(Path(path).read_bytes())


def dump(data: Any, path: str) -> None:
    Path(path).write_bytes(pickle.dumps(data))


class TestVerdicts:
    def test_only_real_ones_are_saved(self, tmp_path: Path) -> None:
        judging = Judging(load, dump)

        def verdict(item: int) -> dict[str, Any]:
            if item == 1:
                raise NoVerdict("connection", "down")
            if item == 2:
                judging.heard.failed = ("timeout", "late")  # and the dataset's code has caught it
            if item == 3:
                raise KeyError("what a dataset's code stumbles on")
            return {"hit": 1, "log": "All 5 retries failed.\n" if item == 4 else "Succeed"}

        save = tmp_path / "v.pkl"
        with pytest.raises(Unjudged) as caught:
            judging.track(verdict, range(6), nproc=3, save=str(save), keys=list(range(6)))
        assert caught.value.why == {"1": "connection", "2": "timeout", "3": "error", "4": "unreadable"}
        assert sorted(load(str(save))) == [0, 5]

    def test_what_an_answer_says_makes_no_fallback(self) -> None:
        line = {"prediction": "I shall randomly generate one"}
        assert not is_fallback({"log": f"Match Log: {line['prediction']}. "}, {"item": line})
        assert is_fallback({"log": "Match Log: Failed to predict, thus randomly generate one. . "}, {"item": line})

    def test_a_verdict_on_another_answer_is_dropped(self, tmp_path: Path) -> None:
        files = Files(tmp_path, "m", "d")
        files.folder.mkdir()
        path = files.folder / "m_d_judge.pkl"
        good = {"hit": 1, "log": "Succeed"}
        answers, groups = {"1": "a", "2": "b", "3": "c"}, {"1": "1", "2": "2", "3": "3"}
        dump({1: good}, str(path))
        assert drop_stale(files, load, dump, answers, groups) == 1, "nobody knows on which answer it is"
        dump({1: good, 2: good, 3: {"hit": 0, "log": "All 5 retries failed.\n"}}, str(path))
        assert drop_stale(files, load, dump, {**answers, "2": "changed"}, groups) == 2
        assert list(load(str(path))) == [1]
        path.write_bytes(b"torn")
        assert drop_stale(files, load, dump, answers, groups) == 0
        assert not path.exists()

    def test_groups(self) -> None:
        table = pandas.DataFrame({"index": [1, 1_000_001, 2], "qid": [1, 1, 2]})
        assert group_of("MMBench_DEV_EN", table) == {"1": "1", "1000001": "1", "2": "2"}
        assert group_of("DynaMath", table) == {"1": "1", "1000001": "1", "2": "2"}
        assert group_of("LogicVista", table) == {"1": "1", "1000001": "1000001", "2": "2"}

    def test_samples_without_a_verdict_leave_the_score(self, tmp_path: Path) -> None:
        judging, files = Judging(load, dump), Files(tmp_path, "m", "d")
        files.folder.mkdir()
        passes: list[list[str]] = []

        def stock(eval_file: str, **_: Any) -> int:
            rows = sorted(judging._rows)
            passes.append(rows)
            judging.track(verdict, rows, save=str(files.folder / "m_d_j.pkl"), keys=rows)
            return len(rows)

        def verdict(row: str) -> str:
            if row == "2":
                raise NoVerdict("connection", "down")
            return "fine"

        data = pandas.DataFrame({"index": [1, 2, 3, 4]})
        outcome = judging.evaluate(stock, files, data, {"1", "2", "3"})
        assert passes == [["1", "2", "3"], ["1", "3"]]
        assert (outcome.result, outcome.scored, outcome.fallbacks) == (2, ["1", "3"], {"2": "connection"})

    def test_the_answers_file_is_not_written_while_it_is_judged(self, tmp_path: Path) -> None:
        """Circular evaluation writes back what it has read, which is a part of the answers here."""
        judging, files = Judging(load, dump), Files(tmp_path, "m", "d")
        files.folder.mkdir()
        dump([1, 2, 3], str(files.predictions))

        def stock(eval_file: str, **_: Any) -> str:
            judging.dump_made([1], eval_file)
            judging.dump_made([1], str(files.folder / "m_d_acc.csv"))
            judging.dump_made([1], "/tmp/by-the-second-of-the-clock.tsv")
            assert judging.load_chosen("/tmp/by-the-second-of-the-clock.tsv") == [1]
            return "scored"

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path))
            outcome = judging.evaluate(stock, files, pandas.DataFrame({"index": [1]}), {"1"})
        assert outcome.result == "scored"
        assert load(str(files.predictions)) == [1, 2, 3]
        assert (files.folder / "m_d_acc.csv").exists()
        assert (tmp_path / "by-the-second-of-the-clock.tsv").exists(), "in the worker's own folder"


class Wemath:
    """The two functions of VLMEvalKit's that are put right."""

    @staticmethod
    def evaluate_update_main_results_df(frame: Any, counts: Any, rates: Any) -> Any:
        return pandas.DataFrame([{"Score (Strict)": "99.9%", "Score (Loose)": "99.9%"}])


def test_wemath_divides_by_the_questions_that_there_are() -> None:
    wemath: Any = Wemath()
    correct_wemath(wemath)
    kinds = {"1_loose": 0, "1_strict": 1, "2": 1, "3": 1, "4_loose": 2, "4_strict": 1}
    metrics = {
        f"steps{n}_filtered_rows_{kind}": [0] * (size if n == 2 else 0) for kind, size in kinds.items() for n in (2, 3)
    }
    counts, rates = wemath.evaluate_compute_final_scores(metrics, 525)
    frame = wemath.evaluate_update_main_results_df(None, counts, rates)
    # Four questions: half of one is lost, all of another, and, in the strict score, a third.
    assert frame["Score (Strict)"].iloc[0] == "37.50%"
    assert frame["Score (Loose)"].iloc[0] == "62.50%"
    assert rates["InsufficientKnowledge_rate"] == "25.00%"
    nothing = wemath.evaluate_compute_final_scores({name: [] for name in metrics}, 525)
    assert nothing[1]["RoteMemorization_loose_rate"] == "0.00%"


def test_each_request_to_the_judge_is_counted_before_it_is_sent() -> None:
    said: list[str] = []
    api = SimpleNamespace(
        ask=lambda request, **settings: said.append("asked") or "yes",
        before_request=lambda: said.append("counted"),
        answered=SimpleNamespace(kinds=[]),
    )
    _, ask = _one(cast(Any, api), [{"role": "user", "content": "?"}], {})
    assert ask() == ("yes", [])
    assert said == ["counted", "asked"]


def test_verdicts_are_counted_while_they_come_those_that_are_saved_included(tmp_path: Path) -> None:
    events: list[Any] = []
    judging = Judging(load, dump, ProgressMeter(events.append, ["d"], every_s=0))
    judging._files = Files(tmp_path, "m", "d")
    save = str(tmp_path / "verdicts.pkl")
    dump({"a": 1}, save)
    judging.track(lambda task: task, [1, 2], save=save, keys=["b", "c"])
    judging._progress.end()
    assert [(event.done, event.total, event.judging) for event in events] == [(1, 3, True), (3, 3, True)]


def test_threads_do_not_hear_of_one_anothers_judge() -> None:
    heard = Judging(load, dump).heard
    heard.failed = ("timeout", "")
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(getattr(heard, "failed", None)))
    thread.start()
    thread.join()
    assert seen == [None]
