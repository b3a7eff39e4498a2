"""EvalScope's Report with our score in it: what `run_task` returns."""

from __future__ import annotations

from typing import Any

from evalscope.report import Report
from pydantic import PrivateAttr

from evalscope_evalflow.backends import Score


class ScoredReport(Report):  # type: ignore[misc]
    """A report of EvalScope whose `score` is the one that the table shows, with its evidence.

    It can be used wherever EvalScope's Report can. `to_dict` gives what is in the report's file; `from_dict` and
    `from_json` make EvalScope's own Report.
    """

    _evidence: Score | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, report: Report, score: Score) -> ScoredReport:
        """A report with a score.

        Args:
            report: EvalScope's.
            score: the score that the table shows.
        """
        values = {name: getattr(report, name) for name in Report.model_fields}
        made: ScoredReport = cls.model_construct(_fields_set=set(report.model_fields_set), **values)
        made._evidence = score
        return made

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        return Report.from_dict(data)

    @property
    def evidence(self) -> Score:
        """The score as a value with all that it stands on.

        Raises:
            AttributeError: the report was made by hand, without a score.
        """
        if self._evidence is None:
            raise AttributeError("this report was made by hand: it has no score of a run")
        return self._evidence

    @property
    def score(self) -> float | None:
        """The score of the table, mostly from 0 to 1; None: there is none, and `why_not` says why."""
        return self.evidence.value

    @property
    def complete(self) -> bool:
        """Whether the score covers every sample, each judged as it should be."""
        return self.evidence.complete

    @property
    def answered(self) -> int:
        """Samples that were answered."""
        return self.evidence.answered

    @property
    def judged(self) -> int | None:
        """Samples with a verdict of the judge's own; None: no judge is used."""
        return self.evidence.judged

    @property
    def why_not(self) -> str:
        """Why the score is missing or incomplete; empty where it is complete."""
        return self.evidence.why_not
