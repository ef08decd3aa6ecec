"""Nothing is replaced or removed that this package did not save."""

import os
import shutil

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.storage import NotOursError, StorageError
from sb3_reptile.storage.folder import MANIFEST, Folder, write_folder
from sb3_reptile.storage.ownership import remove_if_ours, remove_unfinished
from tests.storage.corruption import sealed

KIND = "test"


def write(path, value=0, kind=KIND):
    write_folder(path, kind, {}, [("rows.safetensors", lambda: {"rows": np.full(3, value)})])


def tree(path):
    """Everything in a folder, with the content of its files."""
    return {
        str(file.relative_to(path)): file.read_bytes() if file.is_file() else None for file in sorted(path.rglob("*"))
    }


def a_folder_of_files(path):
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def a_folder_of_folders(path):
    (path / "chapters").mkdir(parents=True)


def a_file(path):
    path.write_text("years of work")


def another_kind(path):
    write(path, kind="checkpoint")


def a_saved_folder_with_notes(path):
    write(path)
    (path / "notes.txt").write_text("why this one is good")


def a_saved_folder_with_a_folder(path):
    write(path)
    (path / "plots").mkdir()


def the_manifest_of_another_program(path):
    path.mkdir()
    (path / MANIFEST).write_text('{"name": "an app", "files": {}}')


def a_saved_folder_whose_manifest_was_lost(path):
    write(path)
    (path / MANIFEST).write_bytes(bytes(100))


def a_link_to_nothing(path):
    path.symlink_to(path.parent / "nothing")


def a_pipe(path):
    os.mkfifo(path)


NOT_OURS = [
    a_folder_of_files,
    a_folder_of_folders,
    a_file,
    another_kind,
    a_saved_folder_with_notes,
    a_saved_folder_with_a_folder,
    the_manifest_of_another_program,
    a_saved_folder_whose_manifest_was_lost,
    a_pipe,
]


@pytest.mark.parametrize("where", ["folder", ".folder.old"])
@pytest.mark.parametrize("make", NOT_OURS)
def test_what_is_not_ours_is_not_replaced(make, where, tmp_path):
    if where != "folder":
        write(tmp_path / "folder")
    make(tmp_path / where)
    before = tree(tmp_path)
    with pytest.raises(NotOursError, match=r"exists and is not a test saved by sb3-reptile \(.*save to another path"):
        write(tmp_path / "folder", 1)
    assert tree(tmp_path) == before
    assert not remove_if_ours(tmp_path / where, KIND)
    assert tree(tmp_path) == before


def test_a_buffer_is_not_saved_over_an_ordinary_folder(tmp_path):
    buffer = DecayedReplayBuffer(40, spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    a_folder_of_files(tmp_path / "folder")
    with pytest.raises(FileExistsError, match="is not a replay buffer saved by sb3-reptile"):
        buffer.save(tmp_path / "folder")
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["folder"]


def test_an_empty_folder_and_a_link_to_a_saved_one_are_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    Folder(tmp_path / "empty", KIND).verify()
    write(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("elsewhere")
    write(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink()
    assert Folder(tmp_path / "elsewhere", KIND).read("rows.safetensors")["rows"].tolist() == [1, 1, 1]
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "empty", "link"]


def test_a_link_that_leads_nowhere_is_filled_where_it_leads(tmp_path):
    a_link_to_nothing(tmp_path / "link")
    write(tmp_path / "link")
    Folder(tmp_path / "nothing", KIND).verify()


def test_only_files_that_are_written_here_are_removed_of_an_unfinished_folder(tmp_path):
    unfinished = tmp_path / ".folder.12.saving"
    unfinished.mkdir()
    for name in ("transitions-0.safetensors", MANIFEST):
        (unfinished / name).write_bytes(b"cut")
    other = tmp_path / "other"
    shutil.copytree(unfinished, other)
    (other / "thesis.tex").write_text("years of work")
    assert remove_unfinished(unfinished)
    assert not remove_unfinished(other)
    assert os.listdir(tmp_path) == ["other"]
    assert len(os.listdir(other)) == 3


def test_the_old_folder_is_put_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write(tmp_path / "folder")
    rename = os.rename

    def fail_for_the_new_one(source, target):
        if os.fspath(source).endswith(".saving"):
            raise PermissionError("no")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail_for_the_new_one)
        with pytest.raises(PermissionError):
            write(tmp_path / "folder", 1)
    assert os.listdir(tmp_path) == ["folder"]
    assert Folder(tmp_path / "folder", KIND).read("rows.safetensors")["rows"].tolist() == [0, 0, 0]


NO_PLAIN_NAMES = ["../a.safetensors", "/etc/a.safetensors", "a/b.safetensors", "..safetensors", "a", MANIFEST]


@pytest.mark.parametrize("name", NO_PLAIN_NAMES)
def test_a_manifest_names_plain_files_in_its_folder_only(name, tmp_path):
    write(tmp_path / "folder")
    sealed(tmp_path / "folder", lambda manifest: manifest["files"].update({name: {}}))
    with pytest.raises(StorageError, match="is not the name of a file in the folder"):
        Folder(tmp_path / "folder", KIND)
