"""Each method of benchmarks/methods.py is the one that its name says."""

import importlib

import numpy as np
import pytest

import tests.benchmarks  # noqa: F401

learning, methods = importlib.import_module("learning"), importlib.import_module("methods")
TASKS, Run = learning.TASKS, learning.Run


def package_default():
    from sb3_reptile import ReptileDQN

    return ReptileDQN("MlpPolicy", "CartPole-v1", device="cpu").replay_buffer.decay


def test_a_window_has_the_mean_age_of_the_default():
    ages = np.arange(100_000)
    weights = package_default()(ages)
    mean_age = (weights * ages).sum() / weights.sum()
    assert min(abs(window.mean_age / mean_age - 1) for window in methods.WINDOWS) <= 0.05


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_can_be_built(method):
    model = learning.build(Run("cartpole", method, 0))
    arguments = methods.METHODS[method].arguments_for_training()
    assert {name: getattr(model, name) for name in arguments} == arguments


@pytest.mark.parametrize("method", TASKS["pendulum-motor"].methods)
def test_methods_of_sac_have_the_buffer_of_those_of_dqn(method):
    ours, theirs = (learning.build(Run(task, method, 0)).replay_buffer for task in ("cartpole", "pendulum-motor"))
    assert type(ours) is type(theirs)
    assert ours.buffer_size == theirs.buffer_size
    if hasattr(ours, "decay"):
        assert (ours.decay, ours.consistency is None) == (theirs.decay, theirs.consistency is None)


def test_variants_of_auto_differ_from_it_as_they_should():
    import variants
    from gymnasium import spaces

    from sb3_reptile import DecayedReplayBuffer
    from sb3_reptile.replay import SamplingDistribution

    arguments = dict(buffer_size=3_000, observation_space=spaces.Box(-9, 9, (1,)), action_space=spaces.Discrete(2))
    arguments |= dict(device="cpu", decay={"exponential": {"half_life": 30}})

    def fill(buffer, phase, n, start):
        for step in range(start, start + n):
            obs, next_obs = np.full((1, 1), step % 7), np.full((1, 1), (step + 1) % 7)
            reward = np.array([1.0 if phase else -1.0])
            buffer.add(obs, next_obs, np.zeros(1), reward, np.zeros(1), [{"phase": phase}])

    oracle = DecayedReplayBuffer(distribution_class=variants.OracleDistribution, **arguments)
    for phase in range(3):
        fill(oracle, phase, 100, 100 * phase)
    ages = np.concatenate([100 + np.arange(100)[::-1], np.full(100, 100), np.arange(100)[::-1]])
    weights = 0.5 ** (ages / 30)
    weights[100:200] *= variants.LEAST
    found = oracle.sampling_probabilities()[:300, 0]
    assert found[:100] == pytest.approx((weights / weights.sum())[:100], rel=0.02)
    assert found[200:] == pytest.approx((weights / weights.sum())[200:], rel=0.02)
    assert found[100:200].sum() < 0.01

    shares = []
    arguments["decay"] = {"exponential": {"half_life": 1_000}}
    for distribution in (variants.ForgettingDistribution, variants.OrdinaryClockDistribution, SamplingDistribution):
        buffer = DecayedReplayBuffer(half_life="auto", distribution_class=distribution, **arguments)
        for phase, start in ((0, 0), (1, 1_000), (0, 2_000)):
            fill(buffer, phase, 1_000, start)
        assert buffer.consistency.changes
        shares.append(buffer.sampling_probabilities()[:1_000].sum())
    # What has come back counts for nothing, as old as it is, or as if nothing had been in between
    forgets, ordinary, auto = shares
    assert forgets < 0.01 < 0.1 < ordinary < auto / 1.4


def test_the_default_under_test_is_that_of_the_package():
    from sb3_reptile import ReptileDQN

    assert learning.build(Run("cartpole", methods.DEFAULT.name, 0)).replay_buffer.decay == package_default()
    auto = ReptileDQN("MlpPolicy", "CartPole-v1", device="cpu", half_life="auto").replay_buffer
    assert learning.build(Run("cartpole", methods.AUTO.name, 0)).replay_buffer.decay == auto.decay
