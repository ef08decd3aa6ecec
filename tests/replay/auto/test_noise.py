"""Noisy outcomes are not mistaken for a change, and a change of noisy outcomes is noticed."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile.replay.auto import Consistency, Settings, Transitions
from sb3_reptile.replay.auto.evidence import log_likelihood_ratios
from sb3_reptile.replay.auto.neighbours import Comparison, Neighbours
from sb3_reptile.replay.auto.outcome_model import OutcomeModel

SETTINGS = Settings()


def shop(n, seed=0, elasticity=0.6, scale=1.0):
    """Days of a shop: the reward is price times sales, which are Poisson distributed; the season is observed."""
    generator = np.random.default_rng(seed)
    seasons = generator.uniform(-1, 1, (n + 1, 2))
    choices = generator.integers(0, 5, n)
    prices = 0.4 + 0.4 * choices
    demand = (6 + 2 * seasons[:-1, 0]) * np.exp(elasticity * (1 - prices))
    rewards = scale * prices * generator.poisson(demand)
    return seasons[:-1, None], choices[:, None, None], rewards[:, None], seasons[1:, None]


def observe(consistency, observations, actions, rewards, next_observations):
    n = consistency.rows_per_chunk
    for row in range(0, len(rewards) - n + 1, n):
        rows = slice(row, row + n)
        consistency.observe(
            observations[rows], actions[rows], rewards[rows], next_observations[rows], np.ones((n, 1), bool), 0
        )
    return consistency


def make_consistency():
    return Consistency(spaces.Box(-1, 1, (2,)), spaces.Discrete(5), 1)


@pytest.mark.parametrize("seed", range(3))
def test_noise_that_differs_between_situations_raises_no_alarm(seed):
    consistency = observe(make_consistency(), *shop(6_400, seed))
    assert consistency.changes == []
    assert consistency.mean() > 0.98


@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_a_noisy_reward_is_noticed(seed):
    consistency = observe(make_consistency(), *shop(3_200, seed))
    observe(consistency, *shop(1_600, seed + 10, elasticity=2.0))
    assert len(consistency.changes) == 1
    assert consistency.changes[0].happened_at > 2_800
    assert consistency.consistencies[:4].max() < 0.1


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_rewards_does_not_matter(scale):
    usual = observe(make_consistency(), *shop(1_600))
    scaled = observe(make_consistency(), *shop(1_600, scale=scale))
    np.testing.assert_allclose(scaled.segments.cusum, usual.segments.cusum, rtol=1e-3, atol=1e-3)
    for consistency, size in ((usual, 1.0), (scaled, scale)):
        observe(consistency, *shop(1_600, 1, elasticity=2.0, scale=size))
        assert len(consistency.changes) == 1


def test_the_scale_of_observations_does_not_matter():
    observations, actions, rewards, next_observations = shop(1_600)
    usual = observe(make_consistency(), observations, actions, rewards, next_observations)
    scaled = observe(make_consistency(), 1e-6 * observations, actions, rewards, 1e-6 * next_observations)
    np.testing.assert_allclose(scaled.segments.cusum, usual.segments.cusum, rtol=1e-3, atol=1e-3)


def test_a_column_that_does_not_vary_but_by_rounding_has_no_say():
    observations, actions, rewards, next_observations = shop(1_600)
    generator = np.random.default_rng(1)
    space = spaces.Box(-np.inf, np.inf, (3,))

    def with_column(array):
        column = 1e4 + 1e-4 * generator.standard_normal((len(array), 1, 1))
        return np.concatenate([array, column], axis=2)

    consistency = Consistency(space, spaces.Discrete(5), 1)
    observe(consistency, with_column(observations), actions, rewards, with_column(next_observations))
    assert consistency.changes == []
    assert consistency.segments.cusum[:, -1].max() < 1


def transitions(features, outcomes):
    n = len(features)
    return Transitions(np.arange(n), features[:, None], np.zeros(n, np.int64), np.stack([outcomes, 0 * outcomes], 1))


def test_noise_is_estimated_for_each_situation():
    generator = np.random.default_rng(0)

    def sample():
        places = generator.uniform(-1, 1, 128)
        noise = np.where(places > 0, 1.0, 0.01) * generator.standard_normal(128)
        return transitions(places, noise)

    samples = [sample() for _ in range(8)]
    model = OutcomeModel(samples[0], 1)
    comparison = Neighbours(model, samples[0], samples).compare(transitions(np.array([-0.5, 0.5]), np.zeros(2)))
    quiet, noisy = comparison.noise[:, 0, 0] * model.spread[0]
    assert quiet < 0.05
    assert noisy == pytest.approx(1, rel=0.5)


def test_noise_is_not_estimated_from_what_mixes_two_regimes():
    places = np.linspace(-1, 1, 128)
    before, mixed = transitions(places, 0 * places), transitions(places, np.where(np.arange(128) % 2, 1.0, 0.0))
    model = OutcomeModel(before, 1)
    new = transitions(np.array([0.3]), np.ones(1))
    many = Neighbours(model, mixed, [before] * 4 + [mixed]).compare(new)
    assert many.noise[0, 0, 0] == 0
    # With few other segments they are needed
    few = Neighbours(model, mixed, [before, mixed]).compare(new)
    assert few.noise[0, 0, 0] > 0


def compare(then, now, noise=1.0, speaks=True):
    """A comparison of one transition with one segment: distances of its outcome from both means."""
    yes = np.ones((1, 1, 1), bool)
    return Comparison(np.full((1, 1), speaks), yes, yes, *(np.full((1, 1, 1), x) for x in (noise, now, then)))


def test_evidence_in_noise_is_the_difference_of_squared_standard_errors():
    rate = np.full(1, 0.1)

    def evidence(*args, **kwargs):
        return log_likelihood_ratios(compare(*args, **kwargs), rate, SETTINGS).item()

    allowance, error = SETTINGS.noise_allowance, np.sqrt(4 / 3)
    assert evidence(0.7, -0.7) == pytest.approx(-allowance)
    assert evidence(error, 0.0) == pytest.approx(0.25 - allowance)
    assert evidence(0.0, error) == pytest.approx(-0.25 - allowance)
    assert evidence(2 * error, 0.0, noise=2.0) == pytest.approx(0.25 - allowance)
    # An outlier does not decide
    assert evidence(100.0, 0.0) == pytest.approx(SETTINGS.max_noisy_evidence - allowance)
    assert evidence(100.0, 50.0) == pytest.approx(-allowance)
    assert evidence(2.0, 0.0, speaks=False) == 0
    # Where there is little noise, distances do not matter, but whether outcomes differ
    assert evidence(2.0, 0.0, noise=0.1) == 0
