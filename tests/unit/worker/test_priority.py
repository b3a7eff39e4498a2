"""The worker's priority while the engine loads."""

import os
import resource
import subprocess
import sys

import pytest

from evalscope_evalflow.worker import priority

SHOW = """
import os, threading
from evalscope_evalflow.worker.priority import give_way
before = os.getpriority(os.PRIO_PROCESS, 0)
restore = give_way()
lowered = os.getpriority(os.PRIO_PROCESS, 0) - before
up, over, seen = threading.Event(), threading.Event(), []
def work():
    up.set()
    over.wait()
    seen.append(os.getpriority(os.PRIO_PROCESS, 0) - before)
thread = threading.Thread(target=work)
thread.start()
up.wait()
restore()
over.set()
thread.join()
print(lowered, os.getpriority(os.PRIO_PROCESS, 0) - before, *seen)
"""


def show(**options):
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, **options)
    return [int(word) for word in done.stdout.split()]


def test_it_gives_way_and_comes_back_with_all_its_threads():
    lowered, main, thread = show()
    assert lowered in (0, priority.LOWER_BY)  # 0 where it could not come back
    assert (main, thread) == (0, 0)


def test_what_could_not_come_back_is_left_alone(monkeypatch):
    """As for a user without privileges."""
    monkeypatch.setattr(priority, "_CAP_SYS_NICE", 63)  # no such capability
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    before = os.getpriority(os.PRIO_PROCESS, 0)
    priority.give_way()()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.parametrize(("limit", "allowed"), [(0, False), (19, False), (20, True), (40, True)])
def test_the_limit_of_a_user(monkeypatch, limit, allowed):
    """20 - RLIMIT_NICE is the highest priority that it may have (getrlimit(2))."""
    monkeypatch.setattr(priority, "_CAP_SYS_NICE", 63)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert priority._may_have(0) is allowed
