"""Regular files and folders on a disk: read without blocking, flushed, removed. What is in them is not known here."""

import contextlib
import errno
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sb3_reptile.storage.errors import UnreadableError

#: Number of threads that flush files to disk
FLUSH_THREADS = 16


def check_regular(path: Path) -> os.stat_result:
    """
    :param path: A file
    :return: Its status
    :raises FileNotFoundError: if it does not exist
    :raises UnreadableError: if it is not a regular file, for instance a pipe, which would block, or cannot be reached
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError(f"{path} cannot be read: it is not a regular file")
    return status


def read_regular(path: Path, limit: int) -> bytes:
    """
    :param path: A file
    :param limit: The largest number of bytes that it may have
    :return: Its content
    :raises FileNotFoundError: if it does not exist
    :raises UnreadableError: if it is larger, not a regular file, or cannot be read
    """
    size = check_regular(path).st_size
    if size > limit:
        raise UnreadableError(f"{path} cannot be read: it has {size} bytes, more than {limit}")
    try:
        # A file that became a pipe since then must not block either
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error


def flush(path: Path) -> None:
    """
    Write a file to disk.

    :param path: The file
    """
    # Windows flushes only what is open for writing
    _flush(path, os.O_RDWR | getattr(os, "O_BINARY", 0))


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(paths: list[Path]) -> None:
    """
    Write files to disk.

    :param paths: The files
    """
    if len(paths) <= 4:
        for path in paths:
            flush(path)
        return
    # In parallel, so that the file system can merge its writes
    with ThreadPoolExecutor(FLUSH_THREADS) as pool:
        list(pool.map(flush, paths))


def start_flushing(path: Path) -> None:
    """
    Start writing a file to disk in the background, while the next file is encoded.

    :param path: The file
    """
    if sys.platform == "linux":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def flush_folder(path: Path) -> None:
    """
    Write the names in a folder to disk.

    :param path: The folder
    """
    if os.name == "posix":  # other systems cannot open a folder
        _flush(path, os.O_RDONLY)


def make_folders(path: Path) -> None:
    """
    Make a folder and those that it is in, so that they survive a power failure.

    :param path: The folder
    """
    missing = []
    while not path.is_dir() and path != path.parent:
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        flush_folder(folder.parent)


def names_in(path: Path) -> list[str] | None:
    """
    :param path: A folder
    :return: The names of the files in it; None if it is not a folder, or holds anything but regular files
    """
    if path.is_symlink() or not path.is_dir():
        return None
    with os.scandir(path) as entries:
        found = [(entry.name, entry.is_file(follow_symlinks=False)) for entry in entries]
    return [name for name, _ in found] if all(is_file for _, is_file in found) else None


def remove_files(path: Path, names: list[str], last: str) -> None:
    """
    Remove a folder and the files in it, nothing else.

    :param path: The folder
    :param names: The names of its files
    :param last: Name of the file to remove last, by which the folder is recognised
    :raises OSError: if something cannot be removed, for instance as there is more in the folder
    """
    for name in sorted(names, key=lambda name: name == last):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path / name)
    os.rmdir(path)
