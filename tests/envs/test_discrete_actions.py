"""DiscreteActions numbers continuous and multi-discrete actions."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env

from sb3_reptile.envs import (
    DiscreteActions,
)


class Arm(gym.Env):
    """Keeps the action that it was given, whatever its kind."""

    observation_space = spaces.Discrete(10)

    def __init__(self, action_space):
        self.action_space = action_space

    def step(self, action):
        assert self.action_space.contains(action)
        self.given = action
        return 0, 0.0, False, False, {}


def all_actions(env):
    actions = []
    for number in range(env.action_space.n):
        env.step(np.int64(number))
        actions.append(env.unwrapped.given.tolist())
    return actions


def test_box_actions_are_numbered_from_end_to_end():
    box = spaces.Box(np.array([-2, 0], dtype=np.float32), np.array([2, 1], dtype=np.float32))
    assert all_actions(DiscreteActions(Arm(box), bins=2)) == [[-2, 0], [-2, 1], [2, 0], [2, 1]]
    assert all_actions(DiscreteActions(Arm(box))) == [[a, b] for a in (-2, 0, 2) for b in (0, 0.5, 1)]
    assert all_actions(DiscreteActions(Arm(box), bins=[5, 2])) == [[a, b] for a in (-2, -1, 0, 1, 2) for b in (0, 1)]
    matrix = spaces.Box(-1, 1, (2, 2))
    assert DiscreteActions(Arm(matrix), bins=2).action(0).tolist() == [[-1, -1], [-1, -1]]


def test_multi_discrete_actions_are_numbered_as_they_are():
    env = DiscreteActions(Arm(spaces.MultiDiscrete([2, 3], start=[0, 5])))
    assert all_actions(env) == [[a, b] for a in (0, 1) for b in (5, 6, 7)]


def test_discrete_actions_that_begin_elsewhere_are_numbered_from_0():
    env = DiscreteActions(Arm(spaces.Discrete(3, start=-1)))
    assert env.action_space == spaces.Discrete(3)
    assert [int(env.action(number)) for number in range(3)] == [-1, 0, 1]
    assert {-1: "left", 0: "stay", 1: "right"}[env.action(0)] == "left"  # as environments look it up


def test_discrete_actions_passes_check_env():
    check_env(DiscreteActions(gym.make("Pendulum-v1"), bins=5))


@pytest.mark.parametrize(
    ("space", "bins", "message"),
    [
        (spaces.Box(-1, 1, (2,)), 1, "bins must be a whole number >= 2, or one for each of 2 dimensions, got 1"),
        (spaces.Box(-1, 1, (2,)), [3], r"one for each of 2 dimensions, got \[3\]"),
        (spaces.Box(-1, 1, (2,)), 2.5, "bins must be a whole number >= 2"),
        (spaces.Box(-1, 1, (2,)), [3, 1], r"got \[3, 1\]"),
        (spaces.Box(-1, np.inf, (2,)), 3, "needs actions with bounds, got Box"),
        (spaces.Box(-1, 1, (20,)), 3, "bins=3 makes 3486784401 actions in 20 dimensions: use fewer"),
        (spaces.MultiBinary(3), 3, "DiscreteActions needs Box, MultiDiscrete or Discrete actions, got MultiBinary"),
    ],
)
def test_what_cannot_be_numbered_is_refused(space, bins, message):
    with pytest.raises(ValueError, match=message):
        DiscreteActions(Arm(space), bins=bins)
