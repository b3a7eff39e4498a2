"""Holm's correction, pass@k, and the smallest difference that data could have shown."""

from itertools import combinations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from evalscope_evalflow.results.statistics import (
    holm,
    paired,
    pass_at_k,
    power,
    smallest_difference,
)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_that_of_statsmodels(seed):
    p_values = np.random.default_rng(seed).beta(0.3, 1, 60).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), rel=1e-9)


def test_what_could_not_be_decided_does_not_count_in_the_family():
    assert holm([None, 0.01, None, 0.04]) == [None, 0.02, None, 0.04]
    assert holm([]) == []
    assert holm([None]) == [None]
    assert holm([0.03, 0.03]) == [0.06, 0.06]


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, p])


def test_pass_at_k_is_the_share_of_choices_with_a_right_answer():
    for right in range(6):
        answers = [number < right for number in range(5)]
        for k in range(1, 6):
            expected = np.mean([any(choice) for choice in combinations(answers, k)]) if right <= 5 else None
            assert pass_at_k(5, right, k) == pytest.approx(expected)


def test_pass_at_1_is_the_average_and_pass_at_n_says_whether_any_is_right():
    assert [pass_at_k(8, right, 1) for right in (0, 3, 8)] == pytest.approx([0, 3 / 8, 1])
    assert [pass_at_k(8, right, 8) for right in (0, 3, 8)] == [0, 1, 1]


def test_pass_at_k_does_not_overflow():
    assert pass_at_k(5000, 3, 2500) == pytest.approx(0.875, abs=1e-3)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 6), (5, 2, 0), (5, 6, 1), (5, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_what_does_not_fit(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


@pytest.mark.parametrize("groups", [10, 30, 100])
@pytest.mark.parametrize("effect", [0.0, 0.1, 0.3, 0.5])
def test_power_is_that_of_statsmodels(groups, effect):
    expected = TTestPower().power(effect, groups, 0.05)
    assert power(effect, 1 / groups**0.5, groups - 1) == pytest.approx(expected, rel=1e-9)


def test_the_smallest_difference_has_80_percent_power():
    d = np.random.default_rng(1).normal(size=50)
    found = smallest_difference(d, d * 0, np.arange(50))
    assert TTestPower().power(found / d.std(ddof=1), 50, 0.05) == pytest.approx(0.8, rel=1e-9)


def test_0_1_scores_show_less_than_a_shift_of_the_same_spread_would_need():
    a, b = np.repeat([1, 0, 1], [20, 20, 160]), np.repeat([0, 1, 1], [20, 20, 160])
    found = smallest_difference(a, b, np.arange(200))
    # 20 % of the samples differ; were the difference 8.6 points, their variance would be 0.2 - 0.086².
    assert power(found, ((0.2 - found**2) / 199 / (199 / 199)) ** 0.5, 199) == pytest.approx(0.8, abs=0.002)
    assert 0.08 < found < 0.09


def test_all_ties_could_only_have_shown_six_one_sided():
    found = smallest_difference(np.ones(100), np.ones(100), np.arange(100))
    draws = np.random.default_rng(2).binomial(100, found, 100_000)
    assert (draws >= 6).mean() == pytest.approx(0.8, abs=0.005)


def test_few_groups_show_less():
    d = np.random.default_rng(3).normal(size=80)
    by_size = {size: smallest_difference(d, d * 0, np.arange(80) // size) for size in (8, 10)}
    assert by_size[8] < by_size[10]
    assert smallest_difference(d, d * 0, np.arange(80) // 20) is None


def test_power_of_sign_flips_is_what_is_promised():
    random = np.random.default_rng(4)
    base = random.normal(size=8)
    needed = smallest_difference(base, base * 0, np.arange(8)) / (base.std(ddof=1) / 8**0.5)
    shown = [paired(d, d * 0, np.arange(8)).p < 0.05 for d in random.normal(needed / 8**0.5, 1, size=(1500, 8))]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("error", "degrees"), [(0, 5), (1, 0), (float("nan"), 5)])
def test_power_refuses_what_is_no_standard_error(error, degrees):
    with pytest.raises(ValueError):
        power(0.1, error, degrees)
