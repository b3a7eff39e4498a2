import errno
import fcntl
import os
import platform

import pytest
from filelock import FileLock, Timeout

from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.processes import ports
from evalscope_evalflow.run.folder_lock import refuse_by_record
from evalscope_evalflow.state import record


def test_a_lock_is_held_and_given_back(tmp_path):
    with locked(tmp_path / "x.lock", 0) as held:
        assert held
        with pytest.raises(Timeout), locked(tmp_path / "x.lock", 0):
            pass
    with FileLock(tmp_path / "x.lock", timeout=0):
        pass


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request, monkeypatch):
    """A file system whose `flock` says that there is no such thing."""

    def flock(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_without_locks_the_block_is_entered_all_the_same(no_locks, tmp_path):
    with locked(tmp_path / "x.lock", 0) as held:
        assert not held
    lease = ports.lease("127.0.0.1", None)
    assert lease.port
    lease.release()


def test_without_locks_the_record_tells_whose_a_folder_is(tmp_path, monkeypatch):
    record.Record(tmp_path, "run-1")
    refuse_by_record(tmp_path)  # our own
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(Timeout):
        refuse_by_record(tmp_path)
    monkeypatch.setattr(platform, "node", lambda: "another")
    refuse_by_record(tmp_path)
