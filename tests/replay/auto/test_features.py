"""Observations and actions as vectors."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile.replay.auto.features import LARGEST, Actions, Embedding
from sb3_reptile.replay.auto.settings import Settings


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(6),
        spaces.Box(-1, 1, (3, 4)),
        spaces.Box(-1, 1, (500,)),
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        spaces.Box(0, 255, (3, 40, 60), np.uint8),
        spaces.Dict({"image": spaces.Box(0, 255, (36, 36, 1), np.uint8), "place": spaces.Discrete(4)}),
    ],
    ids=str,
)
def test_different_observations_become_different_vectors_of_moderate_length(space):
    embedding = Embedding(space)
    space.seed(0)

    def stored(sample):
        if isinstance(sample, dict):
            return {key: stored(value) for key, value in sample.items()}
        return np.asarray(sample).reshape(1, 1, *(np.shape(sample) or (1,)))

    one, other = space.sample(), space.sample()
    while np.array_equal(one, other) if not isinstance(one, dict) else False:
        other = space.sample()
    first, second = stored(one), stored(other)
    assert embedding(first).shape == (1, embedding.length)
    assert embedding.length <= 64
    np.testing.assert_array_equal(embedding(first), embedding(first))
    assert np.abs(embedding(first) - embedding(second)).max() > 0


def test_nan_and_infinity_become_finite_numbers():
    embedding = Embedding(spaces.Box(-np.inf, np.inf, (2,)))
    np.testing.assert_array_equal(embedding(np.array([[[np.nan, np.inf]]])), [[0, LARGEST]])


def test_lengths_follow_the_settings():
    space = spaces.Box(0, 255, (1, 30, 30), np.uint8)
    assert Embedding(space, Settings(image_side=5)).length == 25
    assert Embedding(space, Settings(max_features=200)).length == 144
    assert Embedding(space, Settings(projected_features=7)).length == 7


@pytest.mark.parametrize(
    ("space", "stored", "groups", "numbers"),
    [
        (spaces.Discrete(3, start=1), [[1], [3]], [0, 2], [[], []]),
        (spaces.MultiDiscrete([2, 3]), [[0, 2], [1, 1]], [2, 4], [[], []]),
        (spaces.MultiDiscrete([9, 9]), [[0, 2], [8, 1]], [0, 0], [[0, 2], [8, 1]]),
        (spaces.Box(-1, 1, (2,)), [[0.5, -1], [0, 1]], [0, 0], [[0.5, -1], [0, 1]]),
    ],
    ids=str,
)
def test_actions_become_groups_or_numbers(space, stored, groups, numbers):
    actions = Actions(space)
    actual_groups, actual_numbers = actions(np.array(stored))
    np.testing.assert_array_equal(actual_groups, groups)
    np.testing.assert_array_equal(actual_numbers, numbers)
    assert actual_numbers.shape == (2, actions.length)
    assert actual_groups.max() < actions.n_groups
