"""What has to be known of a run before its scores are compared."""

import pytest
from comparison_runs import loaded, rows

from evalscope_evalflow.results.comparison.compare_runs import Rules, compare
from evalscope_evalflow.state.cells import Cell

WHETHER = "whether it is finished"
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


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", ["its last run has not finished: samples may be missing"]),
        ("died", ["its last run was killed: samples may be missing"]),
        ("interrupted", ["its last run was interrupted: samples may be missing"]),
        ("failed", ["its last run failed: samples may be missing"]),
        (
            "",
            ["it has no record that can be read, so that nobody knows whether it is finished: samples may be missing"],
        ),
        ("complete", []),
        ("incomplete", []),  # what is missing is counted, cell by cell
    ],
)
def test_a_run_that_has_not_finished_is_told(state, said):
    assert remarks(state=state) == said


def test_notes_are_of_the_datasets_that_are_compared():
    cells = {name: Cell(assumed=["env_vars"]) for name in ("qa", "code")}
    runs = [loaded("base", QUESTIONS), loaded("new", QUESTIONS, "base", cells)]
    assert compare(runs, Rules(datasets=("qa",))).runs[1].remarks == (
        "qa: not recorded, and taken to be as it was later: env_vars",
    )


def test_a_score_that_is_no_mean_of_its_samples_is_told():
    """As where categories weigh the same."""
    score = {"value": 0.75, "metric": "acc", "n": 20, "complete": True}
    found = remarks(results={"qa": {"score": score, "metrics": {"acc": 0.75}}})
    assert found == ["qa: acc is 0.7500 in the run's own table; here it is 0.5000, the mean of its samples"]


def test_engines_of_all_answers_are_named():
    batches = [{"engine": "vllm", "version": "0.32"}, {"engine": "vllm", "version": "0.33"}]
    run = loaded("new", QUESTIONS, "base", engine="vllm", answers_from=batches)
    assert compare([loaded("base", QUESTIONS), run]).runs[1].engine == "vllm 0.32 and vllm 0.33"
