"""
Folders of arrays and values, written atomically: safetensors files and a manifest with their checksums.

A folder is written under a temporary name, flushed to disk and renamed.
"""

import contextlib
import functools
import json
import math
import os
import platform
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sb3_reptile.storage.errors import (
    CONSTRUCTION_ERRORS,
    ArgumentError,
    DamagedError,
    ForeignError,
    MissingArgumentError,
    NewerVersionError,
    NotStorableError,
    OtherSpacesError,
    StorageError,
    UnreadableError,
)
from sb3_reptile.storage.files import check_regular, flush_all, flush_folder, make_folders, read_regular, start_flushing
from sb3_reptile.storage.ownership import (
    FORMAT,
    MANIFEST,
    check_replaceable,
    remove_if_ours,
    remove_unfinished,
    replaced,
)

#: Increased with every change that older versions would misread
FORMAT_VERSION = 2
PACKAGES = ("sb3-reptile", "stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")

#: Number of threads that encode and write files
WRITE_THREADS = min(4, os.cpu_count() or 1)
#: Names of files that hold arrays
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", re.ASCII)
#: Bytes of the largest manifest that is read, and of a file beside its arrays, for their names and shapes
LARGEST_MANIFEST, LARGEST_HEADER = 1 << 28, 1 << 20

Arrays = Mapping[str, np.ndarray]


def _describe(array: np.ndarray) -> list[Any]:
    """Type, shape and checksum of an array."""
    return [array.dtype.name, list(array.shape), xxhash.xxh3_128_hexdigest(array.data if array.size else b"")]


def _python_number(value: Any) -> Any:
    """A NumPy scalar as JSON."""
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    raise NotStorableError(f"a {type(value).__name__} cannot be saved without pickle, got {value!r}")


def _not_a_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large")
    return number


def _seal(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "seal"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_python_number)
    return xxhash.xxh3_128_hexdigest(text.encode())


def _is_linked(path: Path) -> bool:
    return path.stat().st_nlink > 1


def _check_files(files: Any) -> None:
    """
    Before anything in a manifest is used as a name, or as the size of an array.

    :raises ValueError: if a file has no plain name, or an array no type, shape and checksum
    """
    for name, arrays in files.items():
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a file in the folder")
        for dtype, shape, checksum in arrays.values():
            if not (type(dtype) is str and type(checksum) is str and all(type(n) is int and n >= 0 for n in shape)):
                raise ValueError(f"an array in {name} has no type, shape and checksum")


def _expected_bytes(described: Mapping[str, list[Any]]) -> int:
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape, _ in described.values())


class Folder:
    """
    A saved folder, opened for reading. Reading executes nothing that the folder contains.

    :param path: The folder
    :param kind: The kind of content that it must have, as given to :func:`write_folder`
    :raises FileNotFoundError: if the folder does not exist
    :raises ForeignError: if it was not saved by this package, or has content of another kind
    :raises NewerVersionError: if it was saved by a later version
    :raises DamagedError: if its manifest has changed since it was saved
    :raises UnreadableError: if the system cannot read its manifest
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        try:
            self.path = _existing(Path(path))
            exists = self.path.exists()
        except OSError as error:
            raise UnreadableError(f"{path} cannot be read: {error}") from error
        if not exists:
            raise FileNotFoundError(f"there is no {self.path}; a {kind} is a folder that contains a {MANIFEST}")
        try:
            raw = read_regular(self.path / MANIFEST, LARGEST_MANIFEST)
        except FileNotFoundError:
            raise ForeignError(
                f"{self.path} is not a {kind} saved by sb3-reptile, which is a folder that contains a {MANIFEST}; "
                "load files saved by SB3 with load() and load_replay_buffer() of the model"
            ) from None
        manifest = self._parse(raw)
        number = manifest.get("format_version")
        #: Whether the manifest is as it was saved; if not, a later version may compute the checksum differently
        intact = manifest.get("seal") == _seal(manifest)
        if type(number) is int and number > FORMAT_VERSION:
            raise self._newer(number, manifest, intact)
        if type(number) is not int or not intact:
            raise DamagedError(f"{self.path / MANIFEST} is damaged: its checksum does not match")
        if manifest.get("kind") != kind:
            raise ForeignError(f"{self.path} holds a {manifest.get('kind')}, not a {kind}")
        if not all(isinstance(manifest.get(key), dict) for key in ("state", "files", "versions")):
            raise ForeignError(
                f"{self.path / MANIFEST} lacks state, files or versions: it was not written by sb3-reptile"
            )
        try:
            _check_files(manifest["files"])
        except (ValueError, TypeError, AttributeError) as error:
            raise ForeignError(f"{self.path / MANIFEST} was not written by sb3-reptile: {error}") from error
        self.state: dict[str, Any] = manifest["state"]
        self.files: dict[str, dict[str, list[Any]]] = manifest["files"]
        self.versions: dict[str, str] = manifest["versions"]
        #: The name that the folder was saved under; older versions did not write it
        self.name: str | None = manifest.get("name")

    def _parse(self, raw: bytes) -> dict[str, Any]:
        try:
            manifest = json.loads(raw, parse_constant=_not_a_number, parse_float=_finite)
        except (ValueError, RecursionError):
            manifest = None
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
            return manifest
        if FORMAT.encode() in raw:
            raise DamagedError(f"{self.path / MANIFEST} is damaged: it is not valid JSON")
        if not raw.strip(b"\0 \n"):
            raise DamagedError(f"{self.path / MANIFEST} is damaged: it is empty")
        raise ForeignError(f"{self.path / MANIFEST} was not written by sb3-reptile")

    def _newer(self, number: int, manifest: Mapping[str, Any], intact: bool) -> NewerVersionError:
        versions = manifest.get("versions")
        by = versions.get("sb3-reptile", "a later version") if isinstance(versions, dict) else "a later version"
        if not intact:
            by += "; or it is damaged, as its checksum does not match"
        return NewerVersionError(
            f"{self.path} has format version {number}, this version of sb3-reptile reads {FORMAT_VERSION} and older: "
            f"upgrade sb3-reptile (the folder was saved by {by})",
            intact,
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
            size, expected = check_regular(path).st_size, _expected_bytes(described)
            if not expected < size <= expected + LARGEST_HEADER + 1024 * len(described):
                raise DamagedError(f"{path} is damaged: it has {size} bytes, its arrays {expected}")
            os.close(os.open(path, os.O_RDONLY))  # safetensors says of a file that it may not read that it is missing
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
        except OSError as error:
            raise UnreadableError(f"{path} cannot be read: {error}") from error
        except (SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise DamagedError(f"{path} is damaged: {error}") from error

    @contextlib.contextmanager
    def understood(self, changed: Mapping[str, str] | None = None) -> Iterator[None]:
        """
        Context in which objects are made from the content of the folder.

        :param changed: Arguments that override those in the folder, in words
        :raises ArgumentError: if that fails, the folder is intact, and arguments are changed
        :raises ForeignError: if the content is intact but does not describe valid objects
        """
        try:
            yield
        except (ArgumentError, MissingArgumentError, OtherSpacesError):
            raise
        except OSError:
            raise
        except (StorageError, *CONSTRUCTION_ERRORS) as error:
            reason = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
            if changed:
                self.verify()
                raise ArgumentError(
                    f"{self.path} cannot be used with {', '.join(changed.values())}: {reason}"
                ) from error
            if isinstance(error, StorageError):
                raise
            raise ForeignError(f"{self.path} cannot be used: {reason}") from error

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

    :param path: The folder. An existing one is replaced if it is empty or was saved by this package, is of the same
        kind, and holds nothing else.
    :param kind: The kind of content, for instance ``"replay buffer"``
    :param state: Values, as JSON
    :param files: Names of files, each with a function that returns its arrays, C-contiguous. The functions are called
        in several threads.
    :param previous: A folder saved earlier. Files that it contains with the same name and content are linked instead
        of written.
    :raises NotOursError: if there is something else at the path; nothing is changed then
    :raises OSError: if the folder cannot be written. An existing folder is then left unchanged.
    """
    path = Path(os.path.realpath(path))  # what a link leads to is replaced, not the link
    for present in (path, replaced(path)):
        check_replaceable(present, kind)
    make_folders(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.saving")
    temporary.mkdir()
    try:
        with ThreadPoolExecutor(WRITE_THREADS) as pool:
            table = dict(pool.map(lambda file: (file[0], _write(temporary / file[0], file[1](), previous)), files))
        written = [temporary / name for name in table if not _is_linked(temporary / name)]
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "name": path.name,
            "versions": _versions(),
            "state": state,
            "files": table,
        }
        manifest["seal"] = _seal(manifest)
        text = json.dumps(manifest, allow_nan=False, default=_python_number)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        flush_all([*written, temporary / MANIFEST])
        flush_folder(temporary)
        _move_into_place(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_unfinished(temporary)
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
    start_flushing(path)
    return described


def _move_into_place(temporary: Path, path: Path) -> None:
    old = replaced(path)
    if path.exists():
        remove_if_ours(old)
        os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    flush_folder(path.parent)
    with contextlib.suppress(OSError):
        remove_if_ours(old)


def _existing(path: Path) -> Path:
    """The folder, or its predecessor if a process ended while replacing it."""
    old = replaced(path)
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
