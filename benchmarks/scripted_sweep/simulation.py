"""The scheduler's decisions, played through with the drawn times: what a sweep would take if nothing else took any."""

from __future__ import annotations

import heapq
from typing import Any

from evalscope_evalflow.sweep.order import Order, Part, best_order, startable
from evalscope_evalflow.sweep.size import UNKNOWN_SAMPLES, Size

from .best import best
from .scenario import DATASETS, JUDGE_AT_ONCE, Scenario


def row(scenario: Scenario) -> dict[str, Any]:
    """The figures of one seed, in virtual seconds."""
    least = best(scenario)
    return {
        "devices": scenario.devices, "seed": scenario.seed, "best_s": least.makespan_s, "bound_s": least.bound_s,
        "sequential_s": scenario.sequential_s, "simulated_s": makespan(scenario),
    }  # fmt: skip


def makespan(scenario: Scenario) -> float:
    """Virtual seconds to the last verdict."""
    parts = estimates(scenario)
    return play(scenario, parts, best_order(parts))


def estimates(scenario: Scenario) -> list[Part]:
    """What the scheduler knows: the checkpoints' bytes, and that nobody has counted the samples."""
    samples = UNKNOWN_SAMPLES * len(DATASETS)
    found = []
    for model in scenario.models:
        size = Size(model.checkpoint.stored_bytes, samples, samples, JUDGE_AT_ONCE)
        found.append(Part(devices_of(scenario), model.devices, size.engine_s(model.devices), size.judge_s))
    return found


def devices_of(scenario: Scenario) -> tuple[str, ...]:
    """The names of the machine's devices."""
    return tuple(map(str, range(scenario.devices)))


def play(scenario: Scenario, parts: list[Part], order: Order) -> float:
    """Seconds to the last verdict, if jobs are begun in this order and take what was drawn.

    Models come to the judge in the order in which they are done, each with all of it for itself, as a model that asks
    first is given as much as it can use.
    """
    free, waiting = set(devices_of(scenario)), list(order.jobs)
    running: list[tuple[float, int, tuple[str, ...]]] = []
    now = judged = 0.0
    while waiting or running:
        for number, taken in startable(parts, waiting, free, order.strict):
            waiting.remove(number)
            free.difference_update(taken)
            heapq.heappush(running, (now + scenario.models[number].engine_s, number, taken))
        now, number, taken = heapq.heappop(running)
        free.update(taken)
        judged = max(judged, now) + scenario.models[number].judge_s
    return judged
