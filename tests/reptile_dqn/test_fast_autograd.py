"""The fast learner where the closed form does not apply: it differs by rounding, and saves what SB3 loads."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.envs import FakeImageEnv
from torch import nn

from sb3_reptile import ReptileDQN
from tests.conftest import small

# Few steps: each update moves a parameter by the learning rate, in the direction that rounding decides near 0
SHORT = dict(train_freq=4, gradient_steps=1, batch_size=8, learning_starts=16, buffer_size=200)
TANH = dict(activation_fn=nn.Tanh)


def on_images(learner, steps=40, algorithm=ReptileDQN, **kwargs):
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=3, channel_first=True, discrete=True)
    kwargs = small(**SHORT | kwargs)
    if algorithm is ReptileDQN:
        kwargs["learner"] = learner
    return algorithm("CnnPolicy", env, **kwargs).learn(steps)


def on_vectors(learner, steps=40):
    return ReptileDQN("MlpPolicy", "CartPole-v1", **small(**SHORT, policy_kwargs=TANH), learner=learner).learn(steps)


def difference(a, b):
    ours, theirs = a.policy.state_dict(), b.policy.state_dict()
    return max((ours[key] - theirs[key]).abs().max().item() for key in ours)


@pytest.mark.parametrize(("make", "steps"), [(on_images, 24), (on_vectors, 100)])
def test_it_differs_by_rounding_only(make, steps):
    fast, eager = make("fast", steps), make("eager", steps)
    assert fast._n_updates == eager._n_updates > 0
    assert 0 < difference(fast, eager) < 1e-3


def test_convolutions_are_channels_last_and_adam_is_fused_while_it_trains(monkeypatch):
    seen = []
    step = th.optim.Adam.step

    def noticed(self, *args):
        seen.append([group["fused"] for group in self.param_groups])
        return step(self, *args)

    monkeypatch.setattr(th.optim.Adam, "step", noticed)
    model = on_images("fast")
    convolutions = [module for module in model.policy.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions
    for module in convolutions:
        assert module.weight.is_contiguous(memory_format=th.channels_last)
    assert seen
    assert all(fused == [True] for fused in seen)
    assert [group["fused"] for group in model.policy.optimizer.param_groups] == [None]
    seen.clear()
    on_images("auto")
    assert all(fused == [None] for fused in seen)


def test_saved_models_have_the_layout_of_sb3_and_go_on(tmp_path):
    model = on_images("fast")
    for state in model.get_parameters()["policy.optimizer"]["state"].values():
        assert all(value.is_contiguous() for value in state.values())
    model.save(tmp_path / "model")
    env = model.get_env()
    theirs = DQN.load(tmp_path / "model", env=env)
    assert difference(model, theirs) == 0
    assert [group["fused"] for group in theirs.policy.optimizer.param_groups] == [None]
    for value in theirs.policy.state_dict().values():
        assert value.is_contiguous()
    # A loaded state has another layout than the parameters, which the fused kernel must not mix up
    models = [ReptileDQN.load(tmp_path / "model", env=env, learner=learner) for learner in ("fast", "eager")]
    for loaded in models:
        assert difference(model, loaded) == 0
        loaded.replay_buffer = model.replay_buffer
        loaded._setup_learn(100)
        np.random.seed(0)
        for _ in range(3):
            loaded.train(1, 8)
    assert 0 < difference(*models) < 1e-3


def test_the_learner_stays_eager_with_other_optimizers():
    model = ReptileDQN(
        "MlpPolicy",
        "CartPole-v1",
        **small(**SHORT, policy_kwargs=TANH | dict(optimizer_class=th.optim.RMSprop)),
        learner="fast",
    )
    model.learn(40)
    assert isinstance(model.observation_space, spaces.Box)
    assert model._n_updates > 0
