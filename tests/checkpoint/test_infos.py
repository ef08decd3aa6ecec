"""What environments report is saved: NumPy scalars as numbers, and what only pickle could save not at all."""

from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_reptile import DecayedHerReplayBuffer, ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from tests.checkpoint.training import EachStep, bit_flipping, cartpole, small


class Reports(gym.Wrapper):
    """Reports things in its infos."""

    def __init__(self, env, things):
        super().__init__(env)
        self.things = things

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info | self.things


SCALARS = {
    "is_success": np.bool_(True),
    "float16": np.float16(0.5),
    "float32": np.float32(0.5),
    "longdouble": np.longdouble(0.5),
    "nan": np.float32("nan"),
    "int8": np.int8(-3),
    "uint64": np.uint64(2**64 - 1),
    "text": np.str_("left"),
    "bytes": np.bytes_(b"left"),
    "complex": np.complex64(1 + 2j),
    "date": np.datetime64("2026-01-01T00:00"),
    "array": np.array(["a", "b"]),
    "flags": np.array([True, False]),
}


def monitored(things, wrap=lambda env: env):
    return wrap(DummyVecEnv([lambda: Monitor(Reports(gym.make("CartPole-v1"), things), info_keywords=tuple(things))]))


def test_numpy_scalars_in_infos_are_saved(tmp_path):
    model = ReptileDQN("MlpPolicy", monitored(SCALARS), **small())
    model.learn(60, callback=ResumableCheckpoint(20, tmp_path))
    resumed = resume(tmp_path, monitored(SCALARS))
    assert resumed.ep_success_buffer == model.ep_success_buffer
    assert len(resumed.ep_info_buffer) == len(model.ep_info_buffer) > 0
    for ours, theirs in zip(resumed.ep_info_buffer, model.ep_info_buffer, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            np.testing.assert_array_equal(value, theirs[key])
    resumed.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: VecMonitor(env, info_keywords=("strange", "kept"))])
def test_what_cannot_be_saved_is_left_out_with_a_warning_and_training_goes_on(wrap, tmp_path):
    things = {"is_success": Fraction(1, 2), "strange": {1, 2}, "kept": 3}
    model = ReptileDQN("MlpPolicy", monitored(things, wrap), **small())
    with pytest.warns(UserWarning, match=r"info of an episode\['strange'\] is left out, as a set cannot be saved"):
        model.learn(60, callback=ResumableCheckpoint(20, tmp_path))
    resumed = resume(tmp_path, monitored(things, wrap))
    assert resumed.num_timesteps == 60
    assert resumed.ep_info_buffer[0]["kept"] == 3
    assert "strange" not in resumed.ep_info_buffer[0]
    assert list(resumed.ep_success_buffer) == []


def test_hindsight_infos_are_saved_as_far_as_possible(tmp_path):
    def reporting():
        env = bit_flipping()
        env.envs[0] = Reports(env.envs[0], {"is_success": np.bool_(True), "strange": object()})
        return env

    kwargs = dict(replay_buffer_class=DecayedHerReplayBuffer, replay_buffer_kwargs=dict(copy_info_dict=True))
    model = ReptileDQN("MultiInputPolicy", reporting(), **small(**kwargs))
    with pytest.warns(UserWarning, match=r"info\['strange'\] is left out"):
        model.learn(60, callback=ResumableCheckpoint(20, tmp_path))
    resumed = resume(tmp_path, reporting())
    assert resumed.replay_buffer.infos[3, 0]["is_success"] is True
    with pytest.warns(UserWarning, match="is left out"):
        resumed.learn(20, callback=ResumableCheckpoint(20, tmp_path), reset_num_timesteps=False)


class Flags(gym.ObservationWrapper):
    """Observations that are true or false."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 1, (4,), dtype=bool)

    def observation(self, obs):
        return obs > 0


class OwnBox(spaces.Box):
    """A user's class."""


class Own(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = OwnBox(-np.inf, np.inf, (4,))

    def observation(self, obs):
        return obs


@pytest.mark.parametrize("wrapper", [Flags, Own])
def test_boolean_boxes_and_spaces_of_own_classes_are_saved(wrapper, tmp_path):
    def make():
        return wrapper(gym.make("CartPole-v1"))

    model = ReptileDQN("MlpPolicy", make(), **small())
    model.learn(60, callback=ResumableCheckpoint(20, tmp_path))
    resumed = resume(tmp_path, make())
    assert np.array_equal(resumed.replay_buffer.observations, model.replay_buffer.observations)
    resumed.learn(20, reset_num_timesteps=False)


def test_numpy_scalars_are_arguments_and_counts(tmp_path):
    kwargs = dict(combined=np.True_, uniform_fraction=np.float32(0.25), beta=np.float32(0.5))
    options = dict(
        half_life=np.float32(100), batch_size=np.int64(8), gamma=np.float64(0.9), replay_buffer_kwargs=kwargs, seed=3
    )
    model = ReptileDQN("MlpPolicy", cartpole(), **small(**options))

    def set_seed(num_timesteps):
        model.seed = np.int64(3)  # what users compute

    model.learn(60, callback=[ResumableCheckpoint(20, tmp_path), EachStep(set_seed)])
    resumed = resume(tmp_path, cartpole())
    assert (resumed.replay_buffer.combined, resumed.replay_buffer.beta, resumed.half_life) == (True, 0.5, 100)
    model.replay_buffer.save(tmp_path / "buffer")
    assert type(model.replay_buffer).load(tmp_path / "buffer").combined
