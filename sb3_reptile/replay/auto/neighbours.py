"""Comparison of new transitions with the most similar stored ones."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sb3_reptile.replay.auto.features import Transitions, multiply
from sb3_reptile.replay.auto.outcome_model import OutcomeModel

# The place of missing points, further away than any other
NOWHERE = 1e6


class Similar(NamedTuple):
    """
    How similar the nearest neighbours of n new transitions in each of several samples are.

    :param differences: Difference between the outcome of the new transition and the most similar outcome among its
        neighbours, shape (n, samples, n_outcomes)
    :param distances: Mean distance of the neighbours, shape (n, samples); infinite if the sample has not enough
        transitions of the same group
    """

    differences: np.ndarray
    distances: np.ndarray


class Placed(NamedTuple):
    """
    Samples as the outcome model places them.

    :param places: Shape (samples, points, d)
    :param squares: Squared norms of the places, shape (samples, points)
    :param residuals: Shape (samples, points, n_outcomes)
    """

    places: np.ndarray
    squares: np.ndarray
    residuals: np.ndarray


class Comparison(NamedTuple):
    """
    Result of comparing n new transitions with the present and with each segment.

    :param speaks: Whether the segment holds situations similar enough to be compared, shape (n, segments)
    :param differs_now: Whether the outcome differs from that in the present, shape (n, 1, n_outcomes)
    :param differed: Whether the outcome differs from that in the segment, shape (n, segments, n_outcomes)
    """

    speaks: np.ndarray
    differs_now: np.ndarray
    differed: np.ndarray

    @property
    def silent(self) -> np.ndarray:
        """Which segments could not be compared with any of the transitions, shape (segments,); never the last one."""
        silent = np.logical_not(np.asarray(self.speaks.any(axis=0)))
        silent[-1] = False
        return silent

    @property
    def confirmations(self) -> np.ndarray:
        """Number of transitions with the same outcome in the present and in each segment, shape (segments,)."""
        same = ~self.differed.any(axis=2) & ~self.differs_now.any(axis=2)
        return np.asarray((self.speaks & same).sum(axis=0))


class Neighbours:
    """
    Finds nearest neighbours of new transitions in the samples of the present and of the segments, which it keeps as the
    outcome model places them.

    :param model: The outcome model
    :param present: The newest transitions
    :param samples: The sample of each segment
    """

    def __init__(self, model: OutcomeModel, present: Transitions, samples: Iterable[Transitions]) -> None:
        self.model = model
        self.settings = model.settings
        self.place_present(present)
        samples = list(samples)
        shape = len(samples), self.settings.sample_size
        places = np.full((*shape, self._present.places.shape[2]), NOWHERE)
        residuals = np.zeros((*shape, self._present.residuals.shape[2]))
        self._samples = Placed(places, (places**2).sum(axis=2), residuals)
        for index, sample in enumerate(samples):
            self.place_sample(index, sample)

    def place_present(self, present: Transitions) -> None:
        """
        :param present: The newest transitions
        """
        places, residuals = self.model(present)
        self._present = Placed(places[None], (places**2).sum(axis=1)[None], residuals[None])

    def place_sample(self, index: int, sample: Transitions) -> None:
        """
        :param index: Index of a segment
        :param sample: Its sample, which is not smaller than before
        """
        places, residuals = self.model(sample)
        for array, values in zip(self._samples, (places, (places**2).sum(axis=1), residuals), strict=True):
            array[index, : len(sample.rows)] = values

    def compare(self, new: Transitions) -> Comparison:
        """
        Look up the most similar situations in the present and in each segment, and compare their outcomes.

        :param new: n new transitions
        """
        places, residuals = self.model(new)
        in_present = self._find_most_similar(places, residuals, self._present)
        in_segments = self._find_most_similar(places, residuals, self._samples)
        tolerance = self.settings.tolerance
        differs_now, differed = in_present.differences > tolerance, in_segments.differences > tolerance
        return Comparison(self._speaks(in_present.distances, in_segments.distances), differs_now, differed)

    def _speaks(self, present: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """
        :param present: Distances in the present, shape (n, 1)
        :param stored: Distances in the segments, shape (n, segments)
        :return: Whether a segment's neighbours are about as close as the present's, shape (n, segments)
        """
        farthest = self.settings.max_distance_ratio * present + self.settings.distance_margin
        return (stored <= farthest) & np.isfinite(present) & np.isfinite(stored)

    def _find_most_similar(self, places: np.ndarray, residuals: np.ndarray, stored: Placed) -> Similar:
        """
        :param places: Shape (n, d)
        :param residuals: Shape (n, k)
        :param stored: The samples to search
        """
        n, (n_samples, n_points, d) = len(places), stored.places.shape
        squares = multiply(-2 * places, stored.places.reshape(-1, d).T).reshape(n, n_samples, n_points)
        squares += stored.squares
        squares += (places**2).sum(axis=1)[:, None, None]
        item, sample = np.arange(n)[:, None], np.arange(n_samples)[None]
        smallest = np.full((n, n_samples, residuals.shape[1]), np.inf)
        distance = np.zeros((n, n_samples))
        other_group = self.settings.group_distance**2
        for _ in range(min(self.settings.neighbours, n_points)):
            nearest = squares.argmin(axis=2)
            square = squares[item, sample, nearest]
            squares[item, sample, nearest] = np.inf
            difference = np.abs(stored.residuals[sample, nearest] - residuals[:, None])
            smallest = np.minimum(smallest, difference)
            distance += np.where(square < other_group, np.sqrt(np.maximum(square, 0)), np.inf)
        return Similar(smallest, distance / self.settings.neighbours)
