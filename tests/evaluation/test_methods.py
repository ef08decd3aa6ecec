"""Methods of replay as arguments of every kind of algorithm and replay buffer."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_reptile import DecayedDictReplayBuffer, DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.evaluation.methods import make_methods
from sb3_reptile.replay import DecayedNStepReplayBuffer, Exponential

INF = float("inf")


class DictEnv(gym.Env):
    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (2,))})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"x": np.zeros(2, np.float32)}, {}


def dqn(env="CartPole-v1", policy="MlpPolicy", algorithm=DQN, **own):
    return lambda **arguments: algorithm(policy, env, **{"buffer_size": 500, **own, **arguments})


HER = dict(replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=dict(n_sampled_goal=3))
MODELS = {
    "dqn": dqn(),
    "sac": dqn("Pendulum-v1", algorithm=SAC),
    "n-step": dqn(n_steps=3, gamma=0.9),
    "dict": dqn(DictEnv(), "MultiInputPolicy"),
    "her": dqn(BitFlippingEnv(), "MultiInputPolicy", **HER),
    "decayed": dqn(
        replay_buffer_class=DecayedReplayBuffer,
        replay_buffer_kwargs=dict(half_life=7, uniform_fraction=0.5, on_bad_transition="skip"),
    ),
    "reptile_dqn": dqn(algorithm=ReptileDQN, half_life=7, priority="td_error", n_steps=3),
    "reptile_dqn, options of the buffer": dqn(
        algorithm=ReptileDQN, replay_buffer_kwargs=dict(decay={"power_law": {"scale": 3}}, weighting="loss")
    ),
}
DECAYED = {"dict": DecayedDictReplayBuffer, "her": DecayedHerReplayBuffer, "n-step": DecayedNStepReplayBuffer}


def made(name, method):
    model = MODELS[name]()
    return MODELS[name](**method.arguments(model))


@pytest.mark.parametrize("name", ["dqn", "sac", "n-step", "decayed", "dict"])
@pytest.mark.filterwarnings("ignore:.*is ignored because a custom")
def test_the_returns_of_a_method_are_those_of_its_replay_buffer(name):
    for given in ({"half_life": 30, "n_steps": 5}, {"half_life": 30, "n_steps": 5, "gamma": 0.8}, {"gamma": 0.7}):
        if name == "dict" and "n_steps" in given:
            continue  # SB3 has none
        *_, method = make_methods([given], 500)
        model = made(name, method)
        n_steps = given.get("n_steps", 3 if name == "n-step" else 1)
        assert (model.replay_buffer.n_steps, model.n_steps) == (n_steps, n_steps)
        assert n_steps == 1 or model.replay_buffer.gamma == model.gamma == given.get("gamma", model.gamma)


def twice(ages):
    return 1 / (1 + ages)


def test_functions_are_named_in_the_same_way_in_every_process():
    names = [
        method.name for method in make_methods([{"decay": twice}, {"half_life": 3, "initial_weights": print}], 500)
    ]
    assert names[-2:] == ["decay:twice", "half_life:3,initial_weights:print"]
    with pytest.raises(ValueError, match=r"two methods are called decay:.*<lambda>.*different names"):
        make_methods([{"decay": lambda ages: 1 / (1 + ages)}, {"decay": lambda ages: 1 / (2 + ages)}], 500)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*is ignored because a custom")
def test_every_algorithm_is_made_with_every_method_and_keeps_its_own_options(name):
    buffers = {method.name: made(name, method).replay_buffer for method in make_methods([{"half_life": 30}], 500)}
    for buffer in buffers.values():
        if isinstance(buffer, DecayedReplayBuffer):
            assert buffer.distribution.uniform_fraction == 0
            assert not buffer.distribution.prioritized
        n_steps = {"n-step": 3, "reptile_dqn": 3, "reptile_dqn, options of the buffer": 10}.get(name, 1)
        assert getattr(buffer, "n_steps", 1) == n_steps
    assert buffers["fifo"].buffer_size == 50
    assert {buffers[method].buffer_size for method in ("uniform", "default", "auto")} == {500}
    for of_uniform in (buffers["uniform"], buffers["fifo"]):
        assert isinstance(of_uniform, ReplayBuffer)
        assert getattr(of_uniform, "half_life", INF) == INF
    assert type(buffers["default"]) is DECAYED.get(name, DecayedReplayBuffer)
    assert buffers["default"].decay == DecayedReplayBuffer(1, *spaces_of("CartPole-v1")).decay
    assert buffers["default"].consistency is None
    assert buffers["auto"].consistency is not None
    assert buffers["half_life:30"].decay == Exponential(30)
    if name == "her":
        assert {buffer.her_ratio for buffer in buffers.values()} == {0.75}
    if name == "n-step":
        assert isinstance(buffers["uniform"], NStepReplayBuffer)
        assert {buffer.gamma for buffer in buffers.values()} == {0.9}
    if name == "decayed":
        assert {buffer._bad_transitions.policy for buffer in buffers.values()} == {"skip"}


def spaces_of(env_id):
    env = gym.make(env_id)
    return env.observation_space, env.action_space


def names(named, stored=100_000):
    return [method.name for method in make_methods(named, stored)]


def test_the_standard_methods_are_trained_unless_some_are_named():
    assert names(None) == ["uniform", "fifo", "default", "auto"]
    assert names([{"half_life": 300}]) == ["uniform", "fifo", "default", "auto", "half_life:300"]
    assert names(["auto", {"n_steps": 3}, "fifo:70"]) == ["uniform", "auto", "n_steps:3", "fifo:70"]


def test_the_fifo_buffer_is_small_also_in_a_short_run():
    sizes = [make_methods(["fifo"], stored)[1].given["buffer_size"] for stored in (1_000_000, 10_000, 5)]
    assert sizes == [3_000, 1_000, 1]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["uniforn"], "unknown method 'uniforn': use uniform, fifo, default, auto"),
        (["fifo:"], "whole number >= 1"),
        (["fifo:-3"], "whole number >= 1"),
        (["fifo:100000"], "stores no more than 100,000"),
        ([{}], "at least one option"),
        ([{"seed": 3}], "other than the seed"),
        ([{"half_life": 3}, {"half_life": 3}], "named twice"),
        ([{"half_life": "auto"}, "auto"], "named twice"),
        (["fifo", "fifo:3000"], "named twice"),
    ],
)
def test_methods_that_make_no_comparison_are_refused(named, message):
    with pytest.raises(ValueError, match=message):
        make_methods(named, 100_000)


def test_what_is_no_method_is_refused():
    with pytest.raises(TypeError, match="a name or a dictionary"):
        make_methods([3], 100)


def test_unknown_options_name_the_method_and_the_options():
    (_, method) = make_methods(["uniform", {"half_live": 3}], 100)
    with pytest.raises(ValueError, match=r"method half_live:3: DQN has no argument 'half_live'.*half_life"):
        method.arguments(MODELS["dqn"]())


def test_a_replay_buffer_without_a_decayed_form_is_refused_but_replays_uniformly():
    class Mine(ReplayBuffer):
        pass

    model = dqn(replay_buffer_class=Mine)()
    uniform, default = make_methods(["uniform", "default"], 100)
    assert uniform.arguments(model) == {}
    with pytest.raises(ValueError, match="Mine has no decay: derive it from DecayedSampling"):
        default.arguments(model)
