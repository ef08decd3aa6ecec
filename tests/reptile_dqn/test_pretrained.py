"""Starting from a trained network: wherever it was saved, all of it or nothing."""

import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, SAC

from sb3_reptile import ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint
from sb3_reptile.reptile_dqn.pretrained import parameters_of
from tests.conftest import small


@pytest.fixture(scope="module")
def teacher():
    return DQN("MlpPolicy", "CartPole-v1", **small(seed=5)).learn(200)


def as_path(model, folder):
    model.save(folder / "teacher")
    return folder / "teacher.zip"


FORMS = {
    "path": as_path,
    "text": lambda model, folder: str(as_path(model, folder)),
    "model": lambda model, folder: model,
    "policy state dict": lambda model, folder: model.policy.state_dict(),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_architecture_is_loaded_whole(form, teacher, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student = ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=FORMS[form](teacher, tmp_path)))
    for name, value in teacher.policy.state_dict().items():
        assert th.equal(student.policy.state_dict()[name], value)
    # A copy: learning changes the student only
    before = {name: value.clone() for name, value in teacher.policy.state_dict().items()}
    student.learn(200)
    assert not th.equal(student.policy.state_dict()["q_net.q_net.0.weight"], before["q_net.q_net.0.weight"])
    assert all(th.equal(value, before[name]) for name, value in teacher.policy.state_dict().items())


def test_a_state_dict_of_the_q_net_is_loaded_into_both_networks(teacher):
    student = ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=teacher.q_net.state_dict()))
    for net in (student.q_net, student.q_net_target):
        assert all(th.equal(value, teacher.q_net.state_dict()[name]) for name, value in net.state_dict().items())


class ThreeActions(gym.ActionWrapper):
    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        self.action_space = gym.spaces.Discrete(3)

    def action(self, action):
        return min(action, 1)


def test_other_sizes_without_a_mapping_are_refused_with_the_mapping_to_give(teacher):
    expected = r"it has 2 actions, this environment 3: map them, transfer=\{'actions': \[...\]\} with.* or None$"
    with pytest.raises(ValueError, match=expected):
        ReptileDQN("MlpPolicy", ThreeActions(), **small(pretrained=teacher))


def test_missing_unknown_and_broken_parameters_are_named(teacher):
    state = teacher.policy.state_dict()
    del state["q_net.q_net.0.bias"]
    state["q_net.extra"] = th.zeros(3)
    state["q_net.q_net.2.bias"] = th.full((64,), float("nan"))
    names = r"q_net.q_net.0.bias is missing; q_net.extra is unknown here; q_net.q_net.2.bias is not finite$"
    with pytest.raises(ValueError, match=names):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=state))


def test_what_does_not_fit_at_all_is_refused(teacher, tmp_path):
    with pytest.raises(
        ValueError, match=r"q_net.q_net.0.weight has shape \(64, 4\), needs \(7, 4\): use the same policy"
    ):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=teacher, policy_kwargs=dict(net_arch=[7, 7, 9])))
    with pytest.raises(TypeError, match=r"pretrained must be the path of a saved DQN, QRDQN or ReptileDQN.*got int"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=3))
    with pytest.raises(FileNotFoundError, match=r"pretrained: there is no file .*nothing\.zip$"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=tmp_path / "nothing.zip"))


def test_files_and_folders_without_a_q_network_are_refused_in_one_line(tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "sac")
    whole = (tmp_path / "sac.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "torn.zip", "w") as archive:
        archive.writestr("policy.pth", b"torn")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "text.zip": "is not a saved model",
        "half.zip": "is not a saved model",
        "torn.zip": "is not a saved model",
        "sac.zip": "holds no Q-network: it must be",
        "empty": "there is no checkpoint in",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
            parameters_of(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["zip", "model", "checkpoint"])
@pytest.mark.parametrize("n_quantiles", [7, 200])
def test_qrdqn_is_loaded_as_the_mean_of_its_quantiles(n_quantiles, form, tmp_path):
    kwargs = {} if n_quantiles == 200 else dict(n_quantiles=n_quantiles)
    env = ThreeActions()
    teacher = QRDQN("MlpPolicy", env, **small(policy_kwargs=dict(net_arch=[16], **kwargs)))
    if form == "checkpoint":
        teacher.learn(100, callback=ResumableCheckpoint(100, tmp_path / "checkpoints"))
    else:
        teacher.learn(100)
    given = {"zip": tmp_path / "teacher.zip", "model": teacher, "checkpoint": tmp_path / "checkpoints"}[form]
    teacher.save(tmp_path / "teacher")
    student = ReptileDQN("MlpPolicy", env, **small(pretrained=given, policy_kwargs=dict(net_arch=[16])))
    observations = th.randn(50, 4)
    for theirs, ours in [
        (teacher.policy.quantile_net, student.q_net),
        (teacher.policy.quantile_net_target, student.q_net_target),
    ]:
        th.testing.assert_close(ours(observations), theirs(observations).mean(dim=1))


def test_a_state_dict_of_qrdqn_is_refused():
    teacher = QRDQN("MlpPolicy", "CartPole-v1", **small())
    with pytest.raises(TypeError, match="give the model"):
        parameters_of(teacher.policy.state_dict())


def test_checkpoints_and_folders_of_checkpoints_are_loaded(tmp_path):
    teacher = ReptileDQN("MlpPolicy", "CartPole-v1", **small())
    teacher.learn(200, callback=ResumableCheckpoint(100, tmp_path))
    for path in (tmp_path, sorted(tmp_path.glob("0*"))[-1]):
        student = ReptileDQN("MlpPolicy", "CartPole-v1", **small(seed=3, pretrained=path))
        for name, value in teacher.policy.state_dict().items():
            assert th.equal(student.policy.state_dict()[name], value)
    assert student.num_timesteps == 0


@pytest.mark.filterwarnings("ignore:the model was saved by DQN")
def test_pretrained_cannot_be_given_to_load(teacher, tmp_path):
    path = as_path(teacher, tmp_path)
    with pytest.raises(ValueError, match=r"pretrained=.* cannot be given to load\(\)"):
        ReptileDQN.load(path, pretrained=path)


def test_a_model_that_started_from_another_is_saved_and_loaded_without_it(teacher, tmp_path):
    path = as_path(teacher, tmp_path)
    student = ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=path)).learn(200)
    student.save(tmp_path / "student")
    path.unlink()
    loaded = ReptileDQN.load(tmp_path / "student")
    observation = np.zeros(4, dtype=np.float32)
    assert loaded.pretrained is None
    assert loaded.predict(observation, deterministic=True)[0] == student.predict(observation, deterministic=True)[0]
    assert th.equal(loaded.q_net.state_dict()["q_net.0.weight"], student.q_net.state_dict()["q_net.0.weight"])
