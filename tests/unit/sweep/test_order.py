"""The order of jobs: a short makespan, on schedules small enough to be tried one by one."""

import random
from itertools import permutations

import pytest

from evalscope_evalflow.sweep.order import Order, Part, best_order, heir, startable, turns
from evalscope_evalflow.sweep.order import makespan as makespan_of

TWO = ("0", "1")


def makespan(parts, jobs, judges=1, strict=False):
    return makespan_of(parts, Order(tuple(jobs), strict), judges)


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


def member(engine_s, heir_s=None, devices=TWO, group="family"):
    return Part(devices, 1, engine_s, 0.0, group, engine_s - 9 if heir_s is None else heir_s)


def test_an_engine_goes_on_to_the_next_of_its_group():
    jobs = [member(10, devices=("0",)) for _ in range(4)]
    order = best_order(jobs)
    assert order.makespan_s == 10 + 3 * 1
    found = turns(jobs, order)
    assert [turn.engine_of for turn in found] == [None, *(turn.job for turn in found[:-1])]


def test_a_family_stays_together_only_where_that_ends_earlier():
    """Two families on two devices: each has its own. One that another job would have to wait for goes on elsewhere."""
    jobs = [member(10, group=group) for group in "abababab"]
    order = best_order(jobs)
    assert order.makespan_s == 13
    assert {len({jobs[turn.job].group for turn in turns(jobs, order) if turn.devices == (name,)}) for name in TWO} == {
        1
    }
    long = [member(30, 28), member(30, 28), Part(TWO, 1, 40.0)]
    assert best_order(long).makespan_s == 58


def test_an_heir_has_the_same_number_of_devices_and_may_use_these():
    jobs = [member(10), Part(TWO, 2, 10.0, 0.0, "family", 1.0), member(10, devices=("1",)), member(10)]
    order = Order((0, 1, 2, 3), together=True)
    assert heir(jobs, [1, 2, 3], set(), 0, ("0",), order) == 3
    assert heir(jobs, [1, 2], set(), 0, ("0",), order) is None
    assert heir([Part(TWO, 1, 1.0), Part(TWO, 1, 1.0)], [1], set(), 0, ("0",), order) is None


def test_without_together_the_order_decides():
    jobs = [member(10), Part(TWO, 1, 50.0), member(10)]
    assert heir(jobs, [1, 2], set(), 0, ("0",), Order((0, 1, 2))) is None
    assert heir(jobs, [1, 2], set(), 0, ("0",), Order((0, 1, 2), together=True)) == 2
    assert heir(jobs, [2, 1], set(), 0, ("0",), Order((0, 2, 1))) == 2
