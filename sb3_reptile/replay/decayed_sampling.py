"""The mixin that gives a replay buffer a distribution to draw from."""

import os
from abc import ABCMeta
from dataclasses import fields
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile.replay.auto import Consistency
from sb3_reptile.replay.auto.features import rows_of
from sb3_reptile.replay.bad_transitions import BadTransitions
from sb3_reptile.replay.checks import OnBadTransition, Weighting
from sb3_reptile.replay.decay import Custom, DecayOption
from sb3_reptile.replay.distribution import SamplingDistribution
from sb3_reptile.replay.episodes import LOST, differs_from_newest, end_running_episodes, end_what_is_not_continued
from sb3_reptile.replay.former_pickles import take_over_attributes
from sb3_reptile.replay.functions import warn_if_not_picklable
from sb3_reptile.replay.initial_weights import (
    InitialWeightsOption,
    RandomWeights,
    check_weights,
    spell_initial_weights,
)
from sb3_reptile.replay.log import replay_log
from sb3_reptile.replay.memmap import ScratchFiles, enlarge
from sb3_reptile.replay.options import ReplayOptions
from sb3_reptile.replay.persistence import BufferState, SavedInFolder
from sb3_reptile.replay.queries import DistributionQueries
from sb3_reptile.replay.weight_users import check_learner


class DecayedReplayBufferSamples(NamedTuple):
    """
    A batch: SB3's fields, the numbers of its transitions and their weights.

    :param observations: Shape (batch_size, ...)
    :param actions: Shape (batch_size, action_dim)
    :param next_observations: As the observations
    :param dones: Shape (batch_size, 1); 0 where an episode was cut off by a time limit
    :param rewards: Shape (batch_size, 1)
    :param discounts: Shape (batch_size, 1) with n-step returns, else None
    :param indices: Numbers of the transitions, ``row * n_envs + env``, int64, shape (batch_size,); on the CPU
    :param weights: Factors for the loss of each transition, shape (batch_size, 1): importance weights
        ``(n P)^-beta``, divided by the largest of the batch, 1 with ``beta=0``; or loss weights ``w / mean(w)``, with
        ``weighting="loss"``
    """

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    indices: np.ndarray
    weights: th.Tensor


class DecayedDictReplayBufferSamples(NamedTuple):
    """
    A batch of Dict observations: as :class:`DecayedReplayBufferSamples`, with dicts of observations.

    :param observations: By key, each of shape (batch_size, ...)
    :param actions: Shape (batch_size, action_dim)
    :param next_observations: As the observations
    :param dones: Shape (batch_size, 1)
    :param rewards: Shape (batch_size, 1)
    :param discounts: Shape (batch_size, 1) with n-step returns, else None
    :param indices: Numbers of the transitions, int64, shape (batch_size,)
    :param weights: Factors for the loss of each transition, shape (batch_size, 1)
    """

    observations: TensorDict
    actions: th.Tensor
    next_observations: TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    indices: np.ndarray
    weights: th.Tensor


class _BasesChecked(ABCMeta):
    """
    Refuses classes that would silently not decay. In a metaclass, as an abstract class that ``__init_subclass__``
    refuses is left half made, and confuses ``issubclass()`` for all others.
    """

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(name, bases, namespace, **kwargs)
        if not any(isinstance(base, _BasesChecked) for base in bases):
            return  # DecayedSampling itself
        stores: type | None = None
        for base in cls.__mro__[1:]:
            if issubclass(base, DecayedSampling) and stores is not None:
                raise TypeError(
                    f"{name} would not decay: {stores.__name__} comes before {base.__name__} among its bases, "
                    f"write class {name}({base.__name__}, {stores.__name__})"
                )
            if issubclass(base, ReplayBuffer) and not issubclass(base, (DecayedSampling, *_MIXINS)):
                stores = stores or base
        for storing, decayed in DecayedSampling.derive_from.items():
            if issubclass(cls, storing) and not issubclass(cls, decayed):
                raise TypeError(f"{name} would not relabel goals: derive it from {decayed.__name__}")


class DecayedSampling(DistributionQueries, SavedInFolder, metaclass=_BasesChecked):
    """
    Mixin for replay buffers: the probability that a transition is drawn falls with its age, and is proportional to an
    initial weight or priority.

    Put it before the buffer class that stores: ``class MyBuffer(DecayedSampling, SomeReplayBuffer)``. That class
    must keep its rows as SB3's ``ReplayBuffer`` does (a ring with ``pos``, ``full`` and ``buffer_size``, arrays that
    begin with the axes row and environment) and fetch them by ``_get_samples(rows, env)``.

    :param half_life: For exponential decay, the age at which a transition is half as likely to be drawn as the newest,
        in transitions (all environments counted). ``inf`` replays uniformly, with the same random draws as the storing
        class alone. ``None`` leaves it to ``decay``.
        ``"auto"`` detects what still holds: segments of the buffer that new transitions contradict are replayed less,
        and time spent in another regime does not age the transitions of this one (see :attr:`consistency`).
    :param uniform_fraction: Share of the draws that is uniform over the buffer, in [0, 1], so that nothing stored
        becomes less likely than ``uniform_fraction / size``
    :param decay: Another decay than the exponential one of ``half_life``, with which it cannot be combined: one of
        :mod:`sb3_reptile.replay`, a function of an array of ages, or as YAML spells it,
        ``{"linear": {"horizon": 80000, "floor": 0.1}}``. Without either, it is ``(1 + age / 100) ** -1.5``
    :param combined: Whether the newest row is always in the batch, as its first element (combined experience replay,
        https://arxiv.org/abs/1712.01275)
    :param initial_weights: Initial sampling weight of a transition: ``"uniform"``; ``"random"``, uniform in (0, 1] and
        reproducible by the model's ``seed``, or ``{"random": {"seed": 0}}``; ``"info"``, the number in the
        environment's ``info["replay_weight"]``, 1 if there is none; or a function of the arguments of ``add()`` that
        returns a weight for each environment. They multiply the decay.
    :param prioritized: Whether ``update_priorities()`` can be called (https://arxiv.org/abs/1511.05952). Priorities
        multiply decay and initial weights; new transitions enter at the largest priority so far.
    :param beta: Exponent of the importance weights in the batch, in [0, 1]: 0 leaves them 1, 1 undoes the preference
        for recent or prioritized transitions. It can be changed at any time. SB3's algorithms do not use these weights,
        which a warning says when they draw; ``ReptileDQN`` does.
    :param weighting: Where decay and initial weights act: ``"sampling"``, in what is drawn; or ``"loss"``, in the
        loss weights of a batch that is drawn uniformly: ``w / mean(w)``, so that the expected gradient is the same. It
        cannot be combined with priorities, which only act in sampling. SB3's algorithms ignore loss weights.
    :param storage_dir: A folder on a disk that holds the observations instead of memory, for buffers larger than
        memory. It needs room for all of them; the files have no names and vanish with the process.
    :param on_bad_transition: What happens to a row in which a reward, or a float of an observation, is not finite:
        ``"raise"`` an error that names its environment and step; ``"skip"`` it, count it in ``n_skipped`` and warn; or
        ``"allow"`` it, as SB3 does
    :param distribution_class: The class of the buffer's distribution, derived from :class:`SamplingDistribution`, or
        its name with the module it is imported from
    :raises TypeError: if an argument has the wrong type, or a class derived from it has its bases in the wrong order
    :raises ValueError: if an argument has a value that is not allowed
    :raises OSError: if ``storage_dir`` is not a folder, or its disk has no room
    """

    #: Storing classes with their own draws, and the decayed class that a user's class must derive from instead
    derive_from: ClassVar[dict[type[ReplayBuffer], type[ReplayBuffer]]] = {}
    #: The observations on disk, if they are not in memory
    _scratch: ScratchFiles | None = None
    #: Whether the row before the next one was left out
    _is_after_gap: bool = False

    def __init__(
        self,
        *args: Any,
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
        **kwargs: Any,
    ) -> None:
        # Check before the storing class allocates
        options = ReplayOptions(
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
        )
        if storage_dir is None:
            super().__init__(*args, **kwargs)
        else:
            self._init_on_disk(storage_dir, *args, **kwargs)
        if on_bad_transition == "skip" and self.optimize_memory_usage:
            raise ValueError(
                "on_bad_transition='skip' must not be combined with optimize_memory_usage=True, in which an "
                "observation is that of two transitions: use 'raise', or optimize_memory_usage=False"
            )
        self._initial_weights = options.made_initial_weights
        warn_if_not_picklable(
            decay=options.made_decay,
            initial_weights=options.made_initial_weights,
            distribution_class=options.made_distribution_class,
        )
        self._bad_transitions = BadTransitions(
            on_bad_transition, self.observation_space, self.rewards.dtype, self.n_envs
        )
        self._consistency: Consistency | None = None
        if options.is_auto:
            n_rows = self.buffer_size - self.optimize_memory_usage
            self._consistency = Consistency(self.observation_space, self.action_space, self.n_envs, n_rows=n_rows)
        self.distribution = options.made_distribution_class(
            self.buffer_size,
            self.n_envs,
            decay=options.made_decay,
            uniform_fraction=uniform_fraction,
            combined=combined,
            has_initial_weights=self._initial_weights is not None,
            prioritized=prioritized,
            beta=beta,
            weighting=weighting,
            has_segments=options.is_auto,
            without_oldest=self.optimize_memory_usage,
        )

    def _init_on_disk(self, storage_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        scratch = ScratchFiles(storage_dir)
        buffer_size = args[0] if args else kwargs.pop("buffer_size")
        super().__init__(1, *args[1:], **kwargs)  # one row
        enlarge(self, max(buffer_size // self.n_envs, 1), scratch)
        self._scratch = scratch

    @property
    def consistency(self) -> Consistency | None:
        """Estimates how well segments of the buffer agree with the present; None without ``half_life="auto"``."""
        return self._consistency

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """
        Store a row, one transition from each environment. Where its observation is not the next observation of the row
        before, as after a reset, the episode in progress is ended there as if by a time limit. A row with a transition
        whose environment was lost (``info["RayVecEnv.lost"]``) is left out.

        :param obs: Observations
        :param next_obs: Next observations
        :param action: Actions
        :param reward: Rewards
        :param done: Whether an episode ended
        :param infos: Additional information, one dict for each environment
        :raises ValueError: if the actions are those of another number of environments, an initial weight is not a
            finite number > 0, or, with ``on_bad_transition="raise"``, a reward or a float of an observation is not
            finite; nothing is stored then
        :raises RuntimeError: in a forked child process, if the observations are in its parent's ``storage_dir``
        """
        if self._scratch is not None:
            self._scratch.check_owner()
        if action.size != self.n_envs * self.action_dim:
            raise ValueError(
                f"the replay buffer was made for {self.n_envs} environments with actions of {self.action_dim} numbers, "
                f"got actions of shape {np.shape(action)}: use a buffer made for these environments"
            )
        differing = differs_from_newest(self, obs)
        is_lost = False
        for info in infos:  # faster than any()
            if LOST in info:
                is_lost = True
        if is_lost or not self._bad_transitions.accepts(None if differing is None else obs, next_obs, reward):
            if not is_lost:
                self._bad_transitions.refuse(obs, next_obs, reward, self.distribution.rows_added, type(self).__name__)
            self._leave_gap(np.asarray(done))
            self._is_after_gap = True
            return
        weights = None
        if self._initial_weights is not None:
            weights = self._initial_weights(obs, next_obs, action, reward, done, infos)
            weights = check_weights("initial weights", weights, self.n_envs)
        if differing is not None and not self._is_after_gap:
            end_what_is_not_continued(self, differing)
        self._is_after_gap = False
        self._store(obs, next_obs, action, reward, done, infos)
        self.distribution.add(weights, infos)
        if self._scratch is not None:
            self._scratch.touched(self.n_envs, scattered=False)
        if self._consistency is not None:
            self._observe(self._consistency)

    def _store(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Let the storing class store a row."""
        if not self.handle_timeout_termination:
            # SB3 does not write it then, and a former row may have been ended here (``episodes``)
            self.timeouts[self.pos] = 0
        super().add(obs, next_obs, action, reward, done, infos)

    def _leave_gap(self, done: np.ndarray) -> None:
        """A row that follows the newest one is left out: no return may reach across it."""
        end_running_episodes(self)

    def _observe(self, consistency: Consistency) -> None:
        """Compare the new rows with the old ones, some at a time."""
        rows_added = self.distribution.rows_added
        n_rows = consistency.rows_per_chunk
        if rows_added % n_rows != 0:
            return
        rows = np.arange(rows_added - n_rows, rows_added) % self.buffer_size
        is_known = np.ones((n_rows, self.n_envs), dtype=bool)
        if self.optimize_memory_usage:
            # The next observation of an episode's last step is overwritten by the first one of the next episode
            next_observations: Any = self.observations[(rows + 1) % self.buffer_size]
            is_known = self.dones[rows] == 0
        else:
            next_observations = rows_of(self.next_observations, rows)
        consistency.observe(
            rows_of(self.observations, rows),
            self.actions[rows],
            self.rewards[rows],
            next_observations,
            is_known,
            max(rows_added - self.buffer_size, 0),
        )
        self._set_segments(consistency)

    def _set_segments(self, consistency: Consistency) -> None:
        self.distribution.set_segments(consistency.starts, consistency.consistencies, consistency.last_change)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._bad_transitions.n_skipped = 0
        self.distribution.reset()
        if self._consistency is not None:
            self._consistency.reset()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DecayedReplayBufferSamples:  # type: ignore[override]
        """
        Draw transitions, with replacement, by decay, initial weights and priorities.

        :param batch_size: Number of transitions to draw
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions, each field of shape (batch_size, ...), their numbers and importance weights
        :raises ValueError: if the buffer is empty
        """
        check_learner(self)
        indices, weights = self.distribution.draw(batch_size)
        return self._batch(self._fetch(indices, env), indices, weights)

    def transitions(self, indices: np.ndarray, env: VecNormalize | None = None) -> DecayedReplayBufferSamples:
        """
        Certain transitions, without a draw.

        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions; their weights are 1
        """
        return self._batch(self._fetch(indices, env), indices, np.ones((len(indices), 1), dtype=np.float32))

    def _batch(self, fields: tuple[Any, ...], indices: np.ndarray, weights: np.ndarray) -> DecayedReplayBufferSamples:
        if self._scratch is not None:
            self._scratch.touched(len(indices))
        tensor = th.from_numpy(weights)
        if self.device.type != "cpu":
            tensor = tensor.to(self.device)
        is_dict = isinstance(self.observation_space, spaces.Dict)
        make: Any = DecayedDictReplayBufferSamples if is_dict else DecayedReplayBufferSamples
        samples: DecayedReplayBufferSamples = make(*fields, indices, tensor)
        return samples

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        """
        Get transitions from the storing class, whatever it is, through its ``_get_samples()``. As that draws the
        environments at random, it is asked for one environment at a time, through a view that holds no other.

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
        """For each environment, this buffer as if it had no other environment; the arrays are shared."""

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

    def __repr__(self) -> str:
        if "distribution" not in self.__dict__:  # not made yet
            return object.__repr__(self)
        given = self._arguments()
        size, capacity = (n * self.n_envs for n in (self.size(), self.buffer_size))
        shown = {"n_envs": self.n_envs, "decay": self.decay}
        shown |= {"optimize_memory_usage": True} if self.optimize_memory_usage else {}
        shown |= {name: given[name] for name in ("n_steps", "gamma") if name in given}
        for option in fields(ReplayOptions):
            if option.name != "decay" and given.get(option.name, option.default) != option.default:
                shown[option.name] = given[option.name]
        options = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({size:,} of {capacity:,} transitions, {options})"

    def log_values(self) -> dict[str, float]:
        """
        :return: What replay is doing, by the logger's keys
        :raises ValueError: if the buffer is empty
        """
        return replay_log(self)

    def state(self) -> BufferState:
        """
        :return: All that it holds. What derives from it and holds more adds to this, and overrides ``set_state`` too.
        """
        state = super().state()
        rows, values = self.distribution.state()
        state.rows.update(rows)
        state.values.update(values, skipped=self.n_skipped, after_gap=self._is_after_gap)
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
        super().set_state(state)
        self.distribution.set_state(state.values)
        self._bad_transitions.n_skipped = state.values["skipped"]
        self._is_after_gap = bool(state.values.get("after_gap", False))  # files of earlier versions do not say
        if type(self._initial_weights) is RandomWeights:
            self._initial_weights.generator.bit_generator.state = state.values["generator"]
        if self._consistency is not None:
            prefix = "consistency."
            arrays = {name[len(prefix) :]: a for name, a in state.arrays.items() if name.startswith(prefix)}
            self._consistency.set_state(arrays, state.values["consistency"])
            self._set_segments(self._consistency)

    def __setstate__(self, state: dict[str, Any]) -> None:
        parent: Any = super()
        if hasattr(parent, "__setstate__"):
            parent.__setstate__(state)
        else:
            self.__dict__.update(state)
        if "distribution" not in state:
            take_over_attributes(self)

    def _arguments(self) -> dict[str, Any]:
        is_own = type(self.distribution) is not SamplingDistribution
        return {
            **super()._arguments(),
            **({} if self._consistency is None else {"half_life": "auto"}),
            "decay": self.decay.function if isinstance(self.decay, Custom) else self.decay,
            "uniform_fraction": self.uniform_fraction,
            "combined": self.combined,
            "initial_weights": spell_initial_weights(self._initial_weights),
            "prioritized": self.prioritized,
            "beta": self.beta,
            "weighting": self.weighting,
            "on_bad_transition": self.on_bad_transition,
            **({"distribution_class": type(self.distribution)} if is_own else {}),
        }


#: What DecayedSampling itself is made of
_MIXINS = (DistributionQueries, SavedInFolder)
