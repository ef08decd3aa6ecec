"""Restoring the state of environments."""

import contextlib
import os
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import EpisodeRecorder, ResumableCheckpoint, resume
from sb3_reptile.storage import OtherSpacesError
from tests.checkpoint.training import cartpole, resumable, small

# Windows cannot fork; None is the default of the system
FASTEST_START = "fork" if hasattr(os, "fork") else None


@pytest.mark.parametrize("recorded", [False, True])
def test_environments_in_other_processes_go_on_where_they_have_a_recorder(recorded, tmp_path):
    make = (lambda: EpisodeRecorder(gym.make("CartPole-v1"))) if recorded else lambda: gym.make("CartPole-v1")
    env = SubprocVecEnv([make, make], start_method=FASTEST_START)
    try:
        _, folder = resumable(tmp_path, at=90, env=env)
    finally:
        env.close()
    expected = contextlib.nullcontext() if recorded else pytest.warns(UserWarning, match="could not be restored")
    with expected:
        model = resume(folder, DummyVecEnv([make, make]))
    assert (model._last_obs is not None) == recorded
    model.learn(20, reset_num_timesteps=False)


class Dice(gym.Wrapper):
    """Chance that nobody can bring back."""

    def step(self, action):
        obs, *others = self.env.step(action)
        return obs + np.random.default_rng().normal(0, 0.01, 4).astype(np.float32), *others


class Short(gym.Wrapper):
    """Ends by chance that nobody can bring back."""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated or np.random.default_rng().random() < 0.3, info


def test_an_environment_whose_repeated_episode_ends_early_is_reset(tmp_path):
    found = set()
    for number in range(12):
        _, folder = resumable(tmp_path / str(number), env=make_vec_env("CartPole-v1", wrapper_class=Short))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = resume(folder, make_vec_env("CartPole-v1", wrapper_class=Short))
        found.add(any("could not be restored" in str(warning.message) for warning in caught))
        model.learn(10, reset_num_timesteps=False)
    assert True in found


def test_a_number_of_steps_can_be_a_float(tmp_path):
    _, folder = resumable(tmp_path, total=1e2)
    model = resume(folder, cartpole())
    assert model._total_timesteps == 100.0
    model.learn(20, reset_num_timesteps=False)


class Slippery(gym.Env):
    """Every observation is the same; rewards are random."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.np_random.random(), self.np_random.random() < 0.05, False, {}


def test_the_episode_of_a_second_training_is_not_taken_for_that_of_the_seed(tmp_path):
    model = ReptileDQN("MlpPolicy", make_vec_env(Slippery), **small())
    model.learn(40)
    model.learn(30, callback=ResumableCheckpoint(100, tmp_path / "run", keep=9))
    first = min((tmp_path / "run").glob("0*"))
    with pytest.warns(UserWarning, match="could not be restored, so it is reset"):
        resume(first, make_vec_env(Slippery))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_an_environment_that_cannot_be_restored_is_reset(n_steps, tmp_path):
    def dice():
        return make_vec_env("CartPole-v1", wrapper_class=Dice)

    _, folder = resumable(tmp_path, env=dice(), n_steps=n_steps)
    with pytest.warns(UserWarning, match=r"could not be restored, so it is reset.*docs/how_to/checkpoints.md"):
        model = resume(folder, dice())
    newest = model.replay_buffer.pos - 1
    assert model.replay_buffer.timeouts[newest] + model.replay_buffer.dones[newest] == 1  # no return runs over it
    model.learn(30, reset_num_timesteps=False)


def test_another_environment_is_refused(tmp_path):
    _, folder = resumable(tmp_path)
    for env, message in [
        ("Acrobot-v1", r"has the observation_space Box.*, this one has Box"),
        (cartpole(2), r"has 1 environments, this one has 2"),
        (
            VecNormalize(cartpole()),
            r"is wrapped in \[\], this one in \['VecNormalize'\] \(outermost first\): wrap it in the same way",
        ),
    ]:
        with pytest.raises(OtherSpacesError, match=message):
            resume(folder, env)

    class Wider(gym.ActionWrapper):
        action_space = spaces.Discrete(3)

    with pytest.raises(OtherSpacesError, match=r"has the action_space Discrete\(2\), this one has Discrete\(3"):
        resume(folder, Wider(gym.make("CartPole-v1")))
