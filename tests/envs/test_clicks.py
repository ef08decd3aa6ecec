"""The site that shows advertisements, whose visitors begin to like others."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_reptile.envs import Clicks


def test_clicks_come_as_often_as_reported():
    env = Clicks()
    env.reset(seed=0)
    clicks, reported = [], []
    for _ in range(4_000):
        rates, ad = env.click_rates(), int(env.np_random.integers(4))
        _, reward, _, _, info = env.step(ad)
        assert info["click_rate"] == rates[ad]
        assert info["oracle_click_rate"] == rates.max() > rates.mean() == info["random_click_rate"]
        clicks.append(reward)
        reported.append(info["click_rate"])
    assert set(clicks) == {0.0, 1.0}
    difference = np.subtract(clicks, reported)
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5


def test_the_probability_of_a_click_depends_on_visitor_and_advertisement():
    env = Clicks(intercept=-1.0, slope=2.0)
    obs, _ = env.reset(seed=4)
    odds = np.log(env.click_rates() / (1 - env.click_rates()))
    np.testing.assert_allclose(odds, -1.0 + 2.0 * env._appeals[0] @ obs, rtol=1e-6)
    assert len(set(odds)) == 4
    env.slope = 0.0
    np.testing.assert_allclose(env.click_rates(), 1 / (1 + np.e))


def test_other_advertisements_are_the_best_in_other_phases():
    env = gym.make("DriftingClicks-v0", period=200)
    best = {0: [], 1: []}
    for phase in (0, 1):
        env.set_wrapper_attr("steps_taken", 200 * phase)
        env.reset(seed=0)  # the same visitors
        for _ in range(49):
            assert env.step(0)[4]["phase"] == phase
            best[phase].append(int(env.unwrapped.click_rates().argmax()))
    assert np.not_equal(best[0], best[1]).mean() > 0.5


def test_visitors_of_the_stationary_task_stay_as_they_are():
    env = gym.make("Clicks-v0")
    assert "phase" not in env.reset(seed=0)[1]
    before = env.unwrapped.click_rates()
    for _ in range(60):
        if env.step(1)[3]:
            env.reset()
    env.reset(seed=0)
    assert env.unwrapped.click_rates().tolist() == before.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_ads=1), "n_ads must be a whole number >= 2, got 1"),
        (dict(n_features=True), "n_features must be a whole number >= 1, got True"),
        (dict(intercept=float("nan")), "intercept must be finite, got nan"),
        (dict(fashion=1.5), r"fashion must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_site_refuses_what_it_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Clicks(**arguments)
