"""What the answers and verdicts in a run folder cost: tokens, requests, and the seconds that engines were held.

It is read from `evalflow/usage.jsonl`, which nothing removes lines from: all runs in the folder count, also those whose
answers were archived or that failed. `run.json` has the same under `cost`, as it was at the run's end.

    read_costs(folder)                 of one run folder: the model's, and for each dataset its own
    recorded_costs(folder, record)     the same, as run.json has it
    sum_of(cost for cost in ...)       of several, such as a sweep's
    cost.as_record(), Cost.from_record a JSON object, as in run.json
    cost.sentence()                    a line for people
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.events.json_lines import objects_in
from evalscope_evalflow.events.spending import ANSWER, ENGINE, FILE, JUDGE_REPLY, JUDGE_REQUEST

FOLDER = "evalflow"
LOADING, ANSWERING, IDLE = "loading", "answering", "idle"


@dataclass(frozen=True)
class Cost:
    """What was spent. Numbers add up: a model's is at least the sum of its datasets'.

    Attributes:
        answers: requests that the model has answered.
        tokens: of these requests, in and out, as the server counts them, or estimated where it does not.
        input_tokens: of prompts, as far as the server tells them apart.
        output_tokens: of answers, likewise.
        judge_requests: requests to the judge.
        judge_input_tokens: of those that were answered.
        judge_output_tokens: likewise.
        held_s: seconds that an engine was held, from its start to the end of its release; 0 for an API. Of a dataset:
            the seconds in which at least one of its requests was on its way.
        loading_s: those of them in which the engine was not ready yet; never a dataset's.
        answering_s: those in which at least one request was on its way.
        idle_s: the others; never a dataset's.
        gpu_s: `held_s` times the GPUs that were held; None: no GPU of NVIDIA's was.
        utilisation: share of time in which these GPUs computed, from 0 to 1, as NVML says once a second; None: it does
            not say, as of MIG instances, or was not asked.
        readings: how many of NVML's readings `utilisation` is the mean of.
    """

    answers: int = 0
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    judge_requests: int = 0
    judge_input_tokens: int = 0
    judge_output_tokens: int = 0
    held_s: float = 0.0
    loading_s: float = 0.0
    answering_s: float = 0.0
    idle_s: float = 0.0
    gpu_s: float | None = None
    utilisation: float | None = None
    readings: int = 0

    def __add__(self, other: Cost) -> Cost:
        summed = {
            item.name: getattr(self, item.name) + getattr(other, item.name)
            for item in dataclasses.fields(self)
            if item.name not in ("gpu_s", "utilisation")
        }
        gpu_s = None if self.gpu_s is None and other.gpu_s is None else (self.gpu_s or 0.0) + (other.gpu_s or 0.0)
        busy = (self.utilisation or 0.0) * self.readings + (other.utilisation or 0.0) * other.readings
        readings = self.readings + other.readings
        return Cost(**summed, gpu_s=gpu_s, utilisation=busy / readings if readings else None)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of `held_s`, from 0 to 1, that were loading, answering and idle; empty where nothing was held."""
        seconds = {LOADING: self.loading_s, ANSWERING: self.answering_s, IDLE: self.idle_s}
        return {name: value / self.held_s for name, value in seconds.items()} if self.held_s else {}

    def as_record(self) -> dict[str, Any]:
        """The fields, and `shares`, as a JSON object; what does not apply is left out."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        shares = {name: round(value, 4) for name, value in self.shares.items()}
        found = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        return {**{name: value for name, value in found.items() if value is not None}, "shares": shares}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Cost:
        """The cost that `as_record` has written; what is no number, or not known, is dropped."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known and _is_number(value)})

    def sentence(self) -> str:
        """What was spent, in words; empty where nothing was."""
        parts = []
        if self.input_tokens or self.output_tokens:
            parts.append(f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out")
        elif self.tokens:
            parts.append(f"{self.tokens:,} tokens")
        if self.judge_requests:
            tokens = f" ({self.judge_input_tokens:,} tokens in, {self.judge_output_tokens:,} out)"
            told = self.judge_input_tokens or self.judge_output_tokens
            parts.append(f"{self.judge_requests:,} requests to the judge{tokens if told else ''}")
        if self.held_s:
            what = (
                f"{self.gpu_s:,.0f} GPU-seconds" if self.gpu_s is not None else f"engine held for {self.held_s:,.0f} s"
            )
            of = [f"{share:.0%} {name}" for name, share in self.shares.items()]
            if self.utilisation is not None:
                of.append(f"GPUs computed {self.utilisation:.0%} of the time")
            parts.append(f"{what} ({', '.join(of)})")
        return "; ".join(parts)


@dataclass(frozen=True)
class ModelCost:
    """What one model cost.

    Attributes:
        total: all of it.
        cells: the part of each dataset that anything was spent on, by its name.
    """

    total: Cost = Cost()
    cells: dict[str, Cost] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """The total's fields, and `cells`, as run.json has them under `cost`."""
        return {**self.total.as_record(), "cells": {name: cost.as_record() for name, cost in self.cells.items()}}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelCost:
        """The cost that `as_record` has written."""
        cells = record.get("cells")
        found = cells.items() if isinstance(cells, Mapping) else ()
        of_cells = {str(name): Cost.from_record(cost) for name, cost in found if isinstance(cost, Mapping)}
        return cls(Cost.from_record(record), of_cells)


def read_costs(run_folder: Path) -> ModelCost:
    """What all runs in a run folder have cost; nothing where there is no record of it, as in folders of 0.1."""
    totals: dict[str, Cost] = {}
    for item in objects_in(run_folder / FOLDER / FILE):
        name = str(item.get("dataset") or "")
        cost = _cost_of(item)
        if cost is not None:
            totals[name] = totals.get(name, Cost()) + cost
    cells = {name: dataclasses.replace(cost, held_s=cost.answering_s) for name, cost in totals.items() if name}
    return ModelCost(sum_of(totals.values()), cells)


def recorded_costs(run_folder: Path, record: Mapping[str, Any]) -> ModelCost:
    """The same, from `run.json` where that has it, which is quicker; else, as of a run that still goes on, by counting.

    Args:
        run_folder: the run folder.
        record: what its run.json says.
    """
    found = record.get("cost")
    return ModelCost.from_record(found) if isinstance(found, Mapping) else read_costs(run_folder)


def sum_of(costs: Iterable[Cost]) -> Cost:
    """The sum of several costs."""
    return sum(costs, Cost())


def engine_line(
    run_id: str, state: str, dataset: str, seconds: float, gpus: int, readings: list[float]
) -> dict[str, Any]:
    """A line of the file: an engine was held for so long.

    Args:
        run_id: by which run.
        state: `LOADING`, `ANSWERING` or `IDLE`.
        dataset: what was answered; empty: nothing was.
        seconds: for how long.
        gpus: on how many GPUs; 0: on none.
        readings: of NVML, each from 0 to 1.
    """
    mean = {"utilisation": round(sum(readings) / len(readings), 4)} if readings else {}
    return {
        "kind": ENGINE, "run_id": run_id, "state": state, "dataset": dataset, "seconds": round(seconds, 3),
        "gpus": gpus, "readings": len(readings), **mean,
    }  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cost_of(item: Mapping[str, Any]) -> Cost | None:
    """What a line says; None where it says nothing that counts."""
    try:
        kind, given, said = item.get("kind"), int(item.get("input_tokens", 0)), int(item.get("output_tokens", 0))
        if kind == ANSWER:
            return Cost(answers=1, tokens=int(item["tokens"]), input_tokens=given, output_tokens=said)
        if kind == JUDGE_REQUEST:
            return Cost(judge_requests=1)
        if kind == JUDGE_REPLY:
            return Cost(judge_input_tokens=given, judge_output_tokens=said)
        if kind == ENGINE:
            seconds, gpus, readings = float(item["seconds"]), int(item["gpus"]), int(item["readings"])
            state = str(item["state"])
            return Cost(
                held_s=seconds,
                loading_s=seconds if state == LOADING else 0.0,
                answering_s=seconds if state == ANSWERING else 0.0,
                idle_s=seconds if state == IDLE else 0.0,
                gpu_s=seconds * gpus if gpus else None,
                utilisation=float(item["utilisation"]) if readings else None,
                readings=readings,
            )
    except (KeyError, TypeError, ValueError):  # written by hand, or by another version
        pass
    return None
