"""Observations on a disk instead of in memory, in files without a name that vanish with the process."""

import errno
import math
import mmap
import os
import shutil
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile.replay.persistence import row_arrays

# Bytes that may be mapped before they are released; the file keeps them
RELEASE_EVERY = 2**29
# Bytes that the system maps at most when a page is touched: a huge page
AROUND = 2**21


#: What may be in use in this process
_in_use: "weakref.WeakSet[ScratchFiles]" = weakref.WeakSet()


class ScratchFiles:
    """
    Memory-mapped arrays. Their pages are released now and then, so that they do not count as memory of the process; the
    system keeps those in use in its cache as long as there is room.

    Such arrays are copied into memory by pickle and ``copy.deepcopy``. In a child process that is forked they can be
    read, but not written: its parent has the same files.

    :param storage_dir: An existing folder on a disk with room for them
    :raises NotADirectoryError: if there is no such folder
    """

    def __init__(self, storage_dir: str | os.PathLike[str]) -> None:
        self.storage_dir = Path(storage_dir)
        if not self.storage_dir.is_dir():
            raise NotADirectoryError(f"storage_dir must be an existing folder, got {str(storage_dir)!r}: make it first")
        self._pid = os.getpid()
        self._maps: list[mmap.mmap] = []
        self._arrays: list[weakref.ref[np.ndarray]] = []
        self._bytes_of_transition = 0
        self._touched = 0
        # Files of a buffer are written by several threads
        self._lock = threading.Lock()
        _in_use.add(self)

    def __reduce__(self) -> Any:
        return type(None), ()

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """
        :param shape: Shape of the array, which begins with the axes row and environment
        :param dtype: Its type
        :return: The array, filled with zeros
        :raises OSError: if the disk has no room for it
        """
        n_bytes = max(math.prod(shape) * dtype.itemsize, 1)
        with tempfile.TemporaryFile(dir=self.storage_dir) as file:
            # A disk that is full when a page is written would end the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                # macOS makes a file with holes
                if (free := shutil.disk_usage(self.storage_dir).free) < n_bytes:
                    reason = f"{os.strerror(errno.ENOSPC)}: {n_bytes} bytes are needed, {free} are free"
                    raise OSError(errno.ENOSPC, reason, str(self.storage_dir))
                file.truncate(n_bytes)
            mapped = mmap.mmap(file.fileno(), n_bytes)
        self._maps.append(mapped)
        self._bytes_of_transition += math.prod(shape[2:]) * dtype.itemsize
        array = np.frombuffer(mapped, dtype, count=math.prod(shape)).reshape(shape)
        self._arrays.append(weakref.ref(array))
        return array

    def check_owner(self) -> None:
        """
        :raises RuntimeError: in a child process that was forked from the one that made the files
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the observations in storage_dir={str(self.storage_dir)!r} belong to the process {self._pid}, which "
                "this one was forked from: make its own buffer, or copy this one by copy.deepcopy()"
            )

    def make_read_only(self) -> None:
        """Let no write reach the files."""
        for reference in self._arrays:
            array = reference()
            if array is not None:
                array.flags.writeable = False

    def touched(self, n_transitions: int, scattered: bool = True) -> None:
        """
        Call this whenever transitions were read or written.

        :param n_transitions: Number of transitions
        :param scattered: Whether they lie apart
        """
        around = AROUND * len(self._maps) if scattered else 0
        with self._lock:
            self._touched += n_transitions * (self._bytes_of_transition + around)
            if self._touched >= RELEASE_EVERY:
                self._touched = 0
                if sys.platform != "win32":
                    for mapped in self._maps:
                        mapped.madvise(mmap.MADV_DONTNEED)


def _after_fork() -> None:
    for scratch in _in_use:
        scratch.make_read_only()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def enlarge(buffer: ReplayBuffer, n_rows: int, scratch: ScratchFiles) -> None:
    """
    Give an empty buffer of one row its size, with the observations on disk. SB3 would allocate memory for all.

    :param buffer: The buffer
    :param n_rows: Its number of rows
    :param scratch: Where the observations go
    """
    for name, array in row_arrays(buffer).items():
        attribute, of_dict, key = name.partition(".")
        shape = (n_rows, *array.shape[1:])
        is_observation = attribute in ("observations", "next_observations")
        enlarged = scratch.zeros(shape, array.dtype) if is_observation else np.zeros(shape, array.dtype)
        if of_dict:
            getattr(buffer, attribute)[key] = enlarged
        else:
            setattr(buffer, attribute, enlarged)
    buffer.buffer_size = n_rows


def move_to_disk(buffer: ReplayBuffer, scratch: ScratchFiles) -> None:
    """
    Move the observations of a buffer from memory to a disk.

    :param buffer: The buffer
    :param scratch: Where the observations go
    """
    for attribute in ("observations", "next_observations"):
        stored = getattr(buffer, attribute, None)
        if isinstance(stored, dict):
            stored.update({key: _copied(array, scratch) for key, array in stored.items()})
        elif stored is not None:
            setattr(buffer, attribute, _copied(stored, scratch))
    scratch.touched(buffer.size() * buffer.n_envs, scattered=False)


def _copied(array: np.ndarray, scratch: ScratchFiles) -> np.ndarray:
    copied = scratch.zeros(array.shape, array.dtype)
    copied[:] = array
    return copied
