"""Arguments of resume() and load() are taken over, or an error names them; none is ignored, no good file is damaged."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import NStepReplayBuffer

from sb3_reptile import DecayedHerReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.replay.decay import EmphasizingRecent, Exponential, Linear, PowerLaw
from sb3_reptile.storage import ArgumentError, StorageError
from tests.checkpoint.training import bit_flipping, cartpole, make_model, pendulum, resumable, small
from tests.conftest import fill, make_buffer

OPTIONS = {
    "plain": dict(half_life=1_000),
    "default": dict(),
    "priorities": dict(half_life=1_000, priority="td_error"),
    "kwargs": dict(replay_buffer_kwargs=dict(half_life=1_000, beta=0.3, uniform_fraction=0.2)),
    "ere": dict(replay_buffer_kwargs=dict(decay={"ere": dict(minimum=4, cycle=5)})),
    "loss": dict(half_life=1_000, weighting="loss"),
    "auto": dict(half_life="auto"),
    "random": dict(replay_buffer_kwargs=dict(initial_weights={"random": dict(seed=3)})),
    "hindsight": dict(half_life=1_000, replay_buffer_class=DecayedHerReplayBuffer, policy="MultiInputPolicy"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "run"
            policy = OPTIONS[name].get("policy", "MlpPolicy")
            rest = {key: value for key, value in OPTIONS[name].items() if key != "policy"}
            model = ReptileDQN(policy, env_of(name), **small(**rest))
            model.learn(60, callback=ResumableCheckpoint(20, made[name]))
        return made[name]

    return folder


def env_of(name):
    return bit_flipping() if name == "hindsight" else cartpole()


def buffer_kwargs(**kwargs):
    return dict(replay_buffer_kwargs=kwargs)


def has_decay(decay):
    return lambda model: model.replay_buffer.decay == decay


def has_generator(seed):
    state = np.random.default_rng(seed).bit_generator.state
    return lambda model: model.replay_buffer._initial_weights.generator.bit_generator.state == state


def is_auto_with(decay):
    return lambda buffer: buffer.consistency is not None and buffer.decay == decay


def by_age(ages):
    return 0.5 ** (ages / 7)


TAKEN_OVER = {
    "half_life": ("plain", dict(half_life=50), lambda m: m.half_life == m.replay_buffer.half_life == 50),
    "half_life, priorities": ("priorities", dict(half_life=50), lambda m: m.replay_buffer.half_life == 50),
    "half_life for the default": ("default", dict(half_life=50), lambda m: m.replay_buffer.half_life == 50),
    "half_life over kwargs": ("kwargs", dict(half_life=50), lambda m: m.half_life == m.replay_buffer.half_life == 50),
    "half_life in kwargs": (
        "kwargs",
        buffer_kwargs(half_life=50),
        lambda m: m.half_life == m.replay_buffer.half_life == 50,
    ),
    "half_life in kwargs, of the model": (
        "plain",
        buffer_kwargs(half_life=50),
        lambda m: m.half_life == m.replay_buffer.half_life == 50,
    ),
    "half_life, hindsight": ("hindsight", dict(half_life=50), lambda m: m.replay_buffer.half_life == 50),
    "half_life after ere": ("ere", dict(half_life=50), lambda m: m.replay_buffer.half_life == 50),
    "half_life after auto": ("auto", dict(half_life=50), lambda m: m.replay_buffer.half_life == 50),
    "another decay, auto": (
        "auto",
        buffer_kwargs(decay={"linear": dict(horizon=30)}),
        lambda m: m.half_life == "auto" and is_auto_with(Linear(30))(m.replay_buffer),
    ),
    "another decay instead of auto": (
        "auto",
        buffer_kwargs(decay={"linear": dict(horizon=30)}, half_life=None),
        lambda m: m.half_life is None and m.replay_buffer.consistency is None and has_decay(Linear(30))(m),
    ),
    "auto, which has a decay": (
        "ere",
        dict(half_life="auto"),
        lambda m: is_auto_with(EmphasizingRecent(minimum=4, cycle=5))(m.replay_buffer),
    ),
    "another option of auto with a decay": (
        "ere",
        buffer_kwargs(uniform_fraction=0.1),
        lambda m: m.half_life == "auto" and is_auto_with(EmphasizingRecent(minimum=4, cycle=5))(m.replay_buffer),
    ),
    "another decay": ("plain", buffer_kwargs(decay={"linear": dict(horizon=30)}), has_decay(Linear(30))),
    "another decay, priorities": (
        "priorities",
        buffer_kwargs(decay={"linear": dict(horizon=30)}),
        has_decay(Linear(30)),
    ),
    "the default decay, written out": ("plain", buffer_kwargs(decay=PowerLaw(100, 1.5)), has_decay(PowerLaw(100, 1.5))),
    "ere": ("plain", buffer_kwargs(decay="ere"), has_decay(EmphasizingRecent())),
    "exponential": ("ere", buffer_kwargs(decay=Exponential(9)), has_decay(Exponential(9))),
    "a function": ("plain", buffer_kwargs(decay=by_age), lambda m: m.replay_buffer.decay.function is by_age),
    "weighting": ("plain", dict(weighting="loss"), lambda m: m.weighting == m.replay_buffer.weighting == "loss"),
    "weighting back": (
        "loss",
        dict(weighting="sampling"),
        lambda m: m.weighting == m.replay_buffer.weighting == "sampling",
    ),
    "beta": ("priorities", dict(beta=0.9), lambda m: m.beta == m.replay_buffer.beta == 0.9),
    "beta, a function": ("priorities", dict(beta=lambda left: 0.5), lambda m: m.replay_buffer.beta == 0.5),
    "beta in kwargs": ("kwargs", buffer_kwargs(beta=0.8), lambda m: m.replay_buffer.beta == 0.8),
    "uniform_fraction": (
        "kwargs",
        buffer_kwargs(uniform_fraction=0.5),
        lambda m: m.replay_buffer.uniform_fraction == 0.5,
    ),
    "combined": ("plain", buffer_kwargs(combined=np.True_), lambda m: m.replay_buffer.combined),
    "on_bad_transition": (
        "plain",
        buffer_kwargs(on_bad_transition="skip"),
        lambda m: m.replay_buffer.on_bad_transition == "skip",
    ),
    "initial_weights": ("random", buffer_kwargs(initial_weights={"random": dict(seed=8)}), has_generator(8)),
    "no priority": ("priorities", dict(priority=None), lambda m: not m.replay_buffer.prioritized),
    "n_sampled_goal": ("hindsight", buffer_kwargs(n_sampled_goal=2), lambda m: m.replay_buffer.n_sampled_goal == 2),
    "optimizer_kwargs": (
        "plain",
        dict(policy_kwargs=dict(optimizer_kwargs=dict(weight_decay=0.1))),
        lambda m: m.policy.optimizer.param_groups[0]["weight_decay"] == 0.1,
    ),
    "activation_fn": (
        "plain",
        dict(policy_kwargs=dict(activation_fn=th.nn.Tanh)),
        lambda m: isinstance(m.q_net.q_net[1], th.nn.Tanh),
    ),
    "learning_rate": ("plain", dict(learning_rate=0.5), lambda m: m.lr_schedule(1) == 0.5),
    "gamma": ("plain", dict(gamma=0.5), lambda m: m.gamma == 0.5),
    "n_steps": (
        "plain",
        dict(n_steps=3, gamma=0.5),
        lambda m: (m.replay_buffer.n_steps, m.replay_buffer.gamma) == (3, 0.5),
    ),
    "exploration": ("plain", dict(exploration_final_eps=0.4), lambda m: m.exploration_final_eps == 0.4),
    "double_q": (
        "plain",
        dict(double_q=True, loss="mse", beta=0.1),
        lambda m: (m.double_q, m.loss, m.beta) == (True, "mse", 0.1),
    ),
    "stats_window_size": ("plain", dict(stats_window_size=7), lambda m: m.ep_info_buffer.maxlen == 7),
    "train_freq": (
        "plain",
        dict(train_freq=7, gradient_steps=3, batch_size=5),
        lambda m: (m.train_freq.frequency, m.gradient_steps, m.batch_size) == (7, 3, 5),
    ),
    "what was saved": ("plain", dict(buffer_size=300, seed=0, half_life=1_000), lambda m: m.half_life == 1_000),
}


@pytest.mark.parametrize("case", TAKEN_OVER)
def test_an_argument_that_can_change_is_taken_over(case, folders):
    name, given, is_taken_over = TAKEN_OVER[case]
    model = resume(folders(name), env_of(name), device="cpu", **given)
    assert is_taken_over(model)
    assert model.num_timesteps == 60
    assert model.replay_buffer.size() == 60
    model.learn(20, reset_num_timesteps=False)
    if case != "initial_weights":  # draws since
        assert is_taken_over(model)


def test_a_former_model_with_an_alpha_that_it_ignored_is_resumed(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    vars(model)["alpha"] = 0.3
    model.learn(60, callback=ResumableCheckpoint(20, tmp_path / "run"))
    assert resume(tmp_path / "run", cartpole(), device="cpu").alpha == 0.6
    with pytest.raises(ArgumentError, match=r"alpha=0.2 is the exponent of priorities: set priority='td_error' too"):
        resume(tmp_path / "run", cartpole(), device="cpu", alpha=0.2)


def test_another_decay_draws_as_if_it_had_always_been_that_one(folders):
    model = resume(folders("priorities"), cartpole(), replay_buffer_kwargs=dict(decay={"linear": dict(horizon=30)}))
    buffer = model.replay_buffer
    expected = buffer.distribution._weighted.p * Linear(30)(buffer.ages())
    expected[buffer.ages() < 0] = 0
    assert buffer.sampling_probabilities() == pytest.approx(expected / expected.sum())


REFUSED = {
    "buffer_size": ("plain", dict(buffer_size=100), r"buffer_size=100 \(saved: 300\) cannot change"),
    "seed": ("plain", dict(seed=5), r"seed=5 cannot change when training is resumed: the random number generators"),
    "pretrained": ("plain", dict(pretrained={}), r"pretrained=\{\} cannot change"),
    "optimize_memory_usage": (
        "plain",
        dict(optimize_memory_usage=True),
        r"optimize_memory_usage=True \(saved: False\)",
    ),
    "priority": ("plain", dict(priority="td_error"), r"cannot be used with priority='td_error' \(saved: None\)"),
    "prioritized": ("plain", buffer_kwargs(prioritized=True), r"with replay_buffer_kwargs.prioritized=True"),
    "auto": ("plain", dict(half_life="auto"), r"with half_life='auto' \(saved: 1000\)"),
    "initial_weights": ("plain", buffer_kwargs(initial_weights="random"), r"kwargs.initial_weights='random'"),
    "net_arch": (
        "plain",
        dict(policy_kwargs=dict(net_arch=[9])),
        r"with policy_kwargs.net_arch=\[9\] \(saved: \[8\]\)",
    ),
    "optimizer_class": ("plain", dict(policy_kwargs=dict(optimizer_class=th.optim.SGD)), r"optimizer_class=.*SGD"),
    "copy_info_dict": ("hindsight", buffer_kwargs(copy_info_dict=True), r"copy_info_dict=True"),
    "unknown": ("plain", dict(half_live=5), r"got half_live=5, which ReptileDQN does not take; it takes .*half_life"),
    "unknown in kwargs": ("plain", buffer_kwargs(half_live=5), r"with replay_buffer_kwargs.half_live=5: .*half_live"),
    "not allowed": (
        "plain",
        dict(half_life=-5),
        r"with half_life=-5 \(saved: 1000\): ValueError: half_life must be > 0",
    ),
    "no dict": ("plain", dict(policy_kwargs=5), r"policy_kwargs must be a dict of arguments, got 5"),
    "algorithm": ("plain", dict(algorithm=SAC), r"among the arguments of SAC|SAC does not take"),
    "combined, hindsight": (
        "hindsight",
        buffer_kwargs(combined=True),
        r"kwargs.combined=True: .*with hindsight replay",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_argument_that_cannot_change_is_an_error_that_names_it(case, folders, recwarn):
    name, given, message = REFUSED[case]
    with pytest.raises(StorageError, match=message) as raised:
        resume(folders(name), env_of(name), device="cpu", **given)
    assert isinstance(raised.value, ArgumentError) or case == "algorithm"
    assert not recwarn.list  # no other checkpoint is tried
    assert resume(folders(name), env_of(name), device="cpu").num_timesteps == 60


def test_the_entropy_coefficient_of_sac_is_taken_over_if_it_is_not_learned(tmp_path):
    for name, ent_coef in (("fixed", 0.2), ("learned", "auto")):
        model = make_model("sac, normalised", ent_coef=ent_coef)
        model.learn(60, callback=ResumableCheckpoint(20, tmp_path / name))
    env = model.env.__class__(pendulum(2))
    assert resume(tmp_path / "fixed", env, ent_coef=0.7).ent_coef_tensor.item() == pytest.approx(0.7)
    with pytest.raises(ArgumentError, match="ent_coef cannot change when training is resumed: it is learned"):
        resume(tmp_path / "learned", env, ent_coef="auto_0.5")
    with pytest.raises(ArgumentError, match=r"cannot be used with ent_coef=0.5 \(saved: 'auto'\)"):
        resume(tmp_path / "learned", env, ent_coef=0.5)


def test_an_error_of_an_argument_does_not_hide_a_damaged_file(tmp_path):
    buffer = DecayedReplayBuffer(40, spaces.Box(-1, 1, (2,)), spaces.Discrete(2), half_life=1_000)
    for _ in range(10):
        buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    buffer.save(tmp_path / "buffer")
    file = tmp_path / "buffer" / "transitions-0.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StorageError, match="is damaged"):
        DecayedReplayBuffer.load(tmp_path / "buffer", storage_dir=tmp_path)


LOADED = {
    "half_life": (dict(half_life=5), lambda b: b.half_life == 5),
    "decay": (dict(decay="power_law"), lambda b: b.decay == PowerLaw()),
    "beta": (dict(beta=0.9), lambda b: b.beta == 0.9),
    "uniform_fraction": (dict(uniform_fraction=0.5), lambda b: b.uniform_fraction == 0.5),
    "n_steps": (dict(n_steps=2, gamma=0.5), lambda b: (b.n_steps, b.gamma) == (2, 0.5)),
}


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("case", LOADED)
def test_a_loaded_buffer_takes_over_arguments(case, prioritized, tmp_path):
    buffer = DecayedNStepReplayBuffer(
        40, spaces.Box(-1, 1, (2,)), spaces.Discrete(2), half_life=1_000, n_steps=5, gamma=0.9, prioritized=prioritized
    )
    for _ in range(50):
        buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    buffer.save(tmp_path / "buffer")
    given, is_taken_over = LOADED[case]
    loaded = DecayedNStepReplayBuffer.load(tmp_path / "buffer", **given)
    assert is_taken_over(loaded)
    assert loaded.size() == 40
    loaded.sample(10)


@pytest.mark.parametrize(
    ("given", "is_taken_over"),
    [
        (dict(decay=Linear(30)), is_auto_with(Linear(30))),
        (dict(half_life="auto"), is_auto_with(PowerLaw(50))),
        (dict(half_life=None, decay=Linear(30)), lambda b: b.consistency is None and b.decay == Linear(30)),
        (dict(half_life=5), lambda b: b.consistency is None and b.half_life == 5),
    ],
)
def test_a_loaded_buffer_keeps_auto_with_another_decay(given, is_taken_over, tmp_path):
    buffer = make_buffer(DecayedReplayBuffer, half_life="auto", decay=PowerLaw(50))
    fill(buffer, 50)
    buffer.save(tmp_path / "buffer")
    loaded = DecayedReplayBuffer.load(tmp_path / "buffer", **given)
    assert is_taken_over(loaded)
    assert loaded.size() == buffer.size()
    loaded.sample(10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(buffer_size=20), r"cannot be used with buffer_size=20 \(saved: 40\)"),
        (dict(n_envs=2), r"cannot be used with n_envs=2 \(saved: 1\)"),
        (dict(half_live=5), r"cannot be used with half_live=5: TypeError"),
        (dict(prioritized=True), r"cannot be used with prioritized=True \(saved: False\)"),
        (dict(half_life="auto"), r"cannot be used with half_life='auto'"),
        (dict(observation_space=spaces.Box(-1, 1, (3,))), r"cannot be used with observation_space=Box"),
        (dict(weighting="sideways"), r"cannot be used with weighting='sideways' .*must be"),
    ],
)
def test_a_loaded_buffer_refuses_arguments_that_cannot_change(given, message, tmp_path):
    buffer = DecayedReplayBuffer(40, spaces.Box(-1, 1, (2,)), spaces.Discrete(2), half_life=1_000)
    for _ in range(50):
        buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    buffer.save(tmp_path / "buffer")
    with pytest.raises(ArgumentError, match=message):
        DecayedReplayBuffer.load(tmp_path / "buffer", **given)


def test_n_steps_and_gamma_reach_the_buffer_that_sb3_selects(tmp_path):
    DQN("MlpPolicy", cartpole(), **small(n_steps=3)).learn(40, callback=ResumableCheckpoint(20, tmp_path))
    model = resume(tmp_path, cartpole(), n_steps=2, gamma=0.5)
    assert (model.n_steps, model.gamma) == (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (2, 0.5)


def test_n_steps_need_a_buffer_that_has_them(tmp_path):
    DQN("MlpPolicy", cartpole(), **small()).learn(40, callback=ResumableCheckpoint(20, tmp_path))
    with pytest.raises(ArgumentError, match=r"n_steps=3 .*needs a replay_buffer_class with n-step returns"):
        resume(tmp_path, cartpole(), n_steps=3)
    model = resume(tmp_path, cartpole(), n_steps=3, replay_buffer_class=NStepReplayBuffer)
    assert model.replay_buffer.n_steps == 3


def test_another_algorithm_with_the_same_networks_continues(tmp_path):
    _, folder = resumable(tmp_path, replay_buffer_class=DecayedReplayBuffer, half_life=None)
    with pytest.raises(StorageError, match=r"has '.*' among the arguments of DQN"):
        resume(folder, cartpole(), algorithm=DQN)
