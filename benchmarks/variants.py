"""
Variants to compare with the package: distributions (an oracle, and ``half_life="auto"`` without some of its parts),
false alarms, and λ-returns that are cut at actions which are not greedy.
"""

from functools import cache
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_reptile import ReptileDQN
from sb3_reptile.replay import AgeSampler, SamplingDistribution
from sb3_reptile.replay.age_samplers import make_age_sampler
from sb3_reptile.replay.auto import SegmentedSampler, Settings
from sb3_reptile.reptile_dqn.lambda_returns import LambdaReturns, TargetNetwork, ValueCache

# The smallest consistency of a segment in half_life="auto"
LEAST = float(np.exp(Settings().doubt - Settings().bound))


class OracleDistribution(SamplingDistribution):
    """``half_life="auto"`` without errors: it reads the phase from ``info["phase"]`` at every step."""

    #: The regimes of successive phases, from the start again after the last
    regimes: tuple[int, ...] = (0, 1)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "has_segments": True})

    def reset(self) -> None:
        super().reset()
        self._starts: list[int] = []
        self._regimes_of_segments: list[int] = []

    def add(self, initial_weights: np.ndarray | None, infos: list[dict[str, Any]]) -> None:
        super().add(initial_weights, infos)
        regime = self.regimes[infos[0].get("phase", 0) % len(self.regimes)]
        if regime not in self._regimes_of_segments[-1:]:
            self._starts.append(self.rows_added - 1)
            self._regimes_of_segments.append(regime)
        consistencies = np.where(np.array(self._regimes_of_segments) == regime, 1.0, LEAST)
        self.set_segments(np.array(self._starts), consistencies, self._starts[-1])


@cache
def oracle_of(regimes: tuple[int, ...]) -> type[OracleDistribution]:
    """The oracle of a task with these regimes in successive phases."""
    if regimes == OracleDistribution.regimes:
        return OracleDistribution
    name = "_".join(("OracleDistribution", *map(str, regimes)))
    # By this name the buffer, which holds the class, is pickled
    globals()[name] = type(name, (OracleDistribution,), {"regimes": regimes})
    return globals()[name]


class ForgettingDistribution(SamplingDistribution):
    """``half_life="auto"`` that permanently forgets everything before an alarm."""

    def set_segments(self, starts: np.ndarray, consistencies: np.ndarray, last_change: int | None) -> None:
        if last_change is not None:
            starts, consistencies = np.array([0, last_change]), np.array([LEAST, 1.0])
        super().set_segments(starts, consistencies, last_change)


class KeepingDistribution(SamplingDistribution):
    """``half_life="auto"`` that goes on to replay what is contradicted, a tenth as often as what is confirmed."""

    def set_segments(self, starts: np.ndarray, consistencies: np.ndarray, last_change: int | None) -> None:
        super().set_segments(starts, np.maximum(consistencies, 0.1), last_change)


class OrdinaryClock(SegmentedSampler):
    """Ages as in any other buffer: time spent in another regime counts too."""

    def _clock(self, first_ages: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return first_ages


class OrdinaryClockDistribution(SamplingDistribution):
    """``half_life="auto"`` without the clock of the regime."""

    def make_age_sampler(self) -> AgeSampler:
        inner = make_age_sampler(self.decay, self.n_rows, self.n_envs, 0.0)
        return OrdinaryClock(inner, self.uniform_fraction)


class FalseAlarms(BaseCallback):
    """
    Raises alarms in ``half_life="auto"``: all that is stored is contradicted as much as possible. Everything after that
    is up to the detector.

    :param every: Steps of the environments between two alarms
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            model: Any = self.model
            consistency = model.replay_buffer.consistency
            for segment in consistency.segments:
                segment.cusum[:] = consistency.settings.bound
        return True


class GreedyActionCache(ValueCache):
    """Keeps the greedy actions in the next observations, too."""

    def __init__(self, model: ReptileDQN) -> None:
        super().__init__(model)
        self.greedy = np.zeros(len(self._values), dtype=np.int16)

    def _store(self, indices: np.ndarray, q_values: th.Tensor) -> None:
        super()._store(indices, q_values)
        self.greedy[indices] = q_values.argmax(dim=1).cpu().numpy()


class WatkinsReturns(LambdaReturns):
    """
    Watkins's Q(λ) (Watkins, Learning from delayed rewards, 1989): like Peng's, but a return ends where the next action
    is not the target network's greedy one. Retrace (arXiv 1606.02647) with a greedy target policy cuts at the same
    actions.
    """

    def __init__(self, model: ReptileDQN) -> None:
        super().__init__(model)
        self.cache: GreedyActionCache = GreedyActionCache(model)

    def targets(self, indices: np.ndarray, target: TargetNetwork) -> th.Tensor:
        steps, last, rewards, dones = self.buffer.sequences(indices, self.model._vec_normalize_env)
        self.cache.refresh(target.tensors)
        values = self.cache(steps, target.q_values)
        is_greedy = self.buffer.actions.reshape(-1).take(steps[:, 1:]) == self.cache.greedy[steps[:, :-1]]
        gamma, each = self.model.gamma, np.arange(len(last))
        goes_on = np.zeros_like(values)
        goes_on[:, :-1] = self.model.q_lambda * is_greedy * (np.arange(self.buffer.n_steps - 1) < last[:, None])
        factors = np.ones_like(values)
        factors[:, 1:] = (gamma * goes_on[:, :-1]).cumprod(axis=1)
        bootstraps = gamma * factors * (1 - goes_on)
        bootstraps[each, last] *= 1 - dones
        returns = (factors * rewards + bootstraps * values).sum(axis=1, keepdims=True)
        return self.buffer.to_torch(returns.astype(np.float32), copy=False)


class WatkinsDQN(ReptileDQN):
    """ReptileDQN with :class:`WatkinsReturns`."""

    def lambda_returns(self) -> WatkinsReturns:
        if not (isinstance(self._lambda_returns, WatkinsReturns) and self._lambda_returns.is_of(self)):
            self._lambda_returns = WatkinsReturns(self)
        return self._lambda_returns
