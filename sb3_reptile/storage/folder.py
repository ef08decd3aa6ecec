"""
A folder of arrays and values that is either there in full or not at all: safetensors files and a manifest with their
checksums, written aside, flushed to the disk and renamed.
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

from sb3_reptile.storage.errors import DamagedError, ForeignError, NewerVersionError, StorageError

FORMAT = "sb3-reptile"
#: Raised whenever something that an older version would misread is changed
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
PACKAGES = ("sb3-reptile", "stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")

#: Files that are made and written at the same time, and files that are flushed to the disk
FEW, MANY = min(4, os.cpu_count() or 1), 16

Arrays = Mapping[str, np.ndarray]


def _describe(array: np.ndarray) -> list[Any]:
    """Its type, shape and checksum."""
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
    # At once: the system joins what it has to write for each of them
    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(_flush, paths))


def _begin_to_flush(path: Path) -> None:
    """So that the disk is at work while the next file is written."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _is_linked(path: Path) -> bool:
    return path.stat().st_nlink > 1


def _flush_folder(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _flush(path)


class Folder:
    """
    A folder that was saved, opened for reading. Nothing is executed by it.

    :param path: The folder
    :param kind: What must be in it
    :raises FileNotFoundError: if there is no such folder
    :raises ForeignError: if it was not saved by this package, or holds something else
    :raises NewerVersionError: if it was saved by a later version
    :raises DamagedError: if its manifest is not as it was saved
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.path = _present(Path(path))
        if not self.path.exists():
            raise FileNotFoundError(f"there is no {self.path}; a {kind} is a folder with a {MANIFEST} in it")
        try:
            raw = (self.path / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise ForeignError(
                f"{self.path} is no {kind} saved by sb3-reptile, which is a folder with a {MANIFEST}; "
                "SB3's own files are loaded by load() and load_replay_buffer() of the model"
            ) from None
        manifest = self._parse(raw)
        number = manifest.get("format_version")
        if not isinstance(number, int) or manifest.get("seal") != _seal(manifest):
            # A later version may seal otherwise
            if isinstance(number, int) and number > FORMAT_VERSION:
                raise self._newer(number, manifest)
            raise DamagedError(f"{self.path / MANIFEST} is damaged: its checksum differs")
        if number > FORMAT_VERSION:
            raise self._newer(number, manifest)
        if manifest.get("kind") != kind:
            raise ForeignError(f"{self.path} holds a {manifest.get('kind')}, not a {kind}")
        if not all(isinstance(manifest.get(key), dict) for key in ("state", "files", "versions")):
            raise ForeignError(f"{self.path / MANIFEST} has no state, files and versions: sb3-reptile did not write it")
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
            raise DamagedError(f"{self.path / MANIFEST} is damaged: it is no longer the JSON that was written")
        raise ForeignError(f"{self.path / MANIFEST} was not written by sb3-reptile: something else has that name")

    def _newer(self, number: int, manifest: Mapping[str, Any]) -> NewerVersionError:
        versions = manifest.get("versions")
        by = versions.get("sb3-reptile", "a later version") if isinstance(versions, dict) else "a later version"
        return NewerVersionError(
            f"{self.path} has format version {number}, this version of sb3-reptile knows {FORMAT_VERSION} and older: "
            f"upgrade it (it was saved by {by})"
        )

    def read(self, name: str) -> dict[str, np.ndarray]:
        """
        :param name: Name of a file in it
        :return: Its arrays, checked
        :raises DamagedError: if it is not as it was saved
        """
        return dict(self._arrays(name))

    def _arrays(self, name: str) -> Iterator[tuple[str, np.ndarray]]:
        """One by one, so that there need be memory for one only."""
        if name not in self.files:
            raise DamagedError(f"{self.path} holds no {name}, but {sorted(self.files)}")
        path, described = self.path / name, self.files[name]
        try:
            with safe_open(path, framework="numpy") as file:
                names = list(file.keys())
                if set(names) != set(described):
                    raise DamagedError(f"{path} is damaged: it holds {sorted(names)}, not {sorted(described)}")
                for key in names:
                    array = file.get_tensor(key)
                    if _describe(array) != described[key]:
                        raise DamagedError(f"{path} is damaged: the checksum of {key} differs")
                    yield key, array
        except FileNotFoundError:
            raise DamagedError(f"{self.path} is damaged: {name} is missing") from None
        except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from error

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """
        While objects are made of what it says.

        :raises ForeignError: if they cannot be, although it is as it was saved
        """
        try:
            yield
        except (StorageError, OSError):
            raise
        except Exception as error:
            raise ForeignError(f"{self.path} cannot be made use of: {type(error).__name__}: {error}") from error

    def verify(self) -> None:
        """
        Read everything again.

        :raises DamagedError: if anything is not as it was saved
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
    :param path: The folder; one that is there is replaced
    :param kind: What it holds
    :param state: Values, as JSON
    :param files: Names of files, and what makes the arrays in them, C-contiguous: called when a file is written, in a
        thread of its own
    :param previous: A folder saved before. A file that it holds already, under the same name, is linked to, not
        written again.
    :raises OSError: if it cannot be written; what was there before stays
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.saving")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        with ThreadPoolExecutor(FEW) as pool:
            table = dict(pool.map(lambda file: (file[0], _write(aside / file[0], file[1](), previous)), files))
        written = [aside / name for name in table if not _is_linked(aside / name)]
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "versions": _versions(),
            "state": state,
            "files": table,
        }
        manifest["seal"] = _seal(manifest)
        (aside / MANIFEST).write_text(json.dumps(manifest, allow_nan=False), encoding="utf-8")
        _flush_all([*written, aside / MANIFEST])
        _flush_folder(aside)
        _put_in_place(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write(path: Path, arrays: Arrays, previous: Folder | None) -> dict[str, list[Any]]:
    described = {key: _describe(array) for key, array in arrays.items()}
    if previous is not None and previous.files.get(path.name) == described:
        with contextlib.suppress(OSError):  # where there are no links, or the file is gone
            os.link(previous.path / path.name, path)
            return described
    try:
        save_file(dict(arrays), path)
    except SafetensorError as error:  # which is how it tells of a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    _begin_to_flush(path)
    return described


def _set_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _put_in_place(aside: Path, path: Path) -> None:
    old = _set_aside(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(aside, path)
    _flush_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _present(path: Path) -> Path:
    """The folder, or the one before it where a process ended while it replaced it."""
    old = _set_aside(path)
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
    :param rows_per_file: How many of them go into a file
    :return: The rows of each file
    """
    for start in range(0, n_rows, rows_per_file):
        yield slice(start, min(start + rows_per_file, n_rows))
