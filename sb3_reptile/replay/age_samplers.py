"""Samplers of the age of a row by a decay: closed forms and tables. They never see an observation."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from sb3_reptile.replay.checks import check_number
from sb3_reptile.replay.decay import Custom, Decay, EmphasizingRecent, Exponential, Linear, Window
from sb3_reptile.replay.diagnostics import (
    Diagnostics,
    diagnose,
    geometric_entropy,
    geometric_expected_age,
    geometric_sum_of_squares,
)
from sb3_reptile.replay.kernels import kernels

# Where the reciprocal of a tiny number would overflow when multiplied by a number of rows
LARGE = 1e290


class AgeSampler(ABC):
    """
    Draws ages of rows. Ages here are in rows; the newest row has age 0. All transitions of a row are equally likely.

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
        :param n_rows: Number of rows that can be drawn
        :return: Their decay factors at the next draw, same shape; that of the newest row is 1
        """

    @abstractmethod
    def total(self, n_rows: int) -> float:
        """
        :param n_rows: Number of rows that can be drawn, >= 1
        :return: Sum of the decay factors of all of them
        """

    @abstractmethod
    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        """
        The inverse of the cumulative distribution of ages by the decay alone.

        :param n_rows: Number of rows that can be drawn, >= 1
        :param u: Numbers in [0, 1); the array may be used up
        :return: Ages in rows, int64, same shape, each in ``0..n_rows-1``
        """

    def sums(self, first: np.ndarray, count: np.ndarray, n_rows: int) -> np.ndarray:
        """
        :param first: Ages in rows, int64, each >= 0
        :param count: Number of successive ages from each of them on, int64, same shape, each >= 0, up to ``n_rows``
        :param n_rows: Number of rows that can be drawn, >= 1
        :return: The sums of their decay factors, same shape
        """
        totals = [0.0 if n == 0 else self.total(n) for n in np.concatenate([first, first + count]).tolist()]
        below, up_to = np.array(totals).reshape(2, -1)
        return up_to - below

    def quantile_within(self, first: np.ndarray, count: np.ndarray, u: np.ndarray, n_rows: int) -> np.ndarray:
        """
        As :meth:`quantile`, for draws that are confined to a range of ages.

        :param first: The youngest age of each draw, in rows, int64
        :param count: Number of successive ages from there on, int64, same shape, each >= 1
        :param u: Numbers in [0, 1], same shape
        :param n_rows: Number of rows that can be drawn, >= 1
        :return: Ages relative to ``first``, int64, same shape, each in ``0..count-1``
        """
        bounds, where = np.unique(np.stack([first, first + count]), return_inverse=True)
        below, up_to = np.array([0.0 if n == 0 else self.total(n) for n in bounds.tolist()])[where.reshape(2, -1)]
        ages = self.quantile(n_rows, (below + u * (up_to - below)) / self.total(n_rows))
        return np.clip(ages - first, 0, count - 1)

    def median(self, n_rows: int) -> float:
        """
        :param n_rows: Number of rows that can be drawn, >= 1
        :return: The median age of the draws in rows, by bisection
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

    def next_call(self) -> None:  # noqa: B027 -- most decays do not change
        """Call this after every batch: some decays change from one to the next."""

    def state(self) -> dict[str, Any]:
        """
        :return: What it keeps from one batch to the next, as JSON
        """
        return {}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: B027 -- most keep nothing
        """
        :param state: What ``state()`` returned
        """

    def sample(self, n_rows: int, batch_size: int) -> np.ndarray:
        """
        :param n_rows: Number of rows that can be drawn, >= 1
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
        :param n_rows: Number of rows that can be drawn, >= 1
        :return: The probability of each at the next draw, same shape
        """
        decayed = self.weights(ages, n_rows) / self.total(n_rows)
        return (1 - self.uniform_fraction) * decayed + self.uniform_fraction / n_rows

    def diagnostics(self, n_rows: int) -> Diagnostics:
        """
        :param n_rows: Number of rows that can be drawn, >= 1
        :return: Expected age, entropy and effective sample size, in rows. Without a closed form this is O(n), and
            computed again only when ``n_rows`` has changed by more than 1 %.
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
        # Far below that rate, only the newest row is left; infinity times an age of 0 is not a number
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
        # Not as the difference of two totals, which are nearly equal for old rows
        if self.rate == 0:
            return count.astype(np.float64)
        return np.exp(-self.rate * first) * (np.expm1(-self.rate * count) / math.expm1(-self.rate))

    def quantile_within(self, first: np.ndarray, count: np.ndarray, u: np.ndarray, n_rows: int) -> np.ndarray:
        # The distribution is the same wherever the range begins
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

    :param slope: Decrease of the decay factor with every row added, > 0
    :param floor: Decay factor of old rows, in [0, 1]
    :param uniform_fraction: As in :class:`AgeSampler`
    """

    def __init__(self, slope: float, floor: float, uniform_fraction: float = 0.0) -> None:
        super().__init__(uniform_fraction)
        # From 1 on, only the newest row lies on the slope
        self.slope = min(slope, 1.0)
        self.floor = floor
        # Ages below this lie on the slope
        self.n_sloping = math.ceil((1 - floor) / self.slope)

    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        return np.maximum(self.floor, 1 - self.slope * ages)

    def total(self, n_rows: int) -> float:
        sloping = min(n_rows, self.n_sloping)
        return sloping - self.slope * sloping * (sloping - 1) / 2 + self.floor * (n_rows - sloping)

    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        n_sloping = last = min(self.n_sloping, n_rows)
        # Root of a (1 + slope / 2) - slope a^2 / 2 = u, in the form without cancellation: slopes may be tiny
        u *= self.total(n_rows)
        half = (1 + self.slope / 2) / 2
        ages = u * (-self.slope / 2)
        ages += half * half
        np.maximum(ages, 0, out=ages)
        np.sqrt(ages, out=ages)
        ages += half
        np.divide(u, ages, out=ages)
        if n_rows > n_sloping and self.floor > 0:
            last = n_rows
            np.minimum(ages, n_sloping, out=ages)
            # What lies beyond the slope
            u -= self.total(n_sloping)
            np.maximum(u, 0, out=u)
            u *= min(1 / self.floor, LARGE)
            ages += u
        return np.minimum(ages, last - 1, out=ages).astype(np.int64)


class WindowSampler(AgeSampler):
    """
    Draws uniformly from the newest rows. A draw is O(1).

    :param n_newest: Number of rows in the window, >= 1
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
    Any decay, by a table of cumulative decay factors: as prefix sums, they are valid at every fill level. A draw is
    O(log n_rows).

    :param weights: The decay factors of all ages in rows that can occur, never rising, the first > 0
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
    :return: The fastest sampler for this decay
    """
    if isinstance(decay, Exponential):
        return GeometricSampler(decay.rate * n_envs, uniform_fraction)
    if isinstance(decay, Linear):
        return LinearSampler(n_envs / decay.horizon, decay.floor, uniform_fraction)
    if isinstance(decay, Window):
        return WindowSampler(math.ceil(min(decay.size / n_envs, n_rows)), uniform_fraction)
    if isinstance(decay, EmphasizingRecent):
        return EmphasizingRecentSampler(decay, n_envs, uniform_fraction)
    # A decay registered by a user is checked as a function is
    checked = decay if isinstance(decay, Custom) else Custom(decay)  # type: ignore[arg-type]
    return TableSampler(checked(n_envs * np.arange(n_rows)), uniform_fraction)
