"""One checkpoint: what is written into it, and how training goes on from it."""

import os
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import sb3_contrib  # noqa: F401 -- so that a checkpoint can name its algorithms
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.checkpoint.environments import check_wrappers, environment_state, set_environment_state
from sb3_reptile.checkpoint.models import (
    counters,
    hyperparameters,
    make_model,
    parameters,
    random_states,
    set_counters,
    set_parameters,
    set_random_states,
)
from sb3_reptile.replay.storing import files_of, fill, state_of
from sb3_reptile.storage import DamagedError, OtherSpacesError
from sb3_reptile.storage.folder import MANIFEST, Folder, write_folder
from sb3_reptile.storage.values import from_json, to_json

KIND = "checkpoint"
PARAMETERS = "parameters.safetensors"

#: The checkpoint that each model was last saved to or made from
last_checkpoint_of: "weakref.WeakKeyDictionary[BaseAlgorithm, Path]" = weakref.WeakKeyDictionary()


def write_checkpoint(model: OffPolicyAlgorithm, path: Path, previous: Folder | None) -> None:
    """
    :param model: The model, between two rollouts
    :param path: Where to
    :param previous: The checkpoint before, whose files are linked to where nothing changed
    :raises NotStorableError: if it holds something that only pickle could save
    :raises OSError: if it cannot be written
    """
    assert model.env is not None
    assert model.replay_buffer is not None
    arrays, optimizers = parameters(model)
    buffer = state_of(model.replay_buffer)
    state = {
        "hyperparameters": hyperparameters(model),
        "spaces": {
            "observation_space": to_json(model.observation_space, "observation_space"),
            "action_space": to_json(model.action_space, "action_space"),
            "n_envs": model.n_envs,
        },
        "optimizers": optimizers,
        "counters": counters(model),
        "random": random_states(model),
        "environment": environment_state(model.env),
        "replay_buffer": buffer.values,
    }
    write_folder(path, KIND, state, [(PARAMETERS, lambda: arrays), *files_of(model.replay_buffer, buffer)], previous)


def checkpoints_in(path: Path) -> list[Path]:
    """
    :param path: A folder of checkpoints
    :return: Those in it, from the oldest to the newest
    """
    try:
        found = [entry for entry in path.iterdir() if entry.name[:6].isdigit() and (entry / MANIFEST).exists()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)


def resume(
    path: str | os.PathLike[str],
    env: GymEnv | VecEnv | str,
    device: th.device | str = "auto",
    **kwargs: Any,
) -> Any:
    """
    Make a model that goes on where a checkpoint was saved::

        model = resume("checkpoints", env)
        model.learn(20_000 - model.num_timesteps, reset_num_timesteps=False)

    Nothing in a checkpoint is executed: algorithms, policies, optimizers and networks are looked up by name among those
    of SB3, sb3-contrib, PyTorch and this package.

    :param path: A folder of checkpoints, whose newest is taken (or the one before, with a warning, if that is damaged),
        or one checkpoint
    :param env: The environment, made and wrapped like the one that it was saved with
    :param device: PyTorch device
    :param kwargs: Arguments of the algorithm to be used instead of those saved. What could not be saved must be given:
        schedules that are functions, classes of your own (``algorithm`` for that of the model). Those within
        ``replay_buffer_kwargs`` and ``policy_kwargs`` go first one by one.
    :return: The model
    :raises FileNotFoundError: if there is no checkpoint
    :raises ForeignError: if it is something else
    :raises DamagedError: if it is not as it was saved, and none before it is good
    :raises NewerVersionError: if it was saved by a later version
    :raises OtherSpacesError: if it was saved with another environment
    :raises MissingArgumentError: if an argument is needed that could not be saved
    """
    path = Path(path)
    candidates = checkpoints_in(path)
    if not candidates:
        if path.is_dir() and not (path / MANIFEST).exists():
            raise FileNotFoundError(f"there is no checkpoint in {path}; was one saved by ResumableCheckpoint?")
        return _resume_from(path, env, device, kwargs)
    for older, candidate in zip([*candidates[-2::-1], None], candidates[::-1], strict=True):
        try:
            return _resume_from(candidate, env, device, kwargs)
        except DamagedError as error:
            if older is None:
                raise
            warnings.warn(f"{error}; the checkpoint before is taken, {older}", stacklevel=2)
    raise AssertionError("unreachable")


def _resume_from(path: Path, env: GymEnv | VecEnv | str, device: th.device | str, given: dict[str, Any]) -> Any:
    folder = Folder(path, KIND)
    folder.verify()  # before anything is made of it
    state = folder.state
    vec_env = BaseAlgorithm._wrap_env(maybe_make_env(env, 0))
    with folder.understood():
        _check_spaces(vec_env, state["spaces"])
        check_wrappers(vec_env, state["environment"])
        with warnings.catch_warnings():
            # SB3 warns of n_steps together with the buffer class that it selects for it
            warnings.filterwarnings("ignore", message="`n_steps=")
            model = make_model(state["hyperparameters"], vec_env, device, given)
        set_parameters(model, folder.read(PARAMETERS), state["optimizers"])
        fill(model.replay_buffer, folder, state["replay_buffer"])
        set_counters(model, state["counters"])
        if not set_environment_state(vec_env, state["environment"]):
            warnings.warn(
                "the environment could not be brought to where it was and is reset: training goes on from there, "
                "but not bit for bit as it would have (see docs/checkpoints.md)",
                stacklevel=4,
            )
            model._last_obs = None
            _break_off(model.replay_buffer)
        vec_env.unwrapped._reset_seeds()
        set_random_states(model, state["random"])
    last_checkpoint_of[model] = folder.path.resolve()
    return model


def _check_spaces(env: VecEnv, told: dict[str, Any]) -> None:
    for name in ("observation_space", "action_space"):
        theirs, ours = from_json(told[name]), getattr(env, name)
        if theirs != ours:
            raise OtherSpacesError(
                f"the checkpoint is of an environment whose {name} is {theirs}, that of this one is {ours}"
            )
    if told["n_envs"] != env.num_envs:
        raise OtherSpacesError(f"the checkpoint is of {told['n_envs']} environments, these are {env.num_envs}")


def _break_off(buffer: ReplayBuffer) -> None:
    """The episodes in progress end where the checkpoint was saved."""
    if buffer.size() == 0:
        return
    newest = (buffer.pos - 1) % buffer.buffer_size
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says what was just said
            buffer.truncate_last_trajectory()
    elif buffer.optimize_memory_usage:
        buffer.dones[newest] = 1  # its next observation will be that of another episode
    else:
        buffer.timeouts[newest] = np.maximum(buffer.timeouts[newest], buffer.dones[newest] == 0)
