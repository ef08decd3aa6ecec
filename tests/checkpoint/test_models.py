"""The arguments that a resumed model is made from."""

import warnings

import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_reptile import ReptileDQN
from sb3_reptile.callbacks import HalfLifeSchedule
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.storage import MissingArgumentError
from tests.checkpoint.training import cartpole, resumable, small


def test_arguments_can_be_changed_and_functions_must_be_given(tmp_path):
    def schedule(progress):
        return 1e-3 * progress

    _, folder = resumable(
        tmp_path, learning_rate=schedule, replay_buffer_kwargs=dict(decay=lambda age: 0.99**age, uniform_fraction=0.2)
    )
    with pytest.raises(MissingArgumentError, match=r"learning_rate must be given again, resume\(..., learning_rate="):
        resume(folder, cartpole())
    with pytest.raises(MissingArgumentError, match=r"decay must be given again, resume with replay_buffer_kwargs=dict"):
        resume(folder, cartpole(), learning_rate=schedule)
    kwargs = dict(learning_rate=schedule, batch_size=16, verbose=1)
    resumed = resume(folder, cartpole(), replay_buffer_kwargs=dict(decay=lambda age: 0.5**age), **kwargs)
    assert resumed.batch_size == 16
    assert resumed.replay_buffer.uniform_fraction == 0.2
    assert resumed.replay_buffer.diagnostics().expected_age < 20
    assert resumed.learning_rate is schedule
    assert resumed.seed == 0


class OwnDQN(DQN):
    pass


class OwnNet(th.nn.ReLU):
    pass


def test_user_defined_classes_must_be_given(tmp_path):
    OwnDQN("MlpPolicy", cartpole(), **small(policy_kwargs=dict(activation_fn=OwnNet))).learn(
        40, callback=ResumableCheckpoint(20, tmp_path)
    )
    with pytest.raises(MissingArgumentError, match=r"algorithm must be given again"):
        resume(tmp_path, cartpole())
    with pytest.raises(MissingArgumentError, match=r"activation_fn must be given again"):
        resume(tmp_path, cartpole(), algorithm=OwnDQN)
    model = resume(tmp_path, cartpole(), algorithm=OwnDQN, policy_kwargs=dict(activation_fn=OwnNet))
    assert type(model) is OwnDQN
    assert isinstance(model.q_net.q_net[1], OwnNet)


def test_a_half_life_that_changes_goes_on_changing(tmp_path):
    schedule = {"start": 50, "end": 500, "end_fraction": 1.0}
    _, folder = resumable(tmp_path, callback=[HalfLifeSchedule(schedule)], priority="td_error", half_life=None)
    model = resume(folder, cartpole())
    assert model.half_life == model.replay_buffer.half_life == pytest.approx(50 + 450 * 40 / 120)


def test_a_buffer_on_disk_stays_there_if_the_caller_says_so(tmp_path):
    kwargs = dict(storage_dir=str(tmp_path))
    _, folder = resumable(tmp_path, replay_buffer_kwargs=kwargs)
    with pytest.raises(
        MissingArgumentError, match=r"storage_dir must be given again, resume with replay_buffer_kwargs"
    ):
        resume(folder, cartpole())
    model = resume(folder, cartpole(), replay_buffer_kwargs=kwargs)
    assert model.replay_buffer._scratch.storage_dir == tmp_path
    assert model.replay_buffer.size() == 40
    assert resume(folder, cartpole(), replay_buffer_kwargs=dict(storage_dir=None)).replay_buffer._scratch is None


def test_a_resumed_model_can_be_saved_and_loaded_as_by_sb3(tmp_path):
    _, folder = resumable(tmp_path)
    resumed = resume(folder, "CartPole-v1")
    resumed.save(tmp_path / "model")
    resumed.save_replay_buffer(tmp_path / "buffer")
    again = ReptileDQN.load(tmp_path / "model", env=cartpole())
    again.load_replay_buffer(tmp_path / "buffer")
    assert again.replay_buffer.size() == resumed.replay_buffer.size() == 40
    again.learn(20)


def test_arguments_that_sb3_completed_give_no_warning_when_they_are_used_again(tmp_path):
    DQN("MlpPolicy", cartpole(), **small(n_steps=3)).learn(40, callback=ResumableCheckpoint(20, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = resume(tmp_path, cartpole())
    assert resumed.replay_buffer.n_steps == resumed.n_steps == 3
