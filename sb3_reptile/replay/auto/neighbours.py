"""Comparison of new transitions with the most similar stored ones."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sb3_reptile.replay.auto.features import Transitions, join, multiply
from sb3_reptile.replay.auto.outcome_model import OutcomeModel

# The place of missing points, further away than any other
NOWHERE = 1e6


class Similar(NamedTuple):
    """
    How similar the nearest neighbours of n new transitions in each of several samples are.

    :param differences: Difference between the outcome of the new transition and the most similar outcome among its
        nearest neighbour, two, and so on, shape (neighbours, n, samples, n_outcomes)
    :param counts: Number of neighbours that count, shape (n, samples)
    :param distances: Mean distance of the neighbours, shape (n, samples); infinite if the sample has not enough
        transitions of the same group
    :param nearest: Distance of the nearest one, shape (n, samples)
    """

    differences: np.ndarray
    counts: np.ndarray
    distances: np.ndarray
    nearest: np.ndarray

    def smallest(self, counts: np.ndarray) -> np.ndarray:
        """
        :param counts: Numbers of neighbours, shape (n, samples), or (n, m) if there is one sample
        :return: Difference between the outcome and the most similar one among this number of neighbours, or among all
            if there are fewer, shape (n, samples, n_outcomes) or (n, m, n_outcomes)
        """
        index = np.minimum(counts, len(self.differences)) - 1
        n, n_samples = self.differences.shape[1:3]
        return np.asarray(self.differences[index, np.arange(n)[:, None], np.arange(n_samples)[None]])


class Means(NamedTuple):
    """
    Noisy outcomes of the nearest neighbours of n new transitions in each of several samples.

    :param means: Their mean, less the outcome of the new transition, shape (n, samples, n_noisy)
    :param variances: Their variance, shape (n, samples, n_noisy)
    :param counts: Number of neighbours, shape (n, samples)
    :param reaches: Their mean distance, shape (n, samples)
    """

    means: np.ndarray
    variances: np.ndarray
    counts: np.ndarray
    reaches: np.ndarray


class Placed(NamedTuple):
    """
    Transitions, or several samples of them, as the outcome model places them.

    :param places: Shape (points, d), or (samples, points, d)
    :param squares: Squared norms of the places, shape (points,) or (samples, points)
    :param residuals: Shape (points, n_outcomes) or (samples, points, n_outcomes)
    """

    places: np.ndarray
    squares: np.ndarray
    residuals: np.ndarray

    def take(self, which: Any) -> "Placed":
        """
        :param which: An index, a mask or a slice
        """
        return Placed(*(array[which] for array in self))

    def without_repetitions(self) -> "Placed":
        """
        :return: The first transition of each place
        """
        is_same = (self.places[:, None] == self.places[None]).all(axis=2)
        return self.take(~np.tril(is_same, -1).any(axis=1))

    def followed_by(self, others: "Placed") -> "Placed":
        """
        :param others: Other transitions
        :return: These and the others
        """
        return Placed(*map(np.concatenate, zip(self, others, strict=True)))


class Comparison(NamedTuple):
    """
    Result of comparing n new transitions with the present and with each segment.

    :param speaks: Whether the segment holds situations similar enough to be compared, shape (n, segments)
    :param far: Whether the nearest situation of the present, or of the segment, is not near, shape (n, segments)
    :param differs_now: Whether the outcome differs from that in the present, shape (n, segments, n_outcomes)
    :param differed: Whether the outcome differs from that in the segment, shape (n, segments, n_outcomes)
    :param same: Whether the nearest situations of the present and of the segment are the same, shape (n, segments)
    :param nearest_differs_now: Whether the outcome differs from that of the nearest situation of the present, shape (n,
        1, n_outcomes)
    :param nearest_differed: The same of the segment, shape (n, segments, n_outcomes)
    :param noisy: Which outcomes are noisy, shape (n_outcomes,)
    :param means_now: These outcomes in similar situations of the present, with samples = 1
    :param means: Those in the segments
    """

    speaks: np.ndarray
    far: np.ndarray
    differs_now: np.ndarray
    differed: np.ndarray
    same: np.ndarray
    nearest_differs_now: np.ndarray
    nearest_differed: np.ndarray
    noisy: np.ndarray
    means_now: Means
    means: Means

    @property
    def silent(self) -> np.ndarray:
        """Which segments could not be compared with any of the transitions, shape (segments,); never the last one."""
        silent = np.logical_not(np.asarray(self.speaks.any(axis=0)))
        silent[-1] = False
        return silent

    @property
    def confirmations(self) -> np.ndarray:
        """
        Number of transitions with the same outcomes, but for noisy ones, in the present and in each segment, shape
        (segments,).
        """
        same = ~(self.differed | self.differs_now)[:, :, ~self.noisy].any(axis=2)
        return np.asarray((self.speaks & same).sum(axis=0))


class Neighbours:
    """
    Finds nearest neighbours of new transitions in the samples of the present and of the segments, which it keeps as the
    outcome model places them.

    :param model: The outcome model
    :param present: The newest transitions
    :param samples: The sample of each segment
    :param only_near: Whether far situations are not compared at all
    """

    def __init__(
        self, model: OutcomeModel, present: Transitions, samples: Iterable[Transitions], only_near: bool = False
    ) -> None:
        self.model = model
        self.settings = model.settings
        self._only_near = only_near
        self._near = self.settings.near * model.unrelated_distance
        samples = list(samples)
        # All at once: a call costs more than a transition
        placed = self.place(join([present, *samples]))
        n_present = len(present.rows)
        self._present = placed.take((np.newaxis, slice(n_present)))
        shape = len(samples), self.settings.sample_size
        places = np.full((*shape, placed.places.shape[1]), NOWHERE)
        residuals = np.zeros((*shape, placed.residuals.shape[1]))
        self._samples = Placed(places, (places**2).sum(axis=2), residuals)
        start = n_present
        for index, sample in enumerate(samples):
            end = start + len(sample.rows)
            self._set_sample(index, placed.take(slice(start, end)))
            start = end

    def place(self, transitions: Transitions) -> Placed:
        """
        :param transitions: Any transitions
        :return: Where the outcome model places them
        """
        places, residuals = self.model(transitions)
        return Placed(places, (places**2).sum(axis=1), residuals)

    def _set_sample(self, index: int, sample: Placed) -> None:
        for array, values in zip(self._samples, sample, strict=True):
            array[index, : len(values)] = values

    def add(self, new: Placed, n_before: int, kept: np.ndarray) -> None:
        """
        Add new transitions to the present and to the sample of the last segment.

        :param new: The new transitions
        :param n_before: Size of the sample so far
        :param kept: Which of the sample so far, followed by the new transitions, are in the sample now
        """
        present = self._present.take(0).followed_by(new).take(slice(-self.settings.present_size, None))
        self._present = present.take(np.newaxis)
        before = self._samples.take((-1, slice(n_before)))
        self._set_sample(-1, before.followed_by(new).take(kept))

    def compare(self, new: Placed, noisy: np.ndarray) -> Comparison:
        """
        Look up the most similar situations in the present and in each segment, and compare their outcomes.

        :param new: n new transitions
        :param noisy: Which outcomes are noisy, shape (n_outcomes,)
        """
        residuals = new.residuals
        squares_now, squares = (self._squared_distances(new, stored) for stored in (self._present, self._samples))
        means_now = self._average(squares_now, residuals, self._present, noisy)
        means = self._average(squares, residuals, self._samples, noisy)
        in_present = self._find_most_similar(squares_now, residuals, self._present)
        in_segments = self._find_most_similar(squares, residuals, self._samples)
        tolerance = self.settings.tolerance
        # As many neighbours of the present as of the segment: the more there are, the more often one agrees by chance
        counts = np.minimum(in_present.counts, in_segments.counts)
        differs_now, differed = (similar.smallest(counts) > tolerance for similar in (in_present, in_segments))
        speaks = self._speaks(in_present.distances, in_segments.distances)
        nearest = np.maximum(in_present.nearest, in_segments.nearest)
        far, same = nearest > self._near, nearest <= self.settings.distance_margin
        if self._only_near:
            speaks &= ~far
        nearest_differs_now, nearest_differed = (
            similar.differences[0] > tolerance for similar in (in_present, in_segments)
        )
        return Comparison(
            speaks, far, differs_now, differed, same, nearest_differs_now, nearest_differed, noisy, means_now, means
        )

    def _speaks(self, present: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """
        :param present: Distances in the present, shape (n, 1)
        :param stored: Distances in the segments, shape (n, segments)
        :return: Whether a segment's neighbours are about as close as the present's, shape (n, segments)
        """
        farthest = self.settings.max_distance_ratio * present + self.settings.distance_margin
        return (stored <= farthest) & np.isfinite(present) & np.isfinite(stored)

    @staticmethod
    def _squared_distances(new: Placed, stored: Placed) -> np.ndarray:
        """
        :param new: n new transitions
        :param stored: Samples
        :return: Squared distances, shape (n, samples, points)
        """
        n, (n_samples, n_points, d) = len(new.places), stored.places.shape
        squares = multiply(-2 * new.places, stored.places.reshape(-1, d).T).reshape(n, n_samples, n_points)
        squares += stored.squares
        squares += new.squares[:, None, None]
        return squares

    def _average(self, squares: np.ndarray, residuals: np.ndarray, stored: Placed, noisy: np.ndarray) -> Means:
        """
        :param squares: Squared distances, shape (n, samples, points)
        :param residuals: Shape (n, k)
        :param stored: The samples
        :param noisy: Which outcomes are noisy, shape (k,)
        """
        n, n_samples, n_points = squares.shape
        size = min(self.settings.mean_neighbours, n_points)
        if size == 0 or not noisy.any():
            nothing = np.zeros((n, n_samples, np.count_nonzero(noisy)))
            return Means(nothing, nothing, np.zeros((n, n_samples), dtype=np.int64), np.zeros((n, n_samples)))
        nearest = np.argpartition(squares, size - 1, axis=2)[:, :, :size]
        squares = np.take_along_axis(squares, nearest, axis=2)
        limit = self._near if self._only_near else self.settings.group_distance
        counted = squares <= limit**2
        counts = counted.sum(axis=2)
        shares = counted / np.maximum(counts, 1)[:, :, None]
        outcomes = stored.residuals[np.arange(n_samples)[None, :, None], nearest][..., noisy]
        outcomes -= residuals[:, None, None, noisy]
        means = (shares[..., None] * outcomes).sum(axis=2)
        # Unbiased: noise must not be underestimated where there are few neighbours
        unbiased = counts / np.maximum(counts - 1, 1)
        variances = (shares[..., None] * (outcomes - means[:, :, None]) ** 2).sum(axis=2) * unbiased[:, :, None]
        return Means(means, variances, counts, (shares * np.sqrt(np.maximum(squares, 0))).sum(axis=2))

    def _find_most_similar(self, squares: np.ndarray, residuals: np.ndarray, stored: Placed) -> Similar:
        """
        :param squares: Squared distances, shape (n, samples, points); changed in place
        :param residuals: Shape (n, k)
        :param stored: The samples to search
        """
        n, n_samples, n_points = squares.shape
        item, sample = np.arange(n)[:, None], np.arange(n_samples)[None]
        smallest = np.full((n, n_samples, residuals.shape[1]), np.inf)
        distance = np.full((n, n_samples), 0.0 if n_points >= self.settings.neighbours else np.inf)
        closest = np.full((n, n_samples), np.inf)  # of no points
        other_group = self.settings.group_distance**2
        by_number = []
        counts = np.full((n, n_samples), self.settings.neighbours)
        for rank in range(min(self.settings.same_neighbours, n_points)):
            nearest = squares.argmin(axis=2)
            square = squares[item, sample, nearest]
            if rank >= self.settings.neighbours:
                is_same = square <= self.settings.distance_margin**2
                if not is_same.any():
                    break
                counts += is_same
            squares[item, sample, nearest] = np.inf
            smallest = np.minimum(smallest, np.abs(stored.residuals[sample, nearest] - residuals[:, None]))
            by_number.append(smallest)
            if rank < self.settings.neighbours:
                root = np.sqrt(np.maximum(square, 0))
                distance += np.where(square < other_group, root, np.inf)
                if rank == 0:
                    closest = root
        differences = np.stack(by_number) if by_number else smallest[None]
        return Similar(differences, counts, distance / self.settings.neighbours, closest)
