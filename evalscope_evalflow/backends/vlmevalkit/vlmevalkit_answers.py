"""The answers on one dataset: in VLMEvalKit's file, which holds nothing else, and on their way there."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import FAILED, Files, Journal
from evalscope_evalflow.worker.request_failures import Failures, Unanswered


class Answers:
    """What is answered, what is to be asked, and what failed."""

    def __init__(
        self,
        files: Files,
        dataset: Any,
        limit: int | None,
        failures: Failures,
        load: Callable[..., Any],
        dump: Callable[..., Any],
    ) -> None:
        """
        Args:
            files: the dataset's files.
            dataset: VLMEvalKit's object.
            limit: how many samples are asked for; None for all.
            failures: where failures are written down, and known from.
            load: VLMEvalKit's own.
            dump: that, made whole.
        """
        self.files, self.dataset, self.failures = files, dataset, failures
        self.load, self.dump = load, dump
        indexes = [str(index) for index in dataset.data["index"]]
        self.rows = indexes[:limit] if limit else indexes
        self._place = {index: number for number, index in enumerate(indexes)}
        self.failed: dict[str, dict[str, Any]] = {}  # in this run
        self.journal: Journal | None = None

    def saved(self) -> Any:
        """The file as a DataFrame, without texts of failures; None if there is none."""
        if not self.files.predictions.exists():
            return None
        data = self.files.with_texts(self.load(str(self.files.predictions)))
        return data[~data["prediction"].str.startswith(FAILED)]

    def texts(self) -> dict[str, str]:
        """Every answer in the file, by index as text."""
        data = self.saved()
        if data is None:
            return {}
        return {str(index): str(text) for index, text in zip(data["index"], data["prediction"], strict=True)}

    def answered(self) -> set[str]:
        """Indexes of the samples that are asked for and answered."""
        return set(self.texts()) & set(self.rows)

    def clean(self) -> None:
        """Keep of what earlier runs left only answers, and all of those in the file."""
        files, data = self.files, self.dataset.data
        came = files.read_journal()
        for path in files.unfinished():
            if path.name.endswith("_supp.pkl"):  # of a run that VLMEvalKit did by itself, and that was killed
                try:
                    came = {**{str(key): str(value) for key, value in self.load(str(path)).items()}, **came}
                except Exception:  # noqa: BLE001 - torn by a kill, in one of many ways
                    traceback.print_exc()
            path.unlink()
        have = self.texts()
        came = {row: text for row, text in came.items() if row not in have and FAILED not in text}
        lines = data[data["index"].astype(str).isin(set(came))].copy()
        lines["prediction"] = [came[str(index)] for index in lines["index"]]
        files.keep_long(came)
        self._save(self.saved(), lines.drop(columns="image", errors="ignore"))
        files.journal.unlink(missing_ok=True)
        files.write(stamp=files.stamp(), answered=len(self.answered()))

    def to_ask(self) -> list[str]:
        """Samples without an answer, apart from those that failed permanently."""
        have = self.answered()
        return [row for row in self.rows if row not in have and not self._fails_permanently(row)]

    def ask(self, stock: Callable[[], Any]) -> Any:
        """Have VLMEvalKit ask for what is missing; what it makes of failures does not stay in its file."""
        kept = self.saved()
        self.failed.clear()
        self.journal = Journal(self.files)
        result = stock()
        self.files.keep_long(self.files.read_journal())
        new = self.saved()
        # What was there stays: a smaller limit would cut it, and "None" would come back as "nan".
        if kept is not None and new is not None:
            new = new[~new["index"].astype(str).isin(set(kept["index"].astype(str)))]
        self._save(new, kept)
        for path in self.files.unfinished():
            path.unlink()
        return result

    def finish(self) -> tuple[int, int]:
        """Write down how many are asked for, and how many answered; return that."""
        have = self.answered()
        failed = {**self.files.read().get("failed", {}), **self.failed}
        failed = {row: item for row, item in failed.items() if row in set(self.rows) - have}
        self.files.write(
            stamp=self.files.stamp(), requested=len(self.rows), answered=len(have), failed=failed, error=None
        )  # fmt: skip
        self.files.journal.unlink(missing_ok=True)
        return len(self.rows), len(have)

    def cause(self, message: Any) -> str:
        """What makes this request fail, if it does."""
        return self.failures.cause(json.dumps(message, default=str))

    def _fails_permanently(self, row: str) -> bool:
        known = self.files.read().get("failed", {}).get(row)
        if not known or known["transient"]:
            return False
        line = self.dataset.data.iloc[self._place[row]]
        try:
            self.failures.expect(self.files.dataset, "default", row, self.cause(self.dataset.build_prompt(line)))
        except Unanswered:
            return True
        return False

    def _save(self, *parts: Any) -> None:
        """Make the file, in the order of the dataset."""
        import pandas

        files = self.files
        frames = [part for part in parts if part is not None and len(part)]
        if not frames:
            files.predictions.unlink(missing_ok=True)
            return
        whole = pandas.concat(frames, ignore_index=True)
        last = len(self._place)
        order = sorted(range(len(whole)), key=lambda number: self._place.get(str(whole["index"].iloc[number]), last))
        files.folder.mkdir(parents=True, exist_ok=True)
        self.dump(whole.iloc[order], str(files.predictions))
