"""VLMEvalKit's files of one dataset in a run folder, and what we write beside them.

`TYPE/TYPE_DATA.xlsx` holds answers, and answers alone; verdicts are the `.pkl` files whose names go on from there; all
else with such a name is made of these two. Ours are `evalflow/vlmevalkit/DATA.json`, what the run knows of the dataset,
`DATA.answers.jsonl`, answers as they come, until the first file has them, `DATA.long.json`, whole, those that are
longer than a cell of Excel's, `DATA.rows.json`, by which rows are told apart, and `DATA.aside.jsonl`, answers to rows
that are not in the data now. Verdicts of earlier judges are in `evalflow/saved/DATA/verdicts`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.json_lines import append
from evalscope_evalflow.events.schema import ESCAPED, SCHEMA
from evalscope_evalflow.events.whole_files import write_whole

FAILED = "Failed to obtain answer"  # how the text of a failure begins that VLMEvalKit takes for an answer

CELL = 32_767  # most characters of a cell in Excel's files
_ESCAPE = re.compile("_x([0-9A-F]{4})_")  # how they write what XML cannot


def model_type(name: str) -> str:
    """How VLMEvalKit's files name a model, as EvalScope makes it."""
    return os.path.basename(name).replace(":", "-").replace(".", "_")


def datasets_in(work_dir: Path) -> set[str]:
    """Datasets that a run folder has files of, and some names that are none."""
    return {path.stem for path in (work_dir / "evalflow" / "vlmevalkit").glob("*.json")}


class Files:
    """The files of one dataset."""

    def __init__(self, work_dir: Path, model: str, dataset: str, others: Iterable[str] = ()) -> None:
        """
        Args:
            work_dir: the run folder.
            model: the model's name.
            dataset: the dataset's.
            others: all datasets that there are: the files of MathVision_MINI are none of MathVision.
        """
        self.dataset = dataset
        self.folder = work_dir / model_type(model)
        self.name = f"{model_type(model)}_{dataset}"
        self.predictions = self.folder / f"{self.name}.xlsx"
        longer = [name for name in others if name != dataset and name.startswith(dataset)]
        self._others = tuple(f"{model_type(model)}_{name}{end}" for name in longer for end in "._")
        ours = work_dir / "evalflow" / "vlmevalkit"
        self.state = ours / f"{dataset}.json"
        self.journal = ours / f"{dataset}.answers.jsonl"
        self.long = ours / f"{dataset}.long.json"
        self.put_aside = ours / f"{dataset}.aside.jsonl"
        self.report = work_dir / "reports" / model.replace("/", "_") / f"{dataset}.json"
        self.loaded: dict[str, Any] | None = None  # what tells the dataset's file, in the worker that has read it
        self._rows = ours / f"{dataset}.rows.json"
        self._earlier = work_dir / "evalflow" / "saved" / dataset / "verdicts"

    def unfinished(self) -> list[Path]:
        """Where VLMEvalKit keeps answers between their coming and the end of the dataset."""
        found = [self.folder / f"{self.name}_{end}.pkl" for end in ("supp", "checkpoint", "PREV")]
        return [path for path in (*found, self.folder / f"01_{self.dataset}.pkl") if path.exists()]

    def made(self) -> list[Path]:
        """Everything that is made of the answers."""
        if not self.folder.is_dir():
            return []
        names = [name for name in os.listdir(self.folder) if name.startswith(f"{self.name}_")]
        unfinished = self.unfinished()
        return [
            path
            for path in (self.folder / name for name in sorted(names) if not name.startswith(self._others))
            if path not in unfinished and path.is_file()
        ]

    def verdicts(self) -> list[Path]:
        """Verdicts, sample by sample."""
        return [path for path in self.made() if path.suffix == ".pkl"]

    def read(self) -> dict[str, Any]:
        """What the last run knew."""
        try:
            data = any_json.load_file(self.state)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # another OSError: it is there
            return {}
        return data if isinstance(data, dict) else {}

    def write(self, **changes: Any) -> None:
        """Change some of it."""
        data = {"schema": SCHEMA, **self.read(), **changes}
        write_whole(self.state, json.dumps(data, ensure_ascii=False, default=str), ESCAPED)

    def rows(self) -> dict[str, list[str]]:
        """Of each row that answers are to, by index as text: digests of what is asked, and of all of it."""
        try:
            data = any_json.load_file(self._rows)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # another OSError: it is there
            return {}
        found = data.get("rows") if isinstance(data, dict) else None
        return found if isinstance(found, dict) else {}

    def write_rows(self, rows: dict[str, list[str]]) -> None:
        """Write that down."""
        write_whole(self._rows, json.dumps({"schema": SCHEMA, "rows": rows}))

    def keep_verdicts(self, judge: str) -> bool:
        """Move the verdicts to where they are found when their judge is back; whether there are any."""
        found, folder = self.verdicts(), self._earlier / judge
        if not found:
            return False
        state = {"schema": SCHEMA, "verdicts_on": self.read().get("verdicts_on") or {}}
        write_whole(folder / "verdicts_on.json", json.dumps(state))  # first: without it the verdicts are of no use
        for path in found:
            os.replace(path, folder / path.name)
        return True

    def verdicts_of(self, judge: str) -> dict[str, str]:
        """What the verdicts of a judge that is not the last one are on, by index as text."""
        try:
            data = any_json.load_file(self._earlier / judge / "verdicts_on.json")
        except (FileNotFoundError, NotADirectoryError, ValueError):  # another OSError: it is there
            return {}
        return dict(data.get("verdicts_on") or {}) if isinstance(data, dict) else {}

    def bring_back_verdicts(self, judge: str) -> None:
        """Use the verdicts of an earlier judge again, where there are none by now."""
        known = self.verdicts_of(judge)
        if not known or self.verdicts():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self._earlier / judge).glob("*.pkl"):
            shutil.copy2(path, self.folder / path.name)
        self.write(verdicts_on=known)

    def keep_long(self, texts: dict[str, str]) -> None:
        """Keep answers whole that Excel would cut."""
        long = {row: text for row, text in texts.items() if len(text) > CELL}
        if long:
            write_whole(self.long, json.dumps({**self._long(), **long}, ensure_ascii=False), ESCAPED)

    def with_texts(self, data: Any) -> Any:
        """The answers' file as VLMEvalKit's `load` gives it, with answers as they are.

        Reading Excel's files makes a missing value of "None", "null" or "NA", and a number of "42".
        """
        import pandas

        raw = pandas.read_excel(self.predictions, usecols=["prediction"], dtype=str, keep_default_na=False)
        long = self._long()
        texts = [_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text) for text in raw["prediction"]]
        data["prediction"] = [
            long[str(index)] if len(text) == CELL and long.get(str(index), "").startswith(text) else text
            for index, text in zip(data["index"], texts, strict=True)
        ]
        return data

    def _long(self) -> dict[str, str]:
        try:
            data = any_json.load_file(self.long)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # another OSError: it is there
            return {}
        return data if isinstance(data, dict) else {}

    def stamp(self) -> list[int] | None:
        """What tells whether the answers' file is the one that we wrote."""
        try:
            found = self.predictions.stat()
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]

    def read_journal(self) -> dict[str, str]:
        """Answers that came since the file was written, by index as text."""
        found: dict[str, str] = {}
        if self.journal.exists():
            with self.journal.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line, of a killed process
                        item = any_json.loads(line)
                        found[str(item["index"])] = str(item["prediction"])
        return found


class Journal:
    """Answers as they come."""

    def __init__(self, files: Files) -> None:
        self._path = files.journal
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        append(self._path, "")  # a line that was torn must not swallow the next

    def add(self, index: Any, prediction: str) -> None:
        """Save one.

        Raises:
            FileError: it cannot be saved.
        """
        line = json.dumps({"index": str(index), "prediction": prediction}, ensure_ascii=False) + "\n"
        with self._lock:
            append(self._path, line, ESCAPED)


def digest(*texts: str) -> str:
    """A short fingerprint."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def whole_writes(dump: Any) -> Any:
    """VLMEvalKit's `dump`, which leaves the old file or the new one, whenever it is killed.

    Its Excel files lose no text: as it is, those that begin with `=` become formulas, and long ones nothing.
    """

    def dump_whole(data: Any, f: Any, **options: Any) -> Any:
        path = Path(f)
        if not path.parent.is_dir():
            return dump(data, f, **options)
        new = path.with_name(f".{path.stem}.new{path.suffix}")
        try:
            result = None
            if path.suffix == ".xlsx" and hasattr(data, "to_excel"):
                _write_excel(data, new)
            else:
                result = dump(data, str(new), **options)
            if not new.exists():  # ms-vlmeval 0.0.20 writes a pickle beside it, and goes on
                new.with_suffix(".pkl").unlink(missing_ok=True)
                raise OSError(f"VLMEvalKit could not write {path}")
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
        return result

    return dump_whole


def _write_excel(data: Any, path: Path) -> None:
    data = data.copy()
    for name in data.columns:
        if data[name].dtype.kind == "O":
            data[name] = [text[:CELL] if isinstance(text, str) else text for text in data[name]]
    options = {"strings_to_formulas": False, "strings_to_urls": False}
    data.to_excel(path, index=False, engine="xlsxwriter", engine_kwargs={"options": options})
