"""λ-returns against their recursion, and the cache of the target network's values."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.envs import SimpleMultiObsEnv
from torch import nn

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.reptile_dqn.lambda_returns import tensors_of
from tests.conftest import INF, cartpole, small

LEARNERS = ("eager", "auto", "fast")
MLP = dict(policy_kwargs=dict(net_arch=[16]))


def train(policy="MlpPolicy", env=None, steps=300, **kwargs):
    options = MLP | dict(n_steps=5, q_lambda=0.7, gamma=0.9, target_update_interval=60) | kwargs
    return ReptileDQN(policy, cartpole(3) if env is None else env, **small(**options)).learn(steps)


def recursion(model, indices, q_lambda):
    """The definition, transition by transition, without a cache."""
    buffer, env, gamma = model.replay_buffer, model._vec_normalize_env, model.gamma
    steps, last, rewards, dones = buffer.sequences(indices, env)
    returns = []
    for i in range(len(indices)):
        value_after = None
        for k in range(last[i], -1, -1):
            next_observations = buffer.next_observations_of(steps[i, k : k + 1], env)
            with th.no_grad():
                q_values = model.q_net_target(next_observations)[0]
                best = model.q_net(next_observations)[0].argmax() if model.double_q else q_values.argmax()
            value = q_values[best].item()
            if k < last[i]:
                value = (1 - q_lambda) * value + q_lambda * value_after
            else:
                value *= 1 - dones[i]
            value_after = rewards[i, k] + gamma * value
        returns.append(value_after)
    return th.tensor(returns, dtype=th.float32).reshape(-1, 1)


def targets(model, indices):
    with th.no_grad():
        return model._td_targets(model.replay_buffer.transitions(indices, model._vec_normalize_env))


VARIANTS = {
    "plain": {},
    "double Q": dict(double_q=True),
    "priorities": dict(priority="td_error"),
    "auto": dict(half_life="auto"),
    "memory-optimised": dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    "VecNormalize": dict(env=lambda: cartpole(3, normalize=True)),
    "Dict": dict(policy="MultiInputPolicy", env=lambda: SimpleMultiObsEnv(random_start=False)),
    "soft updates": dict(tau=0.1, target_update_interval=1),
}


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_targets_are_those_of_the_recursion(variant, learner):
    kwargs = VARIANTS[variant]
    if "env" in kwargs:
        kwargs = {**kwargs, "env": kwargs["env"]()}
    model = train(learner=learner, **kwargs)
    indices = np.random.default_rng(0).integers(model.replay_buffer.size() * model.n_envs, size=100)
    assert th.allclose(targets(model, indices), recursion(model, indices, 0.7), atol=1e-5)


@pytest.mark.parametrize("double_q", [False, True])
def test_zero_gives_one_step_targets_and_one_n_step_targets(double_q):
    model = train(double_q=double_q)
    indices = np.arange(model.replay_buffer.size() * model.n_envs)
    n_step = model.replay_buffer.transitions(indices)
    for q_lambda, n_steps in [(0.0, 1), (1 - 1e-9, 5)]:
        model.q_lambda = q_lambda
        model._lambda_returns = None
        mixed = targets(model, indices)
        model.q_lambda, model.replay_buffer.n_steps = 1.0, n_steps
        expected = model._td_targets(n_step if n_steps == 5 else model.replay_buffer.transitions(indices))
        assert th.allclose(mixed, expected, atol=1e-5)
        model.replay_buffer.n_steps = 5


def set_target(model):
    with th.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter.mul_(1.1)


def load_target(model):
    parameters = {name: 2 * value for name, value in model.policy.state_dict().items()}
    model.policy.load_state_dict(parameters)


def train_on(model):
    model.learn(61, reset_num_timesteps=False)


def wrap_around(model):
    model.learn(900, reset_num_timesteps=False)


def reset_and_refill(model):
    n_rows = model.replay_buffer.distribution.rows_added
    model.replay_buffer.reset()
    random = np.random.default_rng(1)
    for _ in range(n_rows + 5):
        obs, next_obs = random.normal(size=(2, 3, 4))
        model.replay_buffer.add(obs, next_obs, np.zeros(3), np.ones(3), np.zeros(3), [{}] * 3)


def replace_buffer(model):
    other = train(seed=7, buffer_size=300)
    model.replay_buffer = other.replay_buffer


CHANGES = [set_target, load_target, train_on, wrap_around, reset_and_refill, replace_buffer]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("learner", ["eager", "auto"])
def test_the_cache_forgets_what_no_longer_holds(change, learner):
    model = train(buffer_size=300, learner=learner)
    indices = np.arange(model.replay_buffer.size() * model.n_envs)
    before = targets(model, indices)  # all values are in the cache now
    change(model)
    after = targets(model, indices)
    assert not th.allclose(before, after)
    assert th.allclose(after, recursion(model, indices, 0.7), atol=1e-5)


def test_a_value_is_computed_once_for_each_target_network():
    model = train(target_update_interval=10_000, steps=60)
    computed = []

    def count(module, inputs):
        computed.append(len(inputs[0]))

    model.q_net_target.register_forward_pre_hook(count)
    indices = np.arange(model.replay_buffer.size() * model.n_envs)
    targets(model, indices)
    targets(model, indices)
    assert sum(computed) <= len(indices)
    set_target(model)
    targets(model, indices)
    assert len(indices) <= sum(computed) <= 2 * len(indices)


@pytest.mark.parametrize("kwargs", [{}, dict(half_life=INF), dict(double_q=True), dict(priority="td_error")])
def test_the_closed_form_agrees_with_autograd(kwargs):
    eager, closed = (train(learner=learner, steps=200, **kwargs) for learner in ("eager", "auto"))
    assert closed._closed_form is not None
    for ours, theirs in zip(closed.policy.parameters(), eager.policy.parameters(), strict=True):
        assert th.allclose(ours, theirs, atol=1e-4)


def test_it_is_saved_and_loaded(tmp_path):
    model = train()
    model.save(tmp_path / "model")
    loaded = ReptileDQN.load(tmp_path / "model")
    assert (loaded.q_lambda, loaded.replay_buffer.n_steps) == (0.7, 5)


def test_it_needs_several_steps():
    with pytest.raises(ValueError, match=r"q_lambda=0.5 mixes returns .* n_steps=1: set n_steps > 1"):
        ReptileDQN("MlpPolicy", "CartPole-v1", q_lambda=0.5, n_steps=1)
    kwargs = dict(replay_buffer_class=DecayedReplayBuffer, replay_buffer_kwargs=dict(n_steps=3))
    ReptileDQN("MlpPolicy", "CartPole-v1", q_lambda=0.5, **kwargs)


@pytest.mark.parametrize(("q_lambda", "error"), [(-0.1, ValueError), (1.1, ValueError), ("1", TypeError)])
def test_values_that_are_not_allowed_are_refused(q_lambda, error):
    with pytest.raises(error, match=r"q_lambda must be .*in \[0, 1\]"):
        ReptileDQN("MlpPolicy", "CartPole-v1", n_steps=3, q_lambda=q_lambda)


def test_all_parameters_and_buffers_of_a_network_are_watched():
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), nn.Linear(3, 1))
    expected = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    assert {id(tensor) for tensor in tensors_of(network)} == expected
