"""A lock on a folder that ends with its process, however that ends."""

import contextlib
import errno
import os
import sys
import weakref
from pathlib import Path
from typing import Any

from sb3_reptile.storage.errors import InUseError, warn

LOCK = ".sb3-reptile.lock"
# Where Windows locks a byte, behind what is read
FAR_BEHIND = 1 << 20
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}

#: The locks of this process by device and inode. The system forgets a lock when any descriptor of its file is closed,
#: so that a file must not be opened twice.
_held: "weakref.WeakValueDictionary[tuple[int, int], FolderLock]" = weakref.WeakValueDictionary()


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, FAR_BEHIND, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # A record lock: a child process that is forked does not hold it, so that it ends with this process
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class FolderLock:
    """
    Locks a folder against other processes. In one process, a later lock takes over from an earlier one.

    :param folder: An existing folder
    :raises InUseError: if another process has locked it
    :raises OSError: if the lock file cannot be written
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._pid = os.getpid()
        self._descriptor: int | None = None
        self._held_as = (0, 0)
        while self._descriptor is None:
            self._descriptor = self._taken_over() or self._acquired()
        _held[self._held_as] = self

    def _taken_over(self) -> int | None:
        """The descriptor of an earlier lock of this process."""
        try:
            self._held_as = _key(os.stat(self.path))
        except FileNotFoundError:
            return None
        earlier = _held.pop(self._held_as, None)
        if earlier is None or earlier._pid != self._pid:  # of the process that this one was forked from
            return None
        descriptor, earlier._descriptor = earlier._descriptor, None
        return descriptor

    def _acquired(self) -> int | None:
        """The descriptor of the lock file, locked; None if the process that had locked it has removed it since."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            self._lock_or_warn(descriptor)
            with contextlib.suppress(FileNotFoundError):
                self._held_as = _key(os.fstat(descriptor))
                if _key(os.stat(self.path)) == self._held_as:
                    os.ftruncate(descriptor, 0)
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    os.write(descriptor, str(self._pid).encode())
                    kept, descriptor = descriptor, -1
                    return kept
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _lock_or_warn(self, descriptor: int) -> None:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _TAKEN:
                raise InUseError(
                    f"{self.path.parent} is in use by another process ({self._owner()}): wait until it has ended, or "
                    "use another path"
                ) from None
            if error.errno not in _UNSUPPORTED:
                raise
            warn(f"the file system of {self.path.parent} has no locks: make sure that only one process uses it")

    def _owner(self) -> str:
        try:
            return f"pid {int(self.path.read_bytes()[:20])}"
        except (OSError, ValueError):
            return "pid unknown"

    def holds(self) -> bool:
        """
        :return: Whether the folder is still locked by this: not if its lock file was removed, or another lock took over
        """
        if self._descriptor is None:
            return False
        try:
            return _key(os.stat(self.path)) == self._held_as
        except FileNotFoundError:
            return False

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy does not hold the lock

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.release()

    def release(self) -> None:
        """Let others use the folder. Does nothing if a later lock of this process has taken over."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or self._pid != os.getpid():
            return
        _held.pop(self._held_as, None)
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            if _key(os.stat(self.path)) == self._held_as:
                os.unlink(self.path)
        with contextlib.suppress(OSError):  # the system closes it all the same
            os.close(descriptor)
