"""Replay buffers in folders: what a buffer holds as arrays and values, and the files that they are saved to."""

import itertools
import os
import re
from collections.abc import Callable, Container, Iterator
from functools import partial, singledispatch
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay.compression import decode, encode
from sb3_reptile.replay.saved_arguments import changed_arguments, check_saved_arguments, without_decay
from sb3_reptile.storage import ArgumentError, DamagedError, ForeignError, NotStorableError
from sb3_reptile.storage.folder import Arrays, Folder, slices, write_folder
from sb3_reptile.storage.values import arguments_from_json, arguments_to_json

#: The kind of a folder that holds a replay buffer
KIND = "replay buffer"
# The arrays of a transition. Once stored they do not change, unlike initial weights and priorities.
TRANSITION = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
# Bytes of a file: a small part of the buffer within these bounds, so that few files change between two checkpoints, and
# none takes much memory
SMALLEST_FILE, LARGEST_FILE, FILES = 1 << 20, 1 << 26, 16

# Values of a buffer that follow from its arguments
VALUES_OF_ARGUMENTS = {
    "half_life": ("half_life",),
    "decay": ("half_life",),
    "beta": ("beta",),
    "weighting": ("weighting",),
    "initial_weights": ("generator",),
}

SelfSavedInFolder = TypeVar("SelfSavedInFolder", bound="SavedInFolder")


class BufferState(NamedTuple):
    """
    All that a replay buffer holds.

    :param rows: Its arrays with one entry for each row of the ring, not copied: to restore them, write into them
    :param arrays: Other arrays, as they are now
    :param values: Numbers and other small values, as JSON
    """

    rows: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]


def row_arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    """
    :param buffer: A replay buffer that keeps its rows as SB3's does
    :return: Its arrays that begin with the axes row and environment, by name; ``observations.position`` in a dict
    :raises NotStorableError: if one of them holds Python objects
    """
    found: dict[str, np.ndarray] = {}
    left_out = objects_of(buffer)
    for name, value in vars(buffer).items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for key, array in items:
            if name in left_out or not isinstance(array, np.ndarray):
                continue
            if array.shape[:2] == (buffer.buffer_size, buffer.n_envs):
                found[name if key is None else f"{name}.{key}"] = array
                if array.dtype.hasobject:
                    raise NotStorableError(
                        f"{type(buffer).__name__}.{name} holds Python objects, which only pickle could save"
                    )
    return found


@singledispatch
def objects_of(buffer: ReplayBuffer) -> tuple[str, ...]:
    """
    :param buffer: A replay buffer
    :return: Names of its arrays of Python objects that :func:`state_of_storage` saves in another form
    """
    return ()


@singledispatch
def state_of_storage(buffer: ReplayBuffer) -> BufferState:
    """
    :param buffer: One of SB3's replay buffers for off-policy algorithms, or of a class derived from one
    :return: What SB3 keeps in it
    """
    return BufferState(row_arrays(buffer), {}, {"pos": int(buffer.pos), "full": bool(buffer.full)})


@singledispatch
def restore_storage(buffer: ReplayBuffer, state: BufferState) -> None:
    """
    :param buffer: A replay buffer, whose rows have been restored
    :param state: What :func:`state_of_storage` returned of one that was made with the same arguments
    """
    buffer.pos, buffer.full = state.values["pos"], state.values["full"]


@singledispatch
def arguments_of_storage(buffer: ReplayBuffer) -> dict[str, Any]:
    """
    :param buffer: One of SB3's replay buffers for off-policy algorithms, or of a class derived from one
    :return: The keyword arguments of SB3's class that make an empty buffer like this one
    """
    return {
        "buffer_size": buffer.buffer_size * buffer.n_envs,
        "observation_space": buffer.observation_space,
        "action_space": buffer.action_space,
        "n_envs": buffer.n_envs,
        "optimize_memory_usage": buffer.optimize_memory_usage,
        "handle_timeout_termination": buffer.handle_timeout_termination,
    }


@arguments_of_storage.register
def _(buffer: NStepReplayBuffer) -> dict[str, Any]:
    arguments = arguments_of_storage.dispatch(object)(buffer)
    return {**arguments, "n_steps": buffer.n_steps, "gamma": buffer.gamma}


def arguments_of(buffer: ReplayBuffer) -> dict[str, Any]:
    """
    :param buffer: One of our replay buffers, or of SB3's
    :return: The keyword arguments that make an empty buffer like this one
    """
    return buffer._arguments() if isinstance(buffer, SavedInFolder) else arguments_of_storage(buffer)


def empty_buffer(
    cls: type[ReplayBuffer], arguments: dict[str, Any], device: th.device | str, env: VecEnv | None
) -> ReplayBuffer:
    """
    :param cls: The class of one of our replay buffers, or of SB3's
    :param arguments: What :func:`arguments_of` returned
    :param device: PyTorch device
    :param env: The environment, for hindsight replay
    :return: An empty buffer
    """
    if issubclass(cls, SavedInFolder):
        return cls._make(arguments, device, env)
    if issubclass(cls, HerReplayBuffer):
        arguments = {**arguments, "env": env}
    return cls(device=device, **arguments)


def state_of(buffer: ReplayBuffer) -> BufferState:
    """
    :param buffer: One of our replay buffers, or of SB3's
    :return: All that it holds
    """
    state = getattr(buffer, "state", None)
    return state() if callable(state) else state_of_storage(buffer)


def _n_written(buffer: ReplayBuffer, pos: int, full: bool) -> int:
    # The next observation of the newest row is stored in the row after it, where memory is optimised
    n_rows = buffer.buffer_size if full else pos + buffer.optimize_memory_usage
    return min(n_rows, buffer.buffer_size)


def files_of(buffer: ReplayBuffer, state: BufferState) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    """
    :param buffer: A replay buffer
    :param state: What it holds
    :return: Names of files, and functions that make the arrays in them: only rows that are filled
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


def fill(buffer: ReplayBuffer, folder: Folder, values: dict[str, Any], given: Container[str] = ()) -> None:
    """
    Fill an empty buffer with what was saved.

    :param buffer: The buffer, made with the arguments of the one that was saved. After an error it cannot be used.
    :param folder: The folder that it was saved in
    :param values: Its values
    :param given: Names of arguments that override those saved: the buffer keeps what it was made with
    :raises ArgumentError: if such an argument cannot be kept
    :raises DamagedError: if a file is damaged
    :raises StorageError: if another type of buffer was saved
    """
    rows, _, own = state = state_of(buffer)
    values = _with_given(values, own, given)
    made = _kept_arguments(buffer, given)
    pos, full = values.get("pos"), values.get("full")
    if type(pos) is not int or type(full) is not bool or not 0 <= pos < buffer.buffer_size:
        raise DamagedError(f"{folder.path} has a replay buffer of {buffer.buffer_size} rows at {pos!r}, {full!r}")
    n_rows = _n_written(buffer, pos, full)
    for group, arrays in _groups(state).items():
        for file, part in _parts(folder, group, n_rows):
            saved, wanted = folder.read(file), {name: array[part] for name, array in arrays.items()}
            # Weights are products of initial weights and priorities: only one of the two is wanted
            is_product = "prior" in saved and "prior" not in wanted and "weights" in wanted
            if is_product and "prioritized" in given:
                wanted["prior"] = wanted.pop("weights")
                values["largest_priority"] = 1.0
            decode(saved, wanted)
            if is_product and "weights" in wanted:
                wanted["weights"] /= saved["prior"]
            _release(buffer, part)
    arrays = folder.read("buffer.safetensors") if state.arrays else {}
    state = BufferState(rows, arrays, values)
    if hasattr(buffer, "set_state"):
        buffer.set_state(state)
    else:
        restore_storage(buffer, state)
    for name, value in _kept_arguments(buffer, given).items():
        if value != made[name]:
            raise ArgumentError(f"{name} cannot change from {value!r:.200}, the saved one, to {made[name]!r:.200}")


def _with_given(values: dict[str, Any], own: dict[str, Any], given: Container[str]) -> dict[str, Any]:
    """The values that were saved, but for those that follow from arguments that were given."""
    values = dict(values)
    for name, keys in VALUES_OF_ARGUMENTS.items():
        for key in keys if name in given else ():
            values.pop(key, None)
            if key in own:
                values[key] = own[key]
    # Of a decay of another kind, which counts its calls, or does not
    if "ages" in own and dict(own["ages"]).keys() != dict(values["ages"]).keys():
        values["ages"] = own["ages"]
    return values


def _kept_arguments(buffer: ReplayBuffer, given: Container[str]) -> dict[str, Any]:
    """The arguments that were given, as the buffer has them now."""
    if not isinstance(buffer, SavedInFolder):
        return {}
    arguments = arguments_to_json(buffer._arguments())
    return {
        name: value for name, value in arguments.items() if name in given or (name == "decay" and "half_life" in given)
    }


def _parts(folder: Folder, group: str, n_rows: int) -> Iterator[tuple[str, slice]]:
    """The files of a group, and the rows in each of them, which end where those of the next begin."""
    found = (re.fullmatch(rf"{group}-(\d+)\.safetensors", name) for name in folder.files)
    starts = sorted(int(match[1]) for match in found if match)
    if n_rows and starts[:1] != [0]:
        raise DamagedError(f"{folder.path} holds no {group}-0.safetensors, but {sorted(folder.files)}")
    for start, stop in itertools.pairwise([*starts, n_rows]):
        yield f"{group}-{start}.safetensors", slice(start, stop)


def _groups(state: BufferState) -> dict[str, dict[str, np.ndarray]]:
    """Transitions, which do not change, and the other arrays in files of their own."""
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
    """Release memory that maps rows of a buffer on disk which were read or written."""
    scratch = getattr(buffer, "_scratch", None)
    if scratch is not None:
        scratch.touched((rows.stop - rows.start) * buffer.n_envs, scattered=False)


class SavedInFolder(ReplayBuffer):
    """
    Mixin for replay buffers that are saved without pickle. What derives from it and holds more overrides ``state()``,
    ``set_state()`` and ``_arguments()``.
    """

    def state(self) -> BufferState:
        """
        :return: All that it holds
        """
        return state_of_storage(self)

    def set_state(self, state: BufferState) -> None:
        """
        :param state: What ``state()`` returned of a buffer made with the same arguments; the rows have been restored
        """
        restore_storage(self, state)

    def _arguments(self) -> dict[str, Any]:
        """The keyword arguments that make an empty buffer like this one."""
        return arguments_of_storage(self)

    @classmethod
    def _make(
        cls: type[SelfSavedInFolder], arguments: dict[str, Any], device: th.device | str, env: VecEnv | None
    ) -> SelfSavedInFolder:
        """An empty buffer."""
        return cls(device=device, **arguments)

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Save it into a folder, without pickle: all that is stored and all that draws depend on. A buffer that was saved
        there before is replaced once everything is written.

        :param path: The folder
        :raises NotOursError: if there is anything else at the path; nothing is changed then
        :raises NotStorableError: if it holds something that only pickle could save
        :raises OSError: if it cannot be written; what was there before stays
        """
        state = self.state()
        about = {
            "class": type(self).__name__,
            "arguments": arguments_to_json(self._arguments()),
            "values": state.values,
        }
        write_folder(path, KIND, about, files_of(self, state))

    @classmethod
    def load(
        cls: type[SelfSavedInFolder],
        path: str | os.PathLike[str],
        device: th.device | str = "auto",
        env: VecEnv | None = None,
        **kwargs: Any,
    ) -> SelfSavedInFolder:
        """
        Make a buffer from what ``save`` wrote. No code in the folder is executed.

        :param path: The folder
        :param device: PyTorch device
        :param env: The environment, for hindsight replay
        :param kwargs: Arguments that override those saved; one that cannot change, such as ``buffer_size``, is an
            error. Those that could not be saved must be given: a decay or initial weights that are functions, and those
            of a storing class of your own. With a ``storage_dir`` the observations are on disk.
        :return: The buffer, which draws what the saved one would have drawn
        :raises FileNotFoundError: if there is no such folder
        :raises ForeignError: if it holds something else, or another class of buffer
        :raises MissingArgumentError: if an argument could not be saved and is not given
        :raises ArgumentError: if an argument is given that does not exist or cannot change
        :raises NewerVersionError: if it was saved by a later version
        :raises DamagedError: if it is not as it was saved
        """
        folder = Folder(path, KIND)
        about = folder.state
        with folder.understood():
            if about["class"] != cls.__name__:
                raise ForeignError(f"{path} holds a {about['class']}: load it by {about['class']}.load()")
            saved = dict(about["arguments"])
            changed = changed_arguments(saved, kwargs)
            without_decay(saved, kwargs)
            check_saved_arguments(saved, kwargs, f"{cls.__name__}.load", issubclass(cls, HerReplayBuffer))
            arguments = arguments_from_json(saved, kwargs, f"{cls.__name__}.load")
        with folder.understood(changed):
            buffer = cls._make(arguments, device, env)
            fill(buffer, folder, about["values"], {*kwargs})
        return buffer
