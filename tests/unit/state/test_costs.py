"""What a run folder says of what it cost."""

import json

import pytest

from evalscope_evalflow.state.costs import (
    ANSWERING,
    IDLE,
    LOADING,
    Cost,
    ModelCost,
    engine_line,
    read_costs,
    recorded_costs,
    sum_of,
)


def answer(dataset, given, said):
    return {
        "kind": "answer", "dataset": dataset, "tokens": given + said, "input_tokens": given, "output_tokens": said,
    }  # fmt: skip


LINES = [
    answer("a", 20, 10),
    answer("a", 20, 30),
    answer("b", 5, 1),
    {"kind": "judge_request", "dataset": "b"},
    {"kind": "judge_reply", "dataset": "b", "tokens": 12, "input_tokens": 10, "output_tokens": 2},
    engine_line("r-1", LOADING, "", 30.0, 2, [0.0, 0.1]),
    engine_line("r-1", ANSWERING, "a", 50.0, 2, [0.9] * 8),
    engine_line("r-1", ANSWERING, "b", 10.0, 2, []),
    engine_line("r-1", IDLE, "", 10.0, 2, []),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "evalflow").mkdir()
    return tmp_path


def write(folder, *lines, torn=""):
    text = "".join(json.dumps({"schema": 2, **line}) + "\n" for line in lines)
    (folder / "evalflow" / "usage.jsonl").write_text(text + torn)


def test_a_model_and_each_of_its_datasets_have_what_was_spent_on_them(folder):
    write(folder, *LINES)
    cost = read_costs(folder)
    assert (cost.total.answers, cost.total.tokens, cost.total.input_tokens, cost.total.output_tokens) == (3, 86, 45, 41)
    assert (cost.total.held_s, cost.total.gpu_s) == (100.0, 200.0)
    assert cost.total.shares == {LOADING: 0.3, ANSWERING: 0.6, IDLE: 0.1}
    assert cost.total.utilisation == pytest.approx((0.1 + 8 * 0.9) / 10)
    assert cost.total.readings == 10
    assert (cost.cells["a"].tokens, cost.cells["a"].held_s, cost.cells["a"].gpu_s) == (80, 50.0, 100.0)
    assert cost.cells["a"].utilisation == pytest.approx(0.9)
    judged = cost.cells["b"]
    assert (judged.judge_requests, judged.judge_input_tokens, judged.judge_output_tokens) == (1, 10, 2)
    assert judged.utilisation is None


def test_without_a_gpu_seconds_are_there_all_the_same(folder):
    write(folder, engine_line("r-1", LOADING, "", 30.0, 0, []), engine_line("r-1", ANSWERING, "a", 10.0, 0, []))
    total = read_costs(folder).total
    assert (total.held_s, total.gpu_s, total.utilisation) == (40.0, None, None)
    assert "gpu_s" not in total.as_record()
    assert total.sentence() == "engine held for 40 s (75% loading, 25% answering, 0% idle)"


def test_the_runs_of_a_folder_add_up_and_so_do_the_models_of_a_sweep(folder):
    write(folder, *LINES, *LINES)
    twice = read_costs(folder).total
    assert (twice.tokens, twice.gpu_s) == (172, 400.0)
    swept = sum_of([twice, Cost(tokens=8, gpu_s=None)])
    assert (swept.tokens, swept.gpu_s, swept.utilisation) == (180, 400.0, twice.utilisation)
    assert sum_of([]) == Cost()


def test_a_torn_or_foreign_line_counts_for_nothing(folder):
    write(folder, answer("a", 1, 1), {"kind": "engine"}, {"kind": "answer", "tokens": "many"}, torn='{"kind": "ans')
    assert read_costs(folder).total == Cost(answers=1, tokens=2, input_tokens=1, output_tokens=1)


def test_answers_of_an_earlier_version_have_tokens_and_no_more(folder):
    write(folder, {"kind": "answer", "dataset": "a", "tokens": 7})
    total = read_costs(folder).total
    assert (total.tokens, total.input_tokens, total.output_tokens) == (7, 0, 0)
    assert total.sentence() == "7 tokens"
    assert read_costs(folder / "none") == ModelCost()
    assert Cost().sentence() == ""


def test_it_survives_being_written_as_json(folder):
    write(folder, *LINES)
    cost = read_costs(folder)
    record = json.loads(json.dumps(cost.as_record()))
    assert record["shares"] == {LOADING: 0.3, ANSWERING: 0.6, IDLE: 0.1}
    again = ModelCost.from_record(record)
    assert again.cells["b"] == cost.cells["b"]
    assert again.total.as_record() == cost.total.as_record()


def test_it_can_be_said_in_a_line(folder):
    write(folder, *LINES)
    assert read_costs(folder).total.sentence() == (
        "45 tokens in, 41 out; 1 requests to the judge (10 tokens in, 2 out); "
        "200 GPU-seconds (30% loading, 60% answering, 10% idle, GPUs computed 73% of the time)"
    )


def test_the_record_is_taken_where_it_has_it_and_what_is_no_number_counts_for_nothing(folder):
    write(folder, *LINES)
    assert recorded_costs(folder, {}) == read_costs(folder)
    assert recorded_costs(folder, {"cost": {"tokens": 7, "gpu_s": "many", "cells": [1]}}).total == Cost(tokens=7)
