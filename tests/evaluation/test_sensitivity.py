"""What auto would notice in a recorded stream of transitions."""

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile.evaluation.sensitivity import SIZES, Sensitivity, measure_sensitivity, sensitivity_of_buffer

SPACES = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
WITHIN = 480


def stream(n=1_440, noise=0.0, n_envs=1, seed=0):
    """Points in the plane that do not depend on each other; the reward depends on point and action."""
    generator = np.random.default_rng(seed)
    rows = n // n_envs
    points = generator.uniform(-1, 1, (rows, n_envs, 2))
    actions = generator.integers(0, 2, (rows, n_envs, 1))
    rewards = points[..., 0] * (1 - 2 * actions[..., 0]) + noise * generator.standard_normal((rows, n_envs))
    moved = 0.9 * points + 0.1 * (1 - 2 * actions)
    return points, actions, rewards, moved


@pytest.fixture(scope="module")
def quiet():
    return measure_sensitivity(*stream(), *SPACES, within=WITHIN)


def test_small_changes_are_noticed_where_nothing_is_random(quiet):
    assert quiet.alarms == ()
    assert quiet.accidental_alarms == 0
    assert quiet.accidental_contradictions < 0.01
    rewards = stream()[2]
    assert quiet.smallest_reward_change in [pytest.approx(size * rewards.std()) for size in SIZES[:5]]
    assert quiet.largest_reward_change == pytest.approx(SIZES[-1] * rewards.std())
    assert quiet.smallest_dynamics_change in SIZES[:5]


def test_noise_hides_changes_of_the_reward_and_not_those_of_the_dynamics(quiet):
    noisy = measure_sensitivity(*stream(noise=3.0), *SPACES, within=WITHIN)
    assert noisy.smallest_reward_change is None or noisy.smallest_reward_change > 3 * quiet.smallest_reward_change
    assert noisy.smallest_dynamics_change == quiet.smallest_dynamics_change


def test_a_change_in_the_stream_itself_is_among_its_alarms():
    points, actions, rewards, moved = stream()
    rewards[960:] *= -1
    result = measure_sensitivity(points, actions, rewards, moved, *SPACES, within=WITHIN)
    (alarm,) = result.alarms
    assert 960 < alarm.noticed_at < 1_300


def test_what_a_buffer_holds_is_measured_in_order_of_arrival():
    points, actions, rewards, moved = stream(1_024, n_envs=4)
    buffer = ReplayBuffer(800, *SPACES, "cpu", n_envs=4)
    for row in range(256):
        buffer.add(points[row], moved[row], actions[row], rewards[row], np.zeros(4), [{}] * 4)
    assert buffer.full
    kept = slice(56, None)
    arrays = (points[kept], actions[kept], rewards[kept], moved[kept])
    expected = measure_sensitivity(*(array.astype(np.float32) for array in arrays), *SPACES, within=300)
    assert sensitivity_of_buffer(buffer, within=300) == expected
    assert expected.n_transitions == 800


def test_the_result_is_stated_in_sentences(quiet):
    sentences = quiet.sentences()
    assert sentences[0] == "Alarms in 1,440 transitions: none."
    assert sentences[-1].startswith("The smallest change of the dynamics that is noticed is ")
    blind = dataclasses.replace(quiet, smallest_reward_change=None, largest_reward_change=2.5)
    assert "No change of the reward up to 2.5 is noticed within 480 transitions." in Sensitivity.sentences(blind)


def test_streams_that_cannot_be_measured_are_refused():
    points, actions, rewards, moved = stream(256)
    with pytest.raises(ValueError, match="at least 960 transitions, twice as many as a change may take"):
        measure_sensitivity(points, actions, rewards, moved, *SPACES, within=WITHIN)
    with pytest.raises(ValueError, match="within must be a whole number >= 1"):
        measure_sensitivity(points, actions, rewards, moved, *SPACES, within=0)
    with pytest.raises(ValueError, match="there must be an observation for each reward"):
        measure_sensitivity(points[1:], actions, rewards, moved[1:], *SPACES, within=100)
    with pytest.raises(ValueError, match=r"rewards \(rows, n_envs\), got \(256, 1, 1\) and \(256,\)"):
        measure_sensitivity(points, actions, rewards[:, 0], moved, *SPACES, within=100)
    buffer = ReplayBuffer(100, *SPACES, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)
    with pytest.raises(ValueError, match="optimize_memory_usage=True"):
        sensitivity_of_buffer(buffer)
