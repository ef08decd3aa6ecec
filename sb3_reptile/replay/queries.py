"""What can be asked of a decayed replay buffer, and changed, while it is in use; its distribution answers."""

import numpy as np
import torch as th
from numpy.typing import ArrayLike
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_reptile.replay.bad_transitions import BadTransitions
from sb3_reptile.replay.checks import OnBadTransition, Weighting
from sb3_reptile.replay.decay import Decay
from sb3_reptile.replay.diagnostics import ReplayDiagnostics
from sb3_reptile.replay.distribution import SamplingDistribution
from sb3_reptile.replay.initial_weights import check_weights
from sb3_reptile.replay.options import check_fraction, check_weighting


class DistributionQueries(ReplayBuffer):
    """Mixin for a replay buffer that has a distribution."""

    distribution: SamplingDistribution
    _bad_transitions: BadTransitions
    #: Number of priorities that came too late for their transitions, which had been overwritten
    n_outdated: int = 0

    @property
    def decay(self) -> Decay:
        """The decay; setting half_life changes it if it is exponential."""
        return self.distribution.decay

    @property
    def half_life(self) -> float:
        """
        Age, in transitions, at which the probability of a draw is halved. It can be changed at any time, which costs
        O(1), or O(size) with initial weights or priorities; the default decay becomes an exponential one by it.

        :raises AttributeError: if the decay is not exponential
        """
        return self.distribution.half_life

    @half_life.setter
    def half_life(self, half_life: float) -> None:
        self.distribution.half_life = half_life

    @property
    def takes_half_life(self) -> bool:
        """Whether the half-life can be set: if the decay is exponential, or the default."""
        return self.distribution.takes_half_life

    @property
    def uniform_fraction(self) -> float:
        """Share of the draws that is uniform over the buffer."""
        return self.distribution.uniform_fraction

    @property
    def combined(self) -> bool:
        """Whether the newest row is always in the batch."""
        return self.distribution.combined

    @property
    def prioritized(self) -> bool:
        """Whether ``update_priorities()`` can be called."""
        return self.distribution.prioritized

    @property
    def beta(self) -> float:
        """Exponent of the importance weights, in [0, 1]. It can be changed at any time."""
        return self.distribution.beta

    @beta.setter
    def beta(self, beta: float) -> None:
        check_fraction("beta", beta, "use 0 for no correction")
        self.distribution.beta = beta

    @property
    def weighting(self) -> Weighting:
        """Where decay and initial weights act: ``"sampling"`` or ``"loss"``. It can be changed at any time."""
        return self.distribution.weighting

    @weighting.setter
    def weighting(self, weighting: Weighting) -> None:
        check_weighting(weighting, self.prioritized)
        self.distribution.weighting = weighting

    @property
    def on_bad_transition(self) -> OnBadTransition:
        """What happens to rewards and observations that are not finite."""
        return self._bad_transitions.policy

    @property
    def n_skipped(self) -> int:
        """Number of transitions that were not stored because of ``on_bad_transition="skip"``."""
        return self._bad_transitions.n_skipped

    @property
    def n_added(self) -> int:
        """Number of transitions added since the buffer was empty."""
        return self.distribution.rows_added * self.n_envs

    def update_priorities(
        self, indices: ArrayLike, priorities: ArrayLike | th.Tensor, drawn_at: int | None = None
    ) -> None:
        """
        Set the priorities of transitions, from their TD errors for instance. The number of a transition that is
        overwritten becomes that of a new one: a learner that updates after more transitions were added passes the time
        of its draw::

            drawn_at, batch = buffer.n_added, buffer.sample(32)
            ...  # add transitions, compute TD errors
            buffer.update_priorities(batch.indices, priorities, drawn_at)

        :param indices: Numbers of the transitions, as they came with a batch
        :param priorities: Their new priorities, > 0, the same number of them; the last one counts if an index is
            repeated
        :param drawn_at: ``n_added`` when they were drawn. Transitions that were overwritten since are left out, and
            counted in ``n_outdated``. ``None`` if none has been added since
        :raises RuntimeError: if the buffer was not made with ``prioritized=True``
        :raises ValueError: if an index is not that of a stored transition, or a priority not a finite number > 0;
            nothing is changed then
        """
        if not self.prioritized:
            raise RuntimeError(f"{type(self).__name__} has no priorities: make it with prioritized=True")
        numbers = np.asarray(indices)
        if numbers.dtype.kind not in "iu":
            raise ValueError(f"indices must be whole numbers, got {numbers.dtype}; take batch.indices")
        numbers = numbers.reshape(-1).astype(np.int64, copy=False)
        if isinstance(priorities, th.Tensor):
            priorities = priorities.detach().cpu().numpy()
        new = check_weights("priorities", priorities, len(numbers))
        if len(numbers) == 0:
            return
        n_stored = self.size() * self.n_envs
        # As unsigned numbers, negative ones are very large
        if numbers.view(np.uint64).max() >= n_stored:
            bad = numbers[(numbers < 0) | (numbers >= n_stored)][0]
            raise ValueError(f"indices must be those of stored transitions, 0 to {n_stored - 1}, got {bad}")
        if drawn_at is not None:
            stored = self.distribution.still_stored(numbers, drawn_at)
            self.n_outdated += len(numbers) - int(stored.sum())
            numbers, new = numbers[stored], new[stored]
        if len(numbers) > 0:
            self.distribution.update_priorities(numbers, new)

    def _eligible(self) -> np.ndarray | None:
        """Which transitions can be drawn, bool, shape (buffer_size, n_envs); None for all that are stored."""
        return None

    def can_be_sampled(self) -> bool:
        """
        :return: Whether there is anything to draw
        """
        return self.distribution.n_drawable() > 0

    def n_drawable(self) -> int:
        """
        :return: Number of transitions that can be drawn, as far as their age is concerned
        """
        return self.distribution.n_drawable() * self.n_envs

    def drawable(self) -> np.ndarray:
        """
        :return: Numbers of the transitions that can be drawn, int64, ascending. O(size)
        """
        ages = self.distribution.all_ages()
        can_be_drawn = (ages >= 0) & (ages < self.n_drawable())
        eligible = self._eligible() if self.can_be_sampled() else False
        return np.flatnonzero(can_be_drawn if eligible is None else can_be_drawn & eligible)

    def ages(self) -> np.ndarray:
        """
        :return: Age of each transition in transitions, shape (buffer_size, n_envs), by row of the storage; -1 where
            nothing is stored. O(size)
        """
        return self.distribution.all_ages()

    def ages_of(self, indices: np.ndarray) -> np.ndarray:
        """
        :param indices: Numbers of transitions, as they come with a batch
        :return: Their ages in transitions, same shape
        """
        return self.distribution.ages_of(indices)

    def sampling_probabilities(self) -> np.ndarray:
        """
        The exact distribution of the next draw, for plots and tests; the first element of a combined batch aside.

        :return: Probability of each transition, shape (buffer_size, n_envs), by row of the storage. O(size)
        :raises ValueError: if the buffer is empty
        """
        return self.distribution.all_probabilities(self._eligible())

    def diagnostics(self) -> ReplayDiagnostics:
        """
        What is replayed. Closed forms, O(1), where there are such (exponential decay, windows, no decay). Otherwise
        O(size), and computed again only when the buffer has changed by more than 1 % of its size since.

        :return: The diagnostics
        :raises ValueError: if the buffer is empty
        """
        return self.distribution.diagnostics(self._eligible())
