"""Stands between storage and the system: lets any call fail, and knows what a power failure would leave."""

import builtins
import contextlib
import errno
import fcntl
import io
import os
import stat
import threading
from pathlib import Path

from safetensors import SafetensorError

from sb3_reptile.storage import folder

# Calls that read or write files; those that change them come first
CHANGES = ("mkdir", "rename", "link", "unlink", "rmdir", "write", "ftruncate", "fsync")
CALLS = (*CHANGES, "open", "close", "stat", "lstat", "listdir", "scandir", "posix_fadvise", "lseek", "fstat")


class Shim:
    """
    A context in which each call that concerns files in a folder is reported to ``before`` and ``after``.

    :param root: The folder
    """

    def __init__(self, root):
        self.root = os.fspath(root)
        self.lock = threading.RLock()
        self.paths = {}
        self.inside = threading.local()

    def before(self, name, path):
        pass

    def after(self, name, path, result):
        pass

    def _concerns(self, arguments):
        """The path that a call is about, if it is in the folder."""
        first = arguments[0] if arguments else None
        if isinstance(first, int):
            return self.paths.get(first)
        with contextlib.suppress(TypeError):
            for argument in arguments[:2]:
                if os.fspath(argument).startswith(self.root):
                    return os.fspath(argument)
        return None

    def _wrap(self, name, function, path_at=0):
        def wrapped(*arguments, **options):
            path = self._concerns(arguments[path_at:])
            if path is None or getattr(self.inside, "shim", False):
                return function(*arguments, **options)
            self.inside.shim = True
            try:
                with self.lock:
                    self.before(name, path)
                    result = function(*arguments, **options)
                    if name == "open" and isinstance(result, int):
                        self.paths[result] = path
                    self.after(name, path, result)
                    if name == "close":
                        self.paths.pop(arguments[0], None)
                    return result
            finally:
                self.inside.shim = False

        return wrapped

    def __enter__(self):
        self.patched = [(os, name, getattr(os, name)) for name in CALLS]
        self.patched += [(fcntl, "lockf", fcntl.lockf), (io, "open", io.open), (builtins, "open", builtins.open)]
        self.patched += [(folder, "save_file", folder.save_file), (folder, "safe_open", folder.safe_open)]
        for module, name, function in self.patched:
            setattr(module, name, self._wrap(name, function, path_at=1 if name == "save_file" else 0))
        return self

    def __exit__(self, *_):
        for module, name, function in self.patched:
            setattr(module, name, function)


class Fault(Shim):
    """
    One call fails.

    :param number: Which, from 1 on
    :param done: Whether it has had its effect all the same, as when an answer of a file server is lost
    :param error: The error
    """

    def __init__(self, root, number, done, error=errno.EIO):
        super().__init__(root)
        self.number, self.done, self.error = number, done, error
        self.n_calls, self.failed = 0, None

    def _fail(self, name, path):
        self.failed = f"{name} {path}"
        if name == "save_file":
            Path(path).write_bytes(b"\0" * 1000)  # cut
            raise SafetensorError(f"I/O error: {os.strerror(self.error)}")
        raise OSError(self.error, os.strerror(self.error), path)

    def before(self, name, path):
        # A call that only reads and one that has no effect are the same
        self.n_calls += not self.done or name in (*CHANGES, "save_file", "lockf")
        if self.n_calls == self.number and not self.done:
            self._fail(name, path)

    def after(self, name, path, result):
        if self.n_calls == self.number and self.done and self.failed is None:
            self._fail(name, path)


class PowerFailure(Shim):
    """
    Knows what is on the disk for sure: the content of files, and the names in folders, when they were last flushed.

    :param root: An existing folder, which stays
    :param at: Called with this after each call that changes something
    """

    def __init__(self, root, at):
        super().__init__(root)
        self.at = at
        self.files, self.folders, self.kept = {}, {self._number(root): {}}, []

    @staticmethod
    def _number(path):
        return os.lstat(path).st_ino

    def after(self, name, path, result):
        if name == "fsync":
            # An open descriptor keeps the number of the file from being used again
            self.kept.append(os.open(path, os.O_RDONLY))
            if stat.S_ISDIR(os.fstat(self.kept[-1]).st_mode):
                entries = os.listdir(path)
                self.folders[self._number(path)] = {name: self._number(os.path.join(path, name)) for name in entries}
                self.folders.update(
                    {self._number(e): self.folders.get(self._number(e), {}) for e in self._subfolders(path)}
                )
            else:
                self.files[self._number(path)] = Path(path).read_bytes()
        if name in (*CHANGES, "save_file"):
            self.at(self)

    @staticmethod
    def _subfolders(path):
        return [os.path.join(path, name) for name in os.listdir(path) if os.path.isdir(os.path.join(path, name))]

    def leave_flushed(self, into, number=None):
        """Write only what was flushed: names as they were when their folder was flushed last."""
        into.mkdir()
        for name, inside in self.folders[number or self._number(self.root)].items():
            if inside in self.folders:
                self.leave_flushed(into / name, inside)
            else:
                (into / name).write_bytes(self.files.get(inside, b""))

    def leave_names(self, into, path=None):
        """Write all names as they are now, but only content that was flushed."""
        into.mkdir()
        for entry in Path(path or self.root).iterdir():
            if entry.is_dir():
                self.leave_names(into / entry.name, entry)
            else:
                (into / entry.name).write_bytes(self.files.get(self._number(entry), b""))

    def __exit__(self, *arguments):
        super().__exit__(*arguments)
        for descriptor in self.kept:
            os.close(descriptor)
