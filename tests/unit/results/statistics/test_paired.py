"""Paired comparisons: the two tests, their bounds, and what cannot be decided."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from evalscope_evalflow.results.statistics import PairedMethod, paired
from evalscope_evalflow.results.statistics.cluster_robust import (
    degrees_of_alike_samples,
    robust_mean,
    satterthwaite_degrees,
)
from evalscope_evalflow.results.statistics.effective_size import group_totals
from evalscope_evalflow.results.statistics.sign_flips import lower_bound, sign_flip_p, subset_means

UNEQUAL = [5, 5, 5, 5, 180]


def of_sizes(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def zero_one(wins, losses, ties):
    a = np.repeat([1.0, 0.0, 1.0], [wins, losses, ties])
    b = np.repeat([0.0, 1.0, 1.0], [wins, losses, ties])
    return a, b, np.arange(len(a))


def test_one_sample_a_group_is_the_paired_t_test():
    random = np.random.default_rng(1)
    a, b = random.random(40), random.random(40)
    found, expected = paired(a, b, np.arange(40)), stats.ttest_rel(a, b)
    ends = expected.confidence_interval(0.95)
    assert found.method is PairedMethod.CR2
    assert [found.p, found.low, found.high] == pytest.approx([expected.pvalue, ends.low, ends.high], rel=1e-9)


def test_groups_of_one_size_are_the_t_test_of_their_means():
    random = np.random.default_rng(2)
    a, b = random.random(60), random.random(60)
    found = paired(a, b, of_sizes([5] * 12))
    expected = stats.ttest_1samp((a - b).reshape(12, 5).mean(axis=1), 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.effective_groups == pytest.approx(12)


@pytest.mark.parametrize(("wins", "losses"), [(6, 0), (1, 8), (5, 4), (0, 9), (3, 3)])
def test_few_discordant_0_1_samples_are_mcnemars_exact_test(wins, losses):
    found = paired(*zero_one(wins, losses, 50))
    assert found.method is PairedMethod.SIGN_FLIP
    assert found.p == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, rel=1e-9)
    assert (found.wins, found.losses, found.ties) == (wins, losses, 50)
    assert found.difference == pytest.approx((wins - losses) / (wins + losses + 50))


def test_the_sign_flips_are_scipys_permutation_test():
    sums = np.random.default_rng(3).normal(size=9)
    expected = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(sums) == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("scale", [1, 0.125, 1 / 3, 0.01])
def test_multiples_of_a_fraction_have_an_exact_p_for_many_groups(scale):
    steps = np.random.default_rng(4).integers(-9, 10, 14)
    totals = [abs(np.dot(signs, steps)) for signs in product((-1, 1), repeat=14)]
    assert sign_flip_p(steps * scale) == pytest.approx(np.mean(np.array(totals) >= abs(steps.sum())), rel=1e-9)
    mcnemar = stats.binomtest(30, 90).pvalue
    assert sign_flip_p(np.repeat([1.0, -1.0, 0.0], [30, 60, 500]) * scale) == pytest.approx(mcnemar, rel=1e-9)


def test_many_groups_without_a_common_fraction_are_sampled_and_nearly_exact():
    sums = np.random.default_rng(5).normal(0.5, 1, size=40)
    p = sign_flip_p(sums)
    assert p == sign_flip_p(sums)
    assert p == pytest.approx(stats.ttest_1samp(sums, 0).pvalue, abs=0.01)


def test_the_bound_of_the_sign_flips_inverts_the_test():
    random = np.random.default_rng(6)
    sizes = np.array([3, 5, 4, 6, 2, 5, 4, 3])
    totals = group_totals(random.normal(size=sizes.sum()), of_sizes(sizes))
    bound = lower_bound(subset_means(totals.sizes, totals.sums), 0.05)
    for difference, rejected in ((bound - 1e-6, True), (bound + 1e-6, False)):
        shifted = totals.sums - difference * totals.sizes
        flips = np.array(list(product((-1, 1), repeat=8))) @ shifted
        assert (np.mean(flips >= shifted.sum() - 1e-9) <= 0.05) is np.bool_(rejected)


def test_interval_and_p_agree_on_zero_where_signs_are_flipped():
    random = np.random.default_rng(7)
    for _ in range(200):
        d = random.normal(0.5, 1, size=8)
        found = paired(d, d * 0, np.arange(8))
        assert found.method is PairedMethod.SIGN_FLIP
        assert (found.p < 0.05) is (found.low > 0 or found.high < 0)


def by_matrices(groups, x=None, covariance=None):
    """CR2 of the last coefficient on `x`, step by step as in the papers: a symmetric square root for each group.

    Without `x`, of a mean. Returns a vector for each group, whose products with the values add up to the variance when
    squared, and the degrees of freedom under the working covariance.
    """
    n = len(groups)
    x = np.ones((n, 1)) if x is None else x
    bread = np.linalg.inv(x.T @ x)
    rest = np.eye(n) - x @ bread @ x.T
    columns = []
    for group in np.unique(groups):
        inside = np.flatnonzero(groups == group)
        values, vectors = np.linalg.eigh(rest[np.ix_(inside, inside)])
        adjust = vectors @ np.diag(values**-0.5) @ vectors.T
        columns.append(rest[:, inside] @ adjust @ x[inside] @ bread[:, -1])
    columns = np.array(columns).T
    gram = columns.T @ (columns if covariance is None else covariance @ columns)
    return columns, np.trace(gram) ** 2 / (gram**2).sum()


def test_the_matrix_formula_gives_the_known_degrees_of_two_arms():
    """Of m0 and m1 units: m²(m0-1)(m1-1)/(m0²(m0-1) + m1²(m1-1)), as Welch's test has them at equal variances."""
    arm = np.repeat([0.0, 1.0], [27, 3])
    _, degrees = by_matrices(np.arange(30), np.column_stack((np.ones(30), arm)))
    assert degrees == pytest.approx(30**2 * 26 * 2 / (27**2 * 26 + 3**2 * 2), rel=1e-9)


@pytest.mark.parametrize("sizes", [[3, 9, 4, 7, 5, 6, 8, 2, 5, 5, 4, 11], UNEQUAL])
def test_cr2_of_a_mean_is_that_of_the_published_formula(sizes):
    """The formulas that clubSandwich, the reference implementation by Pustejovsky, is tested with for a mean."""
    groups, n = of_sizes(sizes), np.array(sizes, dtype=float)
    values = np.random.default_rng(15).normal(size=len(groups))
    means, total = np.array([values[groups == group].mean() for group in range(len(n))]), n.sum()
    variance = (n**2 * (means - values.mean()) ** 2 / (1 - n / total)).sum() / total**2
    over = n**2 / (total - n) ** 2
    degrees = total**2 / (total**2 * over.sum() - 2 * total * (over * n).sum() + (n**2 / (total - n)).sum() ** 2)
    found = robust_mean(group_totals(values, groups))
    assert [found.variance, found.degrees] == pytest.approx([variance, degrees], rel=1e-9)


@pytest.mark.parametrize("sizes", [[4] * 12, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], UNEQUAL, [1] * 20 + [30]])
def test_cr2_is_that_of_the_matrix_formula(sizes):
    groups = of_sizes(sizes)
    values = np.random.default_rng(8).normal(size=len(groups))
    columns, degrees = by_matrices(groups)
    found = robust_mean(group_totals(values, groups))
    assert found.variance == pytest.approx(((columns.T @ values) ** 2).sum(), rel=1e-9)
    assert found.degrees == pytest.approx(degrees, rel=1e-9)


@pytest.mark.parametrize("sizes", [[4] * 12, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1] * 20 + [9]])
def test_degrees_of_samples_that_are_alike_are_those_of_the_matrix_formula(sizes):
    groups = of_sizes(sizes)
    n, same = len(groups), groups[:, None] == groups
    values = np.random.default_rng(12).normal(size=n) + 0.7 * np.random.default_rng(13).normal(size=n)[groups]
    rest = values - values.mean()
    off = same & ~np.eye(n, dtype=bool)
    alike, variance = (np.outer(rest, rest)[off]).mean(), (rest**2).mean()
    assert 0 < alike < variance
    _, degrees = by_matrices(groups, None, (variance - alike) * np.eye(n) + alike * same)
    assert degrees_of_alike_samples(group_totals(values, groups), (rest**2).sum()) == pytest.approx(degrees, rel=1e-9)


@pytest.mark.parametrize(
    ("sizes", "method"),
    [
        ([1] * 10, "cr2"),
        ([4] * 10, "cr2"),
        (range(1, 21), "cr2"),
        ([1] * 9, "sign-flip"),
        ([1] * 40 + [10] * 4, "sign-flip"),
        ([1] * 300 + [100], "sign-flip"),
        ([1] * 1000 + [30] * 10, "sign-flip"),
    ],
)
def test_signs_decide_where_few_groups_outweigh_the_others(sizes, method):
    groups = of_sizes(list(sizes))
    a = np.random.default_rng(14).normal(size=len(groups))
    assert paired(a, a * 0, groups).method == method


def test_groups_of_one_size_have_one_degree_of_freedom_less_than_groups():
    assert satterthwaite_degrees(np.full(17, 5.0)) == pytest.approx(16, rel=1e-12)


def test_three_equal_differences_are_no_proof():
    found = paired([1, 1, 1], [0, 0, 0], [0, 1, 2])
    assert (found.p, found.low, found.lower_one_sided, found.decidable) == (None, None, None, False)
    assert found.method is PairedMethod.TOO_FEW
    assert found.difference == 1


@pytest.mark.parametrize("sizes", [UNEQUAL, [1] * 9 + [100], [1] * 50 + [50] * 2, [1] * 20 + [30], [40] * 5, [7]])
def test_below_six_effective_groups_there_is_no_verdict(sizes):
    groups = of_sizes(sizes)
    found = paired(np.ones(len(groups)), np.zeros(len(groups)), groups)
    assert (found.p, found.decidable, found.half_width) == (None, False, None)


def test_six_equal_groups_are_decidable():
    found = paired(np.ones(6), np.zeros(6), np.arange(6))
    assert found.p == pytest.approx(2 / 2**6)
    assert found.low >= 0


@pytest.mark.parametrize("samples", [10, 20, 1000])
def test_all_differences_equal_are_not_p_0(samples):
    found = paired(np.full(samples, 0.7), np.full(samples, 0.6), np.arange(samples))
    assert found.method is PairedMethod.SIGN_FLIP
    assert found.p == pytest.approx(2.0 ** (1 - samples))
    assert found.high > found.low


def test_nearly_equal_differences_are_no_smaller_p_than_their_signs_allow():
    a = np.full(10, 1.0)
    a[0] += 1e-9
    assert paired(a, a * 0, np.arange(10)).p >= 2.0**-9


def test_all_ties_leave_room_for_what_was_not_seen():
    """A rule of three: with 20 of 20 the same, a fall of 10 points cannot be excluded; with 1,000, one of 0.3 can."""
    few, many = (paired(np.ones(n), np.ones(n), np.arange(n)) for n in (20, 1000))
    assert (few.p, few.difference, few.discordant_groups) == (1.0, 0.0, 0)
    assert few.lower_one_sided < -0.1
    assert -0.0035 < many.lower_one_sided < -0.002
    assert few.low == pytest.approx(-few.high)


def test_the_one_sided_bound_lies_between_the_interval_and_the_difference():
    random = np.random.default_rng(9)
    for groups in (np.arange(300), np.arange(300) // 3, np.arange(300) // 38):
        a, b = random.random(300) < 0.7, random.random(300) < 0.6
        found = paired(a, b, groups)
        assert found.low <= found.lower_one_sided < found.difference < found.high


@pytest.mark.parametrize("shape", ["first", "second"])
def test_which_run_comes_first_only_changes_the_sign(shape):
    random = np.random.default_rng(10)
    a, b = random.random(90) < 0.7, random.random(90) < 0.6
    groups = np.arange(90) if shape == "first" else np.arange(90) // 12
    there, back = paired(a, b, groups), paired(b, a, groups)
    assert (there.p, there.low, there.high) == pytest.approx((back.p, -back.high, -back.low))
    assert (there.wins, there.losses) == (back.losses, back.wins)


def test_scores_of_any_scale_give_the_same_verdict():
    random = np.random.default_rng(11)
    a, b = random.integers(0, 11, 80), random.integers(0, 11, 80)
    tenths = paired(a / 10, b / 10, np.arange(80) // 2)
    for factor, value_range in ((1, (0, 10)), (10, (0, 100)), (1, None)):
        found = paired(a * factor, b * factor, np.arange(80) // 2, value_range)
        assert found.p == pytest.approx(tenths.p, rel=1e-9)
        assert found.lower_one_sided == pytest.approx(tenths.lower_one_sided * 10 * factor, rel=1e-6)


def test_groups_may_have_any_name():
    a, b, groups = np.arange(40) % 3 == 0, np.arange(40) % 4 == 0, np.arange(40) // 3
    named = paired(a, b, [f"question {group}" for group in groups])
    assert named == paired(a, b, groups) == paired(a, b, groups * 1_000_003 - 7)


@pytest.mark.parametrize(
    ("a", "b", "groups", "message"),
    [
        ([], [], [], "no scores"),
        ([1.0, np.nan], [0.0, 1.0], [0, 1], "finite"),
        ([1.0, np.inf], [0.0, 1.0], [0, 1], "finite"),
        ([1.0, 0.0], [0.0], [0, 1], "same samples"),
        ([1.0, 0.0], [0.0, 1.0], [0], "one group"),
    ],
)
def test_what_is_no_score_is_refused(a, b, groups, message):
    with pytest.raises(ValueError, match=message):
        paired(a, b, groups)


def test_scores_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="do not fit the range 0 to 10"):
        paired([11.0, 3.0], [3.0, 3.0], [0, 1], (0, 10))


def test_a_fall_of_repeated_answers_is_seen_where_each_question_still_has_one_right():
    """avg@8 from 0.95 to 0.70: every question has a reward above 0 in both runs."""
    random = np.random.default_rng(16)
    before, now = random.binomial(8, 0.95, 60) / 8, random.binomial(8, 0.7, 60) / 8
    assert (now > 0).all()
    found = paired(now, before, np.arange(60))
    assert found.p < 1e-6
    assert found.high < -0.15


@pytest.mark.parametrize("scale", [1, 10, 100])
def test_a_fall_of_a_judges_scores_is_seen(scale):
    random = np.random.default_rng(17)
    before, now = random.normal(0.9, 0.05, 40).clip(0, 1), random.normal(0.5, 0.2, 40).clip(0, 1)
    found = paired(now * scale, before * scale, np.arange(40))
    assert found.p < 1e-6
    assert found.high < -0.25 * scale


def test_an_interval_leaves_out_0_only_where_the_test_finds_a_difference():
    """As of 5 won and none lost of 24: p is 0.0625, and the score interval alone began at 0.019."""
    found = paired(*zero_one(5, 0, 19))
    assert found.p == pytest.approx(0.0625)
    assert found.low <= 0 <= found.high
    for won, lost, equal in product(range(13), range(13), (0, 10, 60)):
        if won + lost + equal >= 6:
            found = paired(*zero_one(won, lost, equal))
            if found.p >= 0.05:
                assert found.low <= 0 <= found.high
