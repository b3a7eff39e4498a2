"""What has to be known of a run before its scores are compared."""

from comparison_runs import loaded, rows

from evalscope_evalflow.results.comparison.compare_runs import compare
from evalscope_evalflow.state.cells import Cell

QUESTIONS = rows([1.0, 0.0] * 10)


def remarks(**record):
    """Of a run with this record, of two that are compared."""
    cells = record.pop("cells", {})
    comparison = compare([loaded("base", QUESTIONS), loaded("new", QUESTIONS, "base", cells, **record)])
    return list(comparison.runs[1].remarks)


def test_accepted_and_assumed_settings_are_told():
    accepted = Cell(accepted=["extra_args was --a and is --b"], mixed=True, requested=20)
    assert remarks(cells={"qa": accepted}) == [
        "qa: saved answers of other settings are used, as accepted: extra_args was --a and is --b"
    ]
    assumed = Cell(assumed=["env_vars"], requested=20)
    assert remarks(cells={"qa": assumed}) == ["qa: not recorded, and taken to be as it was later: env_vars"]


def test_remarks_of_the_record_are_told():
    score = {"value": 0.5, "metric": "acc", "n": 20, "complete": True}
    result = {"score": score, "metrics": {"acc": 0.5}, "remarks": ["answers from vllm 0.32 and 0.33"]}
    found = remarks(cells={"qa": Cell(requested=20)}, results={"qa": result})
    assert found == ["qa: answers from vllm 0.32 and 0.33"]


def test_a_run_that_has_not_finished_is_told():
    assert remarks(state="running") == ["its last run has not finished: more may come"]
    assert remarks(state="died") == ["its last run was killed: more may come"]


def test_a_score_that_is_no_mean_of_its_samples_is_told():
    """As where categories weigh the same."""
    score = {"value": 0.75, "metric": "acc", "n": 20, "complete": True}
    found = remarks(results={"qa": {"score": score, "metrics": {"acc": 0.75}}})
    assert found == ["qa: acc is 0.7500 in the run's own table; here it is 0.5000, the mean of its samples"]


def test_engines_of_all_answers_are_named():
    batches = [{"engine": "vllm", "version": "0.32"}, {"engine": "vllm", "version": "0.33"}]
    run = loaded("new", QUESTIONS, "base", engine="vllm", answers_from=batches)
    assert compare([loaded("base", QUESTIONS), run]).runs[1].engine == "vllm 0.32 and vllm 0.33"
