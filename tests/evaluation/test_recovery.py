"""Recovery and regret after a change of the task."""

import numpy as np
import pytest

from sb3_reptile.evaluation.records import BINS
from sb3_reptile.evaluation.recovery import after_changes


def test_recovery_and_regret_of_a_change():
    width = 10
    curve = np.full(BINS, 0.8)
    curve[60:70] = 0.3  # a change at the border of point 60; from 70 on all is well again
    (change,) = after_changes(curve, [60 * width + 1], BINS * width)
    assert change.before == pytest.approx(0.8)
    assert change.after == pytest.approx((10 * 0.3 + 50 * 0.8) / 60)
    assert change.recovery == 10 * width
    assert change.length == 60 * width
    assert change.regret(0.8) == pytest.approx(10 * width * 0.5)
    assert change.regret(1.0) == pytest.approx(10 * width * 0.5 + 60 * width * 0.2)

    # Within point 60: that point belongs to neither phase
    (change,) = after_changes(curve, [60 * width + 4], BINS * width)
    assert change.before == pytest.approx(0.8)
    assert change.regret(0.8) == pytest.approx(9 * width * 0.5)

    # One good point is luck, and the next change comes before the recovery
    curve[64] = 0.8
    first, second = after_changes(curve, [60 * width + 1, 68 * width + 1], BINS * width)
    assert first.recovery is None
    assert first.length == 8 * width
    # Two points are as bad as those before the change; good enough is 90 % of its level, not its level
    assert second.before == pytest.approx((5 * 0.3 + 0.8) / 6)
    assert second.recovery == 1 * width


def test_a_task_that_goes_on_as_before_has_recovered_at_once():
    (change,) = after_changes(np.full(BINS, 0.5), [61], BINS)
    assert (change.recovery, change.regret(0.5)) == (1, 0)
    (change,) = after_changes(np.full(BINS, -0.5), [61], BINS)  # worse than random actions
    assert (change.recovery, change.regret(-0.5)) == (1, 0)
