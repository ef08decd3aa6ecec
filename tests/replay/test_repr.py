"""What a replay buffer prints: capacity, fill, decay, and the options that are not the defaults."""

import pytest

from sb3_reptile import DecayedDictReplayBuffer, DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from tests.conftest import fill, make_buffer, small


@pytest.mark.parametrize(
    ("kwargs", "printed"),
    [
        ({}, "n_envs=1, decay=PowerLaw(scale=100, exponent=1.5))"),
        (dict(half_life=300), "n_envs=1, decay=Exponential(half_life=300))"),
        (
            dict(n_steps=3, gamma=0.9, uniform_fraction=0.1, prioritized=True),
            "n_envs=1, decay=PowerLaw(scale=100, exponent=1.5), n_steps=3, gamma=0.9, uniform_fraction=0.1, "
            "prioritized=True)",
        ),
        (
            dict(half_life="auto", initial_weights="info", on_bad_transition="skip"),
            "n_envs=1, decay=PowerLaw(scale=100, exponent=1.5), half_life='auto', initial_weights='info', "
            "on_bad_transition='skip')",
        ),
        (
            dict(weighting="loss", optimize_memory_usage=True, handle_timeout_termination=False),
            "n_envs=1, decay=PowerLaw(scale=100, exponent=1.5), optimize_memory_usage=True, weighting='loss')",
        ),
    ],
)
def test_a_buffer_prints_what_distinguishes_it(kwargs, printed):
    buffer = make_buffer(DecayedReplayBuffer, n_rows=2_000, **kwargs)
    assert repr(buffer) == f"DecayedReplayBuffer(0 of 2,000 transitions, {printed}"
    fill(buffer, 7)
    assert repr(buffer).startswith("DecayedReplayBuffer(7 of 2,000 transitions, ")


def test_all_environments_are_counted_and_a_change_is_seen():
    buffer = make_buffer(DecayedReplayBuffer, n_envs=4, n_rows=10, half_life=5)
    fill(buffer, 3)
    buffer.half_life = 9
    buffer.beta = 0.5
    assert repr(buffer) == (
        "DecayedReplayBuffer(12 of 40 transitions, n_envs=4, decay=Exponential(half_life=9), beta=0.5)"
    )


def test_a_buffer_that_is_not_made_yet_can_be_printed():
    assert "DecayedReplayBuffer" in repr(DecayedReplayBuffer.__new__(DecayedReplayBuffer))


@pytest.mark.parametrize("kwargs", [{}, dict(replay_buffer_class=DecayedHerReplayBuffer)], ids=["Dict", "hindsight"])
def test_buffers_of_dict_observations_are_printed(kwargs):
    from stable_baselines3.common.envs import BitFlippingEnv

    model = ReptileDQN("MultiInputPolicy", BitFlippingEnv(n_bits=4, continuous=False), **small(**kwargs))
    name = kwargs.get("replay_buffer_class", DecayedDictReplayBuffer).__name__
    assert repr(model.replay_buffer).startswith(f"{name}(0 of 2,000 transitions, n_envs=1, decay=")
