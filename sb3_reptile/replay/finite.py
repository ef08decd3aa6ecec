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
    if type(values) is np.ndarray and values.dtype == dtype:
        # The fastest single pass over a few numbers. Where the sum of the squares overflows, each is looked at.
        flat = values.ravel()
        with np.errstate(over="ignore"):
            if math.isfinite(flat.dot(flat)):
                return True
    return bool(np.isfinite(_as(values, dtype)).all())


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
