"""The distribution that a replay buffer draws from. It sees the numbers of transitions, never an observation."""

from typing import Any, NamedTuple

import numpy as np

from sb3_reptile.replay.age_samplers import AgeSampler, GeometricSampler, make_age_sampler
from sb3_reptile.replay.auto.segmented_sampler import SegmentedSampler
from sb3_reptile.replay.checks import Weighting
from sb3_reptile.replay.decay import DEFAULT_DECAY, Decay, Exponential
from sb3_reptile.replay.diagnostics import Diagnostics, ReplayDiagnostics, diagnose
from sb3_reptile.replay.ring import Ring
from sb3_reptile.replay.weighted_sampler import WeightedSampler
from sb3_reptile.storage.values import from_json, to_json


class Draw(NamedTuple):
    """
    What was drawn.

    :param indices: Numbers of the transitions, ``row * n_envs + env``, int64, shape (size,)
    :param weights: Importance weights, or loss weights with ``weighting="loss"``, float32, shape (size, 1)
    """

    indices: np.ndarray
    weights: np.ndarray


class NothingToDrawError(RuntimeError):
    """No eligible transition has a sampling weight above 0."""


class SamplingDistribution(Ring):
    """
    How likely each stored transition is to be drawn: its sampling weight is the product of its initial weight or
    priority, the decay factor of its age, and the consistency of its segment.

    A buffer makes one, adds a row to it whenever it stores one, and draws from it. A subclass is used by
    ``distribution_class=MyDistribution`` among the buffer's arguments (``replay_buffer_kwargs``). It may override
    :meth:`make_age_sampler`, :meth:`add`, :meth:`set_segments` or :meth:`draw`; all arguments are given by keyword,
    ``n_rows`` and ``n_envs`` aside.

    :param n_rows: Capacity of the buffer in rows
    :param n_envs: Number of transitions in a row
    :param decay: The decay
    :param uniform_fraction: Share of the draws that is uniform
    :param combined: Whether the newest row is always drawn, as the first of a batch
    :param has_initial_weights: Whether initial weights are given to :meth:`add`
    :param prioritized: Whether :meth:`update_priorities` is called
    :param beta: Exponent of the importance weights
    :param weighting: Where the sampling weights act: in what is drawn (``"sampling"``) or in the loss (``"loss"``)
    :param has_segments: Whether :meth:`set_segments` is called
    :param without_oldest: Whether the oldest row of a full buffer cannot be drawn
    """

    def __init__(
        self,
        n_rows: int,
        n_envs: int,
        *,
        decay: Decay = DEFAULT_DECAY,
        uniform_fraction: float = 0.0,
        combined: bool = False,
        has_initial_weights: bool = False,
        prioritized: bool = False,
        beta: float = 0.0,
        weighting: Weighting = "sampling",
        has_segments: bool = False,
        without_oldest: bool = False,
    ) -> None:
        super().__init__(n_rows, n_envs, without_oldest)
        self.decay = decay
        self.uniform_fraction = uniform_fraction
        self.combined = combined
        self.has_initial_weights = has_initial_weights
        self.prioritized = prioritized
        self.beta = beta
        self.weighting = weighting
        self.has_segments = has_segments
        self.reset()

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        #: Number of transitions drawn so far
        self.drawn = 0
        self._updated = 0
        self._largest_priority = 1.0
        self._diagnosed: tuple[int, Diagnostics] | None = None
        # Initial weights, kept where priorities change what the sampler holds
        self._initial_weights: np.ndarray | None = None
        if self.prioritized and self.has_initial_weights:
            self._initial_weights = np.ones((self.n_rows, self.n_envs))
        self.age_sampler = self.make_age_sampler()
        self._weighted: WeightedSampler | None = None
        if self.prioritized or self.has_initial_weights:
            self._weighted = WeightedSampler(self.age_sampler, self.n_rows, self.n_envs)

    def make_age_sampler(self) -> AgeSampler:
        """
        :return: What samples the ages of rows by the present decay, and by segments if there are any
        """
        if not self.has_segments:
            return make_age_sampler(self.decay, self.n_rows, self.n_envs, self.uniform_fraction)
        return SegmentedSampler(make_age_sampler(self.decay, self.n_rows, self.n_envs, 0.0), self.uniform_fraction)

    def add(self, initial_weights: np.ndarray | None, infos: list[dict[str, Any]]) -> None:
        """
        Add a row, in the place of the oldest one if the buffer is full.

        :param initial_weights: The initial weight of each transition, shape (n_envs,), or None if all are 1
        :param infos: The environments' ``info`` of the step, one dict per environment
        """
        if self._weighted is not None:
            weights: np.ndarray | float = self._largest_priority
            if initial_weights is not None:
                weights = initial_weights * self._largest_priority
                if self._initial_weights is not None:
                    self._initial_weights[self.rows_added % self.n_rows] = initial_weights
            self._weighted.add(weights)
        self.rows_added += 1
        if self.has_segments:
            self.age_sampler.rows_added = self.rows_added  # type: ignore[attr-defined]

    def set_segments(self, starts: np.ndarray, consistencies: np.ndarray, last_change: int | None) -> None:
        """
        :param starts: Number of the first row of each segment, counted since the buffer was empty, increasing
        :param consistencies: How well each segment agrees with the present, in (0, 1]; that of the last must be 1
        :param last_change: Number of the first row after the last change that was noticed, None if there was none
        """
        assert isinstance(self.age_sampler, SegmentedSampler)
        self.age_sampler.set_segments(starts, consistencies, self.rows_added)

    def update_priorities(self, indices: np.ndarray, priorities: np.ndarray) -> None:
        """
        :param indices: Numbers of stored transitions, int64, shape (n,), n >= 1
        :param priorities: Their new priorities, > 0, float64, same shape; the last one counts if an index is repeated
        """
        assert self._weighted is not None
        if self._initial_weights is None:
            largest = self._weighted.set(indices, priorities)
        else:
            self._weighted.set(indices, priorities * self._initial_weights.reshape(-1)[indices])
            largest = float(priorities.max())
        self._largest_priority = max(self._largest_priority, largest)
        self._updated += len(indices)

    # Half-life

    @property
    def takes_half_life(self) -> bool:
        """Whether the half-life can be set: if the decay is exponential, or the default."""
        return isinstance(self.decay, Exponential) or self.decay == DEFAULT_DECAY

    @property
    def half_life(self) -> float:
        """
        The half-life in transitions. Setting it takes O(1), but O(size) at the next draw with initial weights or
        priorities.

        :raises AttributeError: if the decay is not exponential
        """
        if not isinstance(self.decay, Exponential):
            raise AttributeError(f"only an exponential decay has a half_life, this buffer's is {self.decay}")
        return self.decay.half_life

    @half_life.setter
    def half_life(self, half_life: float) -> None:
        if self.takes_half_life and isinstance(half_life, str):
            raise ValueError(f"half_life can be changed to a number only, got {half_life!r}; 'auto' is for new buffers")
        if self.decay != DEFAULT_DECAY and half_life == self.half_life:
            return
        self.decay = Exponential(half_life)
        before, self.age_sampler = self.age_sampler, self.make_age_sampler()
        if isinstance(before, SegmentedSampler) and isinstance(self.age_sampler, SegmentedSampler):
            self.age_sampler.take_segments_of(before)
        if self._weighted is not None:
            self._weighted.set_age_sampler(self.age_sampler)
        self._diagnosed = None

    # Draws

    def draw(self, size: int, eligible: np.ndarray | None = None) -> Draw:
        """
        Draw transitions, with replacement.

        :param size: Number of draws
        :param eligible: Which transitions may be drawn, by row of the storage, bool, shape (n_rows, n_envs); None for
            all that are stored
        :return: What was drawn
        :raises ValueError: if there is none that can be drawn
        :raises NothingToDrawError: if no eligible transition has a sampling weight above 0
        """
        n_rows = self.n_drawable() or self.checked_n_drawable()
        indices = self._draw(n_rows, size) if eligible is None else self._draw_eligible(n_rows, size, eligible)
        if self.combined and size > 0:
            newest = (self.rows_added - 1) % self.n_rows
            indices[0] = newest * self.n_envs + indices[0] % self.n_envs
        weights = self.loss_weights(indices) if self.weighting == "loss" else self.importance_weights(indices)
        self.age_sampler.next_call()
        self.drawn += size
        return Draw(indices, weights)

    def draws(self, n_calls: int, size: int) -> Draw:
        """
        Draw several batches, one after the other, with the random numbers of as many calls of :meth:`draw`.

        :param n_calls: Number of batches
        :param size: Number of draws for each
        :return: What was drawn, that of each batch behind that of the one before
        :raises ValueError: if there is none that can be drawn
        """
        if _is_one_number_per_draw(self):
            return self.draw(n_calls * size)
        indices, weights = zip(*(self.draw(size) for _ in range(n_calls)), strict=True)
        return Draw(np.concatenate(indices), np.concatenate(weights))

    def _draw(self, n_rows: int, size: int) -> np.ndarray:
        if self._weighted is not None and self.weighting == "sampling":
            return self._weighted.sample(n_rows, size)
        if self.weighting == "loss" or _is_uniform(self.age_sampler):
            # The same random draws as SB3's buffer, which leaves out the row at pos if it cannot be drawn
            rows = np.random.randint(self.size - n_rows, self.size, size=size)
            if n_rows < self.size:
                rows = (rows + self.rows_added) % self.n_rows
        else:
            rows = self.rows_added - 1 - self.age_sampler.sample(n_rows, size)
            rows %= self.n_rows
        if self.n_envs == 1:
            return rows
        return rows * self.n_envs + np.random.randint(0, self.n_envs, size=size)

    def _draw_eligible(self, n_rows: int, size: int, eligible: np.ndarray) -> np.ndarray:
        flat = eligible.reshape(-1)
        if self._weighted is None and _is_uniform(self.age_sampler):
            # The same random draws as SB3's HerReplayBuffer
            return np.random.choice(np.flatnonzero(flat), size=size, replace=True)
        indices = self._draw(n_rows, 2 * size)
        indices = indices[flat[indices]][:size]
        if len(indices) < size:
            # Most of the sampling weight is not eligible: look at every transition, O(size of the buffer) as in SB3
            probabilities = self.all_probabilities(eligible).reshape(-1)
            cumulative = probabilities.cumsum()
            targets = np.random.random_sample(size - len(indices)) * cumulative[-1]
            missing = np.minimum(cumulative.searchsorted(targets, side="right"), probabilities.nonzero()[0][-1])
            indices = np.concatenate([indices, missing])
        return indices

    def importance_weights(self, indices: np.ndarray) -> np.ndarray:
        """
        :param indices: Numbers of transitions that were just drawn
        :return: ``(n P)^-beta``, divided by the largest of them, float32, shape (n, 1)
        """
        if self.beta == 0 or len(indices) == 0:
            return np.ones((len(indices), 1), dtype=np.float32)
        if self._weighted is not None:
            p = self._weighted.relative_probabilities(indices, self.n_drawable())
        else:
            p = self.age_sampler.probabilities(self.row_ages(indices), self.n_drawable())
        weights: np.ndarray = (p.min() / p) ** self.beta
        return weights.astype(np.float32).reshape(-1, 1)

    def loss_weights(self, indices: np.ndarray) -> np.ndarray:
        """
        :param indices: Numbers of transitions that can be drawn
        :return: ``n P``, which is ``w / mean(w)``, float32, shape (n, 1)
        """
        n_rows = self.n_drawable()
        if self._weighted is not None:
            weights = self._weighted.probabilities(indices, n_rows)
        else:
            weights = self.age_sampler.probabilities(self.row_ages(indices), n_rows) / self.n_envs
        weights *= n_rows * self.n_envs
        return weights.astype(np.float32).reshape(-1, 1)

    # Questions

    def all_probabilities(self, eligible: np.ndarray | None = None) -> np.ndarray:
        """
        The exact distribution of the next draw; the first transition of a combined batch aside.

        :param eligible: As in :meth:`draw`
        :return: Probability of each transition, shape (n_rows, n_envs), by row of the storage. O(size)
        :raises ValueError: if there is none that can be drawn
        :raises NothingToDrawError: if no eligible transition has a sampling weight above 0
        """
        n_rows = self.checked_n_drawable()
        if eligible is not None:
            return self._eligible_probabilities(eligible)
        ages = np.arange(n_rows)
        rows = (self.rows_added - 1 - ages) % self.n_rows
        probabilities = np.zeros((self.n_rows, self.n_envs))
        if self._weighted is None:
            probabilities[rows] = self.age_sampler.probabilities(ages, n_rows)[:, None] / self.n_envs
        else:
            probabilities[rows] = self._weighted.distribution(n_rows)
        return probabilities

    def _eligible_probabilities(self, eligible: np.ndarray) -> np.ndarray:
        if isinstance(self.age_sampler, GeometricSampler) and self.uniform_fraction == 0 and eligible.any():
            # Ages relative to the newest eligible transition: their decay factors may all underflow otherwise
            ages = self.all_ages() // self.n_envs
            weights = self.age_sampler.weights(np.maximum(ages - ages[eligible].min(), 0), len(ages))
            if self._weighted is not None:
                weights *= self._weighted.p
        else:
            weights = self.all_probabilities()
        weights = np.where(eligible, weights, 0)
        if weights.max() == 0:
            raise NothingToDrawError("no eligible transition has a sampling weight above 0")
        return weights / weights.sum()

    def diagnostics(self, eligible: np.ndarray | None = None) -> ReplayDiagnostics:
        """
        What is replayed. Closed forms, O(1), where there are such (exponential decay, windows, no decay). Otherwise
        O(size), and computed again only when the buffer has changed by more than 1 % of its size since.

        :param eligible: As in :meth:`draw`
        :return: The diagnostics
        :raises ValueError: if there is none that can be drawn
        :raises NothingToDrawError: if no eligible transition has a sampling weight above 0
        """
        n_rows = self.checked_n_drawable()
        volume = self.drawn / (self.rows_added * self.n_envs) if self.rows_added else 0.0
        newest, oldest = 0, (n_rows - 1) * self.n_envs
        if eligible is not None:
            of_transitions = self._diagnose(n_rows, eligible)
            ages = self.all_ages()[eligible]
            newest, oldest = int(ages.min()), int(ages.max())
        elif self._weighted is not None:
            of_transitions = self._diagnose(n_rows, None)
        else:
            of_rows = self.age_sampler.diagnostics(n_rows)
            # Within a row all environments are equally likely
            of_transitions = Diagnostics(
                self.n_envs * of_rows.expected_age,
                of_rows.entropy + float(np.log(self.n_envs)),
                self.n_envs * of_rows.effective_sample_size,
                self.n_envs * of_rows.median_age,
            )
        return ReplayDiagnostics(*of_transitions, newest, oldest, volume)

    def _diagnose(self, n_rows: int, eligible: np.ndarray | None) -> Diagnostics:
        changed = self.rows_added * self.n_envs + self._updated
        if self._diagnosed is None or changed - self._diagnosed[0] > n_rows * self.n_envs // 100:
            if eligible is None and self._weighted is not None:
                # Not of all rows that there is room for
                ages = np.repeat(np.arange(n_rows)[:, None] * self.n_envs, self.n_envs, axis=1)
                self._diagnosed = changed, diagnose(self._weighted.distribution(n_rows), ages)
            else:
                self._diagnosed = changed, diagnose(self.all_probabilities(eligible), self.all_ages())
        return self._diagnosed[1]

    # State

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """
        :return: Its arrays with one entry for each transition, shape (n_rows, n_envs), not copied: to restore them,
            write into them; and its numbers, as JSON
        """
        rows: dict[str, np.ndarray] = {}
        values: dict[str, Any] = {
            "largest_priority": self._largest_priority,
            "drawn": self.drawn,
            "added": self.rows_added * self.n_envs,
            "updated": self._updated,
            "beta": self.beta,
            "weighting": self.weighting,
            "ages": self.age_sampler.state(),
        }
        if isinstance(self.decay, Exponential):
            values["half_life"] = to_json(self.decay.half_life, "half_life")
        if self._weighted is not None:
            rows["weights"] = self._weighted.p
            values["weighted"] = self._weighted.state()
        if self._initial_weights is not None:
            rows["prior"] = self._initial_weights
        return rows, values

    def set_state(self, values: dict[str, Any]) -> None:
        """
        :param values: The numbers that ``state()`` returned of a distribution made with the same arguments; its arrays
            have been restored
        """
        self._largest_priority = float(values["largest_priority"])
        self.drawn, self._updated = values["drawn"], values["updated"]
        self.rows_added = values["added"] // self.n_envs
        self.beta, self.weighting = values["beta"], values["weighting"]
        if "half_life" in values:
            self.half_life = from_json(values["half_life"])
        self.age_sampler.set_state(values["ages"])
        if self.has_segments:
            self.age_sampler.rows_added = self.rows_added  # type: ignore[attr-defined]
        if self._weighted is not None:
            self._weighted.set_state(values["weighted"])
        self._diagnosed = None


def _is_uniform(age_sampler: AgeSampler) -> bool:
    """Whether age makes no difference at present."""
    if isinstance(age_sampler, SegmentedSampler):
        if not age_sampler.is_plain:
            return False
        age_sampler = age_sampler.inner
    return isinstance(age_sampler, GeometricSampler) and age_sampler.rate == 0


def _is_one_number_per_draw(distribution: SamplingDistribution) -> bool:
    """Whether a batch takes one random number per draw and no others, so that several batches can be one."""
    sampler = distribution.age_sampler
    if type(sampler) is SegmentedSampler:
        sampler = sampler.inner  # on which alone its next_call() depends
    return (
        distribution.n_envs == 1
        and distribution._weighted is None
        and not distribution.combined
        and distribution.beta == 0
        and type(distribution).draw is SamplingDistribution.draw
        and type(distribution)._draw is SamplingDistribution._draw
        and type(sampler).sample is AgeSampler.sample
        and type(sampler).next_call is AgeSampler.next_call
    )
