"""Replay buffers that come from elsewhere: whether they fit a model, and how their transitions are taken over."""

import copy
import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay.buffers import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay.decay import Exponential
from sb3_reptile.replay.decayed_sampling import DecayedSampling
from sb3_reptile.replay.hindsight import DecayedHerReplayBuffer
from sb3_reptile.replay.memmap import ScratchFiles, move_to_disk
from sb3_reptile.replay.multi_step import MultiStepSampling
from sb3_reptile.replay.persistence import arguments_of
from sb3_reptile.storage.values import arguments_to_json

# Options that a buffer can have changed, and arguments that are not compared: its size, its form, its returns
CHANGEABLE = ("beta", "weighting", "combined", "on_bad_transition")
OF_STORAGE = (
    "buffer_size",
    "observation_space",
    "action_space",
    "n_envs",
    "optimize_memory_usage",
    "n_steps",
    "gamma",
)
# Rows that are checked at once
ROWS_AT_ONCE = 256
#: SB3's replay buffers, and those that decay in their place
DECAYED_COUNTERPARTS: dict[type[ReplayBuffer], type[ReplayBuffer]] = {
    ReplayBuffer: DecayedReplayBuffer,
    DictReplayBuffer: DecayedDictReplayBuffer,
    NStepReplayBuffer: DecayedNStepReplayBuffer,
    HerReplayBuffer: DecayedHerReplayBuffer,
}


def check_fits(
    buffer: ReplayBuffer, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int, name: str
) -> None:
    """
    :param buffer: A replay buffer
    :param observation_space: The model's observation space
    :param action_space: The model's action space
    :param n_envs: The model's number of environments
    :param name: What the buffer is called in the message
    :raises ValueError: if the buffer was made for other spaces, or another number of environments
    """
    ours = {"observation_space": observation_space, "action_space": action_space, "n_envs": n_envs}
    for attribute, needed in ours.items():
        found = getattr(buffer, attribute)
        if found != needed:
            raise ValueError(
                f"{name} was made for {attribute}={found}, the model has {attribute}={needed}: use a buffer of the "
                "same environments, or begin with an empty one"
            )


def take_transitions(source: ReplayBuffer, target: ReplayBuffer) -> int:
    """
    Add the transitions of one replay buffer to another, from the oldest to the newest, so that their ages are in order.
    One at a time, as if they happened again: about half a minute for a million.

    :param source: One of SB3's or our replay buffers
    :param target: The buffer that they are added to, for the same spaces and number of environments. If it is smaller,
        it takes the newest.
    :return: Number of transitions taken
    :raises ValueError: if the buffers do not fit each other, ``source`` does not keep its observations in arrays, or a
        reward or an observation is not finite and ``target`` has ``on_bad_transition="raise"``; nothing is taken then
    """
    check_fits(source, target.observation_space, target.action_space, target.n_envs, "the buffer to take from")
    if not _keeps_arrays(source):
        raise ValueError(
            f"the transitions of {type(source).__name__} cannot be taken over: it does not keep observations in arrays "
            "as SB3's replay buffers do"
        )
    is_optimized = source.optimize_memory_usage
    # With memory optimisation, the observation of the oldest row of a full buffer has been overwritten
    oldest = int(is_optimized and source.full)
    rows = (np.arange(oldest, source.size()) + (source.pos if source.full else 0)) % source.buffer_size
    rows = rows[-target.buffer_size :]
    _check_finite(source, target, rows)
    for row in rows.tolist():
        infos = [{"TimeLimit.truncated": bool(truncated)} for truncated in source.timeouts[row]]
        if isinstance(source, HerReplayBuffer) and source.copy_info_dict:
            infos = [{**said, **info} for said, info in zip(source.infos[row], infos, strict=True)]
        target.add(
            _row(source.observations, row),
            _next_row(source, row),
            source.actions[row],
            source.rewards[row],
            source.dones[row],
            infos,
        )
    return len(rows) * source.n_envs


def _check_finite(source: ReplayBuffer, target: ReplayBuffer, rows: np.ndarray) -> None:
    """Before any is added: as ``target.add()`` would, for several rows at once."""
    if not (isinstance(target, DecayedSampling) and target.on_bad_transition == "raise"):
        return
    checks, added = target._bad_transitions, target.distribution.rows_added

    def are_finite(which: np.ndarray) -> bool:
        return checks.accepts(_row(source.observations, which), _next_row(source, which), source.rewards[which])

    for start in range(0, len(rows), ROWS_AT_ONCE):
        several = rows[start : start + ROWS_AT_ONCE]
        if are_finite(several):
            continue
        number, row = next((number, row) for number, row in enumerate(several, start) if not are_finite(row))
        obs, next_obs, reward = _row(source.observations, row), _next_row(source, row), source.rewards[row]
        checks.refuse(obs, next_obs, reward, added + number, type(target).__name__)


def fitted(loaded: ReplayBuffer, present: ReplayBuffer, path: Any) -> ReplayBuffer:
    """
    :param loaded: A buffer that was loaded
    :param present: The buffer that the model made by its options. It stays as it is if there is an error, unless it is
        on disk
    :param path: Where the buffer was loaded from
    :return: The loaded buffer, with the model's options; or one like the model's, with the transitions of the loaded
        one, if that is of another kind, or was made with other options that cannot be changed
    :raises ValueError: if the loaded buffer does not fit the model
    :raises OSError: if there is no room on the disk for its observations, which the model keeps there
    """
    check_fits(loaded, present.observation_space, present.action_space, present.n_envs, f"the replay buffer in {path}")
    if not isinstance(present, DecayedSampling):
        return loaded
    is_of_kind = isinstance(loaded, HerReplayBuffer) == isinstance(present, HerReplayBuffer)
    has_returns = isinstance(loaded, MultiStepSampling) or getattr(present, "n_steps", 1) == 1
    differing = differing_options(loaded, present)
    is_alike = isinstance(loaded, DecayedSampling) and is_of_kind and has_returns and not differing
    if is_alike or not _keeps_arrays(loaded):
        if isinstance(loaded, DecayedSampling):
            _hand_over_options(present, loaded)
        return loaded
    into = _emptied(present)
    try:
        n_taken = take_transitions(loaded, into)
    except BaseException:
        into.reset()
        raise
    names = []
    for which, buffer in enumerate((loaded, into)):
        options = [f"{name}={values[which]}" for name, values in differing.items() if values[which] is not None]
        names.append(f"{type(buffer).__name__}{' with ' if options else ''}{', '.join(options)}")
    warnings.warn(
        f"{path} holds a {names[0]}: its {n_taken:,} newest transitions were taken over into the "
        f"model's {names[1]}, in their order. Ages count from the newest; initial weights and "
        "priorities are those of new transitions",
        stacklevel=4,
    )
    return into


def differing_options(loaded: ReplayBuffer, present: ReplayBuffer) -> dict[str, tuple[Any, Any]]:
    """
    :param loaded: A buffer that was loaded
    :param present: The buffer that the model made by its options
    :return: The options in which they differ and that cannot be changed, by name: those of each, None if it has no such
        option. Functions do not differ, as those that were pickled cannot be compared. Empty if one of them does not
        decay.
    """
    if not (isinstance(loaded, DecayedSampling) and isinstance(present, DecayedSampling)):
        return {}
    theirs, ours = ({"half_life": None, **arguments_of(buffer)} for buffer in (loaded, present))
    their_json, our_json = arguments_to_json(theirs), arguments_to_json(ours)
    names = [name for name in {**theirs, **ours} if name not in CHANGEABLE and name not in OF_STORAGE]
    if loaded.takes_half_life and isinstance(present.decay, Exponential):
        names.remove("decay")
    if _skips_what_it_cannot(present, loaded):
        names.append("on_bad_transition")
    return {
        name: (theirs.get(name), ours.get(name))
        for name in names
        if their_json.get(name) != our_json.get(name)
        and not ("$missing" in str(their_json.get(name)) and "$missing" in str(our_json.get(name)))
    }


def _hand_over_options(present: DecayedSampling, loaded: DecayedSampling) -> None:
    """
    Let a buffer have the options of another one, as far as they can be changed.

    :param present: The buffer that the model made by its options
    :param loaded: A buffer that was loaded
    :raises OSError: if there is no room on the disk for its observations
    """
    if loaded.takes_half_life and isinstance(present.decay, Exponential):
        loaded.half_life = present.half_life
    if loaded.prioritized == present.prioritized:
        loaded.weighting = present.weighting
    loaded.beta = present.beta
    loaded.distribution.combined = present.combined
    if not _skips_what_it_cannot(present, loaded):
        loaded._bad_transitions.policy = present.on_bad_transition
    if present._scratch is not None and loaded._scratch is None and _keeps_arrays(loaded):
        scratch = ScratchFiles(present._scratch.storage_dir)
        move_to_disk(loaded, scratch)
        loaded._scratch = scratch


def _skips_what_it_cannot(present: DecayedSampling, loaded: DecayedSampling) -> bool:
    return present.on_bad_transition == "skip" and loaded.optimize_memory_usage


def _emptied(buffer: Any) -> Any:
    """An empty buffer like this one; itself if it is empty, or on disk. Another one stays as it is."""
    into = buffer
    if buffer.size() > 0 and buffer._scratch is None:
        into = copy.deepcopy(buffer)
        if isinstance(into, HerReplayBuffer):  # of which SB3 does not copy the environment
            into.set_env(buffer.env)
    into.reset()
    return into


def _keeps_arrays(buffer: ReplayBuffer) -> bool:
    stored: Any = buffer.observations
    arrays = stored.values() if isinstance(stored, dict) else [stored]
    shape = (buffer.buffer_size, buffer.n_envs)
    return all(
        isinstance(array, np.ndarray) and array.shape[:2] == shape and not array.dtype.hasobject for array in arrays
    )


def _row(stored: Any, row: Any) -> Any:
    return {key: array[row] for key, array in stored.items()} if isinstance(stored, dict) else stored[row]


def _next_row(buffer: ReplayBuffer, row: Any) -> Any:
    if buffer.optimize_memory_usage:
        return _row(buffer.observations, (row + 1) % buffer.buffer_size)
    return _row(buffer.next_observations, row)
