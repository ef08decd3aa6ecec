"""Statistics of VecNormalize as part of the learned parameters, by names that no network has."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
    unwrap_vec_normalize,
)

#: What the names of the statistics begin with
PREFIX = "vec_normalize."
# The arrays of SB3's statistics
PARTS = ("mean", "var", "count")


def options_of(normalize: Any, algorithm_kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    :param normalize: Whether to normalize, or arguments of VecNormalize
    :param algorithm_kwargs: Arguments of the algorithm, whose ``gamma`` is that of the returns
    :return: Arguments of VecNormalize, None without normalization
    :raises TypeError: if it is something else
    """
    if normalize is False:
        return None
    if normalize is not True and not isinstance(normalize, Mapping):
        raise TypeError(f"normalize must be True, False or a dict of arguments of VecNormalize, got {normalize!r:.100}")
    gamma = {"gamma": algorithm_kwargs["gamma"]} if "gamma" in algorithm_kwargs else {}
    return {**gamma, **({} if normalize is True else normalize)}


def normalized(env: GymEnv, options: Mapping[str, Any]) -> VecNormalize:
    """
    :param env: Environment, which can be in VecNormalize already
    :param options: Arguments of VecNormalize
    :return: The environment in VecNormalize
    """
    wrapped = BaseAlgorithm._wrap_env(maybe_make_env(env, 0))
    found = unwrap_vec_normalize(wrapped)
    return VecNormalize(wrapped, **options) if found is None else wrapped  # type: ignore[return-value]


def for_evaluation(env: gym.Env, model: Any) -> GymEnv:
    """
    :param env: Environment
    :param model: One of SB3's algorithms
    :return: The environment with the present observation statistics of the model, which it does not update, and with
        its own rewards; without VecNormalize the environment as it is
    """
    of_model = model.get_vec_normalize_env()
    if of_model is None:
        return env
    venv: Any = DummyVecEnv([lambda: env])
    # Copied as for pickle, without the environment
    wrapped = copy.copy(of_model)
    wrapped.set_venv(VecTransposeImage(venv) if is_vecenv_wrapped(of_model.venv, VecTransposeImage) else venv)
    wrapped.training = wrapped.norm_reward = False
    return wrapped


def _statistics(model: Any) -> Iterator[tuple[str, RunningMeanStd]]:
    env = model.get_vec_normalize_env()
    if env is None:
        return
    if env.norm_obs:
        of_keys = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
        yield from ((f"{PREFIX}obs_rms.{key}." if key else f"{PREFIX}obs_rms.", one) for key, one in of_keys.items())
    if env.norm_reward:
        yield f"{PREFIX}ret_rms.", env.ret_rms


def get_statistics(model: Any) -> dict[str, th.Tensor]:
    """
    :param model: One of SB3's algorithms
    :return: Copies of the statistics of its VecNormalize, none without it
    """
    return {
        name + part: th.tensor(np.asarray(getattr(statistics, part)), dtype=th.float64)
        for name, statistics in _statistics(model)
        for part in PARTS
    }


def set_statistics(model: Any, values: Mapping[str, th.Tensor]) -> None:
    """
    :param model: One of SB3's algorithms, changed in place
    :param values: What :func:`get_statistics` returned for such a model
    """
    for name, statistics in _statistics(model):
        statistics.mean, statistics.var = (values[name + part].numpy().copy() for part in ("mean", "var"))
        statistics.count = float(values[f"{name}count"])
