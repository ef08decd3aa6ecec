"""Statistics over runs agree with rliable, Student and Welch."""

import numpy as np
import pytest
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


def test_differences_are_welch_s():
    values, others = np.array([1.0, 2.0, 6.0]), np.array([0.0, 0.5])
    squares = values.var(ddof=1) / 3, others.var(ddof=1) / 2
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / 2 + squares[1] ** 2 / 1)
    half = student_t.ppf(0.975, freedom) * np.sqrt(sum(squares))
    assert statistics.welch_interval(values, others) == pytest.approx((2.75, 2.75 - half, 2.75 + half))
