"""What the decayed buffers draw, against the distribution they claim and against SB3's own buffers."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_reptile import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from tests.conftest import N_ROWS, NO_TIMEOUTS, assert_drawn_from, fill, identifier, make_buffer

FILLS = {"one row": 1, "partly filled": 17, "just full": N_ROWS, "wrapped": 7 * N_ROWS + 13}


def expected_frequencies(n_steps, n_rows, n_envs, half_life, uniform_fraction, memory_optimised):
    """Naive reference: the probability of every transition that may be drawn, by its identifier, one by one."""
    oldest = max(0, n_steps - n_rows)
    if memory_optimised and n_steps >= n_rows:
        oldest += 1  # its observation has been overwritten
    steps = range(oldest, n_steps)
    weight = {step: 0.5 ** (n_envs * (n_steps - 1 - step) / half_life) for step in steps}
    total = sum(weight.values())
    return {
        identifier(step, env): ((1 - uniform_fraction) * weight[step] / total + uniform_fraction / len(steps)) / n_envs
        for step in steps
        for env in range(n_envs)
    }


@pytest.mark.parametrize("half_life", [1, 7.5, 1000, 1e12])
@pytest.mark.parametrize("uniform_fraction", [0, 0.2])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 5])
@pytest.mark.parametrize("n_steps", FILLS.values(), ids=FILLS.keys())
def test_frequencies_follow_the_truncated_geometric_law(
    n_steps, n_envs, optimize_memory_usage, uniform_fraction, half_life
):
    buffer = make_buffer(
        DecayedReplayBuffer,
        n_envs=n_envs,
        optimize_memory_usage=optimize_memory_usage,
        half_life=half_life,
        uniform_fraction=uniform_fraction,
        **NO_TIMEOUTS,
    )
    fill(buffer, n_steps)
    np.random.seed(0)
    batch = buffer.sample(40_000)
    expected = expected_frequencies(n_steps, N_ROWS, n_envs, half_life, uniform_fraction, optimize_memory_usage)
    assert_drawn_from(batch.rewards.numpy().ravel(), expected)

    # All fields come from the row and the environment that the reward identifies
    step, env = batch.rewards.numpy().ravel() // 10, batch.rewards.numpy().ravel() % 10
    assert np.array_equal(batch.observations.numpy(), np.stack([step, env], axis=1))
    assert np.array_equal(batch.next_observations.numpy(), np.stack([step + 1, env], axis=1))
    assert np.array_equal(batch.actions.numpy().ravel(), (step + env) % 3)


@pytest.mark.parametrize("half_life", [1, 1000])
def test_a_long_buffer_draws_by_the_half_life_and_never_past_its_end(half_life):
    buffer = make_buffer(DecayedReplayBuffer, n_rows=20_000, half_life=half_life)
    fill(buffer, 30_000)
    np.random.seed(1)
    ages = 29_999 - buffer.sample(100_000).rewards.numpy().ravel() // 10
    assert ages.min() == 0
    assert ages.max() < 20_000
    # Half of all draws are younger than the half-life
    young = np.mean(ages < half_life)
    assert young == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("half_life", [5, 1e9])
def test_dict_and_n_step_buffers_draw_the_same_transitions_as_the_plain_one(half_life, n_envs):
    dict_space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,))})
    plain = make_buffer(DecayedReplayBuffer, n_envs, half_life=half_life)
    by_key = make_buffer(DecayedDictReplayBuffer, n_envs, space=dict_space, half_life=half_life)
    n_step = make_buffer(DecayedNStepReplayBuffer, n_envs, half_life=half_life, n_steps=3, gamma=0.9)
    batches = []
    for buffer in (plain, by_key, n_step):
        fill(buffer, 95)
        np.random.seed(2)
        batches.append(buffer.sample(64))
    observations = batches[0].observations.numpy()
    assert np.array_equal(batches[1].observations["x"].numpy(), observations)
    assert np.array_equal(batches[2].observations.numpy(), observations)
    # Three steps ahead, or as far as there is one: no episode ends here
    assert np.array_equal(batches[2].next_observations[:, 0].numpy(), np.minimum(observations[:, 0] + 3, 95))


@pytest.mark.parametrize("uniform_fraction", [0, 0.5])
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_steps", [10, 3 * N_ROWS])
def test_infinite_half_life_draws_what_sb3_draws(n_steps, optimize_memory_usage, n_envs, uniform_fraction):
    batches = []
    for buffer_class, kwargs in [
        (ReplayBuffer, {}),
        (DecayedReplayBuffer, dict(half_life=float("inf"), uniform_fraction=uniform_fraction)),
    ]:
        buffer = make_buffer(buffer_class, n_envs, optimize_memory_usage=optimize_memory_usage, **NO_TIMEOUTS, **kwargs)
        fill(buffer, n_steps)
        np.random.seed(3)
        batches.append([buffer.sample(32) for _ in range(3)])
    for theirs, ours in zip(*batches, strict=True):
        assert all(a is b is None or bool((a == b).all()) for a, b in zip(ours[:6], theirs, strict=True))


def test_infinite_half_life_draws_what_sb3_draws_for_dict_and_n_step():
    dict_space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,))})
    for ours, theirs, kwargs in [
        (DecayedDictReplayBuffer, DictReplayBuffer, dict(space=dict_space)),
        (DecayedNStepReplayBuffer, NStepReplayBuffer, dict(n_steps=3, gamma=0.9)),
    ]:
        rewards = []
        for buffer_class, decay in [(ours, dict(half_life=float("inf"))), (theirs, {})]:
            buffer = make_buffer(buffer_class, n_envs=2, **kwargs, **decay)
            fill(buffer, 60)
            np.random.seed(4)
            rewards.append(buffer.sample(32).rewards.numpy())
        assert np.array_equal(*rewards)


@pytest.mark.parametrize("n_envs", [1, 5])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("uniform_fraction", [0, 0.3, 1])
@pytest.mark.parametrize("half_life", [0.01, 1, 30, 1e5, 1e12, float("inf")])
@pytest.mark.parametrize("n_steps", FILLS.values(), ids=FILLS.keys())
def test_diagnostics_are_those_of_the_distribution(n_steps, half_life, uniform_fraction, optimize_memory_usage, n_envs):
    buffer = make_buffer(
        DecayedReplayBuffer,
        n_envs,
        optimize_memory_usage=optimize_memory_usage,
        half_life=half_life,
        uniform_fraction=uniform_fraction,
        **NO_TIMEOUTS,
    )
    fill(buffer, n_steps)
    expected = expected_frequencies(n_steps, N_ROWS, n_envs, half_life, uniform_fraction, optimize_memory_usage)
    probabilities = np.array(list(expected.values()))
    ages = n_envs * (n_steps - 1 - np.array(list(expected)) // 10)
    assert buffer.diagnostics().expected_age == pytest.approx(float(ages @ probabilities), rel=1e-12, abs=1e-12)
    assert buffer.diagnostics().effective_sample_size == pytest.approx(1 / float((probabilities**2).sum()), rel=1e-12)


def test_half_life_counts_transitions_of_all_environments():
    buffer = make_buffer(DecayedReplayBuffer, n_envs=4, n_rows=1_000, half_life=40)
    fill(buffer, 1_000)
    np.random.seed(5)
    rows = 999 - buffer.sample(50_000).rewards.numpy().ravel() // 10
    # 10 rows of 4 transitions
    assert np.mean(rows < 10) == pytest.approx(0.5, abs=0.01)


def test_half_life_can_be_changed_and_a_bad_one_changes_nothing():
    buffer = make_buffer(DecayedReplayBuffer, n_envs=2, half_life=1, uniform_fraction=0.25)
    fill(buffer, N_ROWS)
    buffer.half_life = 1e12
    assert buffer.half_life == 1e12
    assert buffer.uniform_fraction == 0.25
    assert buffer.diagnostics().expected_age == pytest.approx(2 * (N_ROWS - 1) / 2)
    with pytest.raises(ValueError, match="half_life must be > 0"):
        buffer.half_life = 0
    assert buffer.half_life == 1e12
    assert buffer.diagnostics().expected_age == pytest.approx(2 * (N_ROWS - 1) / 2)


def test_a_pickled_buffer_keeps_ages_and_half_life():
    buffer = make_buffer(DecayedReplayBuffer, half_life=3)
    fill(buffer, 100)
    loaded = pickle.loads(pickle.dumps(buffer))
    fill(buffer, 5, start=100)
    fill(loaded, 5, start=100)
    assert loaded.half_life == 3
    batches = []
    for which in (buffer, loaded):
        np.random.seed(6)
        batches.append(which.sample(100).rewards.numpy())
    assert np.array_equal(*batches)
    assert batches[0].max() == identifier(104, 0)


@pytest.mark.parametrize("buffer_class", [DecayedReplayBuffer, DecayedNStepReplayBuffer])
@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(half_life=0), ValueError, "half_life must be > 0 or inf .transitions., got 0"),
        (dict(half_life=-5), ValueError, "half_life must be > 0 or inf .transitions., got -5"),
        (dict(half_life=float("nan")), ValueError, "half_life must be > 0 or inf .transitions., got nan"),
        (dict(half_life="1e3"), TypeError, "half_life must be a number > 0 or inf .*, 'auto' or None, got '1e3' .str."),
        (dict(half_life=True), TypeError, "half_life must be a number"),
        (dict(uniform_fraction=-0.1), ValueError, r"uniform_fraction must be in \[0, 1\], got -0.1"),
        (dict(uniform_fraction=1.5), ValueError, r"uniform_fraction must be in \[0, 1\], got 1.5"),
        (dict(uniform_fraction=float("nan")), ValueError, r"uniform_fraction must be in \[0, 1\], got nan"),
        (dict(uniform_fraction="0.1"), TypeError, r"uniform_fraction must be a number in \[0, 1\], got '0.1'"),
    ],
)
def test_bad_arguments_are_refused(buffer_class, kwargs, error, message):
    with pytest.raises(error, match=message):
        make_buffer(buffer_class, **kwargs)


def test_dict_observations_are_refused_with_the_class_to_use():
    with pytest.raises(ValueError, match=r"Dict observations, got Dict.*use DecayedDictReplayBuffer"):
        make_buffer(DecayedReplayBuffer, space=spaces.Dict({"x": spaces.Box(-1, 1, (2,))}))


@pytest.mark.parametrize("half_life", [10, float("inf")])
def test_an_empty_buffer_is_refused(half_life):
    buffer = make_buffer(DecayedReplayBuffer, half_life=half_life)
    for ask in (lambda: buffer.sample(4), buffer.diagnostics, buffer.sampling_probabilities):
        with pytest.raises(ValueError, match=r"holds 0 transitions.*add some before sampling"):
            ask()
    fill(buffer, 3)
    buffer.sample(4)
    buffer.reset()
    with pytest.raises(ValueError, match="holds 0 transitions"):
        buffer.sample(4)


def test_a_memory_optimised_buffer_of_one_row_has_none_to_draw():
    buffer = make_buffer(DecayedReplayBuffer, n_rows=1, optimize_memory_usage=True, **NO_TIMEOUTS)
    fill(buffer, 3)
    with pytest.raises(ValueError, match="raise buffer_size"):
        buffer.sample(4)


class Counting(ReplayBuffer):
    calls = 0

    def add(self, *args):
        self.calls += 1
        super().add(*args)


class DecayedCounting(DecayedReplayBuffer, Counting):
    pass


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2, 3)), spaces.Discrete(5), spaces.MultiBinary(3)], ids=repr)
@pytest.mark.parametrize("kind", ["plain", "memory-optimised", "n-step", "with its own add()"])
def test_rows_are_stored_as_by_sb3(kind, space, n_envs):
    ours, theirs, options = {
        "plain": (DecayedReplayBuffer, ReplayBuffer, {}),
        "memory-optimised": (DecayedReplayBuffer, ReplayBuffer, dict(optimize_memory_usage=True, **NO_TIMEOUTS)),
        "n-step": (DecayedNStepReplayBuffer, NStepReplayBuffer, {}),
        "with its own add()": (DecayedCounting, ReplayBuffer, {}),
    }[kind]
    actions = spaces.MultiDiscrete([3, 4])
    buffers = [c(7 * n_envs, space, actions, device="cpu", n_envs=n_envs, **options) for c in (ours, theirs)]
    random = np.random.default_rng(0)
    space.seed(0)
    next_obs = np.stack([space.sample() for _ in range(n_envs)])
    for _ in range(17):
        # Each row continues the row before: episodes would be ended otherwise
        obs, next_obs = next_obs, np.stack([space.sample() for _ in range(n_envs)])
        action, reward, done = random.integers(3, size=(n_envs, 2)), random.random(n_envs), random.random(n_envs) < 0.3
        infos = [{"TimeLimit.truncated": True} if random.random() < 0.5 else {} for _ in range(n_envs)]
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, infos)
        for name, stored in vars(buffers[1]).items():
            if isinstance(stored, (np.ndarray, int)):
                assert np.array_equal(stored, getattr(buffers[0], name)), name
    assert getattr(buffers[0], "calls", 17) == 17


def test_an_info_of_the_environment_that_is_called_lost_leaves_nothing_out():
    buffer = make_buffer(DecayedReplayBuffer)
    obs = np.zeros((1, 2))
    buffer.add(obs, obs, np.zeros(1), np.zeros(1), np.ones(1), [{"lost": True}])  # a game that was lost
    assert buffer.size() == 1
