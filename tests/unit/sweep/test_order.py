"""The order of jobs: a short makespan, on schedules small enough to be tried one by one."""

import random
from itertools import permutations

import pytest

from evalscope_evalflow.sweep.order import Part, best_order, makespan, startable

TWO = ("0", "1")


def parts(*engine_s, devices=TWO, needs=1, judge_s=0.0):
    return [Part(devices, needs, seconds, judge_s) for seconds in engine_s]


def test_jobs_on_one_device_follow_each_other():
    assert makespan(parts(10, 20, 30, devices=("0",)), [0, 1, 2]) == 60


def test_jobs_share_two_devices():
    assert makespan(parts(30, 10, 20), [0, 1, 2]) == 30


def test_the_longest_is_begun_first():
    """In the order of the task, the long one would begin when the others are over."""
    jobs = parts(10, 10, 10, 30)
    assert makespan(jobs, [0, 1, 2, 3]) == 40
    order = best_order(jobs)
    assert order.makespan_s == 30
    assert order.jobs[0] == 3


def test_judging_goes_on_beside_the_next_model():
    jobs = [Part(("0",), 1, 10.0, 30.0), Part(("0",), 1, 10.0, 5.0)]
    assert makespan(jobs, [0, 1]) == 45
    assert makespan(jobs, [1, 0]) == 50
    assert makespan(jobs, [1, 0], judges=2) == 50
    assert makespan(jobs, [0, 1], judges=2) == 40
    assert best_order(jobs).jobs == (0, 1)


def test_a_large_model_is_overtaken_or_not():
    jobs = [Part(TWO, 1, 10.0, 0.0), Part(TWO, 2, 10.0, 0.0), Part(TWO, 1, 30.0, 0.0)]
    assert [number for number, _ in startable(jobs, [1, 0, 2], {"0"}, strict=False)] == [0]
    assert startable(jobs, [1, 0, 2], {"0"}, strict=True) == []
    assert makespan(jobs, [0, 1, 2], strict=False) == 40
    assert makespan(jobs, [0, 1, 2], strict=True) == 50


def test_devices_that_a_job_may_not_have_are_left_to_others():
    jobs = [Part(("0",), 1, 10.0, 0.0), Part(("0",), 1, 10.0, 0.0), Part(("1",), 1, 10.0, 0.0)]
    assert startable(jobs, [0, 1, 2], {"0", "1"}, strict=True) == [(0, ("0",)), (2, ("1",))]


def test_what_can_never_begin_has_no_end():
    assert makespan([Part(("0",), 2, 1.0, 0.0)], [0]) == float("inf")


@pytest.mark.parametrize("seed", range(20))
def test_it_is_as_good_as_the_best_of_all_orders(seed):
    chance = random.Random(seed)
    names = ("0", "1", "2", "3")
    jobs = [Part(names, chance.choice((1, 1, 2, 4)), chance.uniform(10, 100), chance.uniform(0, 20)) for _ in range(6)]
    best = min(makespan(jobs, order, strict=strict) for order in permutations(range(6)) for strict in (False, True))
    found = best_order(jobs)
    assert found.makespan_s == makespan(jobs, found.jobs, strict=found.strict)
    assert found.makespan_s <= best * 1.01
    assert best_order(jobs) == found


def test_a_thousand_jobs_are_put_into_an_order_quickly():
    chance = random.Random(0)
    jobs = parts(*(chance.uniform(1, 100) for _ in range(1000)), devices=tuple(map(str, range(8))))
    order = best_order(jobs)
    assert sorted(order.jobs) == list(range(1000))
    assert order.makespan_s < sum(job.engine_s for job in jobs) / 8 * 1.02
