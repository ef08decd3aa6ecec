"""Writing one checkpoint, and resuming training from it."""

import contextlib
import os
import re
import warnings
import weakref
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import sb3_contrib  # noqa: F401 -- a checkpoint can name only imported algorithms
import torch as th
from stable_baselines3.common import off_policy_algorithm
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_reptile.checkpoint.arguments import check_n_steps, check_network_sizes, resolve_arguments
from sb3_reptile.checkpoint.buffers import get_buffer_arguments, make_buffer
from sb3_reptile.checkpoint.environments import check_wrappers, get_environment_state, set_environment_state
from sb3_reptile.checkpoint.models import (
    get_counters,
    get_hyperparameters,
    get_parameters,
    get_random_states,
    set_counters,
    set_parameters,
    set_random_states,
)
from sb3_reptile.checkpoint.run_folder import KIND, list_candidates, number_of
from sb3_reptile.checkpoint.run_folder import list_checkpoints as list_checkpoints  # its former place
from sb3_reptile.replay.episodes import end_running_episodes
from sb3_reptile.replay.persistence import files_of, fill, state_of
from sb3_reptile.replay.saved_arguments import DECAY
from sb3_reptile.storage import DamagedError, NewerVersionError, OtherSpacesError, StorageError, UnreadableError
from sb3_reptile.storage.errors import warn
from sb3_reptile.storage.folder import MANIFEST, Folder, write_folder
from sb3_reptile.storage.values import from_json, to_json

PARAMETERS = "parameters.safetensors"
Algorithm = TypeVar("Algorithm", bound=OffPolicyAlgorithm)


class Origin(NamedTuple):
    """
    Where a model was last saved to or resumed from.

    :param path: The checkpoint
    :param newest: The number of the newest checkpoint beside it at that time
    """

    path: Path
    newest: int


#: The origin of each model and meta-learner that has one
origin_of: "weakref.WeakKeyDictionary[Any, Origin]" = weakref.WeakKeyDictionary()


def write_checkpoint(model: OffPolicyAlgorithm, path: Path, previous: Folder | None) -> None:
    """
    Save a model, its replay buffer, its environment and the random number generators.

    :param model: The model, between two rollouts
    :param path: Folder of the checkpoint
    :param previous: The previous checkpoint. Files that have not changed since are linked instead of written.
    :raises NotStorableError: if something cannot be saved without pickle
    :raises OSError: if the checkpoint cannot be written
    """
    assert model.env is not None
    assert model.replay_buffer is not None
    arrays, optimizers = get_parameters(model)
    buffer = state_of(model.replay_buffer)
    state = {
        "hyperparameters": get_hyperparameters(model),
        "spaces": {
            "observation_space": to_json(model.observation_space, "observation_space"),
            "action_space": to_json(model.action_space, "action_space"),
            "n_envs": model.n_envs,
        },
        "optimizers": optimizers,
        "counters": get_counters(model),
        "random": get_random_states(model),
        "environment": get_environment_state(model.env),
        "replay_buffer": buffer.values,
        "buffer_arguments": get_buffer_arguments(model.replay_buffer),
    }
    write_folder(path, KIND, state, [(PARAMETERS, lambda: arrays), *files_of(model.replay_buffer, buffer)], previous)


@overload
def resume(
    path: str | os.PathLike[str],
    env: GymEnv | VecEnv | str,
    device: th.device | str = "auto",
    *,
    algorithm: type[Algorithm],
    **kwargs: Any,
) -> Algorithm: ...


@overload
def resume(
    path: str | os.PathLike[str], env: GymEnv | VecEnv | str, device: th.device | str = "auto", **kwargs: Any
) -> OffPolicyAlgorithm: ...


def resume(
    path: str | os.PathLike[str],
    env: GymEnv | VecEnv | str,
    device: th.device | str = "auto",
    **kwargs: Any,
) -> OffPolicyAlgorithm:
    """
    Load a checkpoint and return a model that continues its training::

        model = resume("checkpoints", env)
        model.learn(20_000 - model.num_timesteps, reset_num_timesteps=False)

    Nothing in a checkpoint is executed. Algorithms, policies, optimizers and networks are saved by name, and only those
    of SB3, sb3-contrib, PyTorch and this package are loaded.

    :param path: One checkpoint, or a folder of checkpoints. Of a folder the newest checkpoint is loaded. If that is
        damaged, the previous one is loaded, with a warning.
    :param env: The environment, made and wrapped like the one that was saved
    :param device: PyTorch device
    :param kwargs: Arguments of the algorithm that override those saved; one that cannot change, such as
        ``buffer_size``, is an error. Arguments that could not be saved must be given: functions (schedules, for
        instance) and classes of your own (``algorithm`` is the class of the model, by which type checkers know the
        type of the result); so must a ``storage_dir``, and a
        ``tensorboard_log`` if it is to be continued, as files do not say where to write. The items of
        ``replay_buffer_kwargs`` and ``policy_kwargs`` override those saved one by one.
    :return: The model
    :raises FileNotFoundError: if there is no checkpoint
    :raises ForeignError: if the files are not a checkpoint
    :raises DamagedError: if no checkpoint is as it was saved
    :raises UnreadableError: if the system cannot read the checkpoint
    :raises NewerVersionError: if the checkpoint was saved by a later version of this package
    :raises OtherSpacesError: if the checkpoint was saved with another environment
    :raises MissingArgumentError: if an argument could not be saved and is not given
    :raises ArgumentError: if an argument is given that does not exist or cannot change
    """
    return _resume_from(newest_good(Path(path), KIND, "ResumableCheckpoint"), env, device, kwargs)


def newest_good(path: Path, kind: str, callback: str) -> Folder:
    """
    The checkpoint to resume from, verified before objects are made from it.

    :param path: One checkpoint, or a folder of checkpoints
    :param kind: The kind of content that it must have
    :param callback: Name of the callback that saves such checkpoints, for messages
    :return: The checkpoint
    :raises FileNotFoundError: if there is none
    :raises StorageError: if none can be used
    """
    try:
        candidates = list_candidates(path)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error
    if not candidates:
        if path.is_dir() and not os.path.lexists(path / MANIFEST):
            raise FileNotFoundError(f"there is no checkpoint in {path}; {callback} saves them")
        return _verified(path, kind)
    problems = []
    for candidate in reversed(candidates):
        try:
            folder = _verified(candidate, kind)
        except NewerVersionError as error:
            if error.intact or len(candidates) == 1:
                raise
            problems.append(str(error))
        except (StorageError, OSError) as error:
            if len(candidates) == 1:
                raise
            problems.append(str(error))
        else:
            for problem in problems:
                warn(f"{problem}; resuming from the previous checkpoint, {folder.path}")
            return folder
    raise DamagedError(f"none of the {len(candidates)} checkpoints in {path} can be used: {'; '.join(problems)}")


def _verified(path: Path, kind: str) -> Folder:
    folder = Folder(path, kind)
    folder.verify()
    return folder


def _resume_from(folder: Folder, env: GymEnv | VecEnv | str, device: th.device | str, given: dict[str, Any]) -> Any:
    state = folder.state
    vec_env = BaseAlgorithm._wrap_env(maybe_make_env(env, 0))
    with folder.understood():
        _check_spaces(vec_env, state["spaces"])
        check_wrappers(vec_env, state["environment"])
        found = resolve_arguments(state["hyperparameters"], given, from_json(state["counters"].get("seed")))
        check_network_sizes(state["hyperparameters"], found.given, folder.files.get(PARAMETERS, {}))
    with folder.understood(found.changed):
        with warnings.catch_warnings():
            # Arguments are saved after SB3 has completed them, and it warns about some of its own choices, such as
            # n_steps together with NStepReplayBuffer. The user has seen its other warnings in the first run.
            warnings.filterwarnings("ignore", module=re.escape(off_policy_algorithm.__name__))
            model: Any = found.algorithm(env=vec_env, device=device, **found.arguments)
        model.replay_buffer = make_buffer(model, found, state.get("buffer_arguments"), state["replay_buffer"])
        check_n_steps(model, found)
        set_parameters(model, folder.read(PARAMETERS), state["optimizers"], found.changed)
        of_buffer = {name.removeprefix("replay_buffer_kwargs.") for name in found.given}
        fill(model.replay_buffer, folder, state["replay_buffer"], of_buffer)
        set_counters(model, state["counters"], {"half_life"} if not of_buffer.isdisjoint(DECAY) else ())
        if "beta" in found.given and getattr(model, "priority", None) is not None:
            model.replay_buffer.beta = model.beta_schedule(model._current_progress_remaining)
    with folder.understood():
        if not set_environment_state(vec_env, state["environment"]):
            warn(
                "the state of the environment could not be restored, so it is reset: training continues, but not bit "
                "for bit as without the interruption (see docs/how_to/checkpoints.md)"
            )
            model._last_obs = None
            end_running_episodes(model.replay_buffer)
        vec_env.unwrapped._reset_seeds()
        set_random_states(model, state["random"])
    origin_of[model] = origin_at(folder)
    return model


def origin_at(folder: Folder) -> Origin:
    """
    :param folder: A checkpoint that a model is resumed from
    :return: The origin of this model
    """
    path = Path(os.path.realpath(folder.path))
    beside: list[Path] = []
    with contextlib.suppress(OSError):
        beside = list_candidates(path.parent)
    return Origin(path, max(map(number_of, beside), default=0))


def _check_spaces(env: VecEnv, saved: dict[str, Any]) -> None:
    for name in ("observation_space", "action_space"):
        theirs, ours = from_json(saved[name]), getattr(env, name)
        if theirs != ours:
            raise OtherSpacesError(
                f"the checkpoint's environment has the {name} {theirs}, this one has {ours}: use the environment that "
                "was saved"
            )
    if saved["n_envs"] != env.num_envs:
        raise OtherSpacesError(
            f"the checkpoint has {saved['n_envs']} environments, this one has {env.num_envs}: use the same number"
        )
