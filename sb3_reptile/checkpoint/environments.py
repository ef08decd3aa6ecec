"""Vectorised environments as values: what their wrappers hold, and how each copy came to where it is."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_reptile.checkpoint.episode_recorder import EpisodeRecorder
from sb3_reptile.storage import OtherSpacesError
from sb3_reptile.storage.values import from_json, to_json

# What changes in them as they are used
ATTRIBUTES: dict[type[VecEnvWrapper], tuple[str, ...]] = {
    VecNormalize: ("obs_rms", "ret_rms", "returns", "old_obs", "old_reward"),
    VecFrameStack: ("stacked_obs",),
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count"),
}


def _wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv


def _attributes(wrapper: VecEnvWrapper) -> tuple[str, ...]:
    return next((names for cls, names in ATTRIBUTES.items() if isinstance(wrapper, cls)), ())


def _tell(value: Any, name: str) -> Any:
    if isinstance(value, RunningMeanStd):
        return {"mean": to_json(value.mean, name), "var": to_json(value.var, name), "count": float(value.count)}
    if isinstance(value, StackedObservations):
        inside = getattr(value, "sub_stacked_observations", None)
        return to_json(value.stacked_obs, name) if inside is None else {k: _tell(v, name) for k, v in inside.items()}
    if isinstance(value, dict):
        return {key: _tell(item, name) for key, item in value.items()}
    return to_json(value, name)


def _set(holder: Any, name: str, told: Any) -> None:
    value = vars(holder).get(name)
    if isinstance(value, RunningMeanStd):
        _set_statistics(value, told)
    elif isinstance(value, StackedObservations):
        inside = getattr(value, "sub_stacked_observations", None)
        for key, part in {None: value}.items() if inside is None else inside.items():
            part.stacked_obs = from_json(told if key is None else told[key])
    elif name == "obs_rms" and value is not None:
        for key, part in value.items():
            _set_statistics(part, told[key])
    else:
        setattr(holder, name, from_json(told))


def _set_statistics(statistics: RunningMeanStd, told: dict[str, Any]) -> None:
    statistics.mean, statistics.var = from_json(told["mean"]), from_json(told["var"])
    statistics.count = told["count"]


def record_episodes(env: VecEnv, seed: int | None = None) -> None:
    """
    Put a recorder around each copy of an environment, where there is none yet.

    :param env: The environment; other classes than ``DummyVecEnv`` are left as they are
    :param seed: If its copies have just been reset: with ``seed``, ``seed + 1``, ...
    """
    base = env.unwrapped
    if isinstance(base, DummyVecEnv) and not any(base.env_is_wrapped(EpisodeRecorder)):
        for index, inside in enumerate(base.envs):
            recorder = EpisodeRecorder(inside)
            obs: Any = {key: value[index] for key, value in base.buf_obs.items()}
            recorder.begin_with(None if seed is None else seed + index, obs.get(None, obs))
            base.envs[index] = recorder


def environment_state(env: VecEnv) -> dict[str, Any]:
    """
    :param env: The environment
    :return: All that can be told of it, as JSON
    """
    wrappers = [
        {"class": type(wrapper).__name__}
        | {name: _tell(vars(wrapper)[name], name) for name in _attributes(wrapper) if name in vars(wrapper)}
        for wrapper in _wrappers(env)
    ]
    recorded = all(env.unwrapped.env_is_wrapped(EpisodeRecorder))
    episodes = env.unwrapped.env_method("episode") if recorded else [None] * env.num_envs
    return {"wrappers": wrappers, "episodes": episodes}


def check_wrappers(env: VecEnv, told: Mapping[str, Any]) -> None:
    """
    :param env: The environment
    :param told: What :func:`environment_state` said of another
    :raises OtherSpacesError: if it is wrapped otherwise
    """
    theirs = [wrapper["class"] for wrapper in told["wrappers"]]
    ours = [type(wrapper).__name__ for wrapper in _wrappers(env)]
    if theirs != ours:
        raise OtherSpacesError(
            f"the checkpoint's environment is wrapped in {theirs}, this one in {ours}: wrap it in the same way, from "
            "the outermost on"
        )


def set_environment_state(env: VecEnv, told: Mapping[str, Any]) -> bool:
    """
    :param env: An environment like the one that was saved
    :param told: What :func:`environment_state` said
    :return: Whether all its copies were brought to where they were; otherwise they must be reset
    """
    record_episodes(env)
    for wrapper, attributes in zip(_wrappers(env), told["wrappers"], strict=True):
        for name in _attributes(wrapper):
            if name in attributes:
                _set(wrapper, name, attributes[name])
    base, episodes = env.unwrapped, told["episodes"]
    if None in episodes or not all(base.env_is_wrapped(EpisodeRecorder)):
        return False
    return all(np.all(base.env_method("repeat", episode, indices=[index])) for index, episode in enumerate(episodes))
