"""Diagnostics of sampling distributions: expected age, entropy, effective sample size; some in closed form."""

import math
from typing import NamedTuple

import numpy as np


class Diagnostics(NamedTuple):
    """
    Statistics of a sampling distribution.

    :param expected_age: Mean age of the draws
    :param entropy: ``-sum P log P``, in nats; ``log n`` for uniform replay of n
    :param effective_sample_size: ``(sum w)^2 / sum w^2 = 1 / sum P^2`` (Kish, Survey Sampling, 1965, section 8.2):
        the number of items for which a uniform distribution would be as concentrated
    :param median_age: Median age of the draws
    """

    expected_age: float
    entropy: float
    effective_sample_size: float
    median_age: float


class ReplayDiagnostics(NamedTuple):
    """
    What a buffer replays. Ages are in transitions.

    :param expected_age: Mean age of the draws
    :param entropy: Entropy of the distribution over the transitions, in nats; ``log n`` for uniform replay
    :param effective_sample_size: Number of transitions for which uniform replay would be as concentrated
    :param median_age: Median age of the draws: the half-life of an exponential decay in a large buffer
    :param newest_age: Age of the newest transition that can be drawn
    :param oldest_age: Age of the oldest transition that can be drawn
    :param replay_volume: Transitions drawn per transition added, so far
    """

    expected_age: float
    entropy: float
    effective_sample_size: float
    median_age: float
    newest_age: int
    oldest_age: int
    replay_volume: float


def diagnose(probabilities: np.ndarray, ages: np.ndarray) -> Diagnostics:
    """
    :param probabilities: The distribution; it sums to 1
    :param ages: The age of each outcome, same shape
    :return: Its diagnostics, O(n)
    """
    p = probabilities[probabilities > 0]
    return Diagnostics(
        expected_age=float((probabilities * ages).sum()),
        entropy=float(-(p * np.log(p)).sum()),
        effective_sample_size=float(1 / (p**2).sum()),
        median_age=weighted_median(ages, probabilities),
    )


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """
    :param values: Values, any shape
    :param weights: Their weights, >= 0, same shape
    :return: The weighted median: the smallest value at which the cumulative weight reaches half of the total
    """
    order = values.reshape(-1).argsort(kind="stable")
    cumulative = weights.reshape(-1)[order].cumsum()
    # Rounding must not move it past a value that has exactly half
    return float(values.reshape(-1)[order[np.searchsorted(cumulative, cumulative[-1] * (0.5 - 1e-12))]])


def _inverse_expm1(y: float) -> float:
    """``1 / (exp(y) - 1)`` for y > 0, 0 where exp(y) overflows."""
    return 1 / math.expm1(y) if y < 700 else 0.0


def _inverse_expm1_remainder(y: float) -> float:
    """``1 / (exp(y) - 1) - 1 / y`` for y >= 0, without the cancellation of the two terms near 0."""
    if y >= 0.1:
        return _inverse_expm1(y) - 1 / y
    # Bernoulli numbers: y / (exp(y) - 1) = sum B_k y^k / k!; the first term left out is y^9 / 47900160
    y2 = y * y
    return -0.5 + y / 12 * (1 - y2 / 60 * (1 - y2 / 42 * (1 - y2 / 40)))


def geometric_expected_age(rate: float, n: int) -> float:
    """
    Mean of the truncated geometric distribution ``P(a) ~ exp(-rate * a)``, ``a`` in ``0..n-1``.

    ``1 / (e^rate - 1) - n / (e^(n rate) - 1)``: the mean of the geometric distribution less that of its tail.

    :param rate: Decay per row, >= 0
    :param n: Number of rows, >= 1
    :return: The expected age in rows
    """
    if rate < 0.1:  # both terms grow beyond bounds as the rate falls, and so do their common parts 1 / rate
        return _inverse_expm1_remainder(rate) - n * _inverse_expm1_remainder(n * rate)
    return _inverse_expm1(rate) - n * _inverse_expm1(n * rate)


def geometric_sum_of_squares(rate: float, n: int) -> float:
    """
    Sum of the squared probabilities of the truncated geometric distribution ``P(a) ~ exp(-rate * a)``, ``a`` in
    ``0..n-1``; its inverse is the effective sample size ``(sum w)^2 / sum w^2`` in rows.

    :param rate: Decay per row, >= 0
    :param n: Number of rows, >= 1
    """
    if rate == 0:
        return 1 / n
    return math.tanh(rate / 2) / math.tanh(n * rate / 2)


def geometric_entropy(rate: float, n: int) -> float:
    """
    Entropy of the truncated geometric distribution ``P(a) ~ exp(-rate * a)``, ``a`` in ``0..n-1``, in nats: since
    ``-log P(a) = rate a + log(sum of the weights)``, it is ``rate E[a] + log((1 - e^(-n rate)) / (1 - e^-rate))``.

    :param rate: Decay per row, >= 0
    :param n: Number of rows, >= 1
    """
    if rate == 0:
        return math.log(n)
    if math.isinf(rate):
        return 0.0
    return rate * geometric_expected_age(rate, n) + math.log(math.expm1(-n * rate) / math.expm1(-rate))
