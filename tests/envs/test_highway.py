"""The motorway whose traffic becomes denser."""

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.tasks import make, run

# A motorway


def gaps_between_cars(env):
    places = sorted(vehicle.position[0] for vehicle in env.unwrapped.road.vehicles)
    return np.diff(places).mean()


def test_traffic_becomes_denser_with_the_next_episode():
    env = make("DriftingHighway-v0", period=100)

    def mean_gap(clock):
        gaps = []
        for seed in range(5):
            env.set_wrapper_attr("steps_taken", clock)
            env.reset(seed=seed)
            gaps.append(gaps_between_cars(env))
        return np.mean(gaps)

    thin = mean_gap(0)
    assert mean_gap(100) == pytest.approx(thin / 1.5, rel=0.05)
    assert mean_gap(200) == thin


def test_the_motorway_is_highway_env_s_where_nothing_drifts():
    ours, theirs = make("DriftingHighway-v0", period=10_000), gym.make("highway_env:highway-fast-v0")
    for (ours_obs, *ours_rest), (obs, *rest) in zip(
        run(ours, [1, 0, 2, 3] * 10), run(theirs, [1, 0, 2, 3] * 10), strict=True
    ):
        assert np.array_equal(ours_obs, obs)
        assert ours_rest[:3] == rest[:3]
