"""The service desk whose customers wait, and become more."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_reptile.envs import Queue


def test_the_reward_counts_served_and_waiting_customers_and_counters():
    env = Queue(room=10)
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == [0, 0, 1, 0]
    waited = 0
    for step in range(1, 200):
        action = int(env.np_random.integers(4))
        obs, reward, terminated, truncated, info = env.step(action)
        assert not terminated
        assert not truncated
        assert reward == pytest.approx(info["served"] - 0.1 * info["waiting"] - (action + 1))
        # At most ten are in the room when the counters open
        assert 0 <= info["waiting"] <= 10 - info["served"]
        angle = 2 * np.pi * step / 48
        np.testing.assert_allclose(
            obs, [info["waiting"] / 10, np.sin(angle), np.cos(angle), (action + 1) / 4], atol=1e-6
        )
        waited += info["waiting"]
    assert waited > 0


def test_arrivals_follow_the_day_and_counters_serve_as_many_as_stated():
    # Room and counters enough: all who arrive are served at once
    env = Queue(arrivals=4.0, rush=0.5, service=50.0, room=200)
    env.reset(seed=0)
    served = np.array([[env.step(3)[4]["served"] for _ in range(48)] for _ in range(100)])
    expected = 4 * (1 + 0.5 * np.sin(2 * np.pi * np.arange(48) / 48))
    assert np.abs(served.mean(axis=0) - expected).max() < 4.5 * np.sqrt(6 / 100)
    # Too many customers: each counter serves three on average
    env = Queue(arrivals=90.0, service=3.0, room=100)
    env.reset(seed=0)
    served = np.array([[env.step(action)[4]["served"] for _ in range(500)] for action in range(4)])
    np.testing.assert_allclose(served.mean(axis=1), [3, 6, 9, 12], rtol=0.08)


def test_more_counters_are_worth_their_cost_in_other_phases():
    env = gym.make("DriftingQueue-v0", period=10_000)
    mean = {}
    for phase in (0, 1):
        for action in (1, 3):
            env.set_wrapper_attr("steps_taken", 10_000 * phase)
            env.reset(seed=0)
            rewards = []
            for _ in range(480):
                _, reward, _, truncated, info = env.step(action)
                assert info["phase"] == phase
                rewards.append(reward)
                if truncated:
                    env.reset()
            mean[phase, action] = np.mean(rewards)
    assert mean[0, 1] > mean[0, 3] + 1
    assert mean[1, 3] > mean[1, 1] + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_counters=1), "n_counters must be a whole number >= 2, got 1"),
        (dict(arrivals=0), "arrivals must be > 0 and finite, got 0"),
        (dict(service=float("inf")), "service must be > 0 and finite, got inf"),
        (dict(rush=1), r"rush must be in \[0, 1\), got 1"),
        (dict(room=0), "room must be a whole number >= 1, got 0"),
    ],
)
def test_a_desk_refuses_what_it_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Queue(**arguments)
