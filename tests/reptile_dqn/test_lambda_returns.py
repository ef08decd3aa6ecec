"""λ-returns against their recursion, and the cache of the target network's values."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import SimpleMultiObsEnv
from torch import nn

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.reptile_dqn.lambda_returns import ROWS, tensors_of
from tests.conftest import INF, assert_same_parameters, cartpole, small

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


def actions_of(model, indices):
    return model.replay_buffer.transitions(indices).actions.long()


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


def set_q_lambda(model):
    model.q_lambda = 0.3


def set_gamma(model):
    model.gamma = 0.5


def set_n_steps(model):
    model.n_steps = 2


CHANGES = [set_target, load_target, train_on, wrap_around, reset_and_refill, replace_buffer]
CHANGES += [set_q_lambda, set_gamma, set_n_steps]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("learner", ["eager", "auto"])
def test_the_cache_forgets_what_no_longer_holds(change, learner):
    model = train(buffer_size=300, learner=learner)
    indices = np.arange(model.replay_buffer.size() * model.n_envs)
    before = targets(model, indices)  # all values are in the cache now
    change(model)
    values = th.gather(
        model.q_net(model.replay_buffer.transitions(indices).observations), 1, actions_of(model, indices)
    )
    after = model.td_errors(indices) + values
    assert not th.allclose(before, after)
    assert th.allclose(after, recursion(model, indices, model.q_lambda), atol=1e-5)


def test_a_value_is_computed_once_for_each_target_network():
    model = train(target_update_interval=10_000, steps=60)
    computed = []

    def count(module, inputs):
        computed.append(len(inputs[0]))

    model.q_net_target.register_forward_pre_hook(count)
    indices = np.arange(model.replay_buffer.size() * model.n_envs)
    targets(model, indices)
    targets(model, indices)
    # Some several times, to fill the other rows
    most = len(indices) + 4 * ROWS
    assert sum(computed) < most
    set_target(model)
    targets(model, indices)
    assert len(indices) <= sum(computed) < 2 * most


@pytest.mark.parametrize(
    "kwargs",
    [
        *({}, dict(half_life=INF), dict(priority="td_error"), dict(train_freq=1), dict(gradient_steps=4)),
        *(dict(double_q=True), dict(tau=0.1, target_update_interval=3), dict(env=lambda: cartpole(3, normalize=True))),
    ],
)
def test_the_closed_form_is_bitwise_autograd(kwargs):
    # Large enough that the last bits of a product depend on the number of rows
    kwargs = dict(policy_kwargs=dict(net_arch=[64, 64]), n_steps=10, target_update_interval=10_000, steps=300) | kwargs
    make_env = kwargs.pop("env", cartpole)
    eager, closed = (train(learner=learner, env=make_env(), **kwargs) for learner in ("eager", "auto"))
    assert closed._closed_form is not None
    assert_same_parameters(closed, eager)


# The last bits of a product of matrices depend on the alignment of its rows, unless these are multiples of four numbers
@pytest.mark.parametrize(
    ("learner", "net_arch"),
    [*((learner, [64, 64]) for learner in LEARNERS), *(("eager", [width]) for width in (50, 30, 7)), ("auto", [50])],
)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_value_does_not_depend_on_what_else_is_missing(learner, net_arch, n_threads):
    before = th.get_num_threads()
    try:
        th.set_num_threads(n_threads)
        model = train(learner=learner, steps=300, policy_kwargs=dict(net_arch=net_arch))
        indices = np.random.default_rng(0).permutation(model.replay_buffer.size() * model.n_envs)
        compute = model.q_net_target if learner == "eager" else model._attached_closed_form()._values_of_next
        found = []
        for sizes in ([len(indices)], [1, 2, 3, 5, 6, 7, 9, 33, 64]):
            model._lambda_returns = None
            cache = model.lambda_returns().cache
            cache.refresh(list(model.q_net_target.parameters()))
            with th.no_grad():
                for part in np.split(indices, np.cumsum(sizes)[:-1]):
                    cache(part, compute)
                found.append(cache(indices[: sum(sizes)], compute)[: 1 + 2 + 3 + 5 + 6 + 7 + 9 + 33])
        assert found[0].tolist() == found[1].tolist()
    finally:
        th.set_num_threads(before)


@pytest.mark.parametrize("net_arch", [[64, 64], [50]])
def test_looking_at_td_errors_changes_nothing(net_arch):
    class Looks(BaseCallback):
        def _on_step(self):
            if self.n_calls % 7 == 0:
                self.model.td_errors(self.model.replay_buffer.drawable())
            return True

    models = []
    for callback in (None, Looks()):
        options = small(n_steps=10, q_lambda=0.7, train_freq=1, policy_kwargs=dict(net_arch=net_arch))
        model = ReptileDQN("MlpPolicy", cartpole(1), **options)
        models.append(model.learn(250, callback))
    assert_same_parameters(*models)


def test_the_cache_forgets_when_an_environment_without_statistics_takes_the_place_of_one_with_them():
    model = train(env=cartpole(3, normalize=True), target_update_interval=10_000)
    indices = model.replay_buffer.drawable()
    model.td_errors(indices)
    model.set_env(cartpole(3))
    assert th.allclose(targets(model, indices), recursion(model, indices, 0.7), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("q_lambda", 7, ValueError, r"q_lambda must be .*in \[0, 1\], got 7"),
        ("gamma", -1, ValueError, r"gamma must be .*in \[0, 1\], got -1"),
        ("n_steps", 2.5, TypeError, "n_steps must be a whole number"),
    ],
)
def test_what_is_not_allowed_is_refused_during_training(name, value, error, message):
    model = train(steps=100)
    setattr(model, name, value)
    with pytest.raises(error, match=message):
        model.learn(50, reset_num_timesteps=False)
    # Uncorrected returns, and the buffer keeps what it had
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (5, 0.9)


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
