"""The order in which jobs begin, so that the last one ends early.

A job has a part on devices and a part at the judge, as in a shop with several machines of one kind and one more behind
them. Jobs are begun in a fixed order, each as soon as there are devices for it. Longest first is the rule; it is
compared with a few others by simulation with the estimated times, and the best of them is improved by moving jobs here
and there (threshold accepting, a simpler form of simulated annealing: Dueck and Scheuer 1990,
https://doi.org/10.1016/0021-9991(90)90201-B).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_JOBS_SEARCHED = 60  # with more jobs, longest first leaves little to gain
MOVES = 20000  # of a job to another place, divided by the number of jobs: a tenth of a second in all
WORSE = 0.05  # share by which a move may lengthen the makespan at first, then less and less: a way out of dead ends
FLIP = 0.1  # share of moves that also change whether a waiting job keeps devices from others


@dataclass(frozen=True)
class Part:
    """What a job takes of the devices and of the judge.

    Attributes:
        devices: the devices that it may be given.
        needs: how many of them it takes.
        engine_s: seconds that its engine holds them.
        judge_s: seconds at the judge, afterwards.
    """

    devices: tuple[str, ...]
    needs: int
    engine_s: float
    judge_s: float = 0.0


@dataclass(frozen=True)
class Order:
    """An order of jobs.

    Attributes:
        jobs: numbers of the jobs, the first to begin first.
        strict: whether a job that waits for devices keeps them from the jobs behind it; if not, they overtake it.
        makespan_s: seconds from the first start to the last end, by the estimates.
    """

    jobs: tuple[int, ...]
    strict: bool
    makespan_s: float


def best_order(parts: Sequence[Part], judges: int = 1) -> Order:
    """An order with a short makespan; the same jobs always get the same one.

    Args:
        parts: the jobs.
        judges: how many jobs can be judged at once, each at its full pace.
    """
    numbers = range(len(parts))
    rules: list[Callable[[Part], tuple[float, float]]] = [
        lambda part: (part.engine_s * part.needs, part.judge_s),
        lambda part: (part.engine_s, part.judge_s),
        lambda part: (part.engine_s + part.judge_s, part.needs),
        lambda part: (part.needs, part.engine_s),
        lambda part: (part.judge_s, part.engine_s),
    ]
    orders = {tuple(sorted(numbers, key=[*map(rule, parts)].__getitem__, reverse=True)): None for rule in rules}
    best = min(
        (Order(jobs, strict, makespan(parts, jobs, judges, strict)) for jobs in orders for strict in (False, True)),
        key=lambda order: order.makespan_s,
    )
    if not 1 < len(parts) <= MOST_JOBS_SEARCHED:
        return best
    chance = random.Random(len(parts))
    here, moves = best, MOVES // max(1, len(parts))
    for move in range(moves):
        jobs = list(here.jobs)
        if chance.random() < 0.5:
            jobs.insert(chance.randrange(len(jobs)), jobs.pop(chance.randrange(len(jobs))))
        else:
            one, other = chance.randrange(len(jobs)), chance.randrange(len(jobs))
            jobs[one], jobs[other] = jobs[other], jobs[one]
        strict = here.strict != (chance.random() < FLIP)
        found = Order(tuple(jobs), strict, makespan(parts, jobs, judges, strict))
        if found.makespan_s <= here.makespan_s * (1 + WORSE * (1 - move / moves)):
            here = found
        if found.makespan_s < best.makespan_s:
            best = found
    return best


def startable(
    parts: Sequence[Part], waiting: Sequence[int], free: set[str], strict: bool
) -> list[tuple[int, tuple[str, ...]]]:
    """The jobs that can begin now, with devices for each.

    Args:
        parts: all jobs.
        waiting: numbers of those that wait, in their order.
        free: devices that no job has.
        strict: as in Order.
    """
    free = set(free)
    found = []
    for number in waiting:
        part = parts[number]
        mine = [name for name in part.devices if name in free]
        if len(mine) >= part.needs:
            taken = tuple(mine[: part.needs])
            free.difference_update(taken)
            found.append((number, taken))
        elif strict:
            free.difference_update(part.devices)
    return found


def makespan(parts: Sequence[Part], order: Sequence[int], judges: int = 1, strict: bool = False) -> float:
    """Seconds until the last job ends, by the estimates."""
    free = {name for part in parts for name in part.devices}
    judge_free = [0.0] * max(1, judges)
    waiting = list(order)
    running: list[tuple[float, int, tuple[str, ...]]] = []
    now = last = 0.0
    while waiting or running:
        for number, taken in startable(parts, waiting, free, strict):
            waiting.remove(number)
            free.difference_update(taken)
            heapq.heappush(running, (now + parts[number].engine_s, number, taken))
        if not running:
            return float("inf")  # devices that are not there
        now, number, taken = heapq.heappop(running)
        free.update(taken)
        begins = max(now, heapq.heappop(judge_free))
        judge_s = parts[number].judge_s
        heapq.heappush(judge_free, begins + judge_s if judge_s else begins)
        last = max(last, now, begins + judge_s if judge_s else now)
    return last
