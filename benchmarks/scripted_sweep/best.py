"""The best schedule of a scenario, found exactly: by CP-SAT (ortools, the extra `bench`), to proven optimality.

The devices of a machine are alike, so a job needs a number of them, whichever: as no job moves, a schedule that never
takes more than there are can always be given devices by name. The judge is taken for one that works at full pace on one
model at a time: whatever shares it between several takes at least as long, as the last verdict is the same or later.
All times are known to this schedule; nothing is lost between two jobs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from .scenario import Scenario

UNITS_PER_S = 10  # of virtual time; what a model takes is rounded to that
TIME_LIMIT_S = 120.0


@dataclass(frozen=True)
class Best:
    """The best schedule.

    Attributes:
        makespan_s: virtual seconds from the first start to the last verdict.
        bound_s: what no schedule can be under by simple arithmetic, for comparison.
        order: the models' numbers, as they are begun.
    """

    makespan_s: float
    bound_s: float
    order: tuple[int, ...]


def best(scenario: Scenario) -> Best:
    """Find it.

    Raises:
        RuntimeError: it could not be proven to be the best within TIME_LIMIT_S.
    """
    from ortools.sat.python import cp_model

    jobs, places = range(len(scenario.models)), range(scenario.devices)
    wide = [model.devices for model in scenario.models]
    engine = [round(model.engine_s * UNITS_PER_S) for model in scenario.models]
    judge = [round(model.judge_s * UNITS_PER_S) for model in scenario.models]
    least = bound(engine, judge, wide, scenario.devices)
    horizon = sum(engine) + sum(judge)
    problem = cp_model.CpModel()
    starts = [problem.new_int_var(0, horizon, f"start {job}") for job in jobs]
    verdicts = [problem.new_int_var(0, horizon, f"judge {job}") for job in jobs]
    on_devices = [problem.new_fixed_size_interval_var(starts[job], engine[job], f"engine {job}") for job in jobs]
    at_judge = [problem.new_fixed_size_interval_var(verdicts[job], judge[job], f"judging {job}") for job in jobs]
    problem.add_cumulative(on_devices, wide, scenario.devices)
    problem.add_no_overlap(at_judge)
    makespan = problem.new_int_var(math.ceil(least), horizon, "makespan")
    for job in jobs:
        problem.add(verdicts[job] >= starts[job] + engine[job])
        problem.add(makespan >= verdicts[job] + judge[job])
    # Devices by name say nothing new, but with them the proof takes a second instead of minutes.
    given = [[problem.new_bool_var(f"job {job} on device {place}") for place in places] for job in jobs]
    for job in jobs:
        problem.add(sum(given[job]) == wide[job])
    loads = []
    for place in places:
        problem.add_no_overlap(
            problem.new_optional_fixed_size_interval_var(starts[job], engine[job], given[job][place], f"{job}, {place}")
            for job in jobs
        )
        loads.append(sum(given[job][place] * engine[job] for job in jobs))
        problem.add(makespan >= loads[-1] + min(judge))
    for one, other in pairwise(loads):  # they are alike
        problem.add(one >= other)
    problem.minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = TIME_LIMIT_S
    solver.parameters.num_workers = 8
    status = solver.solve(problem)
    if status != cp_model.OPTIMAL:
        raise RuntimeError(f"seed {scenario.seed}, {scenario.devices} devices: {solver.status_name(status)} only")
    return Best(
        solver.value(makespan) / UNITS_PER_S,
        least / UNITS_PER_S,
        tuple(sorted(jobs, key=lambda job: solver.value(starts[job]))),
    )


def bound(engine: list[int], judge: list[int], wide: list[int], devices: int) -> float:
    """Work divided by devices, or the longest job, or all of the judging; with the least that has to come after it."""
    work = sum(length * count for length, count in zip(engine, wide, strict=True)) / devices
    longest = max(first + second for first, second in zip(engine, judge, strict=True))
    return max(work + min(judge), longest, min(engine) + sum(judge))
