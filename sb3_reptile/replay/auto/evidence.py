"""What a comparison says for and against each segment, as log-likelihood ratios."""

import numpy as np

from sb3_reptile.replay.auto.neighbours import Comparison
from sb3_reptile.replay.auto.settings import Settings


def update_false_alarm_rate(
    rate: np.ndarray, comparison: Comparison, cusum: np.ndarray, settings: Settings
) -> np.ndarray:
    """
    A contradiction of the present is false where a segment in good standing is confirmed.

    :param rate: Running estimate of the false-alarm rate, shape (n_outcomes,)
    :param comparison: The newest comparison
    :param cusum: Cumulative sums before it, shape (segments, n_outcomes)
    :param settings: Constants
    :return: The new estimate, shape (n_outcomes,)
    """
    in_good_standing = cusum.max(axis=1) < settings.doubt / 2
    trusted = (comparison.speaks & in_good_standing)[:, :, None] & ~comparison.differed
    n_trusted = trusted.sum(axis=(0, 1))
    share = (trusted & comparison.differs_now).sum(axis=(0, 1)) / np.maximum(n_trusted, 1)
    step = np.where(n_trusted > 0, settings.false_alarm_step, 0)
    return rate + step * (share - rate)


def log_likelihood_ratios(comparison: Comparison, false_alarm_rate: np.ndarray, settings: Settings) -> np.ndarray:
    """
    :param comparison: A comparison
    :param false_alarm_rate: Estimated false-alarm rate, shape (n_outcomes,)
    :param settings: Constants
    :return: Evidence ("outdated" over "valid") of all transitions, in nats, shape (segments, n_outcomes)
    """
    # A single outcome says whether a segment holds only where outcomes vary less than the tolerance
    is_noisy = comparison.noise > settings.tolerance
    evidence = _of_single_outcomes(comparison, false_alarm_rate, settings)
    if is_noisy.any():
        evidence = np.where(is_noisy, _of_means(comparison, settings), evidence)
    return np.asarray(np.where(comparison.speaks[:, :, None], evidence, 0).sum(axis=0))


def _of_single_outcomes(comparison: Comparison, false_alarm_rate: np.ndarray, settings: Settings) -> np.ndarray:
    """Log-likelihood ratios of contradictions and confirmations, shape (n, segments, n_outcomes)."""
    rate = np.clip(false_alarm_rate, settings.min_false_alarm_rate, settings.max_false_alarm_rate)
    contradiction = np.log(settings.contradiction_rate / rate)
    confirmation = np.log((1 - settings.contradiction_rate) / (1 - rate))
    if_differed = np.where(comparison.differs_now, 0, contradiction)
    return np.where(comparison.differed, if_differed, confirmation)


def _of_means(comparison: Comparison, settings: Settings) -> np.ndarray:
    """
    How much further the outcome is from the mean in the segment than from the mean in the present, in squared standard
    errors, less an allowance: the cumulative sum falls while both are as far (Page 1954). For normal outcomes and means
    without error, half of this difference is the log-likelihood ratio; neighbours are few, so that less of it counts.

    :param comparison: A comparison
    :param settings: Constants
    :return: Shape (n, segments, n_outcomes)
    """
    errors = np.maximum(comparison.noise, settings.tolerance) * np.sqrt(1 + 1 / settings.neighbours)
    # A single outlier must not decide
    then, now = (
        np.minimum((deviation / errors) ** 2, settings.outlier**2)
        for deviation in (comparison.deviated, comparison.deviates_now)
    )
    limit = settings.max_noisy_evidence
    evidence = np.clip(settings.noisy_evidence * (then - now), -limit, limit) - settings.noise_allowance
    return np.asarray(evidence)
