"""A sum tree: draws leaves in proportion to their values. It knows nothing of transitions."""

import numpy as np

from sb3_reptile.replay.kernels import kernels


class SumTree:
    """
    Non-negative values, each of which can be drawn with a probability proportional to it.

    Drawing and setting cost O(log n). Every inner node is the sum of its children, never a running difference, so that
    rounding does not build up.

    :param n: Number of leaves
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.width = 1 << max(n - 1, 1).bit_length()
        self.nodes = np.zeros(2 * self.width)

    @property
    def values(self) -> np.ndarray:
        """The values of the leaves, shape (n,), to be read only."""
        return self.nodes[self.width : self.width + self.n]

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self.nodes[1])

    def set(self, leaves: np.ndarray, values: np.ndarray) -> None:
        """
        :param leaves: Which leaves, int64; of one that is named twice the last value counts
        :param values: Their new values, >= 0
        """
        changed = leaves + self.width
        self.nodes[changed] = values
        kernels().update(self.nodes, changed)

    def set_range(self, start: int, values: np.ndarray) -> None:
        """
        Set neighbouring leaves.

        :param start: The first of them
        :param values: Their new values, >= 0; there must be leaves for all of them
        """
        first = start + self.width
        self.nodes[first : first + len(values)] = values
        kernels().update_range(self.nodes, first, first + len(values))

    def sample(self, size: int) -> np.ndarray:
        """
        :param size: Number of draws, with replacement
        :return: Leaves, int64, shape (size,); never one whose value is 0
        """
        found = kernels().find(self.nodes, np.random.random_sample(size) * self.nodes[1])
        found -= self.width
        return found
