"""Leases on an engine: who holds one, whom its end is reported to, and what share of its devices each has had."""

import pytest

from evalscope_evalflow.serving import leases as module
from evalscope_evalflow.serving.leases import Leases


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: a list with the present time."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_one_run_has_all_its_devices(clock):
    leases = Leases()
    leases.use_devices(4)
    lease = leases.take("m", "run-1")
    clock[0] += 10
    assert leases.give_back(lease)
    clock[0] += 10
    leases.give_back(lease)
    assert (lease.taken, lease.returned, lease.device_s) == (100, 110, 40)


def test_what_is_used_together_is_split_evenly(clock):
    leases = Leases()
    leases.use_devices(2)
    first = leases.take("base", "run-1")
    clock[0] += 10
    second = leases.take("adapter", "run-2")
    clock[0] += 10
    assert not leases.give_back(first)
    clock[0] += 10
    assert leases.give_back(second)
    assert (first.device_s, second.device_s) == (30, 30)
    assert first.device_s + second.device_s == 30 * 2
    assert leases.held == []


def test_an_engine_without_devices_counts_as_one(clock):
    leases = Leases()
    leases.use_devices(0)
    lease = leases.take("m", "run-1")
    clock[0] += 5
    leases.give_back_all()
    assert lease.device_s == 5


def test_its_end_is_reported_to_every_holder_once():
    leases, told = Leases(), []
    leases.take("m", "run-1", lambda: told.append(1))
    over = leases.take("m", "run-2", lambda: told.append(2))
    leases.take("m", "run-3")
    leases.take("m", "run-4", lambda: told.append(4))
    leases.give_back(over)
    leases.notify_exit()
    leases.notify_exit()
    assert told == [1, 4]
