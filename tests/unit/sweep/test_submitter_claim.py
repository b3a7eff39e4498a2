"""One submitting process for a folder: claims of this host and of others, of the living and of the dead."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.processes.registry import ProcessId
from evalscope_evalflow.sweep.cluster import submitter_claim
from evalscope_evalflow.sweep.cluster.submitter_claim import SILENT_S, Submitter, SubmitterClaim, living_submitter

WAIT_S = 20.0


@pytest.fixture
def leave(tmp_path):
    """Leaves a claim as another process would have, so many seconds ago."""

    def leave(age_s=0.0, **other):
        path = tmp_path / "evalflow" / submitter_claim.FILE
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(Submitter.this(), **other))))
        then = time.time() - age_s
        os.utime(path, (then, then))

    return leave


def test_one_at_a_time(tmp_path):
    claim = SubmitterClaim(tmp_path, lambda: None)
    with pytest.raises(ConfigError, match=f"another evalflow follows: PID {os.getpid()}"):
        SubmitterClaim(tmp_path, lambda: None)
    assert living_submitter(tmp_path).pid == os.getpid()
    claim.release()
    assert living_submitter(tmp_path) is None
    SubmitterClaim(tmp_path, lambda: None).release()
    assert list((tmp_path / "evalflow").iterdir()) == []


def test_one_of_this_host_is_dead_as_soon_as_its_process_is(tmp_path, leave):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        leave(pid=other.pid, start=ProcessId.of(other.pid).start, age_s=1000)
        with pytest.raises(ConfigError, match=f"PID {other.pid}"):
            SubmitterClaim(tmp_path, lambda: None)
    SubmitterClaim(tmp_path, lambda: None).release()


def test_a_pid_that_another_process_has_now_is_no_submitter(tmp_path, leave):
    leave(start=1)
    SubmitterClaim(tmp_path, lambda: None).release()


@pytest.mark.parametrize("other", [{"host": "login2"}, {"namespace": "pid:[1]"}])
def test_one_that_cannot_be_looked_at_lives_as_long_as_its_heart_beats(tmp_path, leave, other):
    leave(age_s=SILENT_S / 2, **other)
    with pytest.raises(ConfigError, match="another evalflow follows"):
        SubmitterClaim(tmp_path, lambda: None)
    leave(age_s=SILENT_S + 5, **other)
    SubmitterClaim(tmp_path, lambda: None).release()


def test_after_a_reboot_nobody_lives(tmp_path, leave):
    leave(boot="another")
    SubmitterClaim(tmp_path, lambda: None).release()


def test_a_file_that_says_nothing_is_nobody(tmp_path):
    (tmp_path / "evalflow").mkdir()
    (tmp_path / "evalflow" / submitter_claim.FILE).write_text("")
    SubmitterClaim(tmp_path, lambda: None).release()


def test_of_many_at_once_one_takes_over_from_a_dead_one(tmp_path, leave):
    leave(start=1)
    start, won, refused = threading.Barrier(8), [], []

    def take():
        start.wait(WAIT_S)
        try:
            won.append(SubmitterClaim(tmp_path, lambda: None))
        except ConfigError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert (len(won), len(refused)) == (1, 7)
    won[0].release()


def test_it_beats_and_says_when_another_one_has_taken_it(tmp_path, leave, monkeypatch):
    monkeypatch.setattr(submitter_claim, "BEAT_S", 0.02)
    lost = threading.Event()
    claim = SubmitterClaim(tmp_path, lost.set)
    path = tmp_path / "evalflow" / submitter_claim.FILE
    os.utime(path, (0, 0))
    beat = threading.Event()
    for _ in range(1000):
        if path.stat().st_mtime > 0:
            break
        beat.wait(0.02)
    assert path.stat().st_mtime > 0
    leave(token="another")
    assert lost.wait(WAIT_S)
    claim.release()
    assert json.loads(path.read_text())["token"] == "another"
