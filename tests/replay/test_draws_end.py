"""A draw ends after a bounded number of tries, whatever priorities, decay and fill level are."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.replay.initial_weights import LARGEST, SMALLEST
from sb3_reptile.replay.weighted_sampler import WeightedSampler
from tests.conftest import fill, make_buffer
from tests.replay import hindsight

# Draws by rejection go on to the end of a pass, which is at most a million
PASS = 1_000_000
BATCH = 24

positive = st.floats(1e-300, 1e300)
share = st.floats(0, 1)
weight = st.floats(np.log10(SMALLEST), np.log10(LARGEST)).map(
    lambda exponent: float(np.clip(10.0**exponent, SMALLEST, LARGEST))
)
decays = st.one_of(
    st.just({}),
    st.builds(lambda half_life: dict(half_life=half_life), st.one_of(positive, st.floats(1e-4, 1e4), st.just(np.inf))),
    st.builds(lambda horizon, floor: dict(decay={"linear": {"horizon": horizon, "floor": floor}}), positive, share),
    st.builds(lambda size: dict(decay={"window": {"size": size}}), st.one_of(st.integers(1, 300), st.floats(1, 1e300))),
    st.builds(
        lambda scale, exponent: dict(decay={"power_law": {"scale": scale, "exponent": exponent}}), positive, positive
    ),
    st.builds(
        lambda eta, minimum, cycle: dict(decay={"ere": {"eta": eta, "minimum": minimum, "cycle": cycle}}),
        st.floats(1e-300, 1),
        st.floats(1, 1e300),
        st.integers(1, 1_000),
    ),
)


class Tries:
    """Counts the tries of rejection sampling."""

    def __init__(self, monkeypatch):
        self.n = 0
        by_age = WeightedSampler._of_age

        def counted(sampler, ages):
            self.n += len(ages)
            return by_age(sampler, ages)

        monkeypatch.setattr(WeightedSampler, "_of_age", counted)
        self.patch = monkeypatch

    def count(self, buffer):
        tree = buffer.distribution._weighted.tree
        by_weight = tree.sample

        def counted(size):
            self.n += size
            return by_weight(size)

        self.patch.setattr(tree, "sample", counted)


def assert_ends(buffer, tries):
    tries.n = 0
    before = buffer.sampling_probabilities()
    assert np.isfinite(before).all()
    assert before.sum() == pytest.approx(1)
    batch = buffer.sample(BATCH)
    assert tries.n <= max(WeightedSampler.MAX_TRIES * BATCH, buffer.size() * buffer.n_envs) + PASS
    p = before.reshape(-1)
    assert (p[batch.indices] > 0).all()
    # Nothing that is much too rare
    assert (p[batch.indices] > 1e-12).all()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    options=decays,
    epsilon=st.one_of(st.just(0.0), share),
    n_envs=st.sampled_from([1, 3, 64]),
    n_steps=st.integers(1, 90),
    seed=st.integers(0, 2**16),
    weights=st.lists(weight, min_size=1, max_size=5),
    where=st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
)
def test_every_draw_ends(options, epsilon, n_envs, n_steps, seed, weights, where):
    with pytest.MonkeyPatch.context() as monkeypatch:
        tries = Tries(monkeypatch)
        buffer = make_buffer(DecayedReplayBuffer, n_envs=n_envs, prioritized=True, uniform_fraction=epsilon, **options)
        tries.count(buffer)
        np.random.seed(seed)
        fill(buffer, n_steps)
        assert_ends(buffer, tries)
        for index, priority in zip(where, weights, strict=False):
            buffer.update_priorities([index % (buffer.size() * n_envs)], [priority])
            assert_ends(buffer, tries)
            fill(buffer, 3, start=n_steps)
            n_steps += 3
            assert_ends(buffer, tries)


@pytest.mark.parametrize("options", [dict(decay={"window": {"size": 100}}), dict(decay={"linear": {"horizon": 100}})])
@pytest.mark.parametrize("priority", [1e9, 1e50])
def test_one_old_transition_of_large_priority_does_not_keep_a_draw_from_ending(options, priority, monkeypatch):
    tries = Tries(monkeypatch)
    space = spaces.Box(0, 1, (1,))
    buffer = DecayedReplayBuffer(10_000, space, spaces.Discrete(2), device="cpu", prioritized=True, **options)
    row = np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), np.zeros(1), [{}]
    for _ in range(10_000):
        buffer.add(*row)
    tries.count(buffer)
    buffer.update_priorities([10], [priority])
    assert_ends(buffer, tries)
    if "window" in options["decay"]:
        assert (buffer.ages_of(buffer.sample(200).indices) < 100).all()


@pytest.mark.parametrize("n_envs", [1, 64])
@pytest.mark.parametrize("half_life", [9e-4, 0.05, 1e-300])
@pytest.mark.parametrize("weights", [dict(prioritized=True), dict(initial_weights="random"), {}])
def test_a_half_life_far_below_a_row_draws_the_newest(weights, half_life, n_envs):
    buffer = make_buffer(DecayedReplayBuffer, n_envs=n_envs, half_life=half_life, **weights)
    for n_steps in (1, 30, 100):
        fill(buffer, n_steps)
        if buffer.prioritized:
            buffer.update_priorities([0], [1e50])
            buffer.update_priorities([(buffer.pos - 1) % buffer.buffer_size * n_envs], [1e-50])
        ages = buffer.ages_of(buffer.sample(60).indices)
        if n_envs == 64 or half_life < 0.01:
            assert (ages == 0).all()
        else:
            assert ages.max() <= 3 or buffer.prioritized


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    options=decays,
    seed=st.integers(0, 2**16),
    n_steps=st.integers(7, 120),
    weights=st.lists(weight, min_size=1, max_size=4),
)
def test_hindsight_draws_end_or_say_why_not(options, seed, n_steps, weights):
    buffer = hindsight.make_buffer(n_envs=2, prioritized=True, **options)
    np.random.seed(seed)
    hindsight.fill(buffer, n_steps)
    for number, priority in enumerate(weights):
        buffer.update_priorities([(number * 7 + seed) % (buffer.size() * 2)], [priority])
        if not buffer.can_be_sampled():
            with pytest.raises(RuntimeError, match="cannot be sampled before the end of the first episode that counts"):
                buffer.sample(BATCH)
            continue
        p = buffer.sampling_probabilities().reshape(-1)
        assert (p[buffer.sample(BATCH).indices] > 0).all()
        assert p.sum() == pytest.approx(1)
