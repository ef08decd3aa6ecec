"""Samplers: from how many rows there are to the ages of the rows to replay. They never see an observation."""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from sb3_reptile.replay.diagnostics import geometric_expected_age, geometric_sum_of_squares


@dataclass(frozen=True)
class GeometricSampler:
    """
    Draws the ages of rows from the truncated geometric distribution, mixed with the uniform one:
    ``P(a) = (1 - uniform_fraction) * λ^a (1 - λ) / (1 - λ^n) + uniform_fraction / n`` with ``λ = exp(-rate)``.

    Ages here are in rows, the newest has age 0. A draw is O(1), and nothing is stored per row.

    :param rate: Decay per row, >= 0; 0 is uniform sampling
    :param uniform_fraction: Share of the draws that ignores the decay, in [0, 1], so that no row has a probability
        below ``uniform_fraction / n``
    :raises TypeError: if ``uniform_fraction`` is not a number
    :raises ValueError: if ``uniform_fraction`` is outside [0, 1]
    """

    rate: float
    uniform_fraction: float = 0.0

    def __post_init__(self) -> None:
        epsilon = self.uniform_fraction
        if isinstance(epsilon, bool) or not isinstance(epsilon, Real):
            raise TypeError(
                f"uniform_fraction must be a number in [0, 1], got {epsilon!r} ({type(epsilon).__name__}); "
                "use 0 to draw by the decay alone"
            )
        if not 0 <= epsilon <= 1:
            raise ValueError(f"uniform_fraction must be in [0, 1], got {epsilon}; use 0 to draw by the decay alone")

    def sample(self, n_rows: int, batch_size: int) -> np.ndarray:
        """
        :param n_rows: How many rows can be drawn, >= 1
        :param batch_size: Number of draws, with replacement
        :return: Ages in rows, int64, shape (batch_size,), each in ``0..n_rows-1``
        """
        if self.rate == 0:
            return np.random.randint(0, n_rows, size=batch_size)
        # Inverse of the cumulative distribution (1 - λ^a) / (1 - λ^n). expm1 and log1p keep its precision where
        # λ is within rounding of 1.
        u = np.random.random_sample(batch_size)
        ages = (np.log1p(u * np.expm1(-self.rate * n_rows)) / -self.rate).astype(np.int64)
        # Rounding may reach n_rows where u is close to 1
        np.minimum(ages, n_rows - 1, out=ages)
        if self.uniform_fraction > 0:
            is_uniform = np.random.random_sample(batch_size) < self.uniform_fraction
            ages[is_uniform] = np.random.randint(0, n_rows, size=int(is_uniform.sum()))
        return ages

    def expected_age(self, n_rows: int) -> float:
        """
        :param n_rows: How many rows can be drawn, >= 1
        :return: Mean age of a drawn row, in rows
        """
        epsilon = self.uniform_fraction
        return (1 - epsilon) * geometric_expected_age(self.rate, n_rows) + epsilon * (n_rows - 1) / 2

    def effective_sample_size(self, n_rows: int) -> float:
        """
        :param n_rows: How many rows can be drawn, >= 1
        :return: ``1 / sum P(a)^2``, in rows: ``n_rows`` for uniform replay
        """
        epsilon = self.uniform_fraction
        sum_of_squares = (1 - epsilon) ** 2 * geometric_sum_of_squares(self.rate, n_rows)
        return 1 / (sum_of_squares + epsilon * (2 - epsilon) / n_rows)
