"""Records of runs: learning curves, and files that only grow."""

import pytest

from sb3_reptile.evaluation.records import BINS, learning_curve


def test_a_learning_curve_has_the_mean_return_of_the_episodes_that_end_in_each_part():
    width = 10
    episodes = [(21, 4.0), (29, 5.0), (30, 9.0), (31, 7.0), (BINS * width + 1, 1_000.0)]
    curve = learning_curve(episodes, BINS * width)
    assert len(curve) == BINS
    assert curve[:5] == [6.0, 6.0, 6.0, 7.0, 7.0]  # nothing ends before step 21 nor after step 31
    assert set(curve[5:]) == {7.0}
    with pytest.raises(ValueError, match="no episode"):
        learning_curve([], 1_000)


def test_a_learning_curve_of_small_returns_keeps_their_digits():
    assert learning_curve([(1, 1.23456789e-5), (BINS, -123456.7)], BINS)[:: BINS - 1] == [1.23457e-05, -123457.0]
