"""Replay buffers that draw by age and weight. Storage stays SB3's; what is drawn is the samplers' business."""

import os
import warnings
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay.auto import Consistency, SegmentedSampler
from sb3_reptile.replay.decay import DEFAULT_DECAY, Custom, Decay, Exponential, check_number, make_decay
from sb3_reptile.replay.diagnostics import Diagnostics, diagnose
from sb3_reptile.replay.finite import all_finite, first_bad
from sb3_reptile.replay.samplers import GeometricSampler, WeightedSampler, make_age_sampler
from sb3_reptile.replay.scratch import ScratchFiles
from sb3_reptile.replay.storing import BufferState, enlarge, files_of, fill, restore_storage, state_of_storage
from sb3_reptile.replay.weights import RandomWeights, check_weights, make_initial_weights, spell_initial_weights
from sb3_reptile.storage import ForeignError
from sb3_reptile.storage.folder import Folder, write_folder
from sb3_reptile.storage.values import arguments_from_json, arguments_to_json, from_json, to_json

SelfDecayedSampling = TypeVar("SelfDecayedSampling", bound="DecayedSampling")

#: What a folder says it holds when a buffer was saved into it
KIND = "replay buffer"
ON_BAD_TRANSITION = ("raise", "skip", "allow")


class DecayedReplayBufferSamples(NamedTuple):
    """
    A batch: SB3's fields, and where it comes from.

    :param observations: Shape (batch_size, ...), or a dict of such
    :param actions: Shape (batch_size, action_dim)
    :param next_observations: As the observations
    :param dones: Shape (batch_size, 1); 0 where an episode was cut off by a time limit
    :param rewards: Shape (batch_size, 1)
    :param discounts: Shape (batch_size, 1) with n-step returns, else None
    :param indices: Numbers of the transitions, ``row * n_envs + env``, int64, shape (batch_size,); on the CPU
    :param weights: What to multiply the loss of each transition with, shape (batch_size, 1): importance weights
        ``(n P)^-beta``, divided by the largest of the batch, 1 with ``beta=0``; or, with ``weighting="loss"``,
        ``w / mean(w)``
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    indices: np.ndarray
    weights: th.Tensor


class ReplayDiagnostics(NamedTuple):
    """
    What a buffer replays. Ages are in transitions.

    :param expected_age: Mean age of what is drawn
    :param entropy: Entropy of the distribution over the transitions, in nats; ``log n`` for uniform replay
    :param effective_sample_size: Over how many transitions a uniform draw would be as concentrated
    :param median_age: Median age of what is drawn: the half-life of an exponential decay in a large buffer
    :param newest_age: Age of the newest transition that can be drawn
    :param oldest_age: Age of the oldest transition that can be drawn
    :param replay_volume: Transitions drawn per transition added, so far
    """

    expected_age: float
    entropy: float
    effective_sample_size: float
    median_age: float
    newest_age: int
    oldest_age: int
    replay_volume: float


class DecayedSampling(ReplayBuffer):
    """
    Mixin for replay buffers: a transition is drawn with a probability that falls with its age, times a weight of its
    own.

    Put it before the buffer class that stores: ``class MyBuffer(DecayedSampling, SomeReplayBuffer)``. That class
    must keep its rows as SB3's ``ReplayBuffer`` does (a ring with ``pos``, ``full`` and ``buffer_size``, arrays that
    begin with the axes row and environment) and fetch them by ``_get_samples(rows, env)``.

    :param half_life: For exponential decay, the age at which a transition is half as likely to be drawn as the newest,
        in transitions (all environments counted). ``inf`` replays uniformly, with the same random draws as the storing
        class by itself. ``None`` leaves it to ``decay``.
        ``"auto"`` finds out by itself what is still true: segments of the buffer that new transitions contradict count
        less, and time spent in another regime does not age what belongs to this one (see :attr:`consistency`).
    :param uniform_fraction: Share of the draws that is uniform over the buffer, in [0, 1], so that nothing stored
        becomes less likely than ``uniform_fraction / size``
    :param decay: Another decay than the exponential one of ``half_life``, whose number is then not used: one of
        :mod:`sb3_reptile.replay.decay`, a function of an array of ages, or as YAML spells it,
        ``{"linear": {"horizon": 80000, "floor": 0.1}}``. Where there is neither, it is ``(1 + age / 100) ** -1.5``
    :param combined: Whether the newest row is always in the batch, as its first element (combined experience replay,
        https://arxiv.org/abs/1712.01275)
    :param initial_weights: What a transition counts when it is new: ``"uniform"``; ``"random"`` or
        ``{"random": {"seed": 0}}``, uniform in (0, 1]; ``"info"``, what the environment says in
        ``info["replay_weight"]``, 1 if it says nothing; or a function of the arguments of ``add()`` that returns a
        weight for each environment. They multiply the decay.
    :param prioritized: Whether ``update_priorities()`` can be called (https://arxiv.org/abs/1511.05952). Priorities
        multiply decay and initial weights; new transitions enter at the largest priority so far.
    :param beta: Exponent of the importance weights in the batch, in [0, 1]: 0 leaves them 1, 1 undoes the preference
        for recent or prioritized transitions. It can be changed at any time. SB3's algorithms do not use these weights.
    :param weighting: Where decay and initial weights act: ``"sampling"``, in what is drawn; or ``"loss"``, in the
        weights of a batch that is drawn uniformly, to be multiplied with the loss of each transition: ``w / mean(w)``,
        so that the expected gradient is the same. Not with priorities, which are a matter of sampling.
    :param storage_dir: A folder on a disk that is to hold the observations instead of memory, for buffers larger than
        that. It needs room for all of them; the files have no names and vanish with the process.
    :param on_bad_transition: What becomes of a row in which a reward, or a float of an observation, is not finite:
        ``"raise"`` an error that tells where it came from; ``"skip"`` it, count it in ``n_skipped`` and warn; or
        ``"allow"`` it, as SB3 does
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if an argument has a value that is not allowed
    :raises OSError: if ``storage_dir`` is no folder, or its disk has no room
    """

    #: Where the observations are, if not in memory
    _scratch: ScratchFiles | None = None

    def __init__(
        self,
        *args: Any,
        half_life: float | Literal["auto"] | None = None,
        uniform_fraction: float = 0.0,
        decay: Any = None,
        combined: bool = False,
        initial_weights: Any = "uniform",
        prioritized: bool = False,
        beta: float = 0.0,
        weighting: str = "sampling",
        storage_dir: str | os.PathLike[str] | None = None,
        on_bad_transition: str = "raise",
        **kwargs: Any,
    ) -> None:
        if isinstance(self, HerReplayBuffer) and not isinstance(self, DecayedHerReplayBuffer):
            raise TypeError(f"{type(self).__name__} would not relabel goals: derive it from DecayedHerReplayBuffer")
        # Check before the storing class allocates
        is_auto = isinstance(half_life, str) and half_life == "auto"
        if decay is not None:
            self._decay = make_decay(decay)
        elif is_auto or half_life is None:
            self._decay = DEFAULT_DECAY
        else:
            self._decay = Exponential(half_life)  # type: ignore[arg-type]
        self._initial_weights = make_initial_weights(initial_weights)
        GeometricSampler(0.0, uniform_fraction)
        self.beta = beta
        if weighting not in ("sampling", "loss"):
            raise ValueError(f"weighting must be 'sampling' or 'loss', got {weighting!r}")
        if weighting == "loss" and prioritized:
            raise ValueError("weighting='loss' draws uniformly, which priorities do not: use weighting='sampling'")
        self.weighting = weighting
        if on_bad_transition not in ON_BAD_TRANSITION:
            known = " or ".join(map(repr, ON_BAD_TRANSITION))
            raise ValueError(f"on_bad_transition must be {known}, got {on_bad_transition!r}")
        self.on_bad_transition = on_bad_transition
        if storage_dir is None:
            super().__init__(*args, **kwargs)
        else:
            self._init_on_disk(storage_dir, *args, **kwargs)
        if on_bad_transition == "skip" and self.optimize_memory_usage:
            raise ValueError(
                "on_bad_transition='skip' must not be combined with optimize_memory_usage=True, in which an "
                "observation is that of two transitions: use 'raise', or optimize_memory_usage=False"
            )
        # The observations that can hold what is no number, by key
        space = self.observation_space
        of_keys = space.spaces.items() if isinstance(space, spaces.Dict) else [(None, space)]
        self._floats = [(key, np.dtype(of.dtype)) for key, of in of_keys if np.dtype(of.dtype).kind == "f"]
        #: How many transitions were not stored because of on_bad_transition="skip"
        self.n_skipped = 0
        self.combined = combined
        self.prioritized = prioritized
        self._uniform_fraction = uniform_fraction
        self._largest_priority = 1.0
        # The initial weights by themselves, where priorities change what the sampler holds
        self._prior: np.ndarray | None = None
        if prioritized and self._initial_weights is not None:
            self._prior = np.ones(self.buffer_size * self.n_envs)
        self._drawn = self._added = self._updated = 0
        self._diagnosed: tuple[int, Diagnostics] | None = None
        self._consistency: Consistency | None = None
        if is_auto:
            self._consistency = Consistency(self.observation_space, self.action_space, self.n_envs)
        self._make_samplers()

    def _init_on_disk(self, storage_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        scratch = ScratchFiles(storage_dir)
        buffer_size = args[0] if args else kwargs.pop("buffer_size")
        super().__init__(1, *args[1:], **kwargs)  # one row
        enlarge(self, max(buffer_size // self.n_envs, 1), scratch)
        self._scratch = scratch

    def _make_samplers(self) -> None:
        if self._consistency is None:
            self._ages = make_age_sampler(self._decay, self.buffer_size, self.n_envs, self._uniform_fraction)
        else:
            inner = make_age_sampler(self._decay, self.buffer_size, self.n_envs, 0.0)
            self._ages = SegmentedSampler(inner, self._uniform_fraction)
            self._ages.set_segments(
                self._consistency.starts, self._consistency.consistencies, self._added // self.n_envs
            )
        self._weighted: WeightedSampler | None = None
        if self.prioritized or self._initial_weights is not None:
            self._weighted = WeightedSampler(self._ages, self.buffer_size, self.n_envs)

    @property
    def decay(self) -> Decay:
        """The decay; half_life changes it where it is exponential."""
        return self._decay

    @property
    def half_life(self) -> float:
        """
        Age, in transitions, at which the probability of a draw is halved. It can be changed at any time, which costs
        O(1), or O(size) with initial weights or priorities; the default decay becomes an exponential one by it.

        :raises AttributeError: if the decay is another one
        """
        if not isinstance(self._decay, Exponential):
            raise AttributeError(f"only an exponential decay has a half_life, this buffer's is {self._decay}")
        return self._decay.half_life

    @half_life.setter
    def half_life(self, half_life: float) -> None:
        if self.takes_half_life and isinstance(half_life, str):
            raise ValueError(f"half_life can be changed to a number only, got {half_life!r}; 'auto' is for new buffers")
        if self._decay != DEFAULT_DECAY and half_life == self.half_life:
            return
        self._decay = Exponential(half_life)
        weighted = self._weighted
        self._make_samplers()
        self._diagnosed = None
        if weighted is not None:
            assert self._weighted is not None
            self._weighted.p = weighted.p
            self._weighted.largest = weighted.largest
            self._weighted.rows_added = weighted.rows_added

    @property
    def takes_half_life(self) -> bool:
        """Whether the half-life can be set: where the decay is exponential, or the default."""
        return isinstance(self._decay, Exponential) or self._decay == DEFAULT_DECAY

    @property
    def consistency(self) -> Consistency | None:
        """What judges how true the segments of the buffer still are; None but for ``half_life="auto"``."""
        return self._consistency

    @property
    def uniform_fraction(self) -> float:
        """Share of the draws that is uniform over the buffer."""
        return self._uniform_fraction

    @property
    def beta(self) -> float:
        """Exponent of the importance weights, in [0, 1]. It can be changed at any time."""
        return self._beta

    @beta.setter
    def beta(self, beta: float) -> None:
        check_number("beta", beta, "in [0, 1]", lambda value: 0 <= value <= 1, "use 0 for no correction")
        self._beta = beta

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

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """
        Store a row, one transition from each environment.

        :param obs: Observations
        :param next_obs: Next observations
        :param action: Actions
        :param reward: Rewards
        :param done: Whether an episode ended
        :param infos: Additional information, one dict for each environment
        :raises ValueError: if an initial weight is not a finite number > 0, or, with ``on_bad_transition="raise"``, a
            reward or a float of an observation is not finite; nothing is stored then
        """
        if self.on_bad_transition != "allow" and not self._is_finite(obs, next_obs, reward):
            self._refuse(obs, next_obs, reward, done)
            return
        if self._weighted is None:
            super().add(obs, next_obs, action, reward, done, infos)
        else:
            weights: np.ndarray | float = self._largest_priority
            if self._initial_weights is not None:
                prior = self._initial_weights(obs, next_obs, action, reward, done, infos)
                prior = check_weights("initial weights", prior, self.n_envs)
                weights = prior * self._largest_priority
            row = self.pos
            super().add(obs, next_obs, action, reward, done, infos)
            if self._prior is not None:
                self._prior.reshape(-1, self.n_envs)[row] = prior
            self._weighted.add(weights)
        self._added += self.n_envs
        if self._scratch is not None:
            self._scratch.touched(self.n_envs, scattered=False)
        if self._consistency is not None:
            self._observe(self._consistency)

    def _is_finite(self, obs: Any, next_obs: Any, reward: Any) -> bool:
        if not all_finite(reward, self.rewards.dtype):
            return False
        for key, dtype in self._floats:
            before, after = (obs, next_obs) if key is None else (obs[key], next_obs[key])
            if not (all_finite(before, dtype) and all_finite(after, dtype)):
                return False
        return True

    def _refuse(self, obs: Any, next_obs: Any, reward: Any, done: Any) -> None:
        """What becomes of a row that is not finite."""
        named = [("reward", reward, self.rewards.dtype)]
        for key, dtype in self._floats:
            of_key = "" if key is None else f" {key!r}"
            for name, values in (("observation", obs), ("next observation", next_obs)):
                named.append((name + of_key, values if key is None else values[key], dtype))
        name, values, dtype = next(entry for entry in named if not all_finite(*entry[1:]))
        env, value = first_bad(values, dtype, self.n_envs)
        step = (self._added + self.n_skipped) // self.n_envs + 1
        bad = f"the {name} of environment {env} is {value} at its step {step}"
        if self.on_bad_transition == "raise":
            raise ValueError(
                f"{bad}: mend the environment, or let {type(self).__name__}(on_bad_transition='skip') leave such "
                "transitions out"
            )
        if self.size() > 0:
            self._break_off(np.asarray(done))
        self.n_skipped += self.n_envs
        n_rows = self.n_skipped // self.n_envs
        if n_rows in (1, 10, 100) or n_rows % 1_000 == 0:
            warnings.warn(f"{bad}: not stored, as {self.n_skipped:,} transitions so far", stacklevel=3)

    def _break_off(self, done: np.ndarray) -> None:
        """Let no return run over a gap after the newest row: its episodes end as if cut off by a time limit."""
        newest = (self.pos - 1) % self.buffer_size
        np.maximum(self.timeouts[newest], self.dones[newest] == 0, out=self.timeouts[newest])

    def _observe(self, consistency: Consistency) -> None:
        """Let the new rows be compared with the old ones, some at a time."""
        assert isinstance(self._ages, SegmentedSampler)
        rows_added = self._added // self.n_envs
        self._ages.rows_added = rows_added
        n_rows = consistency.rows_per_chunk
        if rows_added % n_rows != 0:
            return
        rows = np.arange(rows_added - n_rows, rows_added) % self.buffer_size
        is_known = np.ones((n_rows, self.n_envs), dtype=bool)
        if self.optimize_memory_usage:
            # Of the last step of an episode, the next observation is overwritten by the first of the next episode
            next_observations: Any = self.observations[(rows + 1) % self.buffer_size]
            is_known = self.dones[rows] == 0
        else:
            next_observations = _rows_of(self.next_observations, rows)
        first_kept = max(rows_added - self.buffer_size, 0)
        consistency.observe(
            _rows_of(self.observations, rows),
            self.actions[rows],
            self.rewards[rows],
            next_observations,
            is_known,
            first_kept,
        )
        self._ages.set_segments(consistency.starts, consistency.consistencies, rows_added)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._largest_priority = 1.0
        self._drawn = self._added = self._updated = self.n_skipped = 0
        self._diagnosed = None
        if self._consistency is not None:
            self._consistency.reset()
        self._make_samplers()

    def update_priorities(self, indices: Any, priorities: Any) -> None:
        """
        Set the priorities of transitions, from their TD errors for instance.

        :param indices: Numbers of the transitions, as they came with a batch
        :param priorities: Their new priorities, > 0, the same number of them; of an index that is named twice the last
            one counts
        :raises RuntimeError: if the buffer was not made with ``prioritized=True``
        :raises ValueError: if an index is not that of a stored transition, or a priority not a finite number > 0;
            nothing is changed then
        """
        if not self.prioritized or self._weighted is None:
            raise RuntimeError(f"{type(self).__name__} has no priorities: make it with prioritized=True")
        indices = np.asarray(indices)
        if indices.dtype.kind not in "iu":
            raise ValueError(f"indices must be whole numbers, got {indices.dtype}; take batch.indices")
        indices = indices.reshape(-1).astype(np.int64, copy=False)
        if isinstance(priorities, th.Tensor):
            priorities = priorities.detach().cpu().numpy()
        priorities = check_weights("priorities", priorities, len(indices))
        if len(indices) == 0:
            return
        n_stored = self.size() * self.n_envs
        # As unsigned numbers, negative ones are very large
        if indices.view(np.uint64).max() >= n_stored:
            bad = indices[(indices < 0) | (indices >= n_stored)][0]
            raise ValueError(f"indices must be those of stored transitions, 0 to {n_stored - 1}, got {bad}")
        if self._prior is None:
            largest = self._weighted.set(indices, priorities)
        else:
            self._weighted.set(indices, priorities * self._prior[indices])
            largest = float(priorities.max())
        self._largest_priority = max(self._largest_priority, largest)
        self._updated += len(indices)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DecayedReplayBufferSamples:  # type: ignore[override]
        """
        Draw transitions, with replacement, by decay, initial weights and priorities.

        :param batch_size: Number of transitions to draw
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions, each field of shape (batch_size, ...), their numbers and importance weights
        :raises ValueError: if the buffer is empty
        """
        n_rows = self._n_rows()
        indices = self._draw(n_rows, batch_size)
        if self.combined and batch_size > 0:
            newest = (self.pos - 1) % self.buffer_size
            indices[0] = newest * self.n_envs + indices[0] % self.n_envs
        return self._batch(indices, env, n_rows)

    def _draw(self, n_rows: int, size: int) -> np.ndarray:
        """
        :param n_rows: How many rows can be drawn
        :param size: Number of draws
        :return: Numbers of transitions, int64, shape (size,)
        """
        if self._weighted is not None and self.weighting == "sampling":
            return self._weighted.sample(n_rows, size)
        if self.weighting == "loss" or self._is_uniform():
            # No decay in what is drawn: SB3's very draws, which leave out the row at pos where it must not be drawn
            rows = np.random.randint(self.size() - n_rows, self.size(), size=size)
            if n_rows < self.size():
                rows = (rows + self.pos) % self.buffer_size
        else:
            rows = self.pos - 1 - self._ages.sample(n_rows, size)
            rows %= self.buffer_size
        if self.n_envs == 1:
            return rows
        return rows * self.n_envs + np.random.randint(0, self.n_envs, size=size)

    def _is_uniform(self) -> bool:
        """Whether age makes no difference at present."""
        ages = self._ages
        if isinstance(ages, SegmentedSampler):
            if not ages.is_plain:
                return False
            ages = ages.inner
        return isinstance(ages, GeometricSampler) and ages.rate == 0

    def _batch(self, indices: np.ndarray, env: VecNormalize | None, n_rows: int) -> DecayedReplayBufferSamples:
        """What was drawn, with its importance weights; ends the draw."""
        if self.weighting == "loss":
            weights = self._loss_weights(indices, n_rows)
        else:
            weights = self._importance_weights(indices, n_rows)
        self._ages.next_call()
        self._drawn += len(indices)
        if self._scratch is not None:
            self._scratch.touched(len(indices))
        return DecayedReplayBufferSamples._make((*self._fetch(indices, env), indices, weights))

    def transitions(self, indices: np.ndarray, env: VecNormalize | None = None) -> DecayedReplayBufferSamples:
        """
        Certain transitions, without a draw.

        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions; their weights are 1
        """
        weights = th.ones((len(indices), 1), device=self.device)
        return DecayedReplayBufferSamples._make((*self._fetch(indices, env), indices, weights))

    def _importance_weights(self, indices: np.ndarray, n_rows: int) -> th.Tensor:
        """``(n P)^-beta``, divided by the largest of the batch, float32, shape (batch_size, 1)."""
        if self.beta == 0 or len(indices) == 0:
            return th.ones((len(indices), 1), device=self.device)
        if self._weighted is not None:
            p = self._weighted.relative_probabilities(indices, n_rows)
        else:
            p = self._ages.probabilities(self._row_ages(indices), n_rows)
        weights = (p.min() / p) ** self.beta
        return th.from_numpy(weights.astype(np.float32).reshape(-1, 1)).to(self.device)

    def _loss_weights(self, indices: np.ndarray, n_rows: int) -> th.Tensor:
        """``n P``, which is ``w / mean(w)``, float32, shape (batch_size, 1)."""
        if self._weighted is not None:
            weights = self._weighted.probabilities(indices, n_rows)
        else:
            weights = self._ages.probabilities(self._row_ages(indices), n_rows) / self.n_envs
        weights *= n_rows * self.n_envs
        return th.from_numpy(weights.astype(np.float32).reshape(-1, 1)).to(self.device)

    def ages_of(self, indices: np.ndarray) -> np.ndarray:
        """
        :param indices: Numbers of transitions, as they come with a batch
        :return: Their ages in transitions, same shape
        """
        return self._row_ages(indices) * self.n_envs

    def _row_ages(self, indices: np.ndarray) -> np.ndarray:
        return (self.pos - 1 - indices // self.n_envs) % self.buffer_size

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        """
        Get transitions out of the storing class, whatever it is, through its ``_get_samples()``. As that draws the
        environments by itself, it is asked for one environment at a time, by way of a view that holds no other.

        :param indices: Numbers of the transitions, int64, shape (batch_size,)
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The fields of SB3's ReplayBufferSamples
        """
        if self.n_envs == 1 or len(indices) == 0:
            return tuple(self._get_samples(indices, env))
        rows, envs = np.divmod(indices, self.n_envs)
        order, parts = [], []
        for index, view in enumerate(self._views_of_environments()):
            wanted = np.flatnonzero(envs == index)
            if len(wanted) > 0:
                order.append(wanted)
                parts.append(view._get_samples(rows[wanted], env))
        back = th.as_tensor(np.argsort(np.concatenate(order)), device=self.device)

        def join(values: tuple[Any, ...]) -> Any:
            if values[0] is None:
                return None
            if isinstance(values[0], dict):
                return {key: join(tuple(value[key] for value in values)) for key in values[0]}
            return th.cat(values)[back]

        return tuple(join(values) for values in zip(*parts, strict=True))

    def _views_of_environments(self) -> list[ReplayBuffer]:
        """For each environment, this buffer as if it had no other; the arrays are shared."""

        def of_environment(value: Any, index: int) -> Any:
            if isinstance(value, np.ndarray) and value.shape[:2] == (self.buffer_size, self.n_envs):
                return value[:, index : index + 1]
            if isinstance(value, dict):
                return {key: of_environment(item, index) for key, item in value.items()}
            return value

        views: list[ReplayBuffer] = []
        for index in range(self.n_envs):
            view = object.__new__(type(self))
            view.__dict__.update({name: of_environment(value, index) for name, value in self.__dict__.items()})
            view.n_envs = 1
            views.append(view)
        return views

    def sampling_probabilities(self) -> np.ndarray:
        """
        The exact distribution of the next draw, for plots and tests; the first element of a combined batch aside.

        :return: Probability of each transition, shape (buffer_size, n_envs), by row of the storage. O(size)
        :raises ValueError: if the buffer is empty
        """
        n_rows = self._n_rows()
        ages = np.arange(n_rows)
        rows = (self.pos - 1 - ages) % self.buffer_size
        probabilities = np.zeros((self.buffer_size, self.n_envs))
        if self._weighted is None:
            probabilities[rows] = self._ages.probabilities(ages, n_rows)[:, None] / self.n_envs
        else:
            probabilities[rows] = self._weighted.distribution(n_rows)
        return probabilities

    def ages(self) -> np.ndarray:
        """
        :return: Age of each transition in transitions, shape (buffer_size, n_envs), by row of the storage; -1 where
            there is none. O(size)
        """
        ages = (self.pos - 1 - np.arange(self.buffer_size)) % self.buffer_size * self.n_envs
        if not self.full:
            ages[self.pos :] = -1
        return np.repeat(ages[:, None], self.n_envs, axis=1)

    def diagnostics(self) -> ReplayDiagnostics:
        """
        What is replayed. Closed forms, O(1), where there are such (exponential decay, windows, no decay). Otherwise
        O(size), and done anew only when the buffer has changed by more than 1 % of its size since.

        :return: The diagnostics
        :raises ValueError: if the buffer is empty
        """
        n_rows = self._n_rows()
        if self._weighted is None:
            of_rows = self._ages.diagnostics(n_rows)
            # Within a row all environments are equally likely
            known = Diagnostics(
                self.n_envs * of_rows.expected_age,
                of_rows.entropy + float(np.log(self.n_envs)),
                self.n_envs * of_rows.effective_sample_size,
                self.n_envs * of_rows.median_age,
            )
        else:
            known = self._diagnose(n_rows)
        volume = self._drawn / self._added if self._added else 0.0
        return ReplayDiagnostics(*known, 0, (n_rows - 1) * self.n_envs, volume)

    def can_be_sampled(self) -> bool:
        """Whether there is anything to draw."""
        return self.size() > (1 if self.full and self.optimize_memory_usage else 0)

    def log_values(self) -> dict[str, float]:
        """
        :return: What is worth logging of replay, by the logger's names
        :raises ValueError: if the buffer is empty
        """
        diagnostics = self.diagnostics()
        values = {
            "replay/mean_age": diagnostics.expected_age,
            "replay/entropy": diagnostics.entropy,
            "replay/effective_sample_size": diagnostics.effective_sample_size,
            "replay/volume": diagnostics.replay_volume,
        }
        if self._consistency is not None:
            values |= {
                "replay/effective_half_life": diagnostics.median_age,
                "replay/regime": self._consistency.regime,
                "replay/alarms": len(self._consistency.changes),
                "replay/consistency": self._consistency.mean(),
            }
        elif isinstance(self._decay, Exponential):
            values["replay/half_life"] = self.half_life
        if self.on_bad_transition == "skip":
            values["replay/skipped"] = self.n_skipped
        return values

    def state(self) -> BufferState:
        """
        :return: All that it holds. What derives from it and holds more adds to this, and overrides ``set_state`` too.
        """
        state = state_of_storage(self)
        state.values.update(
            largest_priority=self._largest_priority,
            drawn=self._drawn,
            added=self._added,
            updated=self._updated,
            skipped=self.n_skipped,
            beta=self.beta,
            weighting=self.weighting,
            ages=self._ages.state(),
        )
        if isinstance(self._decay, Exponential):
            state.values["half_life"] = to_json(self._decay.half_life, "half_life")
        if self._weighted is not None:
            state.rows["weights"] = self._weighted.p
            state.values["weighted"] = self._weighted.state()
        if self._prior is not None:
            state.rows["prior"] = self._prior.reshape(self.buffer_size, self.n_envs)
        if type(self._initial_weights) is RandomWeights:
            state.values["generator"] = self._initial_weights.generator.bit_generator.state
        if self._consistency is not None:
            arrays, state.values["consistency"] = self._consistency.state()
            state.arrays.update({f"consistency.{name}": array for name, array in arrays.items()})
        return state

    def set_state(self, state: BufferState) -> None:
        """
        :param state: What ``state()`` returned of a buffer made with the same arguments; the rows have been restored
        """
        restore_storage(self, state)
        values = state.values
        self._largest_priority = float(values["largest_priority"])
        self._drawn, self._added, self._updated = values["drawn"], values["added"], values["updated"]
        self.n_skipped = values["skipped"]
        self.beta = values["beta"]
        self.weighting = values["weighting"]
        self._diagnosed = None
        if self._consistency is not None:
            prefix = "consistency."
            arrays = {name[len(prefix) :]: a for name, a in state.arrays.items() if name.startswith(prefix)}
            self._consistency.set_state(arrays, values["consistency"])
            self._make_samplers()
        if "half_life" in values:
            self.half_life = from_json(values["half_life"])
        self._ages.set_state(values["ages"])
        if self._weighted is not None:
            self._weighted.set_state(values["weighted"])
        if type(self._initial_weights) is RandomWeights:
            self._initial_weights.generator.bit_generator.state = values["generator"]

    def _arguments(self) -> dict[str, Any]:
        """The keyword arguments that make an empty buffer like this one."""
        return {
            "buffer_size": self.buffer_size * self.n_envs,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "n_envs": self.n_envs,
            "optimize_memory_usage": self.optimize_memory_usage,
            "handle_timeout_termination": self.handle_timeout_termination,
            **({} if self._consistency is None else {"half_life": "auto"}),
            "decay": self._decay.function if isinstance(self._decay, Custom) else self._decay,
            "uniform_fraction": self.uniform_fraction,
            "combined": self.combined,
            "initial_weights": spell_initial_weights(self._initial_weights),
            "prioritized": self.prioritized,
            "beta": self.beta,
            "weighting": self.weighting,
            "on_bad_transition": self.on_bad_transition,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Save it into a folder, without pickle: what is filled, and all that draws depend on. A folder that
        is there is replaced when all is written.

        :param path: The folder
        :raises NotStorableError: if it holds something that only pickle could save
        :raises OSError: if it cannot be written; what was there before stays
        """
        state = self.state()
        about = {
            "class": type(self).__name__,
            "arguments": arguments_to_json(self._arguments()),
            "values": state.values,
        }
        write_folder(path, KIND, about, files_of(self, state))

    @classmethod
    def load(
        cls: type[SelfDecayedSampling],
        path: str | os.PathLike[str],
        device: th.device | str = "auto",
        env: VecEnv | None = None,
        **kwargs: Any,
    ) -> SelfDecayedSampling:
        """
        Make a buffer of what ``save`` wrote. No code is executed by it.

        :param path: The folder
        :param device: PyTorch device
        :param env: The environment, for hindsight replay
        :param kwargs: Arguments that could not be saved (a decay or initial weights that are functions), those of a
            storing class of your own, or a ``storage_dir``
        :return: The buffer, which draws what the saved one would have drawn
        :raises FileNotFoundError: if there is no such folder
        :raises ForeignError: if it holds something else, or another class of buffer
        :raises MissingArgumentError: if an argument could not be saved and is not given
        :raises NewerVersionError: if it was saved by a later version
        :raises DamagedError: if it is not as it was saved
        """
        folder = Folder(path, KIND)
        about = folder.state
        with folder.understood():
            if about["class"] != cls.__name__:
                raise ForeignError(f"{path} holds a {about['class']}: load it by {about['class']}.load()")
            arguments = arguments_from_json(about["arguments"], kwargs, f"{cls.__name__}.load")
            if issubclass(cls, HerReplayBuffer):
                arguments["env"] = env
            buffer = cls(device=device, **arguments)
            fill(buffer, folder, about["values"])
        return buffer

    def _diagnose(self, n_rows: int) -> Diagnostics:
        """Of every transition, but not at every call."""
        changed = self._added + self._updated
        if self._diagnosed is None or changed - self._diagnosed[0] > n_rows * self.n_envs // 100:
            self._diagnosed = changed, diagnose(self.sampling_probabilities(), self.ages())
        return self._diagnosed[1]


def _rows_of(stored: Any, rows: np.ndarray) -> Any:
    """Rows of an array, or of each in a dict."""
    if isinstance(stored, dict):
        return {key: value[rows] for key, value in stored.items()}
    return stored[rows]


def _take(array: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Transitions by their numbers, out of an array that begins with the axes row and environment."""
    return array.reshape(-1, *array.shape[2:]).take(flat, axis=0)


class _SB3Storage(DecayedSampling):
    """Fetches straight out of the arrays of SB3's own buffers, faster than their ``_get_samples()``."""

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        # What was taken is a copy already
        tensor = th.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def _observations(self, stored: Any, indices: np.ndarray, env: VecNormalize | None) -> Any:
        if isinstance(stored, dict):
            taken: Any = {key: _take(value, indices) for key, value in stored.items()}
            return {key: self._tensor(value) for key, value in self._normalize_obs(taken, env).items()}  # type: ignore[union-attr]
        taken = _take(stored, indices)
        return self._tensor(taken if env is None else self._normalize_obs(taken, env))  # type: ignore[arg-type]

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        if self.optimize_memory_usage:
            of_next = (indices + self.n_envs) % (self.buffer_size * self.n_envs)
            next_obs = self._observations(self.observations, of_next, env)
        else:
            next_obs = self._observations(self.next_observations, indices, env)
        dones = self.dones.take(indices)
        if self.handle_timeout_termination:
            dones *= 1 - self.timeouts.take(indices)
        rewards = self.rewards.take(indices).reshape(-1, 1)
        return (
            self._observations(self.observations, indices, env),
            self._tensor(_take(self.actions, indices)),
            next_obs,
            self._tensor(dones.reshape(-1, 1)),
            self._tensor(self._normalize_reward(rewards, env)),
            None,
        )


class DecayedReplayBuffer(_SB3Storage, ReplayBuffer):
    """
    Replay buffer for off-policy algorithms in which a transition counts less the older it is: its probability of
    being drawn falls as ``(1 + age / 100) ** -1.5``, or halves every ``half_life`` transitions (truncated geometric
    replay, https://arxiv.org/abs/2605.10236), or follows another decay, initial weights and priorities.

    A draw by age costs the same whatever the size of the buffer, one by weight grows with its logarithm, and nothing is
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
    :param initial_weights: What a transition counts when it is new, see :class:`DecayedSampling`
    :param prioritized: Whether there are priorities to update, see :class:`DecayedSampling`
    :param beta: Exponent of the importance weights, see :class:`DecayedSampling`
    :param weighting: Where the weights act, see :class:`DecayedSampling`
    :param storage_dir: A folder to hold the observations instead of memory, see :class:`DecayedSampling`
    :param on_bad_transition: What becomes of rewards and observations that are not finite, see
        :class:`DecayedSampling`
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
        decay: Any = None,
        combined: bool = False,
        initial_weights: Any = "uniform",
        prioritized: bool = False,
        beta: float = 0.0,
        weighting: str = "sampling",
        storage_dir: str | os.PathLike[str] | None = None,
        on_bad_transition: str = "raise",
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
        )


class DecayedDictReplayBuffer(_SB3Storage, DictReplayBuffer):  # type: ignore[misc]
    """
    :class:`DecayedReplayBuffer` for Dict observations. It takes the arguments of SB3's ``DictReplayBuffer`` and those
    of :class:`DecayedSampling`.
    """


class DecayedNStepReplayBuffer(_SB3Storage, NStepReplayBuffer):
    """
    :class:`DecayedReplayBuffer` with n-step returns. It takes the arguments of SB3's ``NStepReplayBuffer`` and those
    of :class:`DecayedSampling`. The age is that of the transition in which the n steps begin; discounts and truncation
    are SB3's.
    """

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "n_steps": self.n_steps, "gamma": self.gamma}

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        newest = (self.pos - 1) % self.buffer_size
        flat = (indices[:, None] + np.arange(self.n_steps) * self.n_envs) % (self.buffer_size * self.n_envs)
        # The return ends with the episode, or with the newest row: what follows it in the ring is the oldest one
        ends = (self.dones.take(flat) > 0) | (self.timeouts.take(flat) > 0) | (flat // self.n_envs == newest)
        ends[:, -1] = True
        last = ends.argmax(axis=1)
        counts = np.arange(self.n_steps) <= last[:, None]
        powers = self.gamma ** np.arange(self.n_steps, dtype=np.float32)
        rewards = self._normalize_reward(self.rewards.take(flat), env) * powers * counts
        final = flat[np.arange(len(flat)), last]
        # At the newest row an unfinished episode bootstraps, as if it were cut off by a time limit
        dones = self.dones.take(final) * (1 - self.timeouts.take(final))
        return (
            self._observations(self.observations, indices, env),
            self._tensor(_take(self.actions, indices)),
            self._observations(self.next_observations, final, env),
            self._tensor(dones.astype(np.float32).reshape(-1, 1)),
            self._tensor(rewards.sum(axis=1, keepdims=True)),
            self._tensor(self.gamma ** (last + 1).reshape(-1, 1).astype(np.float32)),
        )


class DecayedHerReplayBuffer(DecayedSampling, HerReplayBuffer):
    """
    Hindsight experience replay (https://arxiv.org/abs/1707.01495) in which recent episodes count more. It takes the
    arguments of SB3's ``HerReplayBuffer`` and those of :class:`DecayedSampling`, but for ``combined``: the newest
    transition has no goal to be relabelled with before its episode ends.

    Transitions of unfinished episodes are not drawn, as in SB3; their probability goes to the others in proportion.
    """

    def __init__(self, *args: Any, combined: bool = False, **kwargs: Any) -> None:
        if combined:
            raise ValueError("combined must be False with hindsight replay: the newest episode has no end yet")
        if kwargs.get("weighting", "sampling") != "sampling":
            raise ValueError(f"weighting must be 'sampling' with hindsight replay, got {kwargs['weighting']!r}")
        super().__init__(*args, **kwargs)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DecayedReplayBufferSamples:  # type: ignore[override]
        """
        Draw transitions of finished episodes by decay, initial weights and priorities, and relabel a share of them.

        :param batch_size: Number of transitions to draw
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions, first those with their own goals, then the relabelled
        :raises RuntimeError: if no episode has ended yet
        """
        if self.size() == 0:
            raise self._no_episode()
        n_rows = self._n_rows()
        episode_ended = self.ep_length.reshape(-1) > 0
        if self._weighted is None and self._is_uniform():
            # No decay: the very draws of SB3
            if not episode_ended.any():
                raise self._no_episode()
            indices = np.random.choice(np.flatnonzero(episode_ended), size=batch_size, replace=True)
        else:
            indices = self._draw(n_rows, 2 * batch_size)
            indices = indices[episode_ended[indices]][:batch_size]
            if len(indices) < batch_size:
                # Most of what counts belongs to unfinished episodes: look at every transition, O(size) as in SB3
                probabilities = self.sampling_probabilities().reshape(-1)
                cumulative = probabilities.cumsum()
                targets = np.random.random_sample(batch_size - len(indices)) * cumulative[-1]
                missing = np.minimum(cumulative.searchsorted(targets, side="right"), probabilities.nonzero()[0][-1])
                indices = np.concatenate([indices, missing])
        # SB3 relabels the first of them and returns them last
        return self._batch(np.roll(indices, -int(self.her_ratio * batch_size)), env, n_rows)

    def sampling_probabilities(self) -> np.ndarray:
        """
        The exact distribution of the next draw.

        :return: Probability of each transition, shape (buffer_size, n_envs), by row of the storage. O(size)
        :raises RuntimeError: if no episode has ended yet, or none that the decay lets count
        """
        episode_ended = self.ep_length > 0
        if not episode_ended.any():
            raise self._no_episode()
        if isinstance(self._ages, GeometricSampler) and self.uniform_fraction == 0:
            # Relative to the newest of them: unfinished episodes may last longer than numbers so small can be told
            ages = self.ages() // self.n_envs
            weights = self._ages.weights(np.maximum(ages - ages[episode_ended].min(), 0), len(ages))
            if self._weighted is not None:
                weights *= self._weighted.p
        else:
            weights = super().sampling_probabilities()
        weights = np.where(episode_ended, weights, 0)
        if weights.max() == 0:
            raise self._no_episode()
        return weights / weights.sum()

    def diagnostics(self) -> ReplayDiagnostics:
        """
        What is replayed, transitions of unfinished episodes left out. O(size), but done anew only when the buffer has
        changed by more than 1 % of its size since.

        :return: The diagnostics
        :raises RuntimeError: if no episode has ended yet, or none that the decay lets count
        """
        ages = self.ages()[self.ep_length > 0]
        volume = self._drawn / self._added if self._added else 0.0
        return ReplayDiagnostics(*self._diagnose(self._n_rows()), int(ages.min()), int(ages.max()), volume)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        for episodes in (self.ep_start, self.ep_length, self._current_ep_start):
            episodes.fill(0)

    def can_be_sampled(self) -> bool:
        """Whether an episode has ended."""
        return bool((self.ep_length > 0).any())

    def _arguments(self) -> dict[str, Any]:
        return {
            **super()._arguments(),
            "n_sampled_goal": self.n_sampled_goal,
            "goal_selection_strategy": self.goal_selection_strategy,
            "copy_info_dict": self.copy_info_dict,
        }

    def _break_off(self, done: np.ndarray) -> None:
        """Episodes may have gaps, but an end that is left out is the end all the same."""
        for env in np.flatnonzero(done):
            if self._current_ep_start[env] != self.pos:
                self._compute_episode_length(int(env))

    def _no_episode(self) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__} cannot be sampled before the end of the first episode that counts: "
            "raise learning_starts above the length of an episode, or use a decay that forgets less"
        )

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        rows, envs = np.divmod(indices, self.n_envs)
        n_real = len(rows) - int(self.her_ratio * len(rows))
        real = self._get_real_samples(rows[:n_real], envs[:n_real], env)
        virtual = self._get_virtual_samples(rows[n_real:], envs[n_real:], env)

        def join(first: Any, second: Any) -> Any:
            if isinstance(first, dict):
                return {key: th.cat((first[key], second[key])) for key in first}
            return None if first is None else th.cat((first, second))

        return tuple(join(*fields) for fields in zip(real, virtual, strict=True))
