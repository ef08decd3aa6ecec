"""A folder is locked against other processes, and never longer than its process lives."""

import contextlib
import copy
import errno
import os
import signal
import time

import pytest

from sb3_reptile.storage import InUseError
from sb3_reptile.storage.lock import LOCK, FolderLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def in_a_process(function):
    """A process that runs a function, then says so, and waits to be killed."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            kept = function()
            os.write(writing, b"done")
            time.sleep(60)
            del kept
        os._exit(1)
    os.close(writing)
    assert os.read(reading, 4) == b"done"
    os.close(reading)
    return process


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_another_process_gets_an_error_until_the_first_is_killed(tmp_path):
    process = in_a_process(lambda: FolderLock(tmp_path))
    for _ in range(2):
        with pytest.raises(InUseError, match=rf"is in use by another process \(pid {process}\): wait"):
            FolderLock(tmp_path)
    kill(process)
    lock = FolderLock(tmp_path)
    assert lock.holds()
    lock.release()
    assert os.listdir(tmp_path) == []


def test_a_later_lock_of_the_same_process_takes_over(tmp_path):
    first = FolderLock(tmp_path)
    second = FolderLock(tmp_path)
    assert (first.holds(), second.holds()) == (False, True)
    first.release()
    assert os.listdir(tmp_path) == [LOCK]
    assert copy.deepcopy(second) is None
    del second
    assert os.listdir(tmp_path) == []


def test_a_forked_child_has_no_lock_and_does_not_keep_it(tmp_path):
    lock = FolderLock(tmp_path)

    def release_what_is_not_its_own():
        with pytest.raises(InUseError):
            FolderLock(tmp_path)
        lock.release()

    child = in_a_process(release_what_is_not_its_own)
    assert lock.holds()
    lock.release()
    others = in_a_process(lambda: FolderLock(tmp_path))  # while the child lives
    kill(others)
    kill(child)


def test_a_lock_whose_folder_was_removed_no_longer_holds(tmp_path):
    lock = FolderLock(tmp_path)
    os.unlink(tmp_path / LOCK)
    assert not lock.holds()
    again = FolderLock(tmp_path)
    lock.release()
    assert again.holds()


def test_without_locks_in_the_file_system_there_is_a_warning(tmp_path, monkeypatch):
    def unsupported(descriptor):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("sb3_reptile.storage.lock._lock", unsupported)
    with pytest.warns(UserWarning, match="has no locks: make sure that only one process uses it"):
        FolderLock(tmp_path)
