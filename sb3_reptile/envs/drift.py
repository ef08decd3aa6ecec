"""Wrappers that make any task drift. Their clock counts the steps of all episodes."""

import inspect
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

Period = int | Sequence[int]
Kind = Literal["abrupt", "gradual"]


class DriftWrapper(gym.Wrapper):
    """
    Base class of the wrappers below: a clock and the phase that follows from it. For your own drift, override one
    of ``drift_env``, ``drift_action`` and ``drift_reward``, and use ``phase`` or ``now`` in it.

    A phase lasts ``period`` steps, over all episodes; with a list of numbers, phases last as long as these in turn, and
    the first number follows the last. ``info["phase"]`` is the phase in which the step was taken; from
    ``reset``, it is the phase of the next step. The number keeps increasing when the first values recur. The phases of
    nested drift wrappers add up: a change of either increases the number.

    The clock ``steps_taken`` starts at 0 in a new environment and is never reset, not even by ``reset(seed=...)``. A
    new environment with the same seed and the same actions repeats everything. Each copy in a vectorized environment
    has its own clock, and so has an evaluation environment: :class:`~sb3_reptile.callbacks.DriftEvalCallback` sets it
    to that of training by ``get_drift_clock`` and ``set_drift_clock``. To set it manually, assign the attribute:
    ``set_wrapper_attr("steps_taken", 30_000)``.

    :param env: Environment to wrap
    :param period: Length of a phase in steps, or lengths of successive phases
    :param n_phases: Number of phases after which the first recurs, or the last stays
    :param kind: ``"abrupt"``: the value is constant within a phase; ``"gradual"``: it moves linearly to the value of
        the next phase
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if ``period`` is not a whole number >= 1 or a list of them, or ``kind`` is neither ``"abrupt"``
        nor ``"gradual"``
    """

    def __init__(
        self, env: gym.Env, period: Period, n_phases: int = 2, kind: Kind = "abrupt", recurring: bool = True
    ) -> None:
        lengths = period if isinstance(period, Sequence) else [period]
        if not lengths or not all(isinstance(length, int) and length >= 1 for length in lengths):
            raise ValueError(f"period must be a whole number >= 1 (steps), or a list of them, got {period!r}")
        if kind not in ("abrupt", "gradual"):
            raise ValueError(f"kind must be 'abrupt' or 'gradual', got {kind!r}")
        super().__init__(env)
        self.period = period
        self.n_phases = n_phases
        self.kind = kind
        self.recurring = recurring
        self.steps_taken = 0
        self._is_held = False
        self._lengths = list(lengths)
        self._ends = list(itertools.accumulate(lengths))
        self._last_phase = math.inf if recurring and n_phases > 1 else n_phases - 1
        self._wraps_another_drift = any(isinstance(inside, DriftWrapper) for inside in layers(env))

    @property
    def phase(self) -> int:
        """Phase of the next step, of this wrapper alone."""
        return self._phase_at(self._time)

    @property
    def progress(self) -> float:
        """Fraction of the phase that has passed, in [0, 1); 0 for an abrupt drift and in a last phase that stays."""
        return self._progress_at(self._time)

    @property
    def _time(self) -> int:
        # While the clock is held, the drift stays as it was in the last step: an evaluation at the end of a phase is
        # one of this phase, not of the next one, in which no step has been taken yet
        return max(self.steps_taken - 1, 0) if self._is_held else self.steps_taken

    def _place_at(self, time: int) -> tuple[int, int, int]:
        """Number of the phase, if none stays; steps since it began; its length."""
        rounds, rest = divmod(time, self._ends[-1])
        number = bisect_right(self._ends, rest)
        length = self._lengths[number]
        return rounds * len(self._lengths) + number, rest - self._ends[number] + length, length

    def _phase_at(self, time: int) -> int:
        return int(min(self._place_at(time)[0], self._last_phase))

    def _progress_at(self, time: int) -> float:
        if self.kind == "abrupt" or self._phase_at(time) == self._last_phase:
            return 0.0
        _, passed, length = self._place_at(time)
        return passed / length

    def get_drift_clock(self) -> dict[str, Any]:
        """
        :return: The clocks of this wrapper and of the environments in it that have this method. ``phase`` is a number
            that changes when the environment does: the sum of the phases of the last step, and, for a gradual drift, of
            their progress
        """
        time = max(self.steps_taken - 1, 0)
        phase = self._phase_at(time) + self._progress_at(time)
        inside = self.env.get_wrapper_attr("get_drift_clock")() if self._drift_is_inside() else None
        return {
            "phase": phase if inside is None else phase + inside["phase"],
            "steps_taken": self.steps_taken,
            "inside": inside,
        }

    def set_drift_clock(self, clock: Mapping[str, Any], held: bool) -> None:
        """
        :param clock: What ``get_drift_clock`` returned, of this environment or of another copy
        :param held: Whether the clock stands still: all steps that follow are taken in the phase of the last step
            before ``get_drift_clock``. If not, the next step is the one that would have followed it
        :raises ValueError: if the clock is one of an environment that is wrapped in another way
        """
        inside = clock.get("inside")
        if "steps_taken" not in clock or (inside is not None) != self._drift_is_inside():
            raise ValueError(
                f"the clock of a different environment cannot be set in {self}: wrap the two environments in the "
                f"same wrappers, got the clock {dict(clock)!r}"
            )
        self.steps_taken = clock["steps_taken"]
        self._is_held = held
        if inside is not None:
            self.env.get_wrapper_attr("set_drift_clock")(inside, held)

    def _drift_is_inside(self) -> bool:
        return self.env.has_wrapper_attr("get_drift_clock")

    def now(self, values: Sequence[float]) -> float:
        """
        :param values: One value per phase
        :return: The value at the next step
        """
        value, following = values[self.phase % self.n_phases], values[(self.phase + 1) % self.n_phases]
        # Without progress, return the given value bit for bit
        return value + self.progress * (following - value) if self.progress else value

    def drift_env(self) -> None:
        """Change the wrapped environment. Called before every step and every reset."""

    def drift_action(self, action: Any) -> Any:
        """
        :param action: Action of the agent
        :return: Action passed to the environment
        """
        return action

    def drift_reward(self, reward: SupportsFloat) -> SupportsFloat:
        """
        :param reward: Reward of the environment
        :return: Reward returned to the agent
        """
        return reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.drift_env()
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, self._with_phase(info, self.phase)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        phase = self.phase
        self.drift_env()
        obs, reward, terminated, truncated, info = self.env.step(self.drift_action(action))
        reward = self.drift_reward(reward)
        self.steps_taken += not self._is_held
        return obs, reward, terminated, truncated, self._with_phase(info, phase)

    def _with_phase(self, info: dict[str, Any], phase: int) -> dict[str, Any]:
        return {**info, "phase": phase + info["phase"] if self._wraps_another_drift else phase}


class PermutedActions(DriftWrapper, RecordConstructorArgs):
    """
    Change the meaning of the actions every ``period`` steps. Without ``permutations`` they rotate: in phase ``k``
    action ``a`` does what ``(a + k) % n`` does in the wrapped environment. With two actions, the controls swap.

    ``info["phase"]`` is the phase in which the step was taken. See ``DriftWrapper`` for phases and the clock.

    :param env: Environment with a Discrete action space
    :param period: Steps between two changes, over all episodes, or a list of such numbers
    :param permutations: For each phase the list of the actions that are passed on instead of 0, 1, ...:
        ``[[0, 1, 2, 3], [0, 3, 2, 1]]`` swaps the second and the fourth action in every other phase. Rotation by
        default
    :param kind: ``"abrupt"``, or ``"gradual"``: an action has its meaning of the next phase with a probability that
        increases linearly within the phase
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if the action space is not Discrete, ``permutations`` are not permutations of its actions, or
        ``period`` or ``kind`` is invalid
    """

    def __init__(
        self,
        env: gym.Env,
        period: Period,
        permutations: Sequence[Sequence[int]] | None = None,
        kind: Kind = "abrupt",
        recurring: bool = True,
    ) -> None:
        space = env.action_space
        if not isinstance(space, spaces.Discrete):
            raise ValueError(f"PermutedActions needs a Discrete action space, got {space}")
        actions = list(range(space.start, space.start + space.n))
        if permutations is not None and not _are_permutations(permutations, actions):
            raise ValueError(
                f"permutations must have for each phase a list of the actions {actions[0]} to {actions[-1]}, "
                f"each of them once, got {permutations!r}"
            )
        RecordConstructorArgs.__init__(self, period=period, permutations=permutations, kind=kind, recurring=recurring)
        n_phases = len(actions) if permutations is None else len(permutations)
        super().__init__(env, period, n_phases, kind, recurring)
        self.permutations = permutations
        self._n, self._start = len(actions), int(space.start)
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            # Another stream than that of the environment, which is often seeded by default_rng(seed)
            self._rng = np.random.default_rng([seed, 1])
        return super().reset(seed=seed, options=options)

    def drift_action(self, action: Any) -> Any:
        phase = self.phase
        if self.progress and self._rng.random() < self.progress:
            phase += 1
        if self.permutations is None:
            return (action - self._start + phase) % self._n + self._start
        return self.permutations[phase % self.n_phases][action - self._start]


class DriftingActions(DriftWrapper, RecordConstructorArgs):
    """
    Multiply continuous actions by a factor that changes every ``period`` steps, as for motors that wear or are wired
    the wrong way round: with the factors 1 and -1 they turn backwards in every other phase.

    ``info["phase"]`` is the phase in which the step was taken. See ``DriftWrapper`` for phases and the clock.

    :param env: Environment with a Box action space, to which actions are clipped after the multiplication
    :param factors: Factor of each phase
    :param period: Steps between two changes, over all episodes, or a list of such numbers
    :param kind: ``"abrupt"``, or ``"gradual"``: the factor moves linearly to that of the next phase
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if the action space is not a Box, ``factors`` is not a list of one or more numbers, or
        ``period`` or ``kind`` is invalid
    """

    def __init__(
        self, env: gym.Env, factors: Sequence[float], period: Period, kind: Kind = "abrupt", recurring: bool = True
    ) -> None:
        RecordConstructorArgs.__init__(self, factors=factors, period=period, kind=kind, recurring=recurring)
        if not isinstance(env.action_space, spaces.Box):
            raise ValueError(f"DriftingActions needs Box actions, got {env.action_space}: use PermutedActions")
        super().__init__(env, period, _n_phases(dict(factors=factors)), kind, recurring)
        self.factors = factors

    def drift_action(self, action: Any) -> np.ndarray:
        space = self.env.action_space
        assert isinstance(space, spaces.Box)
        return np.clip(np.asarray(action) * self.now(self.factors), space.low, space.high).astype(space.dtype)


class DriftingRewards(DriftWrapper, RecordConstructorArgs):
    """
    Multiply rewards by a factor and add an offset, both of which change every ``period`` steps: with the factors 1 and
    -1 the sign of the rewards changes.

    ``info["phase"]`` is the phase in which the step was taken. See ``DriftWrapper`` for phases and the clock.

    :param env: Environment to wrap
    :param factors: Factor of each phase
    :param period: Steps between two changes, over all episodes, or a list of such numbers
    :param offsets: Offset of each phase, added after the multiplication, as many as ``factors``; 0 by default
    :param kind: ``"abrupt"``, or ``"gradual"``: factor and offset move linearly to those of the next phase
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if ``factors`` or ``offsets`` is not a list of one or more numbers, their lengths differ, or
        ``period`` or ``kind`` is invalid
    """

    def __init__(
        self,
        env: gym.Env,
        factors: Sequence[float],
        period: Period,
        offsets: Sequence[float] | None = None,
        kind: Kind = "abrupt",
        recurring: bool = True,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, factors=factors, period=period, offsets=offsets, kind=kind, recurring=recurring
        )
        given = dict(factors=factors) if offsets is None else dict(factors=factors, offsets=offsets)
        super().__init__(env, period, _n_phases(given), kind, recurring)
        self.factors = factors
        self.offsets = offsets if offsets is not None else [0.0] * len(factors)

    def drift_reward(self, reward: SupportsFloat) -> float:
        return float(reward) * self.now(self.factors) + self.now(self.offsets)


class DriftingPhysics(DriftWrapper, RecordConstructorArgs):
    """
    Set attributes of the environment (``env.unwrapped``) to other values every ``period`` steps: lengths, masses,
    forces.

    A change takes effect immediately, within an episode, if the environment reads the attribute in each step. CartPole
    and LunarLander compute other values from it only once (``total_mass`` and ``polemass_length``, the gravity of the
    world): these are recomputed. For other environments, recompute such values in ``after_change``.

    ``info["phase"]`` is the phase in which the step was taken. See ``DriftWrapper`` for phases and the clock.

    :param env: Environment to wrap
    :param parameters: Values of each attribute, one per phase:
        ``{"length": [0.5, 2.0], "force_mag": [10.0, 5.0]}``
    :param period: Steps between two changes, over all episodes, or a list of such numbers
    :param kind: ``"abrupt"``, or ``"gradual"``: the values move linearly to those of the next phase
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :param after_change: Called with ``env.unwrapped`` after each change of attributes
    :raises ValueError: if an attribute does not exist, is not a number or is computed from others, if the values are
        not lists of numbers of the same length, or if ``period`` or ``kind`` is invalid
    """

    def __init__(
        self,
        env: gym.Env,
        parameters: Mapping[str, Sequence[float]],
        period: Period,
        kind: Kind = "abrupt",
        recurring: bool = True,
        after_change: Callable[[Any], None] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, parameters=parameters, period=period, kind=kind, recurring=recurring, after_change=after_change
        )
        super().__init__(env, period, _n_phases(parameters), kind, recurring)
        self.parameters = parameters
        self.after_change = after_change
        names = [cls.__name__ for cls in type(env.unwrapped).__mro__]
        self._recompute = [function for name, function in RECOMPUTE.items() if name in names]
        for name in parameters:
            if not _is_number(getattr(env.unwrapped, name, None)):
                raise ValueError(
                    f"parameters: {names[0]} has no number {name!r}; "
                    f"it has {', '.join(_numeric_attributes(env.unwrapped))}"
                )
        self._values: dict[str, float] = {}
        self.drift_env()
        for name, value in self._values.items():
            if getattr(env.unwrapped, name) != value:
                raise ValueError(f"parameters: {names[0]} computes {name!r} from others, change those instead")

    def drift_env(self) -> None:
        values = {name: self.now(values) for name, values in self.parameters.items()}
        if values == self._values:
            return
        self._values = values
        env = self.env.unwrapped
        for name, value in values.items():
            setattr(env, name, value)
        for recompute in self._recompute:
            recompute(env)
        if self.after_change is not None:
            self.after_change(env)


def layers(env: gym.Env) -> Iterator[gym.Env]:
    """
    :param env: An environment in any number of wrappers
    :return: The wrappers, from the outermost to the innermost, then the environment
    """
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def _recompute_cartpole(env: Any) -> None:
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length


def _recompute_lunar_lander(env: Any) -> None:
    env.world.gravity = (0, env.gravity)


# By class name, a function that recomputes what an environment computes only in its constructor or in `reset`
RECOMPUTE: dict[str, Callable[[Any], None]] = {
    "CartPoleEnv": _recompute_cartpole,
    "LunarLander": _recompute_lunar_lander,
}


def _n_phases(values_by_name: Mapping[str, Sequence[float]]) -> int:
    """
    :param values_by_name: Lists of values, one value per phase
    :return: Number of phases
    :raises ValueError: if the lists do not hold numbers, or their lengths differ
    """
    counts = set()
    for name, values in values_by_name.items():
        if not isinstance(values, Sequence) or not values or not all(map(_is_number, values)):
            raise ValueError(f"{name} must be a list of numbers, one for each phase, got {values!r}")
        counts.add(len(values))
    if len(counts) != 1:
        raise ValueError(f"there must be as many values for each, one for each phase, got {dict(values_by_name)!r}")
    return counts.pop()


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _numeric_attributes(env: gym.Env) -> list[str]:
    # Statically: reading some properties of gym.Env draws a seed
    return [name for name in dir(env) if name[0] != "_" and _is_number(inspect.getattr_static(env, name))]


def _are_permutations(permutations: Any, actions: list[int]) -> bool:
    if not isinstance(permutations, Sequence) or not permutations:
        return False
    return all(
        isinstance(one, Sequence) and set(one) == set(actions) and len(one) == len(actions) for one in permutations
    )
