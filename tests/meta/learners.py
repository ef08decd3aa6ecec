"""Small meta-learners and tasks that several tests use."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_reptile import ReptileDQN
from sb3_reptile.meta import Navigation, Regression, ReptileMetaLearner, SineWaves
from sb3_reptile.meta.navigation import HiddenGoal

DQN_ARGUMENTS = dict(
    learning_rate=1e-2,
    buffer_size=200,
    learning_starts=10,
    batch_size=8,
    target_update_interval=10,
    policy_kwargs=dict(net_arch=[8]),
)


def dqn_learner(tasks=None, algorithm=ReptileDQN, algorithm_kwargs=None, **options):
    arguments = {**DQN_ARGUMENTS, **(algorithm_kwargs or {})}
    options = {"inner_timesteps": 32, "meta_batch_size": 2, "seed": 3, "device": "cpu", **options}
    return ReptileMetaLearner(algorithm, tasks or Navigation(), algorithm_kwargs=arguments, **options)


def sine_learner(tasks=None, algorithm_kwargs=None, **options):
    arguments = {"policy_kwargs": dict(net_arch=[16]), **(algorithm_kwargs or {})}
    options = {"inner_timesteps": 3, "meta_batch_size": 1, "seed": 3, "device": "cpu", **options}
    return ReptileMetaLearner(Regression, tasks or SineWaves(10), algorithm_kwargs=arguments, **options)


def goal(x=0.5, y=0.5):
    return HiddenGoal((x, y), max_steps=10)


def right():
    return goal(0.8, 0.0)


def left():
    return goal(-0.8, 0.0)


def up():
    return goal(0.0, 0.8)


class Pulls(gym.Env):
    """Continuous actions, for actor-critics."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        obs = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return obs, float(action[0]), self.np_random.random() < 0.2, False, {}


class Normalized(BaseFeaturesExtractor):
    """Features extractor with BatchNorm."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 2)
        self.norm = th.nn.BatchNorm1d(2)

    def forward(self, observations):
        return self.norm(observations)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert th.equal(ours[name], value), name


class Written(KVWriter):
    """What a logger writes."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append({"step": step, **key_values})

    def close(self):
        pass
