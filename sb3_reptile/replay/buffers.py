"""Replay buffers that draw by age. Storage stays SB3's; which rows are drawn is the samplers' business."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile.replay.decay import Exponential
from sb3_reptile.replay.samplers import GeometricSampler


class DecayedSampling(ReplayBuffer):
    """
    Mixin for replay buffers: a transition is drawn with a probability that halves every ``half_life`` transitions.

    Put it before the buffer class that stores: ``class MyBuffer(DecayedSampling, SomeReplayBuffer)``. That class
    must keep its rows as SB3's ``ReplayBuffer`` does (a ring with ``pos``, ``full`` and ``buffer_size``) and fetch
    them by ``_get_samples(rows, env)``.

    :param half_life: Age at which a transition is half as likely to be drawn as the newest, in transitions.
        ``inf`` replays uniformly, with the same random draws as the storing class by itself.
    :param uniform_fraction: Share of the draws that is uniform over the buffer, in [0, 1]
    :raises TypeError: if ``half_life`` or ``uniform_fraction`` is not a number
    :raises ValueError: if ``half_life`` is not > 0, or ``uniform_fraction`` outside [0, 1]
    """

    def __init__(self, *args: Any, half_life: float = 1_000, uniform_fraction: float = 0.0, **kwargs: Any) -> None:
        # Check before the storing class allocates
        decay = Exponential(half_life)
        GeometricSampler(decay.rate, uniform_fraction)
        super().__init__(*args, **kwargs)
        self._decay = decay
        self._sampler = GeometricSampler(decay.rate * self.n_envs, uniform_fraction)

    @property
    def half_life(self) -> float:
        """Age, in transitions, at which the probability of a draw is halved. It can be changed at any time."""
        return self._decay.half_life

    @half_life.setter
    def half_life(self, half_life: float) -> None:
        self._decay = Exponential(half_life)
        self._sampler = GeometricSampler(self._decay.rate * self.n_envs, self.uniform_fraction)

    @property
    def uniform_fraction(self) -> float:
        """Share of the draws that is uniform over the buffer."""
        return self._sampler.uniform_fraction

    def _n_rows(self) -> int:
        """
        :return: How many rows can be drawn
        :raises ValueError: if there is none
        """
        n_rows = self.size()
        # The oldest row's observation has been overwritten by the newest row's next observation
        if self.full and self.optimize_memory_usage:
            n_rows -= 1
        if n_rows == 0:
            raise ValueError(
                f"{type(self).__name__} holds {self.size()} transitions per environment, of which none can be drawn: "
                "add some before sampling (learning_starts), or raise buffer_size if it is full"
            )
        return n_rows

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw transitions, with replacement, with probabilities that decay with their age.

        :param batch_size: Number of transitions to draw
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions, each field of shape (batch_size, ...)
        :raises ValueError: if the buffer is empty
        """
        n_rows = self._n_rows()
        if self._sampler.rate == 0:
            # No decay: the very draws of the storing class
            return super().sample(batch_size, env=env)
        ages = self._sampler.sample(n_rows, batch_size)
        return self._get_samples((self.pos - 1 - ages) % self.buffer_size, env=env)

    def expected_age(self) -> float:
        """
        :return: Mean age of a drawn transition, in transitions; O(1)
        :raises ValueError: if the buffer is empty
        """
        return self.n_envs * self._sampler.expected_age(self._n_rows())

    def effective_sample_size(self) -> float:
        """
        Number of transitions that uniform replay would spread its draws over to be as concentrated as this buffer's,
        ``(sum w)^2 / sum w^2`` (Kish, Survey Sampling, 1965, section 8.2).

        :return: The effective sample size, in transitions; O(1)
        :raises ValueError: if the buffer is empty
        """
        return self.n_envs * self._sampler.effective_sample_size(self._n_rows())


class DecayedReplayBuffer(DecayedSampling, ReplayBuffer):
    """
    Replay buffer for off-policy algorithms in which a transition counts less the older it is: its probability of
    being drawn halves every ``half_life`` transitions (truncated geometric replay, https://arxiv.org/abs/2605.10236).

    A draw costs O(1), whatever the size of the buffer, and nothing is updated as the transitions age.

    :param buffer_size: Max number of element in the buffer
    :param observation_space: Observation space
    :param action_space: Action space
    :param device: PyTorch device
    :param n_envs: Number of parallel environments
    :param optimize_memory_usage: Enable a memory efficient variant of the replay buffer, as in SB3's ``ReplayBuffer``.
        Cannot be used in combination with handle_timeout_termination.
    :param handle_timeout_termination: Handle timeout termination (due to timelimit)
        separately and treat the task as infinite horizon task, as in SB3's ``ReplayBuffer``.
    :param half_life: Age at which a transition is half as likely to be drawn as the newest, in transitions (all
        environments counted). ``inf`` is SB3's ``ReplayBuffer``, draw for draw.
    :param uniform_fraction: Share of the draws that is uniform over the buffer, in [0, 1], so that nothing stored
        becomes less likely than ``uniform_fraction / size``
    :raises TypeError: if ``half_life`` or ``uniform_fraction`` is not a number
    :raises ValueError: if ``half_life`` is not > 0, ``uniform_fraction`` outside [0, 1], or the observation space is
        a Dict
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
        half_life: float = 1_000,
        uniform_fraction: float = 0.0,
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
        )


class DecayedDictReplayBuffer(DecayedSampling, DictReplayBuffer):  # type: ignore[misc]
    """
    :class:`DecayedReplayBuffer` for Dict observations. It takes the arguments of SB3's ``DictReplayBuffer`` and the
    two of :class:`DecayedSampling`.
    """


class DecayedNStepReplayBuffer(DecayedSampling, NStepReplayBuffer):
    """
    :class:`DecayedReplayBuffer` with n-step returns. It takes the arguments of SB3's ``NStepReplayBuffer`` and the two
    of :class:`DecayedSampling`. The age is that of the transition in which the n steps begin.
    """
