"""What the rest of a task would buy of a model and its judge: by files alone, and by what earlier answers have cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalscope_evalflow.backends import Saved, load_backend
from evalscope_evalflow.backends.selection import Change, chosen
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.events import spending
from evalscope_evalflow.run.resume import Remaining


@dataclass(frozen=True)
class Amount:
    """A number, as far as it is known.

    Attributes:
        number: it.
        exact: whether it is no estimate.
        more: names of datasets of which nobody knows how much there is; they are not in the number.
    """

    number: int = 0
    exact: bool = True
    more: tuple[str, ...] = ()

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.number + other.number, self.exact and other.exact, self.more + other.more)

    def words(self, what: str) -> str:
        """Such as "12 answers", "about 1,200 answers, and those on gsm8k", or "the answers on gsm8k"."""
        about = "" if self.exact or not self.number else "about "
        text = f"{about}{self.number:,} {what if self.number != 1 else what.removesuffix('s')}"
        if not self.more:
            return text
        those = f"on {', '.join(self.more)} (how many is known when the data is loaded)"
        return f"{text}, and those {those}" if self.number else f"the {what} {those}"

    @property
    def nothing(self) -> bool:
        """Whether it is known to be none."""
        return not self.number and not self.more


@dataclass(frozen=True)
class Purchase:
    """What is bought of one model and its judge.

    Attributes:
        answers: of the model.
        tokens: of these answers, prompts included, by what earlier ones took; None: none was counted yet.
        verdicts: of the judge; None: none is used.
    """

    answers: Amount
    tokens: int | None
    verdicts: Amount | None

    def __str__(self) -> str:
        parts = []
        if not self.answers.nothing:
            tokens = "tokens unknown" if self.tokens is None else f"about {self.tokens:,} tokens"
            parts.append(f"{self.answers.words('answers')}, {tokens}")
        if self.verdicts is not None and not self.verdicts.nothing:
            parts.append(f"{self.verdicts.words('verdicts')}")
        return f"it would ask for {'; '.join(parts) or 'nothing'}"


def purchase(task: Task, model: ModelConfig, left: Remaining, bought: Bought) -> Purchase:
    """What the rest of a task would buy.

    Args:
        task: the whole task.
        model: one of its models.
        left: what is left of it.
        bought: what the task's models have cost so far.
    """
    saved = load_backend(task.flow.backend).look(task, model)
    fallbacks = {item.dataset: item.fallbacks for item in saved.results({})} if left.verdicts else {}
    cost = bought.tokens_per_answer(model)
    answers, verdicts = Amount(), Amount()
    tokens: float | None = 0
    for dataset in task.datasets:
        total = _chosen(task, saved, dataset, left.changes.get(dataset))
        have = 0 if not task.flow.reuse else saved.answers(dataset)
        asked = Amount()
        if dataset in left.infer:
            asked = _missing(total, have, dataset, left.changes.get(dataset))
            answers += asked
            per_answer = cost.get(dataset)
            unknown = bool(asked.more) or (asked.number and per_answer is None)
            tokens = None if unknown or tokens is None else tokens + asked.number * (per_answer or 0)
        if dataset in left.verdicts:
            judged = (
                0 if dataset in left.rejudge or not task.flow.reuse else saved.verdicts(dataset) - fallbacks[dataset]
            )
            missing = Amount(max(0, have + asked.number - judged), asked.exact, asked.more)
            if dataset in left.changes:
                missing = Amount(missing.number, False, missing.more)
            verdicts += missing
    judges = bool((task.stock.get("judge") or {}).get("models")) and task.flow.mode != "infer"
    return Purchase(answers, None if tokens is None else round(tokens), verdicts if judges else None)


class Bought:
    """What the models of a task have cost so far: each file is read once, however many models ask."""

    def __init__(self, task: Task) -> None:
        self._caps = task.flow.caps
        self._spent = {
            model.name: spending.read(task.folder(model) / "evalflow" / spending.FILE) for model in task.models
        }
        self._of_any: dict[str, float] = {}
        for spent in self._spent.values():
            self._of_any = _per_answer(spent) | self._of_any

    def tokens_per_answer(self, model: ModelConfig) -> dict[str, float]:
        """Tokens that an answer on each dataset took: this model's, or else those of another model of the task."""
        return self._of_any | _per_answer(self._spent[model.name])

    def budget_lines(self, model: ModelConfig) -> list[str]:
        """How much of each budget is used, such as "budget: 985 of 1,000 tokens are used"."""
        spent, caps = self._spent[model.name], self._caps
        used = ((caps.tokens, spent.tokens, "tokens"), (caps.judge_requests, spent.judge_requests, "judge requests"))
        return [f"budget: {number:,} of {most:,} {what} are used" for most, number, what in used if most is not None]


def _per_answer(spent: spending.Spent) -> dict[str, float]:
    return {dataset: tokens / requests for dataset, (requests, tokens) in spent.by_dataset.items()}


def _chosen(task: Task, saved: Saved, dataset: str, change: Change | None) -> Amount | None:
    """How many samples are chosen; None: nobody knows."""
    known = saved.requested(dataset)
    if known is not None and change is None:
        return Amount(known)
    if known is not None and change is Change.DATA:
        return Amount(known, exact=False)
    now = chosen(task.stock)
    limit, repeats = now["limit"], int(now["repeats"])
    facts: Mapping[str, object] = saved.cell(dataset).predictions or {}
    before = facts.get("limit"), facts.get("repeats") or 1
    if known is not None and isinstance(before[1], int):
        if before[0] == limit:
            return Amount(known * repeats // before[1], exact=False)
        if isinstance(before[0], int) and isinstance(limit, int):
            return Amount(known * limit * repeats // (before[0] * before[1]), exact=False)
    published = load_backend(task.flow.backend).published_samples(task, dataset)
    if published is None:
        return None
    return Amount((min(published, limit) if isinstance(limit, int) else published) * repeats, exact=False)


def _missing(total: Amount | None, have: int, dataset: str, change: Change | None) -> Amount:
    """Samples without an answer, apart from those that failed permanently, which the parent counts as missing."""
    if change is not None and change.may_ask_nothing:
        return Amount(exact=change is Change.FEWER, more=(dataset,) if change is Change.DATA else ())
    if total is None:
        return Amount(0, False, (dataset,))
    return Amount(max(0, total.number - have), total.exact)
