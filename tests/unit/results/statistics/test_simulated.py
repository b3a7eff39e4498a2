"""Small versions of benchmarks/score_statistics.py: rates over simulated data, with room for their own chance."""

import sys
from pathlib import Path

import numpy as np
import pytest

from evalscope_evalflow.results.statistics import holm, interval, paired

DRAWS = 600


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[4] / "benchmarks")
    import simulated_scores

    yield simulated_scores
    sys.modules.pop("simulated_scores")


@pytest.mark.parametrize(
    ("sizes", "effect", "kind", "most"),
    [
        ((20,) * 8, 2.0, "fractional", 5.0),
        ((4,) * 50, 2.0, "binary", 6.5),
        ((1,) * 100, 0.0, "repeated", 6.5),
        (tuple(range(1, 21)), 1.0, "fractional", 6.5),
        ((1,) * 40 + (20,) * 6, 2.0, "repeated", 6.5),
        ((1,) * 99 + (35,), 1.0, "fractional", 6.5),
    ],
)
def test_false_alarms_are_as_rare_as_they_say(simulated, sizes, effect, kind, most):
    found = simulated.verdicts(simulated.Setting(sizes, effect, kind), 2000, np.random.default_rng(1))
    room = 200 * (0.05 * 0.95 / 2000) ** 0.5
    assert 3 - room <= 100 * (found.ours < 0.05).mean() <= most + room
    assert (found.naive < 0.05).mean() > 1.5 * (found.ours < 0.05).mean() or effect == 0


@pytest.mark.parametrize("sizes", [(5, 5, 5, 5, 180), (1,) * 9 + (100,), (40,) * 5])
def test_what_clustered_t_gets_wrong_is_not_decided(simulated, sizes):
    found = simulated.verdicts(simulated.Setting(sizes, 1.0), 500, np.random.default_rng(2))
    assert np.isnan(found.ours).all()


def test_a_table_without_differences_rarely_has_a_mark():
    random, marked = np.random.default_rng(3), 0
    for _ in range(60):
        right = random.random((21, 100)) < random.random(100)
        marked += min(holm([paired(row, right[0], np.arange(100)).p for row in right[1:]])) < 0.05
    assert marked <= 8  # 3 are expected at most; more than 8 in 0.4 % of cases


@pytest.mark.parametrize("alike", [0.05, 0.8])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_intervals_of_groups_cover_what_they_should(alike, share):
    random, covered = np.random.default_rng(4), 0
    for _ in range(DRAWS):
        means = random.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), 30)
        values = random.random(120) < np.repeat(means, 4)
        found = interval(values, np.repeat(np.arange(30), 4))
        covered += found.low <= share <= found.high
    assert covered / DRAWS >= 0.93 - 2 * (0.07 * 0.93 / DRAWS) ** 0.5


@pytest.mark.parametrize(("samples", "won", "lost"), [(20, 0.0, 0.1), (200, 0.0, 0.05), (200, 0.2, 0.3)])
def test_a_run_that_is_worse_rarely_passes_as_no_worse(samples, won, lost):
    random, passed = np.random.default_rng(5), 0
    for _ in range(DRAWS):
        draw = random.random(samples)
        a, b = draw < won, draw > 1 - lost
        passed += paired(a, b, np.arange(samples)).lower_one_sided > won - lost + 1e-9
    assert passed / DRAWS <= 0.05 + 2 * (0.05 * 0.95 / DRAWS) ** 0.5
