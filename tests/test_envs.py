"""The wrappers that make a task drift."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env

from sb3_reptile.envs import PermutedActions


class Echo(gym.Env):
    """Tells the action it was given."""

    observation_space = spaces.Discrete(10)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return int(action), 0.0, False, False, {"kept": True}


def test_actions_rotate_every_period_over_all_episodes():
    env = PermutedActions(Echo(spaces.Discrete(3, start=2)), period=4)
    seen = []
    for step in range(12):
        if step % 3 == 0:
            env.reset()
        obs, _, _, _, info = env.step(np.int64(2))
        seen.append((obs, info["phase"]))
        assert info["kept"]
    assert seen == [(2, 0)] * 4 + [(3, 1)] * 4 + [(4, 2)] * 4
    assert env.step(3)[0] == 3  # phase 3 is phase 0 again


def test_two_actions_swap_on_cartpole():
    swapped, plain = PermutedActions(gym.make("CartPole-v1"), period=1), gym.make("CartPole-v1")
    swapped.reset(seed=0)
    plain.reset(seed=0)
    swapped.step(0)
    plain.step(0)
    assert np.array_equal(swapped.step(0)[0], plain.step(1)[0])


def test_permuted_actions_passes_check_env():
    check_env(PermutedActions(gym.make("CartPole-v1"), period=10))


@pytest.mark.parametrize("period", [0, -1, 2.5, "10"])
def test_bad_periods_are_refused(period):
    with pytest.raises(ValueError, match="period must be a whole number >= 1"):
        PermutedActions(gym.make("CartPole-v1"), period=period)


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="needs a Discrete action space, got Box"):
        PermutedActions(gym.make("Pendulum-v1"), period=10)
