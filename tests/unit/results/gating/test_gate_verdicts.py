"""A gate: what passes, what blocks, and what cannot be decided."""

from xml.etree import ElementTree

import numpy as np
import pytest
from comparison_runs import loaded, rows
from rich.console import Console

from evalscope_evalflow.errors import ConfigError, ExitCode
from evalscope_evalflow.results.comparison.compare_runs import Rules, compare
from evalscope_evalflow.results.gating.gate_policy import Policy, Tier
from evalscope_evalflow.results.gating.gate_text import as_summary, gate_payload, show_gate
from evalscope_evalflow.results.gating.gate_verdicts import Status, judge
from evalscope_evalflow.results.gating.junit_file import as_junit
from evalscope_evalflow.results.statistics.paired import paired
from evalscope_evalflow.state.cells import Cell

CRITICAL = {"critical": {"qa": {"max_drop": 0.02}}}
PASSED, BLOCKED, UNDECIDED = ExitCode.COMPLETE, ExitCode.BLOCKED, ExitCode.INCOMPLETE


def gate(base, new, policy=None, datasets=()):
    rules = Policy.model_validate(policy or CRITICAL)
    comparison = compare([loaded("base", base), loaded("new", new, "base")], Rules(rules.min_share))
    return judge(comparison, rules, ["qa", *datasets])


def coins(count, share, seed=0):
    return (np.random.default_rng(seed).random(count) < share).astype(float).tolist()


# --- what the peer lets pass ---


def test_a_fall_of_avg_at_8_blocks():
    """From 0.95 to 0.70; every question still has a right answer."""
    base, new = coins(400, 0.95), coins(400, 0.70, seed=1)
    result = gate(rows(base, repeats=8), rows(new, repeats=8))
    assert result.exit_code is BLOCKED
    assert result.cells[0].cell.groups == 50


def test_a_fall_of_judge_scores_blocks():
    noise = np.random.default_rng(0).normal(0, 0.03, (2, 60))
    result = gate(rows((0.9 + noise[0]).tolist(), judged=True), rows((0.5 + noise[1]).tolist(), judged=True))
    assert result.exit_code is BLOCKED


def test_half_of_the_samples_missing_is_not_decidable():
    scores = coins(400, 0.8)
    result = gate(rows(scores), rows(scores[:200]))
    assert result.exit_code is UNDECIDED
    assert "200 of 400 samples" in result.cells[0].reason


@pytest.mark.parametrize("state", ["failed", "unjudged", "unscored"])
def test_half_of_the_samples_without_a_score_is_not_decidable(state):
    scores = [1.0] * 400
    assert gate(rows(scores), rows([state] * 200 + scores[200:])).exit_code is UNDECIDED


def test_three_pairs_are_too_few():
    result = gate(rows([1.0, 1.0, 0.0]), rows([1.0, 1.0, 0.0]))
    assert result.exit_code is UNDECIDED
    assert result.cells[0].reason.startswith("too few: 3 samples in 3 groups")


def test_few_clusters_do_not_pass():
    """Five groups of forty: naive intervals are 12.5 % wrong here."""
    base, new = rows(coins(200, 0.5)), rows(coins(200, 0.5))
    for place in range(200):
        base[place]["group"] = new[place]["group"] = f"g{place // 40}"
    assert gate(base, new).exit_code is UNDECIDED


# --- what could never block ---


@pytest.mark.parametrize("tier", ["critical", "supporting"])
@pytest.mark.parametrize(
    ("base", "allowed", "said"),
    [
        ([1.0] * 20, {"max_drop": 5}, "max_drop 5 looks like a percentage: qa has 1.0000 in base"),
        ([1.0, 0.0] * 10, {"max_drop": 1}, "max_drop 1 looks like a percentage"),
        ([1.0, 0.0] * 10, {"max_drop": 0.5}, "a drop of 0.5000 is allowed, and qa has 0.5000 in base"),
        ([0.0] * 20, {"max_drop": 2}, "max_drop 2 looks like a percentage"),
        ([7.0, 8.0] * 10, {"max_drop": 8}, "a drop of 8.0000 is allowed, and qa has 7.5000 in base"),
    ],
)
def test_a_line_that_could_never_block_is_refused(tier, base, allowed, said):
    with pytest.raises(ConfigError) as error:
        gate(rows(base), rows([0.0] * 20), {tier: {"*": allowed}})
    assert f"policy: {tier}.*: {said}" in str(error.value)
    assert "0.05 means five points" in str(error.value)


@pytest.mark.parametrize(
    ("base", "allowed"),
    [
        ([1.0, 0.0] * 10, {"max_drop": 0.49}),
        ([1.0, 0.0] * 10, {"max_drop": 0.9, "max_relative_drop": 0.1}),  # the stricter one counts
        ([70.0, 80.0] * 10, {"max_drop": 5}),
        ([0.0] * 20, {"max_drop": 0.02}),  # nothing can fall, and that is no fault of the policy
        ([-0.9, 1.0] * 10, {"max_drop": 0.1}),  # may fall below 0
    ],
)
def test_a_line_that_could_block_is_taken(base, allowed):
    assert gate(rows(base), rows(base), {"critical": {"*": allowed}}).cells[0].status in (
        Status.PASSED,
        Status.UNDECIDED,
    )


def test_a_percentage_is_refused_where_less_is_better():
    rules = Policy.model_validate({"critical": {"*": {"max_drop": 5}}})
    runs = [loaded("base", rows([0.1] * 20), lower=["qa"]), loaded("new", rows([0.9] * 20), "base")]
    with pytest.raises(ConfigError, match="looks like a percentage"):
        judge(compare(runs), rules, ["qa"])


def test_an_advisory_line_is_never_one():
    result = gate(rows([1.0] * 400), rows([1.0] * 400), {"critical": {"qa": {"max_drop": 0.1}}, "advisory": ["x"]})
    assert result.exit_code is PASSED


# --- runs that did not end by themselves ---


@pytest.mark.parametrize("tier", ["critical", "supporting"])
@pytest.mark.parametrize("side", ["base", "new"])
@pytest.mark.parametrize(
    ("state", "missing", "code"),
    [
        ("complete", 4, PASSED),
        ("incomplete", 4, PASSED),  # `min_share` says how much may be missing
        ("interrupted", 4, UNDECIDED),
        ("failed", 4, UNDECIDED),
        ("died", 4, UNDECIDED),
        ("running", 4, UNDECIDED),
        ("", 4, UNDECIDED),
        ("interrupted", 0, PASSED),  # everything is there
        ("", 0, PASSED),
    ],
)
def test_an_unfinished_run_decides_only_with_every_sample(tier, side, state, missing, code):
    scores = coins(400, 0.8)
    rules = Policy.model_validate({tier: {"qa": {"max_drop": 0.05}}})
    runs = [
        loaded(name, rows(scores[: 400 - missing] if name == side else scores), baseline, **record)
        for name, baseline in (("base", None), ("new", "base"))
        for record in [{"state": state} if name == side else {}]
    ]
    result = judge(compare(runs), rules, ["qa"])
    assert result.exit_code is code
    said = "396 of 400 samples have a score in both" in result.cells[0].reason
    assert said == (code is UNDECIDED)
    text = as_summary(result)
    assert ("samples may be missing" in text) == (state not in ("complete", "incomplete"))


def test_nobody_knows_whether_two_unfinished_runs_have_every_sample_unless_they_were_counted():
    samples, rules = rows(coins(400, 0.8)), Policy.model_validate({"critical": {"qa": {"max_drop": 0.05}}})
    for cells, code in (({}, UNDECIDED), ({"qa": Cell(requested=400)}, PASSED)):
        runs = [loaded("base", samples, None, cells, state="died"), loaded("new", samples, "base", state="failed")]
        assert judge(compare(runs), rules, ["qa"]).exit_code is code


def test_a_fall_in_an_unfinished_run_does_not_block():
    rules = Policy.model_validate(CRITICAL)
    runs = [loaded("base", rows([1.0] * 100)), loaded("new", rows([0.0] * 97), "base", state="interrupted")]
    (cell,) = judge(compare(runs), rules, ["qa"]).cells
    assert cell.status is Status.UNDECIDED
    assert "its last run was interrupted" in cell.reason
    assert "it fell for sure" in cell.reason


# --- critical: non-inferiority ---


def test_not_significant_is_no_pass():
    """Equal scores on 40 samples, some lost and some won: nobody knows whether it fell by 2 points."""
    base = [1.0, 0.0] * 20
    new = [0.0, 1.0, *base[2:]]
    result = gate(rows(base), rows(new))
    assert result.exit_code is UNDECIDED
    assert "show neither that it fell nor" in result.cells[0].reason


def test_twenty_identical_samples_do_not_show_that_nothing_fell():
    assert gate(rows(coins(20, 0.5)), rows(coins(20, 0.5))).exit_code is UNDECIDED


def test_enough_samples_with_the_same_scores_pass():
    scores = coins(1000, 0.8)
    result = gate(rows(scores), rows(scores))
    assert result.exit_code is PASSED
    assert -0.02 < result.cells[0].cell.lower_one_sided < 0


def test_a_sure_fall_by_less_than_is_allowed_passes_and_is_told():
    base = [1.0] * 4000
    new = [0.0] * 40 + base[40:]
    result = gate(rows(base), rows(new))
    assert result.exit_code is PASSED
    assert "fell for sure, but by less" in result.cells[0].reason


@pytest.mark.parametrize(
    ("allowed", "code"),
    [
        ({"max_drop": 0.2}, PASSED),
        ({"max_drop": 0.01}, BLOCKED),
        ({"max_relative_drop": 0.2}, PASSED),
        ({"max_relative_drop": 0.05}, BLOCKED),
        ({"max_drop": 0.2, "max_relative_drop": 0.05}, BLOCKED),
        ({"max_drop": 0.01, "max_relative_drop": 0.9}, BLOCKED),
    ],
)
def test_the_stricter_of_absolute_and_relative_drop_counts(allowed, code):
    """From 0.5 to 0.45: 0.05 absolute, 10 % relative."""
    base = [1.0] * 500 + [0.0] * 500
    new = [0.0] * 50 + base[50:]
    assert gate(rows(base), rows(new), {"critical": {"qa": allowed}}).exit_code is code


@pytest.mark.parametrize(("count", "lost", "won"), [(100, 0.05, 0.0), (240, 0.04, 0.02), (20, 0.1, 0.0)])
def test_what_has_fallen_by_just_what_is_allowed_passes_in_one_of_twenty_at_most(count, lost, won):
    """A run that is worse by exactly the allowed drop: few samples differ, and a t interval passes 14 % of them."""
    random, passed, draws = np.random.default_rng(7), 0, 300
    for _ in range(draws):
        fate = random.random(count)
        base = np.where(fate < lost, 1.0, np.where(fate < lost + won, 0.0, fate > 0.5))
        new = np.where(fate < lost, 0.0, np.where(fate < lost + won, 1.0, base))
        bound = paired(new, base, np.arange(count)).lower_one_sided
        passed += bound >= -(lost - won)
    assert passed / draws <= 0.05 + 2 * (0.05 * 0.95 / draws) ** 0.5


@pytest.mark.parametrize(("new", "code"), [([0.1] * 60, PASSED), ([0.4] * 60, BLOCKED)])
def test_a_rise_is_a_drop_where_less_is_better(new, code):
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 60))
    base, new = (
        loaded("base", rows((0.25 + noise[0]).tolist()), lower=["qa"]),
        rows((np.array(new) + noise[1]).tolist()),
    )
    comparison = compare([base, loaded("new", new, "base")])
    result = judge(comparison, Policy.model_validate(CRITICAL), ["qa"])
    assert result.exit_code is code
    assert "the gain (less is better) is" in result.cells[0].reason


# --- supporting and advisory ---


def test_supporting_blocks_only_if_it_fell_for_sure_and_by_more_than_is_allowed():
    base = [1.0] * 500 + [0.0] * 500
    fallen, shaken = [0.0] * 50 + base[50:], [0.0] * 2 + base[2:]
    policy = {"supporting": {"qa": {"max_drop": 0.02}}}
    assert gate(rows(base), rows(fallen), policy).exit_code is BLOCKED
    assert gate(rows(base), rows(shaken), policy).exit_code is PASSED
    assert gate(rows(base), rows(fallen), {"supporting": {"qa": {"max_drop": 0.1}}}).exit_code is PASSED
    assert gate(rows(base[:30]), rows([0.0] * 3 + base[3:30]), policy).exit_code is PASSED


def test_fell_for_sure_is_holm_adjusted_over_what_decides():
    base, new = [1.0] * 60, [0.0] * 6 + [1.0] * 54
    alone = gate(rows(base), rows(new), {"supporting": {"qa": {"max_drop": 0.02}}})
    assert alone.exit_code is BLOCKED
    same = [dict(row, dataset=f"other{number}") for number in range(5) for row in rows(base)]
    policy = {"supporting": {"*": {"max_drop": 0.02}}}
    among = gate(rows(base) + same, rows(new) + same, policy, [f"other{number}" for number in range(5)])
    assert (among.exit_code, among.family) == (PASSED, 6)
    policy["advisory"] = ["other*"]
    advised = gate(rows(base) + same, rows(new) + same, policy)
    assert (advised.exit_code, advised.family) == (BLOCKED, 1)


@pytest.mark.parametrize("new", [[0.0] * 200, [0.0] * 3, ["failed"] * 200])
def test_advisory_cells_never_decide(new):
    good = coins(1000, 0.8)
    policy = {**CRITICAL, "advisory": ["aime"]}
    result = gate(rows(good) + rows([1.0] * 200, "aime"), rows(good) + rows(new, "aime"), policy, ["aime"])
    assert result.exit_code is PASSED
    assert {cell.dataset: cell.status for cell in result.cells} == {"qa": Status.PASSED, "aime": Status.SHOWN}


def test_a_dataset_that_is_missing_is_not_decidable():
    policy = {"critical": {"*": {"max_drop": 0.02}}}
    good = coins(1000, 0.8)
    result = gate(rows(good) + rows(good, "code"), rows(good), policy)
    assert result.exit_code is UNDECIDED
    assert result.cells[0].reason == "incomplete: no sample of new"


def test_blocked_counts_before_not_decidable():
    policy = {"critical": {"*": {"max_drop": 0.02}}}
    base, new = [1.0] * 200, [0.0] * 100 + [1.0] * 100
    assert gate(rows(base) + rows(base, "code"), rows(new), policy).exit_code is BLOCKED


def test_runs_that_cannot_be_compared_are_refused_where_it_matters():
    base, new = rows(coins(100, 0.8)), rows(coins(100, 0.8), metric="f1")
    with pytest.raises(ConfigError, match="headline metric is acc in base, and f1 in new"):
        gate(base, new)
    policy = {"critical": {"code": {"max_drop": 0.02}}, "advisory": ["qa"]}
    good = rows(coins(1000, 0.8), "code")
    assert gate(base + good, new + good, policy).exit_code is PASSED


def test_a_policy_that_nothing_decides_by_is_refused():
    with pytest.raises(ConfigError, match="critical or supporting"):
        gate(rows([1.0] * 9), rows([1.0] * 9), {"supporting": {"*": {"max_drop": 1}}, "advisory": ["qa"]})


def test_what_is_left_out_is_told_where_it_passes():
    good = coins(1000, 0.8)
    result = gate(rows(good), rows(["failed"] * 20 + good[20:]))
    assert result.exit_code is PASSED
    assert result.cells[0].reason.endswith("; over 980 of 1000 samples (20 failed in new)")


# --- what it writes ---


@pytest.fixture(scope="module")
def mixed():
    """A blocked, an undecided, a passed and an advisory cell, with names that break XML and Markdown."""
    good = coins(1000, 0.8)
    base = rows(good) + rows([1.0] * 100, "bad|<b>") + rows(good, "part") + rows([1.0] * 9, "adv")
    new = rows(good) + rows([0.0] * 50 + [1.0] * 50, "bad|<b>") + rows(good[:9], "part") + rows([1.0] * 9, "adv")
    policy = {"critical": {"*": {"max_drop": 0.02}}, "advisory": ["adv"]}
    return gate(base, new, policy, ["bad|<b>", "part", "adv"])


def test_junit_counts_blocked_as_failures_and_undecided_as_errors(mixed):
    root = ElementTree.fromstring(as_junit(mixed))
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "1", "errors": "1", "skipped": "1",
    }  # fmt: skip
    assert {suite.get("name") for suite in root} == {"critical", "advisory"}
    (failed,) = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert failed.get("name") == "bad|<b>"
    assert "the difference is -0.5000" in failed.find("failure").get("message")


def test_junit_replaces_what_no_xml_can_hold():
    result = gate(rows([1.0] * 9, "qa\x00\x1b"), rows([1.0] * 9, "qa\x00\x1b"), {"critical": {"*": {"max_drop": 0.5}}})
    root = ElementTree.fromstring(as_junit(result).encode())
    assert "qa\ufffd\ufffd" in {case.get("name") for case in root.iter("testcase")}


def test_the_summary_is_a_table_that_no_name_breaks(mixed):
    lines = as_summary(mixed).splitlines()
    assert "Gate: blocked (1 blocked, 1 not decidable, 1 passed; exit code 4)" in lines[0]
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4
    assert {line.count("|") for line in table} == {10}
    assert not [line for line in lines if "<b>" in line]


@pytest.mark.parametrize("width", [60, 80])
def test_the_terminal_shows_each_cell_and_the_decision_in_its_width(mixed, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show_gate(mixed, console)
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines)
    text = " ".join(" ".join(lines).split())
    for word in ("bad|<b>", "blocked", "not decidable", "passed", "exit code 4"):
        assert word in text


def test_the_payload_says_what_decided(mixed):
    payload = gate_payload(mixed)
    assert payload["status"] == "blocked"
    assert {cell["tier"] for cell in payload["cells"]} == {Tier.CRITICAL.value, Tier.ADVISORY.value}
