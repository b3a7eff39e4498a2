"""The answers on one dataset: in VLMEvalKit's file, which holds nothing else, and on their way there."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_data import data_file, missing_pictures
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import FAILED, Files, Journal
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_judging import group_of
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_rows_files import (
    Followed,
    follow,
    read_aside,
    rows_of,
    write_aside,
)
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_samples_files import forget
from evalscope_evalflow.events.worker_events import RowsAligned
from evalscope_evalflow.worker.answer_kinds import KindsFile
from evalscope_evalflow.worker.channel import Channel
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
        self.load, self.dump, self.limit = load, dump, limit
        self.realigned: Followed | None = None  # what became of saved answers, where the data has changed
        indexes = [str(index) for index in dataset.data["index"]]
        self.rows = indexes[:limit] if limit else indexes
        self.place = {index: number for number, index in enumerate(indexes)}
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

    def chosen(self) -> Any:
        """The samples that are asked for, as a DataFrame."""
        data = self.dataset.data
        return data[data["index"].astype(str).isin(set(self.rows))]

    def answered(self) -> set[str]:
        """Indexes of the samples that are asked for and answered."""
        return set(self.texts()) & set(self.rows)

    def clean(self) -> None:
        """Keep of what earlier runs left only answers, and all of those in the file."""
        files, data = self.files, self.dataset.data
        came = files.read_journal()
        for path in files.unfinished():
            if path.name.endswith(
                ("_supp.pkl", "_checkpoint.pkl")
            ):  # of a run that VLMEvalKit did by itself, and that was killed
                try:
                    came = {**{str(key): str(value) for key, value in self.load(str(path)).items()}, **came}
                except Exception:  # noqa: BLE001 - torn by a kill, in one of many ways
                    traceback.print_exc()
            path.unlink()
        have = self.texts()
        came = {row: text for row, text in came.items() if row not in have and FAILED not in text}
        known = files.rows()
        content = (files.read().get("data") or {}).get("content")
        same = bool(known and content and files.loaded and files.loaded["content"] == content)
        rows = known if same else rows_of(data)
        if known not in ({}, rows):
            self._follow_rows({**have, **came}, known, rows)
        else:
            self._save(self.saved(), self._lines(came))
        if known != rows:
            files.write_rows(rows)
        files.journal.unlink(missing_ok=True)
        more = {} if files.loaded is None else {"data": files.loaded}
        answered, chosen = len(self.answered()), {"limit": self.limit}
        files.write(stamp=files.stamp(), answered=answered, requested=len(self.rows), chosen=chosen, **more)

    def _lines(self, texts: Mapping[str, str]) -> Any:
        """Rows of the answers' file; texts that are too long for it are kept beside it."""
        data = self.dataset.data
        lines = data[data["index"].astype(str).isin(set(texts))].copy()
        lines["prediction"] = [texts[str(index)] for index in lines["index"]]
        self.files.keep_long(dict(texts))
        return lines.drop(columns="image", errors="ignore")

    def _follow_rows(self, texts: dict[str, str], before: dict[str, list[str]], rows: dict[str, list[str]]) -> None:
        """The data has changed: each answer goes to where its row is now, or aside."""
        files = self.files
        aside = read_aside(files.put_aside)
        found = follow(before, rows, texts, aside)
        write_aside(files.put_aside, [*aside, *found.aside])  # first, so that no answer is ever in neither place
        state = files.read()
        groups = group_of(files.dataset, self.dataset.data)
        torn = {groups.get(row, row) for row in found.changed}
        on = {row: on for row, on in (state.get("verdicts_on") or {}).items() if groups.get(row, row) not in torn}
        failed = {row: item for row, item in (state.get("failed") or {}).items() if row not in found.moved}
        files.write(verdicts_on=on, failed=failed)
        self._save(self._lines(found.texts))
        write_aside(files.put_aside, found.aside)
        self.realigned = found

    def to_ask(self) -> list[str]:
        """Samples without an answer, apart from those that failed permanently."""
        have = self.answered()
        return [row for row in self.rows if row not in have and not self._fails_permanently(row)]

    def ask(self, stock: Callable[[], Any]) -> Any:
        """Have VLMEvalKit ask for what is missing; what it makes of failures does not stay in its file."""
        kept = self.saved()
        self.failed.clear()
        forget(self.files)
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
        """What makes this request fail, if it does: a picture that is missing, or what is asked."""
        return self.failures.cause(json.dumps(missing_pictures(message) or message, default=str))

    def check_pictures(self, row: str, message: Any) -> None:
        """Whether the pictures of a request are there.

        Raises:
            Unanswered: one is not.
        """
        for path in missing_pictures(message):
            where = f"{data_file(self.files.dataset)}, row {self.place.get(row, 0) + 1}"
            raise Unanswered("bad_data", False, f"{where}: {path} does not exist")

    def _fails_permanently(self, row: str) -> bool:
        known = self.files.read().get("failed", {}).get(row)
        if not known or known["transient"]:
            return False
        line = self.dataset.data.iloc[self.place[row]]
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
        last = len(self.place)
        order = sorted(range(len(whole)), key=lambda number: self.place.get(str(whole["index"].iloc[number]), last))
        files.folder.mkdir(parents=True, exist_ok=True)
        self.dump(whole.iloc[order], str(files.predictions))


def bring_in_line(answers: Answers, kinds: KindsFile, channel: Channel) -> None:
    """Keep of what is saved what is an answer to a row of today, and report what has changed.

    Args:
        answers: those on one dataset.
        kinds: what is unusual about answers.
        channel: to the parent.
    """
    dataset, before = answers.files.dataset, len(read_aside(answers.files.put_aside))
    answers.realigned = None
    answers.clean()
    found = answers.realigned
    if found is not None:
        kinds.forget(dataset, "default", found.moved)
        anew = sum(row in found.changed and row not in found.moved for row in found.texts)
        aside = len(found.aside) - before
        channel.emit(RowsAligned(dataset, max(0, aside), max(0, -aside), anew))
