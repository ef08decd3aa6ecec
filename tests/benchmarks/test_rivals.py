"""Published methods that change the learner do what their papers say, and nothing else."""

import dataclasses
import importlib

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback

import tests.benchmarks  # noqa: F401
from sb3_reptile import ReptileDQN

learning, rivals = importlib.import_module("learning"), importlib.import_module("rivals")
TASKS, METHODS, Run = learning.TASKS, learning.METHODS, learning.Run

SMALL = dict(learning_starts=20, batch_size=40, buffer_size=500, device="cpu", seed=3)
ALGORITHMS = {
    "DQN": (DQN, "CartPole-v1", dict(train_freq=10, gradient_steps=5, target_update_interval=20)),
    "ReptileDQN": (
        ReptileDQN,
        "CartPole-v1",
        dict(train_freq=10, gradient_steps=5, target_update_interval=20, n_steps=1),
    ),
    "SAC": (SAC, "Pendulum-v1", dict(train_freq=10, gradient_steps=3)),
    "TD3": (TD3, "Pendulum-v1", dict(train_freq=10, gradient_steps=3)),
}


def make(name, **options):
    algorithm, env, settings = ALGORITHMS[name]
    return algorithm("MlpPolicy", env, policy_kwargs=dict(net_arch=[16, 16]), **{**SMALL, **settings, **options})


def parameters_of(model):
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


class Before(BaseCallback):
    """Keeps the parameters as they were before the other callbacks of a step."""

    def _on_step(self):
        self.parameters = parameters_of(self.model).clone()
        return True


@pytest.mark.parametrize("name", ALGORITHMS)
def test_parameters_shrink_and_fresh_ones_are_added_to_networks_and_their_targets(name):
    model, before = make(name), Before()
    perturbed = []

    class Perturb(rivals.ShrinkAndPerturb):
        def _shrink_and_perturb(self):
            super()._shrink_and_perturb()
            added = (parameters_of(self.model) - 0.5 * before.parameters) / 0.25
            perturbed.append((self.num_timesteps, added))
            optimizers = [m.optimizer for m in self.model.policy.modules() if hasattr(m, "optimizer")]
            assert optimizers
            assert not any(optimizer.state for optimizer in optimizers)

    model.learn(100, callback=[before, Perturb(every=30, shrink=0.5, perturb=0.25)])
    assert [step for step, _ in perturbed] == [30, 60, 90]
    # PyTorch initializes uniformly within 1 / sqrt(inputs), here of at least three inputs
    for _, added in perturbed:
        assert 0.1 < added.std() < 0.6
        assert added.abs().max() <= 3**-0.5 + 1e-3
    assert not th.allclose(perturbed[0][1], perturbed[1][1], atol=1e-3)
    if name == "DQN":
        online, target = perturbed[0][1].chunk(2)
        th.testing.assert_close(online, target, atol=1e-5, rtol=0)


def test_a_run_is_not_perturbed_at_its_very_end_and_repeats_itself():
    def last_parameters(every):
        model = make("DQN")
        model.learn(100, callback=rivals.ShrinkAndPerturb(every, 0.5, 0.5))
        return parameters_of(model)

    assert th.equal(last_parameters(50), last_parameters(50))
    assert not th.equal(last_parameters(50), last_parameters(100))
    plain = make("DQN")
    plain.learn(100)
    assert th.equal(last_parameters(100), parameters_of(plain))


def test_the_closed_form_goes_on_from_perturbed_parameters():
    parameters = []
    for learner in ("auto", "eager"):
        model = make("ReptileDQN", learner=learner)
        model.learn(200, callback=rivals.ShrinkAndPerturb(60, 0.5, 0.5))
        assert (model._closed_form is None) == (learner == "eager")
        parameters.append(parameters_of(model))
    assert th.equal(*parameters)


def test_value_decay_adds_its_gradient_to_that_of_the_algorithm():
    model = make("DQN", max_grad_norm=1e9)
    decay = rivals.SpaceSampledValueDecay(rate=0.1, share=0.25, baseline=2.0)
    model._setup_learn(10)
    decay.init_callback(model)
    decay.on_training_start({}, {})
    situations = [decay._situations.sample() for _ in range(10)]
    decay._situations.seed(model.seed)
    with th.no_grad():
        values = model.q_net(th.as_tensor(np.stack(situations)))
    distances = 0.1 * (2.0 - values)
    expected = th.where(distances.abs() < 1, 0.5 * distances**2, distances.abs() - 0.5).mean()
    loss = decay.loss()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.q_net.parameters()]
    decay._situations.seed(model.seed)
    model.policy.optimizer.zero_grad()
    for parameter, gradient in zip(model.q_net.parameters(), gradients, strict=True):
        th.testing.assert_close(parameter.grad, gradient)
    decay.on_training_end()
    model.policy.optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.q_net.parameters())


@pytest.mark.parametrize(("name", "factor"), [("SAC", 0.5), ("TD3", 1.0)])
def test_value_decay_of_critics_samples_actions_too_and_decays_from_the_targets(name, factor):
    model = make(name)
    with th.no_grad():
        for parameter in model.critic_target.parameters():
            parameter.mul_(2)
    model._setup_learn(10)
    decay = rivals.SpaceSampledValueDecay(rate=0.5, share=0.1, baseline=1.0)
    decay.init_callback(model)
    decay.on_training_start({}, {})
    obs = th.as_tensor(np.stack([decay._situations.sample() for _ in range(4)]))
    actions = th.as_tensor(np.stack([decay._actions.sample() for _ in range(4)])) / 2  # torques are up to 2
    for space in (decay._situations, decay._actions):
        space.seed(model.seed)
    with th.no_grad():
        pairs = zip(model.critic(obs, actions), model.critic_target(obs, actions), strict=True)
        expected = sum(factor * ((q - 0.5 * frozen - 0.5) ** 2).mean() for q, frozen in pairs)
    loss = decay.loss()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.actor.parameters())
    assert all(parameter.grad is None for parameter in model.critic_target.parameters())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_values_decay_to_the_baseline_and_only_then_training_differs(name):
    def trained(*callbacks):
        model = make(name, learning_rate=1e-2)
        model.learn(150, callback=list(callbacks))
        return model

    plain, idle = trained(), trained(rivals.SpaceSampledValueDecay(rate=0.0, share=0.25, baseline=0.0))
    strong = trained(rivals.SpaceSampledValueDecay(rate=1.0, share=1.0, baseline=50.0))
    if name not in ("SAC", "TD3"):  # whose targets differ from the present values
        assert th.equal(parameters_of(plain), parameters_of(idle))
    assert "zero_grad" not in vars(getattr(strong, "critic", strong.policy).optimizer)
    obs, _ = strong.policy.obs_to_tensor(np.stack([strong.observation_space.sample() for _ in range(50)]))

    def mean_value(model):
        with th.no_grad():
            if hasattr(model, "q_net"):
                return model.q_net(obs).mean()
            return th.stack(model.critic(obs, th.zeros(50, 1))).mean()

    assert mean_value(strong) > mean_value(plain) + 1


@pytest.mark.parametrize("rival", [method.name for method in importlib.import_module("methods").RIVALS])
@pytest.mark.parametrize("learner", [None, "3-step", "3-step-lambda-0.7"])
def test_rivals_run_in_the_harness_with_every_learner(rival, learner, monkeypatch):
    few = dict(learning_starts=100, train_freq=64, gradient_steps=4, policy_kwargs=dict(net_arch=[16]))
    task = TASKS["cartpole-actions"]
    task = dataclasses.replace(task, steps=360, settings={**task.settings, **few})
    monkeypatch.setitem(TASKS, "cartpole-actions", task)
    ((callback, arguments),) = METHODS[rival].callbacks.items()
    seen = []

    class Seen(getattr(rivals, callback)):
        def __init__(self, **given):
            seen.append(given)
            super().__init__(**given)

    monkeypatch.setattr(rivals, callback, Seen)
    learning.train(Run("cartpole-actions", rival, 0, None, learner))
    assert seen == [arguments]


def test_rivals_have_set_ups_of_their_own():
    set_ups = [learning.set_up(Run("cartpole", name, 0)) for name in METHODS]
    assert len(set(set_ups)) == len(METHODS)


def test_unbounded_observations_can_be_sampled():
    space = gym.make("CartPole-v1").observation_space
    assert np.isfinite([space.sample() for _ in range(100)]).all()
    assert np.abs([space.sample() for _ in range(100)]).max() < 100
