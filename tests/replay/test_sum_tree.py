"""The sum tree and the loops under it, compiled and vectorised alike."""

import numpy as np
import pytest

from sb3_reptile.replay import kernels as kernels_module
from sb3_reptile.replay.kernels import VECTORISED, kernels
from sb3_reptile.replay.sum_tree import SumTree
from tests.conftest import assert_drawn_from

COMPILED = kernels()


@pytest.fixture(params=[COMPILED, VECTORISED], ids=["compiled", "vectorised"], autouse=True)
def loops(request, monkeypatch):
    """Each test here runs with both."""
    monkeypatch.setattr("sb3_reptile.replay.sum_tree.kernels", lambda: request.param)
    return request.param


def test_numba_is_installed_where_the_tests_run():
    assert COMPILED is not VECTORISED


def test_without_numba_the_loops_are_vectorised(monkeypatch):
    def missing():
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(kernels_module, "_compiled", missing)
    kernels.cache_clear()
    assert kernels() is VECTORISED
    kernels.cache_clear()


def tree_of(values):
    tree = SumTree(len(values))
    tree.set(np.arange(len(values)), np.asarray(values, dtype=np.float64))
    return tree


@pytest.mark.parametrize("n", [1, 2, 3, 17, 1_000, 5_000, 20_000])
def test_every_target_finds_the_leaf_of_the_cumulative_sum(n, loops):
    # Whole numbers: all sums are exact, so every target has one right answer
    values = np.random.default_rng(n).integers(0, 4, size=n).astype(float)
    values[-1] += 1
    tree = tree_of(values)
    assert tree.total == values.sum()
    targets = np.random.default_rng(1).permutation(np.arange(0, values.sum(), 0.5))[:4_000]
    found = loops.find(tree.nodes, targets.copy()) - tree.width
    assert np.array_equal(found, np.cumsum(values).searchsorted(targets, side="right"))


@pytest.mark.parametrize("n", [3, 100, 9_000])
def test_targets_past_the_sum_by_rounding_find_a_leaf_that_counts(n, loops):
    values = np.zeros(n)
    values[[0, n // 2]] = [0.1, 0.7]
    tree = tree_of(values)
    targets = np.array([0.0, np.nextafter(tree.total, 0), tree.total, tree.total * 1.001])
    assert (loops.find(tree.nodes, targets) - tree.width).tolist() == [0, n // 2, n // 2, n // 2]


@pytest.mark.parametrize("n", [2, 50, 6_000])
def test_draws_follow_the_values(n):
    generator = np.random.default_rng(n)
    values = np.where(generator.random(n) < 0.3, 0, generator.exponential(size=n))
    values[0] = 1
    tree = tree_of(values)
    np.random.seed(0)
    drawn = tree.sample(200_000)
    assert_drawn_from(drawn, {leaf: value / values.sum() for leaf, value in enumerate(values.tolist()) if value > 0})


@pytest.mark.parametrize("n", [1, 2, 31, 700])
def test_sums_are_those_of_the_leaves_after_any_changes(n):
    generator = np.random.default_rng(0)
    tree, values = SumTree(n), np.zeros(n)
    for _ in range(50):
        if generator.random() < 0.5:
            leaves = generator.integers(0, n, size=9)
            new = generator.random(9)
            tree.set(leaves, new)
            for leaf, value in zip(leaves, new, strict=True):
                values[leaf] = value
        else:
            start = int(generator.integers(0, n))
            new = generator.random(int(generator.integers(1, n - start + 1)))
            tree.set_range(start, new)
            values[start : start + len(new)] = new
        assert np.array_equal(tree.values, values)
        assert tree.total == pytest.approx(values.sum(), rel=1e-12)
        for node in range(1, tree.width):
            assert tree.nodes[node] == tree.nodes[2 * node] + tree.nodes[2 * node + 1]


def test_setting_leaves_keeps_the_array_of_their_numbers():
    tree = SumTree(100)
    leaves = np.array([3, 50, 99])
    tree.set(leaves, np.ones(3))
    assert leaves.tolist() == [3, 50, 99]


@pytest.mark.parametrize("n", [1, 5, 64, 10_000])
def test_search_finds_the_first_element_greater_than_the_target(n, loops):
    weights = np.random.default_rng(n).integers(0, 3, size=n).astype(float)
    weights[0] = 1
    cumulative = np.cumsum(weights)
    targets = np.arange(0, cumulative[-1], 0.5)
    assert np.array_equal(loops.search(cumulative, targets), cumulative.searchsorted(targets, side="right"))
    past = loops.search(cumulative, cumulative[-1:])
    assert past == n - 1
