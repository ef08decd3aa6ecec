"""Telling apart numbers from what is none: NaN and infinity in rewards and observations."""

import math
from typing import Any

import numpy as np


def all_finite(values: Any, dtype: np.dtype) -> bool:
    """
    :param values: Numbers
    :param dtype: The type of floats that they are to be stored as
    :return: Whether all of them are finite then
    """
    array = _as(values, dtype)
    # The sum of the squares takes one pass and no memory. Where it overflows, each is looked at.
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def first_bad(values: Any, dtype: np.dtype, n_envs: int) -> tuple[int, float]:
    """
    :param values: Numbers of which one is not finite, those of each environment following each other
    :param dtype: The type of floats that they are to be stored as
    :param n_envs: Number of environments
    :return: The first environment with a bad one, and that number as it was given
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
