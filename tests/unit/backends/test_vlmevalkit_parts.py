"""VLMEvalKit without VLMEvalKit: what is checked before a start, what files say, and what scores become."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import ssl
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas
import pytest
from evalscope.report import Report

from evalscope_evalflow.backends.known_sources import source_hash
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_sources
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_worker as worker
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_answers import Answers
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_backend import VLMEvalKit
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import NoVerdict, _one, base_url, converse
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_data import DataError, check_same_version, correct_wemath
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files, Journal, model_type, whole_writes
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_judging import (
    Judging,
    Unjudged,
    drop_stale,
    group_of,
    is_fallback,
)
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_report import figures, write
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.events.worker_requests import StartTask
from evalscope_evalflow.worker.progress_meter import ProgressMeter
from evalscope_evalflow.worker.request_failures import Failures

JUDGE = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:1/v1"}]}


@pytest.fixture
def worker_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that has the packages, as far as folders tell; of VLMEvalKit's source, one place is known."""
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    for name in ("evalscope", "vlmeval"):
        (packages / name).mkdir(parents=True)
    for name, version in (("transformers", "4.57.1"), ("pandas", "2.3.0"), ("ms_vlmeval", "9.9.9")):
        folder = packages / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: {version}\n")
    (packages / "vlmeval" / "run.py").write_text("def main():\n    return 1\n")
    known = source_hash(packages / "vlmeval", "run.py:main")
    monkeypatch.setattr(vlmevalkit_sources, "PLACES", {"run.py:main": {known: "9.9.9"}})
    (tmp_path / "env" / "bin").mkdir()
    (tmp_path / "env" / "bin" / "python").symlink_to("/bin/true")
    return tmp_path / "env"


def problems(env: Path, **fields: Any) -> dict[str, str]:
    section = fields.pop("evalflow", {})
    data = {"model": "/m", "datasets": ["MathVision"], "judge": JUDGE, **fields}
    task = Task.parse({**data, "evalflow": {"worker_env": str(env), **section}})
    return {item.where: str(item) for item in VLMEvalKit().check(task)}


class TestCheck:
    def test_nothing_is_wrong(self, worker_env: Path) -> None:
        assert problems(worker_env, limit=3) == {}

    @pytest.mark.parametrize(
        ("fields", "where"),
        [
            ({"limit": 0.5}, "limit"),
            ({"limit": 0}, "limit"),
            ({"repeats": 2}, "repeats"),
            ({"dataset_args": {"MathVision": {"a": 1}}}, "dataset_args"),
            ({"judge": {**JUDGE, "repeats": 2}}, "judge.repeats"),
            ({"judge": {**JUDGE, "contract": {"system_prompt": "x"}}}, "judge.contract"),
            ({"judge": {"models": [*JUDGE["models"], {"model_id": "k", "api_url": "http://b"}]}}, "judge.models"),
            ({"judge": {**JUDGE, "strategy": "rule"}}, "judge.strategy"),
            ({"judge": {}}, "judge"),
        ],
    )
    def test_what_it_cannot_do_is_told(self, worker_env: Path, fields: dict[str, Any], where: str) -> None:
        assert list(problems(worker_env, **fields)) == [where]

    @pytest.mark.parametrize("name", ["DocVQA_TEST", "MMBench_TEST_EN_V11", "MMT-Bench_ALL_MI"])
    def test_splits_whose_right_answers_are_secret_are_only_asked(self, worker_env: Path, name: str) -> None:
        file = worker_env / f"{name}.tsv"
        file.touch()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LMUData", str(worker_env))
            assert "mode: infer" in problems(worker_env, datasets=[name])["datasets"]
            assert problems(worker_env, datasets=[name], judge={}, evalflow={"mode": "infer"}) == {}

    def test_answers_alone_take_no_judge(self, worker_env: Path) -> None:
        assert problems(worker_env, judge={}, evalflow={"mode": "infer"}) == {}

    def test_it_has_to_be_installed(self, worker_env: Path) -> None:
        shutil.rmtree(next(worker_env.glob("lib/python3*/site-packages/vlmeval")))
        assert "[vlmeval]" in problems(worker_env)["worker_env"]

    def test_another_source_than_it_was_written_for_is_refused(self, worker_env: Path) -> None:
        run = next(worker_env.glob("lib/python3*/site-packages/vlmeval/run.py"))
        run.write_text(f"import os\n\n\n{run.read_text()}")
        assert problems(worker_env) == {}
        run.write_text("def main():\n    return 2\n")
        said = problems(worker_env)["worker_env"]
        assert "ms-vlmeval 9.9.9" in said
        assert "run.py:main changed. Scores could be wrong" in said
        assert "0.0.19, 0.0.20 work" in said
        run.unlink()
        assert "run.py:main changed" in problems(worker_env)["worker_env"]

    def test_packages_that_break_it_are_refused(self, worker_env: Path) -> None:
        metadata = next(worker_env.glob("lib/python3*/site-packages/transformers-*/METADATA"))
        metadata.write_text("Name: transformers\nVersion: 5.0.0\n")
        metadata.parent.rename(metadata.parent.with_name("transformers-5.0.0.dist-info"))
        assert "transformers is 5.0.0, and it needs < 5" in problems(worker_env)["worker_env"]

    def test_the_data_folder_has_to_be_there(self, worker_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LMUData", str(worker_env / "nowhere"))
        assert "does not exist" in problems(worker_env)["LMUData"]

    def test_a_file_of_ones_own_is_a_dataset(self, worker_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LMUData", str(worker_env))
        (worker_env / "mine.tsv").touch()
        assert problems(worker_env, datasets=["mine", "WeMath"]) == {}


@pytest.mark.parametrize(
    ("versions", "why"),
    [
        ({"transformers": "4.57.1", "pandas": "2.3.3"}, None),
        ({"transformers": "5.0.0", "pandas": "2.3.3"}, "transformers is 5.0.0, and it needs < 5"),
        ({"transformers": "4.57.1", "pandas": "3.1.1"}, "pandas is 3.1.1, and it needs < 3"),
        ({"transformers": "5.1", "pandas": "3.1.1"}, "transformers is 5.1, and it needs < 5; pandas is 3.1.1"),
        ({"pandas": "2.3.3"}, "transformers is missing"),
    ],
)
def test_an_environment_with_versions_that_do_not_fit_is_named_with_them(
    versions: dict[str, str], why: str | None, worker_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Environment, "version_of", lambda self, name: versions.get(name))
    found = list(VLMEvalKit().check_installed(str(worker_env)))
    assert len(found) == (why is not None)
    for problem in found:
        assert why
        assert why in problem.what
        assert "'transformers<5' 'pandas<3'" in problem.todo


def test_no_key_is_in_the_stock_task(worker_env: Path) -> None:
    judge = {"models": [{**JUDGE["models"][0], "api_key": "sk-secret"}]}
    task = Task.parse({"model": "/m", "datasets": ["WeMath"], "judge": judge, "evalflow": {}})
    assert "sk-secret" not in json.dumps(VLMEvalKit().stock_task(task, task.models[0], 7))


def test_stock_fields_mean_what_they_mean_elsewhere() -> None:
    generation = {"max_tokens": 7, "temperature": 0.5, "retries": 1}
    data = {"model": "/m", "datasets": ["WeMath"], "judge": JUDGE, "generation_config": generation, "limit": 3}
    task = Task.parse({**data, "eval_batch_size": 5, "evalflow": {"judge_max_num_seqs": 6}})
    request = VLMEvalKit().start_task(task, task.models[0], ["infer", "judge"], 200)
    assert (request.stock_task["eval_config"]["nproc"], request.judge_batch_size) == (5, 6)
    settings = request.settings
    assert (settings["limit"], settings["generation_config"], settings["judge"]) == (3, generation, JUDGE["models"][0])
    unsaid = Task.parse({**data, "evalflow": {}})
    assert VLMEvalKit().stock_task(unsaid, unsaid.models[0], 200)["eval_config"]["nproc"] == 200


def test_names_and_urls() -> None:
    assert model_type("org/Qwen2.5-VL:7b") == "Qwen2_5-VL-7b"
    assert base_url("http://a/v1/") == base_url("http://a/v1/chat/completions") == "http://a/v1"


class TestFiles:
    def test_files_of_a_dataset_with_a_longer_name_are_its_own(self, tmp_path: Path) -> None:
        files = Files(tmp_path, "m", "MathVision", ["MathVision", "MathVision_MINI"])
        files.folder.mkdir()
        for name in (
            "m_MathVision_judge.pkl",
            "m_MathVision_MINI_judge.pkl",
            "m_MathVision_MINI.xlsx",
            "m_MathVision_supp.pkl",
        ):
            (files.folder / name).touch()
        assert [path.name for path in files.made()] == ["m_MathVision_judge.pkl"]
        assert [path.name for path in files.unfinished()] == ["m_MathVision_supp.pkl"]

    def test_a_torn_line_costs_itself_alone(self, tmp_path: Path) -> None:
        files = Files(tmp_path, "m", "d")
        Journal(files).add(1, "one")
        with files.journal.open("a") as file:
            file.write('{"index": "2", "predic')
        Journal(files).add(3, "three")
        assert files.read_journal() == {"1": "one", "3": "three"}

    def test_a_write_that_fails_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pkl"
        path.write_bytes(b"old")

        def dump(data: Any, f: str) -> None:
            Path(f).write_bytes(b"ne")
            raise OSError("full")

        with pytest.raises(OSError, match="full"):
            whole_writes(dump)(1, str(path))
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_answers_that_are_no_longer_the_counted_ones_are_none(self, tmp_path: Path) -> None:
        task = Task.parse(
            {"model": "/m", "datasets": ["d"], "work_dir": str(tmp_path), "evalflow": {"backend": "VLMEvalKit"}}
        )
        model: ModelConfig = task.models[0]
        files = Files(tmp_path, model.name, "d")
        files.folder.mkdir()
        files.predictions.write_bytes(b"x")
        files.write(answered=5, stamp=files.stamp())
        assert VLMEvalKit().look(task, model).answers("d") == 5
        Journal(files).add(9, "more")
        assert VLMEvalKit().look(task, model).answers("d") == 6
        files.predictions.unlink()
        assert VLMEvalKit().look(task, model).answers("d") == 1


def test_answers_to_another_versions_prompts_are_not_gone_on_from(tmp_path: Path) -> None:
    files = Files(tmp_path, "m", "d")
    check_same_version(files, "1")
    check_same_version(files, "2")  # nothing is answered yet
    files.folder.mkdir()
    files.predictions.touch()
    check_same_version(files, "2")
    with pytest.raises(DataError, match=r"asked by ms-vlmeval 2, and this is 3.*`reuse: false`"):
        check_same_version(files, "3")
    check_same_version(files, "2")


class Talker:
    """A model that takes conversations, and breaks off at one."""

    def __init__(self) -> None:
        self.heard: list[list[str]] = []

    def chat(self, messages: list[dict[str, Any]], dataset: str) -> str:
        self.heard.append([item["content"] for item in messages])
        if messages[-1]["content"] == "third":
            raise TimeoutError("late")
        return f"re: {messages[-1]['content']}"


def test_a_conversation_is_answered_as_a_whole_or_not_at_all() -> None:
    talker = Talker()
    told = [{"role": "user", "content": text} for text in ("first", "?", "second", "?", "third", "?")]
    assert converse(talker, told[:4], "d") == ["re: first", "re: second"]
    assert talker.heard[-1] == ["first", "re: first", "second"], "it hears its own answers"
    with pytest.raises(TimeoutError):
        converse(talker, told, "d")


ANSWERS = ["=1+1", "None", "NA", "42", "x" * 40_000, "http://a.b/c", "a\r\nb\x01c", "plain", ""]


def test_excel_loses_nothing_of_an_answer(tmp_path: Path) -> None:
    files = Files(tmp_path, "m", "d")
    files.folder.mkdir()
    files.keep_long({str(number): text for number, text in enumerate(ANSWERS)})
    table = pandas.DataFrame({"index": range(len(ANSWERS)), "prediction": ANSWERS})
    whole_writes(None)(table, str(files.predictions))
    read = pandas.read_excel(files.predictions)
    assert list(read["prediction"]) != ANSWERS
    assert list(files.with_texts(read)["prediction"]) == ANSWERS


def test_an_empty_answer_is_one_also_where_there_is_no_other(tmp_path: Path) -> None:
    files = Files(tmp_path, "m", "d")
    files.folder.mkdir()
    rows = pandas.DataFrame({"index": [1, 2], "question": ["a", "b"]})
    failures = Failures(str(tmp_path / "failures.jsonl"), "cause")
    answers = Answers(files, SimpleNamespace(data=rows), None, failures, pandas.read_excel, whole_writes(None))
    journal = Journal(files)
    for index in (1, 2):
        journal.add(index, "")
    answers.clean()
    assert answers.texts() == {"1": "", "2": ""}
    assert answers.answered() == {"1", "2"}
    assert answers.to_ask() == []


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


class TestReport:
    ROWS = pandas.DataFrame({"index": range(4), "split": ["a", "a", "a", "b"], "problem_version": ["x", "x", "y", "y"]})

    def test_a_line_for_each_part(self) -> None:
        table = pandas.DataFrame({"Task&Skill": ["Overall", "sum"], "tot": [4, 2], "hit": [3, 1], "acc": [75.0, 50.0]})
        whole, part = figures("MathVista_MINI", table, self.ROWS)
        assert (whole.value, whole.samples, whole.primary, whole.part) == (0.75, 4, True, {})
        assert (part.value, part.samples, part.part) == (0.5, 2, {"part": "sum"})

    def test_splits_weigh_what_they_hold(self) -> None:
        table = pandas.DataFrame({"split": ["a", "b"], "Overall": [1 / 3, 1.0]})
        found = figures("custom", table, self.ROWS)
        assert found[0].primary
        assert found[0].value == pytest.approx(0.5)
        assert [(item.part, item.samples) for item in found[1:]] == [({"split": "a"}, 3), ({"split": "b"}, 1)]
        table = pandas.DataFrame({"split": ["x", "y"], "Overall": [100.0, 50.0]})
        assert figures("MathVerse_MINI", table, self.ROWS)[0].value == pytest.approx(0.75)

    def test_dynamaths_average_is_the_headline(self) -> None:
        table = pandas.DataFrame({"Setting": ["Worst Case", "Average"], "Overall": [0.1, 0.4]})
        assert figures("DynaMath", table, self.ROWS)[0].value == 0.4

    def test_a_dict_of_any_shape(self) -> None:
        found = figures("OCRBench", {"Text": 3, "deep": {"a": [2]}, "Final Score": 7, "name": "x"}, self.ROWS)
        assert {tuple(item.part.values()): item.value for item in found} == {
            ("Final Score",): 7,
            ("Text",): 3,
            ("deep/a",): 2,
        }
        assert found[0].value == 7

    def test_lines_of_any_shape_have_names_of_their_own(self, tmp_path: Path) -> None:
        rows = [{"set": name, "Creativity": 1, "Overall Score": score} for name, score in (("all", 2), ("valid", 3))]
        found = figures("MMDU", pandas.DataFrame(rows), self.ROWS)
        assert (found[0].part, found[0].value) == ({"part": "all/Overall Score"}, 2)
        nameless = figures("other", pandas.DataFrame([{"a": 1}, {"a": 2}]), self.ROWS)
        for number, item in enumerate((found, nameless)):
            path = tmp_path / f"{number}.json"
            write(path, dataset="d", model="m", found=item, scored=4, requested=4, judge=None, fallbacks={})
            report = Report.from_json(str(path))
            assert len(report.metrics) == len(item)
            assert report.num == 4, "the headline stands on all that was scored"

    def test_evalscope_reads_it(self, tmp_path: Path) -> None:
        table = pandas.DataFrame({"split": ["none"], "Overall": [0.5], "logic": [1.0]})
        path = tmp_path / "reports" / "m" / "d.json"
        write(
            path, dataset="d", model="m", found=figures("d", table, self.ROWS), scored=4, requested=6, judge="j",
            fallbacks={"connection": 2},
        )  # fmt: skip
        report = Report.from_json(str(path))
        assert (report.score, report.num) == (0.5, 4)
        assert report.execution_summary is not None
        assert report.execution_summary.incomplete
        assert report.judge_summary is not None
        assert (report.judge_summary.status.value, report.judge_summary.judge_models) == ("degraded", ["j"])


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


def test_tls_is_what_it_was_when_vlmevalkit_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the whole process from looking at certificates."""
    package = tmp_path / "vlmeval"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "run.py").write_text("import ssl\nssl._create_default_https_context = ssl._create_unverified_context\n")
    (package / "dataset.py").write_text("SUPPORTED_DATASETS = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("vlmeval", "vlmeval.run", "vlmeval.dataset"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("retry_only_what_is_transient", "give_latex_comparison"):
        monkeypatch.setattr(worker, name, lambda: None)
    monkeypatch.setattr(worker.VLMEvalKitWorker, "_patch", lambda self: None)
    verified = ssl._create_default_https_context
    request = StartTask("", ["infer"], {"work_dir": str(tmp_path)}, str(tmp_path / "failures.jsonl"), "")
    request = dataclasses.replace(request, settings={"model": "m", "datasets": []})
    worker.VLMEvalKitWorker(request, cast(Any, SimpleNamespace(emit=print))).prepare()
    assert "vlmeval.run" in sys.modules
    assert ssl._create_default_https_context is verified
    for name in ("vlmeval", "vlmeval.run", "vlmeval.dataset"):
        monkeypatch.delitem(sys.modules, name)
