"""
Folders of arrays and values, written atomically: safetensors files and a manifest with their checksums.

A folder is written under a temporary name, flushed to disk and renamed.
"""

import contextlib
import functools
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sb3_reptile.storage.errors import CONSTRUCTION_ERRORS, DamagedError, ForeignError, NewerVersionError, StorageError

FORMAT = "sb3-reptile"
#: Increased with every change that older versions would misread
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
PACKAGES = ("sb3-reptile", "stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")

#: Number of threads that encode and write files, and that flush them to disk
WRITE_THREADS, FLUSH_THREADS = min(4, os.cpu_count() or 1), 16

Arrays = Mapping[str, np.ndarray]


def _describe(array: np.ndarray) -> list[Any]:
    """Type, shape and checksum of an array."""
    return [array.dtype.name, list(array.shape), xxhash.xxh3_128_hexdigest(array.data if array.size else b"")]


def _seal(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "seal"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return xxhash.xxh3_128_hexdigest(text.encode())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_all(paths: list[Path]) -> None:
    if len(paths) <= 4:
        for path in paths:
            _flush(path)
        return
    # In parallel, so that the file system can merge its writes
    with ThreadPoolExecutor(FLUSH_THREADS) as pool:
        list(pool.map(_flush, paths))


def _start_flushing(path: Path) -> None:
    """Start writing a file to disk in the background, while the next file is encoded."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _is_linked(path: Path) -> bool:
    return path.stat().st_nlink > 1


def _flush_folder(path: Path) -> None:
    if os.name == "posix":  # other systems cannot open a folder
        _flush(path)


class Folder:
    """
    A saved folder, opened for reading. Reading executes nothing that the folder contains.

    :param path: The folder
    :param kind: The kind of content that it must have, as given to :func:`write_folder`
    :raises FileNotFoundError: if the folder does not exist
    :raises ForeignError: if it was not saved by this package, or has content of another kind
    :raises NewerVersionError: if it was saved by a later version
    :raises DamagedError: if its manifest has changed since it was saved
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.path = _existing(Path(path))
        if not self.path.exists():
            raise FileNotFoundError(f"there is no {self.path}; a {kind} is a folder that contains a {MANIFEST}")
        try:
            raw = (self.path / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise ForeignError(
                f"{self.path} is not a {kind} saved by sb3-reptile, which is a folder that contains a {MANIFEST}; "
                "load files saved by SB3 with load() and load_replay_buffer() of the model"
            ) from None
        manifest = self._parse(raw)
        number = manifest.get("format_version")
        if not isinstance(number, int) or manifest.get("seal") != _seal(manifest):
            # A later version may compute the checksum differently
            if isinstance(number, int) and number > FORMAT_VERSION:
                raise self._newer(number, manifest)
            raise DamagedError(f"{self.path / MANIFEST} is damaged: its checksum does not match")
        if number > FORMAT_VERSION:
            raise self._newer(number, manifest)
        if manifest.get("kind") != kind:
            raise ForeignError(f"{self.path} holds a {manifest.get('kind')}, not a {kind}")
        if not all(isinstance(manifest.get(key), dict) for key in ("state", "files", "versions")):
            raise ForeignError(
                f"{self.path / MANIFEST} lacks state, files or versions: it was not written by sb3-reptile"
            )
        self.state: dict[str, Any] = manifest["state"]
        self.files: dict[str, dict[str, list[Any]]] = manifest["files"]
        self.versions: dict[str, str] = manifest["versions"]

    def _parse(self, raw: bytes) -> dict[str, Any]:
        try:
            manifest = json.loads(raw)
        except (ValueError, RecursionError):
            manifest = None
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
            return manifest
        if FORMAT.encode() in raw:
            raise DamagedError(f"{self.path / MANIFEST} is damaged: it is not valid JSON")
        raise ForeignError(f"{self.path / MANIFEST} was not written by sb3-reptile")

    def _newer(self, number: int, manifest: Mapping[str, Any]) -> NewerVersionError:
        versions = manifest.get("versions")
        by = versions.get("sb3-reptile", "a later version") if isinstance(versions, dict) else "a later version"
        return NewerVersionError(
            f"{self.path} has format version {number}, this version of sb3-reptile reads {FORMAT_VERSION} and older: "
            f"upgrade sb3-reptile (the folder was saved by {by})"
        )

    def read(self, name: str) -> dict[str, np.ndarray]:
        """
        Read the arrays of a file and verify their checksums.

        :param name: Name of a file in the folder
        :return: Its arrays, by name
        :raises DamagedError: if the file is missing or has changed since it was saved
        """
        return dict(self._arrays(name))

    def _arrays(self, name: str) -> Iterator[tuple[str, np.ndarray]]:
        """Yield one array after the other, so that only one is in memory."""
        if name not in self.files:
            raise DamagedError(f"{self.path} contains no {name}, only {sorted(self.files)}")
        path, described = self.path / name, self.files[name]
        try:
            with safe_open(path, framework="numpy") as file:
                names = list(file.keys())
                if set(names) != set(described):
                    raise DamagedError(f"{path} is damaged: it contains {sorted(names)}, not {sorted(described)}")
                for key in names:
                    array = file.get_tensor(key)
                    if _describe(array) != described[key]:
                        raise DamagedError(f"{path} is damaged: the checksum of {key} does not match")
                    yield key, array
        except FileNotFoundError:
            raise DamagedError(f"{self.path} is damaged: {name} is missing") from None
        except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from error

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """
        Context in which objects are made from the content of the folder.

        :raises ForeignError: if the content is intact but does not describe valid objects
        """
        try:
            yield
        except (StorageError, OSError):
            raise
        except CONSTRUCTION_ERRORS as error:
            raise ForeignError(f"{self.path} cannot be used: {type(error).__name__}: {error}") from error

    def verify(self) -> None:
        """
        Read all files and verify their checksums.

        :raises DamagedError: if a file is missing or has changed since it was saved
        """
        for name in self.files:
            for _ in self._arrays(name):
                pass


def write_folder(
    path: str | os.PathLike[str],
    kind: str,
    state: Mapping[str, Any],
    files: Iterable[tuple[str, Callable[[], Arrays]]],
    previous: Folder | None = None,
) -> None:
    """
    Write a folder atomically.

    :param path: The folder. An existing one is replaced.
    :param kind: The kind of content, for instance ``"replay buffer"``
    :param state: Values, as JSON
    :param files: Names of files, each with a function that returns its arrays, C-contiguous. The functions are called
        in several threads.
    :param previous: A folder saved earlier. Files that it contains with the same name and content are linked instead
        of written.
    :raises OSError: if the folder cannot be written. An existing folder is then left unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.saving")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with ThreadPoolExecutor(WRITE_THREADS) as pool:
            table = dict(pool.map(lambda file: (file[0], _write(temporary / file[0], file[1](), previous)), files))
        written = [temporary / name for name in table if not _is_linked(temporary / name)]
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "versions": _versions(),
            "state": state,
            "files": table,
        }
        manifest["seal"] = _seal(manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest, allow_nan=False), encoding="utf-8")
        _flush_all([*written, temporary / MANIFEST])
        _flush_folder(temporary)
        _move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(path: Path, arrays: Arrays, previous: Folder | None) -> dict[str, list[Any]]:
    described = {key: _describe(array) for key, array in arrays.items()}
    if previous is not None and previous.files.get(path.name) == described:
        with contextlib.suppress(OSError):  # the file system has no links, or the file was removed
            os.link(previous.path / path.name, path)
            return described
    try:
        save_file(dict(arrays), path)
    except SafetensorError as error:  # raised for a full disk, for instance
        raise OSError(f"{path} cannot be written: {error}") from error
    _start_flushing(path)
    return described


def _replaced(path: Path) -> Path:
    """Where the previous folder is while it is replaced."""
    return path.with_name(f".{path.name}.old")


def _move_into_place(temporary: Path, path: Path) -> None:
    old = _replaced(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(temporary, path)
    _flush_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _existing(path: Path) -> Path:
    """The folder, or its predecessor if a process ended while replacing it."""
    old = _replaced(path)
    return old if not path.exists() and old.exists() else path


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def slices(n_rows: int, rows_per_file: int) -> Iterator[slice]:
    """
    :param n_rows: Number of rows to save
    :param rows_per_file: Number of rows in each file
    :return: The rows of each file
    """
    for start in range(0, n_rows, rows_per_file):
        yield slice(start, min(start + rows_per_file, n_rows))
