"""Wrappers that make any task drift. Their clock counts every step ever taken, not those of an episode."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class DriftWrapper(gym.Wrapper):
    """
    What the wrappers below have in common: a clock, and the phase it shows. For a drift of your own, override one of
    ``drift_env``, ``drift_action`` and ``drift_reward``, and use ``phase`` or ``now`` in it.

    A phase lasts ``period`` steps, over all episodes. ``info["phase"]`` of every step tells the phase it was taken in,
    that of ``reset`` the phase of the next step. It counts on when the first values recur; where one drift is wrapped
    in another, theirs add up: a change of either raises the number.

    The clock ``steps_taken`` starts at 0 in a new environment, and nothing sets it back, ``reset(seed=...)`` neither:
    what can be repeated is a new environment with the same seed and the same actions. Each copy in a vectorised
    environment has its own, and so has an environment for evaluation: ``set_wrapper_attr("steps_taken", 30_000)`` sets
    it.

    :param env: Environment to wrap
    :param period: Length of a phase in steps
    :param n_phases: Number of phases after which the first recurs, or the last stays
    :param kind: ``"abrupt"``: a phase keeps its value to the end; ``"gradual"``: its value moves to that of the next
        phase in equal small steps
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if ``period`` is not a whole number >= 1, or ``kind`` another word
    """

    def __init__(
        self, env: gym.Env, period: int, n_phases: int = 2, kind: str = "abrupt", recurring: bool = True
    ) -> None:
        if not isinstance(period, int) or period < 1:
            raise ValueError(f"period must be a whole number >= 1 (steps), got {period!r}")
        if kind not in ("abrupt", "gradual"):
            raise ValueError(f"kind must be 'abrupt' or 'gradual', got {kind!r}")
        super().__init__(env)
        self.period = period
        self.n_phases = n_phases
        self.kind = kind
        self.recurring = recurring
        self.steps_taken = 0
        self._last_phase = math.inf if recurring and n_phases > 1 else n_phases - 1
        self._wraps_another_drift = any(isinstance(inside, DriftWrapper) for inside in layers(env))

    @property
    def phase(self) -> int:
        """Phase of the next step, this wrapper's alone."""
        return int(min(self.steps_taken // self.period, self._last_phase))

    @property
    def progress(self) -> float:
        """How far a gradual drift has come towards the next phase, in [0, 1)."""
        if self.kind == "abrupt" or self.phase == self._last_phase:
            return 0.0
        return self.steps_taken % self.period / self.period

    def now(self, values: Sequence[float]) -> float:
        """
        :param values: One for each phase
        :return: The value at the next step
        """
        value, following = values[self.phase % self.n_phases], values[(self.phase + 1) % self.n_phases]
        # Not the formula for both: an abrupt value is to be the given one, bit for bit
        return value + self.progress * (following - value) if self.progress else value

    def drift_env(self) -> None:
        """Change the environment inside; called before every step and every reset."""

    def drift_action(self, action: Any) -> Any:
        """
        :param action: What the agent chose
        :return: What the environment is given
        """
        return action

    def drift_reward(self, reward: SupportsFloat) -> SupportsFloat:
        """
        :param reward: What the environment gave
        :return: What the agent gets
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
        self.steps_taken += 1
        return obs, reward, terminated, truncated, self._with_phase(info, phase)

    def _with_phase(self, info: dict[str, Any], phase: int) -> dict[str, Any]:
        return {**info, "phase": phase + info["phase"] if self._wraps_another_drift else phase}


class PermutedActions(DriftWrapper, RecordConstructorArgs):
    """
    Change the meaning of the actions every ``period`` steps. Without ``permutations`` they rotate: in phase ``k``
    action ``a`` does what ``(a + k) % n`` does in the wrapped environment. With two actions, the controls swap.

    ``info["phase"]`` of every step tells the phase it was taken in. More on it, and on the clock, in ``DriftWrapper``.

    :param env: Environment with a Discrete action space
    :param period: Steps between two changes, over all episodes
    :param permutations: For each phase a list that tells what the actions do: ``[[0, 1, 2, 3], [0, 3, 2, 1]]`` swaps
        the second and the fourth action in every other phase. Rotation by default
    :param kind: ``"abrupt"``, or ``"gradual"``: from step to step it becomes more likely that an action has its
        meaning of the next phase already
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if the action space is not Discrete, ``permutations`` are none of its actions, ``period`` is not
        a whole number >= 1, or ``kind`` another word
    """

    def __init__(
        self,
        env: gym.Env,
        period: int,
        permutations: Sequence[Sequence[int]] | None = None,
        kind: str = "abrupt",
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
            # The environment draws from default_rng(seed), or the like: not the same numbers
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
    Multiply continuous actions by another factor every ``period`` steps, for motors that wear or are wired the wrong
    way round: with the factors 1 and -1 they turn backwards in every other phase.

    ``info["phase"]`` of every step tells the phase it was taken in. More on it, and on the clock, in ``DriftWrapper``.

    :param env: Environment with a Box action space; what would be outside of it is clipped
    :param factors: What actions are multiplied by in each phase
    :param period: Steps between two changes, over all episodes
    :param kind: ``"abrupt"``, or ``"gradual"``: the factor moves to that of the next phase in equal small steps
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if the actions are no Box, ``factors`` are not numbers and at least one, ``period`` is not a
        whole number >= 1, or ``kind`` another word
    """

    def __init__(
        self, env: gym.Env, factors: Sequence[float], period: int, kind: str = "abrupt", recurring: bool = True
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
    Multiply the rewards by another factor every ``period`` steps, and add another offset to them: with the factors 1
    and -1 what was good becomes bad.

    ``info["phase"]`` of every step tells the phase it was taken in. More on it, and on the clock, in ``DriftWrapper``.

    :param env: Environment to wrap
    :param factors: What rewards are multiplied by in each phase
    :param period: Steps between two changes, over all episodes
    :param offsets: What is added after that in each phase, as many as ``factors``; nothing by default
    :param kind: ``"abrupt"``, or ``"gradual"``: factor and offset move to those of the next phase in equal small steps
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :raises ValueError: if there are not as many ``offsets`` as ``factors``, numbers and at least one, ``period`` is not
        a whole number >= 1, or ``kind`` another word
    """

    def __init__(
        self,
        env: gym.Env,
        factors: Sequence[float],
        period: int,
        offsets: Sequence[float] | None = None,
        kind: str = "abrupt",
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

    A change takes effect at once, in mid-episode, if the environment looks at the attribute in each step. What CartPole
    and LunarLander compute from it only once (``total_mass`` and ``polemass_length``, the gravity of the world) is
    computed again; do the like for other environments in ``after_change``.

    ``info["phase"]`` of every step tells the phase it was taken in. More on it, and on the clock, in ``DriftWrapper``.

    :param env: Environment to wrap
    :param parameters: For each attribute its values, one for each phase:
        ``{"length": [0.5, 2.0], "force_mag": [10.0, 5.0]}``
    :param period: Steps between two changes, over all episodes
    :param kind: ``"abrupt"``, or ``"gradual"``: the values move to those of the next phase in equal small steps
    :param recurring: Whether the first phase follows the last; otherwise the last one stays
    :param after_change: Called with ``env.unwrapped`` whenever attributes have changed
    :raises ValueError: if the environment has no such attribute, or it is not a number or is computed from others, the
        values are not numbers, as many for each, ``period`` is not a whole number >= 1, or ``kind`` another word
    """

    def __init__(
        self,
        env: gym.Env,
        parameters: Mapping[str, Sequence[float]],
        period: int,
        kind: str = "abrupt",
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
        self._recompute = [function for name, function in COMPUTED_ONCE.items() if name in names]
        for name in parameters:
            if not _is_number(getattr(env.unwrapped, name, None)):
                raise ValueError(
                    f"parameters: {names[0]} has no number {name!r}; it has {', '.join(_numbers_of(env.unwrapped))}"
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
    :return: From the outermost wrapper to the bare environment
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


# What environments compute from their attributes in the constructor or in `reset`, by the name of the class
COMPUTED_ONCE: dict[str, Callable[[Any], None]] = {
    "CartPoleEnv": _recompute_cartpole,
    "LunarLander": _recompute_lunar_lander,
}


def _n_phases(values_by_name: Mapping[str, Sequence[float]]) -> int:
    """
    :return: How many values each name has
    :raises ValueError: if these are not as many numbers for each
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


def _numbers_of(env: gym.Env) -> list[str]:
    # Statically: some properties of gym.Env draw a seed when they are looked at
    return [name for name in dir(env) if name[0] != "_" and _is_number(inspect.getattr_static(env, name))]


def _are_permutations(permutations: Any, actions: list[int]) -> bool:
    if not isinstance(permutations, Sequence) or not permutations:
        return False
    return all(
        isinstance(one, Sequence) and set(one) == set(actions) and len(one) == len(actions) for one in permutations
    )
