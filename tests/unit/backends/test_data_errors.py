"""Errors that data causes in mid-run name the dataset, the file and the row."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from evalscope.api.dataset import loader
from evalscope.api.messages import ChatMessageUser, ContentImage, ContentText

from evalscope_evalflow.backends.native.native_data import (
    DataError,
    DataErrors,
    is_half_a_character,
    missing_files,
)
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_data
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_answers import Answers
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files
from evalscope_evalflow.worker.request_failures import Failures


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """EvalScope's own loader on a file, as the worker watches it; what it says."""
    names = ("jsonl_to_list", "csv_to_list", "tsv_to_list", "parquet_to_list", "data_to_samples")
    for name in names:
        monkeypatch.setattr(loader, name, getattr(loader, name))
    monkeypatch.setattr(loader.LocalDataLoader, "load", loader.LocalDataLoader.load)
    errors = DataErrors()
    errors.watch()

    def load(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content)

        def to_sample(record: dict[str, Any]) -> Any:
            from evalscope.api.dataset import Sample

            return Sample(input=record["question"], target=record["answer"])

        with pytest.raises(DataError) as caught:
            loader.LocalDataLoader(str(path), split="test", sample_fields=to_sample).load()
        return str(errors.named("mine", caught.value)).replace(f"{tmp_path}/", "")

    return load


def test_a_broken_line(load: Any) -> None:
    content = b'{"question": "q", "answer": "a"}\n{"question": oops\n'
    assert load("t.jsonl", content).startswith("mine, t.jsonl:2: JSONDecodeError: Expecting value")


def test_a_line_in_another_encoding(load: Any) -> None:
    content = "question,answer\nq,a\n\u9996\u90fd,a\n".encode("gbk")
    assert load("t.csv", content).startswith("mine, t.csv:3: UnicodeDecodeError: 'utf-8' codec can't decode")


def test_a_row_that_lacks_a_column(load: Any) -> None:
    content = b'{"question": "q", "answer": "a"}\n{"question": "q"}\n'
    assert load("t.jsonl", content) == "mine, t.jsonl, row 2: it has no 'answer'"


def test_a_row_of_the_wrong_kind(load: Any) -> None:
    assert load("t.jsonl", b'{"question": "q", "answer": 4}\n').startswith(
        "mine, t.jsonl, row 1: ValidationError: 2 validation errors for Sample"
    )


def test_where_a_sample_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evalscope.api.dataset import Sample

    for name in ("jsonl_to_list", "data_to_samples"):
        monkeypatch.setattr(loader, name, getattr(loader, name))
    monkeypatch.setattr(loader.LocalDataLoader, "load", loader.LocalDataLoader.load)
    errors = DataErrors()
    errors.watch()
    (tmp_path / "t.jsonl").write_text('{"q": "a"}\n{"q": "b"}\n')
    for shuffle, said in ((False, f"{tmp_path}/t.jsonl, row 2: "), (True, f"{tmp_path}/t.jsonl: ")):
        errors.begin()
        assert errors.row("t", 3) == ""
        options = {"sample_fields": lambda record: Sample(input=record["q"]), "repeats": 2, "shuffle": shuffle}
        samples = loader.LocalDataLoader(str(tmp_path), split="test", subset="t", **options).load()
        assert errors.row("t", samples[3].id) == said


def test_any_other_error_has_the_datasets_name() -> None:
    assert str(DataErrors().named("gsm8k", KeyError("x"))) == "gsm8k: KeyError: 'x'"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    there = tmp_path / "a.png"
    there.touch()
    images = [str(there), "https://example.org/a.png", "data:image/png;base64,AA==", str(tmp_path / "b.png")]
    content = [ContentText(text="q"), *(ContentImage(image=image) for image in images)]
    assert missing_files([ChatMessageUser(content="q"), ChatMessageUser(content=content)]) == [images[-1]]
    assert missing_files("q") == []


def test_half_a_character_is_found_behind_other_errors() -> None:
    error = ConnectionError("Connection error.")
    error.__cause__ = UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed")
    assert is_half_a_character(error)
    assert not is_half_a_character(ConnectionError())


class TestVLMEvalKit:
    def test_a_prompt_that_cannot_be_made(self) -> None:
        def build(line: Any) -> Any:
            if not line["image"]:
                raise AssertionError

        made = vlmevalkit_data.naming_rows(build, Path("/data/x.tsv"), {"a": 0, "b": 1})
        made({"index": "a", "image": "…"})
        with pytest.raises(
            vlmevalkit_data.DataError, match=r"^/data/x\.tsv, row 2 \(index b\): it did not expect a row"
        ):
            made({"index": "b", "image": ""})
        with pytest.raises(vlmevalkit_data.DataError, match=r"^/data/x\.tsv, row 4: TypeError"):
            made(3)

    def test_a_picture_that_vlmevalkit_does_not_expect(self, tmp_path: Path) -> None:
        file = tmp_path / "x.tsv"
        long = "A" * 65
        file.write_text(f"index\tquestion\timage\n7\tq\t{long}\n8\tq\t7\n9\tq\t\n10\tq\tno\n")
        assert vlmevalkit_data.row_without_picture(file) == ", row 4 (index 10)"
        file.write_text(f"index\tquestion\timage\n7\tq\t{long}\n8\tq\t7\n")
        assert vlmevalkit_data.row_without_picture(file) == ""
        file.write_text("question\nq\n")
        assert vlmevalkit_data.row_without_picture(file) == ""

    def test_an_index_that_two_rows_have(self) -> None:
        data = pandas.DataFrame({"index": [1, 2, 1]})
        with pytest.raises(vlmevalkit_data.DataError, match=r"mine, /x\.tsv: several rows have the index 1"):
            vlmevalkit_data._check_indexes("mine", Path("/x.tsv"), data)
        vlmevalkit_data._check_indexes("mine", Path("/x.tsv"), data[:2])

    def test_pictures_that_are_older_than_the_file_are_written_anew(self, tmp_path: Path) -> None:
        """VLMEvalKit takes whatever lies in its folder for the picture of the row."""
        for name in ("1.jpg", "2.jpg", "3_0.png"):
            (tmp_path / name).write_text("old")
            os.utime(tmp_path / name, ns=(5, 5 if name != "2.jpg" else 20))
        data = pandas.DataFrame({"index": [1, 2, 3, 4], "image": ["one", "two", ["three"], "four"]})
        vlmevalkit_data.renew_pictures(data, tmp_path, 10, lambda text, path: Path(path).write_text(text))
        found = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert found == {"1.jpg": "one", "2.jpg": "old", "3_0.png": "three"}

    def test_pictures_of_the_users_own_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "1.jpg").write_text("old")
        data = pandas.DataFrame({"index": [1], "image": ["one"], "image_path": ["1.jpg"]})
        vlmevalkit_data.renew_pictures(data, tmp_path, 2**62, lambda text, path: Path(path).write_text(text))
        assert (tmp_path / "1.jpg").read_text() == "old"

    def test_a_missing_picture_is_asked_for_again_when_it_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "0.png"
        message = [{"type": "image", "value": str(path)}, {"type": "text", "value": "q"}]
        assert vlmevalkit_data.missing_pictures(message) == [str(path)]
        dataset = SimpleNamespace(data=pandas.DataFrame({"index": [1]}))
        failures = Failures(str(tmp_path / "failures.jsonl"), "task")
        answers = Answers(Files(tmp_path, "m", "d"), dataset, None, failures, json.loads, json.dumps)
        before = answers.cause(message)
        path.touch()
        assert vlmevalkit_data.missing_pictures(message) == []
        assert answers.cause(message) != before
