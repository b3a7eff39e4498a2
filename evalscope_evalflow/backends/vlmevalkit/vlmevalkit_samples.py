"""Samples of a run folder of the VLMEvalKit backend. VLMEvalKit's pickles are never read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from evalscope_evalflow.backends.missing_verdicts import MissingVerdict, reasons
from evalscope_evalflow.backends.native.native_results import metrics_of, read_json
from evalscope_evalflow.backends.sample import FAILED, SCORED, UNJUDGED, UNSCORED, Sample, question_digest
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_samples_files
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import FAILED as NO_ANSWER
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files, datasets_in
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.state import answer_counts
from evalscope_evalflow.worker.kept_reports import present_path

SUBSET = "default"


def sample_files(folder: Path, model: str) -> list[Path]:
    """The files that `vlmevalkit_samples` reads; only those that exist."""
    datasets = datasets_in(folder)
    found = [answer_counts.path_in(folder)]
    for dataset in sorted(datasets):
        files = Files(folder, model, dataset, datasets)
        found += [*vlmevalkit_samples_files.lines_in(files), present_path(folder, files.report)]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def vlmevalkit_samples(folder: Path, model: str, dataset: str) -> Iterator[Sample]:
    """The samples of one dataset, in the order of its data.

    Of folders that were written before the worker kept samples, VLMEvalKit's Excel files tell as much as they hold.

    Args:
        folder: the run folder.
        model: the model's name.
        dataset: the dataset's name.
    """
    files = Files(folder, model, dataset, {dataset, *datasets_in(folder)})
    state = files.read()
    rows = vlmevalkit_samples_files.read(files)
    if rows is None:
        rows = list(_from_tables(files))
    report = read_json(present_path(folder, files.report)) or {}
    headline = next(iter(metrics_of(report)), None)
    common: dict[str, Any] = {
        "dataset": dataset,
        "subset": SUBSET,
        "metric": headline.name if headline is not None else "",
    }
    kinds = answer_counts.kinds_of_samples(folder, dataset) or {}
    failed = state.get("failed") or {}
    known = {str(row.get("sample")) for row in rows}
    rows += [{"sample": index} for index in failed if index not in known]
    judged = state.get("judged") is not None
    for row in rows:
        index = str(row.get("sample"))
        if row.get("answer") is None and index not in failed:
            continue  # it was never asked
        yield Sample(
            **common,
            sample=index,
            group=str(row.get("group") or index),
            question=str(row.get("question") or "") or question_digest(row.get("prompt"), row.get("target")),
            kinds=kinds.get((SUBSET, index), ()),
            prompt=str(row.get("prompt") or ""),
            answer=row.get("answer"),
            target=row.get("target"),
            **_outcome(index, row, state, judged),
        )


def _outcome(index: str, row: Mapping[str, Any], state: Mapping[str, Any], judged: bool) -> dict[str, Any]:
    """What became of a sample, as fields of Sample."""
    failure = (state.get("failed") or {}).get(index)
    if row.get("answer") is None:
        words = f"{failure.get('kind')}: {failure.get('message')}" if isinstance(failure, dict) else None
        return {"state": FAILED, "failure": words}
    kind = (state.get("fallbacks") or {}).get(index)
    if kind is not None:
        said = str((state.get("examples") or {}).get(kind) or "")
        return {"state": UNJUDGED, "judged": False, "reason": reasons([MissingVerdict(str(kind), said)], 1)[0]}
    score = row.get("score")
    if not isinstance(score, (int, float)):
        return {"state": UNSCORED, "reason": row.get("reason")}
    return {
        "state": SCORED, "score": float(score), "judged": True if judged else None,
        "extracted": row.get("extracted"), "reason": row.get("reason"),
    }  # fmt: skip


def _from_tables(files: Files) -> Iterator[dict[str, Any]]:
    """Samples as VLMEvalKit's Excel files and our journal of answers tell of them."""
    import pandas

    def load(path: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of openpyxl, on styles that it does not know
            return pandas.read_excel(path)

    came = files.read_journal()
    seen = set()
    if files.predictions.exists():
        try:
            data = files.with_texts(load(str(files.predictions)))
            scores = vlmevalkit_samples_files.scored_rows(files, load)
        except ImportError as error:
            what = (
                f"{error.name} is not installed, by which samples of this older run are read from {files.predictions}"
            )
            raise ConfigError(Problem("samples", what, f"pip install {error.name}")) from error
        except (OSError, ValueError, KeyError, BadZipFile):  # torn by a kill, or of another form
            data, scores = None, {}
        groups = {} if data is None else vlmevalkit_samples_files.sample_groups(files.dataset, data)
        for _, row in data.iterrows() if data is not None else ():
            index, text = str(row["index"]), str(row["prediction"])
            seen.add(index)
            yield {
                "sample": index, "group": groups[index], "prompt": vlmevalkit_samples_files.prompt_of(row),
                "target": None if pandas.isna(row.get("answer")) else str(row["answer"]),
                "answer": None if text.startswith(NO_ANSWER) else text, **scores.get(index, {}),
            }  # fmt: skip
    yield from ({"sample": index, "answer": text} for index, text in came.items() if index not in seen)
