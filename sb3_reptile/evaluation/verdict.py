"""What a comparison says: each method's results compared with uniform replay, and one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_reptile.evaluation.methods import Method
from sb3_reptile.evaluation.records import Record
from sb3_reptile.evaluation.statistics import (
    FEWEST_FOR_INTERVAL,
    Estimate,
    difference_of_iqms,
    estimate,
    iqm,
    p_of_equal_runs,
    probability_of_improvement,
    ratio_of_iqms,
)
from sb3_reptile.evaluation.tables import decimals_for, number

# Below this probability of such runs without any difference, more seeds would hardly change the sign
CERTAIN = 0.01
# Equivalent for practical purposes, in per cent of the gain of uniform replay over random actions
SMALL = 25.0
NOTHING = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class MethodResult:
    """
    The results of a method.

    :param method: The method
    :param seeds: Number of its runs
    :param auc: Interquartile mean (IQM) of the area under the learning curve, the mean return over training
    :param last: IQM of the mean return over the last tenth of training
    :param difference: Difference of the IQMs of the area to uniform replay
    :param gain: The same in per cent of the gain of uniform replay over random actions; NaN if it gains nothing
    :param probability: Probability that a run has a larger area than one of uniform replay
    :param p: Probability of runs that differ at least this much, without any difference (exact rank test)
    """

    method: Method
    seeds: int
    auc: Estimate
    last: Estimate
    difference: Estimate = NOTHING
    gain: Estimate = NOTHING
    probability: Estimate = NOTHING
    p: float = math.nan


def results_of(methods: Sequence[Method], runs: Mapping[str, Sequence[Record]], random: Record) -> list[MethodResult]:
    """
    :param methods: The methods, uniform replay first
    :param runs: Records of each method
    :param random: Record of the run with random actions
    :return: The results of the methods that have records
    """
    areas = {name: np.array([[record["auc"]] for record in found]) for name, found in runs.items()}
    results = []
    for method in methods:
        if not runs.get(method.name):
            continue
        area = areas[method.name]
        last = np.array([[record["last"]] for record in runs[method.name]])
        result = MethodResult(method, len(area), estimate(iqm, area), estimate(iqm, last))
        if method is not methods[0] and len(areas.get(methods[0].name, ())):
            result = _compared(result, area, areas[methods[0].name], random["auc"])
        results.append(result)
    return results


def _compared(result: MethodResult, area: np.ndarray, uniform: np.ndarray, random: float) -> MethodResult:
    ratio = estimate(ratio_of_iqms, area - random, uniform - random)
    return MethodResult(
        result.method,
        result.seeds,
        result.auc,
        result.last,
        estimate(difference_of_iqms, area, uniform),
        Estimate(*(100 * (part - 1) for part in ratio)),
        estimate(probability_of_improvement, area, uniform),
        p_of_equal_runs(area, uniform),
    )


def verdict(results: Sequence[MethodResult]) -> str:
    """
    :param results: Results, uniform replay first
    :return: One sentence: which method is ahead of uniform replay, or which differences can be excluded
    """
    others = results[1:]
    fewest = min(result.seeds for result in results)
    if not others:
        return "Nothing is compared yet: there are runs of uniform replay only."
    if fewest < FEWEST_FOR_INTERVAL:
        runs = "1 run" if fewest == 1 else f"{fewest} runs"
        return f"Too few runs for a verdict: {runs} of a method, and intervals need {FEWEST_FOR_INTERVAL}; use 5 seeds."
    ahead = sorted((r for r in others if r.difference.low > 0), key=lambda r: -r.auc.value)
    if ahead:
        return _of_ahead(ahead)
    if all(result.difference.high < 0 for result in others):
        listed = _listed([f"{r.method.label} ({_range(r, behind=True)} behind)" for r in others])
        return f"Uniform replay is ahead of {listed}: keep uniform replay."
    open_ones = [result for result in others if result.difference.high >= 0]
    limit, is_small = _limit(open_ones)
    behind = [result for result in others if result.difference.high < 0]
    also = f" (significantly worse: {_listed([result.method.label for result in behind])})" if behind else ""
    start = f"No method is significantly better than uniform replay{also}"
    if is_small:
        return f"{start}; differences larger than {limit} can be excluded: keep uniform replay."
    return (
        f"{start}, but {fewest} seeds only exclude differences larger than {limit}: keep uniform replay, and use more "
        "seeds if a smaller difference matters."
    )


def _of_ahead(ahead: Sequence[MethodResult]) -> str:
    best, *rest = ahead
    sentence = f"{_capital(best.method.label)} is ahead of uniform replay by {_range(best)}"
    if rest:
        also = _listed([f"{result.method.label} by {_range(result)}" for result in rest])
        sentence += f" ({also})"
    if best.p < CERTAIN:
        return f"{sentence}; more seeds would hardly change that."
    return f"{sentence}; more seeds would make that more certain."


def _range(result: MethodResult, behind: bool = False) -> str:
    """ "12 to 31 %", or returns where per cent mean nothing."""
    estimate, unit = (result.gain, " %") if _has_gain(result) else (result.difference, " in return")
    low, high = (-estimate.high, -estimate.low) if behind else (estimate.low, estimate.high)
    return f"{_rounded(low)} to {_rounded(high)}{unit}"


def _limit(results: Sequence[MethodResult]) -> tuple[str, bool]:
    """The largest difference within the intervals, and whether it is small for practical purposes."""
    if all(map(_has_gain, results)):
        largest = max(max(abs(result.gain.low), abs(result.gain.high)) for result in results)
        return f"{_rounded(largest, up=True)} %", largest <= SMALL
    largest = max(max(abs(result.difference.low), abs(result.difference.high)) for result in results)
    return f"{_rounded(largest, up=True)} in return", False


def _has_gain(result: MethodResult) -> bool:
    return all(map(math.isfinite, result.gain))


def _rounded(value: float, up: bool = False) -> str:
    decimals = decimals_for(value, digits=2)
    factor = 10**decimals
    return number(math.ceil(value * factor - 1e-9) / factor if up else value, decimals)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    """The label of a method at the start of a sentence; ``auto`` is a value, and stays as it is."""
    return text if text.startswith("auto") else text[:1].upper() + text[1:]
