"""Exact draws of transitions by initial weight, priority and decay together."""

import math
from typing import Any

import numpy as np

from sb3_reptile.replay.age_samplers import AgeSampler, GeometricSampler
from sb3_reptile.replay.sum_tree import SumTree


class WeightedSampler:
    """
    Draws transitions with a probability proportional to ``w_i = p_i f(age_i)``, where ``p_i`` is the product of initial
    weight and priority and ``f`` the decay. Row and environment are drawn jointly.

    An exponential decay is *forward decay* (Cormode, Shkapenyuk, Srivastava & Xu, ICDE 2009): the sum tree holds
    ``p_i 2^((birth_i - landmark) / half_life)``, which does not change as the transition ages. The landmark moves on
    before these numbers overflow. Any other decay uses rejection: draw by one factor, accept by the other, in the order
    that rejects less. After a bounded number of rejections, the rest of the batch is drawn by the cumulative weights.
    Each of these is exact.

    Transitions are numbered ``row * n_envs + env``. Added weights reach the tree when they are first needed.

    :param age_sampler: Samples rows by the decay alone
    :param n_rows: Capacity of the buffer in rows
    :param n_envs: Number of transitions in a row
    """

    # The landmark moves when the newest transition has 2^MAX_EXPONENT times its own weight in the tree
    MAX_EXPONENT = 500
    # 2^-UNDERFLOW times the largest weight possible, 1e50 squared, is 0 in double precision: 1075 + log2(1e100)
    UNDERFLOW = 1_500
    # Rejection stops after this number of tries per draw, or one per stored transition if that is more
    MAX_TRIES = 100

    def __init__(self, age_sampler: AgeSampler, n_rows: int, n_envs: int) -> None:
        self.n_rows = n_rows
        self.n_envs = n_envs
        self.p = np.zeros((n_rows, n_envs))
        self.largest = 0.0
        self.rows_added = 0
        self.tree = SumTree(n_rows * n_envs)
        self.set_age_sampler(age_sampler)

    def set_age_sampler(self, age_sampler: AgeSampler) -> None:
        """
        Change the decay and keep the weights. O(size) at the next draw: with another half-life, the ratio of any two
        numbers ``p_i 2^((birth_i - landmark) / half_life)`` changes with the difference of their ages, so that no
        factor and no other landmark turns the old numbers into the new ones.

        :param age_sampler: Samples rows by the new decay alone
        """
        self.age_sampler = age_sampler
        # Whether the tree holds the decay too, and log2 of the ratio of its factors for successive rows; from 10,000
        # on, only the newest row has a factor above 0
        self.in_tree = isinstance(age_sampler, GeometricSampler)
        is_geometric = isinstance(age_sampler, GeometricSampler)
        self.exponent = min(age_sampler.rate / math.log(2), 10_000.0) if is_geometric else 0.0  # type: ignore[attr-defined]
        self.landmark = max(self.rows_added - 1, 0)
        self.rows_in_tree = 0

    def add(self, weights: np.ndarray | float) -> None:
        """
        :param weights: The weights of a new row, shape (n_envs,), or one for all
        """
        self.p[self.rows_added % self.n_rows] = weights
        self.largest = max(self.largest, weights if isinstance(weights, float) else float(weights.max()))
        self.rows_added += 1

    def set(self, transitions: np.ndarray, weights: np.ndarray) -> float:
        """
        :param transitions: Numbers of transitions, int64, at least one
        :param weights: Their new weights, same shape
        :return: The largest of them
        """
        self._bring_tree_up_to_date()
        self.p.reshape(-1)[transitions] = weights
        largest = float(weights.max())
        self.largest = max(self.largest, largest)
        if self.exponent > 0:
            ages = self.age_of(transitions // self.n_envs if self.n_envs > 1 else transitions)
            weights = weights * np.exp2((self.rows_added - 1 - self.landmark - ages) * self.exponent)
        self.tree.set(transitions, weights)
        return largest

    def state(self) -> dict[str, Any]:
        """
        :return: Its state except the weights ``p``, as JSON
        """
        return {"largest": self.largest, "rows_added": self.rows_added, "landmark": self.landmark}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: What ``state()`` returned of a sampler with the same decay, whose weights ``p`` have been restored
        """
        self.largest = float(state["largest"])
        self.rows_added = int(state["rows_added"])
        self.landmark = int(state["landmark"])
        self.rows_in_tree = 0  # the same numbers reach the tree again when they are first needed

    def age_of(self, rows: np.ndarray) -> np.ndarray:
        """
        :param rows: Rows of the storage
        :return: Their ages in rows
        """
        return (self.rows_added - 1 - rows) % self.n_rows

    def _bring_tree_up_to_date(self) -> None:
        """Enter the rows added since the last draw, after moving the landmark if they would overflow."""
        newest = self.rows_added - 1
        if (newest - self.landmark) * self.exponent > self.MAX_EXPONENT:
            # Older rows than this have underflowed already; the others are entered again
            first = self.landmark - math.ceil(self.UNDERFLOW / self.exponent)
            self.rows_in_tree = max(min(self.rows_in_tree, first), 0)
            self.landmark = newest
        start = max(self.rows_in_tree, self.rows_added - self.n_rows)
        while start < self.rows_added:
            row = start % self.n_rows
            count = min(self.rows_added - start, self.n_rows - row)
            # As floats and in place: a change of the half-life does this for all rows
            factors = np.arange(start - self.landmark, start - self.landmark + count, dtype=np.float64)
            factors *= self.exponent
            np.exp2(factors, out=factors)
            values = self.p[row : row + count] * factors[:, None]
            self.tree.set_range(row * self.n_envs, values.reshape(-1))
            start += count
        self.rows_in_tree = self.rows_added

    def _prepare(self, n_rows: int) -> None:
        """Make the tree hold the transitions that can be drawn now, and no others."""
        self._bring_tree_up_to_date()
        if n_rows < min(self.rows_added, self.n_rows):
            oldest = self.rows_added % self.n_rows * self.n_envs
            if self.tree.values[oldest : oldest + self.n_envs].any():
                self.tree.set_range(oldest, np.zeros(self.n_envs))

    def sample(self, n_rows: int, batch_size: int) -> np.ndarray:
        """
        :param n_rows: Number of rows that can be drawn: all that are stored, or all but the oldest
        :param batch_size: Number of draws, with replacement
        :return: Numbers of transitions, int64, shape (batch_size,)
        """
        self._prepare(n_rows)
        epsilon = self.age_sampler.uniform_fraction
        if epsilon == 0:
            return self._draw(n_rows, batch_size)
        is_uniform = np.random.random_sample(batch_size) < epsilon
        n_uniform = int(is_uniform.sum())
        transitions = np.empty(batch_size, dtype=np.int64)
        transitions[~is_uniform] = self._draw(n_rows, batch_size - n_uniform)
        transitions[is_uniform] = self._of_age(np.random.randint(0, n_rows, size=n_uniform))
        return transitions

    def _of_age(self, ages: np.ndarray) -> np.ndarray:
        """Transitions of these ages in rows, the environment drawn uniformly."""
        rows = (self.rows_added - 1) % self.n_rows - ages
        rows[rows < 0] += self.n_rows  # a division takes longer
        if self.n_envs == 1:  # no random number either way
            return rows
        return rows * self.n_envs + np.random.randint(0, self.n_envs, size=len(rows))

    def _draw(self, n_rows: int, size: int) -> np.ndarray:
        """Draw by weight and decay, without the uniform share."""
        if self.in_tree:
            return self.tree.sample(size)
        # Shares that are accepted of draws by weight, and of draws by age
        by_weight = self.age_sampler.total(n_rows) / n_rows
        by_age = self.tree.total / (self.largest * n_rows * self.n_envs)
        accepted: list[np.ndarray] = []
        missing, n_tries = size, 0
        while missing > 0 and n_tries < max(self.MAX_TRIES * size, n_rows * self.n_envs):
            # Enough for most batches at once; no more than a million where nearly all are rejected
            tries = min(int(missing / max(by_weight, by_age) * 1.1) + 8, 1_000_000)
            n_tries += tries
            if by_weight >= by_age:
                transitions = self.tree.sample(tries)
                acceptance = self.age_sampler.weights(self.age_of(transitions // self.n_envs), n_rows)
            else:
                transitions = self._of_age(self.age_sampler.quantile(n_rows, np.random.random_sample(tries)))
                acceptance = self.p.take(transitions)
                acceptance /= self.largest
            is_accepted = np.random.random_sample(tries) < acceptance
            accepted.append(transitions.take(is_accepted.nonzero()[0][:missing]))
            missing -= len(accepted[-1])
        if missing > 0:
            accepted.append(self._draw_by_cumulative_weights(n_rows, missing))
        if len(accepted) == 1:
            return accepted[0]
        return np.concatenate(accepted) if accepted else np.empty(0, dtype=np.int64)

    def _draw_by_cumulative_weights(self, n_rows: int, size: int) -> np.ndarray:
        """Draw by weight and decay in O(size of the buffer)."""
        weights = self._weights_by_age(n_rows).reshape(-1)
        # Largest first, so that rounding of the cumulative sum cannot swallow them
        order = weights.argsort()[::-1]
        cumulative = weights[order].cumsum()
        found = cumulative.searchsorted(np.random.random_sample(size) * cumulative[-1], side="right")
        ages, envs = np.divmod(order[np.minimum(found, np.flatnonzero(weights[order])[-1])], self.n_envs)
        return self.age_of(ages) * self.n_envs + envs

    def _weights_by_age(self, n_rows: int) -> np.ndarray:
        """``w_i`` of every transition that can be drawn, shape (n_rows, n_envs), by the age of its row."""
        ages = np.arange(n_rows)
        return self.p[self.age_of(ages)] * self.age_sampler.weights(ages, n_rows)[:, None]

    def weights(self, transitions: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param transitions: Numbers of transitions that can be drawn, int64
        :param n_rows: Number of rows that can be drawn
        :return: ``w_i = p_i f(age_i)``, same shape
        """
        ages = self.age_of(transitions // self.n_envs)
        return self.p.reshape(-1)[transitions] * self.age_sampler.weights(ages, n_rows)

    def distribution(self, n_rows: int) -> np.ndarray:
        """
        :param n_rows: Number of rows that can be drawn
        :return: The probability of every transition, shape (n_rows, n_envs), by the age of its row. O(size)
        """
        weights = self._weights_by_age(n_rows)
        epsilon = self.age_sampler.uniform_fraction
        return (1 - epsilon) * weights / weights.sum() + epsilon / (n_rows * self.n_envs)

    def probabilities(self, transitions: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param transitions: Numbers of transitions that can be drawn, int64
        :param n_rows: Number of rows that can be drawn: all that are stored, or all but the oldest
        :return: The probability of each, same shape. O(batch) for an exponential decay, otherwise O(size), as the sum
            of all weights is not known then.
        """
        self._prepare(n_rows)
        epsilon = self.age_sampler.uniform_fraction
        if self.in_tree:
            decayed = self.tree.values.take(transitions) / self.tree.total
        else:
            decayed = self.weights(transitions, n_rows) / self._weights_by_age(n_rows).sum()
        return (1 - epsilon) * decayed + epsilon / (n_rows * self.n_envs)

    def relative_probabilities(self, transitions: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param transitions: Numbers of transitions that were just drawn, int64
        :param n_rows: Number of rows that can be drawn: all that are stored, or all but the oldest
        :return: The probability of each, up to a common factor. O(batch) if there is no uniform share
        """
        if self.age_sampler.uniform_fraction > 0:
            return self.probabilities(transitions, n_rows)
        return self.tree.values.take(transitions) if self.in_tree else self.weights(transitions, n_rows)
