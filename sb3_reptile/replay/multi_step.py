"""Multi-step returns: sequences of stored transitions that follow each other."""

from functools import cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile.replay.auto import Change
from sb3_reptile.replay.checks import check_number
from sb3_reptile.replay.decayed_sampling import DecayedSampling
from sb3_reptile.replay.kernels import kernels


class Sequences(NamedTuple):
    """
    Sequences of transitions, each up to ``n_steps`` long.

    :param indices: Numbers of their transitions, int64, shape (batch_size, n_steps); the last one is repeated
    :param last: Position of the last transition in each, shape (batch_size,)
    :param rewards: Rewards, 0 after the last transition, shape (batch_size, n_steps)
    :param dones: Whether the episode ended with the last transition, float32, shape (batch_size,); 0 where it was cut
        off by a time limit or is not over
    """

    indices: np.ndarray
    last: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray


class MultiStepSampling(DecayedSampling):
    """
    :class:`DecayedSampling` with n-step returns. A return begins with the transition that was drawn, whose age decides
    how likely that is, and ends early where the next row does not follow: at the end of an episode, a time limit, the
    newest row, a transition that was not stored, and a change that ``half_life="auto"`` has detected. What follows is
    then the value of the last next observation, discounted by the number of steps summed.

    :param n_steps: Number of steps to accumulate rewards for n-step returns
    :param gamma: Discount factor for future rewards
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if an argument has a value that is not allowed
    """

    # Of buffers that were pickled before they had n-step returns
    n_steps: int = 1
    gamma: float = 0.99

    def __init__(self, *args: Any, n_steps: int = 1, gamma: float = 0.99, **kwargs: Any) -> None:
        check_n_steps(n_steps)
        check_number("gamma", gamma, "in [0, 1]", lambda value: 0 <= value <= 1, "take the algorithm's gamma")
        super().__init__(*args, **kwargs)
        self.n_steps = int(n_steps)
        self.gamma = gamma

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments()
        return arguments if self.n_steps == 1 else {**arguments, "n_steps": self.n_steps, "gamma": self.gamma}

    def _rows_to_change(self, rows: np.ndarray, changes: list[Change]) -> np.ndarray:
        """Number of rows from each, counted since the buffer was empty, to the next change; large if there is none."""
        never = np.iinfo(np.int64).max
        starts = np.array([*sorted(change.happened_at // self.n_envs for change in changes), never])
        return starts[starts.searchsorted(rows, side="right")] - rows

    def sequences(self, indices: np.ndarray, env: VecNormalize | None = None) -> Sequences:
        """
        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param env: Associated VecEnv to normalize the rewards
        :return: The sequences whose rewards are summed in the n-step returns of these transitions
        """
        # What follows the newest row in the ring is the oldest one
        longest = to_newest = self.distribution.row_ages(indices)
        if self._consistency is not None and self._consistency.changes:
            rows = self.distribution.rows_added - 1 - to_newest
            longest = np.minimum(to_newest, self._rows_to_change(rows, self._consistency.changes) - 1)
        stored = self.dones.reshape(-1), self.timeouts.reshape(-1), self.rewards.reshape(-1)
        steps, last, rewards, dones = kernels().follow(*stored, indices, longest, self.n_envs, self.n_steps)
        return Sequences(steps, last, rewards if env is None else self._normalize_reward(rewards, env), dones)

    def _terminals(self, indices: np.ndarray) -> np.ndarray:
        """1 where an episode ended, 0 where it was cut off by a time limit or is not over."""
        dones: np.ndarray = self.dones.take(indices)
        dones *= 1 - self.timeouts.take(indices)
        return dones


@cache
def discounts(n_steps: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """
    :param n_steps: Number of steps of a return
    :param gamma: Discount factor
    :return: The factor of each reward, and that of the value that follows it, both of shape (n_steps,)
    """
    return gamma ** np.arange(n_steps, dtype=np.float32), gamma ** np.arange(1, n_steps + 1).astype(np.float32)


def check_n_steps(n_steps: Any) -> None:
    """
    :param n_steps: Number of steps of a return
    :raises TypeError: if it is not a whole number
    :raises ValueError: if it is not at least 1
    """
    if not isinstance(n_steps, Integral):
        raise TypeError(f"n_steps must be a whole number >= 1, got {n_steps!r} ({type(n_steps).__name__})")
    check_number("n_steps", n_steps, ">= 1", lambda value: value >= 1, "1 uses one-step returns")
