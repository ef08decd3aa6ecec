"""A world of numbered goals, and buffers for hindsight replay in it."""

import functools

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import DDPG, DQN, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.replay import DecayedHerReplayBuffer

INF = float("inf")


N_ROWS = 40


FILLS = {"partly filled": 27, "just full": N_ROWS, "wrapped": 5 * N_ROWS + 17}


STRATEGIES = ["future", "final", "episode"]


class Goals(gym.Env):
    """Goals are numbers of steps and environments; nothing but the reward is ever asked of it."""

    observation_space = spaces.Dict(
        {key: spaces.Box(-np.inf, np.inf, (2,)) for key in ("observation", "achieved_goal", "desired_goal")}
    )
    action_space = spaces.Box(-np.inf, np.inf, (2,))

    def compute_reward(self, achieved_goal, desired_goal, info):
        return 1_000 * achieved_goal[:, 0] + desired_goal[:, 0]


def length_of_episode(number, env):
    return (6, 3, 9, 4, 7)[(number + env) % 5]


def episodes(n_steps, env, length=length_of_episode):
    """The first step of each episode, and the step after its last, which may lie beyond ``n_steps``."""
    start, number = 0, 0
    while start < n_steps:
        yield start, start + length(number, env)
        start += length(number, env)
        number += 1


@functools.cache
def episode_of(step, env, length=length_of_episode):
    return next((start, end) for start, end in episodes(step + 1, env, length) if step < end)


def initial_weight(step, env):
    return 0.5 + (7 * step + 3 * env) % 5


def weigh(obs, next_obs, action, reward, done, infos):
    return initial_weight(*obs["observation"].T)


def make_buffer(buffer_class=DecayedHerReplayBuffer, n_envs=1, n_rows=N_ROWS, **kwargs):
    env = DummyVecEnv([Goals])
    size = n_rows * n_envs
    return buffer_class(size, env.observation_space, env.action_space, env, device="cpu", n_envs=n_envs, **kwargs)


def fill(buffer, n_steps, start=0, length=length_of_episode):
    """Add rows in which every field identifies its step and its environment."""
    envs = np.arange(buffer.n_envs)
    ends = [{end - 1 for _, end in episodes(start + n_steps, env, length)} for env in envs]
    for step in range(start, start + n_steps):
        here, there = (np.stack([np.full(buffer.n_envs, t), envs], axis=1) for t in (step, step + 1))
        own_goal = np.full((buffer.n_envs, 2), -1)
        obs = {"observation": here, "achieved_goal": here, "desired_goal": own_goal}
        next_obs = {"observation": there, "achieved_goal": there, "desired_goal": own_goal}
        done = np.array([step in ends[env] for env in envs])
        # Every other episode is cut off by a time limit
        infos = [{"TimeLimit.truncated": bool(done[env] and step % 2)} for env in envs]
        buffer.add(obs, next_obs, here / 2, -step - envs / 10, done, infos)


def expected_probabilities(n_steps, n_envs, f, p, uniform_fraction=0.0, length=length_of_episode):
    """Naive reference: the probability of each transition by row and environment of the storage, one by one."""
    stored = range(max(0, n_steps - N_ROWS), n_steps)
    weights = {(step, env): p(step, env) * f(n_envs * (n_steps - 1 - step)) for step in stored for env in range(n_envs)}
    total = sum(weights.values())
    probabilities = np.zeros((N_ROWS, n_envs))
    for env in range(n_envs):
        for start, end in episodes(n_steps, env, length):
            # Whole episodes only: they must have ended, and not be overwritten in part
            if start >= stored.start and end <= n_steps:
                for step in range(start, end):
                    decayed = (1 - uniform_fraction) * weights[step, env] / total
                    probabilities[step % N_ROWS, env] = decayed + uniform_fraction / len(weights)
    return probabilities / probabilities.sum()


def assert_drawn_from(indices, probabilities):
    """Chi-square test; bins too rare for it are pooled, and what has probability 0 must not occur."""
    expected = probabilities.reshape(-1) * len(indices)
    counts = np.bincount(indices, minlength=len(expected))
    assert (counts[expected == 0] == 0).all()
    counts, expected = counts[expected > 0], expected[expected > 0]
    rare = expected < 10
    if rare.any():
        counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    assert len(expected) > 1
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


def assert_fields_match_indices(buffer, batch, n_steps):
    """
    Real transitions come first and then relabelled ones; each is what is stored at its index.

    :return: Step and environment of each
    """
    n = len(batch.indices)
    n_real = n - int(buffer.her_ratio * n)
    rows, envs = np.divmod(batch.indices, buffer.n_envs)
    steps = n_steps - 1 - (n_steps - 1 - rows) % buffer.buffer_size
    here, there = (np.stack([t, envs], axis=1) for t in (steps, steps + 1))
    observations, next_observations = ({k: v.numpy() for k, v in x.items()} for x in (batch[0], batch[2]))
    for key in ("observation", "achieved_goal"):
        assert np.array_equal(observations[key], here)
        assert np.array_equal(next_observations[key], there)
    assert np.array_equal(batch.actions.numpy(), here / 2)
    goals = observations["desired_goal"]
    assert np.array_equal(next_observations["desired_goal"], goals)
    assert (goals[:n_real] == -1).all()
    assert np.array_equal(goals[n_real:, 1], envs[n_real:])
    rewards = batch.rewards.numpy().ravel()
    assert np.array_equal(rewards[:n_real], (-steps - envs / 10).astype(np.float32)[:n_real])
    assert np.array_equal(rewards[n_real:], (1_000 * (steps + 1) + goals[:, 0])[n_real:])
    return steps, envs


DECAYS = {
    "short half-life": (lambda n_envs: dict(half_life=4.0 * n_envs), lambda age, n_envs: 0.5 ** (age / (4 * n_envs))),
    "long half-life": (lambda n_envs: dict(half_life=500), lambda age, n_envs: 0.5 ** (age / 500)),
    "linear": (
        lambda n_envs: dict(decay={"linear": {"horizon": 30 * n_envs, "floor": 0.2}}),
        lambda age, n_envs: max(0.2, 1 - age / (30 * n_envs)),
    ),
    "window": (lambda n_envs: dict(decay={"window": {"size": 18 * n_envs}}), lambda age, n_envs: age < 18 * n_envs),
    "function": (
        lambda n_envs: dict(decay=lambda age: 1 / (1 + age / 9)),
        lambda age, n_envs: 1 / (1 + age / 9),
    ),
    "uniform fraction": (
        lambda n_envs: dict(half_life=5 * n_envs, uniform_fraction=0.4),
        lambda age, n_envs: 0.5 ** (age / (5 * n_envs)),
    ),
}


WEIGHTS = {
    "equal weights": {},
    "initial weights": dict(initial_weights=weigh),
    "priorities": dict(prioritized=True),
    "weights and priorities": dict(prioritized=True, initial_weights=weigh),
}


def one_long_episode_at_the_end(number, env):
    return 4 if number < 6 else 1_000


UNFINISHED = {
    "half-life": (dict(half_life=1.5), lambda age: 0.5 ** (age / 1.5)),
    "half-life and weights": (dict(half_life=1.5, initial_weights=weigh), lambda age: 0.5 ** (age / 1.5)),
    "half-life and priorities": (dict(half_life=1.5, prioritized=True), lambda age: 0.5 ** (age / 1.5)),
    "linear": (dict(decay={"linear": {"horizon": 17, "floor": 0}}), lambda age: max(0, 1 - age / 17)),
    "linear and weights": (
        dict(decay={"linear": {"horizon": 17, "floor": 0}}, initial_weights=weigh),
        lambda age: max(0, 1 - age / 17),
    ),
    "window": (dict(decay={"window": {"size": 16}}), lambda age: age < 16),
    "window and priorities": (dict(decay={"window": {"size": 16}}, prioritized=True), lambda age: age < 16),
    "power": (dict(decay={"power_law": {"exponent": 9}}), lambda age: (1 + age) ** -9.0),
}


ALGORITHMS = {"DQN": DQN, "SAC": SAC, "DDPG": DDPG}


def bits(name, n_envs=1):
    return make_vec_env(BitFlippingEnv, n_envs, seed=0, env_kwargs=dict(n_bits=4, continuous=name != "DQN"))


def make_model(name, n_envs=1, buffer_class=DecayedHerReplayBuffer, **options):
    return ALGORITHMS[name](
        "MultiInputPolicy",
        bits(name, n_envs),
        learning_starts=40,
        buffer_size=120,
        batch_size=16,
        train_freq=4,
        gradient_steps=2,
        policy_kwargs=dict(net_arch=[16]),
        replay_buffer_class=buffer_class,
        replay_buffer_kwargs=options,
        seed=0,
        device="cpu",
    )
