"""What is read in one pass is read once, and outside of one each time."""

import pytest

from evalscope_evalflow.config import one_pass as passes
from evalscope_evalflow.config.one_pass import one_pass, remembered


@pytest.fixture
def reads():
    return []


def read(reads, value):
    return remembered(("value", value), lambda: reads.append(value) or value)


def test_outside_of_a_pass_everything_is_read_anew(reads):
    assert [read(reads, 1), read(reads, 1)] == [1, 1]
    assert reads == [1, 1]


def test_in_a_pass_the_same_is_read_once_and_one_inside_belongs_to_it(reads):
    with one_pass():
        read(reads, 1)
        with one_pass():
            assert read(reads, 1) == 1
            assert read(reads, 2) == 2
        assert read(reads, 2) == 2
    assert reads == [1, 2]
    read(reads, 1)
    assert reads == [1, 2, 1]


def test_an_error_is_not_remembered():
    with one_pass():
        with pytest.raises(ZeroDivisionError):
            remembered("key", lambda: 1 // 0)
        assert remembered("key", lambda: 5) == 5


def test_memory_stays_flat(monkeypatch, reads):
    monkeypatch.setattr(passes, "MOST_REMEMBERED", 3)
    with one_pass():
        for value in (1, 2, 3, 4, 1, 4):
            assert read(reads, value) == value
    assert reads == [1, 2, 3, 4, 1]
