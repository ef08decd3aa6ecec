"""Rewards and observations that are no numbers: refused with their place, skipped and counted, or allowed."""

import csv
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_reptile import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.replay.bad_transitions import BadTransitions, FiniteBytes
from tests.conftest import make_buffer
from tests.replay import hindsight

NAN, INF = float("nan"), float("inf")
DICT = spaces.Dict({"image": spaces.Box(0, 255, (3,), np.uint8), "x": spaces.Box(-INF, INF, (2,))})


def add(buffer, n=1, reward=0.0, obs=0.0, next_obs=0.0, env=0, done=0.0):
    """Add rows of zeros, but for one number of one environment."""
    for _ in range(n):
        row = []
        for value in (obs, next_obs):
            x = np.zeros((buffer.n_envs, 2))
            x[env, 1] = value
            is_dict = isinstance(buffer.observation_space, spaces.Dict)
            row.append({"image": np.zeros((buffer.n_envs, 3), np.uint8), "x": x} if is_dict else x)
        rewards, dones = np.zeros(buffer.n_envs), np.zeros(buffer.n_envs)
        rewards[env], dones[env] = reward, done
        buffer.add(*row, np.zeros(buffer.n_envs), rewards, dones, [{} for _ in dones])


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e300])
@pytest.mark.parametrize("where", ["reward", "obs", "next_obs"])
@pytest.mark.parametrize("buffer_class", [DecayedReplayBuffer, DecayedNStepReplayBuffer, DecayedDictReplayBuffer])
def test_what_is_no_number_is_refused_with_its_place_and_nothing_is_stored(buffer_class, where, value):
    space = DICT if buffer_class is DecayedDictReplayBuffer else None
    buffer = make_buffer(buffer_class, n_envs=3, space=space)
    add(buffer, 4)
    name = {"reward": "reward", "obs": "observation", "next_obs": "next observation"}[where]
    if space is not None and where != "reward":
        name += " 'x'"
    with pytest.raises(
        ValueError, match=rf"^the {name} of environment 2 is {re.escape(str(value))} at its step 5: mend the environm"
    ):
        add(buffer, env=2, **{where: value})
    assert buffer.size() == 4
    add(buffer, 2)
    assert buffer.size() == 6


def test_large_numbers_are_numbers():
    buffer = make_buffer(DecayedReplayBuffer)
    add(buffer, reward=3e38, obs=-3e38, next_obs=3e38)
    assert buffer.size() == 1


def test_bad_transitions_are_skipped_and_counted():
    buffer = make_buffer(DecayedReplayBuffer, n_envs=2, on_bad_transition="skip", initial_weights="info")
    add(buffer, 3)
    skipped = r"reward of environment 1 is nan at its step 4: not stored, 2 transitions skipped"
    with pytest.warns(UserWarning, match=skipped):
        add(buffer, env=1, reward=NAN)
    for _ in range(8):
        add(buffer, obs=INF)  # said already
    with pytest.warns(UserWarning, match=r"at its step 13: not stored, 20 transitions skipped"):
        add(buffer, obs=INF)
    add(buffer, 2)
    assert buffer.size() == 5
    assert buffer.n_skipped == 20
    assert np.isfinite(buffer.sample(50).observations.numpy()).all()
    assert buffer.ages().max() == 8
    buffer.reset()
    assert buffer.n_skipped == 0


@pytest.mark.filterwarnings("ignore:the reward")
def test_n_step_returns_end_before_a_gap():
    buffer = make_buffer(DecayedNStepReplayBuffer, n_steps=3, gamma=1.0, on_bad_transition="skip")
    obs = 0
    for reward in (1, 2, NAN, 4, 5, 6):
        next_obs = reward if reward == reward else 3
        add(buffer, reward=reward, obs=obs, next_obs=next_obs)
        obs = next_obs
    batch = buffer.transitions(np.arange(5))
    assert batch.rewards.flatten().tolist() == [3, 2, 15, 11, 6]
    assert batch.next_observations[:, 1].tolist() == [2, 2, 6, 6, 6]
    assert not batch.dones.any()  # they go on where they were cut off


@pytest.mark.filterwarnings("ignore:the reward")
def test_an_episode_whose_last_transition_is_skipped_ends_all_the_same():
    buffer = hindsight.make_buffer(on_bad_transition="skip")
    zeros = {key: np.zeros((1, 2)) for key in buffer.observations}
    for reward, done in [(0, 0), (0, 0), (NAN, 0), (0, 0), (NAN, 1), (0, 0), (0, 1), (NAN, 1), (0, 0)]:
        buffer.add(dict(zeros), dict(zeros), np.zeros((1, 2)), np.array([reward]), np.array([done]), [{}])
    assert buffer.ep_length[:6, 0].tolist() == [3, 3, 3, 2, 2, 0]


def test_allowed_is_what_sb3_does():
    buffer, theirs = make_buffer(DecayedReplayBuffer, on_bad_transition="allow"), make_buffer(ReplayBuffer)
    for which in (buffer, theirs):
        add(which, reward=NAN, obs=INF)
    assert np.isnan(buffer.rewards[0, 0])
    assert np.array_equal(buffer.observations, theirs.observations)


def test_images_are_not_looked_at():
    buffer = make_buffer(DecayedReplayBuffer, space=spaces.Box(0, 255, (2,), np.uint8))
    add(buffer, obs=255)
    assert buffer.size() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(on_bad_transition="ignore"), "on_bad_transition must be 'raise' or 'skip' or 'allow', got 'ignore'"),
        (
            dict(on_bad_transition="skip", optimize_memory_usage=True, handle_timeout_termination=False),
            "on_bad_transition='skip' must not be combined with optimize_memory_usage=True",
        ),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_buffer(DecayedReplayBuffer, **options)


class Sensor(gym.Wrapper):
    """Fails in every 50th step."""

    steps = 0

    def step(self, action):
        obs, reward, *others = self.env.step(action)
        self.steps += 1
        return obs, NAN if self.steps % 50 == 0 else reward, *others


def test_training_goes_on_without_them_and_they_are_logged(tmp_path):
    env = make_vec_env("CartPole-v1", wrapper_class=Sensor)
    options = dict(learning_starts=20, buffer_size=1_000, train_freq=4, device="cpu", seed=0)
    model = ReptileDQN("MlpPolicy", env, replay_buffer_kwargs=dict(on_bad_transition="skip"), **options)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    with pytest.warns(UserWarning, match="is nan"):
        model.learn(300, log_interval=1)
    assert model.replay_buffer.n_skipped == 6
    with (tmp_path / "progress.csv").open() as file:
        assert [row["replay/skipped"] for row in csv.DictReader(file)][-1] in ("5", "6")
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.policy.parameters())
    model = SAC(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", wrapper_class=Sensor),
        replay_buffer_class=DecayedReplayBuffer,
        **options | dict(learning_starts=1_000),
    )
    with pytest.raises(ValueError, match="the reward of environment 0 is nan at its step 50: mend"):
        model.learn(100)


def test_an_observation_that_follows_an_accepted_one_is_checked_if_it_differs():
    buffer = make_buffer(DecayedReplayBuffer)
    add(buffer, next_obs=2.0)
    add(buffer, obs=2.0)
    with pytest.raises(ValueError, match="the observation of environment 0 is nan"):
        add(buffer, obs=NAN)
    with pytest.raises(ValueError, match="the next observation of environment 0 is nan"):
        add(buffer, next_obs=NAN)
    with pytest.raises(ValueError, match="the observation of environment 0 is nan"):
        add(buffer, obs=NAN)
    assert buffer.size() == 2


def test_floats_are_finite_by_their_bytes_as_numpy_says():
    rng = np.random.default_rng(0)
    is_finite = FiniteBytes(5)
    limits = np.finfo(np.float32)
    special = np.array([NAN, INF, -INF, 0.0, -0.0, limits.max, -limits.tiny, 1.0], np.float32)
    special = np.append(special, np.full(1, -1, np.int32).view(np.float32))  # a NaN with all bits set
    verdicts = []
    for _ in range(3_000):
        values = np.where(rng.random(5) < 0.2, rng.choice(special, 5), np.frombuffer(rng.bytes(20), np.float32))
        verdicts.append(is_finite(values.tobytes()))
        assert verdicts[-1] == np.isfinite(values).all(), values
    assert 300 < sum(verdicts) < 2_700


@pytest.mark.parametrize("value", [NAN, -INF])
@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-INF, INF, (4,)),
        spaces.Box(-INF, INF, (4, 50)),
        spaces.Dict({"a": spaces.Box(-INF, INF, (2,)), "b": spaces.Box(0, 255, (3,), np.uint8)}),
        spaces.Dict({"a": spaces.Box(-INF, INF, (2,)), "b": spaces.Box(-INF, INF, (3,))}),
        spaces.Dict({"a": spaces.Box(-INF, INF, (2,)), "b": spaces.Box(-INF, INF, (3,), np.float64)}),
        spaces.Discrete(3),
    ],
    ids=["few", "many", "with image", "two keys", "two types", "integers"],
)
def test_every_float_of_a_row_is_looked_at(space, n_envs, value):
    buffer_class = DecayedDictReplayBuffer if isinstance(space, spaces.Dict) else DecayedReplayBuffer
    buffer = make_buffer(buffer_class, n_envs=n_envs, space=space)

    def row():
        by_key = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        arrays = {key: np.zeros((n_envs, *box.shape), box.dtype) for key, box in by_key.items()}
        rewards = np.zeros(n_envs, np.float32)
        return arrays, rewards

    def add_row(arrays, rewards):
        zeros, _ = row()
        obs, next_obs = (x if isinstance(space, spaces.Dict) else x[None] for x in (zeros, arrays))
        buffer.add(obs, next_obs, np.zeros(n_envs), rewards, np.zeros(n_envs), [{} for _ in rewards])

    arrays, rewards = row()
    add_row(arrays, rewards)
    floats = [array for array in (*arrays.values(), rewards) if array.dtype.kind == "f"]
    for array in floats:
        flat = array.reshape(-1)
        for position in {0, len(flat) // 2, len(flat) - 1}:
            flat[position] = value
            with pytest.raises(ValueError, match=f"is {value}"):
                add_row(arrays, rewards)
            flat[position] = np.finfo(array.dtype).max
            # Stored, and in another episode than the row that follows
            size = buffer.size()
            add_row(arrays, rewards)
            assert buffer.size() == size + 1
            flat[position] = 0


@pytest.mark.parametrize("is_dict", [False, True])
@pytest.mark.parametrize("reward_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
def test_floats_given_as_another_type_than_that_of_the_space_are_looked_at(stored, given, reward_dtype, is_dict):
    box = spaces.Box(-INF, INF, (4,), stored)
    space = spaces.Dict({"a": box, "b": spaces.Box(-INF, INF, (2,))}) if is_dict else box
    buffer = make_buffer(DecayedDictReplayBuffer if is_dict else DecayedReplayBuffer, space=space)

    def add_row(next_obs, reward):
        row = [np.zeros((1, 4), given), next_obs]
        if is_dict:
            row = [{"a": x, "b": np.zeros((1, 2), np.float32)} for x in row]
        buffer.add(*row, np.zeros(1), np.array([reward], reward_dtype), np.zeros(1), [{}])

    add_row(np.zeros((1, 4), given), 1.0)
    largest, largest_stored = (float(np.finfo(dtype).max) for dtype in (given, stored))
    for value in [NAN, INF, -INF, *([largest] if largest > largest_stored else [])]:
        for position in range(4):
            next_obs = np.zeros((1, 4), given)
            next_obs[0, position] = value
            with pytest.raises(ValueError, match="the next observation"):
                add_row(next_obs, 1.0)
    with pytest.raises(ValueError, match="the reward of environment 0 is nan"):
        add_row(np.zeros((1, 4), given), NAN)
    assert buffer.size() == 1
    add_row(np.ones((1, 4), given), 1.0)
    assert buffer.size() == 2


@pytest.mark.parametrize("is_dict", [False, True])
def test_integers_whose_bits_would_be_no_float_are_numbers(is_dict):
    box = spaces.Box(-INF, INF, (2,))
    space = spaces.Dict({"x": box}) if is_dict else box
    buffer = make_buffer(DecayedDictReplayBuffer if is_dict else DecayedReplayBuffer, space=space)
    integers = np.full((1, 2), 0x7F800000, np.int32)
    assert np.isinf(integers.view(np.float32)).all()
    zeros = np.zeros((1, 2), np.float32)
    for obs, next_obs, reward in ((zeros, zeros, integers[0, :1]), (zeros, integers, zeros[0, :1])):
        obs, next_obs = ({"x": x} if is_dict else x for x in (obs, next_obs))
        buffer.add(obs, next_obs, np.zeros(1), reward, np.zeros(1), [{}])
    assert buffer.size() == 2


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_rewards_that_are_stored_as_another_type_are_checked_as_that_type(dtype):
    checks = BadTransitions("raise", spaces.Discrete(3), np.dtype(dtype), n_envs=2)
    obs = np.zeros(2, np.int64)
    # As float32, the first would be infinite, and the second consists of such numbers
    numbers = {np.int32: 0x7F800000, np.float64: np.frombuffer(bytes.fromhex("0000807f") * 2)[0]}
    assert checks.accepts(None, obs, np.full(2, numbers[dtype], dtype))
    if dtype is np.float64:
        assert not checks.accepts(None, obs, np.array([0.0, INF]))
