"""Statistics over few training runs: interquartile means, bootstrap and t intervals, differences between methods."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2_000
# Fewer runs have no interval
FEWEST_FOR_INTERVAL = 3


class Estimate(NamedTuple):
    """A statistic and its 95 % interval, which is NaN where there are too few runs."""

    value: float
    low: float
    high: float


def estimates(function: Callable[..., np.ndarray], *scores: np.ndarray) -> list[Estimate]:
    """
    Statistics with stratified bootstrap intervals (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264): runs are
    drawn with replacement within each task.

    :param function: Maps matrices of the given shapes to k statistics, shape (k,)
    :param scores: Matrices of shape (runs, tasks, ...), resampled independently of each other
    :return: k estimates
    :raises ImportError: without the extra ``compare``
    """
    try:
        from rliable import library
    except ImportError as error:
        raise ImportError("bootstrap intervals need the extra `compare`: pip install 'sb3-reptile[compare]'") from error

    sampled: Any = scores[0] if len(scores) == 1 else scores
    state = np.random.get_state()
    try:
        # rliable draws from numpy's global state. The same seed for every estimate: none depends on the others
        np.random.seed(0)
        points, intervals = library.get_interval_estimates({"": sampled}, function, reps=RESAMPLES)
    finally:
        np.random.set_state(state)
    low, high = intervals[""]
    if min(len(matrix) for matrix in scores) < FEWEST_FOR_INTERVAL:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return [Estimate(*map(float, numbers)) for numbers in zip(points[""], low, high, strict=True)]


def estimate(function: Callable[..., np.ndarray], *scores: np.ndarray) -> Estimate:
    """:func:`estimates` of one statistic."""
    return estimates(function, *scores)[0]


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over runs and tasks: rliable's ``aggregate_iqm`` without scipy's cost per call."""
    ordered = np.sort(scores, axis=None)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(keepdims=True)


def iqm_of_points(curves: np.ndarray) -> np.ndarray:
    """Interquartile mean over runs at each point of their curves, shape (runs, 1, points)."""
    ordered = np.sort(curves[:, 0], axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(axis=0)


def ratio_of_iqms(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """NaN where the others are not better than random actions: a ratio means nothing there."""
    below = iqm(others)
    return iqm(scores) / np.where(below > 0, below, np.nan)


def difference_of_iqms(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    return iqm(scores) - iqm(others)


def probability_of_improvement(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Probability that a run scores higher than one of the others on the same task: as rliable's, without scipy."""
    x, y = scores[:, None], others[None]
    return np.array([((x > y).mean() + (x == y).mean() / 2)])


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError("t intervals need the extra `compare`: pip install 'sb3-reptile[compare]'") from error
    return stats


def student_interval(values: np.ndarray) -> Estimate:
    """Mean over runs with its 95 % interval, by Student's t; needs the extra ``compare``."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, math.nan, math.nan)
    half = float(_scipy_stats().t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half)


def welch_interval(values: np.ndarray, others: np.ndarray) -> Estimate:
    """Difference of the means of two sets of runs with its 95 % interval, by Welch's t; needs the extra `compare`."""
    result = _scipy_stats().ttest_ind(values, others, equal_var=False).confidence_interval()
    return Estimate(float(values.mean() - others.mean()), float(result.low), float(result.high))


def p_of_equal_runs(scores: np.ndarray, others: np.ndarray) -> float:
    """
    Probability of two sets of runs that differ at least as much as these if there is no difference, by the exact
    two-sided rank test of Mann and Whitney; with equal scores among more than 16 runs, or if one set is a single run,
    by its normal approximation. Needs the extra ``compare``.
    """
    stats, x, y = _scipy_stats(), scores.reshape(-1), others.reshape(-1)
    method: Any = "exact"
    if len(np.unique([*x, *y])) < len(x) + len(y):
        # 16 runs can be divided into two sets of 8 in 12,870 ways, which are all tried; scipy needs two runs in each
        all_ways = len(x) + len(y) <= 16 and min(len(x), len(y)) > 1
        method = stats.PermutationMethod(n_resamples=12_870) if all_ways else "asymptotic"
    return float(stats.mannwhitneyu(x, y, method=method).pvalue)
