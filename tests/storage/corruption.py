"""Damaged and forged files."""

import json
import os

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
