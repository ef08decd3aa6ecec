"""When checkpoints are saved and kept, and what happens if saving fails."""

import errno
import os
import resource
from pathlib import Path

import pytest
from stable_baselines3 import PPO

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.checkpoint.resuming import KIND, list_checkpoints
from sb3_reptile.storage import DamagedError, NotStorableError
from sb3_reptile.storage.folder import Folder
from tests.checkpoint.training import EachStep, cartpole, resumable, small, steps_of


def test_a_full_disk_does_not_end_training_and_leaves_the_old_checkpoint(tmp_path):
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


def test_keep_checkpoints_remain_and_the_last_is_of_the_end(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(2), train_freq=4, **small())
    seen = []
    look = EachStep(lambda _: seen.append(steps_of(tmp_path)))
    model.learn(96, callback=[ResumableCheckpoint(21, tmp_path, keep=3), look])
    assert seen[0] == [0]
    assert seen[-1] == [48, 64, 80]
    assert steps_of(tmp_path) == [64, 80, 96]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    again = resume(tmp_path, cartpole(2))
    again.learn(32, callback=ResumableCheckpoint(21, tmp_path, keep=3), reset_num_timesteps=False)
    assert steps_of(tmp_path) == [96, 112, 128]


def test_checkpoints_of_another_run_are_not_touched(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    callback = ResumableCheckpoint(20, tmp_path)
    model.learn(40, callback=callback)
    model.learn(20, callback=callback, reset_num_timesteps=False)
    assert steps_of(tmp_path) == [40, 60]
    with pytest.raises(ValueError, match=r"contains checkpoints of another run: continue it with resume\("):
        ReptileDQN("MlpPolicy", cartpole(), **small()).learn(40, callback=ResumableCheckpoint(20, tmp_path))
    assert steps_of(tmp_path) == [40, 60]


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


def test_only_off_policy_algorithms_are_allowed(tmp_path):
    with pytest.raises(ValueError, match="for off-policy algorithms, got PPO: use SB3's CheckpointCallback"):
        PPO("MlpPolicy", cartpole(), n_steps=8, batch_size=8).learn(8, callback=ResumableCheckpoint(8, tmp_path))


@pytest.mark.parametrize("arguments", [dict(save_freq=0), dict(save_freq=1.5), dict(save_freq=10, keep=0)])
def test_bad_arguments_are_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match=r"(save_freq|keep) must be a whole number >= 1, got"):
        ResumableCheckpoint(path=tmp_path, **arguments)
