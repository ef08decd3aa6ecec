"""Multi-step returns: sequences of stored transitions that follow each other."""

from functools import cache
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile.replay.checks import check_number
from sb3_reptile.replay.decayed_sampling import DecayedSampling
from sb3_reptile.replay.kernels import kernels

# Packages whose buffers make batches from what is in the arrays
OURS = ("sb3_reptile", "stable_baselines3")
# Methods of a buffer that make batches from its storage
MAKE_BATCHES = ("sample", "transitions", "_get_samples", "_fetch", "_normalize_obs", "_normalize_reward", "to_torch")


class Sequences(NamedTuple):
    """
    Sequences of transitions, each up to ``n_steps`` long.

    :param indices: Numbers of their transitions, int64, shape (batch_size, n_steps); the last one is repeated
    :param last: Position of the last transition in each, shape (batch_size,)
    :param rewards: Rewards, times the factors that were given, 0 after the last transition, shape (batch_size, n_steps)
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

    #: Whether the class has n-step returns, which are read from the arrays of SB3's own buffers
    has_returns: ClassVar[bool] = True

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

    @classmethod
    def has_lambda_returns(cls) -> bool:
        """
        :return: Whether the class has λ-returns. They read rewards and next observations from the arrays, so methods
            of other packages that change batches would have no effect
        """
        own = (base for base in cls.__mro__ if base.__module__.partition(".")[0] not in OURS)
        return cls.has_returns and not any(name in vars(base) for base in own for name in MAKE_BATCHES)

    def _last_rows(self) -> np.ndarray:
        """The rows in which every sequence ends: the newest one, and those before a change."""
        # What follows the newest row in the ring is the oldest one
        newest, n_rows = self.distribution.rows_added - 1, self.distribution.n_rows
        rows = [newest]
        for change in reversed(self._consistency.changes if self._consistency is not None else []):
            row = change.happened_at // self.n_envs - 1
            if row <= newest - n_rows:  # overwritten, as those before
                break
            if row < newest:
                rows.append(row)
        return np.array(rows) % n_rows

    def sequences(
        self, indices: np.ndarray, env: VecNormalize | None = None, factors: np.ndarray | None = None
    ) -> Sequences:
        """
        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param env: Associated VecEnv to normalize the rewards
        :param factors: What the rewards are multiplied by, by their position, float32, shape (n_steps,); nothing if
            None
        :return: The sequences whose rewards are summed in the n-step returns of these transitions
        """
        # Rewards are normalized before they are multiplied, also by a method of the user's
        are_normalized = env is not None or self._normalize_reward is not BaseBuffer._normalize_reward
        multiplied_by = np.ones(self.n_steps, np.float32) if factors is None or are_normalized else factors
        found = Sequences(
            *kernels().follow(
                self.dones.reshape(-1),
                self.timeouts.reshape(-1),
                self.rewards.reshape(-1),
                indices,
                self._last_rows(),
                self.n_envs,
                multiplied_by,
            )
        )
        if not are_normalized:
            return found
        rewards = self._normalize_reward(found.rewards, env)
        rewards *= np.arange(self.n_steps) <= found.last[:, None]
        if factors is not None:
            rewards *= factors
        return found._replace(rewards=rewards)

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
    gamma = float(gamma)  # one of NumPy would make everything float64
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
