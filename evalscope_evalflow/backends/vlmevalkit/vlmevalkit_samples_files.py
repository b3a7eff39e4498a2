"""What became of each sample of one of VLMEvalKit's datasets: `evalflow/vlmevalkit/DATA.samples.jsonl`.

The worker writes it when it has scored, as it has the data and VLMEvalKit's tables at hand. Whoever reads it later
needs neither VLMEvalKit nor its pickles. The first line says which answers it is on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files
from evalscope_evalflow.events.json_lines import objects_in
from evalscope_evalflow.events.schema import ESCAPED, SCHEMA
from evalscope_evalflow.events.whole_files import write_whole

# Columns of VLMEvalKit's tables with a sample's score, and with what it took from the answer.
_SCORES = ("hit", "correct", "score", "verifier_score", "joker")
_EXTRACTED = ("extracted", "extract", "res", "parse")
_LOGS = ("log", "log_score", "log_extract")
_OPTIONS = "ABCDEFGHIJ"


def path_of(files: Files) -> Path:
    """The file of a dataset."""
    return files.state.with_name(f"{files.dataset}.samples.jsonl")


def read(files: Files) -> list[dict[str, Any]] | None:
    """The samples; None where they are none of the answers that are saved now, or were never written.

    The time of the answers' file does not count: a copied folder has another.
    """
    lines = objects_in(path_of(files))
    stamp = (next(lines, None) or {}).get("stamp")
    now = files.stamp()
    if not isinstance(stamp, list) or now is None or stamp[:1] != now[:1]:
        return None
    return list(lines)


def forget(files: Files) -> None:
    """Remove the file, as answers or verdicts are about to change."""
    path_of(files).unlink(missing_ok=True)


def write(
    files: Files,
    data: Any,
    answers: Mapping[str, str],
    load: Callable[[str], Any] | None,
    check: Callable[[Any], bool] | None = None,
) -> None:
    """Write what became of each sample.

    Args:
        files: the dataset's files.
        data: its samples as a DataFrame.
        answers: what was answered, by index as text.
        load: reads one of VLMEvalKit's Excel files as a DataFrame; None: nothing is scored yet.
        check: whether a line of a table with `res` is right, where VLMEvalKit writes down no score.
    """
    scores = {} if load is None else scored_rows(files, load, check)
    groups, rows = sample_groups(files.dataset, data), files.rows()
    variants: dict[str, list[str]] = {}
    for index, group in groups.items():
        variants.setdefault(group, []).append(index)
    lines: list[dict[str, Any]] = [{"schema": SCHEMA, "stamp": files.stamp()}]
    for _, row in data.iterrows():
        index = str(row["index"])
        found = scores.get(index)
        if found is None and any(other in scores for other in variants[groups[index]]) and is_circular(files.dataset):
            continue  # it is scored with its group, as one
        answer = answers.get(index)
        if found is not None and is_circular(files.dataset):
            others = [f"[{other}] {answers[other]}" for other in variants[groups[index]] if other in answers]
            answer = "\n".join(others) if len(others) > 1 else answer
        lines.append(
            {
                "sample": index, "group": groups[index], "question": rows.get(index, ["", ""])[1],
                "prompt": prompt_of(row), "target": _text(row.get("answer")), "answer": answer, **(found or {}),
            }
        )  # fmt: skip
    write_whole(path_of(files), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), ESCAPED)


def scored_rows(
    files: Files, load: Callable[[str], Any], check: Callable[[Any], bool] | None = None
) -> dict[str, dict[str, Any]]:
    """The scores in VLMEvalKit's tables, by index as text: `score`, `extracted` and `reason` of each.

    Args:
        files: the dataset's files.
        load: reads one of its Excel files as a DataFrame.
        check: whether a line of a table with `res` is right, where VLMEvalKit writes down no score.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in files.made():
        if path.suffix not in (".xlsx", ".tsv") or path == files.predictions:
            continue
        table = load(str(path))
        names = [str(name) for name in getattr(table, "columns", ())]
        if "index" not in names:
            continue
        score = next((name for name in _SCORES if name in names), None)
        checked = check if score is None and "res" in names else None
        for _, row in table.iterrows():
            value = _number(row[score]) if score else float(checked(row)) if checked else None
            item = found.setdefault(str(row["index"]), {})
            item |= {} if value is None else {"score": value}
            taken = next((_text(row[name]) for name in _EXTRACTED if name in names), None)
            said = next((_text(row[name]) for name in _LOGS if name in names), None)
            item |= {} if taken is None else {"extracted": taken}
            item |= {} if said is None else {"reason": said}
    return {index: item for index, item in found.items() if "score" in item}


def is_circular(dataset: str) -> bool:
    """Whether a question is asked once for every order of its options, and right if all of these are."""
    return any(name in dataset.lower() for name in ("mmbench", "ccbench", "circular", "mmcr"))


def sample_groups(dataset: str, data: Any) -> dict[str, str]:
    """What samples hang together with, by index as text: variants of a question, steps of a problem.

    Args:
        dataset: its name.
        data: its samples as a DataFrame.
    """
    columns = {
        "DynaMath": ("qid",), "MathVerse": ("problem_index", "question_for_eval"), "WeMath": ("ID", "id"),
    }  # fmt: skip
    names = next((names for start, names in columns.items() if dataset.startswith(start)), ())
    name = next((name for name in (*names, *(["g_index"] if is_circular(dataset) else [])) if name in data), None)
    indexes = [str(index) for index in data["index"]]
    if name is not None:
        return dict(zip(indexes, (str(value) for value in data[name]), strict=True))
    if is_circular(dataset):
        return {index: str(int(index) % 1_000_000) if index.isdecimal() else index for index in indexes}
    return {index: index for index in indexes}


def prompt_of(row: Any) -> str:
    """What a row asks, as far as its columns tell: the question and its options."""
    parts = [_text(row.get(name)) for name in ("hint", "question") if name in row]
    options = [(letter, _text(row.get(letter))) for letter in _OPTIONS if letter in row]
    return "\n".join(filter(None, [*parts, *(f"{letter}. {text}" for letter, text in options if text)]))


def lines_in(files: Files) -> Iterator[Path]:
    """Files that samples are read from; they need not exist."""
    yield from (path_of(files), files.state, files.journal, files.long, files.predictions)
    yield from (path for path in files.made() if path.suffix == ".xlsx")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        text = str(value).strip().lower()
        return {"true": 1.0, "false": 0.0}.get(text)
    return number if math.isfinite(number) else None


def _text(value: Any) -> str | None:
    """A cell as text; None where it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value)
