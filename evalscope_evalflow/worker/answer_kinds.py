"""Writes down which answers are cut off, without text, or otherwise not as they should be."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.answers import FILE, AnswerKind, kinds_of
from evalscope_evalflow.events.json_lines import append
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.events.whole_files import write_whole

# Of EvalScope's ModelOutput: the rest may be large.
_LOOKED_AT = {"choices": {0: {"message": {"content", "tool_calls"}, "stop_reason": True}}}


def kinds_of_output(output: Any, *, tools: bool = False) -> list[AnswerKind]:
    """What is unusual about an answer of EvalScope's client.

    Args:
        output: EvalScope's ModelOutput; None counts as nothing at all.
        tools: whether the model was offered tools.
    """
    if output is None or not output.choices:
        return [AnswerKind.EMPTY]
    return kinds_of(output.model_dump(mode="json", include=_LOOKED_AT), tools=tools)


class KindsFile:
    """The file of a run folder."""

    def __init__(self, folder: str, max_tokens: int | None) -> None:
        """
        Args:
            folder: `evalflow` in the run folder.
            max_tokens: the limit of tokens that the model is asked with; None: none.
        """
        self._path = os.path.join(folder, FILE)
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._known: set[tuple[str, str, str]] = set()
        if os.path.exists(self._path):
            with open(self._path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        item = any_json.loads(line)
                        self._known.add((str(item["dataset"]), str(item["subset"]), str(item["sample"])))
                    except (ValueError, KeyError, TypeError):
                        continue

    def add(self, dataset: str, subset: str, sample: Any, kinds: Sequence[AnswerKind]) -> None:
        """Write down what an answer is, before it is saved; one that is as it should be only if an earlier was not.

        Args:
            dataset: its dataset.
            subset: its subset.
            sample: its sample, as saved answers name it.
            kinds: what is unusual about it.

        Raises:
            FileError: it cannot be written down.
        """
        key = dataset, subset, str(sample)
        with self._lock:
            if not kinds and key not in self._known:
                return
            item = {
                "schema": SCHEMA, "dataset": dataset, "subset": subset, "sample": str(sample),
                "kinds": [kind.value for kind in kinds], "max_tokens": self._max_tokens,
            }  # fmt: skip
            append(self._path, json.dumps(item) + "\n")
            self._known.add(key)

    def forget(self, dataset: str, subset: str, samples: Collection[str]) -> None:
        """Strike out samples of a subset that other rows have taken the places of."""
        for sample in samples:
            self.add(dataset, subset, sample, [])

    def count_again(self, dataset: str, subset: str, answers: Mapping[Any, Sequence[AnswerKind]]) -> None:
        """Replace what is written down of a subset whose answers have moved to other samples.

        Args:
            dataset: its dataset.
            subset: it.
            answers: what is unusual about each answer, by its sample.
        """
        with self._lock:
            if os.path.exists(self._path):
                with open(self._path, encoding="utf-8", errors="replace") as lines:
                    keep = [line for line in lines if not _is_of(line, dataset, subset)]
                write_whole(Path(self._path), "".join(keep))
            self._known = {key for key in self._known if key[:2] != (dataset, subset)}
        for sample, kinds in answers.items():
            self.add(dataset, subset, sample, kinds)


def _is_of(line: str, dataset: str, subset: str) -> bool:
    try:
        item = any_json.loads(line)
        return (item["dataset"], item["subset"]) == (dataset, subset)
    except (ValueError, KeyError, TypeError):
        return False
