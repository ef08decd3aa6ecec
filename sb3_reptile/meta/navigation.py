"""A point that must find a goal which it does not see."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_reptile.replay.checks import check_whole_number

# Right, left, up, down
DIRECTIONS = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
STEP, REACHED = 0.1, 0.15
NOISE = 0.02


class HiddenGoal(gym.Env):
    """
    Navigation in a square. The agent starts near its center, observes its position, shape (2,), and moves by 0.1 in one
    of four directions. The reward is the negative distance to the goal. An episode ends within 0.15 of the goal.

    :param goal: Position of the goal, each coordinate in [-1, 1]
    :param max_steps: Time limit of an episode
    :raises ValueError: if the goal is outside of the square, or ``max_steps`` is not a whole number >= 1
    """

    def __init__(self, goal: tuple[float, float], max_steps: int = 40) -> None:
        self.goal = np.asarray(goal, np.float64)
        if self.goal.shape != (2,) or not np.all(np.abs(self.goal) <= 1):
            raise ValueError(f"goal must be two numbers in [-1, 1], got {goal!r}")
        check_whole_number("max_steps", max_steps)
        self.max_steps = max_steps
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(4)
        self._position = np.zeros(2)
        self._n_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._position = self.np_random.uniform(-0.1, 0.1, 2)
        self._n_steps = 0
        return self._position.astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        noise = self.np_random.normal(0.0, NOISE, 2)
        self._position = np.clip(self._position + STEP * DIRECTIONS[int(action)] + noise, -1, 1)
        self._n_steps += 1
        distance = float(np.hypot(*(self._position - self.goal)))
        terminated, truncated = distance <= REACHED, self._n_steps >= self.max_steps
        return self._position.astype(np.float32), -distance, terminated, truncated and not terminated, {}
