"""Segments: runs of rows that are judged as a whole."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from sb3_reptile.replay.auto.features import Transitions, join
from sb3_reptile.replay.auto.settings import Settings

# Attribute of a segment -> name of its array in a saved folder; these names stay as they are
ARRAY_NAMES = {
    "start": "first",
    "regime": "regime",
    "agreed_at": "agreed_at",
    "confirmations": "confirmations",
    "cusum": "sums",
}


def with_means(cusum: np.ndarray, sample: Transitions) -> np.ndarray:
    """
    :param cusum: Cumulative sums of a segment; former versions saved only those of single outcomes
    :param sample: Its sample
    :return: The cumulative sums of single outcomes and of means, shape (2 * n_outcomes,)
    """
    return np.pad(cusum, (0, 2 * sample.outcomes.shape[1] - len(cusum)))


class Segment:
    """
    A run of rows.

    :param start: Number of its first row
    :param regime: Number of its regime
    :param cusum: Cumulative sums of the evidence against it, in nats, two for each number of the outcome: first those
        of single outcomes, then those of means
    :param sample: Some of its transitions
    """

    def __init__(self, start: int, regime: int, cusum: np.ndarray, sample: Transitions) -> None:
        self.start = start
        self.regime = regime
        self.cusum = cusum
        self.sample = sample
        #: The last row at which all cumulative sums were near 0
        self.agreed_at = start
        #: Number of confirmations since the last change
        self.confirmations = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles from before there were settings have the names that folders have
        attributes = {name: attribute for attribute, name in ARRAY_NAMES.items()}
        self.__dict__.update({attributes.get(name, name): value for name, value in state.items()})
        self.cusum = with_means(self.cusum, self.sample)


class Segments(list[Segment]):
    """
    The segments of a buffer, from the oldest to the newest, which is still growing.

    :param segments: Segments to begin with, at least one
    :param generator: Draws the samples
    :param settings: Constants
    """

    def __init__(self, segments: Iterable[Segment], generator: np.random.Generator, settings: Settings) -> None:
        super().__init__(segments)
        self.generator = generator
        self.settings = settings

    @property
    def starts(self) -> np.ndarray:
        """Number of the first row of each segment, int64."""
        return np.array([segment.start for segment in self])

    @property
    def consistencies(self) -> np.ndarray:
        """Consistency of each segment, in (0, 1]; the last one has 1."""
        largest = self.cusum.max(axis=1)
        largest[-1] = 0
        return np.exp(-np.maximum(largest - self.settings.doubt, 0))

    @property
    def cusum(self) -> np.ndarray:
        """Cumulative sums of all segments, shape (segments, 2 * n_outcomes)."""
        return np.array([segment.cusum for segment in self])

    def witnesses(self, regime: int) -> list[int]:
        """
        :param regime: Number of a regime
        :return: Indices of its last segments, without the one that is still growing
        """
        of_regime = [index for index, segment in enumerate(self[:-1]) if segment.regime == regime]
        return of_regime[-self.settings.witnesses :]

    def follow_neighbours(self, cusum: np.ndarray, silent: np.ndarray) -> None:
        """
        Move the cumulative sums of silent segments towards the mean of their neighbours in the same regime.

        :param cusum: Cumulative sums, shape (segments, 2 * n_outcomes); changed in place
        :param silent: Which segments are silent, shape (segments,)
        """
        if not silent.any():
            return
        regimes = np.array([segment.regime for segment in self])
        same = (regimes[1:] == regimes[:-1])[:, None].astype(np.float64)
        # The last segment has no evidence about what was before it
        same[-1:] = 0
        total, count = np.zeros_like(cusum), np.zeros((len(cusum), 1))
        total[1:] += same * cusum[:-1]
        total[:-1] += same * cusum[1:]
        count[1:] += same
        count[:-1] += same
        mean = np.where(count > 0, total / np.maximum(count, 1), cusum)
        cusum[silent] += self.settings.silent_step * (mean[silent] - cusum[silent])

    def update(self, cusum: np.ndarray, confirmations: np.ndarray, rows_seen: int) -> None:
        """
        :param cusum: New cumulative sums, shape (segments, 2 * n_outcomes)
        :param confirmations: Number of new confirmations, shape (segments,)
        :param rows_seen: Number of rows seen so far
        """
        agrees = cusum.max(axis=1) < self.settings.doubt / 4
        for index, segment in enumerate(self):
            segment.cusum = cusum[index]
            segment.confirmations += int(confirmations[index])
            if agrees[index]:
                segment.agreed_at = rows_seen

    def open(self, row: int) -> None:
        """
        Begin a new segment of the same regime.

        :param row: Number of its first row
        """
        last = self[-1]
        self.append(Segment(row, last.regime, last.cusum.copy(), last.sample.take(slice(0))))

    def add_to_sample(self, new: Transitions) -> np.ndarray:
        """
        Add some of the transitions to the sample of the last segment.

        :param new: New transitions
        :return: Which of the sample so far, followed by the new transitions, are in the sample now: indices, increasing
        """
        size, n_before = self.settings.sample_size, len(self[-1].sample.rows)
        picked = np.flatnonzero(self.generator.random(len(new.rows)) < size / self.settings.segment_size)
        kept = np.concatenate([np.arange(n_before), n_before + picked])
        if len(kept) > size:
            kept = kept[np.sort(self.generator.permutation(len(kept))[:size])]
        self[-1].sample = join([self[-1].sample, new]).take(kept)
        return kept

    def split(self, row: int, regime: int) -> None:
        """
        Begin a new regime: split the segment that holds the row, and move all later segments to the new regime.

        :param row: Number of the first row of the new regime
        :param regime: Number of the new regime
        """
        index = int(np.searchsorted(self.starts, row, side="right")) - 1
        old = self[index]
        is_new = old.sample.rows >= row
        new = Segment(row, regime, np.zeros_like(old.cusum), old.sample.take(is_new))
        contradicted = self[max(index - 1, 0)].cusum
        old.sample, old.cusum = old.sample.take(~is_new), np.maximum(old.cusum, contradicted)
        for segment in self[index + 1 :]:
            segment.regime, segment.cusum = regime, np.zeros_like(old.cusum)
        self.insert(index + 1, new)
        for segment in self:
            segment.confirmations = 0

    def forget(self, first_kept: int) -> bool:
        """
        Drop the segments that have left the buffer.

        :param first_kept: Number of the oldest row that the buffer still holds
        :return: Whether there were any
        """
        n_before = len(self)
        while len(self) > 1 and self[1].start <= first_kept:
            del self[0]
        return len(self) < n_before

    def join_neighbours(self, rows_seen: int) -> None:
        """
        While there are too many segments, join two neighbours that are short for their age and equally consistent.

        :param rows_seen: Number of rows seen so far
        """
        while len(self) > self.settings.max_segments:
            starts = self.starts
            lengths = np.diff(starts)
            # The last segment is still growing
            costs = (lengths[:-1] + lengths[1:]) / (rows_seen - starts[:-2] + 1)
            costs = costs + 10 * np.abs(np.diff(self.consistencies)[:-1])
            index = int(costs.argmin())
            self._join(index, lengths[[index, index + 1]])

    def _join(self, index: int, lengths: np.ndarray) -> None:
        """
        :param index: Index of the older of two neighbours
        :param lengths: Their lengths in rows
        """
        older, newer = self[index], self[index + 1]
        sample = join([older.sample, newer.sample])
        counts = np.array([len(older.sample.rows), len(newer.sample.rows)])
        # A transition of a sample represents this number of rows
        rows_per_point = np.repeat(lengths / np.maximum(counts, 1), counts)
        size = min(self.settings.sample_size, len(sample.rows))
        if size > 0:
            p = rows_per_point / rows_per_point.sum()
            sample = sample.take(np.sort(self.generator.choice(len(p), size, replace=False, p=p)))
        newer.start, newer.sample, newer.cusum = older.start, sample, np.maximum(older.cusum, newer.cusum)
        newer.agreed_at = min(older.agreed_at, newer.agreed_at)
        newer.confirmations += older.confirmations
        del self[index]

    def arrays(self) -> dict[str, np.ndarray]:
        """
        :return: Everything but the samples, by the names that files have
        """
        return {name: np.array([getattr(segment, key) for segment in self]) for key, name in ARRAY_NAMES.items()}

    def set_arrays(self, arrays: dict[str, np.ndarray], samples: list[Transitions]) -> None:
        """
        :param arrays: Result of ``arrays()``
        :param samples: The sample of each segment
        """
        self.clear()
        numbers = (arrays[name].tolist() for key, name in ARRAY_NAMES.items() if key != "cusum")
        for cusum, sample, start, regime, agreed_at, confirmations in zip(
            arrays[ARRAY_NAMES["cusum"]].copy(), samples, *numbers, strict=True
        ):
            segment = Segment(int(start), int(regime), with_means(cusum, sample), sample)
            segment.agreed_at, segment.confirmations = int(agreed_at), int(confirmations)
            self.append(segment)
