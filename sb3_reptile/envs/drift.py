"""Wrappers that make any task drift. Their clock counts every step ever taken, not those of an episode."""

from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium import spaces


class PermutedActions(gym.Wrapper):
    """
    Rotate the meaning of the actions every ``period`` steps: in phase ``k`` action ``a`` does what
    ``(a + k) % n`` does in the wrapped environment. With two actions, the controls swap.

    ``info["phase"]`` of every step tells the phase it was taken in.

    :param env: Environment with a Discrete action space
    :param period: Steps between two changes, over all episodes
    :raises ValueError: if the action space is not Discrete, or ``period`` not a whole number >= 1
    """

    def __init__(self, env: gym.Env, period: int) -> None:
        if not isinstance(env.action_space, spaces.Discrete):
            raise ValueError(f"PermutedActions needs a Discrete action space, got {env.action_space}")
        if not isinstance(period, int) or period < 1:
            raise ValueError(f"period must be a whole number >= 1 (steps), got {period!r}")
        super().__init__(env)
        self.period = period
        self.steps_taken = 0

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        phase = self.steps_taken // self.period
        self.steps_taken += 1
        space = self.env.action_space
        assert isinstance(space, spaces.Discrete)  # checked in the constructor
        obs, reward, terminated, truncated, info = self.env.step((action - space.start + phase) % space.n + space.start)
        return obs, reward, terminated, truncated, {**info, "phase": phase}
