"""JSON-lines files are written in whole lines, whatever a kill or a full disk has left at their ends."""

import errno
import os

import pytest

from evalscope_evalflow.events import json_lines
from evalscope_evalflow.events.json_lines import FileError, append, objects_in

LINE = '{"a": 1}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", LINE),
        (LINE, LINE + LINE),
        (LINE + '{"b": "torn ', LINE + LINE),
        ('{"b": "torn ', LINE),
        (LINE + '{"b": 2}', LINE + '{"b": 2}\n' + LINE),
        (LINE + "x" * 200_000, LINE + LINE),
    ],
)
def test_half_a_line_does_not_swallow_the_next(tmp_path, before, after):
    file = tmp_path / "rows.jsonl"
    file.write_text(before)
    append(file, LINE)
    assert file.read_text() == after


def test_a_file_that_is_not_there_is_made(tmp_path):
    append(tmp_path / "rows.jsonl", LINE)
    assert list(objects_in(tmp_path / "rows.jsonl")) == [{"a": 1}]


@pytest.mark.parametrize("given", [0, 3])
def test_what_is_written_half_is_cut_off_again(tmp_path, monkeypatch, given):
    file, write = tmp_path / "rows.jsonl", os.write
    file.write_text(LINE)
    left = [given]

    def write_some(fd, data):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done, left[0] = write(fd, data[: left[0]]), 0
        return done

    monkeypatch.setattr(json_lines.os, "write", write_some)
    with pytest.raises(FileError) as caught:
        append(file, LINE)
    assert caught.value.filename == str(file)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert file.read_text() == LINE


def test_what_a_file_cannot_hold_names_it(tmp_path):
    with pytest.raises(FileError, match=str(tmp_path)):
        append(tmp_path, LINE)
