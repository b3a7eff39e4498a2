"""What the HTML report is made of: plain data, which the templates print and escape. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ScoreLine:
    """One metric of one run on one dataset, or on a part of one.

    Attributes:
        run: the run's label.
        dataset: the dataset.
        metric: the metric's name; empty where there is no score.
        value: the score; None: there is none, and `note` says why.
        text: what stands for it in the table; empty: the value with four decimals.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        few_groups: whether the interval stands on fewer than ten effective groups.
        n: samples that the score covers; None: not known.
        requested: samples that were to be answered; None: not known.
        failed: samples without an answer or a score.
        unjudged: samples that the judge gave no usable verdict on.
        cut_off: answers that the limit of tokens cut off.
        complete: whether the score covers every sample.
        note: why it does not, and what else has to be known of it.
        part: what of the dataset it is about, such as a subset; empty: the whole of it.
        kind: what kind of part, such as "category" or "subset".
    """

    run: str
    dataset: str
    metric: str = ""
    value: float | None = None
    text: str = ""
    low: float | None = None
    high: float | None = None
    few_groups: bool = False
    n: int | None = None
    requested: int | None = None
    failed: int = 0
    unjudged: int = 0
    cut_off: int = 0
    complete: bool = True
    note: str = ""
    part: str = ""
    kind: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What is recorded of one run.

    Attributes:
        label: its name in this report: the model's, or with its folder where two have the same.
        model: the model's name.
        folder: the run folder.
        state: as in run.json, such as `complete`; "unknown" without one.
        facts: what and how much, a text each: engine, times, tokens, GPU time.
        phases_s: seconds of each phase.
        versions: of packages, by name.
        command: the engine's command line; empty: none was started.
        settings: name of the settings that it shares with other runs of this report, such as "settings 1".
        remarks: what has to be known of its results, a line each.
    """

    label: str
    model: str
    folder: str
    state: str
    facts: Mapping[str, str] = field(default_factory=dict)
    phases_s: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    settings: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class CostLine:
    """What a run has cost, or its part for one dataset.

    Attributes:
        run: the run's label; empty: the sum of all runs.
        dataset: the dataset; empty: the whole run.
        tokens_in: of prompts; None: not known.
        tokens_out: of answers.
        tokens: of both, where the server does not tell them apart.
        judge_requests: requests to the judge.
        judge_tokens: of those, in and out.
        held_s: seconds that an engine was held; of a dataset, those in which it was answered.
        shares: what was done in that time, such as "40 % loading, 55 % answering, 5 % idle".
        gpu_s: GPU-seconds; None: no GPU was held.
        utilisation: share of the time in which GPUs computed, from 0 to 1; None: not known.
    """

    run: str
    dataset: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens: int = 0
    judge_requests: int = 0
    judge_tokens: int = 0
    held_s: float = 0.0
    shares: str = ""
    gpu_s: float | None = None
    utilisation: float | None = None


@dataclass(frozen=True)
class Settings:
    """A task's settings, and the runs that had them.

    Attributes:
        name: such as "settings 1".
        text: the settings as JSON, without keys.
        runs: labels of the runs.
    """

    name: str
    text: str
    runs: Sequence[str]


@dataclass(frozen=True)
class Plot:
    """A picture of the scores on one dataset.

    Attributes:
        dataset: the dataset.
        metric: the metric's name.
        svg: an `svg` element, safe to stand in HTML.
    """

    dataset: str
    metric: str
    svg: str


@dataclass(frozen=True)
class EmbeddedSamples:
    """The samples in the file.

    Attributes:
        json: an object that the page's script reads, safe to stand in a `script` element.
        count: how many samples it has.
        in_all: how many the runs have.
        left_out: what is not in it, in a sentence; empty: nothing.
    """

    json: str = ""
    count: int = 0
    in_all: int = 0
    left_out: str = ""


@dataclass(frozen=True)
class Page:
    """All that the template prints, but for a comparison.

    Attributes:
        title: the page's title.
        made: when it was made, and by which version.
        runs: the runs.
        scores: headline scores, a line for each run and dataset.
        more_scores: scores of other metrics.
        parts: scores of categories and subsets.
        plots: pictures of the headline scores.
        not_drawn: what is left out of the pictures and tables, in a sentence; empty: nothing.
        settings: settings of the tasks.
        costs: what the runs have cost, and their datasets; the sum of all last.
        samples: the samples in the file.
    """

    title: str
    made: str
    runs: Sequence[RunFacts]
    scores: Sequence[ScoreLine]
    more_scores: Sequence[ScoreLine]
    parts: Sequence[ScoreLine]
    plots: Sequence[Plot]
    not_drawn: str
    settings: Sequence[Settings]
    costs: Sequence[CostLine]
    samples: EmbeddedSamples

    @property
    def incomplete(self) -> bool:
        """Whether any headline score or part of one is marked as incomplete."""
        lines = (*self.scores, *self.more_scores)
        return any(line.value is not None and not line.complete for line in lines)

    def show_column(self, name: str, lines: Sequence[ScoreLine | CostLine] | None = None) -> bool:
        """Whether a column of a table has anything to show.

        Args:
            name: an attribute of the table's lines.
            lines: the lines; default: the headline scores.
        """
        return any(_says_something(getattr(line, name)) for line in (self.scores if lines is None else lines))


def _says_something(value: Any) -> bool:
    return value not in (None, "", 0)
