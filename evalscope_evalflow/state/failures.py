"""Samples that have no answer or no score: which of them, why, and whether they will be asked again.

The worker writes them to `evalflow/failures.jsonl` (see worker/request_failures.py); here they are read. A line stands
until its sample is answered, or fails again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.events.json_lines import objects_in

if TYPE_CHECKING:
    from evalscope_evalflow.config import ModelConfig
    from evalscope_evalflow.config.task import Task

# Keys of generation_config that say how long a request may take and how it is sent, not what is asked.
_PATIENCE_KEYS = frozenset({"timeout", "retries", "retry_interval", "stream", "batch_size"})
FILE = "failures.jsonl"
SHOWN = 160  # characters of a server's words, where a line shows them; the file has more
BAD_DATA = "bad_data"  # the kind of a sample that its row, or its picture, keeps from being asked
SCORING = "scoring"  # the kind of a sample that was answered, but could not be scored

# What of `deploy` and of `generation_config` decides whether a request is refused.
_DEPLOY = {"engine", "max_model_len", "chat_template", "extra_args"}


@dataclass(frozen=True)
class Failure:
    """A sample that has no answer, or no score.

    Attributes:
        dataset: the benchmark.
        subset: its subset.
        sample: EvalScope's id of the sample.
        kind: such as `context_too_long`, `timeout`, `server_error`.
        transient: whether it may work when it is asked again.
        message: the server's own words, shortened.
        time: when it failed.
    """

    dataset: str
    subset: str
    sample: str
    kind: str
    transient: bool
    message: str
    time: str

    @property
    def stands(self) -> bool:
        """Whether the same task fails in the same way again. Data may have been mended: the worker sees it."""
        return not self.transient and self.kind != BAD_DATA

    @property
    def words(self) -> str:
        """The kind as a user reads it."""
        return f"{self.kind.replace('_', ' ')} ({'transient' if self.transient else 'permanent'})"


def path_in(folder: Path) -> Path:
    """The file of a run folder."""
    return folder / "evalflow" / FILE


def cause(task: Task, model: ModelConfig) -> str:
    """A fingerprint of what a permanent failure depends on, beside the prompt itself.

    The worker adds the prompt. A failure with the same fingerprint is not asked again.
    """
    from evalscope_evalflow.config.keys import redact  # pydantic with it: not for commands that only read

    generation = task.generation_config(model) or {}
    weights = user_path(model.path or "")
    facts = {
        "model": [model.served_name, model.path, model.api_url],
        **({"adapter": model.adapter} if model.adapter else {}),
        "changed": weights.stat().st_mtime_ns if model.path and os.path.exists(weights) else None,
        "deploy": task.flow.deploy_for(model).model_dump(include=_DEPLOY),
        "generation": {name: value for name, value in generation.items() if name not in _PATIENCE_KEYS},
        "dataset_args": task.stock.get("dataset_args"),
    }
    facts = redact(facts)  # a secret could be found by trying
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def noted(folder: Path) -> dict[str, list[Failure]]:
    """Everything that a run folder's file says, by dataset."""
    found: dict[str, list[Failure]] = {}
    for item in _read(path_in(folder)):
        found.setdefault(item.dataset, []).append(item)
    return found


def standing(folder: Path, model: str, dataset: str, items: Iterable[Failure] | None = None) -> list[Failure]:
    """The failures of a dataset that nothing has made good since.

    Args:
        folder: the run folder.
        model: the model's name, as EvalScope files its predictions.
        dataset: the benchmark.
        items: what is noted of it, where that is known already.
    """
    if items is None:
        items = noted(folder).get(dataset, ())
    last = {(item.subset, item.sample): item for item in items}
    done: dict[tuple[str, str], set[str]] = {}
    found = []
    for item in last.values():
        kind = "reviews" if item.kind == SCORING else "predictions"
        place = kind, item.subset
        if place not in done:
            done[place] = set(_indexes(folder / kind / model / f"{dataset}_{item.subset}.jsonl"))
        if item.sample not in done[place]:
            found.append(item)
    return found


def by_kind(failures: Iterable[Failure]) -> dict[str, int]:
    """How many there are of each kind, the most frequent first."""
    return dict(Counter(item.kind for item in failures).most_common())


def notes(failures: Iterable[Failure]) -> list[str]:
    """The same in words, with what was said most often: "2 × context too long (permanent): maximum context length…"."""
    said: dict[str, Counter[str]] = {}
    for item in failures:
        said.setdefault(item.words, Counter())[" ".join(item.message.split())] += 1
    found = []
    for words, messages in sorted(said.items(), key=lambda pair: -pair[1].total()):
        message = messages.most_common(1)[0][0]
        shown = message if len(message) <= SHOWN else f"{message[:SHOWN]}…"
        found.append(f"{messages.total()} × {words}" + (f": {shown}" if shown else ""))
    return found


def _read(path: Path) -> Iterator[Failure]:
    for line in objects_in(path):
        yield Failure(
            str(line.get("dataset")),
            str(line.get("subset")),
            str(line.get("sample")),
            str(line.get("kind")),
            bool(line.get("transient")),
            str(line.get("message")),
            str(line.get("time")),
        )


def _indexes(path: Path) -> Iterator[str]:
    for line in objects_in(path):
        yield str(line.get("index"))
