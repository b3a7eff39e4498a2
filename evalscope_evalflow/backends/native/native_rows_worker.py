"""The rows of EvalScope's benchmarks, as they are loaded: saved answers are brought in line with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.native.native_verdicts import drop_fallbacks
from evalscope_evalflow.backends.native.rows_answers import Place, align, subset_rows
from evalscope_evalflow.events.answers import kinds_of
from evalscope_evalflow.events.worker_events import RowsAligned, VerdictsDropped
from evalscope_evalflow.events.worker_requests import StartTask
from evalscope_evalflow.worker.answer_kinds import KindsFile
from evalscope_evalflow.worker.channel import Channel
from evalscope_evalflow.worker.request_failures import Failures


class NativeRows:
    """Stands between benchmarks and whoever loads their data."""

    def __init__(self, request: StartTask, channel: Channel, failures: Failures, kinds: KindsFile) -> None:
        """
        Args:
            request: what to do; its settings are `chosen`, and by dataset `content` and `judges`.
            channel: to the parent.
            failures: samples that have no answer, by their indexes.
            kinds: what is unusual about answers, by their indexes.
        """
        self.settings, self.judges = request.settings, "judge" in request.phases
        self.folder, self.model = Path(request.stock_task["work_dir"]), str(request.stock_task["model_id"])
        self.channel, self.failures, self.kinds = channel, failures, kinds
        self._aligned: set[str] = set()

    def load(self, benchmark: Any, stock: Callable[[], Any]) -> Any:
        """A benchmark's data, by its own `load_dataset`; what is saved is of these rows from then on.

        It is brought in line once in a process: the second pass judges what the first has asked.
        """
        data = stock()
        dataset = str(benchmark.name)
        if dataset not in self._aligned:
            self._align(dataset, benchmark, data)
            self._aligned.add(dataset)
        return data

    def _align(self, dataset: str, benchmark: Any, data: Any) -> None:
        judge = str((self.settings.get("judges") or {}).get(dataset, "unknown"))
        place = Place(self.folder, self.model, dataset, judge, int(getattr(benchmark, "repeats", None) or 1))
        samples = {str(name): list(subset) for name, subset in data.items()}
        own_way = _asks_in_its_own_way(benchmark)
        rows = {name: subset_rows(items, metadata_is_asked=own_way) for name, items in samples.items() if items}
        dropped = 0
        if self.judges:
            dropped = drop_fallbacks(place.file("reviews", name) for name in rows)
        found = align(place, rows, samples)
        for subset, moved in found.moved.items():
            self.failures.forget(dataset, subset, moved)
        for subset, answers in found.rewritten.items():
            tools = {index: bool(sample.tools) for index, sample in enumerate(samples.get(subset, ()))}
            counted = {index: kinds_of(row["model_output"], tools=tools[index]) for index, row in answers.items()}
            self.kinds.count_again(dataset, subset, counted)
        place.saved.write_header(
            data=(self.settings.get("content") or {}).get(dataset),
            chosen=self.settings.get("chosen"),
            requested=found.requested,
        )
        if dropped:
            self.channel.emit(VerdictsDropped(dataset, dropped))
        if found.put_aside or found.brought_back or found.scored_anew:
            self.channel.emit(RowsAligned(dataset, found.put_aside, found.brought_back, found.scored_anew))


def _asks_in_its_own_way(benchmark: Any) -> bool:
    """Whether a benchmark asks more than its samples' prompts, such as a conversation that its metadata holds."""
    from evalscope.api.benchmark.adapters.default_data_adapter import DefaultDataAdapter

    kind = type(benchmark)
    names = ("_on_inference", "run_inference")
    return any(getattr(kind, name, None) is not getattr(DefaultDataAdapter, name, None) for name in names)
