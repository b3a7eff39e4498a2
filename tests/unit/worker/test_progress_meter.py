"""What a worker reports of its progress: counts that include what was saved, rates that do not, and honest time."""

import time

import pytest

from evalscope_evalflow.events.base import parse
from evalscope_evalflow.worker.progress_meter import FIRST_RATE, ProgressMeter


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Watched:
    """A meter whose time a test tells, and what it has reported."""

    def __init__(self, *datasets):
        self.clock, self.events = Clock(), []
        self.meter = ProgressMeter(self.events.append, datasets or ("d",), clock=self.clock, every_s=0)

    def begin(self, total=100, saved=0, dataset="d", judging=False):
        self.meter.begin(dataset, judging=judging, total=total, saved=saved)

    def answer(self, number=1, seconds=1.0, tokens=10):
        """Answers, one after the other, each of which takes so long."""
        for _ in range(number):
            with self.meter.request() as came:
                self.clock.now += seconds
                came(3, tokens)
            self.meter.sample()
            self.meter.report()
        return self.events[-1]


def test_what_was_saved_counts_for_how_far_it_is_and_not_for_how_fast():
    watched = Watched()
    watched.begin(total=100, saved=60)
    assert (watched.events[0].done, watched.events[0].total, watched.events[0].new) == (60, 100, 0)
    last = watched.answer(10)
    assert (last.done, last.new, last.answers_per_s, last.output_tokens_per_s, last.left_s) == (70, 10, 1.0, 10.0, 30.0)
    assert (last.input_tokens, last.output_tokens, last.busy_s) == (30, 100, 10.0)


def test_before_there_is_a_rate_no_time_is_told():
    watched = Watched()
    watched.begin()
    early = watched.answer(FIRST_RATE - 1)
    assert (early.answers_per_s, early.output_tokens_per_s, early.left_s) == (None, None, None)
    assert watched.answer().left_s == 95.0


def test_an_engine_that_is_waited_for_is_no_part_of_the_rate():
    watched = Watched()
    watched.begin()
    watched.clock.now += 300
    last = watched.answer(10)
    assert (last.answers_per_s, last.busy_s) == (1.0, 10.0)


def test_the_rate_is_the_recent_one():
    watched = Watched()
    watched.begin(total=1000)
    watched.answer(100, seconds=1.0)
    last = watched.answer(40, seconds=4.0)
    assert last.answers_per_s == 0.25
    assert last.left_s == pytest.approx((1000 - 140) / 0.25, rel=0.01)


@pytest.mark.parametrize("answers", [8, 30])
def test_where_nothing_comes_any_more_no_rate_and_no_time_is_told(answers):
    watched = Watched()
    watched.begin()
    watched.answer(answers)
    for seconds in range(1, 400):
        watched.clock.now += 1
        watched.meter.report()
        told = watched.events[-1].answers_per_s, watched.events[-1].output_tokens_per_s, watched.events[-1].left_s
        assert (None in told) == (seconds > 30), seconds
    assert watched.answer(1).left_s is not None, "it goes on"


def test_slow_answers_that_come_as_before_have_a_rate():
    watched = Watched()
    watched.begin()
    last = watched.answer(6, seconds=120)
    assert last.left_s == pytest.approx(94 * 120, rel=0.01)
    watched.clock.now += 200
    watched.meter.report()
    assert watched.events[-1].left_s is not None
    watched.clock.now += 100
    watched.meter.report()
    assert watched.events[-1].left_s is None


def test_samples_that_fail_are_not_answered_and_are_not_waited_for():
    watched = Watched()
    watched.begin(total=20)
    watched.answer(10)
    for _ in range(10):
        watched.clock.now += 1
        watched.meter.sample(failed=True)
    watched.meter.report()
    last = watched.events[-1]
    assert (last.done, last.failed, last.left_s) == (10, 10, 0.0)


def test_time_counts_as_busy_while_a_request_is_on_its_way_be_it_one_or_many():
    watched = Watched()
    watched.begin()
    with watched.meter.request():
        watched.clock.now += 2
        with watched.meter.request():
            watched.clock.now += 3
    watched.clock.now += 10
    watched.meter.end()
    assert (watched.events[-1].busy_s, watched.events[-1].ended) == (5.0, True)


def test_where_nobody_knows_how_many_there_are_requests_are_counted():
    watched = Watched()
    watched.begin(total=None)
    with watched.meter.request() as came:
        came(1, 1)
    watched.meter.report()
    assert (watched.events[-1].done, watched.events[-1].total, watched.events[-1].left_s) == (1, None, None)


def test_each_dataset_is_counted_by_itself_and_says_which_it_is():
    watched = Watched("a", "b")
    watched.begin(dataset="a")
    watched.answer(3)
    watched.meter.end()
    watched.begin(dataset="b", judging=True)
    last = watched.events[-1]
    assert (last.dataset, last.number, last.datasets, last.done, last.judging) == ("b", 2, 2, 0, True)
    assert watched.meter.is_judging
    watched.meter.end()
    watched.meter.end()
    assert [event.ended for event in watched.events].count(True) == 2


def test_a_report_survives_the_channel():
    watched = Watched()
    watched.begin()
    assert parse(watched.answer(6).as_dict()) == watched.events[-1]


def test_it_costs_less_than_a_hundredth_of_a_core():
    """A thousand answers, and a report on each, take less than what 1 % of a core has for a thousand reports."""
    watched = Watched()
    watched.begin(total=10_000)
    began = time.process_time()
    watched.answer(1000)
    assert (time.process_time() - began) / 1000 < 0.01
