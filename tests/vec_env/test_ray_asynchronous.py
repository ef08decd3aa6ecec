"""Asynchronous workers: nothing waits for the slowest, and what is stored belongs together."""

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.vec_env import Asynchronous, RayVecEnv
from sb3_reptile.vec_env.ray_asynchronous import AsynchronousRayVecEnv
from sb3_reptile.vec_env.ray_worker import unpack
from tests.conftest import assert_same_parameters, small
from tests.vec_env.environments import Numbered


class AsynchronousSAC(Asynchronous, SAC):
    pass


def slow_first(fake_ray, every):
    """Let the first worker be ready only in one of ``every`` waits, unless there is no other."""
    waits, wait = [0], fake_ray.wait

    def of_others(refs, num_returns=1, timeout=None, fetch_local=True):
        waits[0] += 1
        first = [ref for ref in refs if is_of_first(ref)]
        if num_returns > 1 or waits[0] % every == 0:
            return wait(refs, num_returns)
        return wait([ref for ref in refs if not is_of_first(ref)] + first)

    def is_of_first(ref):
        return ref.error is None and (unpack(ref.value)[0][None][:, 0] >= 1_000).all()

    fake_ray.wait = of_others


class Slow(Numbered):
    """The first of its environments has episode numbers above 1,000; rewards name the action."""

    def __init__(self, index):
        super().__init__(length=10)
        self.index = index

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = self.index + (1_000 if self.index == 0 else 0)
        return self._obs(), {}

    def step(self, action):
        obs, _, *others = super().step(action)
        return obs, 2.0 * self.step_number + int(action), *others


def fns(n):
    return [lambda index=index: Slow(index) for index in range(n)]


@pytest.mark.parametrize("n_envs", [1, 3])
def test_one_worker_is_bit_for_bit_the_synchronous_run(fake_ray, n_envs):
    models = []
    for cls, kwargs in ((DummyVecEnv, {}), (RayVecEnv, dict(envs_per_worker=n_envs, asynchronous=True))):
        env = VecNormalize(make_vec_env("CartPole-v1", n_envs, seed=0, vec_env_cls=cls, vec_env_kwargs=kwargs))
        models.append(ReptileDQN("MlpPolicy", env, **small()).learn(600))
    assert models[1].env.unwrapped.workers.all[0].indices == range(n_envs)
    assert_same_parameters(*models)
    np.testing.assert_array_equal(*(model.replay_buffer.rewards for model in models))


def test_what_is_stored_belongs_together_and_the_slowest_is_not_waited_for(fake_ray):
    env = RayVecEnv(fns(4), asynchronous=True, backoff=0)
    slow_first(fake_ray, every=20)
    model = ReptileDQN("MlpPolicy", env, **small(learning_starts=10, replay_buffer_class=DecayedReplayBuffer))
    fake_ray.dying = {100, 260}
    model.learn(400)
    buffer = model.replay_buffer
    n = buffer.pos
    assert env.log_values() == {"workers/restarts": 2, "workers/lost_transitions": 2}
    assert n == 400 - 2
    obs, next_obs = buffer.observations[:n, 0], buffer.next_observations[:n, 0]
    np.testing.assert_array_equal(next_obs, obs + np.array([0, 1]))
    np.testing.assert_array_equal(buffer.rewards[:n, 0], 2 * next_obs[:, 1] + buffer.actions[:n, 0, 0])
    assert set(buffer.actions[:n].ravel().tolist()) == {0, 1}
    counts = np.unique(obs[:, 0], return_counts=True)[1]
    assert len(counts) == 4
    assert counts[-1] < 30
    assert counts[:3].min() > 100


class Delays(BaseCallback):
    """Keeps the updates that each result is old."""

    def _on_training_start(self):
        self.delays = []

    def _on_rollout_start(self):
        self.delays += getattr(self.model, "_delays", [])
        getattr(self.model, "_delays", []).clear()

    def _on_step(self):
        return True


@pytest.mark.parametrize("algorithm", ["DQN", "ReptileDQN"])
@pytest.mark.parametrize(("max_delay", "largest"), [(0, 1), (8, 9), (10_000, 30)])
def test_workers_act_with_a_policy_that_is_at_most_max_delay_updates_old(
    fake_ray, monkeypatch, max_delay, largest, algorithm
):
    env = RayVecEnv(fns(3), asynchronous=True, max_delay=max_delay)
    slow_first(fake_ray, every=40)
    if algorithm == "DQN":
        model, owner, name = DQNs("MlpPolicy", env, **small(train_freq=1, learning_starts=5)), DQN, "train"
    else:
        kwargs = small(train_freq=1, learning_starts=5, n_steps=1, learner="eager")
        model, owner, name = ReptileDQN("MlpPolicy", env, **kwargs), ReptileDQN, "_train_eagerly"
    awaited = []
    wait_for = env.wait_for
    monkeypatch.setattr(env, "wait_for", lambda workers: (awaited.append(len(workers)), wait_for(workers)))
    acting = []
    train = getattr(owner, name)

    def checked(self, gradient_steps, batch_size):
        late = [act for act in self._acts.values() if self._n_updates + gradient_steps - act.update > max_delay]
        acting.append(len(late))
        return train(self, gradient_steps, batch_size)

    monkeypatch.setattr(owner, name, checked)
    callback = Delays()
    model.learn(200, callback=callback)
    # Whoever would act with an older policy has finished before the update
    assert awaited == acting
    assert (sum(awaited) > 0) == (max_delay < 10_000)
    assert max(callback.delays) >= largest


class DQNs(Asynchronous, DQN):
    pass


@pytest.mark.parametrize(("n_envs", "max_delay"), [(1, 400), (3, 0)])
def test_a_worker_that_hangs_is_started_again_when_it_is_waited_for(fake_ray, n_envs, max_delay):
    env = RayVecEnv(fns(n_envs), asynchronous=True, max_delay=max_delay, backoff=0, call_timeout=0.1)
    model = DQNs("MlpPolicy", env, **small(train_freq=1, learning_starts=5))
    fake_ray.slow = {60}
    with pytest.warns(UserWarning, match="'step' did not return within 0.1 s, call_timeout"):
        model.learn(100)
    assert env.log_values() == {"workers/restarts": 1, "workers/lost_transitions": 1}
    buffer = model.replay_buffer
    # SB3's buffer has the lost step as one that a time limit cuts off
    n, lost = buffer.pos, np.flatnonzero(buffer.rewards[: buffer.pos, 0] == 0)
    assert len(lost) == 1
    assert buffer.timeouts[lost[0], 0] == 1
    true = np.delete(np.arange(n), lost)
    steps = buffer.next_observations[true, 0] - buffer.observations[true, 0]
    np.testing.assert_array_equal(steps, np.tile([0, 1], (n - 1, 1)))


def test_delays_restarts_and_losses_are_logged(fake_ray):
    env = RayVecEnv(fns(2), asynchronous=True)
    model = DQNs("MlpPolicy", env, **small(train_freq=1, learning_starts=5))
    logged = {}

    class Keep(BaseCallback):
        def _on_training_start(self):
            dump = self.logger.dump
            self.logger.dump = lambda step=0: (logged.update(self.logger.name_to_value), dump(step))

        def _on_step(self):
            return True

    model.learn(100, callback=Keep(), log_interval=1)
    assert {"workers/restarts", "workers/lost_transitions", "workers/mean_delay", "workers/max_delay"} <= set(logged)
    assert logged["workers/max_delay"] >= 1


def test_training_can_be_stopped_and_continued_without_false_transitions(fake_ray):
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 37

    env = RayVecEnv(fns(3), asynchronous=True)
    slow_first(fake_ray, every=10)
    model = DQNs("MlpPolicy", env, **small(learning_starts=10))
    model.learn(100, callback=Stop())
    model.learn(100, reset_num_timesteps=False)
    model.learn(50)
    n = model.replay_buffer.pos
    assert n > 180
    obs, next_obs = model.replay_buffer.observations[:n, 0], model.replay_buffer.next_observations[:n, 0]
    np.testing.assert_array_equal(next_obs, obs + np.array([0, 1]))


def test_only_algorithms_that_know_what_belongs_together_can_use_them(fake_ray):
    env = RayVecEnv(fns(2), asynchronous=True)
    for algorithm in (DQN, PPO):
        with pytest.raises(ValueError, match="Asynchronous, SAC"):
            algorithm("MlpPolicy", env, device="cpu").learn(10)
    env.reset()
    with pytest.raises(ValueError, match="evaluate in environments without asynchronous"):
        env.step([0])


class Own(RayVecEnv):
    pass


class OwnAsynchronous(AsynchronousRayVecEnv):
    pass


def test_a_class_of_ones_own_is_asynchronous_or_says_what_to_derive_it_from(fake_ray):
    with pytest.raises(ValueError, match=r"Own cannot be asynchronous: derive .*\.AsynchronousRayVecEnv"):
        Own(fns(2), asynchronous=True, max_delay=3)
    assert fake_ray.started == []
    env = OwnAsynchronous(fns(2), asynchronous=True, max_delay=3)
    assert (type(env), env.max_delay, env.num_envs) == (OwnAsynchronous, 3, 1)
    assert Own(fns(2)).num_envs == 2
    with pytest.raises(ValueError, match="asynchronous=True must be given by name"):
        RayVecEnv(fns(2), 1, None, None, 5, 1.0, 300.0, True)


class Mixin(OffPolicyAlgorithm):
    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)


def test_the_mixin_comes_before_the_algorithm():
    with pytest.raises(TypeError, match=r"must come before DQN.*class Wrong\(Asynchronous, DQN\)"):
        type("Wrong", (DQN, Asynchronous), {})
    # Other mixins, and classes derived from either, in any order
    mixed = type("Mixed", (Asynchronous,), {"train": Mixin.train})
    for bases in ((Asynchronous, Mixin, DQN), (Mixin, Asynchronous, DQN), (mixed, DQN), (Mixin, ReptileDQN), (DQNs,)):
        type("Right", bases, {})


@pytest.mark.parametrize(
    ("settings", "wrap", "message"),
    [
        (dict(n_steps=3), None, "n_steps=1 has one"),
        (dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)), None, "memory"),
        ({}, VecNormalize, "VecNormalize.*wrapper_class"),
        ({}, lambda env: VecFrameStack(env, 2), "VecFrameStack"),
    ],
)
def test_what_needs_successive_steps_of_one_environment_is_refused(fake_ray, settings, wrap, message):
    env = RayVecEnv(fns(2), asynchronous=True)
    model = ReptileDQN("MlpPolicy", wrap(env) if wrap else env, **small(**settings))
    with pytest.raises(ValueError, match=message):
        model.learn(10)


def test_noise_that_remembers_is_refused(fake_ray):
    env = make_vec_env("Pendulum-v1", 2, vec_env_cls=RayVecEnv, vec_env_kwargs=dict(asynchronous=True))
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match="OrnsteinUhlenbeck"):
        AsynchronousSAC("MlpPolicy", env, action_noise=noise, device="cpu").learn(10)
    AsynchronousSAC("MlpPolicy", env, learning_starts=10, device="cpu").learn(20)
