"""The off-policy algorithms of SB3 and sb3-contrib with the decayed buffers, and storage of another package."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from sb3_extra_buffers.compressed import CompressedReplayBuffer
from scipy import stats
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay import DecayedSampling
from tests.conftest import assert_trained, parameters

INF = float("inf")
DISCRETE = {"DQN": DQN, "QRDQN": QRDQN}
CONTINUOUS = {"SAC": SAC, "TD3": TD3, "DDPG": DDPG, "TQC": TQC, "CrossQ": CrossQ}
ALGORITHMS = DISCRETE | CONTINUOUS


class WeightInInfo(gym.Wrapper):
    """Says that every third transition counts five times as much."""

    n_steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.n_steps += 1
        return obs, reward, terminated, truncated, info | {"replay_weight": 5.0 if self.n_steps % 3 == 0 else 1.0}


def weigh_by_action(obs, next_obs, action, reward, done, infos):
    return 1 + np.abs(action).reshape(len(infos), -1).sum(axis=1)


def inverse_square_root(age):
    return 1 / np.sqrt(1 + age / 10)


OPTIONS = {
    "default": dict(),
    "exponential": dict(half_life=40),
    "linear": dict(decay={"linear": {"horizon": 150, "floor": 0.1}}),
    "ere": dict(decay="ere"),
    "fast ere": dict(decay={"ere": {"eta": 0.997, "minimum": 24, "cycle": 10}}),
    "window": dict(decay={"window": {"size": 64}}),
    "power law": dict(decay={"power_law": {"scale": 20}}),
    "function": dict(decay=inverse_square_root),
    "combined": dict(half_life=60, combined=True),
    "random weights": dict(half_life=60, initial_weights={"random": {"seed": 0}}),
    "weights in info": dict(half_life=60, initial_weights="info"),
    "weights by function": dict(initial_weights=weigh_by_action, decay={"window": {"size": 96}}),
    "prioritized": dict(half_life=60, prioritized=True, beta=0.5),
    "prioritized power law": dict(decay={"power_law": {}}, prioritized=True, initial_weights="random"),
    "uniform fraction": dict(half_life=10, uniform_fraction=0.3),
    "mostly uniform": dict(half_life=10, uniform_fraction=0.7),
    "mostly uniform with weights": dict(half_life=10, uniform_fraction=0.7, prioritized=True),
}
PAIRS = [
    *[("DQN", option) for option in OPTIONS],
    *[("QRDQN", option) for option in ("default", "linear", "combined", "prioritized")],
    *[("SAC", option) for option in ("exponential", "fast ere", "weights by function", "prioritized")],
    *[("TD3", option) for option in ("window", "weights in info", "uniform fraction")],
    *[("DDPG", option) for option in ("power law", "random weights")],
    *[("TQC", option) for option in ("function", "prioritized power law")],
    *[("CrossQ", option) for option in ("ere", "combined")],
]


def make_env(name, n_envs=1, normalize=False, wrapper=None):
    task = "CartPole-v1" if name in DISCRETE else "Pendulum-v1"
    env = make_vec_env(task, n_envs=n_envs, seed=0, wrapper_class=wrapper)
    return VecNormalize(env) if normalize else env


def make_model(name, env=None, run=240, policy="MlpPolicy", buffer_class=DecayedReplayBuffer, **options):
    """A tiny model whose buffer wraps within a run of that many steps."""
    return ALGORITHMS[name](
        policy,
        make_env(name) if env is None else env,
        learning_starts=run // 4,
        buffer_size=run * 2 // 3,
        batch_size=16,
        train_freq=4,
        gradient_steps=2,
        policy_kwargs=dict(net_arch=[16]) | (dict(n_quantiles=10) if name in ("QRDQN", "TQC") else {}),
        replay_buffer_class=buffer_class,
        replay_buffer_kwargs=options,
        seed=0,
        device="cpu",
    )


def assert_same_parameters(ours, theirs):
    ours, theirs = parameters(ours), parameters(theirs)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert th.equal(ours[key], value), key


def stored(array, indices):
    return array.reshape(-1, *array.shape[2:])[indices]


def assert_batch_matches_its_indices(buffer, batch):
    n = len(batch.indices)
    assert batch.indices.dtype == np.int64
    assert (batch.indices >= 0).all()
    assert (batch.indices < buffer.size() * buffer.n_envs).all()
    assert batch.weights.shape == (n, 1)
    assert bool((batch.weights > 0).all())
    assert float(batch.weights.max()) == 1
    assert np.array_equal(batch.observations.numpy(), stored(buffer.observations, batch.indices))
    assert np.array_equal(batch.actions.numpy(), stored(buffer.actions, batch.indices))


class Watch:
    """
    Compares what an algorithm draws while it trains with the probabilities that its buffer reports, by the mean age and
    the mean probability of the draws. It changes priorities if there are any.
    """

    def __init__(self, buffer):
        self.buffer = buffer
        self.n_batches = 0
        self.ages = []
        self.sizes = []
        self.excess = np.zeros(2)
        self.variance = np.zeros(2)
        self.draw = buffer.sample
        buffer.sample = self.sample

    def sample(self, batch_size, env=None):
        p = self.buffer.sampling_probabilities().reshape(-1)
        assert p.sum() == pytest.approx(1)
        ages = self.buffer.ages().reshape(-1)
        batch = self.draw(batch_size, env=env)
        self.n_batches += 1
        self.ages.append(ages[batch.indices])
        self.sizes.append(self.buffer.size() * self.buffer.n_envs)
        drawn = batch.indices[1:] if self.buffer.combined else batch.indices
        assert (p[drawn] > 0).all()
        features = np.stack([ages, p])
        mean = features @ p
        self.excess += (features[:, drawn] - mean[:, None]).sum(axis=1)
        self.variance += len(drawn) * ((features - mean[:, None]) ** 2 @ p)
        if self.buffer.prioritized:
            self.buffer.update_priorities(batch.indices, 0.1 + batch.indices % 7)
        return batch

    def assert_draws_match_probabilities(self):
        assert self.n_batches > 0
        # Where the variance is 0, up to rounding, so is the excess
        assert (np.abs(self.excess) <= 4.5 * np.sqrt(self.variance) + 1e-9).all()


@pytest.mark.parametrize(("name", "option"), PAIRS)
def test_every_algorithm_trains_on_what_the_buffer_says_it_draws(name, option):
    options = OPTIONS[option]
    wrapper = WeightInInfo if options.get("initial_weights") == "info" else None
    model = make_model(name, make_env(name, wrapper=wrapper), **options)
    watch = Watch(model.replay_buffer)
    before = parameters(model)
    model.learn(240)
    assert_trained(model, before)
    watch.assert_draws_match_probabilities()
    assert model.replay_buffer.diagnostics().replay_volume == watch.n_batches * 16 / 240
    ages = np.stack(watch.ages)
    if option == "window":
        assert ages.max() < 64
    if option == "fast ere":
        # The window closes in from batch to batch, and opens again after ten
        k = 1 + np.arange(watch.n_batches) % 10
        windows = np.maximum(np.array(watch.sizes) * 0.997 ** (1000 * k / 10), 24)
        assert (ages.max(axis=1) < windows).all()
        assert ages.max() > 80
    if options.get("combined"):
        assert (ages[:, 0] == 0).all()
    assert_batch_matches_its_indices(model.replay_buffer, watch.draw(16))


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("name", ["DQN", "SAC"])
@pytest.mark.parametrize("option", ["exponential", "linear", "combined", "prioritized", "weights in info"])
def test_parallel_environments_and_normalisation(option, name, n_envs):
    options = OPTIONS[option]
    wrapper = WeightInInfo if option == "weights in info" else None
    n_steps = 80 * n_envs
    model = make_model(name, make_env(name, n_envs, normalize=True, wrapper=wrapper), n_steps, **options)
    watch = Watch(model.replay_buffer)
    before = parameters(model)
    model.learn(n_steps)
    assert_trained(model, before)
    watch.assert_draws_match_probabilities()
    if option == "combined":
        # The newest row holds a transition of every environment
        assert (np.stack(watch.ages)[:, 0] == 0).all()
    buffer, env = model.replay_buffer, model.get_vec_normalize_env()
    assert buffer.n_envs == n_envs
    raw = watch.draw(32)
    assert_batch_matches_its_indices(buffer, raw)
    batch = watch.draw(32, env=env)
    expected = env.normalize_obs(stored(buffer.observations, batch.indices))
    assert np.array_equal(batch.observations.numpy(), expected)
    assert not np.array_equal(expected, stored(buffer.observations, batch.indices))
    rewards = env.normalize_reward(buffer.rewards.reshape(-1, 1)[batch.indices])
    assert np.array_equal(batch.rewards.numpy(), rewards.astype(np.float32))


def test_initial_weights_come_from_the_info_of_the_environment():
    model = make_model("DQN", make_env("DQN", 4, wrapper=WeightInInfo), half_life=INF, initial_weights="info")
    model.learn(120)
    n_rows = model.replay_buffer.size()
    assert n_rows > 30
    weights = np.repeat(np.where(np.arange(1, n_rows + 1) % 3 == 0, 5.0, 1.0)[:, None], 4, axis=1)
    reported = model.replay_buffer.sampling_probabilities()
    assert reported[:n_rows] == pytest.approx(weights / weights.sum())
    assert (reported[n_rows:] == 0).all()


def test_initial_weights_come_from_a_function_of_the_transition():
    model = make_model("SAC", make_env("SAC", 2), half_life=50, initial_weights=weigh_by_action)
    model.learn(150)
    buffer = model.replay_buffer
    weights = (1 + np.abs(buffer.actions).sum(axis=2)) * 0.5 ** (buffer.ages() / 50)
    weights[buffer.ages() < 0] = 0
    assert buffer.sampling_probabilities() == pytest.approx(weights / weights.sum(), rel=1e-5)


@pytest.mark.parametrize("name", ["DQN", "SAC"])
@pytest.mark.parametrize("option", ["exponential", "prioritized", "combined"])
def test_dict_observations(option, name):
    env = make_vec_env(SimpleMultiObsEnv, 2, env_kwargs=dict(discrete_actions=name == "DQN", num_col=2, num_row=2))
    options = dict(policy="MultiInputPolicy", buffer_class=DecayedDictReplayBuffer)
    model = make_model(name, env, 60, **options, **OPTIONS[option])
    watch = Watch(model.replay_buffer)
    before = parameters(model)
    model.learn(60)
    assert_trained(model, before)
    watch.assert_draws_match_probabilities()
    buffer, batch = model.replay_buffer, watch.draw(16)
    assert set(batch.observations) == {"vec", "img"}
    for ours, arrays in [
        (batch.observations, buffer.observations),
        (batch.next_observations, buffer.next_observations),
    ]:
        for key, value in ours.items():
            assert np.array_equal(value.numpy(), stored(arrays[key], batch.indices))
    assert batch.weights.shape == (16, 1)


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("name", ["DQN", "SAC", "TD3", "TQC", "QRDQN"])
@pytest.mark.parametrize(
    ("option", "buffer_class"),
    [
        ("exponential", DecayedNStepReplayBuffer),
        ("prioritized", DecayedReplayBuffer),
        ("window", DecayedReplayBuffer),
    ],
)
def test_n_step_returns(option, buffer_class, name, n_envs):
    options = dict(n_steps=3, gamma=0.9, **OPTIONS[option])
    model = make_model(name, make_env(name, n_envs), 100 * n_envs, buffer_class=buffer_class, **options)
    watch = Watch(model.replay_buffer)
    before = parameters(model)
    model.learn(100 * n_envs)
    assert_trained(model, before)
    watch.assert_draws_match_probabilities()
    buffer, batch = model.replay_buffer, watch.draw(400)
    assert_batch_matches_its_indices(buffer, batch)
    for index, reward, discount in zip(batch.indices, batch.rewards, batch.discounts, strict=True):
        row, env = divmod(index, n_envs)
        expected, n = 0.0, 0
        while n < 3:
            expected += 0.9**n * buffer.rewards[row, env]
            n += 1
            if buffer.dones[row, env] or row == (buffer.pos - 1) % buffer.buffer_size:
                break
            row = (row + 1) % buffer.buffer_size
        assert float(discount) == pytest.approx(0.9**n)
        assert float(reward) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_half_life_inf_trains_bit_for_bit_as_sb3(n_envs, name):
    reference = make_model(name, make_env(name, n_envs), buffer_class=None)
    ours = make_model(name, make_env(name, n_envs), half_life=INF)
    decayed = make_model(name, make_env(name, n_envs), half_life=20)
    before = parameters(ours)
    for model in (reference, ours, decayed):
        set_random_seed(0)
        model.learn(240)
    assert_trained(ours, before)
    assert_same_parameters(ours, reference)
    # The comparison can fail: with a decay the parameters end elsewhere
    assert any(not th.equal(value, parameters(reference)[key]) for key, value in parameters(decayed).items())


@pytest.mark.parametrize("name", ["DQN", "SAC"])
@pytest.mark.parametrize(
    "options",
    [
        dict(half_life=30),
        dict(half_life=30, prioritized=True, initial_weights={"random": {"seed": 0}}),
        dict(prioritized=True, decay={"linear": {"horizon": 120, "floor": 0.05}}, uniform_fraction=0.1),
        dict(decay={"ere": {"eta": 0.997, "minimum": 24, "cycle": 10}}, initial_weights=weigh_by_action),
    ],
    ids=["exponential", "weights and priorities", "priorities and linear", "ere and weights"],
)
def test_training_goes_on_from_a_saved_buffer_as_if_it_had_not_stopped(options, name, tmp_path):
    model = make_model(name, make_env(name, 2), **options)
    model.learn(200)
    buffer = model.replay_buffer
    if buffer.prioritized:
        buffer.update_priorities(np.arange(0, 150, 3), np.arange(1, 51))
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = ALGORITHMS[name].load(tmp_path / "model", env=make_env(name, 2), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer is not buffer
    assert type(loaded.replay_buffer) is DecayedReplayBuffer
    reported = buffer.sampling_probabilities()
    assert np.array_equal(loaded.replay_buffer.sampling_probabilities(), reported)
    assert len(np.unique(reported)) > 1

    before = parameters(loaded)
    probabilities = []
    for each in (model, loaded):
        each.set_random_seed(3)
        watch = Watch(each.replay_buffer)
        # The weights of the present transitions must survive, to be drawn from when the rest is overwritten
        each.learn(120)
        watch.assert_draws_match_probabilities()
        probabilities.append(each.replay_buffer.sampling_probabilities())
    assert_trained(loaded, before)
    assert np.array_equal(*probabilities)
    assert not np.array_equal(probabilities[0], reported)
    assert_same_parameters(loaded, model)


class DecayedCompressedReplayBuffer(DecayedSampling, CompressedReplayBuffer):
    pass


# Observations are bytes: no more than 255 steps
N_ROWS = 30
FILLS = {"partly filled": 19, "just full": N_ROWS, "wrapped": 4 * N_ROWS + 11}


def transition(step, env):
    """Every field of a transition identifies its origin: observation, next observation, action, reward, done."""
    obs, next_obs = (np.stack([t, env, 0 * env, 200 - t], axis=-1) for t in (step, step + 1))
    action = np.stack([step / 2, -env], axis=-1)
    return obs, next_obs, action, 10 * step + env, (step + 3 * env) % 7 == 0, (step + 3 * env) % 14 == 0


def fill(buffer, n_steps, start=0):
    envs = np.arange(buffer.n_envs)
    for step in range(start, start + n_steps):
        obs, next_obs, action, reward, done, timeout = transition(np.full_like(envs, step), envs)
        infos = [{"TimeLimit.truncated": bool(cut_off)} for cut_off in timeout]
        shape = (buffer.n_envs, *buffer.obs_shape)
        obs, next_obs = obs.astype(np.uint8).reshape(shape), next_obs.astype(np.uint8).reshape(shape)
        buffer.add(obs, next_obs, action, reward, done, infos)


@pytest.mark.parametrize("compression_method", ["rle", "none"])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3, 8])
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("n_steps", FILLS.values(), ids=FILLS.keys())
def test_a_storing_class_of_another_package_draws_the_right_transitions(
    n_steps, prioritized, n_envs, optimize_memory_usage, compression_method
):
    half_life = 6 * n_envs
    buffer = DecayedCompressedReplayBuffer(
        N_ROWS * n_envs,
        spaces.Box(0, 255, (1, 2, 2), np.uint8),
        spaces.Box(-100, 100, (2,)),
        device="cpu",
        n_envs=n_envs,
        optimize_memory_usage=optimize_memory_usage,
        handle_timeout_termination=not optimize_memory_usage,
        compression_method=compression_method,
        half_life=half_life,
        prioritized=prioritized,
    )
    fill(buffer, n_steps)

    # Naive reference: the step that each row holds, its age, and whether it may be drawn
    steps = np.arange(max(0, n_steps - N_ROWS), n_steps)
    step_of_row = np.full(N_ROWS, -1)
    step_of_row[steps % N_ROWS] = steps
    weights = np.where(step_of_row >= 0, 0.5 ** (n_envs * (n_steps - 1.0 - step_of_row) / half_life), 0)
    if optimize_memory_usage and n_steps >= N_ROWS:
        weights[n_steps % N_ROWS] = 0
    weights = np.repeat(weights[:, None], n_envs, axis=1)
    if prioritized:
        indices = np.arange(len(steps) * n_envs)
        buffer.update_priorities(indices, 0.5 + indices % 5)
        weights.reshape(-1)[indices] *= 0.5 + indices % 5
    probabilities = weights / weights.sum()
    assert buffer.sampling_probabilities() == pytest.approx(probabilities, abs=1e-12)

    np.random.seed(0)
    n_draws = 12_000
    batch = buffer.sample(n_draws)
    counts = np.bincount(batch.indices, minlength=N_ROWS * n_envs)
    expected = probabilities.reshape(-1) * n_draws
    assert (counts[expected == 0] == 0).all()
    common = expected >= 10
    assert common.sum() > 10
    rest = ~common & (expected > 0)
    observed, expected = (np.append(x[common], x[rest].sum() + 1e-9) for x in (counts, expected))
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4

    rows, envs = np.divmod(batch.indices, n_envs)
    obs, next_obs, action, reward, done, timeout = transition(step_of_row[rows], envs)
    assert np.array_equal(batch.observations.numpy().reshape(n_draws, 4), obs)
    assert np.array_equal(batch.next_observations.numpy().reshape(n_draws, 4), next_obs)
    assert np.array_equal(batch.actions.numpy(), action)
    assert np.array_equal(batch.rewards.numpy().ravel(), reward)
    terminated = done if optimize_memory_usage else done & ~timeout
    assert np.array_equal(batch.dones.numpy().ravel(), terminated)
    assert batch.discounts is None


def bytes_of_cartpole():
    env = gym.make("CartPole-v1")
    to_bytes = lambda obs: np.clip(128 + 40 * obs, 0, 255).astype(np.uint8)  # noqa: E731
    return gym.wrappers.TransformObservation(env, to_bytes, spaces.Box(0, 255, (4,), np.uint8))


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("option", ["exponential", "prioritized"])
def test_dqn_trains_with_compressed_storage_as_with_plain_storage(option, n_envs):
    models = []
    for buffer_class in (DecayedCompressedReplayBuffer, DecayedReplayBuffer):
        env = make_vec_env(bytes_of_cartpole, n_envs, seed=0)
        model = make_model("DQN", env, buffer_class=buffer_class, **OPTIONS[option])
        before = parameters(model)
        watch = Watch(model.replay_buffer)
        model.learn(240)
        assert_trained(model, before)
        watch.assert_draws_match_probabilities()
        models.append(model)
    assert_same_parameters(*models)
    assert models[0].replay_buffer.observations.dtype == object
