"""One judge for several models: never more at once than it takes, nobody forgotten."""

import threading

import pytest

from evalscope_evalflow.errors import Stopped
from evalscope_evalflow.sweep.judge_limit import JudgeBudget


def go_on():
    pass


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_one_gets_what_it_needs():
    budget = JudgeBudget(8)
    with budget.share(3, go_on) as mine:
        assert mine == 3
        with budget.share(100, go_on) as others:
            assert others == 5


def test_who_asks_no_judge_waits_for_nobody():
    budget = JudgeBudget(1)
    with budget.share(1, go_on), budget.share(0, go_on) as mine:
        assert mine is None


def test_a_second_one_waits_until_there_is_a_quarter():
    budget = JudgeBudget(8)
    got, begun = [], threading.Event()

    def second():
        begun.set()
        with budget.share(4, go_on) as mine:
            got.append(mine)

    with budget.share(7, go_on) as mine:
        assert mine == 7
        thread = in_thread(second)
        begun.wait(5)
        thread.join(0.2)
        assert got == []
    thread.join(5)
    assert got == [4]


def test_there_are_never_more_at_once_than_it_takes():
    budget = JudgeBudget(10)
    lock, now, most = threading.Lock(), [0], [0]

    def model():
        with budget.share(4, go_on) as mine:
            with lock:
                now[0] += mine
                most[0] = max(most[0], now[0])
            threading.Event().wait(0.01)
            with lock:
                now[0] -= mine

    threads = [in_thread(model) for _ in range(12)]
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert 0 < most[0] <= 10


def test_who_is_cancelled_while_it_waits_leaves_the_queue():
    budget = JudgeBudget(2)
    stop, ended = threading.Event(), threading.Event()

    def check():
        if stop.is_set():
            raise Stopped("no")

    def second():
        with pytest.raises(Stopped), budget.share(2, check):
            pass
        ended.set()

    with budget.share(2, go_on):
        thread = in_thread(second)
        thread.join(0.1)
        stop.set()
        budget.wake()
        assert ended.wait(5)
    with budget.share(2, go_on) as mine:
        assert mine == 2
