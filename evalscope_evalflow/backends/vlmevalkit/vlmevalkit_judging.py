"""Judging one dataset with VLMEvalKit: a verdict is the judge's own, or it is none.

VLMEvalKit scores what a judge that is down, or that nobody understands, has not said: as wrong, by a rule, or by
picking an option at random, and never asks again. Here a sample without a verdict leaves the score, is counted, and
is judged on the next run; so no such verdict is ever saved. VLMEvalKit's own `evaluate` is called again without those
samples: their number only falls, and what is judged is not asked again.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import NoVerdict
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import FAILED, Files, digest
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_samples_files import forget
from evalscope_evalflow.worker.credentials import masked
from evalscope_evalflow.worker.progress_meter import ProgressMeter

SAVE_EVERY_S = 1.0
# What VLMEvalKit's datasets write where a judge's reply could not be read.
_FALLBACK = re.compile(
    r"randomly generate one|no GPT-based answer matching|All \d+ retries failed|" + re.escape(FAILED)
)


class Unjudged(Exception):
    """Samples got no verdict.

    Attributes:
        why: for each of them, by index as text, the kind of the failure.
    """

    def __init__(self, why: dict[str, str]) -> None:
        super().__init__(f"{len(why)} samples have no verdict")
        self.why = why


@dataclass
class Outcome:
    """What became of the judging of a dataset.

    Attributes:
        result: what VLMEvalKit's `evaluate` returned; None if there is no score.
        scored: indexes of the samples that the score covers, as text.
        left_out: samples that are answered, but belong to a group that is not answered, or judged, as a whole.
        fallbacks: samples without a verdict of the judge's own, with the kind of the failure.
        examples: of each kind, what the judge or its server said.
        error: what ended it, if something did.
    """

    result: Any = None
    scored: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    fallbacks: dict[str, str] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    error: str | None = None


class Judging:
    """What VLMEvalKit's functions do while a dataset is judged.

    Attributes:
        heard: why the judge said nothing, and what it said last, in each thread.
        examples: what the judge said, by the kind of its failure.
    """

    def __init__(
        self, load: Callable[..., Any], dump: Callable[..., Any], progress: ProgressMeter | None = None
    ) -> None:
        """
        Args:
            load: VLMEvalKit's own.
            dump: that, made whole.
            progress: is told of verdicts; default: nobody is.
        """
        self.load, self.dump = load, dump
        self._progress = progress or ProgressMeter(lambda event: None, (), every_s=0)
        self.heard = threading.local()  # why the judge said nothing, in this thread
        self._files: Files | None = None
        self._rows: set[str] = set()
        self._lenient = False
        self._unmapped = 0
        self.examples: dict[str, str] = {}

    def load_chosen(self, f: Any, fmt: Any = None) -> Any:
        """VLMEvalKit's `load`: of the answers' file, only what is to be scored now."""
        data = self.load(_private(f), fmt)
        if self._files is not None and str(f) == str(self._files.predictions):
            data = self._files.with_texts(data)
            data = data[data["index"].astype(str).isin(self._rows)].reset_index(drop=True)
        return data

    def dump_made(self, data: Any, f: Any, **options: Any) -> Any:
        """VLMEvalKit's `dump`: the answers' file, which circular evaluation would write again, is left as it is."""
        if self._files is not None and str(f) == str(self._files.predictions):
            return None
        return self.dump(data, _private(f), **options)

    def evaluate(
        self, stock: Callable[..., Any], files: Files, data: Any, answered: set[str], **options: Any
    ) -> Outcome:
        """Judge what is answered.

        Args:
            stock: the dataset's `evaluate`.
            files: its files.
            data: its samples that are to be scored.
            answered: indexes of those that are answered, as text.
            options: of VLMEvalKit's, for the judge.
        """
        outcome = Outcome()
        groups = group_of(files.dataset, data)
        self._files, self._lenient, self._unmapped = files, False, 0
        self.examples = outcome.examples
        torn = {group for row, group in groups.items() if row not in answered}
        rows = [row for row in groups if row in answered]
        while True:
            bad = torn | {groups[row] for row in outcome.fallbacks if row in groups}
            outcome.scored = [row for row in rows if groups[row] not in bad]
            outcome.left_out = [row for row in rows if groups[row] in bad and row not in outcome.fallbacks]
            self._rows = set(outcome.scored)
            if not self._rows:
                break
            for path in files.made():
                if path.suffix != ".pkl":
                    path.unlink()
            try:
                outcome.result = stock(str(files.predictions), **dict(options))
                break
            except Unjudged as error:
                found = {row: why for row, why in error.why.items() if row in self._rows}
                self._lenient = not found  # it counts in units that are no samples
                outcome.fallbacks.update(found)
        if self._unmapped:
            outcome.fallbacks[f"{self._unmapped} of its own units"] = "unmapped"
            for path in files.made():  # nobody can tell which of them have to be made again
                path.unlink()
        self._files = None
        return outcome

    def track(self, func: Any, tasks: Any = (), nproc: int = 1, save: Any = None, keys: Any = None, **_: Any) -> Any:
        """VLMEvalKit's `track_progress_rich`: it saves verdicts, and only those.

        Raises:
            Unjudged: when all is done, if some have none.
        """
        tasks = list(tasks)
        names = [str(key) for key in keys] if keys is not None else [f"#{number}" for number in range(len(tasks))]
        saved = self.load(save) if save and Path(save).exists() else {}
        results: list[Any] = [None] * len(tasks)
        bad: dict[str, str] = {}
        last = time.monotonic()
        if self._files is not None:
            total = len(saved) + len(tasks)
            self._progress.begin(self._files.dataset, judging=True, total=total, saved=len(saved))
        with ThreadPoolExecutor(max(1, min(nproc, len(tasks)))) as pool:
            futures = {pool.submit(self._one, func, task): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                number = futures[future]
                results[number], why = future.result()
                self._progress.sample(failed=why is not None)
                if why is not None:
                    bad[names[number]] = why
                elif keys is not None:
                    saved[keys[number]] = results[number]
                if save and time.monotonic() - last > SAVE_EVERY_S:
                    self.dump(saved, save)
                    last = time.monotonic()
        if save:
            self.dump(saved, save)
        if bad and not self._lenient:
            raise Unjudged(bad)
        if bad:
            self._unmapped += len(bad)
            if save and keys is not None:
                self.dump({**saved, **dict(zip(keys, results, strict=True))}, save)
        return results

    def _one(self, func: Any, task: Any) -> tuple[Any, str | None]:
        """A verdict, and why it is none."""
        self.heard.failed, self.heard.said = None, ""
        result = None
        try:
            if isinstance(task, dict):
                result = func(**task)
            else:
                result = func(*task) if isinstance(task, (tuple, list)) else func(task)
        except NoVerdict as error:
            return None, self._missing(error.kind, str(error))
        except Exception as error:  # noqa: BLE001 - one sample that a dataset's code cannot take must not cost the others
            traceback.print_exc()
            return None, self._missing("error", f"{type(error).__name__}: {error}")
        if self.heard.failed:
            return result, self._missing(*map(str, self.heard.failed))
        return result, self._missing("unreadable", self.heard.said) if is_fallback(result, task) else None

    def _missing(self, kind: str, said: str) -> str:
        """Keep the first example of each kind."""
        self.examples.setdefault(kind, masked(said)[:500])
        return kind


def _private(path: Any) -> Any:
    """Where a file goes: VLMEvalKit names some in /tmp by the second, so that two runs would share them."""
    if isinstance(path, str) and os.path.dirname(path) == "/tmp":
        return os.path.join(tempfile.gettempdir(), os.path.basename(path))
    return path


def is_fallback(result: Any, task: Any) -> bool:
    """Whether VLMEvalKit writes of a verdict that it is none of the judge's."""
    texts = [str(value) for value in (result.values() if isinstance(result, dict) else [result])]
    values = task.values() if isinstance(task, dict) else task if isinstance(task, (tuple, list)) else [task]
    for item in values:
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            answer = str(item["prediction"])  # it may say anything, and logs repeat it
            texts = [text.replace(answer, "") for text in texts]
    return any(_FALLBACK.search(text) for text in texts)


def group_of(dataset: str, data: Any) -> dict[str, str]:
    """The group of each sample of a dataset, by index as text: a score is of whole groups.

    Circular evaluation asks a question once for every order of its options; DynaMath asks it with several numbers.
    """
    indexes = [str(index) for index in data["index"]]
    if "qid" in data and dataset.startswith("DynaMath"):
        return dict(zip(indexes, (str(item) for item in data["qid"]), strict=True))
    if any(name in dataset.lower() for name in ("mmbench", "ccbench", "circular", "mmcr")):
        if "g_index" in data:
            return dict(zip(indexes, (str(item) for item in data["g_index"]), strict=True))
        return {index: str(int(index) % 1_000_000) for index in indexes}
    return {index: index for index in indexes}


def drop_stale(files: Files, load: Any, dump: Any, answers: dict[str, str], groups: dict[str, str]) -> int:
    """Remove verdicts that are none on the answers that are saved now; remember what the next ones are on.

    Args:
        files: the dataset's.
        load: VLMEvalKit's own.
        dump: that, made whole.
        answers: what is saved now, by index as text.
        groups: the group of each.

    Returns:
        How many there were.
    """
    members: dict[str, list[str]] = {}
    for row in sorted(answers):
        members.setdefault(groups.get(row, row), []).append(row)
    circular = not files.dataset.startswith("DynaMath")
    now = {
        row: digest(*(answers[other] for other in (members[groups.get(row, row)] if circular else [row])))
        for row in answers
    }
    before = files.read().get("verdicts_on") or {}
    dropped = 0
    for path in files.verdicts():
        try:
            saved = load(str(path))
        except Exception:  # noqa: BLE001 - torn by a kill, in one of many ways
            path.unlink()
            continue
        if not isinstance(saved, dict):
            path.unlink()
            continue
        keep = {
            key: value
            for key, value in saved.items()
            if str(key) in now
            and before.get(str(key)) == now[str(key)]
            and not _FALLBACK.search(_log(value, answers, key))
        }
        if len(keep) != len(saved):
            dropped += len(saved) - len(keep)
            dump(keep, str(path))
    files.write(verdicts_on={**now})
    forget(files)
    return dropped


def _log(value: Any, answers: dict[str, str], key: Any) -> str:
    text = " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
    return text.replace(answers.get(str(key), "\0"), "")
