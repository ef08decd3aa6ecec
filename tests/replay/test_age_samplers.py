"""The closed forms, where the buffers of a test cannot go: rows by the million and extreme half-lives."""

import copy
import math

import numpy as np
import pytest

from sb3_reptile.replay import EmphasizingRecent, Exponential, PowerLaw
from sb3_reptile.replay.age_samplers import (
    EmphasizingRecentSampler,
    GeometricSampler,
    LinearSampler,
    TableSampler,
    WindowSampler,
)
from sb3_reptile.replay.weighted_sampler import WeightedSampler


@pytest.mark.parametrize("n_rows", [1, 2, 1_000, 10**6, 10**12])
@pytest.mark.parametrize("half_life", [5e-324, 1e-3, 1, 1e3, 1e12, 1.7e308])
def test_every_age_is_valid_at_the_extremes(n_rows, half_life):
    np.random.seed(0)
    sampler = GeometricSampler(Exponential(half_life).rate)
    with np.errstate(all="raise", under="ignore"):
        ages = sampler.sample(n_rows, 10_000)
    assert ages.dtype == np.int64
    assert ages.min() >= 0
    assert ages.max() < n_rows
    assert 0 <= sampler.diagnostics(n_rows).expected_age <= (n_rows - 1) / 2
    assert 1 <= sampler.diagnostics(n_rows).effective_sample_size <= n_rows


@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 0.999999, np.nextafter(1, 0)])
@pytest.mark.parametrize("half_life", [3, 1e3, 1e9, 1e12, 1e20])  # at 1e20, 7 rows, the last u rounds up to age 7
@pytest.mark.parametrize("n_rows", [7, 50, 3_000])
def test_inversion_agrees_with_the_cumulative_sums(n_rows, half_life, u, monkeypatch):
    monkeypatch.setattr(np.random, "random_sample", lambda size: np.full(size, u))
    age = GeometricSampler(Exponential(half_life).rate).sample(n_rows, 1)[0]
    # In extended precision: P(a) ~ 2^(-a / half_life), the first age whose cumulative probability exceeds u
    weights = np.exp2(-np.arange(n_rows, dtype=np.longdouble) / half_life)
    cumulative = np.concatenate([[0], np.cumsum(weights)]) / weights.sum()
    assert cumulative[age] <= u + 1e-12
    assert cumulative[age + 1] >= u - 1e-12


def test_diagnostics_keep_their_precision_where_the_decay_is_almost_none():
    n = 10**6
    nearly_uniform = GeometricSampler(Exponential(1e15).rate)
    # First order in the rate: the mean age falls by rate (n^2 - 1) / 12 below the uniform one
    expected = (n - 1) / 2 - math.log(2) / 1e15 * (n**2 - 1) / 12
    assert nearly_uniform.diagnostics(n).expected_age == pytest.approx(expected, rel=1e-13)
    assert nearly_uniform.diagnostics(n).effective_sample_size == pytest.approx(n, rel=1e-12)


N_ROWS = 3_000
SAMPLERS = {
    "exponential": GeometricSampler(0.01),
    "no decay": GeometricSampler(0.0),
    "linear": LinearSampler(1 / 2_000, 0.1),
    "linear, all on the slope": LinearSampler(1 / 1e7, 0.0),
    "linear, no floor": LinearSampler(1 / 700.5, 0.0),
    "linear, steep": LinearSampler(2.0, 0.25),
    "linear, no slope left": LinearSampler(0.1, 1.0),
    "window": WindowSampler(130),
    "table": TableSampler(PowerLaw(7, 1.5)(np.arange(N_ROWS))),
    "ere": EmphasizingRecentSampler(EmphasizingRecent(0.998, 20, 10), n_envs=1),
}


@pytest.mark.parametrize("n_rows", [1, 2, 99, N_ROWS])
@pytest.mark.parametrize("name", SAMPLERS)
def test_quantiles_invert_the_cumulative_sums_of_the_weights(name, n_rows):
    sampler = SAMPLERS[name]
    weights = sampler.weights(np.arange(n_rows), n_rows).astype(np.longdouble)
    assert sampler.total(n_rows) == pytest.approx(float(weights.sum()), rel=1e-12)
    cumulative = np.concatenate([[0], np.cumsum(weights)]) / weights.sum()
    u = np.concatenate([np.linspace(0, 1, 5_000, endpoint=False), [np.nextafter(1, 0)]])
    ages = sampler.quantile(n_rows, u.copy())
    assert ages.dtype == np.int64
    assert ages.min() >= 0
    assert ages.max() < n_rows
    assert (weights[ages] > 0).all()
    assert (cumulative[ages] <= u + 1e-9).all()
    assert (cumulative[ages + 1] >= u - 1e-9).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_probabilities_sum_to_one_and_never_fall_below_the_uniform_share(name, epsilon):
    sampler = copy.copy(SAMPLERS[name])
    sampler.uniform_fraction = epsilon
    for n_rows in (1, 50, N_ROWS):
        p = sampler.probabilities(np.arange(n_rows), n_rows)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert p.min() >= epsilon / n_rows * (1 - 1e-12)
        assert (np.diff(p) <= 1e-15).all()


@pytest.mark.parametrize("half_life", [0.01, 3, 1_000, 5e5, 1e12])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_forward_decay_stays_exact_through_a_billion_insertions(half_life, n_envs):
    n_rows = 400
    sampler = WeightedSampler(GeometricSampler(Exponential(half_life).rate * n_envs), n_rows, n_envs)
    generator = np.random.default_rng(0)
    for jump in [n_rows, 10**3, 10**6] * 1_000:
        # This number of rows at once, of which the last n_rows remain; then a few one by one
        sampler.p[:] = generator.exponential(size=sampler.p.shape) + 1e-3
        sampler.largest = 1e3
        sampler.rows_added += jump
        sampler.sample(n_rows, 1)
        for _ in range(3):
            sampler.add(generator.exponential(size=n_envs) + 1e-3)
            sampler.sample(n_rows, 1)
    assert sampler.rows_added > 10**9
    rows = np.arange(n_rows)
    ages = (sampler.rows_added - 1 - rows) % n_rows
    assert sorted(ages) == list(range(n_rows))
    with np.errstate(under="ignore"):
        expected = sampler.p * np.exp2(-(n_envs * ages[:, None]) / half_life)
    expected /= expected.sum()
    implied = (sampler.tree.values / sampler.tree.total).reshape(n_rows, n_envs)
    assert np.allclose(implied, expected, rtol=1e-11, atol=1e-300)


def test_ages_are_exact_after_a_trillion_rows():
    n_rows = 10
    sampler = WeightedSampler(GeometricSampler(Exponential(3).rate), n_rows, 1)
    sampler.rows_added = sampler.rows_in_tree = sampler.landmark = 10**12 + 3
    for _ in range(n_rows):
        sampler.add(1.0)
    ages = sampler.age_of(np.arange(n_rows))
    assert ages.tolist() == [(10**12 + 12 - row) % 10 for row in range(n_rows)]
    sampler.sample(n_rows, 1)
    implied = sampler.tree.values / sampler.tree.total
    assert np.allclose(implied, 0.5 ** (ages / 3) / (0.5 ** (np.arange(10) / 3)).sum(), rtol=1e-12)


@pytest.mark.parametrize("n_rows", [2, 30])
def test_a_row_that_must_not_be_drawn_is_not_whatever_its_weight(n_rows):
    np.random.seed(0)
    for ages in (GeometricSampler(0.0), GeometricSampler(0.1), WindowSampler(n_rows)):
        sampler = WeightedSampler(ages, n_rows, 2)
        sampler.add(1e50)
        for _ in range(n_rows - 1):
            sampler.add(1e-50)
        assert set(sampler.sample(n_rows - 1, 200)) <= set(range(2, 2 * n_rows))
        sampler.set(np.array([0]), np.array([1e50]))
        assert set(sampler.sample(n_rows - 1, 200)) <= set(range(2, 2 * n_rows))


def test_exponential_halves_every_half_life():
    assert np.allclose(Exponential(10)(np.array([0, 10, 20, 30])), [1, 0.5, 0.25, 0.125])
    assert np.array_equal(Exponential(float("inf"))(np.array([0, 10**12])), [1, 1])


@pytest.mark.parametrize("horizon", [1e14, 1e18, 1e100, 1e300])
def test_a_line_that_hardly_falls_is_uniform_whatever_its_length(horizon):
    sampler = LinearSampler(1 / horizon, 0)
    quantiles = sampler.quantile(1_000, (np.arange(1_000) + 0.5) / 1_000)
    assert np.array_equal(quantiles, np.arange(1_000))


@pytest.mark.parametrize("floor", [0, 5e-324, 1e-300, 0.5, 1])
def test_a_line_that_falls_within_a_row_leaves_the_newest_and_the_floor(floor):
    sampler = LinearSampler(3e300, floor)
    u = np.linspace(0, 1, 1_001)[:-1]
    counts = np.bincount(sampler.quantile(10, u.copy()), minlength=10)
    assert counts / 1_000 == pytest.approx(np.array([1] + 9 * [floor]) / (1 + 9 * floor), abs=0.003)
