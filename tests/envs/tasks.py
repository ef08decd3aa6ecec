"""The drifting tasks, skipped where the extra of one is missing."""

import importlib.util

import gymnasium as gym
import pytest

NEEDS = {
    "DriftingCartPoleWalk-v0": "ns_gym",
    "DriftingLunarLander-v0": "Box2D",
    "DriftingLunarLanderEngines-v0": "Box2D",
    "DriftingMinAtar-v0": "minatar",
    "DriftingFashionShop-v0": "obp",
    "DriftingRooms-v0": "minigrid",
    "DriftingHighway-v0": "highway_env",
}


EXTRAS = {
    "obp": "logs",
    "ns_gym": "drift",
    "Box2D": "box2d",
    "minatar": "minatar",
    "minigrid": "minigrid",
    "highway_env": "highway",
}


def make(task, **kwargs):
    # obp's files are read, and it is not imported
    if task in NEEDS and importlib.util.find_spec(NEEDS[task]) is None:
        pytest.skip(f"{task} needs the extra {EXTRAS[NEEDS[task]]}")
    return gym.make(task, **kwargs)


def run(env, actions, seed=0):
    """Take the actions, over as many episodes as it needs; return what each step returned."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            env.reset()
    return steps
