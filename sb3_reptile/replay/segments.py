"""Draws through segments: rows in order of arrival that agree to different degrees with what is true now."""

from typing import Any

import numpy as np

from sb3_reptile.replay.diagnostics import Diagnostics, weighted_median
from sb3_reptile.replay.samplers import AgeSampler

QUADRATURE_POINTS = 2_000


class SegmentedSampler(AgeSampler):
    """
    Draws ages of rows with the weight ``w = c(segment) f(clock age)``: how well the row's segment agrees with the
    present, in (0, 1], times a decay of its age on a clock that runs only while the world is as it is now. That clock
    moves by ``c`` with every row of a segment, so that what has turned out to be untrue makes nothing older.

    A draw is exact, in two steps that share one random number: a segment by its total weight, then a row in it by the
    decay's own inverse. It costs O(number of segments + batch) more than the decay by itself, whatever the capacity.
    While all segments agree, draws are those of the decay by itself, bit for bit.

    :param inner: The decay, as a sampler without a uniform share
    :param uniform_fraction: As in :class:`AgeSampler`
    """

    def __init__(self, inner: AgeSampler, uniform_fraction: float = 0.0) -> None:
        super().__init__(uniform_fraction)
        self.inner = inner
        # One segment that everything belongs to
        self.set_segments(np.zeros(1, dtype=np.int64), np.ones(1), 0)

    def set_segments(self, firsts: np.ndarray, consistency: np.ndarray, rows_added: int) -> None:
        """
        :param firsts: Number of the first row of each segment, counted since the buffer was empty, rising
        :param consistency: ``c`` of each segment, in (0, 1]; that of the last one, which is still growing, must be 1
        :param rows_added: How many rows have been added so far
        """
        # From the newest to the oldest, as ages rise
        self._firsts = firsts[::-1].astype(np.int64)
        self._c = consistency[::-1].astype(np.float64)
        #: Whether all segments agree, so that the decay is all there is
        self.is_plain = bool((self._c == 1).all())
        self.rows_added = rows_added
        self._layout_of: tuple[int, int] | None = None

    def _layout(self, n_rows: int) -> None:
        """Where the segments are, on the axis of ages and on their clock, and what they weigh."""
        if self._layout_of == (n_rows, self.rows_added):
            return
        ends = np.minimum(self.rows_added - self._firsts, n_rows)
        self._starts = np.concatenate([[0], ends[:-1]])
        self._lengths = ends - self._starts
        clock = np.cumsum(self._c * self._lengths)
        self._clocks = np.concatenate([[0], np.rint(clock[:-1]).astype(np.int64)])
        self._sums = self._c * self.inner.sums(self._clocks, self._lengths, n_rows)
        self._cumulative = np.cumsum(self._sums)
        self._layout_of = n_rows, self.rows_added

    def weights(self, ages: np.ndarray, n_rows: int) -> np.ndarray:
        if self.is_plain:
            return self.inner.weights(ages, n_rows)
        self._layout(n_rows)
        segments = np.searchsorted(self._starts, ages, side="right") - 1
        # A segment that has left the buffer begins where the oldest one ends
        segments = np.minimum(segments, np.flatnonzero(self._lengths)[-1])
        return self._c[segments] * self.inner.weights(ages - self._starts[segments] + self._clocks[segments], n_rows)

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
        # Rounding may go past the last one that counts
        np.minimum(segments, np.flatnonzero(self._sums)[-1], out=segments)
        u -= self._cumulative[segments] - self._sums[segments]
        u /= self._sums[segments]
        clocks = self._clocks[segments]
        inside = self.inner.quantile_within(clocks, self._lengths[segments], np.clip(u, 0, 1, out=u), n_rows)
        return self._starts[segments] + inside

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
        By quadrature, to within 1 %, as they are means over what is drawn: ``E[age]``, ``E[-log P]``, ``1 / E[P]``.
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
