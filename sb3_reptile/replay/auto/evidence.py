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
    speaks, differs_now, differed = comparison
    in_good_standing = cusum.max(axis=1) < settings.doubt / 2
    trusted = (speaks & in_good_standing)[:, :, None] & ~differed
    n_trusted = trusted.sum(axis=(0, 1))
    share = (trusted & differs_now).sum(axis=(0, 1)) / np.maximum(n_trusted, 1)
    step = np.where(n_trusted > 0, settings.false_alarm_step, 0)
    return rate + step * (share - rate)


def log_likelihood_ratios(comparison: Comparison, false_alarm_rate: np.ndarray, settings: Settings) -> np.ndarray:
    """
    :param comparison: A comparison
    :param false_alarm_rate: Estimated false-alarm rate, shape (n_outcomes,)
    :param settings: Constants
    :return: Log-likelihood ratios ("outdated" over "valid") of contradictions and confirmations, shape
        (segments, n_outcomes)
    """
    rate = np.clip(false_alarm_rate, settings.min_false_alarm_rate, settings.max_false_alarm_rate)
    contradiction = np.log(settings.contradiction_rate / rate)
    confirmation = np.log((1 - settings.contradiction_rate) / (1 - rate))
    if_differed = np.where(comparison.differs_now, 0, contradiction)
    evidence = np.where(comparison.differed, if_differed, confirmation)
    return np.asarray(np.where(comparison.speaks[:, :, None], evidence, 0).sum(axis=0))
