"""What a change of the task does to a run: the score before and after it, and the time until it has recovered."""

import math
from typing import NamedTuple

import numpy as np

# The level before a change: the mean over this many points of the curve, or the whole phase if it is shorter
BEFORE = 6
# Number of successive points whose mean must reach the level again, so that one lucky episode does not count
RECOVERED = 3
RECOVERY_LEVEL = 0.9


class Change(NamedTuple):
    """
    The effect of a change. Scores are 0 for random actions and 1 for the reference.

    :param before: Mean score before the change
    :param after: Mean score from the change to the next one or the end
    :param recovery: Steps until 90 % of ``before`` are reached again; None if they are not
    :param length: Steps until the next change or the end
    """

    before: float
    after: float
    recovery: float | None
    length: float

    def regret(self, level: float) -> float:
        """Score lost in comparison with a constant level, summed over the steps until the next change or the end."""
        return (level - self.after) * self.length


def after_changes(curve: np.ndarray, changes: list[int], steps: int) -> list[Change]:
    """
    Recovery is looked for from the second point after the change: in the first one, episodes end that began before.

    :param curve: Scores at equal distances, shape (points,)
    :param changes: First step, counted from 1, of each new phase
    :param steps: Steps of the run
    :return: The changes with points enough before and after them
    """
    width = steps / len(curve)
    # A point within which a change falls belongs to neither phase
    starts = [math.ceil((step - 1) / width) for step in changes]
    ends = [math.floor((step - 1) / width) for step in changes]
    found = []
    for number, start in enumerate(starts):
        end = ends[number + 1] if number + 1 < len(ends) else len(curve)
        previous = starts[number - 1] if number else 0
        level = curve[max(previous, ends[number] - BEFORE) : ends[number]]
        phase = curve[start:end]
        if len(level) == 0 or len(phase) <= RECOVERED:
            continue
        before = float(level.mean())
        means = np.convolve(phase, np.full(RECOVERED, 1 / RECOVERED), "valid")
        # A level below that of random actions is 10 % lower, too
        reached = np.flatnonzero(means[1:] >= before - (1 - RECOVERY_LEVEL) * abs(before) - 1e-12)
        recovery = (1 + int(reached[0])) * width if len(reached) else None
        found.append(Change(before, float(phase.mean()), recovery, len(phase) * width))
    return found
