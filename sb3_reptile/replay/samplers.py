"""Samplers: from how many rows there are to which of them to replay. They never see an observation."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from sb3_reptile.replay.decay import (
    Custom,
    Decay,
    EmphasizingRecent,
    Exponential,
    Linear,
    PowerLaw,
    Window,
    check_number,
)
from sb3_reptile.replay.diagnostics import (
    Diagnostics,
    diagnose,
    geometric_entropy,
    geometric_expected_age,
    geometric_sum_of_squares,
)
from sb3_reptile.replay.kernels import kernels
from sb3_reptile.replay.sum_tree import SumTree


class AgeSampler(ABC):
    """
    Draws the ages of rows, all transitions of the same age being equally likely. Ages here are in rows; the newest row
    has age 0.

    :param uniform_fraction: Share of the draws that ignores the decay, in [0, 1], so that no row has a probability
        below ``uniform_fraction / n_rows``
    :raises TypeError: if ``uniform_fraction`` is not a number
    :raises ValueError: if ``uniform_fraction`` is outside [0, 1]
    """

    def __init__(self, uniform_fraction: float = 0.0) -> None:
        advice = "use 0 to draw by the decay alone"
        check_number("uniform_fraction", uniform_fraction, "in [0, 1]", lambda value: 0 <= value <= 1, advice)
        self.uniform_fraction = uniform_fraction
        self._diagnosed: tuple[int, Diagnostics] | None = None

    @abstractmethod
    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param ages: Ages in rows
        :param n_rows: How many rows can be drawn
        :return: What the decay makes of them at the next draw, same shape; the newest row counts 1
        """

    @abstractmethod
    def total(self, n_rows: int) -> float:
        """
        :param n_rows: How many rows can be drawn, >= 1
        :return: Sum of the weights of all of them
        """

    @abstractmethod
    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        """
        The inverse of the cumulative distribution of the ages by the decay alone.

        :param n_rows: How many rows can be drawn, >= 1
        :param u: Numbers in [0, 1); the array may be used up
        :return: Ages in rows, int64, same shape, each in ``0..n_rows-1``
        """

    def sums(self, first: np.ndarray, count: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param first: Ages in rows, int64, each >= 0
        :param count: How many ages from each of them on, int64, same shape, each >= 0; none beyond ``n_rows``
        :param n_rows: How many rows can be drawn, >= 1
        :return: The sums of their weights, same shape
        """
        totals = [0.0 if n == 0 else self.total(n) for n in np.concatenate([first, first + count]).tolist()]
        below, up_to = np.array(totals).reshape(2, -1)
        return up_to - below

    def quantile_within(self, first: np.ndarray, count: np.ndarray, u: np.ndarray, n_rows: int) -> np.ndarray:
        """
        The same as :meth:`quantile`, for draws that are confined to some of the ages.

        :param first: The youngest age of each draw, in rows, int64
        :param count: How many ages from there on, int64, same shape, each >= 1
        :param u: Numbers in [0, 1], same shape
        :param n_rows: How many rows can be drawn, >= 1
        :return: How many rows older than ``first``, int64, same shape, each in ``0..count-1``
        """
        bounds, where = np.unique(np.stack([first, first + count]), return_inverse=True)
        below, up_to = np.array([0.0 if n == 0 else self.total(n) for n in bounds.tolist()])[where.reshape(2, -1)]
        ages = self.quantile(n_rows, (below + u * (up_to - below)) / self.total(n_rows))
        return np.clip(ages - first, 0, count - 1)

    def median(self, n_rows: int) -> float:
        """
        :param n_rows: How many rows can be drawn, >= 1
        :return: The age in rows that half of what is drawn does not exceed, by bisection
        """
        epsilon, total = self.uniform_fraction, self.total(n_rows)
        low, high = 0, n_rows - 1
        while low < high:
            middle = (low + high) // 2
            decayed = float(self.sums(np.array([0]), np.array([middle + 1]), n_rows)[0]) / total
            if (1 - epsilon) * decayed + epsilon * (middle + 1) / n_rows < 0.5 - 1e-12:
                low = middle + 1
            else:
                high = middle
        return float(low)

    def next_call(self) -> None:  # noqa: B027 -- most decays stay the same
        """To be called after every batch, for decays that change from one to the next."""

    def state(self) -> dict[str, Any]:
        """
        :return: What it remembers from one batch to the next, as JSON
        """
        return {}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: B027 -- most remember nothing
        """
        :param state: What ``state()`` returned
        """

    def sample(self, n_rows: int, batch_size: int) -> np.ndarray:
        """
        :param n_rows: How many rows can be drawn, >= 1
        :param batch_size: Number of draws, with replacement
        :return: Ages in rows, int64, shape (batch_size,), each in ``0..n_rows-1``
        """
        u = np.random.random_sample(batch_size)
        epsilon = self.uniform_fraction
        if epsilon == 0:
            return self.quantile(n_rows, u)
        # One number serves both: below epsilon for a uniform draw, above it for one by the decay
        uniform = (u * (n_rows / epsilon)).astype(np.int64)
        is_uniform = u < epsilon
        u -= epsilon
        if epsilon < 1:
            u /= 1 - epsilon
        ages = self.quantile(n_rows, np.maximum(u, 0, out=u))
        np.copyto(ages, uniform, where=is_uniform)
        return np.minimum(ages, n_rows - 1, out=ages)

    def probabilities(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param ages: Ages in rows, each in ``0..n_rows-1``
        :param n_rows: How many rows can be drawn, >= 1
        :return: The probability of each at the next draw, same shape
        """
        decayed = self.weights(ages, n_rows) / self.total(n_rows)
        return (1 - self.uniform_fraction) * decayed + self.uniform_fraction / n_rows

    def diagnostics(self, n_rows: int) -> Diagnostics:
        """
        :param n_rows: How many rows can be drawn, >= 1
        :return: Expected age, entropy and effective sample size, in rows. Where there is no closed form it is O(n), and
            done anew only when ``n_rows`` has changed by more than 1 %.
        """
        if self._diagnosed is None or abs(self._diagnosed[0] - n_rows) > n_rows // 100:
            ages = np.arange(n_rows)
            self._diagnosed = n_rows, diagnose(self.probabilities(ages, n_rows), ages)
        return self._diagnosed[1]


class GeometricSampler(AgeSampler):
    """
    Exponential decay: the truncated geometric distribution ``P(a) = λ^a (1 - λ) / (1 - λ^n)``, ``λ = exp(-rate)``
    (https://arxiv.org/abs/2605.10236). A draw is O(1), and nothing is stored per row.

    :param rate: Decay per row, >= 0; 0 is uniform sampling
    :param uniform_fraction: As in :class:`AgeSampler`
    """

    def __init__(self, rate: float, uniform_fraction: float = 0.0) -> None:
        super().__init__(uniform_fraction)
        # Long before that, nothing but the newest row is left; infinity times an age of 0 is no number
        self.rate = min(rate, 10_000.0)

    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        return np.exp(-self.rate * ages)

    def total(self, n_rows: int) -> float:
        if self.rate == 0:
            return float(n_rows)
        return math.expm1(-self.rate * n_rows) / math.expm1(-self.rate)

    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        # (1 - λ^a) / (1 - λ^n) = u. expm1 and log1p keep its precision where λ is within rounding of 1.
        if self.rate == 0:
            u *= n_rows
        else:
            u *= math.expm1(-self.rate * n_rows)
            np.log1p(u, out=u)
            u /= -self.rate
        ages = u.astype(np.int64)
        # Rounding may reach n_rows where u was close to 1
        return np.minimum(ages, n_rows - 1, out=ages)

    def sums(self, first: np.ndarray, count: np.ndarray, n_rows: int) -> np.ndarray:
        # Without the difference of two totals that are nearly the same where all of it is old
        if self.rate == 0:
            return count.astype(np.float64)
        return np.exp(-self.rate * first) * (np.expm1(-self.rate * count) / math.expm1(-self.rate))

    def quantile_within(self, first: np.ndarray, count: np.ndarray, u: np.ndarray, n_rows: int) -> np.ndarray:
        # Wherever it begins, it is the same distribution
        ages = u * count if self.rate == 0 else np.log1p(u * np.expm1(-self.rate * count)) / -self.rate
        return np.minimum(ages.astype(np.int64), count - 1)

    def diagnostics(self, n_rows: int) -> Diagnostics:
        epsilon = self.uniform_fraction
        if epsilon == 0:
            entropy = geometric_entropy(self.rate, n_rows)
        elif self.rate == 0 or epsilon == 1:
            entropy = math.log(n_rows)
        else:
            entropy = super().diagnostics(n_rows).entropy
        expected_age = (1 - epsilon) * geometric_expected_age(self.rate, n_rows) + epsilon * (n_rows - 1) / 2
        sum_of_squares = (1 - epsilon) ** 2 * geometric_sum_of_squares(self.rate, n_rows)
        effective_sample_size = 1 / (sum_of_squares + epsilon * (2 - epsilon) / n_rows)
        return Diagnostics(expected_age, entropy, effective_sample_size, self.median(n_rows))


class LinearSampler(AgeSampler):
    """
    Linear decay down to a floor. The cumulative weights are a parabola and then a line, both of which are inverted in
    closed form: a draw is O(1).

    :param slope: What a row loses with every row added, > 0
    :param floor: What is left at the end, in [0, 1]
    :param uniform_fraction: As in :class:`AgeSampler`
    """

    def __init__(self, slope: float, floor: float, uniform_fraction: float = 0.0) -> None:
        super().__init__(uniform_fraction)
        self.slope = slope
        self.floor = floor
        # Ages below this lie on the slope
        self.n_sloping = math.ceil((1 - floor) / slope)

    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        return np.maximum(self.floor, 1 - self.slope * ages)

    def total(self, n_rows: int) -> float:
        sloping = min(n_rows, self.n_sloping)
        return sloping - self.slope * sloping * (sloping - 1) / 2 + self.floor * (n_rows - sloping)

    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        n_sloping = min(self.n_sloping, n_rows)
        total = self.total(n_rows)
        # Root of a (1 + slope / 2) - slope a^2 / 2 = total u
        b = 1 + self.slope / 2
        root = u * (-2 * self.slope * total)
        root += b * b
        np.maximum(root, 0, out=root)
        np.sqrt(root, out=root)
        np.subtract(b, root, out=root)
        root /= self.slope
        if n_rows > n_sloping and self.floor > 0:
            u *= total / self.floor
            u += n_sloping - self.total(n_sloping) / self.floor
            np.minimum(root, n_sloping - 0.5, out=root)
            np.copyto(root, u, where=u >= n_sloping)
        ages = root.astype(np.int64)
        last = n_rows if self.floor > 0 else n_sloping
        return np.minimum(ages, last - 1, out=ages)


class WindowSampler(AgeSampler):
    """
    Draws uniformly from the newest rows. A draw is O(1).

    :param n_newest: How many of them, >= 1
    :param uniform_fraction: As in :class:`AgeSampler`
    """

    def __init__(self, n_newest: int, uniform_fraction: float = 0.0) -> None:
        super().__init__(uniform_fraction)
        self.n_newest = n_newest

    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        return (ages < self.total(n_rows)).astype(np.float64)

    def total(self, n_rows: int) -> float:
        return min(self.n_newest, n_rows)

    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        n_newest = int(self.total(n_rows))
        u *= n_newest
        ages = u.astype(np.int64)
        return np.minimum(ages, n_newest - 1, out=ages)

    def sums(self, first: np.ndarray, count: np.ndarray, n_rows: int) -> np.ndarray:
        return np.clip(self.total(n_rows) - first, 0, count).astype(np.float64)

    def quantile_within(self, first: np.ndarray, count: np.ndarray, u: np.ndarray, n_rows: int) -> np.ndarray:
        inside = np.clip(int(self.total(n_rows)) - first, 1, count)
        return np.minimum((u * inside).astype(np.int64), inside - 1)

    def diagnostics(self, n_rows: int) -> Diagnostics:
        """In closed form: the rows within the window have one probability, the others another."""
        inside = int(self.total(n_rows))
        outside = n_rows - inside
        old = self.uniform_fraction / n_rows
        new = (1 - self.uniform_fraction) / inside + old
        entropy = -inside * new * math.log(new) - (outside * old * math.log(old) if old > 0 else 0)
        expected_age = inside * new * (inside - 1) / 2 + outside * old * (inside + n_rows - 1) / 2
        effective_sample_size = 1 / (inside * new**2 + outside * old**2)
        return Diagnostics(expected_age, entropy, effective_sample_size, self.median(n_rows))


class EmphasizingRecentSampler(WindowSampler):
    """
    A window that closes in on the newest rows from one batch to the next, and opens again after a cycle of them.

    :param decay: The decay
    :param n_envs: Number of transitions in a row
    :param uniform_fraction: As in :class:`AgeSampler`
    """

    def __init__(self, decay: EmphasizingRecent, n_envs: int, uniform_fraction: float = 0.0) -> None:
        super().__init__(1, uniform_fraction)
        self.decay = decay
        self.n_envs = n_envs
        self.n_calls = 0

    def total(self, n_rows: int) -> float:
        k = self.n_calls % int(self.decay.cycle) + 1
        return min(math.ceil(self.decay.window(k, n_rows * self.n_envs) / self.n_envs), n_rows)

    def next_call(self) -> None:
        self.n_calls += 1

    def state(self) -> dict[str, Any]:
        return {"n_calls": self.n_calls}

    def set_state(self, state: dict[str, Any]) -> None:
        self.n_calls = int(state["n_calls"])


class TableSampler(AgeSampler):
    """
    Any decay, by a table of its cumulative weights: being prefix sums, they serve every fill level. A draw is
    O(log n_rows).

    :param weights: The weights of all ages in rows that can occur, never rising, the first > 0
    :param uniform_fraction: As in :class:`AgeSampler`
    """

    def __init__(self, weights: np.ndarray, uniform_fraction: float = 0.0) -> None:
        super().__init__(uniform_fraction)
        self.table = weights / weights[0]
        self.cumulative = np.cumsum(self.table)

    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        return self.table[ages]

    def total(self, n_rows: int) -> float:
        return float(self.cumulative[n_rows - 1])

    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        u *= self.total(n_rows)
        return kernels().search(self.cumulative[:n_rows], u)


def make_age_sampler(decay: Decay, n_rows: int, n_envs: int, uniform_fraction: float) -> AgeSampler:
    """
    :param decay: The decay, in transitions
    :param n_rows: Capacity of the buffer in rows
    :param n_envs: Number of transitions in a row
    :param uniform_fraction: Share of the draws that ignores the decay
    :return: The fastest sampler that draws rows by this decay
    """
    if isinstance(decay, Exponential):
        return GeometricSampler(decay.rate * n_envs, uniform_fraction)
    if isinstance(decay, Linear):
        return LinearSampler(n_envs / decay.horizon, decay.floor, uniform_fraction)
    if isinstance(decay, Window):
        return WindowSampler(math.ceil(min(decay.size / n_envs, n_rows)), uniform_fraction)
    if isinstance(decay, EmphasizingRecent):
        return EmphasizingRecentSampler(decay, n_envs, uniform_fraction)
    assert isinstance(decay, PowerLaw | Custom)
    return TableSampler(decay(n_envs * np.arange(n_rows)), uniform_fraction)


class WeightedSampler:
    """
    Draws transitions by the product of a weight of their own and the decay of their row, ``w_i = p_i f(age_i)``; the
    row and the environment are drawn jointly.

    An exponential decay is *forward decay* (Cormode, Shkapenyuk, Srivastava & Xu, ICDE 2009): the sum tree holds
    ``p_i 2^((birth_i - landmark) / half_life)``, which does not change as the transition ages. Before that overflows,
    the landmark moves on. Any other decay is met by rejection: draw by one factor, accept by the other, in the order
    that rejects less. Either way draws are exact.

    Transitions are numbered ``row * n_envs + env``. Added weights reach the tree when they are first needed.

    :param ages: How rows are drawn by the decay alone
    :param n_rows: Capacity of the buffer in rows
    :param n_envs: Number of transitions in a row
    """

    # The landmark moves when a new transition's weight has grown to 2^MAX_EXPONENT times its own
    MAX_EXPONENT = 500
    # 2^-UNDERFLOW times the largest weight there is, 1e50 squared, is 0 in double precision: 1075 + log2(1e100)
    UNDERFLOW = 1_500

    def __init__(self, ages: AgeSampler, n_rows: int, n_envs: int) -> None:
        self.ages = ages
        self.n_rows = n_rows
        self.n_envs = n_envs
        self.p = np.zeros((n_rows, n_envs))
        self.largest = 0.0
        self.rows_added = 0
        self.rows_in_tree = 0
        self.landmark = 0
        self.tree = SumTree(n_rows * n_envs)
        # Whether the tree holds the decay too, and log2 of what a row then outweighs the one before it by; from 10,000
        # on, no row but the newest counts
        self.in_tree = isinstance(ages, GeometricSampler)
        self.exponent = min(ages.rate / math.log(2), 10_000.0) if isinstance(ages, GeometricSampler) else 0.0

    def add(self, weights: np.ndarray | float) -> None:
        """
        :param weights: The weights of a new row, shape (n_envs,), or one for all
        """
        self.p[self.rows_added % self.n_rows] = weights
        self.largest = max(self.largest, weights if isinstance(weights, float) else float(weights.max()))
        self.rows_added += 1

    def set(self, transitions: np.ndarray, weights: np.ndarray) -> float:
        """
        :param transitions: Which transitions, int64, one at least
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
        :return: What it knows besides the weights ``p``, as JSON
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
        """Enter the rows added since, after moving the landmark if they would overflow."""
        if (self.rows_added - self.landmark) * self.exponent > self.MAX_EXPONENT:
            # What is older than this has underflowed already; the rest is entered anew
            first = self.landmark - math.ceil(self.UNDERFLOW / self.exponent)
            self.rows_in_tree = max(min(self.rows_in_tree, first), 0)
            self.landmark = self.rows_added
        start = max(self.rows_in_tree, self.rows_added - self.n_rows)
        while start < self.rows_added:
            row = start % self.n_rows
            count = min(self.rows_added - start, self.n_rows - row)
            exponents = (np.arange(start, start + count) - self.landmark) * self.exponent
            values = self.p[row : row + count] * np.exp2(exponents)[:, None]
            self.tree.set_range(row * self.n_envs, values.reshape(-1))
            start += count
        self.rows_in_tree = self.rows_added

    def _prepare(self, n_rows: int) -> None:
        """Make the tree hold what can be drawn now, and nothing else."""
        self._bring_tree_up_to_date()
        if n_rows < min(self.rows_added, self.n_rows):
            oldest = self.rows_added % self.n_rows * self.n_envs
            if self.tree.values[oldest : oldest + self.n_envs].any():
                self.tree.set_range(oldest, np.zeros(self.n_envs))

    def sample(self, n_rows: int, batch_size: int) -> np.ndarray:
        """
        :param n_rows: How many rows can be drawn: all that are stored, or all but the oldest
        :param batch_size: Number of draws, with replacement
        :return: Transitions, int64, shape (batch_size,)
        """
        self._prepare(n_rows)
        epsilon = self.ages.uniform_fraction
        if epsilon == 0:
            transitions = self._draw(n_rows, batch_size)
        else:
            is_uniform = np.random.random_sample(batch_size) < epsilon
            n_uniform = int(is_uniform.sum())
            transitions = np.empty(batch_size, dtype=np.int64)
            transitions[~is_uniform] = self._draw(n_rows, batch_size - n_uniform)
            transitions[is_uniform] = self._of_age(np.random.randint(0, n_rows, size=n_uniform))
        return transitions

    def _of_age(self, ages: np.ndarray) -> np.ndarray:
        """Transitions of these ages in rows, the environment drawn uniformly."""
        rows = (self.rows_added - 1 - ages) % self.n_rows
        return rows * self.n_envs + np.random.randint(0, self.n_envs, size=len(rows))

    def _draw(self, n_rows: int, size: int) -> np.ndarray:
        """Draw by weight and decay, without the uniform share."""
        if self.in_tree:
            return self.tree.sample(size)
        # What is accepted of draws by weight, and of draws by age
        by_weight = self.ages.total(n_rows) / n_rows
        by_age = self.tree.total / (self.largest * n_rows * self.n_envs)
        accepted: list[np.ndarray] = []
        missing = size
        while missing > 0:
            # Enough for most batches at once; no more than a million where nearly all are rejected
            tries = min(int(missing / max(by_weight, by_age) * 1.1) + 8, 1_000_000)
            if by_weight >= by_age:
                transitions = self.tree.sample(tries)
                acceptance = self.ages.weights(self.age_of(transitions // self.n_envs), n_rows)
            else:
                transitions = self._of_age(self.ages.quantile(n_rows, np.random.random_sample(tries)))
                acceptance = self.p.reshape(-1)[transitions] / self.largest
            accepted.append(transitions[np.random.random_sample(tries) < acceptance][:missing])
            missing -= len(accepted[-1])
        return np.concatenate(accepted) if accepted else np.empty(0, dtype=np.int64)

    def weights(self, transitions: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param transitions: Which transitions, int64; they must be among those that can be drawn
        :param n_rows: How many rows can be drawn, from the newest on
        :return: ``w_i = p_i f(age_i)``, same shape
        """
        return self.p.reshape(-1)[transitions] * self.ages.weights(self.age_of(transitions // self.n_envs), n_rows)

    def distribution(self, n_rows: int) -> np.ndarray:
        """
        :param n_rows: How many rows can be drawn, from the newest on
        :return: The probability of every transition, shape (n_rows, n_envs), by the age of its row. O(size)
        """
        ages = np.arange(n_rows)
        weights = self.p[self.age_of(ages)] * self.ages.weights(ages, n_rows)[:, None]
        epsilon = self.ages.uniform_fraction
        return (1 - epsilon) * weights / weights.sum() + epsilon / (n_rows * self.n_envs)

    def probabilities(self, transitions: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param transitions: Which transitions, int64; they must be among those that can be drawn
        :param n_rows: How many rows can be drawn: all that are stored, or all but the oldest
        :return: The probability of each, same shape. O(batch) for an exponential decay, otherwise O(size): the sum of
            all weights is not known then.
        """
        self._prepare(n_rows)
        epsilon = self.ages.uniform_fraction
        if self.in_tree:
            decayed = self.tree.values.take(transitions) / self.tree.total
        else:
            ages = np.arange(n_rows)
            total = (self.p[self.age_of(ages)] * self.ages.weights(ages, n_rows)[:, None]).sum()
            decayed = self.weights(transitions, n_rows) / total
        return (1 - epsilon) * decayed + epsilon / (n_rows * self.n_envs)

    def relative_probabilities(self, transitions: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param transitions: Transitions that were just drawn, int64
        :param n_rows: How many rows can be drawn: all that are stored, or all but the oldest
        :return: The probability of each, up to a factor common to all: O(batch) wherever there is no uniform share
        """
        if self.ages.uniform_fraction > 0:
            return self.probabilities(transitions, n_rows)
        return self.tree.values.take(transitions) if self.in_tree else self.weights(transitions, n_rows)
