"""The closed forms, where the buffers of a test cannot go: rows by the million and extreme half-lives."""

import math

import numpy as np
import pytest

from sb3_reptile.replay import Exponential
from sb3_reptile.replay.samplers import GeometricSampler


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


def test_exponential_halves_every_half_life():
    assert np.allclose(Exponential(10)(np.array([0, 10, 20, 30])), [1, 0.5, 0.25, 0.125])
    assert np.array_equal(Exponential(float("inf"))(np.array([0, 10**12])), [1, 1])
