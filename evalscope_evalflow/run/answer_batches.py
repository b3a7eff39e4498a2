"""Which engine each batch of answers came from: recorded for each dataset, and told where it differs.

Engine version, kind of device, parallelism and batch size keep nobody from going on with saved answers, but a score
that stands on answers of two versions says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.engines.options.answer_options import parallel_options
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.engine_events import EngineReused, EngineStarting
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.state.cells import Cell

BEFORE = "from"  # answers that were there before
# What a reader is told of, with the words for it; `{}` stands for the values.
TOLD = {
    "engine": "answers from {}",
    "gpus": "answers on {}",
    "tensor_parallel": "answers with tensor_parallel {}",
    "data_parallel": "answers with data_parallel {}",
    "max_num_seqs": "answers with max_num_seqs {}",
    "options": "answers with {}",
}


class BatchesSubscriber:
    """Writes down what the answers to come will be from, when an engine is started for them."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_event(self, event: Event) -> None:
        if not isinstance(event, (EngineStarting, EngineReused)):
            return
        facts = batch_facts(self._run, event)
        saved, changes = self._run.saved(), {}
        for dataset in self._run.task.datasets:
            cell, answers = saved.cell(dataset), saved.answers(dataset)
            if cell.requested is not None and 0 < cell.requested <= answers:
                continue
            batches = with_batch(cell.batches or [], facts, answers)
            if batches != cell.batches:
                changes[dataset] = {"batches": batches}
        self._run.update_cells(changes)


def batch_facts(run: Run, event: EngineStarting | EngineReused) -> dict[str, Any]:
    """What is written down of an engine: its name and version, devices, sizes, and options that share the work out."""
    deploy, engine = run.deploy, resolve_engine(run.model, run.deploy)
    found = {
        "engine": event.engine,
        "version": event.version,
        "gpus": sorted(set(map(str, event.facts.get("gpus") or ()))),
        "tensor_parallel": event.facts.get("tensor_parallel") or event.placement.get("tensor_parallel"),
        "data_parallel": event.facts.get("data_parallel") or event.placement.get("data_parallel"),
        "max_num_seqs": engine.max_num_seqs(deploy),
        "options": parallel_options(engine, deploy.extra_args),
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def with_batch(batches: Sequence[dict[str, Any]], facts: Mapping[str, Any], answers: int) -> list[dict[str, Any]]:
    """The batches with one more, where it is another than the last; one that has added no answer is forgotten.

    Args:
        batches: those that are written down.
        facts: of the engine that answers from now on.
        answers: answers that are saved.
    """
    kept = [batch for batch in batches if batch[BEFORE] < answers]
    if kept and {name: value for name, value in kept[-1].items() if name != BEFORE} == dict(facts):
        return kept
    return [*kept, {BEFORE: answers, **facts}]


def remarks(cell: Cell, answers: int) -> list[str]:
    """What a reader of a score has to know of where its answers come from, a line each.

    Args:
        cell: what is known of the dataset.
        answers: answers that are saved.
    """
    found = []
    if cell.accepted:
        found.append(f"saved answers of other settings are used, as accepted: {'; '.join(cell.accepted)}")
    batches = [batch for batch in cell.batches or () if batch[BEFORE] < answers]
    for name, words in TOLD.items():
        values = list(dict.fromkeys(_words(batch, name) for batch in batches))
        if len(values) > 1:
            found.append(words.format(" and ".join(_without_repeated(values))))
    return found


def _words(batch: Mapping[str, Any], name: str) -> str:
    value = batch.get(name)
    if name == "engine":
        return f"{value} {batch.get('version') or 'of an unknown version'}"
    if name == "options":
        return " ".join(" ".join([option, *values]) for option, values in (value or {}).items()) or "no such option"
    if isinstance(value, list):
        return ", ".join(value)
    return "1" if value is None and name.endswith("parallel") else "unknown" if value is None else str(value)


def _without_repeated(values: Sequence[str]) -> list[str]:
    """`vllm 0.32`, `vllm 0.33` as `vllm 0.32`, `0.33`."""
    first = values[0].partition(" ")[0]
    same = all(value.startswith(f"{first} ") for value in values)
    return [values[0], *(value.removeprefix(f"{first} ") for value in values[1:])] if same else list(values)
