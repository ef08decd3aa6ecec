"""Noisy outcomes are not mistaken for a change, and a change of noisy outcomes is noticed."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile.replay.auto import Consistency, Settings, Transitions
from sb3_reptile.replay.auto.evidence import FalseAlarmRate, in_good_standing, log_likelihood_ratios
from sb3_reptile.replay.auto.neighbours import Comparison, Means, Neighbours
from sb3_reptile.replay.auto.outcome_model import OutcomeModel

SETTINGS = Settings()


def shop(n, seed=0, elasticity=0.6):
    """Days of a shop: the reward is price times sales, which are Poisson distributed; the season is observed."""
    generator = np.random.default_rng(seed)
    seasons = generator.uniform(-1, 1, (n + 1, 2))
    choices = generator.integers(0, 5, n)
    prices = 0.4 + 0.4 * choices
    rewards = prices * generator.poisson((6 + 2 * seasons[:-1, 0]) * np.exp(elasticity * (1 - prices)))
    return seasons[:-1, None], choices[:, None, None], rewards[:, None], seasons[1:, None]


def observe(consistency, *stream):
    n = consistency.rows_per_chunk
    for row in range(0, len(stream[0]) - n + 1, n):
        consistency.observe(*(array[row : row + n] for array in stream), np.ones((n, 1), bool), 0)
    return consistency


def make_consistency():
    return Consistency(spaces.Box(-1, 1, (2,)), spaces.Discrete(5), 1)


@pytest.mark.parametrize("seed", range(3))
def test_noise_raises_no_alarm(seed):
    consistency = observe(make_consistency(), *shop(4_800, seed))
    assert consistency.changes == []
    assert consistency.mean() > 0.98


@pytest.mark.parametrize("seed", range(2))
def test_a_change_that_single_outcomes_hide_is_noticed_by_means(seed):
    before, after = shop(3_200, seed), shop(2_400, seed + 10)
    # By about the standard deviation of the noise
    after = (*after[:2], after[2] + 2.0, after[3])

    def consistencies(**settings):
        consistency = Consistency(spaces.Box(-1, 1, (2,)), spaces.Discrete(5), 1, Settings(**settings))
        observe(observe(consistency, *before), *after)
        return consistency.consistencies[:5].mean()

    by_means, by_single_outcomes = consistencies(), consistencies(noisy_above=1.0)
    assert by_means < 0.25
    assert by_means < by_single_outcomes / 2


@pytest.mark.parametrize(("noisy_from", "is_used"), [(1_000, True), (1_600, False)])
def test_means_are_compared_once_the_noise_is_known(noisy_from, is_used):
    consistency = Consistency(spaces.Box(-1, 1, (2,)), spaces.Discrete(5), 1, Settings(noisy_from=noisy_from))
    observe(consistency, *shop(1_568))
    n_outcomes = consistency.false_alarm_rate.rates.shape[1]
    assert consistency.segments.cusum[:, n_outcomes:].any() == is_used


def transitions(features, outcomes):
    n = len(features)
    return Transitions(np.arange(n), features[:, None], np.zeros(n, np.int64), np.stack([outcomes, 0 * outcomes], 1))


def test_means_and_noise_are_those_of_similar_situations():
    generator = np.random.default_rng(0)

    def sample(level):
        places = generator.uniform(-1, 1, 128)
        return transitions(places, level + np.where(places > 0, 1.0, 0.01) * generator.standard_normal(128))

    samples = [sample(0.0), sample(3.0)]
    model = OutcomeModel(samples[0], 1)
    noisy = np.array([True, False])
    new = transitions(np.repeat([-0.5, 0.5], 20) + np.linspace(-0.3, 0.3, 40), np.zeros(40))
    neighbours = Neighbours(model, samples[0], samples)
    comparison = neighbours.compare(neighbours.place(new), noisy)
    means, variances, counts, reaches = comparison.means
    assert means.shape == variances.shape == (40, 2, 1)
    assert (counts == SETTINGS.mean_neighbours).all()
    assert (reaches > 0).all()
    assert (reaches < 0.5).all()
    # Residuals are in units of the spread, and the new outcomes are at 0
    variances, means = variances[:, :, 0] * model.spread[0] ** 2, means[:, :, 0] * model.spread[0]
    quiet, loud = slice(0, 15), slice(25, 40)
    assert variances[quiet].max() < 0.01
    assert variances[loud].mean() == pytest.approx(1, rel=0.7)
    np.testing.assert_allclose(means[quiet], np.repeat([[0.0, 3.0]], 15, axis=0), atol=0.05)
    assert means[loud].mean(axis=0).tolist() == pytest.approx([0, 3], abs=0.5)
    means = comparison.means.means
    np.testing.assert_array_equal(comparison.means_now.means[:, 0], means[:, 0])
    # Noisy outcomes are not needed for a confirmation
    assert comparison.confirmations.tolist() == [40, 40]


def test_only_the_same_action_is_averaged():
    points = np.linspace(-1, 1, 20)
    sample = Transitions(
        np.arange(20), points[:, None], np.repeat([0, 1], [5, 15]), np.repeat([[0.0], [9.0]], [5, 15], axis=0)
    )
    model = OutcomeModel(sample, 2)
    new = sample.take(slice(0, 1))
    neighbours = Neighbours(model, sample, [sample])
    (means, _, counts, _) = neighbours.compare(neighbours.place(new), np.array([True])).means
    assert counts.tolist() == [[5]]
    assert means.item() == pytest.approx(0, abs=1e-6)


def test_without_noisy_outcomes_nothing_is_averaged():
    sample = transitions(np.linspace(-1, 1, 20), np.zeros(20))
    neighbours = Neighbours(OutcomeModel(sample, 1), sample, [sample])
    comparison = neighbours.compare(neighbours.place(sample), np.zeros(2, bool))
    assert comparison.means.means.shape == (20, 1, 0)
    assert not comparison.means.counts.any()


def compare(then=0.0, now=0.0, variance=1.0, count=12, reach=1.0, speaks=True, noisy=True):
    """One transition, one segment and the one that is still growing: differences from the two means."""

    def means(*differences):
        shape = (1, len(differences))
        values = np.array(differences, float).reshape(1, -1, 1)
        return Means(values, np.full_like(values, variance), np.full(shape, count), np.full(shape, reach))

    differs = np.zeros((1, 2, 1), bool)
    near = means(now)._replace(reaches=np.ones((1, 1)))
    speaks, far = np.array([[speaks, False]]), np.zeros((1, 2), bool)
    return Comparison(
        speaks=speaks,
        far=far,
        differs_now=differs,
        differed=differs,
        same=far,
        nearest_differs_now=differs[:, :1],
        nearest_differed=differs,
        noisy=np.array([noisy]),
        means_now=near,
        means=means(then, 0.0),
    )


RATE = FalseAlarmRate(np.full((3, 1), 0.2), np.zeros((3, 1)), SETTINGS)


def evidence_of_means(*args, cusum=0.0, **kwargs):
    sums = np.full((2, 2), float(cusum))
    return log_likelihood_ratios(compare(*args, **kwargs), RATE, sums, SETTINGS)[0, 1]


def test_evidence_of_means_is_a_difference_of_squared_standard_errors():
    allowance, share, error = SETTINGS.allowance, SETTINGS.mean_evidence, np.sqrt(1 + 1 / 12)
    assert evidence_of_means(0.7, -0.7) == pytest.approx(-allowance)
    assert evidence_of_means(2 * error, error) == pytest.approx(1.5 * share - allowance)
    assert evidence_of_means(error, 2 * error) == pytest.approx(-1.5 * share - allowance)
    assert evidence_of_means(4 * error, 2 * error, variance=4.0) == pytest.approx(1.5 * share - allowance)
    assert evidence_of_means(np.sqrt(1 + 1 / 3), 0, count=3) == pytest.approx(0.5 * share - allowance)


def test_an_outlier_does_not_decide():
    most = SETTINGS.mean_evidence * SETTINGS.outlier**2 / 2 - SETTINGS.allowance
    assert evidence_of_means(1e6, 0) == pytest.approx(most)
    assert evidence_of_means(1e6, 1e3) == pytest.approx(-SETTINGS.allowance)


def test_what_is_not_similar_or_not_noisy_is_no_evidence_of_means():
    assert evidence_of_means(3.0, 0.0) > 1
    assert evidence_of_means(3.0, 0.0, reach=1.5) == 0
    assert evidence_of_means(3.0, 0.0, speaks=False) == 0


def test_the_sum_of_an_outcome_that_is_no_longer_noisy_falls():
    assert evidence_of_means(3.0, 0.0, noisy=False) == -SETTINGS.allowance
    consistency = observe(make_consistency(), *shop(3_200))
    n_outcomes = consistency.false_alarm_rate.rates.shape[1]
    for segment in consistency.segments:
        segment.cusum[n_outcomes] = SETTINGS.bound
    assert consistency.false_alarm_rate.noisy[0]
    # From now on, sales are not random
    consistency.false_alarm_rate.rates[:] = 0
    observe(consistency, *shop(960, 1)[:2], np.zeros((960, 1)), shop(960, 1)[3])
    assert not consistency.false_alarm_rate.noisy[0]
    assert consistency.segments.cusum[:3, n_outcomes].max() < SETTINGS.bound / 2


def test_noise_is_at_least_the_tolerance():
    smallest = SETTINGS.tolerance**2
    assert evidence_of_means(0.3, 0.0, variance=1e-9) == pytest.approx(evidence_of_means(0.3, 0.0, variance=smallest))


def test_noise_is_learned_from_segments_in_good_standing():
    comparison = compare(3.0, 0.0)
    comparison.means.variances[0, 0] = 5.0
    sums = np.zeros((2, 2))
    in_doubt = np.array([[0.0, SETTINGS.doubt], [0.0, 0.0]])
    with_segment = log_likelihood_ratios(comparison, RATE, sums, SETTINGS)[0, 1]
    without = log_likelihood_ratios(comparison, RATE, in_doubt, SETTINGS)[0, 1]
    assert with_segment < without
    assert without == pytest.approx(evidence_of_means(3.0, 0.0))
    assert in_good_standing(sums, SETTINGS).tolist() == [True, False]
    assert in_good_standing(in_doubt, SETTINGS).tolist() == [False, False]


def test_states_without_means_are_loaded():
    consistency = observe(make_consistency(), *shop(1_600))
    arrays, values = consistency.state()
    n_outcomes = consistency.false_alarm_rate.rates.shape[1]
    arrays["sums"] = arrays["sums"][:, :n_outcomes] + 1
    loaded = make_consistency()
    loaded.set_state(arrays, values)
    expected = np.pad(arrays["sums"], ((0, 0), (0, n_outcomes)))
    np.testing.assert_array_equal(loaded.segments.cusum, expected)
    observe(loaded, *shop(320, 1))
