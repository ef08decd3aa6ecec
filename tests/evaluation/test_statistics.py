"""Statistics over runs agree with rliable, Student and Welch."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from scipy.stats import t as student_t

from sb3_reptile.evaluation import statistics
from sb3_reptile.evaluation.tables import cell


def test_the_statistics_are_those_of_rliable():
    metrics = pytest.importorskip("rliable.metrics")

    scores, others = np.random.default_rng(0).normal(size=(2, 7, 3)).round(1)
    assert statistics.iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores))
    assert statistics.iqm_of_points(scores[:, None]) == pytest.approx([metrics.aggregate_iqm(s) for s in scores.T])
    expected = metrics.probability_of_improvement(scores, others)
    assert statistics.probability_of_improvement(scores, others) == pytest.approx(expected)
    assert np.isnan(statistics.ratio_of_iqms(np.ones((3, 1)), np.full((3, 1), -1.0)))


def test_intervals_are_student_s():
    values = np.array([1.0, 2.0, 6.0])
    mean, low, high = statistics.student_interval(values)
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half))
    assert cell(statistics.student_interval(values[:1])) == "1.00"


@pytest.mark.parametrize("values", [range(10), [0, 0, 1, 1, 1, 7, 8, 9, 9, 9], [0, 1, 1, 2, 3, 1, 4, 4, 5, 6]])
def test_the_rank_test_is_that_of_all_permutations(values):
    """Of the number of pairs in which the first is larger, ties by half."""
    values, n = np.array(values, dtype=float), len(values) // 2

    def pairs(chosen):
        x, y = values[list(chosen)][:, None], np.delete(values, chosen)[None]
        return abs((x > y).sum() + (x == y).sum() / 2 - n**2 / 2)

    found = statistics.p_of_equal_runs(values[:n], values[n:])
    all_pairs = [pairs(chosen) for chosen in combinations(range(2 * n), n)]
    assert found == pytest.approx(np.mean(np.array(all_pairs) >= pairs(range(n))))


def test_many_runs_are_ranked_exactly_unless_some_are_equal():
    x, y = np.arange(12.0), np.arange(12.0) + 4.5
    assert statistics.p_of_equal_runs(x, y) == mannwhitneyu(x, y, method="exact").pvalue
    assert statistics.p_of_equal_runs(x, x + 4) == mannwhitneyu(x, x + 4, method="asymptotic").pvalue


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0]), ([1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [1.0])])
def test_single_runs_that_are_equal_to_others_say_nothing(x, y):
    assert 0.3 < statistics.p_of_equal_runs(np.array(x), np.array(y)) <= 1


def test_random_numbers_of_the_caller_stay_as_they_are():
    np.random.seed(3)
    expected = np.random.random(2)
    np.random.seed(3)
    first = np.random.random()
    statistics.estimate(statistics.iqm, np.random.default_rng(0).normal(size=(5, 1)))
    assert [first, np.random.random()] == list(expected)


def test_differences_are_welch_s():
    values, others = np.array([1.0, 2.0, 6.0]), np.array([0.0, 0.5])
    squares = values.var(ddof=1) / 3, others.var(ddof=1) / 2
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / 2 + squares[1] ** 2 / 1)
    half = student_t.ppf(0.975, freedom) * np.sqrt(sum(squares))
    assert statistics.welch_interval(values, others) == pytest.approx((2.75, 2.75 - half, 2.75 + half))
