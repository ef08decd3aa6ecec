"""The recommender whose users change their interests."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_reptile.envs import Recommender


def test_a_recommender_reports_the_click_rates_of_its_clicks():
    env = Recommender(n_items=5, memory=3)
    clicks, expected = 0, 0.0
    for seed in range(400):
        env.reset(seed=seed)
        for _ in range(10):
            rates = env.click_rates()
            item = int(env.np_random.integers(5))
            obs, reward, _, _, info = env.step(item)
            assert info["click_rate"] == rates[item]
            assert info["oracle_click_rate"] == rates.max() >= rates.mean() == info["random_click_rate"]
            newest = obs.reshape(3, -1)[0]
            assert newest[-1] == (1 if reward else -1)
            np.testing.assert_allclose(newest[:-1], env.items[item], rtol=1e-6)
            clicks += reward
            expected += rates[item]
    assert clicks == pytest.approx(expected, rel=0.1)


def test_what_was_just_shown_is_clicked_less_until_it_is_forgotten():
    env = Recommender(memory=2)
    env.reset(seed=0)
    fresh = env.click_rates()
    env.step(3)
    env.step(3)
    tired = env.click_rates()
    assert tired[3] == pytest.approx(fresh[3] * 0.95**2)
    env.step(1)
    env.step(1)
    assert env.click_rates()[3] == pytest.approx(fresh[3])
    assert env.reset(seed=0)[0].any() == False  # noqa: E712 -- a NumPy bool
    np.testing.assert_array_equal(env.click_rates(), fresh)


def test_moods_of_the_public_move_interests_and_seeds_do_not():
    def best(env, mood):
        env.reset(seed=1)
        env.mood = mood
        return env.click_rates()

    one, other = Recommender(), Recommender(world=1)
    assert not np.allclose(one.items, other.items)
    np.testing.assert_array_equal(best(one, 0.0), best(Recommender(), 0.0))
    assert best(one, 0.0).argmax() != best(one, 1.0).argmax()
    env = gym.make("DriftingRecommender-v0", period=10, kind="gradual")
    for _ in range(5):
        env.reset(seed=0)
        env.step(0)
    assert env.unwrapped.mood == pytest.approx(0.4)  # that of the last step taken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_items=1), "n_items must be a whole number >= 2, got 1"),
        (dict(memory=2.5), "memory must be a whole number >= 1, got 2.5"),
        (dict(own_taste=-1), "own_taste must be >= 0, got -1"),
        (dict(mood=1.5), r"mood must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_recommender_refuses_what_it_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Recommender(**arguments)
