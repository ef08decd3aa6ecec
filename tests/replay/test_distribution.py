"""Every decay x initial weight x priority x fill level x number of environments x buffer, against a naive reference."""

import math
import pickle
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_reptile import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay import EmphasizingRecent, Exponential, Linear, PowerLaw, Window
from tests.conftest import assert_drawn_from

N_ROWS = 24
FILLS = {"one row": 1, "partly filled": 11, "just full": N_ROWS, "wrapped": 5 * N_ROWS + 7}
BOX = spaces.Box(-np.inf, np.inf, (2,))
BUFFERS = {
    "plain": (DecayedReplayBuffer, BOX, {}),
    "memory-optimised": (
        DecayedReplayBuffer,
        BOX,
        dict(optimize_memory_usage=True, handle_timeout_termination=False),
    ),
    "Dict": (DecayedDictReplayBuffer, spaces.Dict({"x": BOX}), {}),
    "n-step": (DecayedNStepReplayBuffer, BOX, dict(n_steps=3, gamma=0.9)),
}

# What a user passes, and what it means: f(age, transitions stored, number of the batch)
DECAYS = {
    "short half-life": (dict(half_life=6), lambda age, n, k: 0.5 ** (age / 6)),
    "long half-life": (dict(half_life=1e9), lambda age, n, k: 0.5 ** (age / 1e9)),
    "no decay": (dict(half_life=math.inf), lambda age, n, k: 1.0),
    "linear": (dict(decay={"linear": {"horizon": 20, "floor": 0.2}}), lambda age, n, k: max(0.2, 1 - age / 20)),
    "linear to 0": (dict(decay={"linear": {"horizon": 15.5, "floor": 0}}), lambda age, n, k: max(0.0, 1 - age / 15.5)),
    "long line": (dict(decay={"linear": {"horizon": 1e6}}), lambda age, n, k: max(0.1, 1 - age / 1e6)),
    "1/age": (dict(decay="power_law"), lambda age, n, k: 1 / (1 + age)),
    "power law": (
        dict(decay={"power_law": {"scale": 5, "exponent": 2.5}}),
        lambda age, n, k: (1 + age / 5) ** -2.5,
    ),
    "window": (dict(decay={"window": {"size": 9.5}}), lambda age, n, k: float(age < 9.5)),
    "function": (
        dict(decay=lambda age: 2 * np.exp(-((age / 10) ** 2))),
        lambda age, n, k: math.exp(-((age / 10) ** 2)),
    ),
}
WEIGHTS = {
    "uniform": lambda step, env: 1.0,
    "info": lambda step, env: 0.25 + (7 * step + 3 * env) % 5,
    "function": lambda step, env: 1.0 + (step + env) % 3,
}


def weights_of_steps(obs, next_obs, action, reward, done, infos):
    """The same as WEIGHTS["function"], from the arguments of the buffer."""
    return 1.0 + (reward // 10 + reward % 10) % 3


class Reference:
    """Replay by the definition: a list of transitions, every weight computed from scratch for each query."""

    def __init__(
        self, n_envs, decay, weight=WEIGHTS["uniform"], uniform_fraction=0.0, n_rows=N_ROWS, skip_oldest=False
    ):
        self.n_envs, self.decay, self.weight, self.epsilon = n_envs, decay, weight, uniform_fraction
        self.n_rows, self.skip_oldest = n_rows, skip_oldest
        self.rows = []
        self.steps = 0
        self.largest = 1.0
        self.batches = 0

    def add(self):
        row = [[self.steps, env, self.weight(self.steps, env), self.largest] for env in range(self.n_envs)]
        self.rows = [*self.rows, row][-self.n_rows :]
        self.steps += 1

    def drawable(self):
        full = len(self.rows) == self.n_rows
        return self.rows[1:] if full and self.skip_oldest else self.rows

    def update(self, index, priority):
        step = next(row[0][0] for row in self.rows if row[0][0] % self.n_rows == index // self.n_envs)
        self.rows[step - self.rows[0][0][0]][index % self.n_envs][3] = priority
        self.largest = max(self.largest, priority)

    def probabilities(self):
        """Of every transition that may be drawn, by its number in the storage."""
        rows = self.drawable()
        n = len(rows) * self.n_envs
        weights = {
            step % self.n_rows * self.n_envs + env: prior
            * priority
            * self.decay(self.n_envs * (self.steps - 1 - step), n, self.batches)
            for row in rows
            for step, env, prior, priority in row
        }
        total = sum(weights.values())
        return {i: (1 - self.epsilon) * w / total + self.epsilon / n for i, w in weights.items()}


def make(kind="plain", n_envs=1, n_rows=N_ROWS, **kwargs):
    buffer_class, space, own = BUFFERS[kind]
    return buffer_class(n_rows * n_envs, space, spaces.Discrete(3), device="cpu", n_envs=n_envs, **own, **kwargs)


def add(buffer, reference=None, steps=1, start=None):
    """Rows in which every field identifies the step and the environment; no episode ends."""
    start = reference.steps if start is None else start
    envs = np.arange(buffer.n_envs)
    for step in range(start, start + steps):
        obs, next_obs = (np.stack([np.full(buffer.n_envs, t), envs], axis=1) for t in (step, step + 1))
        if isinstance(buffer.observation_space, spaces.Dict):
            obs, next_obs = {"x": obs}, {"x": next_obs}
        infos = [{"replay_weight": WEIGHTS["info"](step, env)} for env in envs]
        buffer.add(obs, next_obs, (step + envs) % 3, 10.0 * step + envs, np.zeros(buffer.n_envs), infos)
        if reference is not None:
            reference.add()


def as_array(probabilities, buffer):
    array = np.zeros(buffer.buffer_size * buffer.n_envs)
    array[list(probabilities)] = list(probabilities.values())
    return array.reshape(buffer.buffer_size, buffer.n_envs)


def assert_fields_belong_to_indices(batch, reference, kind):
    rows = {row[0][0] % reference.n_rows: row[0][0] for row in reference.rows}
    steps = np.array([rows[index // reference.n_envs] for index in batch.indices])
    envs = batch.indices % reference.n_envs
    observations = batch.observations["x"] if kind == "Dict" else batch.observations
    assert np.array_equal(observations.numpy(), np.stack([steps, envs], axis=1))
    assert np.array_equal(batch.actions.numpy().ravel(), (steps + envs) % 3)
    if kind != "n-step":
        next_observations = batch.next_observations["x"] if kind == "Dict" else batch.next_observations
        assert np.array_equal(next_observations.numpy()[:, 0], steps + 1)
        assert np.array_equal(batch.rewards.numpy().ravel(), 10 * steps + envs)


def set_some_priorities(buffer, reference, seed):
    generator = np.random.default_rng(seed)
    indices = generator.integers(0, buffer.size() * buffer.n_envs, size=min(8, buffer.size()))
    priorities = generator.exponential(size=len(indices)) + 0.01
    buffer.update_priorities(indices, priorities)
    for index, priority in zip(indices.tolist(), priorities.tolist(), strict=True):
        reference.update(index, priority)


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("n_envs", [1, 3, 8])
@pytest.mark.parametrize("prioritized", [False, True], ids=["", "prioritized"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("decay", DECAYS)
def test_draws_follow_the_definition(decay, weights, prioritized, n_envs, kind):
    arguments, f = DECAYS[decay]
    initial_weights = weights_of_steps if weights == "function" else weights
    for fill, uniform_fraction in zip(FILLS.values(), [0.2, 0, 0.3, 0], strict=True):
        buffer = make(
            kind,
            n_envs,
            initial_weights=initial_weights,
            prioritized=prioritized,
            uniform_fraction=uniform_fraction,
            **arguments,
        )
        reference = Reference(n_envs, f, WEIGHTS[weights], uniform_fraction, skip_oldest=(kind == "memory-optimised"))
        add(buffer, reference, steps=fill - fill // 3)
        if prioritized:
            set_some_priorities(buffer, reference, seed=1)
        add(buffer, reference, steps=fill // 3)
        if prioritized:
            set_some_priorities(buffer, reference, seed=2)
        expected = reference.probabilities()
        claimed = buffer.sampling_probabilities()
        assert np.allclose(claimed, as_array(expected, buffer), rtol=1e-12, atol=1e-15)
        assert claimed.sum() == pytest.approx(1, abs=1e-12)

        np.random.seed(0)
        batch = buffer.sample(6_000)
        assert_drawn_from(batch.indices, {i: p for i, p in expected.items() if p > 0})
        assert_fields_belong_to_indices(batch, reference, kind)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("weights", ["uniform", "info"])
@pytest.mark.parametrize("uniform_fraction", [0, 0.2])
def test_ere_closes_in_on_the_newest_transitions_from_batch_to_batch(n_envs, weights, uniform_fraction):
    decay = dict(decay={"ere": {"eta": 0.99, "minimum": 5, "cycle": 10}})

    def in_window(age, n, batches):
        # c_k = max(N eta^(1000 k / K), c_min), equation in section 4 of arXiv 1906.04009; whole rows are in or out
        k = batches % 10 + 1
        return float(age // n_envs < math.ceil(max(n * 0.99 ** (1000 * k / 10), 5) / n_envs))

    buffer = make("plain", n_envs, initial_weights=weights, uniform_fraction=uniform_fraction, **decay)
    reference = Reference(n_envs, in_window, WEIGHTS[weights], uniform_fraction)
    add(buffer, reference, steps=40)
    np.random.seed(0)
    seen = []
    for _ in range(13):
        expected = reference.probabilities()
        assert np.allclose(buffer.sampling_probabilities(), as_array(expected, buffer), rtol=1e-12, atol=1e-15)
        assert_drawn_from(buffer.sample(3_000).indices, {i: p for i, p in expected.items() if p > 0})
        reference.batches += 1
        seen.append(sum(p > 1.001 * uniform_fraction / len(expected) for p in expected.values()))
    assert seen[0] > seen[1] >= seen[9] == -(-5 // n_envs) * n_envs
    assert seen[10] == seen[0]


def test_random_initial_weights_are_seeded_and_drawn_from_0_to_1():
    buffers = [make(initial_weights={"random": {"seed": seed}}, half_life=math.inf) for seed in (3, 3, 4)]
    for buffer in buffers:
        add(buffer, steps=N_ROWS, start=0)
    first, same, other = (buffer.sampling_probabilities() for buffer in buffers)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    weights = 1 - np.random.default_rng(3).random(N_ROWS)
    assert np.allclose(first.ravel(), weights / weights.sum())
    np.random.seed(0)
    assert_drawn_from(buffers[0].sample(20_000).indices, dict(enumerate(first.ravel().tolist())))
    unseeded = make(initial_weights="random")
    add(unseeded, steps=5, start=0)
    assert len(np.unique(unseeded.distribution._weighted.p)) == 6  # five weights, and 0 where there is nothing yet


def test_info_without_a_weight_counts_one():
    buffer = make(initial_weights="info", half_life=math.inf)
    for info in ({}, {"replay_weight": 3.0}):
        buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1), [info])
    assert np.allclose(buffer.sampling_probabilities()[:2, 0], [0.25, 0.75])


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("arguments", [{}, dict(half_life=math.inf), dict(prioritized=True), dict(decay="power_law")])
def test_combined_replay_has_the_newest_row_in_every_batch(arguments, kind, n_envs):
    buffer = make(kind, n_envs, combined=True, **arguments)
    reference = Reference(n_envs, lambda age, n, k: 1.0)
    np.random.seed(0)
    for _ in range(40):
        add(buffer, reference)
        if kind == "memory-optimised" and reference.steps == 1:
            continue
        batch = buffer.sample(4)
        assert batch.indices[0] // n_envs == (reference.steps - 1) % N_ROWS
        assert_fields_belong_to_indices(batch, reference, kind)
    batches = [buffer.sample(2) for _ in range(300)]
    assert {int(batch.indices[0]) % n_envs for batch in batches} == set(range(n_envs))
    assert len({int(batch.indices[1]) for batch in batches}) > 3


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("beta", [0.4, 1])
@pytest.mark.parametrize("uniform_fraction", [0, 0.2])
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("decay", ["short half-life", "no decay", "linear", "1/age"])
def test_importance_weights_are_the_powers_of_the_probabilities(decay, prioritized, uniform_fraction, beta, n_envs):
    arguments, f = DECAYS[decay]
    buffer = make("plain", n_envs, beta=beta, prioritized=prioritized, uniform_fraction=uniform_fraction, **arguments)
    reference = Reference(n_envs, f, uniform_fraction=uniform_fraction)
    add(buffer, reference, steps=30)
    if prioritized:
        set_some_priorities(buffer, reference, seed=5)
    np.random.seed(0)
    batch = buffer.sample(64)
    p = reference.probabilities()
    weights = np.array([(len(p) * p[index]) ** -beta for index in batch.indices.tolist()])
    assert batch.weights.dtype == th.float32
    assert batch.weights.shape == (64, 1)
    assert np.allclose(batch.weights.numpy().ravel(), weights / weights.max(), rtol=1e-5)
    buffer.beta = 0
    assert bool((buffer.sample(64).weights == 1).all())
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], got 2"):
        buffer.beta = 2


def test_new_transitions_enter_at_the_largest_priority_so_far():
    buffer = make(prioritized=True, half_life=math.inf)
    add(buffer, steps=3, start=0)
    assert np.allclose(buffer.sampling_probabilities()[:3, 0], 1 / 3)
    buffer.update_priorities([0, 1], [0.5, 4.0])
    buffer.update_priorities(np.array([1]), th.tensor([0.5]))
    add(buffer, steps=1, start=3)
    assert np.allclose(buffer.sampling_probabilities()[:4, 0], np.array([0.5, 0.5, 1, 4]) / 6)


def test_of_an_index_named_twice_the_last_priority_counts():
    buffer = make(prioritized=True, half_life=math.inf)
    add(buffer, steps=2, start=0)
    buffer.update_priorities([0, 1, 0], [9.0, 1.0, 3.0])
    assert np.allclose(buffer.sampling_probabilities()[:2, 0], [0.75, 0.25])
    np.random.seed(0)
    assert_drawn_from(buffer.sample(4_000).indices, {0: 0.75, 1: 0.25})


@pytest.mark.parametrize("decay", ["power_law", {"linear": {"horizon": 1e4}}], ids=["by age first", "by weight first"])
def test_draws_stay_exact_by_rejection_when_priorities_rise(decay):
    buffer = make(n_rows=400, decay=decay, prioritized=True)
    add(buffer, steps=400, start=0)
    buffer.update_priorities(np.arange(0, 400, 2), np.full(200, 9.0))
    np.random.seed(0)
    expected = dict(enumerate(buffer.sampling_probabilities().ravel().tolist()))
    assert_drawn_from(buffer.sample(40_000).indices, expected)
    assert len(buffer.sample(3).indices) == 3


@pytest.mark.parametrize("prioritized", [False, True])
def test_vec_normalize_is_applied_as_by_sb3(prioritized):
    normalize = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    normalize.obs_rms.mean, normalize.obs_rms.var = np.full(4, 2.0), np.full(4, 9.0)
    normalize.ret_rms.var = np.array(4.0)
    space = spaces.Box(-np.inf, np.inf, (4,))
    buffer = DecayedReplayBuffer(10, space, spaces.Discrete(2), device="cpu", prioritized=prioritized)
    for step in range(10):
        obs = np.full((1, 4), 2.0 + step)
        buffer.add(obs, obs + 1, np.zeros(1), np.array([step]), np.zeros(1), [{}])
    batch = buffer.sample(50, env=normalize)
    steps = batch.indices.reshape(-1, 1)
    assert np.allclose(batch.observations.numpy(), np.repeat(steps / 3, 4, axis=1), atol=1e-4)
    assert np.allclose(batch.next_observations.numpy(), np.repeat((steps + 1) / 3, 4, axis=1), atol=1e-4)
    assert np.allclose(batch.rewards.numpy(), np.clip(steps / 2, -10, 10), atol=1e-4)
    assert batch.rewards.dtype == th.float32


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
def test_diagnostics_are_those_of_the_distribution(decay, prioritized, n_envs):
    arguments, f = DECAYS[decay]
    for uniform_fraction in (0, 0.3):
        buffer = make("plain", n_envs, prioritized=prioritized, uniform_fraction=uniform_fraction, **arguments)
        reference = Reference(n_envs, f, uniform_fraction=uniform_fraction)
        add(buffer, reference, steps=50)
        if prioritized:
            set_some_priorities(buffer, reference, seed=3)
        buffer.sample(75 * n_envs)
        p = np.array([value for value in reference.probabilities().values() if value > 0])
        ages = {step % N_ROWS * n_envs + env: n_envs * (49 - step) for row in reference.rows for step, env, *_ in row}
        found = buffer.diagnostics()
        expected_age = sum(value * ages[index] for index, value in reference.probabilities().items())
        assert found.expected_age == pytest.approx(expected_age, rel=1e-10)
        assert found.entropy == pytest.approx(float(-(p * np.log(p)).sum()), rel=1e-10, abs=1e-12)
        assert found.effective_sample_size == pytest.approx(1 / float((p**2).sum()), rel=1e-10)
        assert (found.newest_age, found.oldest_age) == (0, n_envs * (N_ROWS - 1))
        assert found.replay_volume == pytest.approx(1.5)
        assert np.array_equal(buffer.ages().ravel(), [ages[index] for index in range(N_ROWS * n_envs)])
        assert np.array_equal(buffer.ages_of(np.arange(N_ROWS * n_envs)), buffer.ages().ravel())


def test_diagnostics_follow_a_buffer_that_grows_and_changes():
    buffer = make("plain", n_rows=1_000, decay={"linear": {"horizon": 1e12}})
    for steps in (100, 200, 300):
        add(buffer, steps=100, start=0)
        assert buffer.diagnostics().expected_age == pytest.approx((steps - 1) / 2)

    buffer = make("plain", n_rows=1_000, prioritized=True, half_life=math.inf)
    add(buffer, steps=100, start=0)
    assert buffer.diagnostics().expected_age == pytest.approx(49.5)
    add(buffer, steps=100, start=100)
    assert buffer.diagnostics().expected_age == pytest.approx(99.5)
    buffer.update_priorities(np.arange(100), np.full(100, 1e-9))
    assert buffer.diagnostics().expected_age == pytest.approx(49.5)
    buffer.half_life = 1e-3
    assert buffer.diagnostics().expected_age == pytest.approx(0)


@pytest.mark.parametrize("prioritized", [False, True])
def test_reset_forgets_everything(prioritized):
    buffer = make(prioritized=prioritized, initial_weights="info")
    add(buffer, steps=30, start=0)
    if prioritized:
        buffer.update_priorities([2], [50.0])
    buffer.sample(5)
    buffer.reset()
    reference = Reference(1, lambda age, n, k: (1 + age / 100) ** -1.5, WEIGHTS["info"])
    add(buffer, reference, steps=4)
    assert np.allclose(buffer.sampling_probabilities(), as_array(reference.probabilities(), buffer))
    assert set(buffer.sample(200).indices.tolist()) == {0, 1, 2, 3}
    assert buffer.diagnostics().replay_volume == 50


BAD_ARGUMENTS = [
    (dict(decay="exponentail"), ValueError, r"unknown decay 'exponentail'; did you mean 'exponential'.*window, ere"),
    (dict(decay={"linear": {}, "window": {}}), ValueError, "decay must name one decay"),
    (dict(decay={"linear": {"horizn": 5}}), ValueError, "decay 'linear' takes horizon, floor, got {'horizn': 5}"),
    (dict(decay="linear"), ValueError, "decay 'linear' takes horizon, floor, got {}"),
    (dict(decay={"linear": 5}), ValueError, "decay 'linear' takes horizon, floor, got 5"),
    (dict(decay={"linear": {"horizon": 0}}), ValueError, "horizon must be > 0 and finite .transitions., got 0"),
    (dict(decay={"linear": {"horizon": "8e4"}}), TypeError, "horizon must be a number .* got '8e4' .str."),
    (dict(decay={"linear": {"horizon": 5, "floor": 1.5}}), ValueError, r"floor must be in \[0, 1\], got 1.5"),
    (dict(decay={"power_law": {"scale": -1}}), ValueError, "scale must be > 0 and finite"),
    (dict(decay={"power_law": {"exponent": math.inf}}), ValueError, "exponent must be > 0 and finite"),
    (dict(decay={"window": {"size": 0.5}}), ValueError, "size must be >= 1 .transitions., got 0.5"),
    (dict(decay={"window": {"size": math.nan}}), ValueError, "size must be >= 1"),
    (dict(decay={"ere": {"eta": 0}}), ValueError, r"eta must be in \(0, 1\], got 0"),
    (dict(decay={"ere": {"minimum": 0}}), ValueError, "minimum must be >= 1"),
    (dict(decay={"ere": {"cycle": 2.5}}), ValueError, "cycle must be a whole number >= 1, got 2.5"),
    (dict(decay=3), TypeError, "a decay must be a function of an array of ages, got 3; see the known decays"),
    (dict(half_life=300, decay="power_law"), ValueError, "half_life=300 is an exponential decay and decay='power_law'"),
    (dict(half_life=math.inf, decay={"window": {"size": 9}}), ValueError, "give one of them, and leave the other at"),
    (dict(decay=lambda age: age + 1), ValueError, "decay rises from 1 at age 0 to 2 at age 1"),
    (dict(decay=lambda age: 1 - age / 10), ValueError, r"decay gave -0.1 at age 11"),
    (dict(decay=lambda age: np.where(age > 4, np.nan, 1)), ValueError, "decay gave nan at age 5"),
    (dict(decay=lambda age: 0 * age), ValueError, "decay gave 0 at age 0"),
    (dict(decay=lambda age: 1.0), ValueError, r"decay gave shape \(\) for ages of shape \(24,\)"),
    (dict(initial_weights="prior"), ValueError, "unknown initial_weights 'prior'; known: 'uniform', 'random'"),
    (dict(initial_weights={"random": {"sede": 1}}), ValueError, "'random' takes seed, got {'sede': 1}"),
    (dict(initial_weights={"random": {"seed": -1}}), ValueError, "seed of .* must be a whole number >= 0, got -1"),
    (dict(initial_weights={"random": {"seed": "a"}}), ValueError, "seed of .* must be a whole number >= 0, got 'a'"),
    (dict(initial_weights=np.ones(3)), ValueError, "unknown initial_weights"),
    (dict(initial_weights=None), ValueError, "unknown initial_weights None"),
    (dict(beta=1.1), ValueError, r"beta must be in \[0, 1\], got 1.1"),
    (dict(beta="1"), TypeError, "beta must be a number"),
]


@pytest.mark.parametrize(
    ("arguments", "error", "message"), BAD_ARGUMENTS, ids=lambda value: re.sub(" at 0x.*", "", str(value))[:40]
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, 1e-60, 1e60, "heavy", None])
def test_bad_initial_weights_are_refused_and_nothing_is_stored(bad):
    buffer = make(n_envs=2, initial_weights="info")
    row = [np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(2), np.zeros(2), np.zeros(2)]
    buffer.add(*row, [{}, {}])
    before = buffer.sampling_probabilities()
    with pytest.raises(ValueError, match="initial weights must be"):
        buffer.add(*row, [{}, {"replay_weight": bad}])
    assert buffer.size() == 1
    assert np.array_equal(buffer.sampling_probabilities(), before)
    with pytest.raises(ValueError, match="initial weights must be one for each of 2 transitions, got 3 of them"):
        make(n_envs=2, initial_weights=lambda *row: [1, 2, 3]).add(*row, [{}, {}])


@pytest.mark.parametrize(
    ("indices", "priorities", "message"),
    [
        ([0, 1], [1.0, 0.0], "priorities must be > 0 and finite .between 1e-50 and 1e.50.*, got 0.0; add a small"),
        ([0, 1], [1.0, -2.0], "got -2.0"),
        ([0, 1], [math.nan, 1.0], "got nan"),
        ([0, 1], [1.0, math.inf], "got inf"),
        ([0, 1], [1.0, 2.0, 3.0], "priorities must be one for each of 2 transitions, got 3 of them"),
        ([0, 1], ["a", "b"], "priorities must be 2 numbers > 0"),
        ([0, 22], [1.0, 2.0], "indices must be those of stored transitions, 0 to 21, got 22"),
        ([-1, 0], [1.0, 2.0], "0 to 21, got -1"),
        ([0.0, 1.0], [1.0, 2.0], "indices must be whole numbers, got float64; take batch.indices"),
    ],
)
def test_bad_priorities_are_refused_and_change_nothing(indices, priorities, message):
    buffer = make(n_envs=2, prioritized=True)
    add(buffer, steps=11, start=0)
    buffer.update_priorities([3], [7.0])
    before = buffer.sampling_probabilities()
    with pytest.raises(ValueError, match=message):
        buffer.update_priorities(indices, priorities)
    assert np.array_equal(buffer.sampling_probabilities(), before)
    add(buffer, steps=1, start=11)
    assert buffer.distribution._weighted.p[11, 0] == 7.0


def test_priorities_of_a_buffer_without_them_are_refused():
    buffer = make()
    add(buffer, steps=2, start=0)
    with pytest.raises(RuntimeError, match="has no priorities: make it with prioritized=True"):
        buffer.update_priorities([0], [1.0])


@pytest.mark.parametrize(
    ("text", "decay"),
    [
        ("decay: {linear: {horizon: 80000, floor: 0.1}}", Linear(80_000, 0.1)),
        ("decay: ere", EmphasizingRecent()),
        ("decay: {ere: }", EmphasizingRecent()),
        ("decay: {power_law: {scale: 100}}", PowerLaw(100)),
        ("decay: {window: {size: !!float 5e3}}", Window(5_000)),
        ("decay: {exponential: {half_life: .inf}}", Exponential(math.inf)),
        ("half_life: 300", Exponential(300)),
    ],
)
def test_yaml_can_spell_every_decay(text, decay):
    assert make(**yaml.safe_load(text)).decay == decay


def test_half_life_belongs_to_the_exponential_decay():
    buffer = make(decay={"window": {"size": 5}})
    with pytest.raises(AttributeError, match="only an exponential decay has a half_life, this buffer's is Window"):
        buffer.half_life = 5
    assert make(decay={"exponential": {"half_life": 5}}).half_life == 5


class Driven(RuleBasedStateMachine):
    """Adds, draws, updates, changes, saves and loads in any order, next to the reference."""

    @initialize(
        n_envs=st.integers(1, 4),
        kind=st.sampled_from(["plain", "memory-optimised", "n-step"]),
        decay=st.sampled_from([name for name in DECAYS if name != "function"]),  # a lambda cannot be pickled
        weights=st.sampled_from(["uniform", "info"]),
        prioritized=st.booleans(),
        uniform_fraction=st.sampled_from([0, 0.25]),
    )
    def start(self, n_envs, kind, decay, weights, prioritized, uniform_fraction):
        arguments, f = DECAYS[decay]
        self.kind, self.prioritized = kind, prioritized
        self.exponential = "half_life" in arguments
        options = dict(initial_weights=weights, prioritized=prioritized, uniform_fraction=uniform_fraction)
        self.buffer = make(kind, n_envs, n_rows=7, **options, **arguments)
        self.reference = Reference(n_envs, f, WEIGHTS[weights], uniform_fraction, 7, kind == "memory-optimised")

    @rule(steps=st.integers(1, 20))
    def add_rows(self, steps):
        add(self.buffer, self.reference, steps)

    @precondition(lambda self: self.reference.drawable())
    @rule(size=st.integers(1, 50))
    def draw(self, size):
        batch = self.buffer.sample(size)
        possible = self.reference.probabilities()
        assert all(possible[index] > 0 for index in batch.indices.tolist())
        assert_fields_belong_to_indices(batch, self.reference, self.kind)

    @precondition(lambda self: self.prioritized and self.reference.drawable())
    @rule(seed=st.integers(0, 1_000))
    def update(self, seed):
        set_some_priorities(self.buffer, self.reference, seed)

    @precondition(lambda self: self.exponential)
    @rule(half_life=st.sampled_from([0.01, 1, 5, 1e6, math.inf]))
    def change_half_life(self, half_life):
        self.buffer.half_life = half_life
        self.reference.decay = lambda age, n, k: 0.5 ** (age / half_life)

    @rule()
    def save_and_load(self):
        self.buffer = pickle.loads(pickle.dumps(self.buffer))

    @precondition(lambda self: self.reference.drawable())
    @invariant()
    def probabilities_are_those_of_the_reference(self):
        expected = as_array(self.reference.probabilities(), self.buffer)
        assert np.allclose(self.buffer.sampling_probabilities(), expected, rtol=1e-9, atol=1e-300)
        weighted = self.buffer.distribution._weighted
        if weighted is not None and weighted.in_tree:
            # What is drawn from is the tree, and that agrees with them too
            self.buffer.sample(1)
            epsilon = self.reference.epsilon
            n = len(self.reference.drawable()) * self.reference.n_envs
            implied = (1 - epsilon) * weighted.tree.values / weighted.tree.total + epsilon / n
            implied[expected.ravel() == 0] = 0
            assert np.allclose(implied, expected.ravel(), rtol=1e-9, atol=1e-300)


TestDriven = Driven.TestCase
TestDriven.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("prioritized", [False, True])
def test_the_default_decay_becomes_exponential_when_a_half_life_is_set(prioritized):
    buffer = make(prioritized=prioritized)
    reference = Reference(1, lambda age, n, k: (1 + age / 100) ** -1.5, WEIGHTS["uniform"])
    add(buffer, reference, steps=25)
    assert np.allclose(buffer.sampling_probabilities(), as_array(reference.probabilities(), buffer))
    with pytest.raises(AttributeError, match="only an exponential decay has a half_life"):
        buffer.half_life  # noqa: B018
    buffer.half_life = 7
    expected = make(prioritized=prioritized, half_life=7)
    add(expected, steps=25, start=0)
    assert np.allclose(buffer.sampling_probabilities(), expected.sampling_probabilities())
    assert buffer.half_life == 7


def test_random_initial_weights_follow_the_global_seed_and_leave_its_draws_alone():
    weights = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        buffer = make(initial_weights="random")
        assert np.random.random_sample() == np.random.RandomState(seed).random_sample()
        add(buffer, steps=5, start=0)
        weights.append(buffer.sampling_probabilities())
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("before", [10, N_ROWS, 3 * N_ROWS + 5])
def test_late_priorities_do_not_reach_transitions_that_took_the_place_of_those_drawn(before, n_envs):
    buffer = make(n_envs=n_envs, half_life=math.inf, prioritized=True)
    add(buffer, start=0, steps=before)
    stored = min(before, N_ROWS) * n_envs
    drawn_at, indices = buffer.n_added, np.arange(stored)
    assert drawn_at == before * n_envs
    overwritten = 0
    for steps in (2, 5, N_ROWS):
        add(buffer, start=before, steps=steps)
        before += steps
        present = buffer.transitions(np.arange(buffer.size() * n_envs)).rewards.flatten().numpy()
        buffer.update_priorities(indices, np.full(stored, 7.0), drawn_at)
        overwritten += int((present[:stored] >= 10 * (drawn_at // n_envs)).sum())
        assert buffer.n_outdated == overwritten
        p = buffer.sampling_probabilities().reshape(-1)
        # Until all are gone: the others have the largest priority so far when they are new, which was 1
        if steps == 2:
            old = present < 10 * (drawn_at // n_envs)
            ratio = p[: len(present)] / p.max()
            assert np.allclose(ratio[old], 1)
            assert np.allclose(ratio[~old], 1 / 7)
    assert (p > 0).all()


def test_priorities_from_before_a_reset_are_late():
    buffer = make(prioritized=True)
    add(buffer, start=0, steps=10)
    drawn_at = buffer.n_added
    buffer.reset()
    add(buffer, start=0, steps=5)
    buffer.update_priorities([0, 1], [9, 9], drawn_at)
    assert buffer.n_outdated == 2
