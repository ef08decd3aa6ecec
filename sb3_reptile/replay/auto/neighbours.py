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
    :param deviations: Difference between the outcome of the new transition and the mean outcome of its neighbours,
        shape (n, samples, n_outcomes)
    :param variances: Variance of the outcomes of the neighbours, shape (n, samples, n_outcomes)
    :param distances: Mean distance of the neighbours, shape (n, samples); infinite if the sample has not enough
        transitions of the same group
    """

    differences: np.ndarray
    deviations: np.ndarray
    variances: np.ndarray
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
    :param noise: Standard deviation of outcomes in this situation, shape (n, 1, n_outcomes)
    :param deviates_now: Difference from the mean outcome in the present, shape (n, 1, n_outcomes)
    :param deviated: Difference from the mean outcome in the segment, shape (n, segments, n_outcomes)
    """

    speaks: np.ndarray
    differs_now: np.ndarray
    differed: np.ndarray
    noise: np.ndarray
    deviates_now: np.ndarray
    deviated: np.ndarray

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
        speaks = self._speaks(in_present.distances, in_segments.distances)
        noise = self._noise(speaks, in_segments.variances, in_present)
        return Comparison(speaks, differs_now, differed, noise, in_present.deviations, in_segments.deviations)

    def _speaks(self, present: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """
        :param present: Distances in the present, shape (n, 1)
        :param stored: Distances in the segments, shape (n, segments)
        :return: Whether a segment's neighbours are about as close as the present's, shape (n, segments)
        """
        farthest = self.settings.max_distance_ratio * present + self.settings.distance_margin
        return (stored <= farthest) & np.isfinite(present) & np.isfinite(stored)

    def _noise(self, speaks: np.ndarray, variances: np.ndarray, present: Similar) -> np.ndarray:
        """
        :param speaks: Which segments can be compared, shape (n, segments)
        :param variances: Variances in the segments, shape (n, segments, n_outcomes)
        :param present: Neighbours in the present
        :return: Standard deviation of the outcomes, shape (n, 1, n_outcomes)
        """
        weights = speaks.astype(np.float64)
        # Right after a change, the present and the newest segment hold outcomes from before and after it
        has_few = weights[:, :-1].sum(axis=1) < self.settings.min_noise_samples
        weights[:, -1] *= has_few
        of_present = has_few & np.isfinite(present.distances[:, 0])
        total = (weights[:, :, None] * variances).sum(axis=1) + of_present[:, None] * present.variances[:, 0]
        return np.sqrt(total / np.maximum(weights.sum(axis=1) + of_present, 1)[:, None])[:, None]

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
        distance = np.zeros((n, n_samples))
        other_group = self.settings.group_distance**2
        if n_points == 0:
            nothing = np.full((n, n_samples, residuals.shape[1]), np.inf)
            return Similar(nothing, nothing, np.zeros_like(nothing), distance)
        outcomes = []
        for _ in range(min(self.settings.neighbours, n_points)):
            nearest = squares.argmin(axis=2)
            square = squares[item, sample, nearest]
            squares[item, sample, nearest] = np.inf
            outcomes.append(stored.residuals[sample, nearest])
            distance += np.where(square < other_group, np.sqrt(np.maximum(square, 0)), np.inf)
        found = np.stack(outcomes)
        differences = np.abs(found - residuals[:, None]).min(axis=0)
        mean = found.mean(axis=0)
        variances = ((found - mean) ** 2).sum(axis=0) / max(len(found) - 1, 1)
        return Similar(differences, residuals[:, None] - mean, variances, distance / self.settings.neighbours)
