"""Intervals of scores: equal to other libraries', and never of zero width."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from evalscope_evalflow.results.statistics import IntervalMethod, interval
from evalscope_evalflow.results.statistics.cluster_robust import robust_mean
from evalscope_evalflow.results.statistics.effective_size import group_totals
from evalscope_evalflow.results.statistics.intervals import wilson


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (13, 20), (20, 20), (700, 1000), (1, 1)])
def test_one_sample_a_group_is_wilsons_interval(right, n):
    found = interval(np.arange(n) < right, np.arange(n))
    assert found.method is IntervalMethod.WILSON
    for low, high in (
        proportion_confint(right, n, method="wilson"),
        stats.binomtest(right, n).proportion_ci(method="wilson"),
    ):
        assert [found.low, found.high] == pytest.approx([low, high], rel=1e-9, abs=1e-12)
    assert found.effective_n == n


def test_cr2_lies_between_the_uncorrected_and_the_jackknife_variance_and_these_are_statsmodels():
    sizes = [3, 9, 4, 7, 5, 6, 8, 2, 5, 5, 4, 11]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    values = np.random.default_rng(1).normal(size=len(groups)) + groups / 5
    totals = group_totals(values, groups)
    squares, n, count = (totals.sums - totals.sizes * totals.mean) ** 2, totals.n, len(sizes)
    model = sm.OLS(values, np.ones(len(values)))
    uncorrected = model.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}).bse[0] ** 2
    assert squares.sum() / n**2 == pytest.approx(uncorrected, rel=1e-9)
    cr1 = model.fit(cov_type="cluster", cov_kwds={"groups": groups}).bse[0] ** 2
    assert squares.sum() / n**2 * count / (count - 1) == pytest.approx(cr1, rel=1e-9)
    jackknife = (squares / (1 - totals.sizes / n) ** 2).sum() / n**2
    assert uncorrected < robust_mean(totals).variance < jackknife


def test_groups_widen_an_interval():
    values = np.repeat(np.arange(40) < 25, 5)
    alone, clustered = interval(values, np.arange(200)), interval(values, np.arange(200) // 5)
    assert clustered.method is IntervalMethod.WILSON_EFFECTIVE
    assert clustered.effective_n == pytest.approx(39, rel=0.05)
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    assert (clustered.groups, clustered.few_groups) == (40, False)


def test_wilson_on_the_effective_n_with_a_t_quantile():
    values, groups = np.repeat(np.arange(12) % 3 / 2, 2), np.repeat(np.arange(12), 2)
    found = interval(values, groups)
    share, worth, t = values.mean(), found.effective_n, stats.t.ppf(0.975, 11)
    assert worth == pytest.approx(share * (1 - share) / robust_mean(group_totals(values, groups)).variance, rel=0.2)
    for end in (found.low, found.high):
        assert abs(share - end) == pytest.approx(t * (end * (1 - end) / worth) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("groups", [np.arange(30), np.arange(30) // 3, np.arange(30) // 15])
def test_no_interval_has_zero_width(value, groups):
    found = interval(np.full(30, value), groups)
    assert found.high - found.low > 0.03
    assert found.low <= value <= found.high


def test_0_1_samples_are_worth_no_more_than_their_number():
    values = np.tile([0.0, 1.0], 20)
    assert interval(values, np.arange(40) // 2).effective_n <= 40


def test_scores_on_another_scale_have_the_same_interval_on_it():
    scores = np.random.default_rng(2).integers(0, 11, 60)
    small, large = interval(scores / 10, np.arange(60) // 2), interval(scores * 10, np.arange(60) // 2, (0, 100))
    assert [large.low, large.high] == pytest.approx([100 * small.low, 100 * small.high])
    assert large.method is IntervalMethod.WILSON_EFFECTIVE
    one_to_five = interval(np.array([1.0, 5.0] * 10), np.arange(20), (1, 5))
    assert one_to_five.method is IntervalMethod.WILSON
    assert 1 < one_to_five.low < one_to_five.high < 5


def test_a_scale_without_known_ends_has_a_t_interval():
    scores = np.random.default_rng(3).normal(7, 2, 24)
    found = interval(scores, np.arange(24))
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert found.method is IntervalMethod.CLUSTERED_T
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], rel=1e-9)


def test_equal_scores_on_a_scale_without_known_ends_have_no_interval():
    found = interval(np.full(24, 7.0), np.arange(24))
    assert (found.low, found.high) == (None, None)


def test_one_group_leaves_the_whole_range():
    found = interval([0.2, 0.4], [5, 5])
    assert (found.low, found.high, found.groups, found.few_groups) == (0, 1, 1, True)
    assert interval([7.0, 8.0], [5, 5]).low is None


@pytest.mark.parametrize(
    ("sizes", "few"), [([1] * 10, False), ([1] * 9, True), ([5, 5, 5, 5, 180], True), ([1] * 99 + [100], True)]
)
def test_few_effective_groups_are_marked(sizes, few):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    assert interval(np.arange(len(groups)) % 2, groups).few_groups is few


@pytest.mark.parametrize(
    ("values", "groups", "value_range", "message"),
    [
        ([], [], None, "no scores"),
        ([0.5, np.nan], [0, 1], None, "finite"),
        ([0.5], [0, 1], None, "one value and one group"),
        ([0.5, 11], [0, 1], (0, 10), "do not fit the range 0 to 10"),
        ([0.5, 1], [0, 1], (1, 1), "do not fit the range"),
    ],
)
def test_what_is_no_score_is_refused(values, groups, value_range, message):
    with pytest.raises(ValueError, match=message):
        interval(values, groups, value_range)


def coverage(n):
    """Exact coverage at shares from 0.05 to 0.95."""
    counts, shares = np.arange(n + 1), np.linspace(0.05, 0.95, 901)
    ends = np.array([wilson(count / n, n, 1.959963984540054) for count in counts])
    inside = (ends[:, 0] <= shares[:, None]) & (shares[:, None] <= ends[:, 1])
    return (stats.binom.pmf(counts, n, shares[:, None]) * inside).sum(axis=1)


@pytest.mark.parametrize(("n", "least", "most"), [(20, 0.91, 1), (50, 0.925, 1), (100, 0.925, 1), (200, 0.93, 0.97)])
def test_wilson_covers_what_it_should_exactly(n, least, most):
    covered = coverage(n)
    assert 0.94 <= covered.mean() <= 0.965
    assert least <= covered.min()
    assert covered.max() <= most
