"""Discrete actions for environments with continuous or multi-discrete ones, for value-based agents."""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class DiscreteActions(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """
    Turn an action space into a Discrete one with one action for each combination of values.

    In each dimension of a Box, the values are evenly spaced and include both bounds: ``bins=2`` is bang-bang control,
    an odd number includes the middle. (Gymnasium's ``DiscretizeAction`` uses the middles of intervals, which excludes
    the bounds.) The combinations of a MultiDiscrete space are numbered. Discrete actions that do not begin at 0 are
    numbered from there.

    :param env: Environment with bounded Box actions, MultiDiscrete or Discrete ones
    :param bins: Number of values in each dimension of a Box, >= 2: one number for all dimensions, or one for each
    :raises ValueError: if the action space is another one or unbounded, or ``bins`` does not fit it
    """

    def __init__(self, env: gym.Env, bins: int | Sequence[int] = 3) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, bins=bins)
        gym.ActionWrapper.__init__(self, env)
        space = env.action_space
        if isinstance(space, spaces.MultiDiscrete):
            self._values = [
                np.arange(n) + start for n, start in zip(space.nvec.ravel(), space.start.ravel(), strict=True)
            ]
        elif isinstance(space, spaces.Discrete):
            self._values = [np.arange(space.n) + space.start]
        elif isinstance(space, spaces.Box):
            self._values = self._values_in_box(space, bins)
        else:
            raise ValueError(f"DiscreteActions needs Box, MultiDiscrete or Discrete actions, got {space}")
        self._counts = [len(values) for values in self._values]
        n_actions = math.prod(self._counts)
        if n_actions > 1_000_000:
            raise ValueError(f"bins={bins!r} makes {n_actions} actions in {len(self._counts)} dimensions: use fewer")
        self.action_space = spaces.Discrete(n_actions)

    @staticmethod
    def _values_in_box(space: spaces.Box, bins: int | Sequence[int]) -> list[np.ndarray]:
        low, high = space.low.ravel(), space.high.ravel()
        if not space.is_bounded():
            raise ValueError(f"DiscreteActions needs actions with bounds, got {space}: wrap in RescaleAction first")
        counts = list(bins) if isinstance(bins, Sequence) else [bins] * len(low)
        if len(counts) != len(low) or not all(isinstance(count, int) and count >= 2 for count in counts):
            raise ValueError(
                f"bins must be a whole number >= 2, or one for each of {len(low)} dimensions, got {bins!r}"
            )
        return [np.linspace(*limits) for limits in zip(low, high, counts, strict=True)]

    def action(self, action: Any) -> np.ndarray:
        """
        :param action: Number of the action
        :return: The corresponding action of the wrapped environment
        """
        space = self.env.action_space
        choice = np.unravel_index(int(action), self._counts)
        chosen = [values[index] for values, index in zip(self._values, choice, strict=True)]
        # A number for Discrete actions, which environments look up
        return np.array(chosen, dtype=space.dtype).reshape(space.shape)[()]
