"""Judging one answer of each of VLMEvalKit's datasets while others are still being answered.

The dataset's own `evaluate` is called on a file of that one answer, in a folder that is gone afterwards. Which name of
a judge it accepts, `vlmeval/run.py` decides by lists of datasets; here those names are tried in turn, as every one of
them stands for the task's judge. Nothing that it makes is kept but the judge's replies.
"""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_judging import Judging, Unjudged
from evalscope_evalflow.worker.judge_probe import JudgeProbe, Why

_NAMES = ("chatgpt-0125", "gpt-4o-mini", "gpt-4-turbo")
_BY_RULES = ("VisuLogic",)  # never judged


class JudgeAhead:
    """Judges answers as they come, one of each dataset."""

    def __init__(
        self, probe: JudgeProbe, load: Callable[..., Any], dump: Callable[..., Any], heard: threading.local
    ) -> None:
        """
        Args:
            probe: this worker's.
            load: VLMEvalKit's own.
            dump: that, made whole.
            heard: what the judge says in each thread (see `make_judge_class`).
        """
        self.probe, self.dump = probe, dump
        self._judging = Judging(load, dump)
        self._judging.heard = heard

    def offer(self, dataset: Any, key: Any, answer: str, chosen: Collection[str]) -> None:
        """An answer is saved.

        Args:
            dataset: VLMEvalKit's object, whose `evaluate` is its own.
            key: the sample's index.
            answer: its text.
            chosen: datasets of which one answer is judged ahead.
        """
        name = dataset.dataset_name
        if name in chosen and not any(word in name for word in _BY_RULES):
            self.probe.offer(name, partial(self._judge, dataset, key, answer))

    def track(self, *args: Any, **options: Any) -> Any:
        """VLMEvalKit's `track_progress_rich`, called by what is judged ahead."""
        return self._judging.track(*args, **options)

    def _judge(self, dataset: Any, key: Any, answer: str) -> Why | None:
        dataset = copy.copy(dataset)
        rows = dataset.data[dataset.data["index"].astype(str) == str(key)].drop(columns="image", errors="ignore").copy()
        rows["prediction"] = [answer] * len(rows)
        self._judging.examples = {}
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / f"ahead_{dataset.dataset_name}.xlsx")
            self.dump(rows, file)
            for name in _NAMES:
                try:
                    dataset.evaluate(file, model=name, nproc=1, verbose=False, retry=3)
                    return None
                except Unjudged as error:
                    kind = next(iter(error.why.values()))
                    return kind, self._judging.examples.get(kind, ""), ""
                except AssertionError:  # another name of a judge
                    continue
        return None
