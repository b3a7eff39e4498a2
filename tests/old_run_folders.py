"""Unpacks the run folders of EvalFlow 0.1 in `run_folders_0_1`, as if they had been made where they are unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "run_folders_0_1"
# Of the GGUF file that the runs had: EvalFlow 0.1 takes a file of another size or time for another model.
MODEL_BYTES = 98_362_432
MODEL_MTIME_NS = 1_750_000_000_000_000_000
NOBODY = "http://127.0.0.1:9/v1"  # nobody listens there


def unpack(
    name: str, target: Path, model: Path | None = None, judge: str = NOBODY, api: str = NOBODY, vlmeval: str = ""
) -> Path:
    """Put one of the run folders somewhere.

    Args:
        name: the fixture's, such as "complete".
        target: a folder, which is made; it may be there already, empty.
        model: the GGUF file; where its time is another than the runs' (see `model_of_the_runs`), a copy is put into
            `target` and used, 98 MB. Not for those of VLMEvalKit, whose model is an API.
        judge: base URL of the judge's API, for those that have a judge.
        api: base URL of the model's API, for those of VLMEvalKit.
        vlmeval: environment that has VLMEvalKit, for the same. They want `data` for their environment variable LMUData.

    Returns:
        The path of the task file; the run folder is `work` beside it (with a folder for each model in "sweep").
    """
    target = target.absolute()
    shutil.copytree(HERE / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("hashes.json"))
    if model is not None and model.stat().st_mtime_ns != MODEL_MTIME_NS:
        model = model_of_the_runs(model, target)
    path = "" if model is None else str(model.absolute())
    replaced = {"@ROOT@": str(target), "@MODEL@": path, "@JUDGE@": judge, "@API@": api, "@VLMEVAL@": vlmeval}
    # Some saved hashes are of texts that have these paths in them. hashes.json has the texts, in such an order that
    # a text with another hash in it comes after that one.
    for item in json.loads((HERE / name / "hashes.json").read_text(encoding="utf-8")):
        text = _replace(item["of"], replaced)
        replaced[item["saved"]] = hashlib.sha256(text.encode()).hexdigest()[: len(item["saved"])]
    for file in target.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".yaml", ".log"):
            before = file.read_text(encoding="utf-8")
            after = _replace(before, replaced)
            if after != before:
                file.write_text(after, encoding="utf-8")
    for cells in target.rglob("evalflow/cells.json"):
        _set_times(cells)
    return target / "task.yaml"


def model_of_the_runs(model: Path, folder: Path) -> Path:
    """A copy of the GGUF file in a folder, with the time that the runs' had: one does for many `unpack`s."""
    if model.stat().st_size != MODEL_BYTES:
        raise ValueError(f"{model} is not the model of the runs: it has not {MODEL_BYTES} bytes")
    copy = folder / model.name
    shutil.copyfile(model, copy)
    os.utime(copy, ns=(MODEL_MTIME_NS, MODEL_MTIME_NS))
    return copy


def _replace(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def _set_times(cells: Path) -> None:
    """Give files the times at which they were written, as 0.1 has noted them.

    A report with another time counts as none of ours, and is made anew; VLMEvalKit's answers with another time are
    counted by the worker alone. The other files would just be read again.
    """
    folder = cells.parents[1]
    for dataset, cell in _read(cells).items():
        for file, (_, written, _) in (cell["counted"] or {}).items():
            _stamp(folder / file, written)
        if cell["report"] is not None:
            _stamp(_only(folder, f"reports/*/{dataset}.json"), cell["report"])
    for file in (folder / "evalflow" / "vlmevalkit").glob("*.json"):
        state = _read(file)
        if state["stamp"] is not None:
            _stamp(_only(folder, f"*/*_{file.stem}.xlsx"), state["stamp"][1])
        _stamp(folder.parent / "data" / f"{file.stem}.tsv", state["data"]["seen"][1])


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _stamp(path: Path, written: int) -> None:
    os.utime(path, ns=(written, written))
