"""Every transition is stored as it happened, however training is stopped and continued."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile import DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.reptile_dqn import WholeEpisodes
from tests.conftest import INF, NO_TIMEOUTS, assert_same_parameters, cartpole, small


class WholeSAC(WholeEpisodes, SAC):
    pass


class Journal(gym.Wrapper):
    """Writes down what happens."""

    def __init__(self, env):
        super().__init__(env)
        self.rows = []

    def reset(self, **kwargs):
        self.last, info = self.env.reset(**kwargs)
        return self.last, info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.rows.append((self.last, obs, np.ravel(action), reward, terminated or truncated))
        self.last = obs
        return obs, reward, terminated, truncated, info


class StopAt(BaseCallback):
    """Stops training, or breaks it off, after some steps."""

    def __init__(self, n_calls, error=None):
        super().__init__()
        self.at, self.error = n_calls, error

    def _on_step(self):
        if self.n_calls == self.at and self.error is not None:
            raise self.error
        return self.n_calls < self.at


def assert_stored_as_it_happened(model, env):
    """Nothing but what the environments returned, in their order, and cut off where it is interrupted."""
    buffer = model.replay_buffer
    n = buffer.size()
    for index, journal in enumerate(env.get_attr("rows")):
        expected = [np.array(column, dtype=np.float32) for column in zip(*journal, strict=True)]
        rows = slice(0, n), index
        assert len(expected[0]) == n
        assert np.array_equal(buffer.observations[rows], expected[0])
        assert np.array_equal(buffer.rewards[rows], expected[3])
        if buffer.action_space.shape == ():
            assert np.array_equal(buffer.actions[rows], expected[2])
        ended = (buffer.dones[rows] > 0) | (buffer.timeouts[rows] > 0)
        assert ended[expected[4] > 0].all()
        if not buffer.optimize_memory_usage:
            # VecNormalize rounds the last observation of an episode
            assert np.allclose(buffer.next_observations[rows], expected[1], atol=1e-5)
            continues = (expected[1][:-1] == expected[0][1:]).all(axis=1)
            assert np.array_equal(ended[:-1], ~continues)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "options", [dict(), dict(n_steps=3), dict(optimize_memory_usage=True, replay_buffer_kwargs=NO_TIMEOUTS)]
)
def test_the_step_at_which_a_callback_stops_is_stored(options, normalize, n_envs):
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=0, wrapper_class=Journal)
    env = VecNormalize(env) if normalize else env
    model = ReptileDQN("MlpPolicy", env, **small(learning_starts=30, **options))
    for _ in range(3):
        model.learn(400, callback=StopTrainingOnMaxEpisodes(1), reset_num_timesteps=False)
        assert model.replay_buffer.size() * n_envs == model.num_timesteps
        # The stop came with the end of an episode
        assert model.replay_buffer.dones[model.replay_buffer.pos - 1].any()
    model.learn(50, callback=StopAt(7), reset_num_timesteps=False)
    model.learn(20 * n_envs, reset_num_timesteps=False)
    assert_stored_as_it_happened(model, env)


def test_other_algorithms_store_it_with_the_mixin():
    for model_class, is_right in [(WholeSAC, True), (SAC, False)]:
        env = make_vec_env("Pendulum-v1", seed=0, wrapper_class=Journal)
        model = model_class(
            "MlpPolicy", env, learning_starts=500, buffer_size=900, replay_buffer_class=DecayedReplayBuffer
        )
        for _ in range(2):
            model.learn(500, callback=StopTrainingOnMaxEpisodes(1), reset_num_timesteps=False)
        model.learn(5, reset_num_timesteps=False)
        assert (model.replay_buffer.size() == model.num_timesteps) == is_right
        if is_right:
            assert_stored_as_it_happened(model, env)


def test_what_a_callback_stops_is_otherwise_what_sb3_does():
    ours = ReptileDQN("MlpPolicy", cartpole(), half_life=INF, **small()).learn(300, callback=StopAt(198))
    theirs = DQN("MlpPolicy", cartpole(), **small()).learn(300, callback=StopAt(198))
    assert_same_parameters(ours, theirs)
    assert ours.num_timesteps == theirs.num_timesteps == 198
    # SB3's last step is missing
    assert ours.replay_buffer.size() == theirs.replay_buffer.size() + 1 == 198


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug")])
def test_training_goes_on_with_a_reset_after_an_exception(error):
    env = make_vec_env("CartPole-v1", seed=0, wrapper_class=Journal)
    model = ReptileDQN("MlpPolicy", env, **small(learning_starts=500))
    with pytest.raises(type(error)):
        model.learn(100, callback=StopAt(14, error))
    assert model.replay_buffer.size() == 13  # the exception hit before the 14th was stored
    del env.get_attr("rows")[0][13]
    model.learn(60, reset_num_timesteps=False)
    assert_stored_as_it_happened(model, env)
    assert model.replay_buffer.timeouts[12] == 1


def flip(seed=0):
    return make_vec_env(BitFlippingEnv, seed=seed, env_kwargs=dict(n_bits=7, continuous=False, max_steps=7))


@pytest.mark.parametrize("path", ["learn", "set_env", "assigned folder", "load"])
def test_hindsight_episodes_are_not_joined_where_training_continues(path, tmp_path):
    options = small(learning_starts=1_000, replay_buffer_class=DecayedHerReplayBuffer, target_update_interval=10)
    model = ReptileDQN("MultiInputPolicy", flip(), **options).learn(40)
    if path == "set_env":
        model.set_env(flip(1))
        assert model.replay_buffer.env is model.get_env()  # it computes rewards
    if path == "assigned folder":
        model.replay_buffer.save(tmp_path / "buffer")
        env = flip(2)
        model = ReptileDQN("MultiInputPolicy", env, **options)
        model.replay_buffer = DecayedHerReplayBuffer.load(tmp_path / "buffer", env=env)
    if path == "load":
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        model = ReptileDQN.load(tmp_path / "model", env=flip(3))
        model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    model.learn(40, reset_num_timesteps=path == "learn")
    lengths = model.replay_buffer.ep_length[:80, 0]
    assert lengths.max() <= 7
    assert (lengths[:40] > 0).all()
