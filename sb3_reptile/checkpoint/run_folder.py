"""The folder of a run's checkpoints: their names, which of them may be removed, and the lock on it."""

import contextlib
import os
import re
from pathlib import Path

from sb3_reptile.storage.files import make_folders
from sb3_reptile.storage.lock import FolderLock
from sb3_reptile.storage.ownership import (
    MANIFEST,
    manifest_of,
    remove_if_ours,
    remove_unfinished,
    replaced,
    why_not_ours,
)

#: The kind of a folder that holds a checkpoint
KIND = "checkpoint"
# The names that are made here
NAME = re.compile(r"(\d{6,})-step-(\d+)", re.ASCII)
UNFINISHED = re.compile(rf"\.{NAME.pattern}\.\d+(\.[0-9a-f]{{8}})?\.saving", re.ASCII)
REPLACED = re.compile(rf"\.{NAME.pattern}\.old", re.ASCII)


def number_of(path: Path) -> int:
    """
    :param path: A folder with the name of a checkpoint
    :return: Its number
    """
    return int(path.name.partition("-")[0])


def list_candidates(path: Path) -> list[Path]:
    """
    :param path: A folder of checkpoints
    :return: All in it that has the name of a checkpoint, from the oldest to the newest, whatever it holds
    :raises OSError: if the folder cannot be listed
    """
    try:
        names = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((path / name for name in names if NAME.fullmatch(name)), key=number_of)


def list_checkpoints(path: Path) -> list[Path]:
    """
    :param path: A folder of checkpoints
    :return: The checkpoints in it, from the oldest to the newest
    :raises OSError: if the folder cannot be listed
    """
    return [entry for entry in list_candidates(path) if (entry / MANIFEST).exists()]


def is_own_checkpoint(path: Path, kind: str = KIND) -> bool:
    """
    :param path: A folder with the name of a checkpoint
    :param kind: The kind of content that it must have
    :return: Whether it was saved under this name and holds nothing else. A copy under another name was not.
    """
    manifest = manifest_of(path)
    if manifest is None or why_not_ours(path, kind) is not None:
        return False
    name = manifest.get("name")
    if name is not None:
        return bool(name == path.name)
    # Saved by a version that did not write the name
    try:
        return str(manifest["state"]["counters"]["num_timesteps"]) == path.name.rpartition("-")[2]
    except (KeyError, TypeError):
        return False


class RunFolder:
    """
    A folder of checkpoints, locked against other processes. Nothing in it is removed but what was saved here.

    :param path: The folder; it is made if there is none
    :param kind: The kind of its checkpoints
    :raises InUseError: if another process has locked it
    :raises OSError: if it cannot be made or listed
    """

    def __init__(self, path: Path, kind: str = KIND) -> None:
        self.path = path
        self._kind = kind
        make_folders(path)
        self._lock = FolderLock(path)

    def is_locked(self) -> bool:
        """
        :return: Whether the lock still holds: not if the folder was removed or moved since
        """
        return self._lock.holds()

    def unlock(self) -> None:
        """Let other processes use the folder."""
        self._lock.release()

    def next_name(self, num_timesteps: int) -> str:
        """
        :param num_timesteps: The step of the next checkpoint
        :return: Its name
        """
        present = list_candidates(self.path)
        return f"{number_of(present[-1]) + 1 if present else 1:06d}-step-{num_timesteps}"

    def remove_leftovers(self) -> None:
        """Remove what interrupted saves left behind, as far as that is possible."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path):
                with contextlib.suppress(OSError):
                    if UNFINISHED.fullmatch(name):
                        remove_unfinished(self.path / name)
                    elif REPLACED.fullmatch(name):
                        remove_if_ours(self.path / name, self._kind)

    def prune(self, kept: list[Path]) -> None:
        """
        Remove checkpoints, also damaged ones, whose manifest states that they were saved here.

        :param kept: Those that stay
        :raises OSError: if one cannot be removed
        """
        for path in list_candidates(self.path):
            if path not in kept and is_own_checkpoint(path, self._kind):
                # Rename it first: a partly removed folder must not look like a checkpoint
                os.rename(path, replaced(path))
                remove_if_ours(replaced(path), self._kind)
