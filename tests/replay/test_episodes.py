"""Rows that do not continue the one before end its episode, and no others do."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedSampling,
)
from tests.conftest import NO_TIMEOUTS, make_buffer, small
from tests.replay import hindsight

DICT = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,)), "y": spaces.Discrete(100)})
DISCRETE = spaces.Discrete(100)
OPTIMIZED = dict(optimize_memory_usage=True, **NO_TIMEOUTS)


def as_observation(buffer, numbers):
    """What the environments show, of whose states these are the numbers."""
    numbers = np.asarray(numbers)
    if buffer.observation_space == DICT:
        return {"x": np.stack([0 * numbers, 0.1 * numbers], axis=1), "y": numbers}
    if buffer.observation_space == DISCRETE:
        return numbers
    return np.stack([0 * numbers, 0.1 * numbers], axis=1)  # not exact in single precision


def add(buffer, now, then, done=0.0, truncated=False):
    n = buffer.n_envs
    done = np.broadcast_to(done, n)
    infos = [{"TimeLimit.truncated": truncated} for _ in range(n)]
    buffer.add(as_observation(buffer, now), as_observation(buffer, then), np.zeros(n), np.zeros(n), done, infos)


def cut_off(buffer):
    """Which stored rows end an episode that has not ended on its own."""
    flags = buffer.dones if buffer.optimize_memory_usage else buffer.timeouts
    return flags[: buffer.size()].astype(int).tolist()


@pytest.mark.parametrize(
    ("buffer_class", "options"),
    [
        (DecayedReplayBuffer, dict()),
        (DecayedReplayBuffer, dict(space=DISCRETE)),
        (DecayedReplayBuffer, OPTIMIZED),
        (DecayedNStepReplayBuffer, dict(n_steps=3)),
        (DecayedDictReplayBuffer, dict(space=DICT)),
    ],
)
def test_what_the_next_row_does_not_continue_is_cut_off(buffer_class, options):
    buffer = make_buffer(buffer_class, n_envs=2, n_rows=6, **options)
    add(buffer, [1, 11], [2, 12])
    add(buffer, [2, 12], [3, 13])
    add(buffer, [3, 50], [4, 51])  # the second environment was reset
    assert cut_off(buffer) == [[0, 0], [0, 1], [0, 0]]
    add(buffer, [70, 80], [71, 81])  # both
    assert cut_off(buffer) == [[0, 0], [0, 1], [1, 1], [0, 0]]
    add(buffer, [71, 81], [72, 82])
    add(buffer, [72, 82], [73, 83])  # the ring is full
    add(buffer, [5, 83], [6, 84])
    assert cut_off(buffer) == [[0, 0], [0, 1], [1, 1], [0, 0], [0, 0], [1, 0]]


def test_episodes_that_ended_are_not_cut_off_and_nan_continues_nan():
    buffer = make_buffer(DecayedReplayBuffer, on_bad_transition="allow")
    add(buffer, [1], [2], done=1.0)
    add(buffer, [20], [21], done=1.0, truncated=True)
    add(buffer, [40], [np.nan])
    add(buffer, [np.nan], [3])
    assert buffer.dones[:4, 0].tolist() == [1, 1, 0, 0]
    assert buffer.timeouts[:4, 0].tolist() == [0, 1, 0, 0]


def test_n_step_returns_end_where_the_environment_was_reset():
    buffer = make_buffer(DecayedNStepReplayBuffer, n_steps=3, gamma=0.5)
    for now in (1, 2, 3, 30, 31):
        add(buffer, [now], [now + 1])
    batch = buffer.transitions(np.arange(5))
    assert (batch.next_observations[:, 1] * 10).round().tolist() == [4, 4, 4, 32, 32]
    assert batch.discounts.flatten().tolist() == [0.125, 0.25, 0.5, 0.25, 0.5]
    assert not batch.dones.any()


def test_memory_optimised_rows_do_not_lead_into_another_episode():
    buffer = make_buffer(DecayedReplayBuffer, **OPTIMIZED)
    add(buffer, [1], [2])
    add(buffer, [2], [3])
    assert buffer.transitions(np.array([1])).dones.item() == 0  # what follows is still there
    add(buffer, [50], [51])
    batch = buffer.transitions(np.array([0, 1, 2]))
    assert batch.dones.flatten().tolist() == [0, 1, 0]


def continue_training(name, path, tmp_path, **options):
    """Train, and go on in one of the ways in which the environment starts again."""
    model_class, task = {"DQN": (DQN, "CartPole-v1"), "SAC": (SAC, "Pendulum-v1")}[name]
    model = model_class("MlpPolicy", make_vec_env(task, seed=0), **small(learning_starts=1_000, **options))
    model.learn(36)
    if path == "load":
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        model = model_class.load(tmp_path / "model", env=make_vec_env(task, seed=1))
        model.load_replay_buffer(tmp_path / "buffer")
    if path == "set_env":
        model.set_env(make_vec_env(task, seed=1))
    return model.learn(40, reset_num_timesteps=path == "learn")


@pytest.mark.filterwarnings("ignore:The last trajectory")
@pytest.mark.parametrize("path", ["learn", "load", "set_env"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SAC", dict(replay_buffer_class=DecayedReplayBuffer)),
        ("DQN", dict(replay_buffer_class=DecayedReplayBuffer, replay_buffer_kwargs=NO_TIMEOUTS)),
        (
            "DQN",
            dict(replay_buffer_class=DecayedReplayBuffer, optimize_memory_usage=True, replay_buffer_kwargs=NO_TIMEOUTS),
        ),
    ],
    ids=["SAC", "DQN", "memory optimised"],
)
def test_every_algorithm_ends_what_is_in_progress_where_the_environment_starts_again(name, options, path, tmp_path):
    buffer = continue_training(name, path, tmp_path, **options).replay_buffer
    n = buffer.size()
    following = buffer.observations[1:n] if buffer.optimize_memory_usage else buffer.next_observations[: n - 1]
    is_continued = (following == buffer.observations[1:n]).all(axis=(1, 2))
    has_ended = (buffer.dones[: n - 1, 0] > 0) | (buffer.timeouts[: n - 1, 0] > 0)
    assert has_ended[35]
    assert (is_continued | has_ended).all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_training_without_interruption_cuts_nothing_off(n_envs, normalize):
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=0)
    env = VecNormalize(env) if normalize else env
    model = DQN("MlpPolicy", env, **small(replay_buffer_class=DecayedNStepReplayBuffer)).learn(300)
    theirs = DQN("MlpPolicy", make_vec_env("CartPole-v1", n_envs=n_envs, seed=0), **small(n_steps=3))
    assert type(theirs.replay_buffer) is NStepReplayBuffer
    assert model.replay_buffer.dones.sum() > 5
    assert not model.replay_buffer.timeouts.any()


def add_goals(buffer, now, done=False):
    def goals(number):
        there = np.full((1, 2), float(number))
        return {"observation": there, "achieved_goal": there, "desired_goal": np.full((1, 2), -1.0)}

    buffer.add(goals(now), goals(now + 1), np.zeros((1, 2)), np.zeros(1), np.array([done]), [{}])


def test_hindsight_episodes_end_where_the_environment_was_reset(tmp_path):
    buffer = hindsight.make_buffer()
    for now in (0, 1, 2, 30, 31):
        add_goals(buffer, now)
    assert buffer.ep_length[:6, 0].tolist() == [3, 3, 3, 0, 0, 0]
    buffer.save(tmp_path / "buffer")
    loaded = DecayedHerReplayBuffer.load(tmp_path / "buffer", env=buffer.env)
    add_goals(loaded, 60)
    assert loaded.ep_length[:6, 0].tolist() == [3, 3, 3, 2, 2, 0]
    # And go on where it goes on
    loaded = DecayedHerReplayBuffer.load(tmp_path / "buffer", env=buffer.env)
    add_goals(loaded, 32, done=True)
    assert loaded.ep_length[:6, 0].tolist() == [3, 3, 3, 3, 3, 3]


class OwnStorage(DecayedSampling, ReplayBuffer):
    """A class that stores by its own ``add()``."""

    def add(self, *args, **kwargs):
        super().add(*args, **kwargs)


@pytest.mark.parametrize("buffer_class", [DecayedReplayBuffer, OwnStorage])
def test_where_time_limits_are_not_handled_the_end_of_a_former_row_does_not_remain(buffer_class):
    spaces_of_it = spaces.Box(-99, 99, (1,)), spaces.Discrete(2)
    buffer = buffer_class(3, *spaces_of_it, device="cpu", handle_timeout_termination=False)
    for obs, next_obs, done in [(0, 1, False), (10, 11, False), (11, 12, False), (12, 13, True)]:
        # The first two do not continue each other; the last one takes the place of the first
        rows = (np.full((1, 1), value, dtype=np.float32) for value in (obs, next_obs))
        buffer.add(*rows, np.zeros((1, 1)), np.ones(1), np.array([done]), [{}])
    assert buffer.transitions(np.arange(3)).dones.flatten().tolist() == [1, 0, 0]
    assert buffer.timeouts[:, 0].tolist() == [0, 0, 0]
