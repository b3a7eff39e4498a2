"""Files of the next model, read ahead."""

import mmap
import os
import threading

import pytest

from evalscope_evalflow.sweep import prefetch
from evalscope_evalflow.sweep.prefetch import Prefetch, in_memory, room_bytes

SIZE = 9 * 2**20


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "BLOCK_BYTES", 4 * 2**20)
    monkeypatch.setattr(prefetch, "in_memory", lambda file: False)
    found = [tmp_path / "a", tmp_path / "b"]
    for file in found:
        file.write_bytes(os.urandom(SIZE))
    return found


def test_all_is_read(files):
    found = Prefetch(files).wait(60)
    assert found.bytes == 2 * SIZE
    assert found.why_not == ""


def test_no_more_than_there_is_room_for(files, monkeypatch):
    rooms = iter([10**9, 10**9, 10**9, 1])
    monkeypatch.setattr(prefetch, "room_bytes", lambda: next(rooms))
    found = Prefetch(files).wait(60)
    assert (found.bytes, found.why_not) == (8 * 2**20, "memory is short")


def test_it_stops_at_once(files, monkeypatch):
    reading = Prefetch.__new__(Prefetch)
    asked = []

    def room():
        asked.append(1)
        if len(asked) == 2:  # before the first block; it is asked before the first file, too
            reading._stop.set()
        return 10**9

    monkeypatch.setattr(prefetch, "room_bytes", room)
    reading._files, reading._stop, reading._found = files, threading.Event(), None
    reading._work()
    assert (reading._found.bytes, reading._found.why_not) == (4 * 2**20, "it was stopped")


def test_what_is_in_memory_is_left(files, monkeypatch):
    monkeypatch.setattr(prefetch, "in_memory", lambda file: True)
    found = Prefetch(files).wait(60)
    assert found.bytes == 0
    assert "in memory already" in found.why_not


def test_a_file_that_is_gone(files):
    files[0].unlink()
    assert "cannot be read" in Prefetch(files).wait(60).why_not


def test_this_machine():
    assert room_bytes() >= 0
    assert in_memory(prefetch.Path("/dev/shm/x")) == os.path.ismount("/dev/shm")
    assert mmap.PAGESIZE < prefetch.BLOCK_BYTES


def test_a_checkpoint_that_does_not_fit_is_left(files, monkeypatch):
    monkeypatch.setattr(prefetch, "room_bytes", lambda: 2 * SIZE - 1)
    found = Prefetch(files).wait(60)
    assert (found.bytes, found.why_not) == (0, "memory is short")
