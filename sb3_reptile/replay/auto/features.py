"""Observations and actions as vectors of numbers that can be compared."""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_reptile.replay.auto.settings import DEFAULTS, Settings

# Larger numbers are clipped to this, so that their squares are finite
LARGEST = 1e12


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """
    Multiply two matrices with PyTorch: NumPy's threads would wait for those of PyTorch, which keep spinning after a
    training step.
    """
    return (th.from_numpy(a) @ th.from_numpy(b)).numpy()


def rows_of(stored: Any, rows: np.ndarray) -> Any:
    """
    :param stored: Observations, or actions, by row; or a dict of such arrays
    :param rows: Numbers of rows, shape (n,)
    :return: These rows in the same form
    """
    return {key: values[rows] for key, values in stored.items()} if isinstance(stored, dict) else stored[rows]


def limit(values: np.ndarray) -> np.ndarray:
    """Replace NaN by 0 and clip to plus and minus ``LARGEST``."""
    limited = np.clip(values, -LARGEST, LARGEST)
    limited[np.isnan(limited)] = 0
    return limited


@cache
def _averaging_matrix(length: int, side: int) -> np.ndarray:
    """The matrix that averages ``length`` pixels down to at most ``side`` blocks."""
    n = min(length, side)
    blocks = np.arange(length) * n // length
    members = (blocks == np.arange(n)[:, None]).astype(np.float32)
    return members / members.sum(axis=1, keepdims=True)


def one_hot(numbers: np.ndarray, n: int) -> np.ndarray:
    """
    :param numbers: Integers from 0 to ``n - 1``, shape (k,)
    :param n: Number of categories
    :return: Shape (k, n), float64
    """
    encoded = np.zeros((len(numbers), n))
    encoded[np.arange(len(numbers)), numbers] = 1
    return encoded


def hashed(numbers: np.ndarray, length: int) -> np.ndarray:
    """
    Categories as vectors of signs, at the same cost however many there are. Two of them differ in about half of the
    signs.

    :param numbers: Integers, shape (k,)
    :param length: Length of the vectors
    :return: Shape (k, length), each number -1 or 1, float64
    """
    # One output of SplitMix64 for each sign (Steele, Lea & Flood, Fast splittable pseudorandom number generators, 2014)
    mixed: Any = numbers.astype(np.uint64)[:, None] * np.uint64(length) + np.arange(1, length + 1, dtype=np.uint64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.where(mixed >> np.uint64(63), 1.0, -1.0)


class Embedding:
    """
    Turns observations into vectors of moderate length. Discrete and dict observations are flattened as Gymnasium does
    it, images are averaged down first. Vectors that are still too long are projected at random. Categories of which
    there are very many are hashed.

    :param space: Observation space
    :param settings: Constants
    """

    def __init__(self, space: spaces.Space, settings: Settings = DEFAULTS) -> None:
        self.space = space
        self.settings = settings
        self.parts: dict[Any, spaces.Space] = {None: space}
        if isinstance(space, spaces.Dict):
            self.parts = dict(space.spaces)
        length = sum(self._flatten_part(part, self._example(part)).shape[1] for part in self.parts.values())
        self.projection: np.ndarray | None = None
        if length > settings.max_features:
            generator = np.random.default_rng(0)
            self.projection = generator.standard_normal((length, settings.projected_features)) / math.sqrt(length)
        self.length = length if self.projection is None else settings.projected_features

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of former versions have no settings, or a projection of one-hot vectors that are hashed now
        self.__init__(state["space"], state.get("settings", DEFAULTS))  # type: ignore[misc]

    @staticmethod
    def _example(space: spaces.Space) -> np.ndarray:
        start = space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
        return np.full((1, *(space.shape or ())), start, dtype=space.dtype)

    def _encode(self, numbers: np.ndarray, n: int) -> np.ndarray:
        """Categories, numbered from 0, as vectors."""
        if n > self.settings.max_categories:
            return hashed(numbers, self.settings.projected_features)
        return one_hot(numbers, n)

    def _flatten_part(self, space: spaces.Space, values: np.ndarray) -> np.ndarray:
        """
        :param space: A space that is not a dict
        :param values: n of its members
        :return: Shape (n, k), float64
        """
        n = len(values)
        if isinstance(space, spaces.Discrete):
            return self._encode(values.reshape(n).astype(np.int64) - int(space.start), int(space.n))
        if isinstance(space, spaces.MultiDiscrete):
            columns = values.reshape(n, -1).astype(np.int64) - space.start.reshape(-1)
            sizes = space.nvec.reshape(-1).tolist()
            return np.concatenate([self._encode(columns[:, i], size) for i, size in enumerate(sizes)], axis=1)
        if len(space.shape or ()) == 3:
            values = self._average_down(space, values)
        return values.reshape(n, -1).astype(np.float64)

    def _average_down(self, space: spaces.Space, values: np.ndarray) -> np.ndarray:
        """Average images down; the two longest axes are height and width, channels come first or last."""
        channels = int(np.argmin(space.shape))  # type: ignore[arg-type]
        images = np.moveaxis(values, channels + 1, 1).astype(np.float32)
        rows, columns = (_averaging_matrix(length, self.settings.image_side) for length in images.shape[2:])
        return rows @ (images @ columns.T) / (255 if is_image_space(space, check_channels=False) else 1)

    @property
    def is_category(self) -> bool:
        """Whether an observation is one category, so that two of them are the same or have nothing in common."""
        return isinstance(self.space, spaces.Discrete)

    def __call__(self, observations: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        :param observations: As a replay buffer stores them, shape (n, ...), or a dict of such arrays
        :return: Shape (n, length), float64
        """
        parts = []
        for key, part in self.parts.items():
            values: Any = observations if key is None else observations[key]
            # SB3 stores a discrete observation as an array of one number
            n_dimensions = 1 if isinstance(part, spaces.Discrete) else len(part.shape or ())
            parts.append(self._flatten_part(part, values.reshape(-1, *values.shape[values.ndim - n_dimensions :])))
        flat = limit(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))
        return flat if self.projection is None else multiply(flat, self.projection)


def _n_members(space: spaces.MultiDiscrete) -> int:
    return math.prod(space.nvec.reshape(-1).tolist())  # of Python's integers, which do not overflow


class Actions:
    """
    Splits actions into a group and numbers. Only transitions of the same group are compared. Of very many discrete
    actions, which would be groups of hardly any transitions, each is a vector of signs instead.

    :param space: Action space
    :param settings: Constants
    """

    def __init__(self, space: spaces.Space, settings: Settings = DEFAULTS) -> None:
        self.space = space
        if isinstance(space, spaces.Discrete):
            is_hashed = int(space.n) > settings.max_categories
            self.n_groups, self.length = (1, settings.projected_features) if is_hashed else (int(space.n), 0)
        elif isinstance(space, spaces.MultiDiscrete) and _n_members(space) <= settings.max_groups:
            self.n_groups, self.length = _n_members(space), 0
        else:
            self.n_groups, self.length = 1, int(np.prod(space.shape or (1,)))

    def __call__(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        :param actions: As a replay buffer stores them, shape (n, action_dim)
        :return: Groups, int64, shape (n,), and numbers, shape (n, length)
        """
        n = len(actions)
        if isinstance(self.space, spaces.Discrete):
            numbers = actions.reshape(n).astype(np.int64) - int(self.space.start)
            if self.length > 0:
                return np.zeros(n, dtype=np.int64), hashed(numbers, self.length)
            return numbers, np.empty((n, 0))
        if self.length == 0:
            assert isinstance(self.space, spaces.MultiDiscrete)
            columns: Any = tuple((actions.reshape(n, -1).astype(np.int64) - self.space.start.reshape(-1)).T)
            groups = np.ravel_multi_index(columns, self.space.nvec.reshape(-1))
            return np.asarray(groups, dtype=np.int64), np.empty((n, 0))
        return np.zeros(n, dtype=np.int64), actions.reshape(n, -1).astype(np.float64)


class Transitions(NamedTuple):
    """
    Transitions in the form in which they are compared.

    :param rows: Row numbers, int64, shape (n,)
    :param features: Observation and, if it is continuous, action, shape (n, n_features)
    :param groups: Only members of the same group are compared, int64, shape (n,)
    :param outcomes: Reward and change of the observation, shape (n, n_outcomes)
    """

    rows: np.ndarray
    features: np.ndarray
    groups: np.ndarray
    outcomes: np.ndarray

    @classmethod
    def empty(cls, n_features: int, n_outcomes: int) -> "Transitions":
        integers = np.zeros(0, dtype=np.int64)
        return cls(integers, np.zeros((0, n_features)), integers, np.zeros((0, n_outcomes)))

    def take(self, which: Any) -> "Transitions":
        """
        :param which: An index, a mask or a slice of the transitions
        """
        return Transitions(*(array[which] for array in self))


def as_transitions(
    rows: np.ndarray,
    vectors: np.ndarray,
    groups: np.ndarray,
    numbers: np.ndarray,
    rewards: np.ndarray,
    next_vectors: np.ndarray,
) -> Transitions:
    """
    :param rows: Row numbers, int64, shape (n,)
    :param vectors: Observations as vectors, shape (n, length)
    :param groups: Groups of the actions, int64, shape (n,)
    :param numbers: Numbers of the actions, shape (n, action length)
    :param rewards: Rewards, n numbers in any shape
    :param next_vectors: Next observations as vectors, shape (n, length)
    :return: The n transitions
    """
    limited_rewards = limit(rewards.reshape(-1, 1).astype(np.float64))
    outcomes = np.concatenate([limited_rewards, next_vectors - vectors], axis=1)
    return Transitions(rows, np.concatenate([vectors, numbers], axis=1), groups, outcomes)


def join(parts: list[Transitions]) -> Transitions:
    """Concatenate transitions."""
    return Transitions(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
