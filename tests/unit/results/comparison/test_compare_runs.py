"""Comparing runs: what is paired, what is left out, what is refused, and what is found."""

import re

import numpy as np
import pytest
from comparison_runs import loaded, rows

from evalscope_evalflow.results.comparison.compare_runs import Rules, compare
from evalscope_evalflow.results.comparison.comparison_data import Kind, Verdict
from evalscope_evalflow.results.comparison.comparison_table import legend, plus_minus, score_text
from evalscope_evalflow.results.marks import FEW, INCOMPLETE
from evalscope_evalflow.state.cells import Cell


def coins(count, share, seed=0):
    return (np.random.default_rng(seed).random(count) < share).astype(float).tolist()


def one(base, new, rules=None, base_cell=None, new_cell=None):
    """The one cell of a comparison of two runs on one dataset."""
    cells = [{"qa": cell} if cell else {} for cell in (base_cell, new_cell)]
    comparison = compare([loaded("base", base, cells=cells[0]), loaded("new", new, "base", cells=cells[1])], rules)
    (cell,) = comparison.cells
    return cell


def test_samples_are_paired_by_what_they_ask_and_not_by_their_number():
    scores = coins(40, 0.5)
    moved = list(reversed(rows(scores)))
    for place, row in enumerate(moved):
        row["sample"] = str(place)
    cell = one(rows(scores), moved)
    assert (cell.pairs, cell.difference, cell.wins, cell.losses) == (40, 0, 0, 0)


def test_equal_rows_are_paired_in_their_order():
    base = rows([1, 0, 1, 0], question="the same")
    for place, row in enumerate(base):
        row["occurrence"] = place
    cell = one(base, [dict(row) for row in base])
    assert (cell.pairs, cell.wins, cell.losses) == (4, 0, 0)


def test_repeats_of_a_question_are_one_group_and_scores_may_be_fractions():
    base, new = coins(200, 0.5), coins(200, 0.6, seed=1)
    cell = one(rows(base, repeats=4), rows(new, repeats=4))
    assert (cell.pairs, cell.groups) == (200, 50)
    graded = one(rows([0.3, 0.55, 0.9, 1.0] * 10), rows([0.2, 0.45, 0.8, 0.9] * 10))
    assert graded.difference == pytest.approx(-0.1)
    assert graded.verdict is Verdict.FELL


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("accuracy (pass_at_k, 2)", [5 / 6, 0.5]), ("pass@2", [5 / 6, 0.5]), ("accuracy (pass_hat_k, 2)", [1 / 6, 0]),
     ("accuracy (pass_at_k, 4)", [1, 1]), ("accuracy", [0.5, 0.25])],
)  # fmt: skip
def test_pass_at_k_is_a_score_of_each_question(metric, expected):
    """Of four answers to each question two are right, and one."""
    base = rows([1.0, 0.0, 1.0, 0.0] * 10, repeats=4, metric=metric)
    new = rows([1.0, 0.0, 0.0, 0.0] * 10, repeats=4, metric=metric)
    cell = one(base, new)
    assert [cell.baseline_score, cell.score] == pytest.approx(expected)
    assert cell.groups == 10


def test_a_question_with_too_few_answers_has_no_pass_at_k():
    base = rows([1.0] * 40, repeats=4, metric="pass@4")
    new = rows([*[1.0] * 39, "failed"], repeats=4, metric="pass@4")
    cell = one(base, new, Rules(min_share=0.5))
    assert cell.pairs == 36
    assert cell.left_out == {"failed in new": 1, "not scored in new": 3}


def test_judge_scores_may_be_of_any_scale():
    base = [float(score) for score in np.random.default_rng(0).integers(3, 11, 60)]
    cell = one(rows(base, judged=True), rows([score - 2 for score in base], judged=True))
    assert cell.difference == pytest.approx(-2)
    assert cell.verdict is Verdict.FELL
    assert (cell.wins, cell.losses) == (0, 60)


def test_less_is_better_where_the_report_says_so():
    """Word error rates, one of them above 1."""
    base = [0.1, 0.3] * 20
    new = [score + 0.1 for score in base[:-1]] + [1.2]
    comparison = compare([loaded("base", rows(base), lower=["qa"]), loaded("new", rows(new), "base")])
    (cell,) = comparison.cells
    assert cell.verdict is Verdict.FELL
    assert cell.difference == pytest.approx(0.12)
    assert cell.low < cell.difference < cell.high
    assert cell.gain == -cell.difference
    assert cell.lower_one_sided < -0.12
    assert (cell.wins, cell.losses) == (0, 40)
    assert cell.remarks == ("less is better by this metric",)


@pytest.mark.parametrize(
    ("state", "words"), [("failed", "failed"), ("unjudged", "not judged"), ("unscored", "not scored")]
)
def test_a_sample_without_a_score_is_left_out_and_counted_on_either_side(state, words):
    scores = [1.0] * 100
    cell = one(rows(scores), rows([state] * 3 + scores[3:]))
    assert (cell.pairs, cell.expected, cell.difference, cell.losses) == (97, 100, 0, 0)
    assert cell.left_out == {f"{words} in new": 3}
    assert one(rows([state] * 3 + scores[3:]), rows(scores)).left_out == {f"{words} in base": 3}


def test_half_of_the_samples_is_refused_unless_that_is_enough():
    scores = coins(100, 0.5)
    cell = one(rows(scores), rows(scores[:50]))
    assert cell.verdict is Verdict.REFUSED
    assert cell.refused == (
        "50 of 100 samples have a score in both (50 not asked in new); less than 95% (--min_share 0.5 takes them)"
    )
    assert cell.difference is None
    assert one(rows(scores), rows(scores[:50]), Rules(min_share=0.5)).pairs == 50


def test_samples_that_nobody_asked_are_missed_as_well():
    """Both runs were ended half-way: what they have is the same, and yet half is missing."""
    cell = one(rows([1.0] * 50), rows([1.0] * 50), base_cell=Cell(requested=100), new_cell=Cell(requested=100))
    assert "50 of 100" in cell.refused
    assert cell.left_out == {"not asked in base": 50, "not asked in new": 50}


def test_no_sample_in_both_is_refused_whatever_the_share():
    cell = one(rows([1.0] * 10), rows(["failed"] * 10), Rules(min_share=0.01))
    assert cell.refused.startswith("0 of 10 samples have a score in both (10 failed in new)")


def test_other_data_is_refused_and_allowed_by_name():
    base, new = rows(coins(100, 0.5)), rows(coins(100, 0.5))
    for row in new[:3]:
        row["question"] += " mended"
    cell = one(base, new)
    words = "data: questions or right answers: 3 that new lacks, 3 that base lacks (--allow data)"
    assert cell.refused == words
    assert one(base, new, Rules(allowed=frozenset({Kind.DATA}))).pairs == 97


def test_a_failed_sample_is_no_other_data():
    """Nothing but its row tells a question of which nothing is scored, and that is another digest."""
    base, new = rows(coins(100, 0.5)), rows(["failed", *coins(99, 0.5)])
    new[0]["question"] = "row 0"
    base[7].update(state="failed", score=None, question="row 7")
    cell = one(base, new)
    assert not cell.refused
    assert (cell.pairs, cell.expected) == (98, 100)


def test_questions_in_other_words_can_be_paired_by_number_with_that_in_the_output():
    """As another version of EvalScope words its prompts: no setting tells."""
    scores = coins(40, 0.5)
    new = rows(scores)
    for row in new:
        row["question"] += " in other words"
    assert "--allow prompt if their wording alone differs" in one(rows(scores), new).refused
    rules = Rules(allowed=frozenset({Kind.PROMPT}))
    comparison = compare([loaded("base", rows(scores)), loaded("new", new, "base")], rules)
    assert comparison.cells[0].pairs == 40
    assert [(item.name, item.allowed) for item in comparison.differences] == [("wording of questions", True)]


def facts(**predictions):
    return Cell(predictions={"facts": 2, **predictions}, verdicts={"facts": 2}, requested=40)


@pytest.mark.parametrize("setting", ["few_shot_num", "prompt_template", "system_prompt", "choice_instructions"])
def test_another_prompt_is_refused_and_pairs_by_number_where_that_is_allowed(setting):
    base, new = rows(coins(40, 0.5)), rows(coins(40, 0.5))
    for row in new:
        row["question"] += " in other words"
    cells = facts(dataset_args={setting: "a"}), facts(dataset_args={setting: "b"})
    refused = one(base, new, None, *cells)
    assert f"dataset_args.{setting} is a in base, b in new (--allow prompt)" in refused.refused
    allowed = one(base, new, Rules(allowed=frozenset({Kind.PROMPT})), *cells)
    assert (allowed.pairs, allowed.difference) == (40, 0)
    for row in new[:10]:
        row["target"] = "another right answer"
    assert "30 of 40" in one(base, new, Rules(allowed=frozenset({Kind.PROMPT})), *cells).refused


def judged_by(model):
    judge = {"model_id": model, "generation_config": {"temperature": 0.0, "retries": 3}}
    return Cell(predictions={"facts": 2}, verdicts={"facts": 2, "strategy": "llm", "models": [judge]}, requested=40)


def test_another_judge_is_refused_where_it_has_had_a_say():
    scores = coins(40, 0.5)
    cells = judged_by("gpt-a"), judged_by("gpt-b")
    cell = one(rows(scores, judged=True), rows(scores, judged=True), None, *cells)
    assert cell.refused == "judge: judge.model.model_id is gpt-a in base, gpt-b in new (--allow judge)"
    assert one(
        rows(scores, judged=True), rows(scores, judged=True), Rules(allowed=frozenset({Kind.JUDGE})), *cells
    ).pairs
    assert not one(rows(scores), rows(scores), None, *cells).refused


def test_another_metric_or_backend_is_refused():
    scores = coins(40, 0.5)
    assert "metric: headline metric is acc in base, f1 in new" in one(rows(scores), rows(scores, metric="f1")).refused
    cells = facts(backend="Native"), facts(backend="VLMEvalKit")
    assert "--allow backend" in one(rows(scores), rows(scores), None, *cells).refused
    cells = facts(), Cell(predictions={"facts": 2}, verdicts={"facts": 2, "dataset_args": {"filters": {"a": 1}}})
    assert "dataset_args.filters" in one(rows(scores), rows(scores), None, *cells).refused


def test_settings_engine_and_versions_are_told_and_refuse_nothing():
    scores = coins(40, 0.5)
    base = {"qa": facts(**{"generation_config.temperature": 0.0, "checkpoint": {"a.safetensors": "1"}})}
    new = {"qa": facts(**{"generation_config.temperature": 0.7, "checkpoint": {"a.safetensors": "2"}})}
    comparison = compare([
        loaded("base", rows(scores), cells=base, engine="vllm", versions={"vllm": "0.32.0", "evalscope": "1.14.0"}),
        loaded("new", rows(scores), "base", new, engine="vllm", versions={"vllm": "0.33.0", "evalscope": "1.14.1"}),
    ])  # fmt: skip
    told = {(item.kind, item.name): (item.baseline, item.value) for item in comparison.differences}
    assert told == {
        (Kind.MODEL, "checkpoint"): ("a.safetensors", "another a.safetensors"),
        (Kind.ENGINE, "engine version"): ("vllm 0.32.0", "vllm 0.33.0"),
        (Kind.SETTING, "generation_config.temperature"): ("0.0", "0.7"),
        (Kind.VERSION, "evalscope"): ("1.14.0", "1.14.1"),
    }
    assert [cell.pairs for cell in comparison.cells] == [40]


def test_what_0_1_did_not_write_down_is_no_difference():
    old = Cell(
        predictions={"backend": "Native", "seed": 42, "dataset_args": {"filters": {"a": 1}}}, verdicts={}, requested=40
    )
    new = Cell(
        predictions={"facts": 2, "backend": "Native", "deploy.extra_args": {"--x": []}},
        verdicts={"facts": 2, "dataset_args": {"filters": {"a": 1}}},
        requested=40,
    )
    scores = coins(40, 0.5)
    comparison = compare(
        [loaded("base", rows(scores), cells={"qa": old}), loaded("new", rows(scores), "base", {"qa": new})]
    )
    assert not [item for item in comparison.differences if item.refuses or item.name == "extra_args"]


@pytest.mark.parametrize("groups", [1, 5])
def test_fewer_than_six_groups_are_too_few_whatever_the_number_of_samples(groups):
    base, new = rows([0.0] * 100), rows([1.0] * 100)
    for place in range(100):
        base[place]["group"] = new[place]["group"] = f"g{place % groups}"
    cell = one(base, new)
    assert cell.verdict is Verdict.TOO_FEW
    assert (cell.p, cell.low, cell.smallest_difference) == (None, None, None)


def test_the_family_is_every_comparison_that_was_tested():
    """A difference that would be marked alone is not among nine others, of which nothing is true."""
    base, new = rows([1.0] * 6 + [0.0, 1.0] * 20), rows([0.0] * 6 + [0.0, 1.0] * 20)
    alone = one(base, new)
    assert (alone.verdict, alone.p, alone.p_adjusted) == (Verdict.FELL, 0.03125, 0.03125)
    others = [dict(row, dataset=f"other{number}") for number in range(9) for row in rows(coins(40, 0.5))]
    comparison = compare([loaded("base", base + others), loaded("new", new + others, "base")])
    assert comparison.family == 10
    assert comparison.cell("new", "qa").verdict is Verdict.NOT_SHOWN
    assert comparison.cell("new", "qa").p_adjusted == pytest.approx(0.3125)
    assert "Holm over the 10 comparisons" in comparison.family_text
    assert "not adjusted" in comparison.family_text


def test_several_models_at_once_each_with_a_score_and_its_interval():
    base = rows(coins(60, 0.5)) + rows(coins(30, 0.5), "code")
    runs = [loaded("base", base), *(loaded(f"step-{step}", base, "base") for step in (1, 2, 3))]
    comparison = compare(runs)
    assert len(comparison.cells) == 6
    assert comparison.datasets == ("qa", "code")
    for score in comparison.scores:
        assert 0 <= score.low < score.value < score.high <= 1
        assert score.complete


def test_a_dataset_that_one_run_lacks_is_told():
    comparison = compare(
        [loaded("base", rows([1.0] * 9) + rows([1.0] * 9, "code")), loaded("new", rows([1.0] * 9), "base")]
    )
    assert [cell.dataset for cell in comparison.cells] == ["qa"]
    assert comparison.missing == ("code: no sample of new",)


@pytest.mark.parametrize(
    ("base", "new", "lopsided"),
    [
        ([1.0] * 12, [0.0] * 12, True),
        ([0.0] * 12, [1.0] * 12, True),
        ([1.0, 0.0] * 200, [0.0, 1.0] * 20 + [1.0, 0.0] * 180, False),
        ([1.0] * 3, [0.0] * 3, False),  # has no interval
    ],
)
def test_both_ends_stand_where_plus_minus_would_mislead(base, new, lopsided):
    (cell,) = compare([loaded("base", rows(base)), loaded("new", rows(new), "base")]).cells
    assert cell.lopsided == lopsided
    text = plus_minus(cell)
    assert ("[" in text, "±" in text) == (lopsided, not lopsided and cell.low is not None)
    if lopsided:
        ends = re.findall(r"[+-][\d.]+", text)
        assert [float(end) for end in ends] == pytest.approx([cell.difference, cell.low, cell.high], abs=6e-4)


def test_marks_are_those_of_all_tables():
    """`~` few groups, `*` incomplete."""
    comparison = compare([loaded("base", rows([1.0, 0.0] * 20)), loaded("new", rows(["failed", *[1.0] * 8]), "base")])
    texts = [score_text(comparison.score(label, "qa")) for label in ("base", "new")]
    assert re.fullmatch(r"0\.5000 \[[\d., ]+\]", texts[0])
    assert re.fullmatch(r"1\.0000\* ~\[[\d., ]+\]", texts[1])
    assert [line[0] for line in legend(comparison) if line.startswith((FEW, INCOMPLETE))] == ["~", "*"]
