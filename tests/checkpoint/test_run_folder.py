"""The folder of a run: what may be removed from it, two processes in it, and candidates that cannot be opened."""

import json
import os
import shutil
from pathlib import Path

import pytest

from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.checkpoint.run_folder import list_candidates, list_checkpoints
from sb3_reptile.storage import DamagedError, NewerVersionError, StorageError
from sb3_reptile.storage.folder import MANIFEST
from tests.checkpoint.training import cartpole, resumable, steps_of
from tests.storage.corruption import sealed


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    _, folder = resumable(tmp_path_factory.mktemp("run"))
    return folder


@pytest.fixture
def run(one_run, tmp_path):
    """Checkpoints of the steps 20 and 40."""
    return Path(shutil.copytree(one_run, tmp_path / "run", ignore=shutil.ignore_patterns(".lock")))


def go_on(folder, n_steps=40, keep=1):
    model = resume(folder, cartpole())
    model.learn(n_steps, callback=ResumableCheckpoint(20, folder, keep=keep), reset_num_timesteps=False)
    return model


def test_copies_and_folders_of_others_are_never_pruned(run):
    newest = list_checkpoints(run)[-1]
    for name in ("000099-step-7", "000001-step-40", f"{newest.name}-good", f"{newest.name} (copy)", "backup"):
        shutil.copytree(newest, run / name)
    for name in ("000050", "000051-step-", "123456_photos", "000052-step-9", ".mine.old", ".000001-step-3.old"):
        (run / name).mkdir()
        (run / name / MANIFEST).write_text('{"name": "an app"}')
    for name in (".notes.saving", ".000001-step-3.77.saving", ".000001-step-3.77.0123abcd.saving"):
        (run / name).mkdir()
        (run / name / "thesis.tex").write_text("years of work")
    others = set(os.listdir(run)) - {path.name for path in list_checkpoints(run)[:2]} | {"000001-step-40"}
    model = resume(newest, cartpole())
    model.learn(40, callback=ResumableCheckpoint(20, run, keep=1), reset_num_timesteps=False)
    left = set(os.listdir(run))
    assert others - {newest.name} <= left
    assert left - others == {"000101-step-80"}


def test_a_checkpoint_with_notes_in_it_is_not_pruned(run):
    noted = list_checkpoints(run)[0]
    (noted / "notes.txt").write_text("the best one")
    go_on(run)
    assert (noted / "notes.txt").read_text() == "the best one"
    assert steps_of(run) == [20, 80]


def test_leftovers_of_interrupted_saves_and_removals_are_removed(run):
    for path in list_checkpoints(run):
        shutil.copytree(path, run / f".{path.name}.old")
    unfinished = run / ".000009-step-99.123.0123abcd.saving"
    unfinished.mkdir()
    (unfinished / "transitions-0.safetensors").write_bytes(b"cut")
    (run / ".000009-step-99.123.saving").mkdir()
    go_on(run)
    assert os.listdir(run) == ["000005-step-80"]


def test_numbers_of_checkpoints_go_on_above_a_million(run):
    os.rename(list_checkpoints(run)[-1], run / "999999-step-40")
    sealed(run / "999999-step-40", lambda manifest: manifest.update(name="999999-step-40"))
    go_on(run, keep=3)
    assert [path.name for path in list_checkpoints(run)] == ["999999-step-40", "1000000-step-60", "1000001-step-80"]
    assert resume(run, cartpole()).num_timesteps == 80


def test_checkpoints_of_versions_that_did_not_write_the_name_are_pruned_by_their_step(run):
    for path in list_checkpoints(run):
        sealed(path, lambda manifest: manifest.pop("name"))
    shutil.copytree(list_checkpoints(run)[0], run / "000001-step-5")
    go_on(run)
    assert steps_of(run) == [5, 80]


def replace_manifest(content):
    def change(path):
        (path / MANIFEST).write_bytes(content((path / MANIFEST).read_bytes()))

    return change


def remove(path):
    (path / MANIFEST).unlink()


def put_folder(path):
    remove(path)
    (path / MANIFEST).mkdir()


def put_pipe(path):
    remove(path)
    os.mkfifo(path / MANIFEST)


def put_link_to_itself(path):
    remove(path)
    (path / MANIFEST).symlink_to(path / MANIFEST)


def put_pipe_for_arrays(path):
    (path / "parameters.safetensors").unlink()
    os.mkfifo(path / "parameters.safetensors")


def put_folder_for_arrays(path):
    (path / "parameters.safetensors").unlink()
    (path / "parameters.safetensors").mkdir()


def put_file(path):
    shutil.rmtree(path)
    path.write_text("not a folder")


def put_link_to_nothing(path):
    shutil.rmtree(path)
    path.symlink_to("nothing")


def flip_version(path):
    text = (path / MANIFEST).read_text()
    assert '"format_version": 2' in text
    (path / MANIFEST).write_text(text.replace('"format_version": 2', '"format_version": 6'))


def put(value):
    def change(path):
        manifest = json.loads((path / MANIFEST).read_text())
        manifest["state"]["counters"]["num_timesteps"] = "PLACE"
        (path / MANIFEST).write_text(json.dumps(manifest).replace('"PLACE"', value))

    return change


def wrong_type(key, value):
    return lambda path: sealed(path, lambda manifest: manifest.update({key: value}))


BROKEN = {
    "empty": replace_manifest(lambda raw: b""),
    "zeroed": replace_manifest(lambda raw: bytes(len(raw))),
    "cut": replace_manifest(lambda raw: raw[: len(raw) // 2]),
    "cut after its first byte": replace_manifest(lambda raw: raw[:1]),
    "noise": replace_manifest(lambda raw: bytes(range(256)) * 9),
    "nested": replace_manifest(lambda raw: b"[" * 100_000),
    "not UTF-8": replace_manifest(lambda raw: raw.replace(b"reptile", b"r\xffptile")),
    "NaN": put("NaN"),
    "Infinity": put("-Infinity"),
    "1e999": put("1e999"),
    "a long number": put("1" * 5_000),
    "a surrogate": put('"\\ud800"'),
    "missing": remove,
    "a folder in its place": put_folder,
    "a pipe in its place": put_pipe,
    "a link to itself": put_link_to_itself,
    "a pipe for arrays": put_pipe_for_arrays,
    "a folder for arrays": put_folder_for_arrays,
    "a file in place of the folder": put_file,
    "a link to nothing": put_link_to_nothing,
    "a flipped bit in the version": flip_version,
    "version true": wrong_type("format_version", True),
    "version 2.0": wrong_type("format_version", 2.0),
    "version text": wrong_type("format_version", "2"),
    "files a list": wrong_type("files", []),
    "files of numbers": wrong_type("files", {"a.safetensors": 3}),
    "files of text": wrong_type("files", {"a.safetensors": {"b": "abc"}}),
    "files of negative shapes": wrong_type("files", {"a.safetensors": {"b": ["float32", [-1], ""]}}),
    "files of unknown types": wrong_type("files", {"parameters.safetensors": {"b": ["float99", [1], ""]}}),
    "state a number": wrong_type("state", 3),
    "another kind": wrong_type("kind", "replay buffer"),
    "kind a list": wrong_type("kind", []),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_candidate_that_cannot_be_opened_is_passed_over_with_a_warning(fault, run):
    newest = list_checkpoints(run)[-1]
    BROKEN[fault](newest)
    with pytest.warns(UserWarning, match=r"step-40.*resuming from the previous checkpoint, .*step-20"):
        model = resume(run, cartpole())
    assert model.num_timesteps == 20
    with pytest.raises((StorageError, FileNotFoundError)):
        resume(newest, cartpole())
    # Training goes on beside it, and its checkpoints are found
    model.learn(20, callback=ResumableCheckpoint(20, run), reset_num_timesteps=False)
    assert resume(run, cartpole()).num_timesteps == 40


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("name", ["", MANIFEST, "parameters.safetensors"])
def test_a_candidate_that_must_not_be_read_is_passed_over(name, run):
    path = list_checkpoints(run)[-1] / name
    path.chmod(0)
    try:
        with pytest.warns(UserWarning, match=r"cannot be read.*resuming from the previous checkpoint"):
            assert resume(run, cartpole()).num_timesteps == 20
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize("called", ["stat", "open"])
def test_a_disk_that_cannot_be_read_is_an_error_of_its_own(called, run, monkeypatch):
    original = getattr(os, called)

    def fail(path, *args, **kwargs):
        if "step-40" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, called, fail)
    with pytest.warns(UserWarning, match=r"cannot be read: .*Permission denied.*resuming from the previous"):
        assert resume(run, cartpole()).num_timesteps == 20


def test_a_folder_that_cannot_be_listed_is_an_error_that_says_so(run, monkeypatch):
    def stale(path):
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr(os, "listdir", stale)
    with pytest.raises(StorageError, match=r"run cannot be read: .*Stale file handle"):
        resume(run, cartpole())


def test_if_all_candidates_are_broken_the_error_names_each(run):
    for path in list_candidates(run):
        remove(path)
    with pytest.raises(DamagedError, match=r"none of the 2 checkpoints in .* can be used: .*step-40.*step-20"):
        resume(run, cartpole())


def test_a_checkpoint_of_a_later_version_is_not_passed_over(run):
    sealed(list_checkpoints(run)[-1], lambda manifest: manifest.update(format_version=7))
    with pytest.raises(NewerVersionError, match="upgrade sb3-reptile"):
        resume(run, cartpole())


def test_a_run_that_another_process_has_continued_is_not_continued_again(run):
    model = resume(run, cartpole())
    go_on(run, 20, keep=3)
    with pytest.raises(ValueError, match=r"another process has continued the run in .* since this model was resumed"):
        model.learn(40, callback=ResumableCheckpoint(20, run), reset_num_timesteps=False)
    assert steps_of(run) == [20, 40, 60]
