"""Intervals of headline scores, from samples."""

import made_up_run as made
import pytest

from evalscope_evalflow.backends import DatasetResult, Metric
from evalscope_evalflow.results.run_folders import find_runs
from evalscope_evalflow.results.score_intervals import intervals, with_intervals


def test_independent_samples_have_wilsons(tmp_path):
    made.run(tmp_path, [1] * 15 + [0] * 5)
    found = intervals(find_runs(tmp_path)[0], {"d": 0.75})["d"]
    assert (found.low, found.high) == pytest.approx((0.5313, 0.8881), abs=1e-4)
    assert (found.groups, found.few_groups) == (20, False)


def test_repeats_of_a_question_are_one_group(tmp_path):
    scores = [1] * 15 + [0] * 5
    made.run(tmp_path / "repeated", [score for score in scores for _ in range(4)], repeats=4)
    made.run(tmp_path / "once", scores * 4)
    repeated, once = (intervals(run, {"d": 0.75})["d"] for run in find_runs(tmp_path)[::-1])
    assert (repeated.groups, once.groups) == (20, 80)
    assert repeated.high - repeated.low > 1.5 * (once.high - once.low)


def test_a_score_that_is_no_mean_of_samples_has_none(tmp_path):
    made.run(tmp_path, [1, 0, 1, 0])
    assert intervals(find_runs(tmp_path)[0], {"d": 0.75}) == {}
    assert intervals(find_runs(tmp_path)[0], {"d": None, "other": 0.5}) == {}


def test_samples_without_a_verdict_are_not_in_it(tmp_path):
    made.run(tmp_path, [1, 1, 0, 0])
    rows = [made.judged(n, "A" if n < 2 else "B") for n in range(4)] + [made.unjudged(4)]
    made.lines(tmp_path / "reviews" / "m" / "d_s.jsonl", rows)
    assert intervals(find_runs(tmp_path)[0], {"d": 0.5})["d"].groups == 4


def test_results_carry_them_to_the_score_and_the_record(tmp_path):
    made.run(tmp_path, [1, 0, 1, 0])
    result = DatasetResult("d", [Metric("accuracy", 0.5, 4, True)], 4, 4, report=tmp_path, answered=4)
    (found,) = with_intervals(find_runs(tmp_path)[0], [result])
    score = found.score
    assert score.interval is not None
    assert 0 < score.interval[0] < 0.5 < score.interval[1] < 1
    assert (score.n_groups, score.few_groups) == (4, True)
    assert score.as_record()["interval"] == score.interval


def semantics(value_range=None, direction="higher_is_better"):
    """A report's metrics, with a scale."""
    identity = {"name": "accuracy", "aggregation": "mean", "dimensions": {}}
    ends = None if value_range is None else {"min": value_range[0], "max": value_range[1]}
    said = {"kind": "quality", "direction": direction, "value_range": ends}
    return {"metrics": [{"identity": identity, "num": 1, "score": 1, "semantics": said}]}


@pytest.mark.parametrize("scores", [[9, 10, 8, 10, 10, 9, 10, 10, 10, 7, 10, 10], [10] * 12])
def test_a_known_scale_bounds_the_interval(tmp_path, scores):
    made.run(tmp_path, scores)
    made.report(tmp_path, "m", "d", sum(scores) / 12, 12, **semantics((0, 10)))
    found = intervals(find_runs(tmp_path)[0], {"d": sum(scores) / 12})["d"]
    assert 0 <= found.low < found.high <= 10


def test_a_scale_that_the_scores_do_not_keep_to_is_not_believed(tmp_path):
    made.run(tmp_path, [0.5, 1.5] * 6)
    made.report(tmp_path, "m", "d", 1.0, 12, **semantics((0, 1)))
    assert intervals(find_runs(tmp_path)[0], {"d": 1.0})["d"].method == "clustered-t"


def test_pass_at_k_has_the_interval_of_its_questions(tmp_path):
    """Four answers to each of ten questions: pass@2 of a question is 0, 0.5 or 1, and 0.6 in the mean."""
    scores = [*[1, 0, 0, 0] * 4, *[0, 0, 0, 0] * 2, *[1, 1, 1, 1] * 4]
    made.run(tmp_path, scores, repeats=4)
    identity = {"name": "acc", "aggregation": "pass_at_k", "dimensions": {"k": 2}}
    metrics = [{"identity": identity, "num": 32, "score": 0.6, "semantics": {"kind": "quality"}}]
    made.report(tmp_path, "m", "d", 0.6, 32, metrics=metrics, primary_metric_identity=identity)
    found = intervals(find_runs(tmp_path)[0], {"d": 0.6})["d"]
    assert (found.groups, found.low < 0.6 < found.high) == (10, True)
