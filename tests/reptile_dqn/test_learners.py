"""Which learner is taken, and that the closed form trains as autograd does, bit for bit, over whole runs."""

import copy
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from tests.conftest import INF, assert_same_parameters, small

ZOO = dict(train_freq=64, gradient_steps=32, batch_size=64, target_update_interval=10, learning_rate=2.3e-3)


def train(algorithm, n_envs=1, normalize=False, steps=500, **kwargs):
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=0)
    if normalize:
        env = VecNormalize(env)
    return algorithm("MlpPolicy", env, **small(**kwargs)).learn(steps)


def is_closed_form(model):
    return model._closed_form is not None


def random_configurations(n):
    random = np.random.default_rng(0)
    for _ in range(n):
        widths = random.choice([3, 8, 16, 17, 33, 64], size=random.integers(1, 4)).tolist()
        yield dict(
            policy_kwargs=dict(net_arch=widths),
            batch_size=int(random.choice([2, 16, 31, 32, 64])),
            train_freq=int(random.choice([1, 4, 32])),
            gradient_steps=int(random.choice([1, 3, -1])),
            tau=float(random.choice([1.0, 0.05])),
            target_update_interval=int(random.choice([1, 10, 200])),
            max_grad_norm=float(random.choice([0.01, 1.0, 10.0])),
            learning_rate=random.choice([1e-3, LinearSchedule(1e-3, 1e-4, 1.0)]),
            n_steps=int(random.choice([1, 3])),
            n_envs=int(random.choice([1, 3])),
            normalize=bool(random.choice([False, True])),
        )


@pytest.mark.parametrize("kwargs", list(random_configurations(12)))
def test_training_is_that_of_dqn_bit_for_bit(kwargs):
    ours = train(ReptileDQN, half_life=INF, **kwargs)
    assert is_closed_form(ours)
    assert_same_parameters(ours, train(DQN, **kwargs))


OPTIONS = {
    "default decay": {},
    "mse": dict(loss="mse"),
    "double Q": dict(double_q=True),
    "double Q, n-step": dict(double_q=True, n_steps=3),
    "loss weights": dict(weighting="loss", half_life=100),
    "priorities": dict(priority="td_error"),
    "priorities, no decay": dict(priority="td_error", half_life=INF, n_steps=1),
    "priorities, window": dict(priority="td_error", replay_buffer_kwargs=dict(decay={"window": dict(size=150)})),
    "priorities, half-life": dict(priority="td_error", half_life=100, double_q=True),
    "importance weights": dict(replay_buffer_kwargs=dict(beta=0.7)),
    "auto": dict(half_life="auto"),
    "ere": dict(replay_buffer_kwargs=dict(decay={"ere": dict(minimum=50, cycle=7)})),
    "combined": dict(replay_buffer_kwargs=dict(combined=True)),
    "initial weights": dict(replay_buffer_kwargs=dict(initial_weights={"random": dict(seed=1)})),
}


# The others have the operations of one of these on other batches. Two threads wait for each other, which takes long
ON_TWO_THREADS = ["default decay", "mse", "double Q, n-step", "loss weights", "priorities, half-life"]


@pytest.mark.parametrize(("name", "n_threads"), [*product(OPTIONS, [1]), *product(ON_TWO_THREADS, [2])])
def test_training_is_that_of_the_eager_learner_bit_for_bit(name, n_threads):
    before = th.get_num_threads()
    th.set_num_threads(n_threads)
    try:
        models = [train(ReptileDQN, **ZOO, **OPTIONS[name], learner=learner) for learner in ("auto", "eager")]
    finally:
        th.set_num_threads(before)
    assert [is_closed_form(model) for model in models] == [True, False]
    assert_same_parameters(*models)
    ours, theirs = (model.logger.name_to_value for model in models)
    assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
    indices = np.arange(100)
    assert th.equal(models[0].td_errors(indices), models[1].td_errors(indices))


def test_the_fast_learner_differs_by_rounding_only_at_first():
    exact, fast = (train(ReptileDQN, **ZOO, learner=learner, steps=65) for learner in ("auto", "fast"))
    ours, theirs = fast.policy.q_net.state_dict(), exact.policy.q_net.state_dict()
    differences = [(ours[key] - theirs[key]).abs().max().item() for key in theirs]
    assert 0 < max(differences) < 1e-3


def continue_both(change, steps=200, **kwargs):
    """Train two models, change both, and train on: they must stay equal."""
    models = []
    for learner in ("auto", "eager"):
        model = train(ReptileDQN, **ZOO, learner=learner, **kwargs)
        model = change(model) or model
        models.append(model.learn(steps, reset_num_timesteps=False))
    assert is_closed_form(models[0])
    assert_same_parameters(*models)


def replace_data(model):
    for parameter in model.policy.parameters():
        parameter.data = parameter.data.clone()


def reload_optimizer(model):
    model.policy.optimizer.load_state_dict(copy.deepcopy(model.policy.optimizer.state_dict()))


def move(model):
    model.policy.to(th.float64)
    model.policy.to(th.float32)


def set_parameters(model):
    parameters = model.get_parameters()
    parameters["policy"] = {key: 0.9 * value for key, value in parameters["policy"].items()}
    model.set_parameters(parameters)


def fresh_optimizer(model):
    model.policy.optimizer = th.optim.Adam(model.policy.q_net.parameters(), lr=1e-3)


def lower_clipping(model):
    model.max_grad_norm = 0.01


def copied(model):
    return copy.deepcopy(model)


def eager_for_a_while(model):
    learner, model.learner = model.learner, "eager"
    model.learn(128, reset_num_timesteps=False)
    model.learner = learner


def own_update(model):
    """As an auxiliary loss does it, between two calls of train()."""
    model.policy.optimizer.zero_grad()
    sum(parameter.sum() for parameter in model.policy.q_net.parameters()).backward()
    model.policy.optimizer.step()


def hooked_for_a_while(model):
    handle = model.policy.q_net.register_forward_hook(lambda module, inputs, output: None)
    model.learn(128, reset_num_timesteps=False)
    handle.remove()


CHANGES = [
    replace_data,
    reload_optimizer,
    move,
    set_parameters,
    fresh_optimizer,
    lower_clipping,
    copied,
    eager_for_a_while,
    own_update,
    hooked_for_a_while,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_replaced_in_mid_training_is_noticed(change):
    continue_both(change)


def test_a_saved_model_goes_on_and_is_loaded_by_dqn(tmp_path):
    def reload(model):
        model.save(tmp_path / "model")
        loaded = ReptileDQN.load(tmp_path / "model", env=model.get_env())
        assert_same_parameters(loaded, model)
        assert_same_parameters(DQN.load(tmp_path / "model"), model)
        loaded.replay_buffer = model.replay_buffer
        loaded._last_obs = None
        np.random.seed(0)
        loaded.set_random_seed(0)
        return loaded

    continue_both(reload)


def test_a_resumed_checkpoint_goes_on_bit_for_bit(tmp_path):
    straight = train(ReptileDQN, **ZOO, steps=512)
    model = train(ReptileDQN, **ZOO, steps=1)
    env = make_vec_env("CartPole-v1", n_envs=1, seed=0)
    model = ReptileDQN("MlpPolicy", env, **small(**ZOO))
    model.learn(256, callback=ResumableCheckpoint(256, tmp_path / "run"))
    resumed = resume(tmp_path / "run", make_vec_env("CartPole-v1", n_envs=1, seed=0), device="cpu")
    resumed.learn(512 - resumed.num_timesteps, reset_num_timesteps=False)
    assert is_closed_form(resumed)
    assert_same_parameters(resumed, straight)


def test_a_copied_model_trains_alone():
    model = train(ReptileDQN, **ZOO)
    before = copy.deepcopy(model.policy.state_dict())
    policy = copy.deepcopy(model.policy)
    model.learn(128, reset_num_timesteps=False)
    for key, value in policy.state_dict().items():
        assert th.equal(value, before[key]), key
    assert is_closed_form(model)


class OwnTargets(ReptileDQN):
    def _td_targets(self, batch):
        return super()._td_targets(batch) * 0


def hooked(model):
    model.policy.q_net.q_net[0].register_forward_hook(lambda module, inputs, output: None)


def frozen(model):
    next(model.policy.q_net.parameters()).requires_grad_(False)


REASONS = {
    "overrides _td_targets": (OwnTargets, {}, None),
    "overrides _td_targets, on the instance": (ReptileDQN, {}, lambda model: setattr(model, "_td_targets", None)),
    "has hooks": (ReptileDQN, {}, hooked),
    "is frozen": (ReptileDQN, {}, frozen),
    "a hidden layer has one unit": (ReptileDQN, dict(policy_kwargs=dict(net_arch=[8, 1]), batch_size=1), None),
    "other layers": (ReptileDQN, dict(policy_kwargs=dict(activation_fn=nn.Tanh)), None),
    "the optimizer is RMSprop": (ReptileDQN, dict(policy_kwargs=dict(optimizer_class=th.optim.RMSprop)), None),
    "weight_decay=0.1": (ReptileDQN, dict(policy_kwargs=dict(optimizer_kwargs=dict(weight_decay=0.1))), None),
    "fused=True": (ReptileDQN, dict(policy_kwargs=dict(optimizer_kwargs=dict(fused=True))), None),
}


@pytest.mark.parametrize("reason", REASONS)
def test_the_eager_learner_is_taken_where_the_closed_form_does_not_apply(reason, capsys):
    algorithm, kwargs, change = REASONS[reason]
    model = algorithm("MlpPolicy", gym.make("CartPole-v1"), **small(**ZOO | kwargs, verbose=1))
    if change is not None:
        change(model)
    assert model._attached_closed_form() is None
    said = capsys.readouterr().out
    assert "Updates use autograd: " in said
    assert reason.split(",")[0] in said


def own_targets(model):
    model._td_targets = None


def gradient_hooked(model):
    next(model.policy.q_net.parameters()).register_hook(lambda gradient: None)


def layer_replaced(model):
    model.policy.q_net.q_net[1] = nn.Tanh()


def group_added(model):
    model.policy.optimizer.add_param_group({"params": [nn.Parameter(th.zeros(3))]})


def compiled(model):
    model.policy.q_net.compile()


def own_forward(model):
    model.policy.q_net.forward = lambda observations: None


def optimizer_hooked(model):
    model.policy.optimizer.register_step_post_hook(lambda *_: None)


def scheduled(model):
    th.optim.lr_scheduler.ExponentialLR(model.policy.optimizer, 0.9)


HOOKS_IN = [
    hooked,
    own_targets,
    frozen,
    gradient_hooked,
    layer_replaced,
    group_added,
    compiled,
    own_forward,
    optimizer_hooked,
    scheduled,
]


@pytest.mark.parametrize("change", HOOKS_IN, ids=lambda change: change.__name__)
def test_the_closed_form_ends_when_something_is_hooked_in(change):
    model = train(ReptileDQN, **ZOO)
    assert model._attached_closed_form() is not None
    change(model)
    assert model._attached_closed_form() is None


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
        register_optimizer_step_pre_hook,
        register_optimizer_step_post_hook,
    ],
    ids=lambda register: register.__name__,
)
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_the_closed_form_steps_aside_for_hooks_of_all_modules_or_optimizers(register):
    model = train(ReptileDQN, **ZOO)
    calls = []
    handle = register(lambda *arguments: calls.append(arguments))
    try:
        model.learn(64, reset_num_timesteps=False)
        assert model._closed_form is None
        assert calls
    finally:
        handle.remove()
    model.learn(64, reset_num_timesteps=False)
    assert model._closed_form is not None


def test_the_closed_form_steps_aside_where_autograd_looks_for_anomalies():
    model = train(ReptileDQN, **ZOO)
    with th.autograd.set_detect_anomaly(True):
        assert model._attached_closed_form() is None
    assert model._attached_closed_form() is not None


def test_hooks_are_called_while_acting_before_the_next_update():
    model = train(ReptileDQN, **ZOO, exploration_initial_eps=0.0, exploration_final_eps=0.0, steps=256)
    calls = []
    model.policy.q_net.register_forward_hook(lambda *arguments: calls.append(arguments))
    model.learn(10, reset_num_timesteps=False)
    assert len(calls) == 64 + 32  # steps of a rollout, and updates


def test_a_new_model_already_has_flat_parameters_and_an_empty_optimizer_state():
    model = ReptileDQN("MlpPolicy", gym.make("CartPole-v1"), **small())
    views = [parameter.data for parameter in model.policy.q_net.parameters()]
    assert is_closed_form(model)
    assert model.policy.optimizer.state_dict()["state"] == {}
    model.learn(100)
    for view, parameter in zip(views, model.policy.q_net.parameters(), strict=True):
        assert th.equal(view, parameter)


def test_gradients_and_modes_are_those_that_sb3_leaves():
    ours, theirs = train(ReptileDQN, half_life=INF, **ZOO, steps=128), train(DQN, **ZOO, steps=128)
    for a, b in zip(ours.policy.q_net.parameters(), theirs.policy.q_net.parameters(), strict=True):
        assert th.equal(a.grad, b.grad)
    assert [module.training for module in ours.policy.modules()] == [m.training for m in theirs.policy.modules()]


def test_batches_of_ever_different_sizes_are_not_all_kept():
    layers = train(ReptileDQN)._closed_form.network.layers
    for n in range(1, 50):
        layers.q_values(th.zeros(n, 4))
    assert len(layers._outputs) <= 8


def test_it_says_once_which_learner_it_takes(capsys):
    train(ReptileDQN, **ZOO, verbose=1)
    assert capsys.readouterr().out.count("Updates are computed in closed form") == 1


def test_unknown_learners_are_refused():
    with pytest.raises(ValueError, match="learner must be 'auto' or 'eager' or 'fast', got 'slow'"):
        ReptileDQN("MlpPolicy", "CartPole-v1", learner="slow")


def test_actions_in_collection_are_those_of_predict():
    model = train(ReptileDQN, **ZOO, n_envs=5)
    model.exploration_rate = 0.5
    for seed in range(20):
        model._last_obs = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32)
        found = []
        for draw in (lambda: model._sample_action(0, n_envs=5)[0], lambda: model.predict(model._last_obs)[0]):
            model.set_random_seed(seed)
            found.append(draw())
        assert np.array_equal(*found)
        assert found[0].dtype == found[1].dtype


def test_a_plain_buffer_of_sb3_is_learned_from_too():
    from stable_baselines3.common.buffers import ReplayBuffer

    with pytest.warns(UserWarning, match="does not decay"):
        model = train(ReptileDQN, **ZOO, replay_buffer_class=ReplayBuffer)
    assert is_closed_form(model)
    assert_same_parameters(model, train(DQN, **ZOO))
    assert not isinstance(model.replay_buffer, DecayedReplayBuffer)
