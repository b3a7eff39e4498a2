"""Scoring with EvalScope, where a verdict is the judge's own, or it is none."""

import json

import pytest
from evalscope.api.metric import JudgeSummary, SampleScore, Score
from evalscope.constants import ScoreStatus
from evalscope.report import ExecutionSubset, ExecutionSummary, Report

from evalscope_evalflow.backends.native.native_report import is_unjudged, scores_only_verdicts, without_a_rules_value
from evalscope_evalflow.backends.native.native_verdicts import is_fallback


def sample(status="success", valid=1, total=1, value=1.0, number=0):
    """A sample's score; `status` None: no judge was asked."""
    summary = None
    if status is not None:
        summary = JudgeSummary(
            status=status, scored=1, coverage=1.0, valid_observations=valid, total_observations=total
        )
    usable = status is None or ScoreStatus(status).is_usable
    score = Score(value={"acc": value} if usable else {}, status=status or "success", judge_summary=summary)
    return SampleScore(score=score, sample_id=number)


@pytest.mark.parametrize(
    ("made", "judged", "made_anew"),
    [
        (sample(), True, False),
        (sample(None), True, False),
        (sample("degraded", valid=0), False, True),  # a rule's figure
        (sample("fallback", valid=0), False, True),  # the same, with `llm_recall`
        (sample("excluded", valid=0), False, True),
        (sample("parse_error", valid=0), False, True),  # a benchmark without rules
        (sample("transport_error", valid=0), False, True),
        (sample("degraded", valid=1, total=3), True, True),  # two of three judges said nothing: used, and asked again
        (sample("degraded", valid=2, total=2), True, False),  # they disagree
    ],
)
def test_a_verdict_is_the_judges_own_or_none(made, judged, made_anew):
    assert is_unjudged(made) is not judged
    kept = without_a_rules_value(made.model_copy(deep=True)).score
    assert kept.value == ({"acc": 1.0} if judged else {})
    assert kept.status.is_usable is judged
    assert kept.judge_summary is None or kept.judge_summary.status.is_usable is judged
    row = {"sample_score": {"score": json.loads(kept.model_dump_json())}}
    assert is_fallback(row) is made_anew


class OldBenchmark:
    """The mean of one metric, with EvalScope's hook of 1.11."""

    def aggregate_scores(self, sample_scores):
        values = [item.score.value["acc"] for item in sample_scores]  # as benchmarks of their own do: no empty ones
        return [sum(values) / len(values)]


class Benchmark(OldBenchmark):
    """With that of 1.14, too."""

    def aggregate_subset(self, subset, sample_scores):
        return self.aggregate_scores(sample_scores)


class Evaluator:
    """As much of EvalScope's evaluator as its subclass builds on."""

    def __init__(self, benchmark, folder, scores):
        self.benchmark, self.cache_manager, self._scores, self._folder = benchmark, self, scores, folder
        self._sample_scores_by_subset = {}

    def get_report_file(self):
        path = self._folder / "reports" / "m" / "d.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def _review_task_state(self, task_state):
        return task_state

    def _aggregate_scores(self):
        figures = {}
        for subset, states in self._scores.items():
            scores = self._sample_scores_by_subset[subset] = [self._review_task_state(state) for state in states]
            if hasattr(self.benchmark, "aggregate_subset"):
                figures[subset] = self.benchmark.aggregate_subset(subset, sample_scores=scores)
            else:
                figures[subset] = self.benchmark.aggregate_scores(sample_scores=scores)
        return figures

    def get_report(self, figures, summary):
        metrics = []
        semantics = {
            "semantic_id": "quality.accuracy.ratio", "metric_name": "Accuracy", "kind": "quality",
            "direction": "higher_is_better", "display_kind": "number",
        }  # fmt: skip
        for subset, (score,) in figures.items():
            identity = {"name": "accuracy", "aggregation": "mean", "dimensions": {"subset": subset}}
            metrics.append({"identity": identity, "score": score, "num": 1, "semantics": semantics})
        report = Report.from_dict({"schema_version": 2, "dataset_name": "d", "model_name": "m", "metrics": metrics})
        report.execution_summary = summary
        report.to_json(self.get_report_file())
        return report


class Judged(Benchmark):
    """A benchmark with a judge and rules, as EvalScope asks them."""

    def __init__(self, status, first=False):
        self.status, self.first, self.rules = status, first, 0

    def score_with_judge_contracts(self, **_):
        return sample(self.status, valid=0).score

    def match_score(self, **_):
        self.rules += 1
        return Score(value={"acc": 0.5})

    def review(self):
        if self.first:  # `llm_recall`
            self.match_score()
        score = self.score_with_judge_contracts(original_prediction="a")
        rule = self.match_score(original_prediction="a") if not score.status.is_usable else score
        return SampleScore(score=rule.model_copy(update={"judge_summary": score.judge_summary}))


@pytest.mark.parametrize(
    ("status", "first", "rules", "value"),
    [("parse_error", False, 0, {}), ("success", False, 0, {"acc": 1.0}), ("parse_error", True, 2, {})],
)
def test_no_rule_is_asked_where_the_judge_said_nothing(status, first, rules, value, tmp_path):
    """What it lacks, such as nltk's data, would else be the reason of the missing score."""
    benchmark = Judged(status, first)
    review = lambda self, _: benchmark.review()  # noqa: E731
    scorer = scores_only_verdicts(type("Judging", (Evaluator,), {"_review_task_state": review}), tmp_path)
    made = scorer(benchmark=benchmark, folder=tmp_path, scores={})
    for _ in range(2):
        assert made._review_task_state(None).score.value == value
    assert benchmark.rules == rules


def evaluate(folder, benchmark=None, **scores):
    """A report on subsets of samples, and where it lies."""
    made = scores_only_verdicts(Evaluator, folder)(benchmark=benchmark or Benchmark(), folder=folder, scores=scores)
    figures = made._aggregate_scores()
    number = sum(map(len, scores.values()))
    subsets = {name: ExecutionSubset(requested=len(items), succeeded=len(items)) for name, items in scores.items()}
    report = made.get_report(figures, ExecutionSummary(requested=number, succeeded=number, subsets=subsets))
    places = {path.relative_to(folder).parts[0] for path in folder.rglob("d.json")}
    (path,) = folder.rglob("d.json")
    assert json.loads(path.read_text()) == json.loads(report.to_json_str())
    return report, places


RIGHT, WRONG, RULE = sample(), sample(value=0.0), sample("degraded", valid=0)


@pytest.mark.parametrize("benchmark", [Benchmark(), OldBenchmark()])
def test_what_has_no_verdict_leaves_the_score(benchmark, tmp_path):
    report, places = evaluate(tmp_path, benchmark, a=[RIGHT, WRONG, RULE.model_copy(deep=True)])
    assert report.score == 0.5
    assert places == {"reports"}
    summary = report.execution_summary
    assert (summary.requested, summary.succeeded, summary.errored, summary.incomplete) == (3, 2, 1, True)
    assert (summary.subsets["a"].succeeded, summary.subsets["a"].errored) == (2, 1)
    judge = report.judge_summary
    assert (judge.status, judge.scored, judge.total, judge.valid_observations) == ("degraded", 2, 3, 2)
    assert "aggregate_subset" not in vars(benchmark)
    assert "aggregate_scores" not in vars(benchmark)


def test_a_subset_without_any_verdict_has_no_figure(tmp_path):
    report, places = evaluate(tmp_path, a=[RIGHT, WRONG], b=[RULE.model_copy(deep=True)])
    assert [metric.identity.dimensions for metric in report.metrics] == [{"subset": "a"}]
    assert places == {"reports"}


@pytest.mark.parametrize("beside", [[], [sample(None)]], ids=["alone", "beside one that needs no judge"])
def test_without_any_verdict_there_is_no_figure_and_the_report_lies_elsewhere(beside, tmp_path):
    report, places = evaluate(tmp_path, a=[RULE.model_copy(deep=True), *beside])
    assert report.metrics == []
    assert places == {"evalflow"}
    assert report.judge_summary.scored == 0


def test_a_figure_of_nothing_is_none(tmp_path):
    made = scores_only_verdicts(Evaluator, tmp_path)(benchmark=Benchmark(), folder=tmp_path, scores={})
    report = made.get_report({"a": [0.0]}, ExecutionSummary(requested=3, succeeded=0, errored=3))
    assert report.metrics == []
    assert [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("d.json")] == ["evalflow"]


def test_a_report_is_what_it_was_where_every_verdict_is_there(tmp_path):
    report, _ = evaluate(tmp_path, a=[RIGHT, WRONG])
    assert (report.score, report.execution_summary.incomplete, report.judge_summary.status) == (0.5, False, "success")
    report, _ = evaluate(tmp_path, a=[sample(None), sample(None, value=0.0)])
    assert (report.score, report.judge_summary) == (0.5, None)
