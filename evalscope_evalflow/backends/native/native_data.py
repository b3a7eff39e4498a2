"""Where EvalScope stumbles on data: its errors are given the dataset, the file and the row.

Much of it is found before a start (native_data_checks.py); this is for what was not looked at there: the rest of large
files, Parquet, the benchmarks of EvalScope's own, and files that vanish while a run goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from evalscope_evalflow.events import any_json

_SHOWN = 300  # characters of an error
_READERS = ("jsonl_to_list", "csv_to_list", "tsv_to_list", "parquet_to_list")


class DataError(ValueError):
    """Data is not as EvalScope needs it; the message says which."""


class DataErrors:
    """What of EvalScope's loading is watched.

    Attributes:
        file: the file that was read last; empty where it is none of the user's.
    """

    def __init__(self) -> None:
        self.file = ""
        self._rows: dict[str, Callable[[int], str]] = {}  # where a sample of a subset comes from

    def begin(self) -> None:
        """Another dataset is loaded from now on."""
        self.file = ""
        self._rows.clear()

    def row(self, subset: str, sample: int | None) -> str:
        """Where a sample comes from, as the beginning of a sentence; empty where that is not known."""
        return self._rows[subset](sample) if subset in self._rows and sample is not None else ""

    def watch(self) -> None:
        """Have EvalScope's loader say where it is."""
        from evalscope.api.dataset import loader

        for name in _READERS:
            if hasattr(loader, name):
                setattr(loader, name, self._reading(getattr(loader, name)))
        if hasattr(loader, "data_to_samples"):
            loader.data_to_samples = self._making(loader.data_to_samples)
        loader.LocalDataLoader.load = self._loading(loader.LocalDataLoader.load)

    def named(self, dataset: str, error: Exception) -> Exception:
        """An error that ended a dataset, with the dataset's name."""
        if isinstance(error, DataError):
            return DataError(f"{dataset}, {error}")
        return DataError(f"{dataset}: {type(error).__name__}: {error}")

    def _loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def load_and_note(loader: Any) -> Any:
            found = load(loader)
            file, shuffled, repeats = self.file, bool(loader.shuffle), max(1, int(loader.repeats or 1))
            # The first is what is asked; few-shot examples come after it.
            self._rows.setdefault(
                str(loader.subset),
                lambda sample: f"{file}: " if shuffled else f"{file}, row {sample // repeats + 1}: ",
            )
            return found

        return load_and_note

    def _reading(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def read_and_say(path: str, *args: Any, **options: Any) -> Any:
            self.file = str(path)
            try:
                return read(path, *args, **options)
            except Exception as error:
                line = broken_line(self.file)
                raise DataError(f"{self.file}{f':{line}' if line else ''}: {said(error)}") from error

        return read_and_say

    def _making(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def make_and_say(data: Any, data_to_sample: Callable[..., Any], *args: Any, **options: Any) -> Any:
            number = 0

            def convert(*inner: Any, **more: Any) -> Any:
                nonlocal number
                number += 1
                try:
                    return data_to_sample(*inner, **more)
                except Exception as error:
                    where = f"{self.file}, row {number}" if self.file else f"row {number} of its data"
                    raise DataError(f"{where}: {said(error)}") from error

            return make(data, convert, *args, **options)

        return make_and_say


def said(error: Exception) -> str:
    """An error in words."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"


def broken_line(path: str) -> int | None:
    """The first line that is no UTF-8, or, of JSON lines, no JSON; None if all are."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    text = line.decode("utf-8-sig").strip()
                    if text and path.endswith(".jsonl"):
                        any_json.loads(text)
                except ValueError:
                    return number
    except OSError:
        pass
    return None


def missing_files(messages: Any) -> list[str]:
    """Files of pictures, sounds and videos that a sample's messages name, and that are not there."""
    found = []
    for message in messages if isinstance(messages, list) else ():
        content = getattr(message, "content", None)
        for part in content if isinstance(content, list) else ():
            for kind in ("image", "video", "audio"):
                value = getattr(part, kind, None)
                if isinstance(value, str) and not value.startswith(("http://", "https://", "data:")):
                    found += [value] if not os.path.exists(value) else []
    return found


def is_half_a_character(error: BaseException | None) -> bool:
    """Whether a request could not be sent as its text has half of a character in it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, UnicodeEncodeError):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False
