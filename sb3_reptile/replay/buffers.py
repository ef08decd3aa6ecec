"""SB3's replay buffers with decay. They store; their distribution decides what is drawn."""

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile.replay.checks import OnBadTransition, Weighting
from sb3_reptile.replay.decay import DecayOption
from sb3_reptile.replay.decayed_sampling import DecayedDictReplayBufferSamples, DecayedSampling
from sb3_reptile.replay.distribution import SamplingDistribution
from sb3_reptile.replay.initial_weights import InitialWeightsOption
from sb3_reptile.replay.multi_step import MultiStepSampling, discounts

# What fetches transitions in SB3's own buffers, from their arrays
FETCHED_BY_SB3 = (ReplayBuffer._get_samples, DictReplayBuffer._get_samples, NStepReplayBuffer._get_samples)


def _take(array: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Transitions by their numbers, from an array that begins with the axes row and environment."""
    return array.reshape(-1, *array.shape[2:]).take(flat, axis=0)


def _write(stored: Any, row: int, given: Any) -> None:
    """Write observations, or each of a dict of them, into a row."""
    if isinstance(stored, dict):
        for key, values in stored.items():
            _write(values, row, given[key])
    elif getattr(given, "ndim", 0) == 1:
        # Observations of a Discrete space are given as (n_envs,), which cannot be broadcast to (n_envs, 1)
        stored[row] = given.reshape(stored.shape[1:])
    else:
        stored[row] = given


class _SB3Storage(MultiStepSampling):
    """
    Writes directly into the arrays of SB3's own buffers, and fetches from them, faster than their ``add()`` and
    ``_get_samples()``.
    """

    #: Whether SB3's own classes store the rows, not a class with its own ``add()``
    _is_stored_by_sb3: ClassVar[bool]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._is_stored_by_sb3 = super(DecayedSampling, cls).add in (ReplayBuffer.add, DictReplayBuffer.add)
        cls.has_returns = cls._get_samples in FETCHED_BY_SB3 and cls.to_torch is ReplayBuffer.to_torch

    def __init__(self, *args: Any, n_steps: int = 1, **kwargs: Any) -> None:
        if not self.has_returns and n_steps != 1:
            raise ValueError(
                f"n_steps must be 1 with {type(self).__name__}, got {n_steps}: n-step returns are read from the arrays "
                "of SB3's buffers, without its own _get_samples() or to_torch(); override sample() instead"
            )
        super().__init__(*args, n_steps=n_steps, **kwargs)

    def _store(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        if not self._is_stored_by_sb3:
            super()._store(obs, next_obs, action, reward, done, infos)
            return
        # What SB3 writes, without the copies that it makes first
        row, following = self.pos, (self.pos + 1) % self.buffer_size
        _write(self.observations, row, obs)
        if self.optimize_memory_usage:
            _write(self.observations, following, next_obs)
        else:
            _write(self.next_observations, row, next_obs)
        self.actions[row] = action.reshape((self.n_envs, self.action_dim))
        self.rewards[row] = reward
        self.dones[row] = done
        # A former row may have been ended here (``episodes``), even if time limits are not handled
        self.timeouts[row] = 0.0
        if self.handle_timeout_termination:
            for env, info in enumerate(infos):
                if info.get("TimeLimit.truncated"):
                    self.timeouts[row, env] = 1.0
        self.pos = following
        if following == 0:
            self.full = True

    def tensor(self, array: np.ndarray) -> th.Tensor:
        """
        :param array: An array that nobody else has
        :return: The same as a tensor on the device of the buffer
        """
        tensor = th.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def _observations(self, stored: Any, indices: np.ndarray, env: VecNormalize | None) -> Any:
        if isinstance(stored, dict):
            taken: Any = {key: _take(value, indices) for key, value in stored.items()}
            return {key: self.tensor(value) for key, value in self._normalize_obs(taken, env).items()}  # type: ignore[union-attr]
        return self.tensor(self._normalize_obs(_take(stored, indices), env))  # type: ignore[arg-type]

    def next_observations_of(self, indices: np.ndarray, env: VecNormalize | None = None) -> Any:
        """
        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param env: Associated VecEnv to normalize the observations
        :return: Their next observations, shape (n, ...), or a dict of such
        """
        if self.optimize_memory_usage:
            of_next = (indices + self.n_envs) % (self.buffer_size * self.n_envs)
            return self._observations(self.observations, of_next, env)
        return self._observations(self.next_observations, indices, env)

    def observations_and_actions(self, indices: np.ndarray, env: VecNormalize | None = None) -> tuple[Any, th.Tensor]:
        """
        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param env: Associated VecEnv to normalize the observations
        :return: Their observations, shape (n, ...), or a dict of such; and their actions, shape (n, action_dim)
        """
        if self._scratch is not None:
            self._scratch.touched(len(indices))
        return self._observations(self.observations, indices, env), self.tensor(_take(self.actions, indices))

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        if not self.has_returns:
            return DecayedSampling._fetch(self, indices, env)
        return self._fetch_steps(indices, env) if self.n_steps == 1 else self._fetch_returns(indices, env)

    def _fetch_steps(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        """One-step returns."""
        rewards = self.rewards.take(indices).reshape(-1, 1)
        return (
            self._observations(self.observations, indices, env),
            self.tensor(_take(self.actions, indices)),
            self.next_observations_of(indices, env),
            self.tensor(self._terminals(indices).reshape(-1, 1)),
            self.tensor(self._normalize_reward(rewards, env)),
            None,
        )

    def _fetch_returns(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        """n-step returns, as SB3's ``NStepReplayBuffer`` computes them."""
        of_rewards, of_value = discounts(self.n_steps, self.gamma)
        steps, last, rewards, dones = self.sequences(indices, env, of_rewards)
        return (
            self._observations(self.observations, indices, env),
            self.tensor(_take(self.actions, indices)),
            self.next_observations_of(steps[:, -1], env),
            # An unfinished episode bootstraps at the newest row, as if it were cut off by a time limit
            self.tensor(dones.reshape(-1, 1)),
            self.tensor(rewards.sum(axis=1, keepdims=True)),
            self.tensor(of_value.take(last).reshape(-1, 1)),
        )


class DecayedReplayBuffer(_SB3Storage, ReplayBuffer):
    """
    Replay buffer for off-policy algorithms that replays a transition less the older it is: its probability of being
    drawn falls as ``(1 + age / 100) ** -1.5``, or halves every ``half_life`` transitions (truncated geometric
    replay, https://arxiv.org/abs/2605.10236), or follows another decay, initial weights and priorities.

    A draw by age costs the same for every size of the buffer, one by weight grows with its logarithm, and nothing is
    updated as the transitions age.

    :param buffer_size: Max number of element in the buffer
    :param observation_space: Observation space
    :param action_space: Action space
    :param device: PyTorch device
    :param n_envs: Number of parallel environments
    :param optimize_memory_usage: Enable a memory efficient variant of the replay buffer, as in SB3's ``ReplayBuffer``.
        Cannot be used in combination with handle_timeout_termination.
    :param handle_timeout_termination: Handle timeout termination (due to timelimit)
        separately and treat the task as infinite horizon task, as in SB3's ``ReplayBuffer``.
    :param half_life: For exponential decay, the age at which a transition is half as likely to be drawn as the newest,
        in transitions (all environments counted). ``inf`` is SB3's ``ReplayBuffer``, draw for draw; for ``"auto"`` see
        :class:`DecayedSampling`
    :param uniform_fraction: Share of the draws that is uniform over the buffer, in [0, 1], so that nothing stored
        becomes less likely than ``uniform_fraction / size``
    :param decay: Another decay, see :class:`DecayedSampling`
    :param combined: Whether the newest row is always in the batch, see :class:`DecayedSampling`
    :param initial_weights: Initial sampling weights, see :class:`DecayedSampling`
    :param prioritized: Whether there are priorities to update, see :class:`DecayedSampling`
    :param beta: Exponent of the importance weights, see :class:`DecayedSampling`
    :param weighting: Where decay and initial weights act, see :class:`DecayedSampling`
    :param storage_dir: A folder that holds the observations instead of memory, see :class:`DecayedSampling`
    :param on_bad_transition: What happens to rewards and observations that are not finite, see
        :class:`DecayedSampling`
    :param distribution_class: The class of the buffer's distribution, see :class:`DecayedSampling`
    :param n_steps: Number of steps to accumulate rewards for n-step returns. The age of a return is that of its first
        transition; where it ends early, see :class:`~sb3_reptile.replay.multi_step.MultiStepSampling`
    :param gamma: Discount factor for future rewards, used with ``n_steps > 1``: that of the algorithm
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if an argument has a value that is not allowed, or the observation space is a Dict
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        half_life: float | Literal["auto"] | None = None,
        uniform_fraction: float = 0.0,
        decay: DecayOption | None = None,
        combined: bool = False,
        initial_weights: InitialWeightsOption = "uniform",
        prioritized: bool = False,
        beta: float = 0.0,
        weighting: Weighting = "sampling",
        storage_dir: str | os.PathLike[str] | None = None,
        on_bad_transition: OnBadTransition = "raise",
        distribution_class: type[SamplingDistribution] | str = SamplingDistribution,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                f"{type(self).__name__} does not store Dict observations, got {observation_space}; "
                "use DecayedDictReplayBuffer"
            )
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device=device,
            n_envs=n_envs,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
            half_life=half_life,
            uniform_fraction=uniform_fraction,
            decay=decay,
            combined=combined,
            initial_weights=initial_weights,
            prioritized=prioritized,
            beta=beta,
            weighting=weighting,
            storage_dir=storage_dir,
            on_bad_transition=on_bad_transition,
            distribution_class=distribution_class,
            n_steps=n_steps,
            gamma=gamma,
        )


class DecayedDictReplayBuffer(_SB3Storage, DictReplayBuffer):
    """
    :class:`DecayedReplayBuffer` for Dict observations. It takes the arguments of SB3's ``DictReplayBuffer``, those of
    :class:`DecayedSampling`, ``n_steps`` and ``gamma``.
    """

    if TYPE_CHECKING:
        # Its batches have dicts of observations
        def sample(  # type: ignore[override]
            self, batch_size: int, env: VecNormalize | None = None
        ) -> DecayedDictReplayBufferSamples: ...
        def transitions(  # type: ignore[override]
            self, indices: np.ndarray, env: VecNormalize | None = None
        ) -> DecayedDictReplayBufferSamples: ...


class DecayedNStepReplayBuffer(_SB3Storage, NStepReplayBuffer):
    """
    :class:`DecayedReplayBuffer` with the defaults of SB3's ``NStepReplayBuffer``: three steps. It takes the arguments
    of that class, which cannot optimise memory usage, and those of :class:`DecayedSampling`.
    """

    def __init__(self, *args: Any, n_steps: int = 3, gamma: float = 0.99, **kwargs: Any) -> None:
        super().__init__(*args, n_steps=n_steps, gamma=gamma, **kwargs)

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        return self._fetch_returns(indices, env) if self.has_returns else super()._fetch(indices, env)
