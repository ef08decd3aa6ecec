"""Folders are written completely or not at all, and each kind of fault has an error of its own."""

import contextlib
import errno
import json
import os

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sb3_reptile.storage import DamagedError, ForeignError, StorageError
from sb3_reptile.storage.folder import MANIFEST, Folder, slices, write_folder
from tests.storage.corruption import (
    STRANGE,
    assert_damage_is_detected,
    assert_newer_versions_are_refused,
    mutations,
    places,
    put,
    sealed,
)

KIND = "test"


def arrays(start):
    return {"rows": np.arange(start, start + 50, dtype=np.float32), "flags": np.arange(50) % 3 == 0}


def write(path, first=0, second=0, state=None, previous=None):
    """Two files, one of them in two parts."""
    files = [("first.safetensors", lambda: arrays(first)), ("second.safetensors", lambda: arrays(second))]
    write_folder(path, KIND, {"number": first} if state is None else state, files, previous)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def saved(tmp_path):
    write(tmp_path / "folder")
    return tmp_path / "folder"


def test_a_folder_is_read_as_it_was_written(saved):
    folder = Folder(saved, KIND)
    folder.verify()
    assert folder.state == {"number": 0}
    assert set(folder.versions) >= {"python", "sb3-reptile", "stable-baselines3", "torch"}
    read = folder.read("first.safetensors")
    for name, array in arrays(0).items():
        assert np.array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_a_folder_is_replaced_only_when_the_new_one_is_complete(saved, monkeypatch):
    before = contents(saved)

    def full_disk(arrays, path):
        if path.name.startswith("second"):
            raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)}")
        save_file(arrays, path)

    with monkeypatch.context() as patch:
        patch.setattr("sb3_reptile.storage.folder.save_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write(saved, first=5)
    assert contents(saved) == before
    assert os.listdir(saved.parent) == ["folder"]
    write(saved, first=5)
    assert Folder(saved, KIND).state == {"number": 5}
    assert os.listdir(saved.parent) == ["folder"]


def test_a_process_that_ends_while_it_replaces_a_folder_leaves_the_old_one(saved, monkeypatch):
    rename = os.rename

    def end_between_the_two(source, target):
        if os.path.basename(source).endswith(".saving"):
            raise SystemExit
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", end_between_the_two)
        with pytest.raises(SystemExit):
            write(saved, first=5)
    folder = Folder(saved, KIND)
    folder.verify()
    assert folder.state == {"number": 0}
    write(saved, first=5)
    assert Folder(saved, KIND).state == {"number": 5}


def test_only_files_that_did_not_change_are_linked(saved, tmp_path):
    write(tmp_path / "next", second=1, previous=Folder(saved, KIND))
    Folder(tmp_path / "next", KIND).verify()
    inodes = [{file.name: file.stat().st_ino for file in path.iterdir()} for path in (saved, tmp_path / "next")]
    linked = {name for name in inodes[0] if inodes[0][name] == inodes[1][name]}
    assert linked == {"first.safetensors"}


def test_each_fault_has_its_own_error(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nothing; a test is a folder that contains a manifest"):
        Folder(tmp_path / "nothing", KIND)
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "empty").mkdir()
    for path in ("file", "empty"):
        with pytest.raises(
            ForeignError, match=r"is not a test saved by sb3-reptile.*load files saved by SB3 with load"
        ):
            Folder(tmp_path / path, KIND)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / MANIFEST).write_text('{"name": "an app"}')
    with pytest.raises(ForeignError, match="was not written by sb3-reptile"):
        Folder(tmp_path / "foreign", KIND)
    with pytest.raises(ForeignError, match="holds a test, not a checkpoint"):
        Folder(saved, "checkpoint")

    assert_damage_is_detected(saved / "first.safetensors", lambda: Folder(saved, KIND).verify())
    with pytest.raises(DamagedError, match=r"contains no third.safetensors, only \['first.safetensors', 'second"):
        Folder(saved, KIND).read("third.safetensors")
    assert_newer_versions_are_refused(saved, lambda: Folder(saved, KIND))


def test_mutated_files_are_refused(saved):
    generator = np.random.default_rng(0)
    for file in sorted(saved.iterdir()):
        good = file.read_bytes()
        for bad in mutations(good, generator, 120):
            file.write_bytes(bad)
            with pytest.raises(StorageError):
                Folder(saved, KIND).verify()
        file.write_bytes(good)
    Folder(saved, KIND).verify()


def test_forged_manifests_are_refused_or_harmless(saved):
    good = (saved / MANIFEST).read_text()
    for path in places(json.loads(good)):
        for value in STRANGE:
            sealed(saved, lambda manifest, path=path, value=value: put(manifest, path, value))
            with contextlib.suppress(StorageError):
                Folder(saved, KIND).verify()
            (saved / MANIFEST).write_text(good)


def test_objects_that_cannot_be_made_are_reported_with_the_folder(saved):
    folder = Folder(saved, KIND)
    with pytest.raises(ForeignError, match=r"folder cannot be used: KeyError: 'nothing'"), folder.understood():
        folder.state["nothing"]
    with pytest.raises(DamagedError), folder.understood():
        raise DamagedError("this error is more precise")
    with pytest.raises(OSError, match="disk"), folder.understood():
        raise OSError("the disk has failed")


@pytest.mark.parametrize(("n_rows", "expected"), [(0, []), (3, [(0, 3)]), (4, [(0, 4)]), (9, [(0, 4), (4, 8), (8, 9)])])
def test_slices_cover_all_rows(n_rows, expected):
    assert [(part.start, part.stop) for part in slices(n_rows, 4)] == expected
