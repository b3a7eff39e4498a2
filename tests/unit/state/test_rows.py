"""Rows of JSON-lines files that were never finished."""

import pytest

from evalscope_evalflow.state.rows import end_torn_rows


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "predictions" / "m" / "d_s.jsonl"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1}\n{"b', '{"a": 1}\n'),
        ('{"a": 1}\n{"b": 2}', '{"a": 1}\n{"b": 2}\n'),
        ('{"a', ""),
        ('{"a": 1}\n' + '{"b": "' + "x" * 200_000, '{"a": 1}\n'),
    ],
    ids=["half a row", "no newline", "the only one", "longer than a block"],
)
def test_an_unfinished_row_is_cut_off(file, before, after):
    file.write_text(before)
    assert end_torn_rows([file]) == [file]
    assert file.read_text() == after
    assert end_torn_rows([file]) == []


@pytest.mark.parametrize("text", ["", '{"a": 1}\n'])
def test_whole_files_are_left_alone(file, text):
    file.write_text(text)
    assert end_torn_rows([file]) == []
    assert file.read_text() == text
