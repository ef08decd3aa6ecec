"""Observations and actions as vectors."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile.replay.auto.features import LARGEST, Actions, Embedding, hashed
from sb3_reptile.replay.auto.settings import Settings


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=2),
        spaces.Discrete(100_000, start=-7),
        spaces.Discrete(2**62),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiDiscrete([3, 4], start=[5, -2]),
        spaces.MultiDiscrete([[3, 4], [5, 6]], start=[[1, 2], [3, 4]]),
        spaces.MultiDiscrete([100_000, 3, 10**9], start=[1, 1, 1]),
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
        (spaces.MultiDiscrete([2, 3], start=[4, -1]), [[4, 1], [5, 0]], [2, 4], [[], []]),
        (spaces.MultiDiscrete([2] * 64), [[0] * 64, [1] * 64], [0, 0], [[0] * 64, [1] * 64]),
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


def test_many_actions_are_hashed():
    actions = Actions(spaces.Discrete(10**6, start=5))
    groups, numbers = actions(np.array([[5], [6], [10**6 + 4], [5]]))
    assert actions.n_groups == 1
    assert groups.tolist() == [0] * 4
    assert numbers.shape == (4, actions.length) == (4, 32)
    np.testing.assert_array_equal(numbers[0], numbers[3])


def test_hashed_categories_differ_in_about_half_of_their_signs():
    vectors = hashed(np.arange(2_000), 32)
    assert set(np.unique(vectors)) == {-1, 1}
    assert len(np.unique(vectors, axis=0)) == 2_000
    products = vectors @ vectors.T / 32
    np.fill_diagonal(products, 0)
    assert abs(products.mean()) < 0.01
    assert np.abs(vectors.mean(axis=0)).max() < 0.1
    assert products.std() == pytest.approx(1 / np.sqrt(32), rel=0.05)


def test_a_few_categories_are_distinguished_one_by_one():
    np.testing.assert_array_equal(Embedding(spaces.Discrete(4, start=1))(np.array([[[2]], [[4]]])), np.eye(4)[[1, 3]])
    # Projected as the one-hot vectors that they stand for
    embedding = Embedding(spaces.Discrete(500))
    np.testing.assert_allclose(embedding(np.array([[[3]], [[77]]])), embedding.projection[[3, 77]])
