"""What a buffer does with rewards and observations that are not finite."""

import sys
import warnings
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_reptile.replay.checks import OnBadTransition

# Up to this number of bytes, arithmetic on one Python integer is faster than a pass by NumPy
FEW_BYTES = 512


def all_finite(values: Any, dtype: np.dtype) -> bool:
    """
    :param values: Numbers
    :param dtype: The type of floats that they are stored as
    :return: Whether all of them are finite then
    """
    if type(values) is not np.ndarray or values.dtype is not dtype:
        values = _as(values, dtype)
    return b"\0" not in np.isfinite(values).tobytes()


class FiniteBytes:
    """
    Whether numbers of type float32 are finite, from their bytes as one integer. One is not finite if all bits of its
    exponent are set (IEEE 754), which is when adding the lowest of them carries into the bit of the sign.

    :param n_floats: Largest number of floats
    """

    def __init__(self, n_floats: int) -> None:
        self._exponents, self._lowest, self._signs = (
            int.from_bytes(np.full(n_floats, bits, np.uint32).tobytes(), sys.byteorder)
            for bits in (0x7F800000, 0x00800000, 0x80000000)
        )

    def __call__(self, data: bytes) -> bool:
        return not ((int.from_bytes(data, sys.byteorder) & self._exponents) + self._lowest) & self._signs


def first_bad(values: Any, dtype: np.dtype, n_envs: int) -> tuple[int, float]:
    """
    :param values: Numbers of which one is not finite, those of each environment following each other
    :param dtype: The type of floats that they are stored as
    :param n_envs: Number of environments
    :return: The first environment with such a number, and that number as it was given
    """
    stored = _as(values, dtype).reshape(n_envs, -1)
    env, number = np.argwhere(~np.isfinite(stored))[0]
    return int(env), float(np.asarray(values).reshape(n_envs, -1)[env, number])


def _as(values: Any, dtype: np.dtype) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype != dtype:
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
    return array


class BadTransitions:
    """
    Finds rows that are not finite, and raises an error, or skips them and counts them.

    :param policy: The option ``on_bad_transition``: ``"raise"``, ``"skip"`` or ``"allow"``
    :param observation_space: Observation space
    :param reward_dtype: The type that rewards are stored as
    :param n_envs: Number of environments
    """

    #: For rewards and observations that are stored as few numbers of type float32
    _few: FiniteBytes | None = None

    def __init__(
        self, policy: OnBadTransition, observation_space: spaces.Space, reward_dtype: np.dtype, n_envs: int
    ) -> None:
        self.policy = policy
        self.reward_dtype = reward_dtype
        self.n_envs = n_envs
        #: Number of transitions skipped so far
        self.n_skipped = 0
        is_dict = isinstance(observation_space, spaces.Dict)
        by_key = observation_space.spaces.items() if is_dict else [(None, observation_space)]  # type: ignore[attr-defined]
        # The observations that may not be finite, by key
        self._floats = [(key, np.dtype(space.dtype)) for key, space in by_key if np.dtype(space.dtype).kind == "f"]
        # The type of observations that are one array of floats
        self._only = self._floats[0][1] if self._floats and not is_dict else None
        n_floats = n_envs * (1 + sum(prod(space.shape or ()) for _, space in by_key if space.dtype == reward_dtype))
        # A float32 may be infinite as float16, and more numbers than n_floats would be given for a space of float64
        is_float32 = all(dtype == np.float32 for dtype in (reward_dtype, *(dtype for _, dtype in self._floats)))
        if is_float32 and n_floats * reward_dtype.itemsize <= FEW_BYTES:
            self._few = FiniteBytes(n_floats)

    def accepts(self, obs: Any, next_obs: Any, reward: Any) -> bool:
        """
        :param obs: Observations; None if they are the next observations of a row that was accepted
        :param next_obs: Next observations
        :param reward: Rewards
        :return: Whether the row may be stored
        """
        if self.policy == "allow":
            return True
        if obs is None and self._few is not None:  # as within an episode
            data = self._bytes(next_obs, reward)
            if data is not None:
                return self._few(data)
        if not all_finite(reward, self.reward_dtype):
            return False
        for key, dtype in self._floats:
            if not all_finite(next_obs if key is None else next_obs[key], dtype):
                return False
            if obs is not None and not all_finite(obs if key is None else obs[key], dtype):
                return False
        return True

    def _bytes(self, next_obs: Any, reward: Any) -> bytes | None:
        """The floats of a row, None if they are given as other types than they are stored as."""
        dtype = self.reward_dtype
        if getattr(reward, "dtype", None) is not dtype:
            return None
        if self._only is not None:
            return next_obs.tobytes() + reward.tobytes() if getattr(next_obs, "dtype", None) is dtype else None
        data: bytes = reward.tobytes()
        for key, _ in self._floats:
            values = next_obs if key is None else next_obs[key]
            if getattr(values, "dtype", None) is not dtype:
                return None
            data += values.tobytes()
        return data

    def refuse(self, obs: Any, next_obs: Any, reward: Any, rows_added: int, buffer: str) -> None:
        """
        Raise an error, or count the row as skipped and warn.

        :param obs: Observations
        :param next_obs: Next observations
        :param reward: Rewards
        :param rows_added: Number of rows stored so far
        :param buffer: Name of the buffer's class, for the message
        :raises ValueError: with ``policy="raise"``
        """
        named = [("reward", reward, self.reward_dtype)]
        for key, dtype in self._floats:
            of_key = "" if key is None else f" {key!r}"
            for name, values in (("observation", obs), ("next observation", next_obs)):
                named.append((name + of_key, values if key is None else values[key], dtype))
        name, values, dtype = next(entry for entry in named if not all_finite(*entry[1:]))
        env, value = first_bad(values, dtype, self.n_envs)
        bad = f"the {name} of environment {env} is {value} at its step {rows_added + self.n_skipped // self.n_envs + 1}"
        if self.policy == "raise":
            raise ValueError(
                f"{bad}: mend the environment, or let {buffer}(on_bad_transition='skip') leave such transitions out"
            )
        self.n_skipped += self.n_envs
        n_rows = self.n_skipped // self.n_envs
        if n_rows in (1, 10, 100) or n_rows % 1_000 == 0:
            warnings.warn(f"{bad}: not stored, {self.n_skipped:,} transitions skipped so far", stacklevel=4)
