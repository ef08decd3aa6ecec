"""For comparison with half_life="auto": replay that is told what is true, and "auto" without some of its parts."""

from typing import Any

import numpy as np

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.replay.auto import Consistency, SegmentedSampler, Settings
from sb3_reptile.replay.samplers import make_age_sampler

# What a segment counts at least in half_life="auto"
LEAST = float(np.exp(Settings().doubt - Settings().bound))
# All tasks alternate between as many
PHASES = 2


class OracleReplayBuffer(DecayedReplayBuffer):
    """``half_life="auto"`` that makes no mistakes: ``info["phase"]`` tells what is true, from its first step on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._firsts: list[int] = []
        self._phases: list[int] = []

    def _make_samplers(self) -> None:
        super()._make_samplers()
        inner = make_age_sampler(self.decay, self.buffer_size, self.n_envs, 0.0)
        self._segmented = self._ages = SegmentedSampler(inner, self.uniform_fraction)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        super().add(obs, next_obs, action, reward, done, infos)
        rows = self._added // self.n_envs
        phase = infos[0].get("phase", 0) % PHASES
        if phase not in self._phases[-1:]:
            self._firsts.append(rows - 1)
            self._phases.append(phase)
        same = np.array(self._phases) == phase
        self._segmented.set_segments(np.array(self._firsts), np.where(same, 1.0, LEAST), rows)


class DetectionReplayBuffer(DecayedReplayBuffer):
    """``half_life="auto"`` that forgets, at every alarm, what was before it, and never takes anything back."""

    def _observe(self, consistency: Consistency) -> None:
        super()._observe(consistency)
        if consistency.changes:
            cut = consistency.changes[-1].happened_at // self.n_envs
            assert isinstance(self._ages, SegmentedSampler)
            self._ages.set_segments(np.array([0, cut]), np.array([LEAST, 1.0]), self._added // self.n_envs)


class OrdinaryClock(SegmentedSampler):
    """Ages are those of any other buffer: time spent in another regime counts too."""

    def _clock(self, first_ages: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return first_ages


class OrdinaryClockReplayBuffer(DecayedReplayBuffer):
    """``half_life="auto"`` without the clock of the regime."""

    def _make_samplers(self) -> None:
        super()._make_samplers()
        inner = make_age_sampler(self.decay, self.buffer_size, self.n_envs, 0.0)
        self._ages = OrdinaryClock(inner, self.uniform_fraction)
