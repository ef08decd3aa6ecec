"""Damaged and forged files."""

import json
import os

import pytest

from sb3_reptile.storage import DamagedError, NewerVersionError
from sb3_reptile.storage.folder import MANIFEST, _seal


def sealed(path, change):
    """Change a manifest and make its checksum match."""
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    manifest["seal"] = _seal(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def assert_damage_is_detected(file, load):
    """Loading must refuse shortened, extended, changed and missing content of a file."""
    good = file.read_bytes()
    for bad in (good[:-1], good[:100], good[:3], b"", good + b"x", bytes([good[-9] ^ 16]).join([good[:-9], good[-8:]])):
        file.write_bytes(bad)
        with pytest.raises(DamagedError, match=f"{file.name} is damaged"):
            load()
    file.unlink()
    with pytest.raises(DamagedError, match=f"{file.name} is missing"):
        load()
    file.write_bytes(good)


def assert_newer_versions_are_refused(folder, load):
    """Loading must refuse a folder of a newer format version. The folder stays changed."""
    sealed(folder, lambda manifest: manifest.update(format_version=3, versions={"sb3-reptile": "9.9"}))
    with pytest.raises(NewerVersionError, match=r"format version 3.*reads 2.*upgrade.*saved by 9.9"):
        load()


def mutations(content, generator, n):
    for _ in range(n):
        changed = bytearray(content)
        kind = generator.integers(5)
        at = int(generator.integers(len(changed)))
        if kind == 0:
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at : at + 8] = generator.bytes(8)
        elif kind == 3:
            changed[at:at] = generator.bytes(int(generator.integers(1, 20)))
        else:
            del changed[at : at + int(generator.integers(1, 20))]
        if bytes(changed) != content:
            yield bytes(changed)


STRANGE = [
    None,
    -1,
    0,
    2**70,
    1e300,
    "",
    "x",
    [],
    {},
    {"$float": "nan"},
    {"$missing": "x"},
    {"$class": "os:system"},
    True,
]


def places(tree, path=()):
    """Every place in a tree of JSON."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def put(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value
