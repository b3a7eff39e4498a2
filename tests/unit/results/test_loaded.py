"""`evalscope_evalflow.load`: finished runs as DataFrames."""

import json
from pathlib import Path

import made_up_run as made
import pytest

import evalscope_evalflow
from evalscope_evalflow.results.exporters.table_columns import COLUMNS
from evalscope_evalflow.results.loaded import SCORE_COLUMNS

OLD = Path(__file__).parents[2] / "run_folders_0_1"


@pytest.fixture
def sweep(tmp_path):
    made.run(tmp_path / "a", [1, 0, 1, 1], model="a")
    made.run(tmp_path / "b", [0, 0, 1, 0], model="b")
    return tmp_path


def test_scores_of_a_sweep(sweep):
    path = sweep / "a" / "evalflow" / "run.json"
    record = json.loads(path.read_text())
    del record["results"]["d"]["score"]["interval"]
    path.write_text(json.dumps(record))
    results = evalscope_evalflow.load(sweep)
    scores = results.scores.set_index("model")
    assert scores["score"].to_dict() == {"a": 0.75, "b": 0.25}
    assert scores.loc["a", ["dataset", "metric", "run", "state", "requested"]].tolist() == [
        "d", "accuracy", "a", "complete", 4,
    ]  # fmt: skip
    # The record has none, as that of 0.1: it is computed.
    assert scores.loc["a", "interval_low"] == pytest.approx(0.3006, abs=1e-4)
    assert scores.loc["a", "few_groups"]
    assert repr(results) == "<Results of 2 runs on d>"


def test_samples_of_a_sweep(sweep):
    results = evalscope_evalflow.load(sweep)
    assert results.samples.groupby("run", observed=True)["score"].sum().to_dict() == {"a": 3, "b": 1}
    assert list(results.samples_of(["score"]).columns) == ["run", "score"]


def test_a_score_of_the_record_keeps_its_interval(tmp_path):
    made.run(tmp_path, [1, 0])
    made.record(tmp_path, results={"d": made.result(0.5, 2, interval=[0.1, 0.9], n_groups=2, few_groups=True)})
    row = evalscope_evalflow.load(str(tmp_path)).scores.iloc[0]
    assert (row["interval_low"], row["interval_high"], row["n_groups"]) == (0.1, 0.9, 2)


def test_a_score_without_a_value_says_why(tmp_path):
    made.record(tmp_path, state="failed")
    row = evalscope_evalflow.load(tmp_path).scores.iloc[0]
    assert row.isna()["score"]
    assert row["why_not"] == "the run ended as failed, and wrote no result"


def test_the_columns_begin_with_those_of_scores_csv(sweep):
    assert SCORE_COLUMNS[: len(COLUMNS)] == COLUMNS
    assert tuple(evalscope_evalflow.load(sweep).scores.columns) == SCORE_COLUMNS


def test_folders_of_0_1_are_one_table():
    results = evalscope_evalflow.load(OLD)
    headline = results.scores[results.scores["headline"]].set_index(["run", "dataset"])
    assert headline.loc[("judged/work", "general_qa"), "score"] == 0.5
    assert headline.loc[("judged/work", "general_qa"), "interval_low"] > 0
    assert set(results.samples["state"]) >= {"scored", "failed", "unscored"}
