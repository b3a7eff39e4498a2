"""Which benchmark the user's own data is for, by its columns: for `evalflow init --data`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.data_files import BrokenFile, DataFile, Patience
from evalscope_evalflow.config import catalog
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import ConfigError, Problem

NATIVE, VLMEVALKIT = "Native", "VLMEvalKit"
ENDINGS = (".jsonl", ".csv", ".tsv")
_WHERE = "--data"
_ROWS = 50  # looked at: the first may lack what others have
# A file `mine_val.jsonl` is the subset `mine`.
_SPLITS = {"general_mcq": "val", "general_vmcq": "val", "general_qa": "test", "general_vqa": "test"}
_FORMS = """\
    multiple choice:           {"question": "…", "A": "…", "B": "…", "answer": "A"}
    open questions:            {"query": "…", "response": "…"}
    choice with pictures:      {"question": "… <image 1>", "options": ["…", "…"], "image_1": "a.png", "answer": "A"}
    questions with pictures:   {"messages": [{"role": "user", "content": […]}], "answer": "…"}
    VLMEvalKit's, in a .tsv:   index, question, image (base64) or image_path, A, B, …, answer"""


@dataclass(frozen=True)
class DataKind:
    """What data is.

    Attributes:
        backend: the stock backend that reads it.
        dataset: the benchmark's name.
        words: it in words, for the user.
        settings: its `dataset_args`; `local_path` is absolute.
        files: the files that were recognised.
    """

    backend: str
    dataset: str
    words: str
    settings: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def recognise(data: str) -> DataKind:
    """What a file is, or a folder of files of one kind.

    Args:
        data: its path.

    Raises:
        ConfigError: there is none, it cannot be read, or its columns are those of no benchmark.
    """
    place = user_path(data)
    if not os.path.exists(place):
        raise ConfigError(Problem(_WHERE, f"{data} does not exist", _nearest(place)))
    files = sorted(path for path in place.iterdir() if path.suffix in ENDINGS) if os.path.isdir(place) else [place]
    if not files:
        raise ConfigError(Problem(_WHERE, f"{data} holds no data file", f"Known: {', '.join(ENDINGS)}."))
    kinds = {path: _dataset_of(path) for path in files}
    found = set(kinds.values())
    if len(found) > 1:
        listed = "; ".join(f"{path.name}: {kind}" for path, kind in kinds.items())
        raise ConfigError(Problem(_WHERE, f"the files in {data} are of several kinds: {listed}", "Give one of them."))
    kind = found.pop()
    if kind == VLMEVALKIT:
        return _of_vlmevalkit(files)
    return _native(kind, files)


def _native(kind: str, files: Sequence[Path]) -> DataKind:
    split = _SPLITS[kind]
    subsets = [path.stem.removesuffix(f"_{split}") for path in files if not path.stem.endswith("_dev")]
    settings: dict[str, Any] = {"local_path": os.path.abspath(files[0].parent), "subset_list": subsets}
    if kind in ("general_qa", "general_vqa"):
        settings["metric_list"] = ["Rouge"]  # BLEU would download nltk's data
    words = {
        "general_mcq": "multiple choice",
        "general_qa": "open questions",
        "general_vmcq": "multiple choice with pictures",
        "general_vqa": "questions with pictures",
    }[kind]
    return DataKind(NATIVE, kind, words, settings, tuple(files))


def _of_vlmevalkit(files: Sequence[Path]) -> DataKind:
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ConfigError(
            Problem(_WHERE, f"each of {names} is a dataset of its own to VLMEvalKit", "Give one of them.")
        )
    words = "multiple choice with pictures, for VLMEvalKit"
    return DataKind(VLMEVALKIT, files[0].stem, words, {}, tuple(files))


def link_into_lmudata(path: Path) -> Path | None:
    """Put a link to a file where VLMEvalKit looks for it.

    Returns:
        The link; None: it is there already.

    Raises:
        ConfigError: another file has its name there, or nothing can be written there.
    """
    target = catalog.lmudata() / path.name
    try:
        if os.path.exists(target):
            if target.samefile(path):
                return None
            todo = f"Rename {path}: a dataset is called like its file."
            raise ConfigError(Problem(_WHERE, f"VLMEvalKit's folder has another {target}", todo))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    except OSError as error:
        raise ConfigError(Problem(_WHERE, f"{target} cannot be written: {error.strerror}", "Set LMUData.")) from None
    return target


def _dataset_of(path: Path) -> str:
    """The benchmark of one file, or `VLMEvalKit`."""
    if path.suffix not in ENDINGS:
        what = f"{path} is of a kind that is not read here"
        raise ConfigError(Problem(_WHERE, what, f"Known: {', '.join(ENDINGS)}. Parquet files go into dataset_args."))
    try:
        rows = list(_some(path))
    except BrokenFile as error:
        raise ConfigError(Problem(f"{path}:{error.line}", error.what, error.todo)) from None
    if not rows:
        raise ConfigError(Problem(_WHERE, f"{path} has no rows", "Write a question on each line."))
    columns = {str(name) for row in rows for name, value in row.items() if value not in (None, "")}
    kind = _kind_of(columns, path.suffix)
    if kind is None:
        asked = sorted(columns & {"query", "question", "messages"})
        if asked and not columns & {"response", "answer", "options", "A", "image", "images"}:
            right = "answer" if "messages" in columns else "response"
            has = ", ".join(sorted(columns))
            what = f"{path} has {has}, and {right}, the right answer to score against, is missing"
            raise ConfigError(Problem(_WHERE, what, f'Add it to each row, as in {{"{asked[0]}": …, "{right}": "…"}}.'))
        has = ", ".join(sorted(columns)) or "nothing"
        raise ConfigError(
            Problem(_WHERE, f"{path} has {has}, which is what no benchmark reads", f"These are known:\n{_FORMS}")
        )
    return kind


def _some(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, row in enumerate(DataFile(path, Patience()).rows()):
        if number == _ROWS:
            return
        yield row.values


def _kind_of(columns: set[str], ending: str) -> str | None:
    letters = {"A", "B"} <= columns
    if ending == ".tsv" and "question" in columns and letters and columns & {"image", "image_path"}:
        return VLMEVALKIT
    if "options" in columns and "question" in columns:
        return "general_vmcq"
    if letters and "question" in columns:
        return "general_mcq"
    pictures = any(name in ("images", "image") or name.startswith("image_") for name in columns)
    if "messages" in columns and "answer" in columns and not columns & {"query", "question", "response"}:
        return "general_vqa"
    if columns & {"query", "question", "messages"} and columns & {"response", "answer"} and not pictures:
        return "general_qa"
    return None


def _nearest(place: Path) -> str:
    from evalscope_evalflow.errors import nearest

    beside = [path.name for path in place.parent.iterdir()] if os.path.isdir(place.parent) else []
    return nearest(place.name, beside)
