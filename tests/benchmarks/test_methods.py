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


@pytest.mark.parametrize("task", ["pendulum-motor", "pendulum-td3"])
@pytest.mark.parametrize("method", TASKS["pendulum-td3"].methods)
def test_methods_of_sac_and_td3_have_the_buffer_of_those_of_dqn(method, task):
    ours, theirs = (learning.build(Run(task, method, 0)).replay_buffer for task in ("cartpole", task))
    assert type(ours) is type(theirs)
    assert ours.buffer_size == theirs.buffer_size
    if hasattr(ours, "decay"):
        assert (ours.decay, ours.consistency is None) == (theirs.decay, theirs.consistency is None)


def test_td3_explores_with_normal_noise_and_takes_multi_step_returns():
    model = learning.build(Run("pendulum-td3", "exp-300", 0, None, "3-step"))
    assert type(model).__name__ == "TD3"
    assert (model.action_noise._mu.tolist(), model.action_noise._sigma.tolist()) == ([0.0], [0.1])
    assert model.replay_buffer.n_steps == 3
    assert model.replay_buffer.decay(300) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="learned by TD3: use 10-step"):
        learning.build(Run("pendulum-td3", "exp-300", 0, None, "10-step-lambda-0.7"))


@pytest.mark.parametrize("regimes", [(0, 1), (0, 1, 2), (0, 1, 0, 2)])
def test_an_oracle_replays_the_regime_that_holds_whatever_their_number(regimes):
    import variants
    from gymnasium import spaces

    from sb3_reptile import DecayedReplayBuffer

    buffer = DecayedReplayBuffer(
        800,
        spaces.Box(-9, 9, (1,)),
        spaces.Discrete(2),
        device="cpu",
        decay={"exponential": {"half_life": 1e6}},
        distribution_class=variants.oracle_of(regimes),
    )
    of_rows = []
    for phase in range(7):
        for _ in range(100):
            buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), np.zeros(1), [{"phase": phase}])
            of_rows.append(regimes[phase % len(regimes)])
        shares = buffer.sampling_probabilities()[: len(of_rows), 0]
        now = np.array(of_rows) == of_rows[-1]
        assert shares[now].sum() > 0.95
        assert shares[now].min() == pytest.approx(shares[now].max(), rel=0.01)


@pytest.mark.parametrize("name", TASKS)
def test_regimes_and_returns_by_phase_fit_the_task(name):
    task = TASKS[name]
    numbers = [len(values) for values in task.env_kwargs.get("parameters", {}).values()]
    numbers += [len(task.env_kwargs[key]) for key in ("permutations", "factors") if key in task.env_kwargs]
    assert set(numbers) <= {len(task.regimes)}
    for returns in (task.random_return, task.reference_return):
        assert not isinstance(returns, tuple) or len(returns) == len(task.regimes)
    period = task.env_kwargs.get("period")
    assert not isinstance(period, list) or sum(period) == task.steps
    assert set(task.methods) <= set(methods.METHODS)


def test_the_oracle_of_a_task_knows_its_regimes():
    of_two, of_three = (learning.build(Run(task, methods.ORACLE.name, 0)) for task in ("cartpole-long", "rooms"))
    assert of_two.replay_buffer.distribution.regimes == (0, 1)
    assert of_three.replay_buffer.distribution.regimes == (0, 1, 2)


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
    probabilities = []
    for distribution, least in ((variants.KeepingDistribution, 0.001), (SamplingDistribution, 0.1)):
        buffer = DecayedReplayBuffer(half_life="auto", distribution_class=distribution, **arguments)
        fill(buffer, 0, 200, 0)
        buffer.distribution.set_segments(np.array([0, 50, 100]), np.array([least, 0.6, 1.0]), None)
        probabilities.append(buffer.sampling_probabilities())
    assert probabilities[0].tolist() == probabilities[1].tolist()

    # What has come back counts for nothing, as old as it is, or as if nothing had been in between
    forgets, ordinary, auto = shares
    assert forgets < 0.01 < 0.1 < ordinary < auto / 1.4


@pytest.mark.parametrize("every", [1_000, 5_000])
def test_false_alarms_are_raised_when_the_method_says_so(every):
    import variants

    from sb3_reptile import ReptileDQN

    few = dict(learning_starts=10_000, buffer_size=5_000, policy_kwargs=dict(net_arch=[4]))
    model = ReptileDQN("MlpPolicy", "CartPole-v1", device="cpu", seed=0, half_life="auto", **few)
    model.learn(3_900, callback=variants.FalseAlarms(every=every))
    noticed = [change.noticed_at for change in model.replay_buffer.consistency.changes]
    assert [at // 100 for at in noticed] == ([10, 20, 30] if every == 1_000 else [])


def test_the_default_under_test_is_that_of_the_package():
    from sb3_reptile import ReptileDQN

    assert learning.build(Run("cartpole", methods.DEFAULT.name, 0)).replay_buffer.decay == package_default()
    auto = ReptileDQN("MlpPolicy", "CartPole-v1", device="cpu", half_life="auto").replay_buffer
    assert learning.build(Run("cartpole", methods.AUTO.name, 0)).replay_buffer.decay == auto.decay


def test_a_learner_with_shorter_rollouts_has_as_many_updates_per_step():
    # 128 updates every 256 steps
    ordinary, shorter = (
        learning.build(Run("cartpole-actions", methods.AUTO.name, 0, None, learner))
        for learner in ("10-step-lambda-0.7", "10-step-lambda-0.7-rollout-64")
    )
    assert [(model.train_freq.frequency, model.gradient_steps) for model in (ordinary, shorter)] == [
        (256, 128),
        (64, 32),
    ]
    assert learning.set_up(
        Run("cartpole-actions", methods.AUTO.name, 0, None, "10-step-lambda-0.7-rollout-64")
    ) not in (
        learning.set_up(Run("cartpole-actions", methods.AUTO.name, 0, None, learner))
        for learner in ("10-step-lambda-0.7", "10-step-lambda-0.7-rollout-16")
    )
    with pytest.raises(ValueError, match="rollouts of 1 steps cannot have as many updates as 1 updates every 2 steps"):
        methods.Learner(10, 0.7, rollout=1).settings({"train_freq": 2, "gradient_steps": 1})
