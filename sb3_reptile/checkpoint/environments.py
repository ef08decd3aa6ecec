"""Vectorized environments as JSON values: the state of their wrappers and the present episode of each copy."""

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
from sb3_reptile.storage import ForeignError, OtherSpacesError, StorageError
from sb3_reptile.storage.errors import CONSTRUCTION_ERRORS
from sb3_reptile.storage.values import from_json, to_json
from sb3_reptile.vec_env.ray_workers import WorkersLostError

# Attributes that change while the wrapper is used
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


def _attribute_to_json(value: Any, name: str) -> Any:
    if isinstance(value, RunningMeanStd):
        return {"mean": to_json(value.mean, name), "var": to_json(value.var, name), "count": float(value.count)}
    if isinstance(value, StackedObservations):
        inside = getattr(value, "sub_stacked_observations", None)
        return (
            to_json(value.stacked_obs, name)
            if inside is None
            else {k: _attribute_to_json(v, name) for k, v in inside.items()}
        )
    if isinstance(value, dict):
        return {key: _attribute_to_json(item, name) for key, item in value.items()}
    return to_json(value, name)


def _set_attribute(wrapper: VecEnvWrapper, name: str, saved: Any) -> None:
    value = vars(wrapper).get(name)
    if isinstance(value, RunningMeanStd):
        _set_statistics(value, saved)
    elif isinstance(value, StackedObservations):
        inside = getattr(value, "sub_stacked_observations", None)
        for key, part in {None: value}.items() if inside is None else inside.items():
            part.stacked_obs = _like(part.stacked_obs, from_json(saved if key is None else saved[key]), name)
    elif name == "obs_rms" and value is not None:
        for key, part in value.items():
            _set_statistics(part, saved[key])
    else:
        setattr(wrapper, name, _like(value, from_json(saved), name))


def _set_statistics(statistics: RunningMeanStd, saved: dict[str, Any]) -> None:
    statistics.mean = _like(statistics.mean, from_json(saved["mean"]), "mean")
    statistics.var = _like(statistics.var, from_json(saved["var"]), "var")
    statistics.count = float(saved["count"])


def _like(present: Any, saved: Any, name: str) -> Any:
    """A saved value, if it can take the place of the present one."""
    if isinstance(present, np.ndarray) and present.size and np.shape(saved) != present.shape:
        raise ForeignError(f"{name} must have the shape {present.shape}, the checkpoint has {np.shape(saved)}")
    return saved


def record_episodes(env: VecEnv, seed: int | None = None) -> None:
    """
    Wrap each copy of an environment in an ``EpisodeRecorder``, unless it has one.

    :param env: The environment. Only a ``DummyVecEnv`` is changed.
    :param seed: If the copies have just been reset, the seed of the first. The others have ``seed + 1``, ...
    """
    base = env.unwrapped
    if isinstance(base, DummyVecEnv) and not any(base.env_is_wrapped(EpisodeRecorder)):
        for index, inside in enumerate(base.envs):
            recorder = EpisodeRecorder(inside)
            obs: Any = {key: value[index] for key, value in base.buf_obs.items()}
            recorder.begin_with(None if seed is None else seed + index, obs.get(None, obs))
            base.envs[index] = recorder


def get_environment_state(env: VecEnv) -> dict[str, Any]:
    """
    :param env: The environment
    :return: The state of its wrappers and, where they are recorded, its present episodes, as JSON
    """
    wrappers = [
        {"class": type(wrapper).__name__}
        | {
            name: _attribute_to_json(vars(wrapper)[name], name)
            for name in _attributes(wrapper)
            if name in vars(wrapper)
        }
        for wrapper in _wrappers(env)
    ]
    try:
        recorded = all(env.unwrapped.env_is_wrapped(EpisodeRecorder))
    except WorkersLostError:
        # A checkpoint before training ends with this error
        recorded = False
    episodes = env.unwrapped.env_method("episode") if recorded else [None] * env.num_envs
    return {"wrappers": wrappers, "episodes": episodes}


def check_wrappers(env: VecEnv, state: Mapping[str, Any]) -> None:
    """
    :param env: The environment
    :param state: What :func:`get_environment_state` returned for the environment that was saved
    :raises OtherSpacesError: if the two have different wrappers
    """
    theirs = [wrapper["class"] for wrapper in state["wrappers"]]
    ours = [type(wrapper).__name__ for wrapper in _wrappers(env)]
    if theirs != ours:
        raise OtherSpacesError(
            f"the checkpoint's environment is wrapped in {theirs}, this one in {ours} (outermost first): wrap it in "
            "the same way"
        )


def set_environment_state(env: VecEnv, state: Mapping[str, Any]) -> bool:
    """
    :param env: An environment made and wrapped like the one that was saved
    :param state: What :func:`get_environment_state` returned
    :return: Whether the state of all copies was restored. If not, they must be reset.
    :raises ForeignError: if the environment refuses what was saved
    """
    record_episodes(env)
    for wrapper, attributes in zip(_wrappers(env), state["wrappers"], strict=True):
        for name in _attributes(wrapper):
            if name in attributes:
                _set_attribute(wrapper, name, attributes[name])
    base, episodes = env.unwrapped, state["episodes"]
    if None in episodes or not all(base.env_is_wrapped(EpisodeRecorder)):
        return False
    try:
        return all(
            np.all(base.env_method("repeat", episode, indices=[index])) for index, episode in enumerate(episodes)
        )
    except (StorageError, *CONSTRUCTION_ERRORS):
        raise
    except Exception as error:  # environments raise what they like
        raise ForeignError(f"the environment cannot repeat the episode of the checkpoint: {error}") from error
