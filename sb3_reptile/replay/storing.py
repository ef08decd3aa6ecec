"""Replay buffers as arrays and values, and those in a folder. What they mean is the buffers' business."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay.encoding import decode, encode
from sb3_reptile.replay.scratch import ScratchFiles
from sb3_reptile.storage import DamagedError, NotStorableError
from sb3_reptile.storage.folder import Arrays, Folder, slices
from sb3_reptile.storage.values import from_json, to_json

# What a transition consists of. Once stored it stays as it is, unlike what is kept of it besides.
TRANSITION = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
# A file is a small part of the buffer, within these bounds: few change between two checkpoints, none takes much memory
SMALLEST_FILE, LARGEST_FILE, FILES = 1 << 20, 1 << 26, 16


class BufferState(NamedTuple):
    """
    All that a replay buffer holds.

    :param rows: Its arrays with one entry for each row of the ring, not copied. To restore them is to write into them.
    :param arrays: Other arrays, as they are now
    :param values: Numbers and the like, as JSON
    """

    rows: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]


def row_arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    """
    :param buffer: A replay buffer that keeps its rows as SB3's does
    :return: Its arrays that begin with the axes row and environment, by name; ``observations.position`` in a dict
    """
    found: dict[str, np.ndarray] = {}
    for name, value in vars(buffer).items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for key, array in items:
            if isinstance(array, np.ndarray) and array.shape[:2] == (buffer.buffer_size, buffer.n_envs):
                found[name if key is None else f"{name}.{key}"] = array
    if isinstance(buffer, HerReplayBuffer):
        del found["infos"]  # dicts, which are no numbers
    for name, array in found.items():
        if array.dtype.hasobject:
            raise NotStorableError(f"{type(buffer).__name__}.{name} holds Python objects, which only pickle could save")
    return found


def state_of_storage(buffer: ReplayBuffer) -> BufferState:
    """
    :param buffer: One of SB3's replay buffers for off-policy algorithms, or one that derives from it
    :return: What SB3 keeps in it
    """
    arrays: dict[str, np.ndarray] = {}
    if isinstance(buffer, HerReplayBuffer):
        arrays["current_episode_start"] = buffer._current_ep_start
        if buffer.copy_info_dict:
            infos = to_json(buffer.infos[: buffer.size()].tolist(), "infos")
            arrays["infos"] = np.frombuffer(json.dumps(infos).encode(), np.uint8)
    return BufferState(row_arrays(buffer), arrays, {"pos": int(buffer.pos), "full": bool(buffer.full)})


def restore_storage(buffer: ReplayBuffer, state: BufferState) -> None:
    """
    :param buffer: A replay buffer, whose rows have been restored
    :param state: What :func:`state_of_storage` said of one that was made with the same arguments
    """
    buffer.pos, buffer.full = state.values["pos"], state.values["full"]
    if isinstance(buffer, HerReplayBuffer):
        buffer._current_ep_start[:] = state.arrays["current_episode_start"]
        if buffer.copy_info_dict:
            infos = from_json(json.loads(state.arrays["infos"].tobytes()))
            for row, of_row in enumerate(infos):
                buffer.infos[row] = of_row


def state_of(buffer: ReplayBuffer) -> BufferState:
    """
    :param buffer: One of our replay buffers, or of SB3's
    :return: All that it holds
    """
    state = getattr(buffer, "state", None)
    return state() if callable(state) else state_of_storage(buffer)


def _n_written(buffer: ReplayBuffer, pos: int, full: bool) -> int:
    # The next observation of the newest row lies in the row after it, where memory is optimised
    n_rows = buffer.buffer_size if full else pos + buffer.optimize_memory_usage
    return min(n_rows, buffer.buffer_size)


def files_of(buffer: ReplayBuffer, state: BufferState) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    """
    :param buffer: A replay buffer
    :param state: What it holds
    :return: Names of files, and what makes the arrays in them: only rows that are filled
    """
    n_rows = _n_written(buffer, state.values["pos"], state.values["full"])
    for group, arrays in _groups(state).items():
        for rows in slices(n_rows, _rows_per_file(arrays)):
            yield f"{group}-{rows.start}.safetensors", partial(_encoded, buffer, arrays, rows)
    if state.arrays:
        others = {name: np.asarray(array, order="C") for name, array in state.arrays.items()}
        yield "buffer.safetensors", lambda: others


def _encoded(buffer: ReplayBuffer, arrays: dict[str, np.ndarray], rows: slice) -> Arrays:
    _release(buffer, rows)
    return encode({name: array[rows] for name, array in arrays.items()})


def fill(buffer: ReplayBuffer, folder: Folder, values: dict[str, Any]) -> None:
    """
    Make an empty buffer hold what was saved.

    :param buffer: The buffer, made with the arguments of the one that was saved. After an error it is of no use.
    :param folder: Where it was saved
    :param values: Its values
    :raises DamagedError: if a file is damaged
    :raises StorageError: if it was another kind of buffer
    """
    rows, _, _ = state = state_of(buffer)
    pos, full = values.get("pos"), values.get("full")
    if type(pos) is not int or type(full) is not bool or not 0 <= pos < buffer.buffer_size:
        raise DamagedError(f"{folder.path} has a replay buffer of {buffer.buffer_size} rows at {pos!r}, {full!r}")
    n_rows = _n_written(buffer, pos, full)
    for group, arrays in _groups(state).items():
        for name, part in _parts(folder, group, n_rows):
            decode(folder.read(name), {name: array[part] for name, array in arrays.items()})
            _release(buffer, part)
    arrays = folder.read("buffer.safetensors") if state.arrays else {}
    state = BufferState(rows, arrays, values)
    if hasattr(buffer, "set_state"):
        buffer.set_state(state)
    else:
        restore_storage(buffer, state)


def _parts(folder: Folder, group: str, n_rows: int) -> Iterator[tuple[str, slice]]:
    """The files of a group, and the rows that each of them holds: up to those of the next."""
    found = (re.fullmatch(rf"{group}-(\d+)\.safetensors", name) for name in folder.files)
    starts = sorted(int(match[1]) for match in found if match)
    if n_rows and starts[:1] != [0]:
        raise DamagedError(f"{folder.path} holds no {group}-0.safetensors, but {sorted(folder.files)}")
    for start, stop in itertools.pairwise([*starts, n_rows]):
        yield f"{group}-{start}.safetensors", slice(start, stop)


def _groups(state: BufferState) -> dict[str, dict[str, np.ndarray]]:
    """Transitions, and what is kept of them besides, in files of their own: the former stay as they are."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.rows.items():
        group = "transitions" if name.partition(".")[0] in TRANSITION else "weights"
        groups.setdefault(group, {})[name] = array
    return groups


def _rows_per_file(arrays: dict[str, np.ndarray]) -> int:
    n_bytes = sum(array.nbytes for array in arrays.values())
    of_row = max(n_bytes // len(next(iter(arrays.values()))), 1)
    return max(min(max(n_bytes // FILES, SMALLEST_FILE), LARGEST_FILE) // of_row, 1)


def _release(buffer: ReplayBuffer, rows: slice) -> None:
    """What is read of a buffer on disk, or written, need not stay in memory."""
    scratch = getattr(buffer, "_scratch", None)
    if scratch is not None:
        scratch.touched((rows.stop - rows.start) * buffer.n_envs, scattered=False)


def enlarge(buffer: ReplayBuffer, n_rows: int, scratch: ScratchFiles) -> None:
    """
    Give an empty buffer of one row its size, with the observations on disk. SB3 would have asked for memory for all.

    :param buffer: The buffer
    :param n_rows: Its number of rows
    :param scratch: Where the observations go
    """
    for name, array in row_arrays(buffer).items():
        attribute, _, key = name.partition(".")
        shape = (n_rows, *array.shape[1:])
        is_observation = attribute in ("observations", "next_observations")
        enlarged = scratch.zeros(shape, array.dtype) if is_observation else np.zeros(shape, array.dtype)
        if key:
            getattr(buffer, attribute)[key] = enlarged
        else:
            setattr(buffer, attribute, enlarged)
    if isinstance(buffer, HerReplayBuffer):
        buffer.infos = np.array([[{} for _ in range(buffer.n_envs)] for _ in range(n_rows)])
    buffer.buffer_size = n_rows
