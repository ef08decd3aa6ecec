"""Sampling through segments, compared with a reference that visits every row."""

import math

import numpy as np
import pytest

from sb3_reptile.replay import EmphasizingRecent, PowerLaw
from sb3_reptile.replay.age_samplers import (
    EmphasizingRecentSampler,
    GeometricSampler,
    LinearSampler,
    TableSampler,
    WindowSampler,
)
from sb3_reptile.replay.auto import SegmentedSampler
from sb3_reptile.replay.diagnostics import diagnose

N_ROWS = 600
INNER = {
    "exponential": lambda: GeometricSampler(0.01),
    "steep exponential": lambda: GeometricSampler(3.0),
    "no decay": lambda: GeometricSampler(0.0),
    "linear": lambda: LinearSampler(1 / 200, 0.1),
    "linear, no floor": lambda: LinearSampler(1 / 70.5, 0.0),
    "window": lambda: WindowSampler(130),
    "power law": lambda: TableSampler(PowerLaw(7, 1.5)(np.arange(N_ROWS))),
    "ere": lambda: EmphasizingRecentSampler(EmphasizingRecent(0.998, 20, 10), n_envs=1),
}
# Number of the first row and consistency of each segment, from the oldest on, after 1,000 rows
SEGMENTS = {
    "one": ([0], [1.0]),
    "old ones partly consistent": ([0, 300, 550, 700, 940], [0.3, 1.0, 0.01, 0.6, 1.0]),
    "only the newest row": ([0, 999], [1e-4, 1.0]),
    "all gone but two": ([0, 100, 200, 395, 900], [1.0, 1.0, 1.0, 1e-3, 1.0]),
    "one row each": (list(range(980, 1_000)), [0.5] * 19 + [1.0]),
}


def naive_weights(inner, starts, consistencies, rows_added, n_rows):
    """By the age of the row: its segment's consistency times the decay at the age on the clock."""
    weights, clock = np.zeros(n_rows), 0.0
    age = 0
    for first, c in zip(reversed(starts), reversed(consistencies), strict=True):
        start = round(clock)
        length = 0
        while age < n_rows and rows_added - 1 - age >= first:
            weights[age] = c * inner.weights(np.array([start + length]), n_rows)[0]
            age, length = age + 1, length + 1
        clock += c * length
    return weights


@pytest.mark.parametrize("n_rows", [1, 7, 61, N_ROWS - 1, N_ROWS])
@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("name", INNER)
def test_segments_are_drawn_by_consistency_and_by_the_decay_on_their_clock(name, segments, n_rows):
    starts, consistencies = SEGMENTS[segments]
    if starts[0] > 1_000 - n_rows:
        starts, consistencies = [0, *starts], [0.2, *consistencies]
    sampler = SegmentedSampler(INNER[name]())
    sampler.set_segments(np.array(starts), np.array(consistencies), 1_000)
    weights = naive_weights(INNER[name](), starts, consistencies, 1_000, n_rows)
    ages = np.arange(n_rows)
    np.testing.assert_allclose(sampler.weights(ages, n_rows), weights, rtol=1e-9, atol=1e-300)
    assert sampler.total(n_rows) == pytest.approx(weights.sum(), rel=1e-9)
    np.testing.assert_allclose(sampler.probabilities(ages, n_rows), weights / weights.sum(), rtol=1e-9, atol=1e-300)

    # A row is drawn for a share of the numbers in [0, 1) that is its probability
    u = (np.arange(20_000) + 0.5) / 20_000
    drawn = sampler.quantile(n_rows, u.copy())
    assert drawn.dtype == np.int64
    shares = np.bincount(drawn, minlength=n_rows) / len(u)
    assert len(shares) == n_rows
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=3 / len(u))


@pytest.mark.parametrize("uniform_fraction", [0.0, 0.3])
@pytest.mark.parametrize("name", INNER)
def test_draws_are_those_of_the_decay_while_all_segments_agree(name, uniform_fraction):
    plain = INNER[name]()
    plain.uniform_fraction = uniform_fraction
    sampler = SegmentedSampler(INNER[name](), uniform_fraction)
    sampler.set_segments(np.array([0, 500, 800]), np.ones(3), 1_000)
    np.random.seed(0)
    expected = plain.sample(N_ROWS, 1_000)
    np.random.seed(0)
    np.testing.assert_array_equal(sampler.sample(N_ROWS, 1_000), expected)


def test_growing_segments_need_no_new_layout_from_outside():
    sampler = SegmentedSampler(GeometricSampler(0.01))
    sampler.set_segments(np.array([0, 50]), np.array([0.1, 1.0]), 60)
    before = sampler.total(60)
    sampler.rows_added = 80
    weights = naive_weights(GeometricSampler(0.01), [0, 50], [0.1, 1.0], 80, 80)
    assert sampler.total(80) == pytest.approx(weights.sum(), rel=1e-12) != before


def test_the_old_end_of_a_decay_keeps_its_proportions():
    """With a clock at 40 half-lives, differences of totals would have lost all their digits."""
    sampler = SegmentedSampler(GeometricSampler(math.log(2) / 10))
    sampler.set_segments(np.array([0, 100, 500]), np.array([0.5, 1.0, 1.0]), 1_000)
    ages = np.arange(950, 990)
    weights = sampler.weights(ages, 1_000)
    np.testing.assert_allclose(weights[1:] / weights[:-1], 0.5**0.1, rtol=1e-12)
    within = sampler.inner.quantile_within(np.array([900]), np.array([100]), np.array([0.5]), 1_000)
    assert within[0] == 9


@pytest.mark.parametrize("uniform_fraction", [0.0, 0.2])
@pytest.mark.parametrize("name", ["exponential", "linear", "power law"])
def test_diagnostics_are_those_of_the_distribution(name, uniform_fraction):
    sampler = SegmentedSampler(INNER[name](), uniform_fraction)
    sampler.set_segments(np.array([0, 450, 700, 900]), np.array([0.2, 1.0, 0.01, 1.0]), 1_000)
    ages = np.arange(N_ROWS)
    expected = diagnose(sampler.probabilities(ages, N_ROWS), ages)
    for value, reference in zip(sampler.diagnostics(N_ROWS), expected, strict=True):
        assert value == pytest.approx(reference, rel=0.01)


def test_a_decay_that_changes_from_batch_to_batch_is_followed():
    sampler = SegmentedSampler(INNER["ere"]())
    sampler.set_segments(np.array([0, 700, 950]), np.array([1.0, 0.1, 1.0]), 1_000)
    totals = []
    for _ in range(3):
        totals.append(sampler.total(N_ROWS))
        expected = naive_weights(sampler.inner, [0, 700, 950], [1.0, 0.1, 1.0], 1_000, N_ROWS).sum()
        assert totals[-1] == pytest.approx(expected)
        sampler.next_call()
    assert len(set(totals)) > 1


def test_pickles_with_the_old_names_load():
    sampler = SegmentedSampler(GeometricSampler(0.01))
    sampler.set_segments(np.array([0, 450, 700]), np.array([0.2, 0.5, 1.0]), 1_000)
    before = sampler.weights(np.arange(N_ROWS), N_ROWS)
    state = dict(vars(sampler))
    state["_firsts"], state["_starts"] = state.pop("_starts"), state.pop("_first_ages")
    state["_clocks"], state["_sums"] = state.pop("_clock_ages"), state.pop("_totals")
    loaded = object.__new__(SegmentedSampler)
    loaded.__setstate__(state)
    np.testing.assert_array_equal(loaded.weights(np.arange(N_ROWS), N_ROWS), before)
    assert loaded.total(N_ROWS) == sampler.total(N_ROWS)
