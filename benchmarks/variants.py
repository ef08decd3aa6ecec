"""Distributions to compare with ``half_life="auto"``: an oracle, and "auto" without some of its parts."""

from typing import Any

import numpy as np

from sb3_reptile.replay import AgeSampler, SamplingDistribution
from sb3_reptile.replay.age_samplers import make_age_sampler
from sb3_reptile.replay.auto import SegmentedSampler, Settings

# The smallest consistency of a segment in half_life="auto"
LEAST = float(np.exp(Settings().doubt - Settings().bound))
# All tasks alternate between as many
PHASES = 2


class OracleDistribution(SamplingDistribution):
    """``half_life="auto"`` that makes no mistakes: it reads the phase from ``info["phase"]`` at every step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "has_segments": True})

    def reset(self) -> None:
        super().reset()
        self._starts: list[int] = []
        self._phases: list[int] = []

    def add(self, initial_weights: np.ndarray | None, infos: list[dict[str, Any]]) -> None:
        super().add(initial_weights, infos)
        phase = infos[0].get("phase", 0) % PHASES
        if phase not in self._phases[-1:]:
            self._starts.append(self.rows_added - 1)
            self._phases.append(phase)
        consistencies = np.where(np.array(self._phases) == phase, 1.0, LEAST)
        self.set_segments(np.array(self._starts), consistencies, self._starts[-1])


class ForgettingDistribution(SamplingDistribution):
    """``half_life="auto"`` that forgets, at every alarm, what was before it, and never takes anything back."""

    def set_segments(self, starts: np.ndarray, consistencies: np.ndarray, last_change: int | None) -> None:
        if last_change is not None:
            starts, consistencies = np.array([0, last_change]), np.array([LEAST, 1.0])
        super().set_segments(starts, consistencies, last_change)


class OrdinaryClock(SegmentedSampler):
    """Ages are those of any other buffer: time spent in another regime counts too."""

    def _clock(self, first_ages: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return first_ages


class OrdinaryClockDistribution(SamplingDistribution):
    """``half_life="auto"`` without the clock of the regime."""

    def make_age_sampler(self) -> AgeSampler:
        inner = make_age_sampler(self.decay, self.n_rows, self.n_envs, 0.0)
        return OrdinaryClock(inner, self.uniform_fraction)
