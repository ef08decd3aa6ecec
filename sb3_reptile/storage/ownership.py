"""Which folders this package saved, and may therefore replace or remove."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from sb3_reptile.storage.errors import NotOursError, StorageError
from sb3_reptile.storage.files import names_in, read_regular, remove_files

FORMAT = "sb3-reptile"
MANIFEST = "manifest.json"
# What is read of a manifest to recognise it
LARGEST_READ = 1 << 28
# Files in a folder that was being written when its process ended
UNFINISHED = re.compile(r"[\w.-]+\.safetensors|manifest\.json", re.ASCII)


def replaced(path: Path) -> Path:
    """
    :param path: A folder
    :return: Where it is while another one takes its place
    """
    return path.with_name(f".{path.name}.old")


def manifest_of(path: Path) -> dict[str, Any] | None:
    """
    :param path: A folder
    :return: What its manifest says if it was written by this package, checksum aside; None if not
    """
    try:
        manifest = json.loads(read_regular(path / MANIFEST, LARGEST_READ))
    except (StorageError, OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def why_not_ours(path: Path, kind: str | None = None) -> str | None:
    """
    :param path: Something that exists
    :param kind: The kind of content that it must have, None for any
    :return: Why it is not a folder saved by this package that holds nothing else; None if it is one
    """
    names = names_in(path)
    if names is None:
        return "it is a folder that holds more than files" if path.is_dir() else "it is not a folder"
    manifest = manifest_of(path)
    if manifest is None:
        return f"it has no {MANIFEST} of sb3-reptile"
    if kind is not None and manifest.get("kind") != kind:
        return f"it holds a {manifest.get('kind')}"
    files = manifest.get("files")
    known = {MANIFEST, *files} if isinstance(files, dict) else {MANIFEST}
    others = sorted(set(names) - known)
    return f"it also holds {', '.join(others[:3])}" if others else None


def check_replaceable(path: Path, kind: str) -> None:
    """
    :param path: Where something is to be saved
    :param kind: The kind of content
    :raises NotOursError: if there is something else than an empty folder or a folder of this kind that was saved by
        this package
    """
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        with os.scandir(path) as entries:
            if next(entries, None) is None:
                return
    reason = why_not_ours(path, kind)
    if reason is not None:
        raise NotOursError(
            f"{path} exists and is not a {kind} saved by sb3-reptile ({reason}): save to another path, or remove it "
            "yourself"
        )


def remove_if_ours(path: Path, kind: str | None = None) -> bool:
    """
    Remove a folder that was saved by this package and holds nothing else, or is empty.

    :param path: The folder
    :param kind: The kind of content that it must have, None for any
    :return: Whether it is gone
    :raises OSError: if it cannot be removed
    """
    if not os.path.lexists(path):
        return True
    names = names_in(path)
    if names is None or (names and why_not_ours(path, kind) is not None):
        return False
    remove_files(path, names, last=MANIFEST)
    return True


def remove_unfinished(path: Path) -> bool:
    """
    Remove a folder that was being written.

    :param path: A folder with a temporary name
    :return: Whether it is gone; not if it holds anything that this package does not write
    :raises OSError: if it cannot be removed
    """
    names = names_in(path)
    if names is None or not all(UNFINISHED.fullmatch(name) for name in names):
        return False
    with contextlib.suppress(FileNotFoundError):
        remove_files(path, names, last=MANIFEST)
    return True
