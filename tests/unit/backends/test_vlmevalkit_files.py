"""VLMEvalKit's files and the journal of answers beside them; without VLMEvalKit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_answers import Answers
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_backend import VLMEvalKit
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import converse
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_data import DataError, check_same_version
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files, Journal, whole_writes
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.worker.request_failures import Failures


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
