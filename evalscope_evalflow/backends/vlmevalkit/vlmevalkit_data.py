"""VLMEvalKit's datasets: their files, and what is put right in how they are scored."""

from __future__ import annotations

import importlib
import os
import ssl
import sys
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files
from evalscope_evalflow.worker.content import content_of
from evalscope_evalflow.worker.import_ahead import uncollected

# Variables by which VLMEvalKit would write files of another kind, or to another place, or ask another class of client.
ELSEWHERE = ("MMEVAL_ROOT", "PRED_FORMAT", "EVAL_FORMAT", "FWD_API")
_REFERENCE = 64  # characters; a shorter picture is the index of another row


class DataError(ValueError):
    """A dataset's file is not as it should be; the message says what to do."""


def check_data_folder() -> None:
    """Whether LMUData, if it is set, is a folder: VLMEvalKit would take another one without a word."""
    folder = os.environ.get("LMUData")  # noqa: SIM112 - VLMEvalKit's own name
    if folder and not os.path.isdir(folder):
        raise ValueError(f"LMUData names {folder}, which does not exist: it is the folder of VLMEvalKit's data")


def data_file(dataset: str) -> Path:
    """Where VLMEvalKit looks for a dataset."""
    from vlmeval.smp import LMUDataRoot

    return Path(LMUDataRoot()) / f"{dataset}.tsv"


def load_dataset(dataset: str, build: Callable[[str], Any], files: Files, verify_md5: bool) -> Any:
    """A dataset of VLMEvalKit's, or of the user's.

    Args:
        dataset: its name.
        build: VLMEvalKit's `build_dataset`.
        files: its files in the run folder.
        verify_md5: whether it has to be the published one.

    Raises:
        DataError: it is not there, is another, or cannot be scored.
    """
    from vlmeval.dataset import DATASET_CLASSES
    from vlmeval.smp import md5

    file = data_file(dataset)
    kind: Any = next((item for item in DATASET_CLASSES if dataset in item.supported_datasets()), None)
    published = dict(getattr(kind, "DATASET_MD5", None) or {}) if kind else {}
    url = (getattr(kind, "DATASET_URL", None) or {}).get(dataset) if kind else None
    if kind is None and not file.exists():
        raise DataError(f"VLMEvalKit has no dataset {dataset!r}, and {file} does not exist: put your own there")
    own = file.exists() and published.get(dataset) and md5(str(file)) != published[dataset]
    if own and verify_md5:  # VLMEvalKit would overwrite it
        raise DataError(
            f"{file} is not the published {dataset} (its MD5 differs): set `verify_md5: false` to evaluate it all the "
            "same, or remove it to have the published one downloaded"
        )
    if own:
        kind.DATASET_MD5 = {name: value for name, value in published.items() if name != dataset}
    try:
        found = build(dataset)
    except Exception as error:
        where = f" from {url}" if url else ""
        if not file.exists():
            raise DataError(f"{dataset} cannot be downloaded{where} ({error}): put its file at {file}") from error
        row = row_without_picture(file) if isinstance(error, AssertionError) else ""
        raise DataError(f"{dataset} cannot be read from {file}{row}: {said(error)}") from error
    if found is None:
        raise DataError(f"VLMEvalKit does not take {file}: it needs a column `question`")
    if type(found).__name__ == "CustomVQADataset":
        raise DataError(
            f"{dataset}: VLMEvalKit does not score open questions of your own: give options in columns A, B, …"
        )
    if kind is None:
        _check_indexes(dataset, file, found.data)
    _check_same(dataset, file, files)
    files.write(own=bool(own or kind is None), unpublished=bool(own))
    if (own or kind is None) and getattr(found, "img_root", None):
        from vlmeval.smp import decode_base64_to_image_file

        renew_pictures(found.data, Path(found.img_root), file.stat().st_mtime_ns, decode_base64_to_image_file)
    return found


def renew_pictures(data: Any, folder: Path, changed_ns: int, decode: Callable[[str, str], Any]) -> None:
    """Write pictures anew that VLMEvalKit wrote before the dataset's file was changed: it would ask with the old ones.

    Args:
        data: the dataset's rows.
        folder: where VLMEvalKit writes pictures.
        changed_ns: when the dataset's file was changed (ns since the epoch).
        decode: writes a picture in base64 to a file.
    """
    if "image" not in data or "image_path" in data or not folder.is_dir():  # paths are the user's own files
        return
    for index, pictures in zip(data["index"], data["image"], strict=True):
        several = isinstance(pictures, list)
        for number, picture in enumerate(pictures if several else [pictures]):
            path = folder / (f"{index}_{number}.png" if several else f"{index}.jpg")
            try:
                if path.stat().st_mtime_ns >= changed_ns:
                    continue
            except OSError:
                continue  # not written yet
            new = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
            try:
                decode(picture, str(new))
                os.replace(new, path)  # at once: another run may be reading it
            finally:
                new.unlink(missing_ok=True)


def row_without_picture(file: Path) -> str:
    """Which row has a short text for a picture that is the index of no row; empty if none has."""
    import pandas

    try:
        data = pandas.read_csv(file, sep="\t", usecols=["index", "image"], dtype=str).dropna()
    except ValueError:  # it has no such columns, or cannot be read
        return ""
    whole = set(data["index"][data["image"].str.len() > _REFERENCE])
    for number, index, picture in zip(data.index, data["index"], data["image"], strict=True):
        if len(picture) <= _REFERENCE and picture not in whole:
            return f", row {number + 1} (index {index})"
    return ""


def said(error: Exception) -> str:
    """An error of VLMEvalKit's, which asserts much and says little, in words."""
    if isinstance(error, KeyError):
        return f"it has no column {error}"
    if isinstance(error, AssertionError) and not str(error):
        return "it did not expect a row: a picture may be empty, or neither base64 nor the index of a row with one"
    return f"{type(error).__name__}: {error}"


def naming_rows(build: Callable[..., Any], file: Path, place: Mapping[str, int]) -> Callable[..., Any]:
    """VLMEvalKit's `build_prompt`, whose errors say which row it is.

    Args:
        build: it.
        file: the dataset's.
        place: the number of each row, from 0, by its index as text.
    """

    def build_and_say(line: Any, *args: Any, **options: Any) -> Any:
        try:
            return build(line, *args, **options)
        except Exception as error:
            if isinstance(line, Integral):
                row = f"row {int(line) + 1}"
            else:
                index = str(line["index"])
                row = f"row {place[index] + 1} (index {index})" if index in place else f"the row of index {index}"
            raise DataError(f"{file}, {row}: {said(error)}") from error

    return build_and_say


def missing_pictures(message: Any) -> list[str]:
    """Files of pictures that a prompt of VLMEvalKit's names, and that are not there."""
    parts = [item for item in message if isinstance(item, dict)] if isinstance(message, list) else []
    paths = [str(part.get("value")) for part in parts if part.get("type") == "image"]
    return [
        path for path in paths if not path.startswith(("http://", "https://", "data:")) and not os.path.exists(path)
    ]


def _check_indexes(dataset: str, file: Path, data: Any) -> None:
    """Whether each row has an index of its own: answers are kept by it."""
    indexes = data["index"]
    twice = [str(index) for index in indexes[indexes.duplicated()][:5]]
    if twice:
        raise DataError(f"{dataset}, {file}: several rows have the index {', '.join(twice)}: number each row anew")


def _check_same(dataset: str, file: Path, files: Files) -> None:
    """Take note of the file's content, which is looked at only if its size or time has changed.

    Raises:
        DataError: it is another than the one that was answered, by a version of ours that did not tell rows apart.
    """
    if not file.exists():
        return
    found = file.stat()
    seen = [found.st_size, found.st_mtime_ns]
    before = files.read().get("data") or {}
    content = before.get("content") if before.get("seen") == seen else content_of(file)
    answered = files.predictions.exists() or files.journal.exists()
    if before.get("content") not in (None, content) and answered and not files.rows():
        raise DataError(
            f"{file} has changed since it was answered: set `reuse: false` to put the answers aside and start afresh"
        )
    files.loaded = {"seen": seen, "content": content}


def check_same_version(files: Files, version: str) -> None:
    """Whether what is answered was asked by this version of VLMEvalKit, whose prompts are its own.

    Raises:
        DataError: it was not.
    """
    before = files.read().get("asked_by")
    if before not in (None, version) and files.predictions.exists():
        raise DataError(
            f"{files.dataset} was asked by ms-vlmeval {before}, and this is {version}, whose prompts may be others: "
            "set `reuse: false` to put the answers aside and start afresh"
        )
    files.write(asked_by=version)


def correct_wemath(wemath: Any) -> None:
    """Have WeMath divide by the questions that there are: 525 only of the whole dataset, and 0 of none mastered."""
    update = wemath.evaluate_update_main_results_df

    def total(counts: dict[str, int]) -> int:
        """All questions: each of them is of one of these."""
        return sum(
            counts[name]
            for name in (
                "InadequateGeneralization", "InsufficientKnowledge", "CompleteMastery_loose", "RoteMemorization_loose",
            )
        )  # fmt: skip

    def compute(metrics: dict[str, Any], total_count: int) -> Any:
        rows = {name: len(metrics[f"steps2_{key}"]) + len(metrics[f"steps3_{key}"]) for name, key in _WEMATH.items()}
        everything = total(rows) or 1
        rates = {f"{name}_rate": f"{number / everything:.2%}" for name, number in rows.items() if "Rote" not in name}
        for kind in ("loose", "strict"):
            rote = rows[f"RoteMemorization_{kind}"]
            rates[f"RoteMemorization_{kind}_rate"] = f"{rote / ((rows[f'CompleteMastery_{kind}'] + rote) or 1):.2%}"
        return rows, rates

    def update_all(frame: Any, counts: dict[str, int], rates: dict[str, str]) -> Any:
        frame = update(frame, counts, rates)
        for kind in ("strict", "loose"):
            lost = 0.5 * counts["InadequateGeneralization"] + counts["InsufficientKnowledge"]
            everything = total(counts)
            score = (everything - lost - counts[f"RoteMemorization_{kind}"]) / (everything or 1)
            frame.loc[len(frame) - 1, f"Score ({kind.capitalize()})"] = f"{score:.2%}"
        return frame

    wemath.evaluate_compute_final_scores, wemath.evaluate_update_main_results_df = compute, update_all


_WEMATH = {
    "InadequateGeneralization": "filtered_rows_2",
    "InsufficientKnowledge": "filtered_rows_3",
    "CompleteMastery_loose": "filtered_rows_4_loose",
    "CompleteMastery_strict": "filtered_rows_4_strict",
    "RoteMemorization_loose": "filtered_rows_1_loose",
    "RoteMemorization_strict": "filtered_rows_1_strict",
}


def import_vlmevalkit() -> None:
    """Import EvalScope and VLMEvalKit, without what that does to this process."""
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    verified = ssl._create_default_https_context
    with uncollected():
        importlib.import_module("evalscope.run")
        give_latex_comparison()
        for name in ("vlmeval.run", "vlmeval.dataset"):
            importlib.import_module(name)
    ssl._create_default_https_context = verified  # VLMEvalKit stops the whole process from looking at certificates


def give_latex_comparison() -> None:
    """Give VLMEvalKit a module that it misses, and without which MathVision takes equal formulas for different."""
    try:
        import latex2sympy2  # noqa: F401
    except ImportError:
        import latex2sympy2_extended

        sys.modules["latex2sympy2"] = latex2sympy2_extended
