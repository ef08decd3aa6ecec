"""The switches of ReptileDQN's learner: where weights act, priorities, loss, double Q; each against its definition."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, SimpleMultiObsEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.dqn import MlpPolicy
from torch.nn import functional as F

from sb3_reptile import DecayedDictReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.reptile_dqn.reptile_dqn import LOSSES
from tests.conftest import INF, Written, assert_same_parameters, cartpole, small

TINY = dict(policy_kwargs=dict(net_arch=[16]))


def trained(steps=300, **kwargs):
    return ReptileDQN("MlpPolicy", "CartPole-v1", **small(**TINY | kwargs)).learn(steps)


def everything(model):
    """All that the buffer holds, as one batch."""
    buffer = model.replay_buffer
    indices, distribution = np.arange(buffer.size() * buffer.n_envs), buffer.distribution
    is_loss = buffer.weighting == "loss"
    weights = distribution.loss_weights(indices) if is_loss else distribution.importance_weights(indices)
    return buffer._batch(buffer._fetch(indices, None), indices, weights)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    n_envs=st.sampled_from([1, 4]),
    normalize=st.booleans(),
    n_steps=st.sampled_from([1, 3]),
    tau=st.sampled_from([1.0, 0.05]),
    gamma=st.sampled_from([0.9, 0.99]),
    train_freq=st.sampled_from([1, 4]),
    gradient_steps=st.sampled_from([-1, 1, 3]),
    batch_size=st.sampled_from([7, 32, 100]),
    max_grad_norm=st.sampled_from([0.1, 10.0]),
    optimizer=st.sampled_from([th.optim.Adam, th.optim.RMSprop]),
)
def test_with_all_switches_off_any_configuration_is_bitwise_dqn(n_envs, normalize, optimizer, **kwargs):
    kwargs |= dict(target_update_interval=50, policy_kwargs=dict(net_arch=[16], optimizer_class=optimizer))
    models = [
        model_class("MlpPolicy", cartpole(n_envs, normalize), **small(**kwargs), **decay).learn(200)
        for model_class, decay in [(ReptileDQN, dict(half_life=INF)), (DQN, {})]
    ]
    assert_same_parameters(*models)


class NormalizedWithDropout(BaseFeaturesExtractor):
    """Layers that behave otherwise in training than in evaluation."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=4)
        self.layers = th.nn.Sequential(th.nn.Flatten(), th.nn.BatchNorm1d(4), th.nn.Dropout(0.3))

    def forward(self, observations):
        return self.layers(observations)


class OtherPolicy(MlpPolicy):
    """A policy of the user's own."""


@pytest.mark.parametrize("policy", ["MlpPolicy", OtherPolicy])
def test_batch_norm_dropout_and_custom_policies_are_bitwise_those_of_dqn(policy):
    kwargs = small(policy_kwargs=dict(features_extractor_class=NormalizedWithDropout), target_update_interval=40)
    models = [
        model_class(policy, "CartPole-v1", **kwargs, **decay).learn(300)
        for model_class, decay in [(ReptileDQN, dict(half_life=INF)), (DQN, {})]
    ]
    assert_same_parameters(*models)
    assert type(models[0].policy) is type(models[1].policy)
    # Acting is evaluation: neither dropout nor moving statistics
    observation = np.ones((5, 4), dtype=np.float32)
    statistics = models[0].batch_norm_stats[0].clone()
    values = [models[0].predict(observation, deterministic=True)[0] for _ in range(5)]
    assert all(np.array_equal(value, values[0]) for value in values)
    assert th.equal(models[0].batch_norm_stats[0], statistics)


def test_parameters_can_be_taken_and_given():
    first, second = trained(), trained(seed=7)
    second.set_parameters(first.get_parameters())
    assert_same_parameters(first, second)
    with pytest.raises(ValueError, match="is an invalid object name"):
        second.set_parameters({"nothing": {}})


@pytest.mark.parametrize("loss", ["huber", "mse"])
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(half_life=30),
        dict(half_life=30, uniform_fraction=0.2),
        dict(decay={"linear": {"horizon": 150}}),
        dict(half_life=30, initial_weights="info"),
        dict(decay="power_law", initial_weights="info", uniform_fraction=0.1),
    ],
)
def test_weighting_in_the_loss_has_the_expected_gradient_of_weighting_in_sampling(kwargs, loss):
    def expected_gradient(model, probabilities):
        batch = everything(model)
        targets = model._td_targets(batch)
        values = th.gather(model.q_net(batch.observations), 1, batch.actions.long())
        losses = LOSSES[loss](values, targets, reduction="none").double().flatten()
        model.policy.optimizer.zero_grad()
        (losses * th.as_tensor(probabilities)).sum().backward()
        return th.cat([parameter.grad.flatten() for parameter in model.q_net.parameters()])

    kwargs = dict(kwargs)
    half_life = kwargs.pop("half_life", None)
    model = trained(loss=loss, weighting="loss", half_life=half_life, replay_buffer_kwargs=kwargs)
    buffer = model.replay_buffer
    n = buffer.size()
    sampled = expected_gradient(model, buffer.sampling_probabilities()[:n].ravel())
    # Uniform draws, each loss times its weight
    weights = everything(model).weights.double().flatten()
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    in_loss = expected_gradient(model, weights.numpy() / n)
    assert th.allclose(in_loss, sampled, rtol=1e-4, atol=1e-7)
    assert not th.allclose(in_loss, expected_gradient(model, np.full(n, 1 / n)), rtol=1e-2)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("initial_weights", ["uniform", "random"])
def test_weighting_in_the_loss_draws_what_sb3_draws(initial_weights, n_envs):
    buffers = []
    decayed = dict(weighting="loss", half_life=5, initial_weights=initial_weights)
    for buffer_class, kwargs in [(DecayedReplayBuffer, decayed), (ReplayBuffer, {})]:
        space = spaces.Box(-1, 1, (1,))
        buffer = buffer_class(50 * n_envs, space, spaces.Discrete(2), device="cpu", n_envs=n_envs, **kwargs)
        for step in range(70):
            obs = np.full((n_envs, 1), step) + np.arange(n_envs)[:, None] / 10
            buffer.add(obs, obs, np.zeros(n_envs), np.zeros(n_envs), np.zeros(n_envs), [{}] * n_envs)
        np.random.seed(0)
        buffers.append(buffer.sample(64))
    assert th.equal(buffers[0].observations, buffers[1].observations)


@pytest.mark.parametrize("double_q", [False, True])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_td_targets_are_those_of_the_definition(double_q, n_steps):
    model = trained(double_q=double_q, n_steps=n_steps, target_update_interval=100)
    th.manual_seed(0)
    with th.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter += 0.5 * th.randn_like(parameter)
    batch = everything(model)
    with th.no_grad():
        online, target = model.q_net(batch.next_observations), model.q_net_target(batch.next_observations)
    by_online, by_target = ([int(values.argmax()) for values in net] for net in (online, target))
    assert by_online != by_target
    discounts = batch.discounts if n_steps > 1 else th.full_like(batch.rewards, model.gamma)
    found = model._td_targets(batch)
    assert found.shape == batch.rewards.shape
    for i, action in enumerate(by_online if double_q else by_target):
        bootstrap = (1 - batch.dones[i, 0]) * discounts[i, 0] * target[i, action]
        assert float(found[i, 0]) == pytest.approx(float(batch.rewards[i, 0] + bootstrap), rel=1e-5)


@pytest.mark.parametrize("weighting", ["sampling", "loss"])
@pytest.mark.parametrize(("loss", "function"), [("huber", F.smooth_l1_loss), ("mse", F.mse_loss)])
def test_the_loss_is_the_weighted_mean_of_the_losses(loss, function, weighting):
    model = trained(loss=loss, weighting=weighting, half_life=50, learning_rate=0.0)
    np.random.seed(3)
    batch = model.replay_buffer.sample(32)
    values = th.gather(model.q_net(batch.observations), 1, batch.actions.long())
    expected = (function(values, model._td_targets(batch), reduction="none") * batch.weights).mean().item()
    np.random.seed(3)
    model.train(1, 32)
    assert model.logger.name_to_value["train/loss"] == pytest.approx(expected, rel=1e-6)
    assert (len(batch.weights.unique()) > 1) == (weighting == "loss")


@pytest.mark.parametrize("alpha", [0.6, 1])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_priorities_are_powers_of_the_absolute_td_errors(alpha, n_envs):
    env = cartpole(n_envs)
    kwargs = dict(priority="td_error", alpha=alpha, learning_rate=0.0, **TINY)
    model = ReptileDQN("MlpPolicy", env, **small(**kwargs)).learn(150)
    np.random.seed(1)
    drawn = model.replay_buffer.sample(64).indices
    np.random.seed(1)
    model.train(1, 64)
    # Nothing has been learned, at that rate: the TD errors are still those of the update
    batch = everything(model)
    td_errors = model._td_targets(batch) - th.gather(model.q_net(batch.observations), 1, batch.actions.long())
    expected = (td_errors.detach().abs().flatten().double().numpy() + 1e-6) ** alpha
    assert np.allclose(model.replay_buffer.distribution._weighted.p.reshape(-1)[drawn], expected[drawn], rtol=1e-4)


def test_what_is_learned_already_keeps_a_priority(monkeypatch):
    model = trained(priority="td_error", alpha=0.5)

    def what_it_expects(batch):
        return th.gather(model.q_net(batch.observations), 1, batch.actions.long()).detach()

    monkeypatch.setattr(model, "_td_targets", what_it_expects)
    model.train(1, 64)
    assert model.replay_buffer.distribution._weighted.p[:300].min() == pytest.approx(1e-3)


def test_alpha_0_and_beta_0_is_the_unprioritised_learner():
    model = trained(priority="td_error", alpha=0, beta=0, half_life=40)
    plain = trained(half_life=40)
    ours, theirs = (m.replay_buffer.sampling_probabilities() for m in (model, plain))
    assert np.allclose(ours, theirs, rtol=1e-12)
    assert bool((model.replay_buffer.sample(50).weights == 1).all())


def test_beta_follows_its_schedule():
    seen = []

    class Watched(ReptileDQN):
        def train(self, gradient_steps, batch_size=100):
            super().train(gradient_steps, batch_size)
            seen.append((self._current_progress_remaining, self.replay_buffer.beta))

    model = Watched(
        "MlpPolicy", "CartPole-v1", **small(priority="td_error", beta=LinearSchedule(0.4, 1.0, 0.5), **TINY)
    )
    model.learn(400)
    assert seen[0][1] < 0.6
    assert seen[-1][1] == 1.0
    for progress, beta in seen:
        assert beta == pytest.approx(min(1.0, 0.4 + 0.6 * (1 - progress) / 0.5))


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(priority="td_error", n_steps=3, double_q=True),
        dict(priority="td_error", beta=1.0, half_life=INF, loss="mse"),
        dict(weighting="loss", n_steps=3),
        dict(weighting="loss", replay_buffer_kwargs=dict(decay="power_law", uniform_fraction=0.1)),
        dict(priority="td_error", replay_buffer_kwargs=dict(decay={"window": {"size": 90}}, combined=True)),
        dict(double_q=True, tau=0.01, target_update_interval=1, loss="mse"),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 8])
def test_every_switch_trains_saves_and_loads(kwargs, n_envs, tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(n_envs, normalize=True), **small(**TINY, **kwargs)).learn(320)
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = ReptileDQN.load(tmp_path / "model", env=model.get_env())
    for name in ("weighting", "priority", "alpha", "beta", "loss", "double_q", "half_life", "replay_buffer_kwargs"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.replay_buffer.prioritized == (model.priority is not None)
    assert loaded.replay_buffer.weighting == model.weighting
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(96, reset_num_timesteps=False)


def test_a_loaded_buffer_takes_over_where_decay_acts(tmp_path):
    ReptileDQN("MlpPolicy", "CartPole-v1", **small()).learn(120).save_replay_buffer(tmp_path / "buffer")
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(weighting="loss", half_life=70))
    model.load_replay_buffer(tmp_path / "buffer")
    assert (model.replay_buffer.weighting, model.replay_buffer.half_life) == ("loss", 70)


@pytest.mark.filterwarnings("ignore:.*were taken over")
def test_a_buffer_without_priorities_is_taken_over_by_a_model_that_needs_them(tmp_path):
    ReptileDQN("MlpPolicy", "CartPole-v1", **small()).learn(120).save_replay_buffer(tmp_path / "buffer")
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(priority="td_error"))
    model.load_replay_buffer(tmp_path / "buffer")
    assert (model.replay_buffer.prioritized, model.replay_buffer.size()) == (True, 120)
    model.learn(50)


def test_a_buffer_without_arrays_and_priorities_is_refused_by_a_model_that_needs_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_reptile.replay.taking_over._keeps_arrays", lambda buffer: False)
    ReptileDQN("MlpPolicy", "CartPole-v1", **small()).learn(120).save_replay_buffer(tmp_path / "buffer")
    model = ReptileDQN("MlpPolicy", "CartPole-v1", **small(priority="td_error"))
    own = model.replay_buffer
    with pytest.raises(ValueError, match="needs a replay buffer with priorities"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is own


@pytest.mark.parametrize("kwargs", [dict(priority="td_error"), dict(weighting="loss")])
def test_switches_work_with_dict_observations(kwargs):
    model = ReptileDQN("MultiInputPolicy", SimpleMultiObsEnv(), **small(**kwargs)).learn(120)
    assert type(model.replay_buffer) is DecayedDictReplayBuffer


@pytest.mark.parametrize("n_envs", [1, 3])
def test_it_logs_what_replay_is_doing(n_envs):
    model = Written("MlpPolicy", cartpole(n_envs), **small(priority="td_error", half_life=60, **TINY))
    model.learn(300, log_interval=None)
    model.dump_logs()
    logged = model.written[-1]
    diagnostics = model.replay_buffer.diagnostics()
    assert logged["replay/entropy"] == pytest.approx(diagnostics.entropy, rel=0.2)
    assert logged["replay/volume"] == pytest.approx(diagnostics.replay_volume, rel=0.1)
    assert logged["replay/half_life"] == 60
    assert 0 < logged["replay/mean_weight"] <= 1
    assert all(logged[f"replay/td_error_age_q{quarter}"] > 0 for quarter in (1, 2, 3, 4))


def test_td_errors_are_logged_by_age():
    model = trained(half_life=INF)
    batch = everything(model)
    ages = model.replay_buffer.ages_of(batch.indices)
    # An error that is the age itself: the quarters are those of the ages
    model._log_replay(batch, th.as_tensor(ages, dtype=th.float32))
    logged = [model.logger.name_to_value[f"replay/td_error_age_q{quarter}"] for quarter in (1, 2, 3, 4)]
    assert logged == pytest.approx([np.mean(quarter) for quarter in np.array_split(np.arange(300), 4)])


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(weighting="gradient"), ValueError, "weighting must be 'sampling' or 'loss', got 'gradient'"),
        (dict(priority="reward"), ValueError, "priority must be None or 'td_error', got 'reward'"),
        (dict(loss="l1"), ValueError, "loss must be 'huber' or 'mse', got 'l1'"),
        (dict(double_q="yes"), ValueError, "double_q must be False or True, got 'yes'"),
        (dict(alpha=-0.1), ValueError, r"alpha must be in \[0, 1\], got -0.1"),
        (dict(alpha=0.5), ValueError, "alpha=0.5 is the exponent of priorities: set priority='td_error' too"),
        (dict(half_life="Auto"), TypeError, "half_life must be a number > 0 or inf .*, 'auto' or None, got 'Auto'"),
        (dict(beta=1.5), ValueError, r"beta must be in \[0, 1\], got 1.5"),
        (dict(beta="0.4"), TypeError, "beta must be a number"),
        (dict(priority="td_error", weighting="loss"), ValueError, "weighting='loss' draws uniformly"),
        (dict(priority="td_error", replay_buffer_class=ReplayBuffer), ValueError, "need a replay buffer derived from"),
        (dict(weighting="loss", replay_buffer_class=ReplayBuffer), ValueError, "got ReplayBuffer: leave"),
    ],
)
def test_bad_values_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        ReptileDQN("MlpPolicy", "CartPole-v1", **small(**kwargs))


def test_a_beta_schedule_that_leaves_its_range_is_refused():
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], got 2"):
        trained(priority="td_error", beta=lambda progress: 2.0)


def test_buffers_refuse_weightings_that_they_do_not_have():
    arguments = (10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
    with pytest.raises(ValueError, match="weighting must be 'sampling' or 'loss', got 'both'"):
        DecayedReplayBuffer(*arguments, weighting="both")
    with pytest.raises(ValueError, match="weighting='loss' draws uniformly, which priorities do not"):
        DecayedReplayBuffer(*arguments, weighting="loss", prioritized=True)


def test_hindsight_replay_without_decay_trains_with_the_other_switches():
    with pytest.warns(UserWarning, match="is ignored because `HerReplayBuffer`"):
        model = ReptileDQN(
            "MultiInputPolicy",
            BitFlippingEnv(n_bits=4, continuous=False),
            **small(replay_buffer_class=HerReplayBuffer, double_q=True, loss="mse"),
        )
    model.learn(200)


def test_vectorised_environments_with_priorities():
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = ReptileDQN("MlpPolicy", env, **small(priority="td_error", train_freq=1, **TINY)).learn(400)
    assert model.replay_buffer.diagnostics().replay_volume > 1
