"""Functions and classes of the user's in a buffer that is pickled."""

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.replay import SamplingDistribution
from tests.conftest import fill, make_buffer, small


def at_the_top(age):
    return 1 / (1 + age)


def weigh_at_the_top(obs, next_obs, action, reward, done, infos):
    return 1 + np.asarray(reward) % 3


def local_functions():
    scale, share = 5.0, np.array([1.0, 2.0, 3.0])
    return dict(
        decay=lambda age: 1 / (1 + age / scale),
        initial_weights=lambda obs, next_obs, action, reward, done, infos: share[np.asarray(reward, dtype=int) % 3],
    )


@pytest.mark.parametrize(
    "options", [local_functions(), dict(decay=at_the_top, initial_weights=weigh_at_the_top)], ids=["local", "module"]
)
@pytest.mark.parametrize("copied", [lambda buffer: pickle.loads(pickle.dumps(buffer)), copy.deepcopy])
def test_a_copy_draws_what_the_buffer_draws_whatever_its_functions_are(options, copied):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer = make_buffer(DecayedReplayBuffer, **options)
    fill(buffer, 30)
    other = copied(copied(buffer))
    for which in (buffer, other):
        fill(which, 20, start=30)
    assert np.array_equal(other.sampling_probabilities(), buffer.sampling_probabilities())
    assert len(np.unique(buffer.sampling_probabilities())) > 10


def test_checkpoints_of_sb3_save_a_buffer_with_local_functions(tmp_path):
    model = DQN(
        "MlpPolicy",
        "CartPole-v1",
        **small(replay_buffer_class=DecayedReplayBuffer, replay_buffer_kwargs=local_functions()),
    )
    model.learn(100, callback=CheckpointCallback(50, str(tmp_path), save_replay_buffer=True))
    model.load_replay_buffer(tmp_path / "rl_model_replay_buffer_100_steps.pkl")
    assert model.replay_buffer.decay(np.array([0.0, 5.0])).tolist() == [1, 0.5]


def unpicklable():
    lock = threading.Lock()

    class Local(SamplingDistribution):
        pass

    return [
        ("decay", lambda age: 1 / (1 + age * bool(lock))),
        ("initial_weights", lambda *row: 1 + bool(lock)),
        ("distribution_class", Local),
    ]


@pytest.mark.parametrize(("name", "option"), unpicklable())
def test_what_cannot_be_pickled_is_said_when_the_buffer_is_made(name, option):
    with pytest.warns(UserWarning, match=rf"^{name}=.* cannot be pickled .*save_replay_buffer.* will fail"):
        buffer = make_buffer(DecayedReplayBuffer, **{name: option})
    fill(buffer, 3)
    assert buffer.sample(4).weights.shape == (4, 1)
    assert copy.deepcopy(buffer).size() == 3
