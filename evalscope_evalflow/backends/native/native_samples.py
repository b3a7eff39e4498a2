"""Samples of a run folder of the Native backend, read from EvalScope's predictions and reviews, and from our notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evalscope_evalflow.backends.native import native_messages
from evalscope_evalflow.backends.native.native_results import metrics_of, read_json, row_files
from evalscope_evalflow.backends.native.native_verdicts import has_value, is_fallback, why_missing
from evalscope_evalflow.backends.native.rows_files import SavedRows
from evalscope_evalflow.backends.sample import FAILED, SCORED, UNJUDGED, UNSCORED, Sample, question_digest
from evalscope_evalflow.events.answers import kinds_of
from evalscope_evalflow.events.json_lines import objects_in
from evalscope_evalflow.state import answer_counts, cells, failures
from evalscope_evalflow.state.failures import Failure
from evalscope_evalflow.worker.kept_reports import KEPT, REPORTS, present_path

# What a benchmark says of a sample, by which questions belong together.
_SHARED = (
    "passage_id", "passage", "article_id", "article", "document_id", "story", "conversation_id", "dialogue_id",
)  # fmt: skip
_T = TypeVar("_T")
ROUNDED = 1.01e-4  # EvalScope's reports have four decimals
_ALIASES = {"accuracy": "acc", "acc": "accuracy"}


def sample_files(folder: Path, model: str) -> list[Path]:
    """The files that `native_samples` reads; only those that exist."""
    ours = folder / "evalflow"
    found = [
        *(path for kind in ("predictions", "reviews") for path in sorted((folder / kind / model).glob("*.jsonl"))),
        *(path for place in (folder / REPORTS, folder / KEPT) for path in sorted((place / model).glob("*.json"))),
        *sorted(ours.glob("saved/*/rows.json")),
        failures.path_in(folder),
        answer_counts.path_in(folder),
    ]
    return [path for path in found if path.is_file()]


def native_samples(folder: Path, model: str, dataset: str) -> Iterator[Sample]:
    """The samples of one dataset, subset by subset, in the order of their indexes.

    Args:
        folder: the run folder.
        model: the model's name, as EvalScope files its answers.
        dataset: the benchmark.
    """
    return _Reader(folder, model, dataset).samples()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is used of a prediction, which may hold megabytes of pictures."""

    prompt: str
    text: str | None
    asked: str
    kinds: tuple[str, ...]
    usage: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Review:
    """What is used of a review."""

    prompt: str
    text: str | None
    question: str
    group: Any
    repeat: Any
    shared: str
    target: str | None
    values: dict[str, float]
    main: str
    state: str
    details: dict[str, Any]


class _Reader:
    """One dataset of a run folder."""

    def __init__(self, folder: Path, model: str, dataset: str) -> None:
        self.folder, self.model, self.dataset = folder, model, dataset
        saved = SavedRows(folder, dataset)
        self.rows = saved.rows()
        self.repeats = max(1, int((saved.header().get("chosen") or {}).get("repeats") or 1))
        self.kinds = answer_counts.kinds_of_samples(folder, dataset)
        self.failed: dict[str, dict[str, Failure]] = {}
        for item in failures.noted(folder).get(dataset, ()):
            self.failed.setdefault(item.subset, {})[item.sample] = item
        report = read_json(present_path(folder, folder / REPORTS / model / f"{dataset}.json")) or {}
        self.headline = next(iter(metrics_of(report)), None)
        self.names = _raw_names(report)

    def samples(self) -> Iterator[Sample]:
        subsets = self._subsets()
        reviews = {subset: self._by_index("reviews", subset, _review) for subset in subsets}
        value = self._headline_of([item for found in reviews.values() for item in found.values()])
        for subset in subsets:
            reviewed, failed = reviews.pop(subset), self.failed.get(subset, {})
            answers = self._by_index("predictions", subset, _answer)
            questions = {str(item.group): item.question for item in reviewed.values()}
            for index in sorted({*answers, *reviewed, *failed}, key=_order):
                answer, review, failure = answers.pop(index, None), reviewed.pop(index, None), failed.get(index)
                yield self._sample(subset, index, answer, review, failure, questions, value)

    def _subsets(self) -> list[str]:
        """Those that have answers, verdicts or failures."""
        reports = {path.stem for path in (self.folder / REPORTS / self.model).glob("*.json")}
        kept = {path.stem for path in (self.folder / KEPT / self.model).glob("*.json")}
        names = frozenset({self.dataset, *reports, *kept, *cells.read(self.folder)})
        files = {
            path.stem[len(self.dataset) + 1 :]
            for kind in ("predictions", "reviews")
            for path in row_files(self.folder / kind / self.model, names).get(self.dataset, ())
        }
        return sorted(files | self.failed.keys())

    def _by_index(self, kind: str, subset: str, reduced: Callable[[dict[str, Any]], _T]) -> dict[str, _T]:
        """The rows of one of EvalScope's files by their index; the last of several counts, and a torn one is none."""
        path = self.folder / kind / self.model / f"{self.dataset}_{subset}.jsonl"
        return {str(row["index"]): reduced(row) for row in objects_in(path) if row.get("index") is not None}

    def _headline_of(self, reviews: Sequence[_Review]) -> Callable[[_Review], float | None]:
        """How a sample's part in the headline score is found: its values may have other names than the report's.

        Of several values, the one whose mean is the headline score is meant; else the one of that name.
        """
        known = dict.fromkeys(name for item in reviews for name in item.values)
        main = next((item.main for item in reviews if item.main in item.values), None)
        likely = [name for name in dict.fromkeys([*self.names, main, *known]) if name in known]
        score = self.headline.score if self.headline is not None else None
        if len(likely) > 1 and score is not None:
            scored = [item for item in reviews if item.state == SCORED]
            likely = [
                *(name for name in likely if _is_mean(score, [item.values.get(name) for item in scored])),
                *likely,
            ]
        return lambda item: item.values.get(likely[0]) if likely else None

    def _sample(
        self,
        subset: str,
        index: str,
        answer: _Answer | None,
        review: _Review | None,
        failure: Failure | None,
        questions: Mapping[str, str],
        value: Callable[[_Review], float | None],
    ) -> Sample:
        place = int(index) if index.isdecimal() else None
        group = review.group if review is not None else index if place is None else place // self.repeats
        repeat = review.repeat if review is not None else None
        if not isinstance(repeat, int):
            repeat = 0 if place is None else place % self.repeats
        details: dict[str, Any] = {"state": UNSCORED, **(answer.usage if answer is not None else {})}
        if review is not None:
            score = value(review) if review.state == SCORED else None
            state = UNSCORED if score is None and review.state == SCORED else review.state
            details |= {**review.details, "score": score, "state": state}
        elif answer is None:
            details["state"] = FAILED
        if failure is not None and (
            details["state"] == FAILED or (review is None and failure.kind == failures.SCORING)
        ):
            details["failure"] = f"{failure.kind}: {failure.message}"
        kinds = answer.kinds if answer is not None else ()
        source = answer or review
        asked = answer.asked if answer is not None else question_digest(None)
        return Sample(
            dataset=self.dataset,
            subset=subset,
            sample=index,
            repeat=repeat,
            group=f"{subset}/{review.shared if review is not None and review.shared else group}",
            question=questions.get(str(group)) or self._row_digest(subset, place) or asked,
            metric=self.headline.name if self.headline is not None else review.main if review is not None else "",
            kinds=kinds if self.kinds is None else self.kinds.get((subset, index), ()),
            prompt=source.prompt if source is not None else "",
            answer=source.text if source is not None else None,
            target=review.target if review is not None else None,
            **details,
        )

    def _row_digest(self, subset: str, index: int | None) -> str:
        """What tells a question of which no repetition is scored: its row in the data, where that is known."""
        rows = self.rows.get(subset)
        if rows is None or index is None or index >= min(len(rows.asked), len(rows.scored)):
            return ""
        return question_digest("row", rows.asked[index], rows.scored[index])


def _order(index: str) -> tuple[bool, int, str]:
    return (False, int(index), "") if index.isdecimal() else (True, 0, index)


def _is_mean(score: float, values: Sequence[float | None]) -> bool:
    known = [value for value in values if value is not None]
    return len(known) == len(values) > 0 and abs(math.fsum(known) / len(known) - score) <= ROUNDED


def _answer(row: dict[str, Any]) -> _Answer:
    asked, said = native_messages.parted(row.get("messages"))
    output = _mapping(row.get("model_output"))
    return _Answer(
        prompt=native_messages.as_prompt(asked),
        text=native_messages.answer_text(output, said),
        asked=question_digest(native_messages.content(asked), None),
        kinds=tuple(kind.value for kind in kinds_of(output)) if output.get("choices") else (),
        usage=_usage(output),
    )


def _review(row: dict[str, Any]) -> _Review:
    asked, said = native_messages.parted(row.get("messages"))
    scored = _mapping(row.get("sample_score"))
    score = _mapping(scored.get("score"))
    group = scored.get("group_id")
    target = _target(row.get("target"))
    state, details = _verdict(row, score)
    return _Review(
        prompt=native_messages.as_prompt(asked),
        text=native_messages.answer_text({}, said),
        question=question_digest(native_messages.content(asked), target),
        group=row["index"] if group is None else group,
        repeat=scored.get("generation_index"),
        shared=_shared(scored.get("sample_metadata")),
        target=target,
        values={
            str(name): float(value)
            for name, value in _mapping(score.get("value")).items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        },
        main=str(score.get("main_score_name") or ""),
        state=state,
        details=details,
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _raw_names(report: Mapping[str, Any]) -> list[str]:
    """The names that a report's headline may have in the scores of single samples."""
    primary = report.get("primary_metric_identity")
    items = [item for item in report.get("metrics") or [] if isinstance(item, dict)]
    items.sort(key=lambda item: (item.get("semantics") or {}).get("kind") == "diagnostic")
    items.sort(key=lambda item: primary is None or item.get("identity") != primary)
    if not items:
        return []
    names = [items[0].get("legacy_name"), (items[0].get("identity") or {}).get("name"), items[0].get("name")]
    known = [str(name) for name in names if name]
    return [*known, *(_ALIASES[name] for name in known if name in _ALIASES)]


def _verdict(review: dict[str, Any], score: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The state of a reviewed sample, and what is known of its verdict."""
    extracted = score.get("extracted_prediction")
    details: dict[str, Any] = {"extracted": None if extracted is None else str(extracted)}
    if is_fallback(review):
        return UNJUDGED, {**details, "judged": False, "reason": ": ".join(filter(None, _why_not(review)))}
    if score.get("judge_summary") or score.get("judge_detail"):
        details |= {"judged": True, **_judges_words(score)}
    details.setdefault("reason", _explanation(score))
    return (SCORED if has_value(review) else UNSCORED), details


def _why_not(review: dict[str, Any]) -> tuple[str, str]:
    kind, said, expected = why_missing(review)
    words = kind.replace("_", " ") + (f" (expected {expected})" if expected else "")
    return words, said


def _judges_words(score: Mapping[str, Any]) -> dict[str, str | None]:
    """What the judges decided, and why."""
    verdicts, reasons = [], []
    for attempt in (score.get("metadata") or {}).get("judge_attempts") or ():
        parsed = attempt.get("parsed_value") if isinstance(attempt, dict) else None
        if attempt.get("status") != "success" or parsed is None:
            continue
        said = dict(parsed) if isinstance(parsed, dict) else {"verdict": parsed}
        words = [str(said.pop(name)) for name in ("reasoning", "explanation") if said.get(name)]
        verdict = said.pop("verdict", None)
        rest = ", ".join(f"{name}: {value}" for name, value in said.items())
        verdicts.append(str(verdict) if verdict is not None else rest)
        reasons += words
    return {"verdict": " | ".join(verdicts) or None, "reason": "\n".join(reasons) or _explanation(score)}


def _explanation(score: Mapping[str, Any]) -> str | None:
    errors = (score.get("metadata") or {}).get("metric_errors")
    if errors:
        return f"could not be computed: {errors}"
    return str(score["explanation"]) if score.get("explanation") else None


def _shared(metadata: Any) -> str:
    """A digest of what several questions are on, such as a passage; empty where nothing is known of it."""
    for name in _SHARED if isinstance(metadata, dict) else ():
        value = metadata.get(name)
        if isinstance(value, (str, int)) and value != "" and not isinstance(value, bool):
            return question_digest(name, value)
    return ""


def _target(target: Any) -> str | None:
    if target is None:
        return None
    if isinstance(target, list):
        return "\n".join(map(str, target))
    return str(target)


def _usage(output: Mapping[str, Any]) -> dict[str, Any]:
    usage = _mapping(output.get("usage"))
    seconds = _mapping(output.get("perf_metrics")).get("latency") or output.get("time")
    return {
        "input_tokens": _int(usage.get("input_tokens")),
        "output_tokens": _int(usage.get("output_tokens")),
        "latency_s": float(seconds) if isinstance(seconds, (int, float)) else None,
    }


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
