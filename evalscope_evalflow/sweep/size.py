"""Estimates how much of a model is left to do, from files alone, and how long that takes.

Only the order of jobs depends on it: the longest begin first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines.checkpoints import safetensors_headers as weights
from evalscope_evalflow.run.resume import Remaining
from evalscope_evalflow.state import cells as ledger

UNKNOWN_SAMPLES = 500  # of a dataset that was never counted
# Round figures for one device of a data centre: reading weights from a disk, starting an engine, and answers of a few
# hundred tokens with many sequences at once, at the pace of reading the weights.
_LOAD_BYTES_PER_S = 1e9
_START_S = 30.0
_SWAP_S = 2.0  # of proof that an engine's weights were replaced
_ANSWER_S_PER_BYTE = 1e-11  # 0.15 s an answer for 7 billion parameters in 16 bits
_ANSWER_S = 0.02
_VERDICT_S = 2.0  # of a judge that writes its reasons


@dataclass(frozen=True)
class Size:
    """What is left to do of a model.

    Attributes:
        load_bytes: weights to load; 0 where no engine is started.
        answers: answers to be made.
        verdicts: verdicts to be made; 0 where no judge is asked.
        verdicts_at_once: how many the judge gives at once.
    """

    load_bytes: int = 0
    answers: int = 0
    verdicts: int = 0
    verdicts_at_once: int = 1

    def engine_s(self, devices: int = 1) -> float:
        """Seconds of loading and answering on this number of devices."""
        if not self.answers:
            return 0.0
        one = self.answers * (_ANSWER_S + self.load_bytes * _ANSWER_S_PER_BYTE)
        return self.start_s + one / max(1, devices)

    @property
    def start_s(self) -> float:
        """Seconds until an engine with its weights can be asked."""
        return _START_S + self.load_bytes / _LOAD_BYTES_PER_S

    def heir_s(self, devices: int = 1, *, swaps: bool = True) -> float:
        """Seconds of answering with the engine of another model, on this number of devices.

        Args:
            devices: how many.
            swaps: whether the engine has to load the model's weights.
        """
        if not self.answers:
            return 0.0
        load_s = _SWAP_S + self.load_bytes / _LOAD_BYTES_PER_S if swaps else 0.0
        return load_s + self.engine_s(devices) - self.start_s

    @property
    def judge_s(self) -> float:
        """Seconds of judging, if the judge serves no other model."""
        return self.verdicts * _VERDICT_S / max(1, min(self.verdicts, self.verdicts_at_once))


def samples(task: Task) -> dict[str, int]:
    """Samples of each dataset: the most that any model of the task was asked, else the published number, or a guess."""
    found: dict[str, int] = {}
    for model in task.models:
        for dataset, cell in ledger.read(task.folder(model)).items():
            found[dataset] = max(found.get(dataset, 0), cell.requested or 0)
    return {dataset: found.get(dataset) or _published(task, dataset) for dataset in task.datasets}


def _published(task: Task, dataset: str) -> int:
    """Samples of a dataset as EvalScope publishes it; a guess where it does not say, or the data is the user's own."""
    known = load_backend(task.flow.backend).published_samples(task, dataset)
    limit = task.stock.get("limit")
    count = known or UNKNOWN_SAMPLES
    return min(count, limit) if isinstance(limit, int) else count


def size(task: Task, model: ModelConfig, left: Remaining, counted: Mapping[str, int], judged: bool) -> Size:
    """What is left to do of a model.

    Args:
        task: the task.
        model: one of its models.
        left: its datasets that are to be answered, and to be judged.
        counted: samples of each dataset.
        judged: whether a judge is asked.
    """
    asked = sum(counted[dataset] - left.answers.get(dataset, 0) for dataset in left.infer)
    return Size(
        load_bytes=stored_bytes(model.path) if left.infer else 0,
        answers=max(len(left.infer), asked),
        verdicts=sum(counted[dataset] for dataset in left.judge) if judged else 0,
        verdicts_at_once=task.flow.judge_max_num_seqs,
    )


def stored_bytes(path: str | None) -> int:
    """Bytes of a checkpoint's weights; 0 where they cannot be read."""
    if path is None or not os.path.exists(os.path.expanduser(path)):
        return 0
    try:
        found = weights.read(user_path(path))
    except (weights.Damaged, OSError):
        return 0
    return found.stored_bytes if found else 0
