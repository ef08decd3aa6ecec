"""When checkpoints are saved and kept, and what happens if saving fails."""

import errno
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList, EvalCallback, EveryNTimesteps

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.checkpoint.resuming import KIND, list_checkpoints
from sb3_reptile.storage import DamagedError, NotStorableError, StorageError
from sb3_reptile.storage.folder import Folder
from sb3_reptile.storage.lock import LOCK
from tests.checkpoint.training import EachStep, cartpole, resumable, small, steps_of


def test_a_full_disk_does_not_end_training_and_leaves_the_old_checkpoint(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows cannot limit the size of files")

    def limit(num_timesteps):
        if num_timesteps == 41:  # the system refuses larger files from now on, as it would on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    try:
        with pytest.warns(
            UserWarning, match=r"no checkpoint was saved at step 60, training continues: .*too large.*step-40"
        ):
            model.learn(60, callback=[ResumableCheckpoint(20, tmp_path), EachStep(limit)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert model.num_timesteps == 60
    assert sorted(os.listdir(tmp_path)) == ["000002-step-20", "000003-step-40"]
    assert resume(tmp_path, cartpole()).num_timesteps == 40


def test_a_folder_that_cannot_be_written_does_not_end_training(tmp_path, monkeypatch):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    mkdir = Path.mkdir

    def read_only(path, *args, **kwargs):
        if model.num_timesteps > 30 and tmp_path in path.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.warns(
        UserWarning, match=r"no checkpoint was saved at step 40.*Read-only file system.*latest checkpoint is .*step-20"
    ):
        model.learn(60, callback=ResumableCheckpoint(20, tmp_path))
    monkeypatch.undo()
    assert model.num_timesteps == 60
    assert resume(tmp_path, cartpole()).num_timesteps == 20


def test_a_path_that_cannot_be_written_gives_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(
        UserWarning, match=r"no checkpoint was saved at step 0, training continues.*there is no checkpoint yet"
    ):
        ReptileDQN("MlpPolicy", cartpole(), **small()).learn(20, callback=ResumableCheckpoint(20, tmp_path / "file"))


def test_what_cannot_be_saved_is_an_error_at_the_beginning(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    model.policy = model.policy.bfloat16()
    with pytest.raises(NotStorableError, match=r"is of type torch.bfloat16, which NumPy does not have"):
        model.learn(20, callback=ResumableCheckpoint(20, tmp_path))


def test_keep_checkpoints_remain_and_the_last_is_of_the_end(tmp_path, capsys):
    model = ReptileDQN("MlpPolicy", cartpole(2), train_freq=4, **small())
    seen = []
    look = EachStep(lambda _: seen.append(steps_of(tmp_path)))
    model.learn(96, callback=[ResumableCheckpoint(21, tmp_path, keep=3), look])
    assert seen[0] == [0]
    assert seen[-1] == [48, 64, 80]
    assert steps_of(tmp_path) == [64, 80, 96]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    newest = list_checkpoints(tmp_path)[-1]
    again = resume(tmp_path, cartpole(2))
    again.learn(32, callback=ResumableCheckpoint(21, tmp_path, keep=3), reset_num_timesteps=False)
    assert steps_of(tmp_path) == [96, 112, 128]
    # It is kept, not saved again
    assert list_checkpoints(tmp_path)[0] == newest
    assert capsys.readouterr().out == ""


def test_checkpoints_of_another_run_are_not_touched(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    callback = ResumableCheckpoint(20, tmp_path)
    model.learn(40, callback=callback)
    model.learn(20, callback=callback, reset_num_timesteps=False)
    assert steps_of(tmp_path) == [40, 60]
    with pytest.raises(ValueError, match=r"contains checkpoints of another run: continue it with resume\(") as refused:
        ReptileDQN("MlpPolicy", cartpole(), **small()).learn(40, callback=ResumableCheckpoint(20, tmp_path))
    assert steps_of(tmp_path) == [40, 60]
    # Also while the error and the objects in its traceback are in use
    assert refused.tb is not None
    assert not (tmp_path / LOCK).exists()


def test_a_checkpoint_that_was_written_before_an_interruption_is_of_this_run(tmp_path, monkeypatch):
    model, callback = ReptileDQN("MlpPolicy", cartpole(), **small()), ResumableCheckpoint(20, tmp_path)
    model.learn(20, callback=callback)
    write = callback._write

    def interrupted(path):
        write(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(callback, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.learn(20, callback=callback, reset_num_timesteps=False)
    monkeypatch.undo()
    model.learn(20, callback=callback, reset_num_timesteps=False)
    assert steps_of(tmp_path)[-1] == model.num_timesteps == 60


def test_a_folder_is_the_same_by_any_name(tmp_path, monkeypatch):
    _, folder = resumable(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = resume("run", cartpole())
    model.learn(4, callback=ResumableCheckpoint(20, folder), reset_num_timesteps=False)
    model = resume(folder, cartpole())
    model.learn(4, callback=ResumableCheckpoint(20, "run"), reset_num_timesteps=False)
    assert steps_of(folder) == [44, 48]


def test_resuming_from_an_older_checkpoint_replaces_the_newer_ones(tmp_path):
    _, folder = resumable(tmp_path)
    older = list_checkpoints(folder)[0]
    model = resume(older, cartpole())
    assert model.num_timesteps == 20
    model.learn(20, callback=ResumableCheckpoint(20, folder, keep=3), reset_num_timesteps=False)
    assert steps_of(folder) == [20, 40]


def test_a_damaged_checkpoint_is_skipped_and_replaced(tmp_path):
    _, folder = resumable(tmp_path)
    newer = list_checkpoints(folder)[-1]
    file = newer / "parameters.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"parameters.safetensors is damaged"):
        resume(newer, cartpole())
    with pytest.warns(UserWarning, match=r"is damaged.*resuming from the previous checkpoint, .*step-20"):
        model = resume(folder, cartpole())
    assert model.num_timesteps == 20
    model.learn(40, callback=ResumableCheckpoint(20, folder), reset_num_timesteps=False)
    assert steps_of(folder) == [40, 60]
    assert resume(folder, cartpole()).num_timesteps == 60


def test_a_linked_file_that_is_damaged_is_written_again(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), learning_starts=1_000, buffer_size=90_000, seed=0)
    callback = ResumableCheckpoint(40, tmp_path)

    def damage(num_timesteps):
        if num_timesteps == 50:
            (path,) = list_checkpoints(tmp_path)[-1:]
            # Nothing is trained yet, so that the next checkpoint has the same parameters
            with (path / "parameters.safetensors").open("r+b") as file:
                file.seek(-5, os.SEEK_END)
                file.write(b"?")

    model.learn(80, callback=[callback, EachStep(damage)])
    older, newer = list_checkpoints(tmp_path)
    with pytest.raises(DamagedError):
        Folder(older, KIND).verify()
    Folder(newer, KIND).verify()


def test_leftovers_of_processes_that_ended_are_removed(tmp_path):
    _, folder = resumable(tmp_path)
    (folder / ".000009-step-99.123.saving").mkdir()
    model = resume(folder, cartpole())
    model.learn(4, callback=ResumableCheckpoint(20, folder), reset_num_timesteps=False)
    assert all(not name.startswith(".") for name in os.listdir(folder))


def test_leftovers_are_also_removed_during_training(tmp_path):
    def leave(num_timesteps):
        if num_timesteps == 25:
            (tmp_path / ".000009-step-99.123.saving").mkdir()

    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    model.learn(40, callback=[ResumableCheckpoint(20, tmp_path), EachStep(leave)])
    assert all(not name.startswith(".") for name in os.listdir(tmp_path))


def test_only_off_policy_algorithms_are_allowed(tmp_path):
    with pytest.raises(ValueError, match="for off-policy algorithms, got PPO: use SB3's CheckpointCallback"):
        PPO("MlpPolicy", cartpole(), n_steps=8, batch_size=8).learn(8, callback=ResumableCheckpoint(8, tmp_path))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda checkpoint: EveryNTimesteps(20, checkpoint),
        lambda checkpoint: EveryNTimesteps(20, CallbackList([checkpoint])),
        lambda checkpoint: EvalCallback(cartpole(), callback_on_new_best=checkpoint),
    ],
    ids=["in another", "in a list in another", "on a new best"],
)
def test_a_callback_that_does_not_call_it_between_rollouts_is_refused(wrapped, tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    with pytest.raises(ValueError, match=r"between rollouts, where \w+ does not call it: give it to learn\(\)"):
        model.learn(60, callback=wrapped(ResumableCheckpoint(20, tmp_path)))
    assert model.num_timesteps == 0
    model.learn(60, callback=CallbackList([ResumableCheckpoint(20, tmp_path)]))
    assert steps_of(tmp_path) == [40, 60]


@pytest.mark.parametrize("arguments", [dict(save_freq=0), dict(save_freq=1.5), dict(save_freq=10, keep=0)])
def test_bad_arguments_are_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match=r"(save_freq|keep) must be a whole number >= 1, got"):
        ResumableCheckpoint(path=tmp_path, **arguments)


def fails(error):
    def write(*args):
        raise error

    return write


def test_a_checkpoint_that_never_succeeds_is_an_error_after_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fails(OSError(errno.EBADF, os.strerror(errno.EBADF))))  # as on Windows
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    with (
        pytest.warns(UserWarning, match=r"no checkpoint was saved at step 0, training continues.*Bad file descriptor"),
        pytest.raises(StorageError, match=r"no checkpoint could be saved, 2 times up to step 20: .*mend the cause"),
    ):
        model.learn(60, callback=ResumableCheckpoint(20, tmp_path))
    assert model.num_timesteps == 20


def test_files_are_flushed_through_descriptors_that_are_open_for_writing(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="Windows does not say how a file was opened")
    fsync, flushed = os.fsync, []

    def only_for_writing(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        assert is_folder or fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        flushed.append(is_folder)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_for_writing)
    ReptileDQN("MlpPolicy", cartpole(), **small()).learn(40, callback=ResumableCheckpoint(20, tmp_path))
    assert steps_of(tmp_path) == [20, 40]
    assert flushed.count(False) > 4


ERRORS = {
    "ESTALE": OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    "EMFILE": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "MemoryError": MemoryError("Unable to allocate 74 GiB"),
    "RuntimeError": RuntimeError("can't start new thread"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["listdir", "open", "safetensors", "rename"])
def test_training_goes_on_whatever_makes_saving_fail(where, error, tmp_path, monkeypatch):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())

    def fail_for_a_while(num_timesteps):
        if num_timesteps == 21:
            if where == "safetensors":
                monkeypatch.setattr("sb3_reptile.storage.folder.save_file", fails(ERRORS[error]))
            else:
                monkeypatch.setattr(os, where, fails(ERRORS[error]))
        elif num_timesteps == 61:
            monkeypatch.undo()

    with pytest.warns(UserWarning, match="no checkpoint was saved") as warned:
        model.learn(80, callback=[ResumableCheckpoint(20, tmp_path, keep=9), EachStep(fail_for_a_while)])
    messages = [str(warning.message) for warning in warned if "no checkpoint was saved" in str(warning.message)]
    assert len(messages) == 2
    assert str(ERRORS[error]) in messages[0]
    assert "nothing has been saved since" not in messages[0]
    assert re.search(r"nothing has been saved since step 20 \(.*\), 2 times in a row", messages[1])
    assert steps_of(tmp_path) == [0, 20, 80]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert resume(tmp_path, cartpole()).num_timesteps == 80


def test_failures_are_counted_from_the_last_checkpoint(tmp_path, monkeypatch):
    model, callback = ReptileDQN("MlpPolicy", cartpole(), **small()), ResumableCheckpoint(20, tmp_path)
    write = callback._write_checkpoint

    def write_sometimes(path, previous):
        if model.num_timesteps in (20, 60):
            raise ERRORS["ESTALE"]
        write(path, previous)

    monkeypatch.setattr(callback, "_write_checkpoint", write_sometimes)
    with pytest.warns(UserWarning, match="no checkpoint was saved") as warned:
        model.learn(80, callback=callback)
    messages = [str(warning.message) for warning in warned if "no checkpoint was saved" in str(warning.message)]
    assert len(messages) == 2
    assert not any("in a row" in message for message in messages)


def test_a_folder_that_is_replaced_by_a_file_does_not_end_training(tmp_path):
    folder = tmp_path / "run"

    def replace(num_timesteps):
        if num_timesteps == 25:
            shutil.rmtree(folder)
            folder.write_text("in the way")
        elif num_timesteps == 45:
            folder.unlink()

    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    with pytest.warns(UserWarning, match=r"no checkpoint was saved at step 40.*File exists|Not a directory"):
        model.learn(60, callback=[ResumableCheckpoint(20, folder), EachStep(replace)])
    assert resume(folder, cartpole()).num_timesteps == 60


def test_checkpoints_that_cannot_be_removed_give_a_warning(tmp_path, monkeypatch):
    rename = os.rename

    def cannot_remove(source, target):
        if str(target).endswith(".old"):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        rename(source, target)

    monkeypatch.setattr(os, "rename", cannot_remove)
    with pytest.warns(UserWarning, match=r"older checkpoints than .* could not be removed: .*not permitted"):
        ReptileDQN("MlpPolicy", cartpole(), **small()).learn(60, callback=ResumableCheckpoint(20, tmp_path))
    assert steps_of(tmp_path) == [0, 20, 40, 60]
