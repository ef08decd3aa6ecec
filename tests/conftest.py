"""Builders and assertions that tests of several modules share."""

import numpy as np
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile import ReptileDQN

N_ROWS = 40


# Without time limits, which SB3 does not combine with memory optimisation
NO_TIMEOUTS = dict(handle_timeout_termination=False)


def identifier(step, env):
    """The number that a transition carries as its reward."""
    return 10 * step + env


def make_buffer(buffer_class, n_envs=1, n_rows=N_ROWS, space=None, **kwargs):
    space = spaces.Box(-np.inf, np.inf, (2,)) if space is None else space
    return buffer_class(n_rows * n_envs, space, spaces.Discrete(3), device="cpu", n_envs=n_envs, **kwargs)


def fill(buffer, n_steps, start=0):
    """Add rows in which every field identifies its step and its environment; no episode ever ends."""
    envs = np.arange(buffer.n_envs)
    for step in range(start, start + n_steps):
        obs, next_obs = (np.stack([np.full(buffer.n_envs, t), envs], axis=1) for t in (step, step + 1))
        if isinstance(buffer.observation_space, spaces.Dict):
            obs, next_obs = {"x": obs}, {"x": next_obs}
        done = np.zeros(buffer.n_envs)
        infos = [{} for _ in envs]
        buffer.add(obs, next_obs, (step + envs) % 3, identifier(step, envs), done, infos)


def assert_drawn_from(drawn, probabilities):
    """Chi-square test; bins too rare for it are pooled, and what has probability 0 must not occur."""
    identifiers, counts = np.unique(drawn, return_counts=True)
    observed = dict(zip(identifiers.tolist(), counts.tolist(), strict=True))
    assert set(observed) <= set(probabilities)
    expected = np.array(list(probabilities.values())) * len(drawn)
    counts = np.array([observed.get(i, 0) for i in probabilities])
    rare = expected < 10
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    if len(expected) > 1 and expected.min() > 0:
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


INF = float("inf")


def cartpole(n_envs=1, normalize=False):
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=0)
    return VecNormalize(env) if normalize else env


def small(**kwargs):
    return {
        "learning_starts": 50,
        "buffer_size": 2_000,
        "train_freq": 4,
        "n_steps": 1,
        "seed": 0,
        "device": "cpu",
    } | kwargs


def assert_same_parameters(ours, theirs):
    ours, theirs = ours.get_parameters(), theirs.get_parameters()
    for key, parameter in theirs["policy"].items():
        assert th.equal(ours["policy"][key], parameter), key
    for index, state in theirs["policy.optimizer"]["state"].items():
        for key, value in state.items():
            assert th.equal(ours["policy.optimizer"]["state"][index][key], value)


class Written(ReptileDQN):
    """Keeps what it hands to the logger's outputs."""

    def dump_logs(self):
        dump, self.written = self.logger.dump, getattr(self, "written", [])
        self.logger.dump = lambda step: self.written.append(dict(self.logger.name_to_value))
        super().dump_logs()
        del self.logger.dump
        dump(step=self.num_timesteps)


def parameters(model):
    return {key: value.clone() for key, value in model.get_parameters()["policy"].items()}


def assert_trained(model, before):
    after = parameters(model)
    assert all(bool(th.isfinite(value).all()) for value in after.values())
    trained = [key for key in after if key.endswith("weight") and "target" not in key]
    assert trained
    for key in trained:
        assert not th.equal(after[key], before[key]), key
