"""Buffers of your own that change what a batch holds: they are called, or refused where they could not be."""

import numpy as np
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from sb3_reptile import DecayedNStepReplayBuffer, DecayedReplayBuffer, ReptileDQN
from tests.conftest import cartpole, small

BONUS = 1_000


def with_bonus(batch):
    return batch._replace(rewards=batch.rewards * 0 + BONUS)


class OwnSample(DecayedReplayBuffer):
    def sample(self, batch_size, env=None):
        return with_bonus(super().sample(batch_size, env))


class OwnTransitions(DecayedReplayBuffer):
    def transitions(self, indices, env=None):
        return with_bonus(super().transitions(indices, env))

    def sample(self, batch_size, env=None):
        return self.transitions(super().sample(batch_size, env).indices, env)


class OwnFetch(DecayedReplayBuffer):
    """SB3's own hook."""

    def _get_samples(self, batch_inds, env=None):
        return with_bonus(super()._get_samples(batch_inds, env))


class OwnTensors(DecayedReplayBuffer):
    def to_torch(self, array, copy=True):
        is_rewards = (array == 1).all()  # of CartPole
        return super().to_torch(array * BONUS if is_rewards else array, copy)


class OwnRewards(DecayedReplayBuffer):
    @staticmethod
    def _normalize_reward(reward, env=None):
        return ReplayBuffer._normalize_reward(reward, env) + BONUS


class Storing(ReplayBuffer):
    def _get_samples(self, batch_inds, env=None):
        return with_bonus(super()._get_samples(batch_inds, env))


class OwnStorage(DecayedReplayBuffer, Storing):
    pass


def set_and_learn(model, **options):
    for name, value in options.items():
        setattr(model, name, value)
    model.learn(100)


OWN = [OwnSample, OwnTransitions, OwnFetch, OwnTensors, OwnStorage, OwnRewards]
WITHOUT_RETURNS = [OwnFetch, OwnTensors, OwnStorage]


def loss(make, buffer_class, env="CartPole-v1", **kwargs):
    model = make("MlpPolicy", env, replay_buffer_class=buffer_class, **small(**kwargs)).learn(100)
    return model, model.logger.name_to_value["train/loss"]


@pytest.mark.parametrize("kwargs", [{}, dict(n_steps=1), dict(double_q=True), dict(learner="eager")])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("buffer_class", OWN)
def test_what_a_buffer_makes_of_a_batch_is_learned(buffer_class, n_envs, kwargs):
    model, with_own = loss(ReptileDQN, buffer_class, cartpole(n_envs), **kwargs)
    assert (model.n_steps, model.q_lambda) == (1, 1)
    assert with_own > BONUS / 2
    assert loss(ReptileDQN, DecayedReplayBuffer, **kwargs)[1] < BONUS / 2


@pytest.mark.parametrize("buffer_class", OWN)
def test_the_same_is_learned_by_dqn(buffer_class):
    assert loss(DQN, buffer_class)[1] > BONUS / 2


@pytest.mark.parametrize("buffer_class", OWN)
def test_lambda_returns_which_would_not_use_it_are_refused(buffer_class):
    message = "would have no effect: set q_lambda=1|n_steps must be 1 with"
    with pytest.raises(ValueError, match=message):
        ReptileDQN("MlpPolicy", "CartPole-v1", replay_buffer_class=buffer_class, **small(n_steps=3, q_lambda=0.5))
    model, _ = loss(ReptileDQN, buffer_class)
    with pytest.raises(ValueError, match=r"q_lambda=0\.5 reads rewards and next observations from the storage"):
        set_and_learn(model, q_lambda=0.5)


@pytest.mark.parametrize("buffer_class", WITHOUT_RETURNS)
def test_n_step_returns_which_would_not_use_it_are_refused(buffer_class):
    with pytest.raises(ValueError, match=f"n_steps must be 1 with {buffer_class.__name__}"):
        ReptileDQN("MlpPolicy", "CartPole-v1", replay_buffer_class=buffer_class, **small(n_steps=3))
    with pytest.raises(ValueError, match=f"n_steps must be 1 with {buffer_class.__name__}, got 3: n-step returns are"):
        loss(DQN, buffer_class, replay_buffer_kwargs=dict(n_steps=3))
    model, _ = loss(ReptileDQN, buffer_class)
    with pytest.raises(ValueError, match="n_steps must be 1 with"):
        set_and_learn(model, n_steps=3)


def test_n_step_buffers_with_their_own_get_samples_are_asked():
    class Own(DecayedNStepReplayBuffer):
        def _get_samples(self, batch_inds, env=None):
            return with_bonus(super()._get_samples(batch_inds, env))

    assert loss(DQN, Own, replay_buffer_kwargs=dict(n_steps=1))[1] > BONUS / 2
    with pytest.raises(ValueError, match="n_steps must be 1 with Own, got 3"):
        loss(DQN, Own)


def test_n_step_returns_of_a_changed_sample_are_learned():
    model, with_bonus = loss(ReptileDQN, OwnSample, n_steps=3)
    assert (model.n_steps, model.q_lambda) == (3, 1)
    assert with_bonus > BONUS / 2


@pytest.mark.parametrize("ours", [DecayedReplayBuffer, DecayedNStepReplayBuffer])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_own_normalization_is_that_of_sb3s_buffers_also_without_vec_normalize(ours, n_steps):
    env = cartpole(1)
    batches = []
    for base, kwargs in ((ours, dict(half_life=float("inf"))), (NStepReplayBuffer, {})):

        class Own(base):
            @staticmethod
            def _normalize_reward(reward, env=None):
                return reward * np.float32(0.5) + np.float32(1)

            @staticmethod
            def _normalize_obs(obs, env=None):
                return obs * np.float32(100)

        buffer = Own(64, env.observation_space, env.action_space, n_steps=n_steps, gamma=0.9, **kwargs)
        env.seed(0)
        obs = env.reset()
        for step in range(50):
            action = np.array([step % 2])
            next_obs, reward, done, infos = env.step(action)
            buffer.add(obs, next_obs, action, reward, done, infos)
            obs = next_obs
        np.random.seed(0)
        batches.append(buffer.sample(200))
    own, sb3s = batches
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        assert (getattr(own, name) == getattr(sb3s, name)).all(), name
    assert own.observations.abs().max() > 5
    assert len(set(own.rewards.flatten().tolist())) == n_steps  # also of sequences that an episode's end cuts short
