"""The robust linear model of outcomes."""

import numpy as np

from sb3_reptile.replay.auto import OutcomeModel, Transitions


def test_a_few_outliers_do_not_bend_the_model():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((2_000, 3))
    outcomes = features @ np.array([[1.0], [-2.0], [0.5]]) + 0.3
    outcomes[::20] += 1_000 * features[::20, :1]  # crashes, that depend on where they happen
    data = Transitions(np.arange(2_000), features, np.zeros(2_000, dtype=np.int64), outcomes)
    _, residuals = OutcomeModel(data, 1)(data)
    assert np.abs(residuals[1:20]).max() < 0.1
    assert np.abs(residuals[::20]).mean() > 10
