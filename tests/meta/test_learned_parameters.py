"""What is averaged, what follows from it, and what is refused."""

import pytest
import sb3_contrib
import torch as th
from stable_baselines3 import DDPG, DQN, SAC, TD3

from sb3_reptile import ReptileDQN
from sb3_reptile.meta.learned_parameters import (
    learned_parameters,
    mean_of_states,
    meta_update,
    optimizer_states,
    set_learned_parameters,
    set_optimizer_states,
)
from tests.meta.learners import Normalized, Pulls, assert_equal, goal

DISCRETE = (DQN, ReptileDQN, sb3_contrib.QRDQN)
CONTINUOUS = (SAC, TD3, DDPG, sb3_contrib.TQC, sb3_contrib.CrossQ)
PAIRS = {
    DQN: {"q_net": "q_net_target"},
    ReptileDQN: {"q_net": "q_net_target"},
    sb3_contrib.QRDQN: {"quantile_net": "quantile_net_target"},
    SAC: {"critic": "critic_target"},
    TD3: {"actor": "actor_target", "critic": "critic_target"},
    DDPG: {"actor": "actor_target", "critic": "critic_target"},
    sb3_contrib.TQC: {"critic": "critic_target"},
    sb3_contrib.CrossQ: {},
}


def make(algorithm, seed=0, **policy_kwargs):
    env = goal() if algorithm in DISCRETE else Pulls()
    kwargs = dict(net_arch=[4], **policy_kwargs)
    return algorithm("MlpPolicy", env, seed=seed, buffer_size=50, device="cpu", policy_kwargs=kwargs)


@pytest.mark.parametrize("algorithm", [*DISCRETE, *CONTINUOUS])
def test_target_networks_are_not_averaged_but_follow(algorithm):
    model, other = make(algorithm), make(algorithm, seed=1)
    with th.no_grad():
        for _, target in PAIRS[algorithm].items():
            for parameter in getattr(other.policy, target).parameters():
                parameter.fill_(7.0)
    learned = learned_parameters(other)
    assert learned
    assert not any("_target" in name for name in learned)
    assert all(bool((value != 7.0).any()) for value in learned.values())
    set_learned_parameters(model, learned)
    assert_equal(learned_parameters(model), learned)
    for online, target in PAIRS[algorithm].items():
        assert_equal(getattr(model.policy, target).state_dict(), getattr(model.policy, online).state_dict())


@pytest.mark.parametrize("algorithm", [SAC, sb3_contrib.TQC])
def test_entropy_coefficients_are_averaged(algorithm):
    model, other = make(algorithm), make(algorithm)
    with th.no_grad():
        other.log_ent_coef.fill_(-1.0)
    updated, _ = meta_update(learned_parameters(model), [learned_parameters(other)], 0.25)
    set_learned_parameters(model, updated)
    assert model.log_ent_coef.item() == pytest.approx(-0.25)
    assert model.log_ent_coef.requires_grad
    assert model.ent_coef_optimizer.param_groups[0]["params"][0] is model.log_ent_coef


def test_batch_norm_statistics_are_averaged_and_handed_to_the_target():
    models = [make(DQN, seed=seed, features_extractor_class=Normalized) for seed in range(3)]
    for number, model in enumerate(models):
        norm = model.q_net.features_extractor.norm
        norm.running_mean.fill_(float(number))
        norm.num_batches_tracked.fill_(10 * number)
    start, *adapted = map(learned_parameters, models)
    updated, _ = meta_update(start, adapted, 0.5)
    set_learned_parameters(models[0], updated)
    for net in (models[0].q_net, models[0].q_net_target):
        norm = net.features_extractor.norm
        assert norm.running_mean.tolist() == [0.75, 0.75]
        assert norm.num_batches_tracked.item() == 8  # 7.5, rounded
        assert norm.num_batches_tracked.dtype == th.int64


def test_update_moves_towards_the_mean():
    start = {"a": th.tensor([0.0, 1.0])}
    adapted = [{"a": th.tensor([1.0, 1.0])}, {"a": th.tensor([3.0, 5.0])}]
    updated, distance = meta_update(start, adapted, 0.5)
    assert updated["a"].tolist() == [1.0, 2.0]
    assert distance == pytest.approx(8**0.5)
    assert start["a"].tolist() == [0.0, 1.0]


def test_step_sizes_1_and_0_are_exact():
    generator = th.Generator().manual_seed(0)
    start, adapted = ({"a": th.randn(1000, generator=generator) * scale} for scale in (1e4, 1e-4))
    assert_equal(meta_update(start, [adapted], 1.0)[0], adapted)
    assert_equal(meta_update(start, [adapted], 0.0)[0], start)


def test_shared_features_extractors_are_moved_once():
    model = make(SAC, share_features_extractor=True, features_extractor_class=Wide)
    start = learned_parameters(model)
    adapted = {name: value + 1 for name, value in start.items()}
    set_learned_parameters(model, meta_update(start, [adapted], 0.5)[0])
    th.testing.assert_close(
        model.actor.features_extractor.layer.weight, start["policy.actor.features_extractor.layer.weight"] + 0.5
    )
    assert model.critic.features_extractor is model.actor.features_extractor


class Wide(Normalized):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.layer = th.nn.Linear(3, 2)

    def forward(self, observations):
        return self.layer(observations)


def test_other_shapes_and_names_are_errors_that_change_nothing():
    model = make(DQN)
    before = learned_parameters(model)
    wider = learned_parameters(DQN("MlpPolicy", goal(), buffer_size=50, policy_kwargs=dict(net_arch=[5])))
    with pytest.raises(ValueError, match=r"0\.weight has shape \(5, 2\) in the start and \(4, 2\) in this model"):
        set_learned_parameters(model, wider)
    fewer = dict(list(before.items())[1:])
    with pytest.raises(ValueError, match="is missing in the start"):
        set_learned_parameters(model, fewer)
    with pytest.raises(ValueError, match="more is missing in this model"):
        set_learned_parameters(model, before | {"more": th.zeros(1)})
    assert_equal(learned_parameters(model), before)


def test_a_target_that_follows_nothing_is_an_error():
    model = make(DQN)
    model.policy.lonely_target = th.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="lonely_target but no lonely"):
        learned_parameters(model)


def test_states_of_optimizers_are_copied_and_averaged():
    models = [make(SAC, seed=seed) for seed in range(2)]
    for model in models:
        model.learning_starts = 5
        model.learn(10, log_interval=None)
    states = [optimizer_states(model) for model in models]
    assert states[0].keys() == {"actor.optimizer", "critic.optimizer", "ent_coef_optimizer"}
    mean = mean_of_states(states)
    first = [state["actor.optimizer"][0]["exp_avg"] for state in (mean, *states)]
    th.testing.assert_close(first[0], (first[1] + first[2]) / 2)
    fresh = make(SAC)
    fresh.actor.optimizer.param_groups[0]["lr"] = 0.5
    set_optimizer_states(fresh, mean)
    assert th.equal(fresh.actor.optimizer.state_dict()["state"][0]["exp_avg"], first[0])
    assert fresh.actor.optimizer.param_groups[0]["lr"] == 0.5
    # Updates of the model do not reach the states that it was given
    before = first[0].clone()
    fresh.learning_starts = 5
    fresh.learn(10, log_interval=None)
    assert not th.equal(fresh.actor.optimizer.state_dict()["state"][0]["exp_avg"], before)
    assert th.equal(mean["actor.optimizer"][0]["exp_avg"], before)


def test_a_parameter_that_a_model_did_not_update_has_the_mean_state_of_the_others():
    states = [
        {"actor": {0: {"step": th.tensor(2.0)}}, "critic": {}},
        {"actor": {}, "critic": {1: {"step": th.ones(1)}}},
    ]
    mean = mean_of_states([*states, {"actor": {0: {"step": th.tensor(4.0)}}, "critic": {}}])
    assert mean == {"actor": {0: {"step": th.tensor(3.0)}}, "critic": {1: {"step": th.ones(1)}}}


def test_compiled_networks_have_the_names_of_plain_ones():
    model = make(DQN)
    names = learned_parameters(model).keys()
    model.policy = th.compile(model.policy)
    assert learned_parameters(model).keys() == names
