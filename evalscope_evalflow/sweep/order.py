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
from dataclasses import dataclass, replace

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
        group: equal for jobs that can use one engine one after the other; empty: it shares its engine with none.
        heir_s: in place of `engine_s` where it goes on with the engine of another job of its group.
    """

    devices: tuple[str, ...]
    needs: int
    engine_s: float
    judge_s: float = 0.0
    group: str = ""
    heir_s: float = 0.0


@dataclass(frozen=True)
class Order:
    """An order of jobs.

    Attributes:
        jobs: numbers of the jobs, the first to begin first.
        strict: whether a job that waits for devices keeps them from the jobs behind it; if not, they overtake it.
        together: whether an engine goes to the next job of its group, whoever else waits for its devices; if not, only
            to one that would get them in any case.
        makespan_s: seconds from the first start to the last end, by the estimates.
        held_s: device-seconds, where jobs share engines: of two orders that end at the same time the one that starts
            fewer engines is better.
    """

    jobs: tuple[int, ...]
    strict: bool = False
    together: bool = False
    makespan_s: float = 0.0
    held_s: float = 0.0


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
    shared = [part.group for part in parts if part.group]
    grouped = len(set(shared)) < len(shared)

    def timed(jobs: tuple[int, ...], strict: bool, together: bool) -> Order:
        order = Order(jobs, strict, together)
        found = turns(parts, order, judges)
        if found is None:
            return replace(order, makespan_s=float("inf"))
        held_s = sum((turn.answered_s - turn.begins_s) * len(turn.devices) for turn in found) if grouped else 0.0
        return replace(order, makespan_s=max((turn.ends_s for turn in found), default=0.0), held_s=held_s)

    policies = [(strict, together) for together in ((True, False) if grouped else (False,)) for strict in (False, True)]
    best = min((timed(jobs, *policy) for jobs in orders for policy in policies), key=_cost)
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
        together = here.together != (grouped and chance.random() < FLIP)
        found = timed(tuple(jobs), strict, together)
        if found.makespan_s <= here.makespan_s * (1 + WORSE * (1 - move / moves)):
            here = found
        if _cost(found) < _cost(best):
            best = found
    return best


def _cost(order: Order) -> tuple[float, float]:
    return order.makespan_s, order.held_s


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


def heir(
    parts: Sequence[Part], waiting: Sequence[int], free: set[str], ended: int, held: Sequence[str], order: Order
) -> int | None:
    """The job that goes on with the engine of one that has ended, on the same devices; None: the engine ends, too.

    Args:
        parts: all jobs.
        waiting: numbers of those that wait, in their order.
        free: devices that no job has.
        ended: the number of the one that has ended.
        held: its devices.
        order: whether members of a group come first; else it is one that would get those devices in any case.
    """
    group = parts[ended].group
    members = [
        number
        for number in waiting
        if group and parts[number].group == group and parts[number].needs == len(held)
        if {*held} <= {*parts[number].devices}
    ]
    if not members or order.together:
        return members[0] if members else None
    begin = startable(parts, waiting, free | {*held}, order.strict)
    first = next((number for number, taken in begin if not {*held}.isdisjoint(taken)), None)
    return first if first in members else None


@dataclass(frozen=True)
class Turn:
    """When a job has its turn, by the estimates, in seconds from the first start.

    Attributes:
        job: its number.
        devices: that it is given.
        begins_s: when its engine starts, or is taken from another job.
        answered_s: when that is given back.
        ends_s: when its answers are judged.
        engine_of: the number of the job whose engine it goes on with; None: it has one of its own.
    """

    job: int
    devices: tuple[str, ...]
    begins_s: float
    answered_s: float
    ends_s: float
    engine_of: int | None = None


def turns(parts: Sequence[Part], order: Order, judges: int = 1) -> list[Turn] | None:
    """The turn of each job, in the order in which their engines are given back; None: one can never begin.

    Args:
        parts: the jobs.
        order: their order.
        judges: how many jobs can be judged at once, each at its full pace.
    """
    free = {name for part in parts for name in part.devices}
    judge_free = [0.0] * max(1, judges)
    waiting = list(order.jobs)
    running: list[tuple[float, int, tuple[str, ...], float, int | None]] = []
    now = 0.0
    found = []
    while waiting or running:
        for number, taken in startable(parts, waiting, free, order.strict):
            waiting.remove(number)
            free.difference_update(taken)
            heapq.heappush(running, (now + parts[number].engine_s, number, taken, now, None))
        if not running:
            return None  # devices that are not there
        now, number, taken, began, engine_of = heapq.heappop(running)
        following = heir(parts, waiting, free, number, taken, order) if parts[number].group else None
        if following is None:
            free.update(taken)
        else:
            waiting.remove(following)
            heapq.heappush(running, (now + parts[following].heir_s, following, taken, now, number))
        begins = max(now, heapq.heappop(judge_free))
        judge_s = parts[number].judge_s
        heapq.heappush(judge_free, begins + judge_s if judge_s else begins)
        found.append(Turn(number, taken, began, now, begins + judge_s if judge_s else now, engine_of))
    return found


def makespan(parts: Sequence[Part], order: Order, judges: int = 1) -> float:
    """Seconds until the last job ends, by the estimates; infinite where one can never begin."""
    found = turns(parts, order, judges)
    return float("inf") if found is None else max((turn.ends_s for turn in found), default=0.0)
