"""Starting from a trained network: all of it, or what fits and a word on what does not."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_reptile import ReptileDQN
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


def test_with_another_head_the_rest_is_loaded_and_the_head_is_named(teacher):
    expected = r"8 of 12 parameters loaded.*q_net.q_net.4.weight has shape \(2, 64\), needs \(3, 64\).*q_net_target"
    with pytest.warns(UserWarning, match=expected):
        student = ReptileDQN("MlpPolicy", ThreeActions(), **small(pretrained=teacher))
    for name, value in student.policy.state_dict().items():
        if ".4." not in name:
            assert th.equal(value, teacher.policy.state_dict()[name])
    student.learn(100)


def test_missing_and_unknown_parameters_are_named(teacher):
    state = teacher.policy.state_dict()
    del state["q_net.q_net.0.bias"]
    state["q_net.extra"] = th.zeros(3)
    with pytest.warns(UserWarning, match=r"q_net.q_net.0.bias is missing; q_net.extra is unknown here"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=state))


def test_what_does_not_fit_at_all_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"nothing in pretrained fits this policy: q_net.q_net.0.weight has shape"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=teacher, policy_kwargs=dict(net_arch=[7, 7, 9])))
    with pytest.raises(TypeError, match=r"pretrained must be the path of a saved DQN or ReptileDQN.*got int"):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=3))
    with pytest.raises(FileNotFoundError):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(pretrained=tmp_path / "nothing.zip"))


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
