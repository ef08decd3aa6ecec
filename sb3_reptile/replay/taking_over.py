"""Replay buffers that come from elsewhere: whether they fit a model, and how their transitions are taken over."""

import copy
import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay.buffers import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay.decayed_sampling import DecayedSampling
from sb3_reptile.replay.hindsight import DecayedHerReplayBuffer
from sb3_reptile.replay.multi_step import MultiStepSampling

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
    :raises ValueError: if the buffers do not fit each other, or ``source`` does not keep its observations in arrays
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
    for row in rows.tolist():
        of_next = (row + 1) % source.buffer_size if is_optimized else row
        infos = [{"TimeLimit.truncated": bool(truncated)} for truncated in source.timeouts[row]]
        if isinstance(source, HerReplayBuffer) and source.copy_info_dict:
            infos = [{**said, **info} for said, info in zip(source.infos[row], infos, strict=True)]
        target.add(
            _row(source.observations, row),
            _row(source.observations if is_optimized else source.next_observations, of_next),
            source.actions[row],
            source.rewards[row],
            source.dones[row],
            infos,
        )
    return len(rows) * source.n_envs


def fitted(loaded: ReplayBuffer, present: ReplayBuffer, path: Any) -> ReplayBuffer:
    """
    :param loaded: A buffer that was loaded
    :param present: The buffer that the model made by its options. It stays as it is if there is an error, unless it is
        on disk
    :param path: Where the buffer was loaded from
    :return: The loaded buffer; or one like the model's, with the transitions of the loaded one, if that is of another
        kind, or only one of them has ``half_life="auto"``
    :raises ValueError: if the loaded buffer does not fit the model
    """
    check_fits(loaded, present.observation_space, present.action_space, present.n_envs, f"the replay buffer in {path}")
    if not isinstance(present, DecayedSampling) or not _keeps_arrays(loaded):
        return loaded
    is_of_kind = isinstance(loaded, HerReplayBuffer) == isinstance(present, HerReplayBuffer)
    has_returns = isinstance(loaded, MultiStepSampling) or getattr(present, "n_steps", 1) == 1
    was_auto, is_auto = (getattr(buffer, "consistency", None) is not None for buffer in (loaded, present))
    if isinstance(loaded, DecayedSampling) and is_of_kind and has_returns and was_auto == is_auto:
        return loaded
    into = _emptied(present)
    try:
        n_taken = take_transitions(loaded, into)
    except BaseException:
        into.reset()
        raise
    names = [
        f"{type(buffer).__name__}{' with half_life=auto' if auto and was_auto != is_auto else ''}"
        for buffer, auto in ((loaded, was_auto), (into, is_auto))
    ]
    warnings.warn(
        f"{path} holds a {names[0]}: its {n_taken:,} newest transitions were taken over into the "
        f"model's {names[1]}, in their order. Ages count from the newest; initial weights and "
        "priorities are those of new transitions",
        stacklevel=3,
    )
    return into


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


def _row(stored: Any, row: int) -> Any:
    return {key: array[row] for key, array in stored.items()} if isinstance(stored, dict) else stored[row]
