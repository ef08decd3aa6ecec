"""The shop that sets prices, and whose customers change."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_reptile.envs import Pricing


def test_a_shop_reports_expected_revenues_and_earns_as_much():
    env = Pricing(goods=4.0)
    earned, reported = [], []
    for seed in range(60):
        env.reset(seed=seed)
        for _ in range(28):
            revenues, on_hand = env.revenues(), env._on_hand
            action = int(env.np_random.integers(9))
            obs, reward, _, _, info = env.step(action)
            assert info["revenue"] == revenues[action]
            assert info["oracle_revenue"] == revenues.max() >= revenues.mean() == info["random_revenue"]
            price, sales = env.prices[action], round(reward / env.prices[action])
            assert sales <= on_hand
            np.testing.assert_allclose(obs[-3:], [price, sales / env._most, sales == on_hand], rtol=1e-6)
            earned.append(reward)
            reported.append(info["revenue"])
    difference = np.subtract(earned, reported)
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5


def test_expected_revenues_are_those_of_poisson_demand_and_goods_on_hand():
    env = Pricing()
    env.reset(seed=3)
    env._on_hand = 5
    demands = np.random.default_rng(0).poisson(env.demands(), (200_000, 9))
    np.testing.assert_allclose(env.revenues(), (env.prices * np.minimum(demands, 5)).mean(axis=0), rtol=0.02)
    env._on_hand = 0
    assert not env.revenues().any()
    # With goods enough, the best price is 1 / elasticity, at which revenue is price times demand
    env._on_hand, env.elasticity = 1_000, 1.25
    assert env.prices[env.revenues().argmax()] == pytest.approx(0.8)
    np.testing.assert_allclose(env.revenues(), env.prices * env.demands())


def test_demand_follows_the_week_and_the_year_and_the_price():
    env = Pricing(weekend=3.0, season=0.5, customers=10.0, elasticity=2.0)
    env.reset(seed=0)
    means = []
    for day in (0, 5, 6, 91, 273):  # a Monday, a weekend, and the height and the depth of the year, on Mondays
        env._day = day
        means.append(env.demands()[3])
        assert env.demands()[8] == pytest.approx(means[-1] * np.exp(-2.0 * (2.0 - 1.0)))
    season = 1 + 0.5 * np.sin(2 * np.pi * np.array([0, 5, 6, 91, 273]) / 364)
    np.testing.assert_allclose(means, 10 * season * [1, 3, 3, 1, 1])


def test_the_morning_shows_goods_week_and_season_and_no_yesterday_at_first():
    env = Pricing()
    obs, _ = env.reset(seed=1)
    assert obs[0] == pytest.approx(env._on_hand / env._most)
    assert obs[1:8].tolist() == [float(day == env._day % 7) for day in range(7)]
    assert obs[8] ** 2 + obs[9] ** 2 == pytest.approx(1)
    assert not obs[10:].any()
    assert env.step(4)[0][1:8].argmax() == (obs[1:8].argmax() + 1) % 7


def test_customers_mind_the_price_in_other_phases():
    env = gym.make("DriftingPricing-v0", period=5)
    best, phases = [], []
    for _ in range(15):
        if len(best) % 5 == 0:
            env.reset(seed=0)  # the same days
        _, _, _, _, info = env.step(0)
        best.append(info["oracle_revenue"])
        phases.append(info["phase"])
    assert phases == [0] * 5 + [1] * 5 + [2] * 5
    assert best[:5] == best[10:]
    assert not set(best[:5]) & set(best[5:10])
    cheap, expensive = 0, -1
    assert Pricing(elasticity=0.6).demands()[cheap] < Pricing(elasticity=2.0).demands()[cheap]
    assert Pricing(elasticity=0.6).demands()[expensive] > Pricing(elasticity=2.0).demands()[expensive]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_prices=1), "n_prices must be a whole number >= 2, got 1"),
        (dict(customers=0), "customers must be > 0 and finite, got 0"),
        (dict(goods=float("inf")), "goods must be > 0 and finite, got inf"),
        (dict(elasticity=-1.0), "elasticity must be > 0 and finite, got -1.0"),
        (dict(season=1.0), r"season must be in \[0, 1\), got 1.0"),
    ],
)
def test_a_shop_refuses_what_it_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pricing(**arguments)
