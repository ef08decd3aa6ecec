"""Sampling of rows that belong to segments of different consistency."""

from typing import Any

import numpy as np

from sb3_reptile.replay.age_samplers import AgeSampler
from sb3_reptile.replay.diagnostics import Diagnostics, weighted_median

QUADRATURE_POINTS = 2_000


class SegmentedSampler(AgeSampler):
    """
    Samples ages of rows with the sampling weight ``w = c(segment) f(clock age)``: the consistency of the row's segment,
    in (0, 1], times a decay of the row's age on a clock that runs only while the present regime holds. That clock
    advances by ``c`` per row of a segment, so inconsistent segments do not age what came before them.

    Sampling is exact. One random number selects a segment by its total sampling weight, then a row in it by the inverse
    of the decay. This costs O(number of segments + batch) more than the decay alone, for every capacity. While all
    segments have consistency 1, the samples are those of the decay alone, bit for bit.

    :param inner: Sampler for the decay, without a uniform share
    :param uniform_fraction: See :class:`AgeSampler`
    """

    def __init__(self, inner: AgeSampler, uniform_fraction: float = 0.0) -> None:
        super().__init__(uniform_fraction)
        self.inner = inner
        #: The fill level and number of rows that the layout was computed for
        self._layout_of: tuple[int, int] | None = None
        # One segment that holds everything
        self.set_segments(np.zeros(1, dtype=np.int64), np.ones(1), 0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_firsts" in state:
            # A pickle from before this name changed; the layout is made again
            self._starts = self.__dict__.pop("_firsts")
            self._layout_of = None

    def set_segments(self, starts: np.ndarray, consistencies: np.ndarray, rows_added: int) -> None:
        """
        :param starts: Number of the first row of each segment, counted since the buffer was empty, increasing
        :param consistencies: Consistency ``c`` of each segment, in (0, 1]; the last segment, which is still growing,
            must have 1
        :param rows_added: Number of rows added so far
        """
        # From the newest to the oldest, as ages increase
        self._starts = starts[::-1].astype(np.int64)
        self._c = consistencies[::-1].astype(np.float64)
        #: Whether all segments have consistency 1, so that the decay alone decides
        self.is_plain = bool((self._c == 1).all())
        self.rows_added = rows_added
        self._layout_of = None

    def take_segments_of(self, other: "SegmentedSampler") -> None:
        """
        :param other: A sampler for another decay, with the segments that this one is to have
        """
        self._starts, self._c = other._starts, other._c
        self.is_plain, self.rows_added = other.is_plain, other.rows_added
        self._layout_of = None

    def _layout(self, n_rows: int) -> None:
        """Compute ages, clock ages and total sampling weights of the segments."""
        if self._layout_of == (n_rows, self.rows_added):
            return
        ends = np.minimum(self.rows_added - self._starts, n_rows)
        self._first_ages = np.concatenate([[0], ends[:-1]])
        self._lengths = ends - self._first_ages
        self._clock_ages = self._clock(self._first_ages, self._lengths)
        self._totals = self._c * self.inner.sums(self._clock_ages, self._lengths, n_rows)
        self._cumulative = np.cumsum(self._totals)
        self._layout_of = n_rows, self.rows_added

    def _clock(self, first_ages: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """
        :param first_ages: Age of the newest row of each segment, int64
        :param lengths: Number of rows of each segment that are in the buffer, int64
        :return: Age of the newest row of each segment on the clock, int64
        """
        clock = np.cumsum(self._c * lengths)
        return np.concatenate([[0], np.rint(clock[:-1]).astype(np.int64)])

    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        if self.is_plain:
            return self.inner.weights(ages, n_rows)
        self._layout(n_rows)
        segments = np.searchsorted(self._first_ages, ages, side="right") - 1
        # Segments that have left the buffer have no rows
        segments = np.minimum(segments, np.flatnonzero(self._lengths)[-1])
        clock_ages = ages - self._first_ages[segments] + self._clock_ages[segments]
        return self._c[segments] * self.inner.weights(clock_ages, n_rows)

    def total(self, n_rows: int) -> float:
        if self.is_plain:
            return self.inner.total(n_rows)
        self._layout(n_rows)
        return float(self._cumulative[-1])

    def quantile(self, n_rows: int, u: np.ndarray) -> np.ndarray:
        if self.is_plain:
            return self.inner.quantile(n_rows, u)
        self._layout(n_rows)
        u *= self._cumulative[-1]
        segments = np.searchsorted(self._cumulative, u, side="right")
        # Rounding may lead beyond the last segment with a positive total
        np.minimum(segments, np.flatnonzero(self._totals)[-1], out=segments)
        u -= self._cumulative[segments] - self._totals[segments]
        u /= self._totals[segments]
        clock_ages = self._clock_ages[segments]
        inside = self.inner.quantile_within(clock_ages, self._lengths[segments], np.clip(u, 0, 1, out=u), n_rows)
        return self._first_ages[segments] + inside

    def next_call(self) -> None:
        before = self.inner.state()
        self.inner.next_call()
        if self.inner.state() != before:
            self._layout_of = None

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.inner.set_state(state)

    def diagnostics(self, n_rows: int) -> Diagnostics:
        """
        By quadrature, to within 1 %, as expectations over the samples: ``E[age]``, ``E[-log P]``, ``1 / E[P]``.
        """
        if self.is_plain and self.uniform_fraction == 0:
            return self.inner.diagnostics(n_rows)
        u = (np.arange(QUADRATURE_POINTS) + 0.5) / QUADRATURE_POINTS
        epsilon = self.uniform_fraction
        shares, ages = [1 - epsilon], [self.quantile(n_rows, u.copy())]
        if epsilon > 0:
            shares.append(epsilon)
            ages.append((u * n_rows).astype(np.int64))
        weights = np.repeat(shares, QUADRATURE_POINTS) / QUADRATURE_POINTS
        all_ages = np.concatenate(ages)
        p = self.probabilities(all_ages, n_rows)
        return Diagnostics(
            expected_age=float(weights @ all_ages),
            entropy=float(-weights @ np.log(p)),
            effective_sample_size=float(1 / (weights @ p)),
            median_age=weighted_median(all_ages, weights),
        )
