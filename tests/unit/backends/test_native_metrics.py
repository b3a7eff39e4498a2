"""Metrics that EvalScope could not compute are no score, on EvalScope's own objects."""

import json
from types import SimpleNamespace

import pytest
from evalscope.api.metric import SampleScore, Score

from evalscope_evalflow.backends.native import native_verdicts as verdicts
from evalscope_evalflow.backends.native.native_metric_scoring import Unscored, scores_only_metrics
from evalscope_evalflow.events.worker_events import MetricsFailed

NLTK = """LookupError:
**********************************************************************
  Resource \x1b[93mpunkt_tab\x1b[0m not found.
  Please use the NLTK Downloader to obtain the resource:

  >>> import nltk
""".replace("\x1b[93m", "'").replace("\x1b[0m", "'")
SAID = "nltk's data punkt_tab are missing: python -m nltk.downloader punkt_tab"
ROUGE, BLEU = {"Rouge-L-R": 0.5, "Rouge-1-R": 0.4}, {"bleu-1": 0.0, "bleu-4": 0.0}


def sample(value, errors=None, main="Rouge-L-R", **metadata):
    metadata = {**metadata, **({"metric_errors": errors} if errors else {})}
    return SampleScore(sample_id=0, score=Score(value=dict(value), main_score_name=main, metadata=metadata))


class Stock:
    """As EvalScope's evaluator, as far as scores go."""

    benchmark_name = "general_qa"

    def __init__(self):
        self._sample_scores_by_subset = {}

    def _review_task_state(self, task_state):
        return task_state

    def _aggregate_scores(self, dataset_dict, context, results):
        self._sample_scores_by_subset = {"t": [*context.cached_scores_by_subset["t"], *results]}
        return "figures"


@pytest.fixture
def told():
    return []


@pytest.fixture
def scorer(told):
    return scores_only_metrics(Stock, SimpleNamespace(emit=told.append))()


def test_a_metric_that_failed_has_no_value_and_the_others_keep_theirs(scorer):
    found = scorer._review_task_state(sample({**BLEU, **ROUGE}, {"BLEU": NLTK}))
    assert found.score.value == ROUGE
    whole = sample({**BLEU, **ROUGE})
    assert scorer._review_task_state(whole).score.value == {**BLEU, **ROUGE}


@pytest.mark.parametrize(
    "failed",
    [
        sample({**BLEU, **dict.fromkeys(ROUGE, 0.0)}, {"Rouge": "ImportError: no jieba"}),
        sample({}, main="acc", acc="error: no jieba"),
    ],
)
def test_a_sample_whose_headline_metric_failed_is_not_scored(scorer, failed):
    with pytest.raises(Unscored, match=r"could not be computed: .*no jieba"):
        scorer._review_task_state(failed)


def test_a_benchmark_whose_own_code_cannot_run_gives_no_score_and_an_answer_that_it_cannot_read_a_bad_one(scorer):
    def scored(said):
        found = sample({"acc": 0.0}, main="acc", error=said)
        found.score.explanation = f"Evaluation failed: {said}"
        return scorer._review_task_state(found)

    with pytest.raises(Unscored, match=r"the score could not be computed: .*No module named 'rouge'"):
        scored("No module named 'rouge'")
    assert scored("Expecting value: line 1 column 1").score.value == {"acc": 0.0}


def test_what_failed_is_told_with_the_saved_scores_of_earlier_runs(scorer, told):
    old = sample({**BLEU, **ROUGE}, {"BLEU": NLTK})
    context = SimpleNamespace(cached_scores_by_subset={"t": [old]})
    new = [scorer._review_task_state(sample({**BLEU, **ROUGE}, {"BLEU": NLTK}))]
    assert scorer._aggregate_scores({}, context, new) == "figures"
    assert old.score.value == ROUGE
    assert told == [MetricsFailed("general_qa", {"BLEU": (2, SAID)})]


def test_all_is_well_is_told_too(scorer, told):
    scorer._aggregate_scores({}, SimpleNamespace(cached_scores_by_subset={"t": []}), [sample(ROUGE)])
    assert told == [MetricsFailed("general_qa", {})]


def test_a_saved_score_that_lacks_a_metric_is_made_again_and_a_verdict_is_kept(tmp_path):
    def row(**score):
        return json.dumps({"index": 0, "sample_score": {"score": score}}) + "\n"

    lacking = row(metadata={"metric_errors": {"BLEU": NLTK}})
    whole, judged = row(metadata={}), row(metadata={"acc": "error: x"}, judge_summary={"status": "success"})
    file = tmp_path / "general_qa_t.jsonl"
    file.write_text(lacking + whole + judged)
    assert verdicts.drop_fallbacks([file]) == 0
    assert file.read_text() == whole + judged
