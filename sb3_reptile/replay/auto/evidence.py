"""What a comparison says for and against each segment, as log-likelihood ratios."""

from typing import Any

import numpy as np

from sb3_reptile.replay.auto.neighbours import Comparison, Means
from sb3_reptile.replay.auto.settings import Settings


def in_good_standing(cusum: np.ndarray, settings: Settings) -> np.ndarray:
    """
    :param cusum: Cumulative sums, shape (segments, 2 * n_outcomes)
    :param settings: Constants
    :return: From which segments can be learned how outcomes vary while nothing changes, shape (segments,). The newest
        one is not among them, as it holds the present
    """
    good = cusum.max(axis=1) < settings.doubt / 2
    good[-1] = False
    return np.asarray(good)


class FalseAlarmRate:
    """
    Running estimate of the probability that a valid segment contradicts a new transition, for each number of the
    outcome. Far situations predict outcomes less well than near ones do, so there is an estimate for each of the two. A
    contradiction of the present is false where a segment in good standing is confirmed. The first estimates are plain
    means of all comparisons, so that noise is known before it can be mistaken for a change.

    Of the same situation many transitions are compared, one of which agrees by chance. So there is a third estimate,
    which says whether an outcome is noisy: how often that of the nearest one alone differs where situations are the
    same. It begins with 0: noise is known only once a situation was seen again.

    :param rates: Estimates, first those of near situations, then those of far ones, then those of the nearest one in
        the same situation, shape (3, n_outcomes)
    :param counts: Number of comparisons of a transition with a segment behind each, shape (3, n_outcomes)
    :param settings: Constants
    """

    def __init__(self, rates: np.ndarray, counts: np.ndarray, settings: Settings) -> None:
        self.rates = rates
        self.counts = counts
        self.settings = settings

    @classmethod
    def first(cls, n_outcomes: int, settings: Settings) -> "FalseAlarmRate":
        """
        :param n_outcomes: Length of the outcome
        :param settings: Constants
        :return: The first estimate
        """
        return cls.saved(np.full(n_outcomes, settings.initial_false_alarm_rate), None, settings)

    @classmethod
    def saved(cls, rates: np.ndarray, counts: np.ndarray | None, settings: Settings) -> "FalseAlarmRate":
        """
        :param rates: Saved estimates. Former versions had one of all situations, shape (n_outcomes,), which is taken
            for a first estimate of near and far ones, or one of each of these, shape (2, n_outcomes)
        :param counts: Saved counts; None with one estimate of all situations
        :param settings: Constants
        """
        if counts is None:
            rates = np.stack([rates, rates])
            counts = np.zeros(rates.shape)
        missing = (0, 3 - len(rates)), (0, 0)
        return cls(np.pad(rates, missing), np.pad(counts, missing), settings)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(self.saved(**state).__dict__)

    @property
    def noisy(self) -> np.ndarray:
        """Which outcomes are noisy, shape (n_outcomes,)."""
        return np.asarray(self.rates[[0, 2]].max(axis=0) > self.settings.noisy_above)

    def update(self, comparison: Comparison, cusum: np.ndarray) -> None:
        """
        :param comparison: The newest comparison
        :param cusum: Cumulative sums before it, shape (segments, 2 * n_outcomes)
        """
        speaks = comparison.speaks & in_good_standing(cusum, self.settings)
        situations = np.stack([~comparison.far, comparison.far, comparison.same])
        differed = np.stack([comparison.differed, comparison.differed, comparison.nearest_differed])
        trusted = (speaks & situations)[..., None] & ~differed
        n_trusted = trusted.sum(axis=(1, 2))
        trusted[:2] &= comparison.differs_now
        trusted[2] &= comparison.nearest_differs_now
        n_false = trusted.sum(axis=(1, 2))
        share = n_false / np.maximum(n_trusted, 1)
        self.counts += n_trusted
        recent = self.settings.false_alarm_step * n_trusted / np.maximum(n_trusted[:2].sum(axis=0), 1)
        step = np.maximum(recent, n_trusted / (self.settings.first_estimate_weight + self.counts))
        self.rates += step * (share - self.rates)


def log_likelihood_ratios(
    comparison: Comparison, false_alarm_rate: FalseAlarmRate, cusum: np.ndarray, settings: Settings
) -> np.ndarray:
    """
    :param comparison: A comparison
    :param false_alarm_rate: Estimated false-alarm rate
    :param cusum: Cumulative sums before it, shape (segments, 2 * n_outcomes)
    :param settings: Constants
    :return: Log-likelihood ratios ("outdated" over "valid") of the comparison's transitions together, first those of
        single outcomes, then those of means, shape (segments, 2 * n_outcomes)
    """
    single = _of_single_outcomes(comparison, false_alarm_rate, settings)
    # The sum of an outcome that is no longer noisy falls, as it has no new evidence
    means = np.full_like(single, -settings.allowance)
    if comparison.noisy.any():
        means[:, :, comparison.noisy] = _of_means(comparison, in_good_standing(cusum, settings), settings)
    evidence = np.concatenate([single, means], axis=2)
    return np.asarray(np.where(comparison.speaks[:, :, None], evidence, 0).sum(axis=0))


def _of_single_outcomes(comparison: Comparison, false_alarm_rate: FalseAlarmRate, settings: Settings) -> np.ndarray:
    """Of contradictions and confirmations, shape (n, segments, n_outcomes)."""
    rates = np.clip(false_alarm_rate.rates, settings.min_false_alarm_rate, settings.max_false_alarm_rate)
    is_far = comparison.far.astype(np.int64)
    contradiction = np.log(settings.contradiction_rate / rates)[is_far]
    confirmation = np.log((1 - settings.contradiction_rate) / (1 - rates))[is_far]
    if_differed = np.where(comparison.differs_now, 0, contradiction)
    return np.where(comparison.differed, if_differed, confirmation)


def _of_means(comparison: Comparison, good: np.ndarray, settings: Settings) -> np.ndarray:
    """
    A single noisy outcome says little, means of similar situations say more: a share of the log-likelihood ratio of two
    normal distributions, with the mean of the segment and with that of the present, less an allowance, so that the
    cumulative sum falls while both are as likely (Page 1954).

    :param comparison: A comparison
    :param good: Segments in good standing, shape (segments,)
    :param settings: Constants
    :return: Shape (n, segments, n_noisy)
    """
    present, segments = comparison.means_now, comparison.means
    # The noise in this situation, pooled over the present and the segments in good standing
    freedom = np.maximum(segments.counts - 1, 0) * (comparison.speaks & good)
    freedom_now = np.maximum(present.counts[:, 0] - 1, 0)
    total = (freedom[:, :, None] * segments.variances).sum(axis=1) + freedom_now[:, None] * present.variances[:, 0]
    variances = total / np.maximum(freedom.sum(axis=1) + freedom_now, 1)[:, None]
    variances = np.maximum(variances, settings.tolerance**2)[:, None]

    def squared_errors(means: Means) -> np.ndarray:
        errors = means.means**2 / (variances * (1 + 1 / np.maximum(means.counts, 1))[:, :, None])
        return np.asarray(np.minimum(errors, settings.outlier**2))

    ratio = (squared_errors(segments) - squared_errors(present)) / 2
    # Means over a wider region are biased
    is_close = segments.reaches <= settings.max_distance_ratio * present.reaches + settings.distance_margin
    return np.where(is_close[:, :, None], settings.mean_evidence * ratio - settings.allowance, 0)
