"""Learners that ignore a part of the batch are warned of options that have no effect."""

import pickle
import warnings

import pytest
from stable_baselines3 import DQN, SAC

from sb3_reptile import DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.replay import use_weights
from tests.conftest import fill, make_buffer, small
from tests.replay import hindsight


def learn(model_class, options, **kwargs):
    task = "Pendulum-v1" if model_class is SAC else "CartPole-v1"
    kwargs |= dict(replay_buffer_class=DecayedReplayBuffer, replay_buffer_kwargs=options)
    return model_class("MlpPolicy", task, **small(**kwargs)).learn(80)


@pytest.mark.parametrize("model_class", [DQN, SAC])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(weighting="loss"),
            "weighting='loss' draws uniformly and acts through batch.weights, which the algorithms",
        ),
        (dict(beta=0.5, prioritized=True), "beta=0.5 acts through batch.weights, which the algorithms of SB3"),
    ],
)
def test_algorithms_that_ignore_weights_are_warned_once(model_class, options, message):
    with pytest.warns(UserWarning, match=message) as warned:
        learn(model_class, options)
    assert sum("batch.weights" in str(warning.message) for warning in warned) == 1


@pytest.mark.parametrize("kwargs", [dict(weighting="loss"), dict(priority="td_error"), dict()])
def test_reptile_dqn_uses_weights_and_is_not_warned(kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = learn(ReptileDQN, {}, **kwargs)
    # The next learner that a pickle goes to may be another one
    buffer = pickle.loads(pickle.dumps(model.replay_buffer))
    if "weighting" in kwargs:
        with pytest.warns(UserWarning, match="weighting='loss'"):
            buffer.sample(3)


def test_a_learner_that_says_that_it_uses_weights_is_not_warned():
    buffer = make_buffer(DecayedReplayBuffer, weighting="loss")
    fill(buffer, 10)
    use_weights(buffer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer.sample(3)


def test_priorities_that_nobody_updates_give_a_warning():
    for buffer, fill_it in [
        (make_buffer(DecayedReplayBuffer, prioritized=True), fill),
        (hindsight.make_buffer(DecayedHerReplayBuffer, prioritized=True), hindsight.fill),
    ]:
        fill_it(buffer, 30)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            buffer.sample(10_000)
        with pytest.warns(UserWarning, match="prioritized=True has had no effect so far: 10,000 transitions"):
            buffer.sample(1)


def test_priorities_that_are_updated_give_no_warning():
    buffer = make_buffer(DecayedReplayBuffer, prioritized=True)
    fill(buffer, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer.update_priorities([1], [2.0])
        buffer.sample(10_000)
        buffer.sample(1)
