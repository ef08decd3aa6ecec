"""Families of tasks, and one environment that mixes the tasks of a family."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TimeLimit

from sb3_reptile.meta.navigation import HiddenGoal
from sb3_reptile.meta.task_sampling import Tasks, TaskSampler

# Which permutations are held out does not depend on any seed of training
SPLIT_SEED, HELD_OUT_SHARE = 2018, 0.25


class PermutedForces(CartPoleEnv):
    """
    CartPole with several forces, evenly spaced, on permuted actions.

    :param meaning: For each action the number of its force, from the strongest to the left to the strongest to the
        right; ``(1, 0)`` is CartPole with inverted controls
    :param max_force: The strongest force (N)
    """

    def __init__(self, meaning: tuple[int, ...], max_force: float = 10.0) -> None:
        super().__init__()
        self.forces = np.linspace(-max_force, max_force, len(meaning))[list(meaning)]
        self.action_space: spaces.Space = spaces.Discrete(len(meaning))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"the action must be one of 0 to {len(self.forces) - 1}, got {action!r}")
        self.force_mag = float(self.forces[action])
        return super().step(1)


@dataclass(frozen=True)
class CartPoleControls:
    """
    CartPole whose controls are permuted. The tasks conflict: what balances the pole in one of them drops it in another.

    :param n_forces: Number of actions; with 2 the controls are inverted or not
    :param max_force: Range of the strongest force (N), of which a task has a random one
    :param held_out: Draw from the quarter of the permutations that is never drawn otherwise
    :param max_steps: Time limit of an episode
    :raises ValueError: if ``n_forces`` is not 2 to 6, permutations are held out of only two, or a force is not positive
    """

    n_forces: int = 2
    max_force: tuple[float, float] = (5.0, 15.0)
    held_out: bool = False
    max_steps: int = 200

    def __post_init__(self) -> None:
        if not isinstance(self.n_forces, int) or not 2 <= self.n_forces <= 6:
            raise ValueError(f"n_forces must be 2 to 6, got {self.n_forces!r}")
        if self.n_forces == 2 and self.held_out:
            raise ValueError("n_forces=2 has two permutations, of which none can be held out: use 3 or more")
        if not 0 < self.max_force[0] <= self.max_force[1]:
            raise ValueError(f"max_force must be a range of positive forces, got {self.max_force!r}")

    @property
    def permutations(self) -> list[tuple[int, ...]]:
        """Those that are drawn."""
        every = list(itertools.permutations(range(self.n_forces)))
        if self.n_forces == 2:
            return every
        order = np.random.default_rng(SPLIT_SEED).permutation(len(every))
        n_held_out = int(HELD_OUT_SHARE * len(every))
        chosen = order[:n_held_out] if self.held_out else order[n_held_out:]
        return [every[number] for number in sorted(chosen)]

    def __call__(self, rng: np.random.Generator) -> gym.Env:
        """
        :param rng: Random generator
        :return: The environment of a random task
        """
        permutations = self.permutations
        meaning = permutations[rng.integers(len(permutations))]
        return TimeLimit(PermutedForces(meaning, rng.uniform(*self.max_force)), self.max_steps)


@dataclass(frozen=True)
class Navigation:
    """
    Navigation to a hidden goal on a circle, see :class:`~sb3_reptile.meta.navigation.HiddenGoal`. The tasks conflict: a
    step towards one goal leads away from the opposite one. Every goal is drawn at most once, so tasks that another
    generator draws are new.

    :param radius: Radius of the circle
    :param max_steps: Time limit of an episode
    """

    radius: float = 0.8
    max_steps: int = 40

    def __call__(self, rng: np.random.Generator) -> gym.Env:
        """
        :param rng: Random generator
        :return: The environment of a random task
        """
        angle = rng.uniform(0, 2 * math.pi)
        return HiddenGoal((self.radius * math.cos(angle), self.radius * math.sin(angle)), self.max_steps)


@dataclass(frozen=True)
class CartPolePhysics:
    """
    CartPole with random lengths and masses of the pole. One policy can solve all tasks: such a family rewards plain
    joint training.

    :param lengths: Range of half the length of the pole (m)
    :param masses: Range of the mass of the pole (kg)
    :param max_steps: Time limit of an episode
    """

    lengths: tuple[float, float] = (0.25, 2.0)
    masses: tuple[float, float] = (0.05, 0.5)
    max_steps: int = 200

    def __call__(self, rng: np.random.Generator) -> gym.Env:
        """
        :param rng: Random generator
        :return: The environment of a random task
        """
        env = CartPoleEnv()
        env.length, env.masspole = rng.uniform(*self.lengths), rng.uniform(*self.masses)
        env.total_mass = env.masspole + env.masscart
        env.polemass_length = env.masspole * env.length
        return TimeLimit(env, self.max_steps)


@dataclass(frozen=True)
class MiniGridGoals:
    """
    A robot in four rooms with the goal in a random cell (extra ``minigrid``), see
    :class:`~sb3_reptile.envs.rooms.Rooms`. Its view shows the goal only in the room in front of it.

    :param max_steps: Time limit of an episode
    """

    max_steps: int = 100

    def __call__(self, rng: np.random.Generator) -> gym.Env:
        """
        :param rng: Random generator
        :return: The environment of a random task
        :raises ImportError: without the extra ``minigrid``
        """
        try:
            from sb3_reptile.envs.rooms import MIDDLE, SIZE, RobotView, Rooms
        except ImportError as error:
            raise ImportError(
                "MiniGridGoals needs the extra `minigrid`: pip install 'sb3-reptile[minigrid]'"
            ) from error
        places = [place for place in range(1, SIZE - 1) if place != MIDDLE]
        column, row = rng.choice(places, size=2).tolist()
        return RobotView(Rooms(goal=(column, row), max_steps=self.max_steps))


class JointTasks(gym.Wrapper):
    """
    An environment that is another task in each episode, for joint training on all tasks: the baseline of meta-learning.

    :param tasks: As for :class:`~sb3_reptile.meta.ReptileMetaLearner`
    :param seed: Seed of the draws
    :raises ValueError: if a task has other spaces than the first one
    """

    def __init__(self, tasks: Tasks, seed: int | None = None) -> None:
        self._sampler = TaskSampler(tasks)
        self._draws = np.random.default_rng(seed)
        super().__init__(self._next())

    def _next(self) -> gym.Env:
        (task,) = self._sampler.draw(self._draws, 1)
        return task.make()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            # Another stream than that of the environment
            self._draws = np.random.default_rng([seed, 2])
        spaces_before = self.env.observation_space, self.env.action_space
        self.env.close()
        self.env = self._next()
        if (self.env.observation_space, self.env.action_space) != spaces_before:
            raise ValueError(
                f"all tasks must have the same spaces, got {self.env.observation_space}, {self.env.action_space} after "
                f"{spaces_before[0]}, {spaces_before[1]}"
            )
        if seed is None:
            seed = int(self._draws.integers(2**31))
        return super().reset(seed=seed, options=options)


#: The families by the names that the command line uses
FAMILIES = {
    "cartpole-controls": CartPoleControls,
    "navigation": Navigation,
    "cartpole-physics": CartPolePhysics,
    "minigrid-goals": MiniGridGoals,
}
