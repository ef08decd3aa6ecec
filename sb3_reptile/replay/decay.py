"""Decays: how much a transition of a given age counts. Nothing here knows how rows are drawn or stored."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from sb3_reptile.storage.values import register_type


def check_number(name: str, value: Any, allowed: str, is_allowed: Callable[[float], bool], advice: str) -> None:
    """
    :param name: Name of the argument, for the message
    :param value: What was given
    :param allowed: What is allowed, in words
    :param is_allowed: The same as a predicate; it must be False for NaN
    :param advice: What to do instead
    :raises TypeError: if the value is not a number
    :raises ValueError: if it is not an allowed one
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number {allowed}, got {value!r} ({type(value).__name__}); {advice}")
    if not is_allowed(float(value)):
        raise ValueError(f"{name} must be {allowed}, got {value}; {advice}")


@dataclass(frozen=True)
class Exponential:
    """
    Exponential decay, ``f(age) = 2 ** (-age / half_life)``.

    Sampling with it is truncated geometric replay (https://arxiv.org/abs/2605.10236).

    :param half_life: Age, in transitions, at which a transition counts half as much as a new one.
        ``inf`` means no decay, that is uniform replay.
    :raises TypeError: if ``half_life`` is not a number
    :raises ValueError: if ``half_life`` is not > 0
    """

    half_life: float

    def __post_init__(self) -> None:
        advice = "use float('inf') (in YAML: .inf) for no decay; YAML reads 1e3 as text, write 1000 or !!float 1e3"
        check_number("half_life", self.half_life, "> 0 or inf (transitions)", lambda value: value > 0, advice)

    @property
    def rate(self) -> float:
        """Decay per transition: ``f(age) = exp(-rate * age)``; 0 means no decay."""
        return math.log(2) / float(self.half_life)

    def __call__(self, age: np.ndarray) -> np.ndarray:
        """
        :param age: Ages in transitions, any shape
        :return: ``f(age)``, same shape
        """
        return np.exp(-self.rate * np.asarray(age))


@dataclass(frozen=True)
class Linear:
    """
    Linear decay down to a floor, ``f(age) = max(floor, 1 - age / horizon)``: sample weight decay
    (https://arxiv.org/abs/2604.01913).

    :param horizon: Age, in transitions, at which the line reaches 0
    :param floor: What an old transition still counts, in [0, 1]
    :raises TypeError: if an argument is not a number
    :raises ValueError: if ``horizon`` is not > 0 and finite, or ``floor`` outside [0, 1]
    """

    horizon: float
    floor: float = 0.1

    def __post_init__(self) -> None:
        is_horizon = lambda value: 0 < value < math.inf  # noqa: E731
        check_number("horizon", self.horizon, "> 0 and finite (transitions)", is_horizon, "try the buffer's size")
        check_number("floor", self.floor, "in [0, 1]", lambda value: 0 <= value <= 1, "use 0 to forget altogether")

    def __call__(self, age: np.ndarray) -> np.ndarray:
        """
        :param age: Ages in transitions, any shape
        :return: ``f(age)``, same shape
        """
        return np.maximum(self.floor, 1 - np.asarray(age) / self.horizon)


@dataclass(frozen=True)
class PowerLaw:
    """
    Power law, ``f(age) = (1 + age / scale) ** -exponent``. With ``exponent=1`` it is ``scale / (age + scale)``: one
    over the age (https://arxiv.org/abs/2110.02421).

    :param scale: Age, in transitions, from which on the decay is felt
    :param exponent: How fast it falls beyond
    :raises TypeError: if an argument is not a number
    :raises ValueError: if an argument is not > 0 and finite
    """

    scale: float = 1.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        for name, unit, advice in [("scale", " (transitions)", "1 is 1/age"), ("exponent", "", "1 is 1/age")]:
            is_allowed = lambda value: 0 < value < math.inf  # noqa: E731
            check_number(name, getattr(self, name), f"> 0 and finite{unit}", is_allowed, advice)

    def __call__(self, age: np.ndarray) -> np.ndarray:
        """
        :param age: Ages in transitions, any shape
        :return: ``f(age)``, same shape
        """
        return (1 + np.asarray(age) / self.scale) ** -float(self.exponent)


#: Where neither a half-life nor a decay is given. Of what is drawn from a buffer of 100,000 half is younger than 300
#: transitions and 7 % older than 10,000. First on the tuning tasks, if narrowly (docs/results.md)
DEFAULT_DECAY = PowerLaw(scale=100, exponent=1.5)


@dataclass(frozen=True)
class Window:
    """
    All or nothing, ``f(age) = 1`` if ``age < size`` else 0: what a smaller buffer would replay.

    :param size: Number of transitions that count
    :raises TypeError: if ``size`` is not a number
    :raises ValueError: if ``size`` is not >= 1
    """

    size: float

    def __post_init__(self) -> None:
        check_number("size", self.size, ">= 1 (transitions)", lambda value: value >= 1, "use a half_life for less")

    def __call__(self, age: np.ndarray) -> np.ndarray:
        """
        :param age: Ages in transitions, any shape
        :return: ``f(age)``, same shape
        """
        return (np.asarray(age) < self.size).astype(np.float64)


@dataclass(frozen=True)
class EmphasizingRecent:
    """
    Emphasizing recent experience (ERE, https://arxiv.org/abs/1906.04009, section 4): update ``k`` of ``K`` draws
    uniformly from the newest ``c_k = max(N * eta ** (1000 k / K), minimum)`` of the ``N`` transitions stored, so that a
    cycle of updates closes in on the present.

    The paper counts ``k`` within the updates that follow an episode; here a call of ``sample()`` is an update and
    ``K = cycle`` of them are a cycle, so that nothing but ``sample()`` need be called.

    :param eta: How strongly recent experience is emphasized, in (0, 1]; 1 is uniform replay. The paper anneals
        0.996 towards 1.
    :param minimum: The smallest window, in transitions
    :param cycle: Number of calls of ``sample()`` in a cycle
    :raises TypeError: if an argument is not a number
    :raises ValueError: if ``eta`` is outside (0, 1], ``minimum`` or ``cycle`` not >= 1
    """

    eta: float = 0.996
    minimum: float = 5_000
    cycle: int = 1_000

    def __post_init__(self) -> None:
        check_number("eta", self.eta, "in (0, 1]", lambda value: 0 < value <= 1, "the paper uses 0.996")
        check_number("minimum", self.minimum, ">= 1 (transitions)", lambda value: value >= 1, "the paper uses 5000")
        is_cycle = lambda value: value >= 1 and float(value).is_integer()  # noqa: E731
        check_number("cycle", self.cycle, "a whole number >= 1", is_cycle, "try the updates per episode")

    def window(self, k: int, n_transitions: int) -> float:
        """
        :param k: Number of the update in its cycle, 1 to ``cycle``
        :param n_transitions: How many transitions are stored
        :return: ``c_k``, how many of the newest transitions are drawn from; it may exceed ``n_transitions``
        """
        return max(n_transitions * self.eta ** (1000 * k / self.cycle), float(self.minimum))


@dataclass(frozen=True)
class Custom:
    """
    Any decay that can be computed from an age.

    :param function: Takes an array of ages in transitions (float64, increasing from 0) and returns ``f(age)`` of the
        same shape: finite, >= 0, never rising with age, and > 0 at age 0. To save the buffer it must be picklable.
    :raises TypeError: if it cannot be called
    """

    function: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a decay must be a function of an array of ages, got {self.function!r}; see {KNOWN}")

    def __call__(self, age: np.ndarray) -> np.ndarray:
        """
        :param age: Ages in transitions, increasing from 0, one dimension
        :return: ``f(age)``, float64, same shape
        :raises ValueError: if the function does not return a decay
        """
        weights = np.asarray(self.function(np.asarray(age, dtype=np.float64)), dtype=np.float64)
        advice = "return one finite number >= 0 for every age, never rising with age"
        if weights.shape != np.shape(age):
            raise ValueError(f"decay gave shape {weights.shape} for ages of shape {np.shape(age)}; {advice}")
        is_bad = ~(np.isfinite(weights) & (weights >= 0))
        is_bad[0] |= weights[0] == 0
        if is_bad.any():
            first = int(is_bad.argmax())
            raise ValueError(f"decay gave {weights[first]:g} at age {age[first]:g}; {advice}, and > 0 at age 0")
        rises = np.flatnonzero(np.diff(weights) > 0)
        if len(rises) > 0:
            first = int(rises[0])
            raise ValueError(
                f"decay rises from {weights[first]:g} at age {age[first]:g} to {weights[first + 1]:g} "
                f"at age {age[first + 1]:g}; {advice}"
            )
        return weights


Decay = Exponential | Linear | PowerLaw | Window | EmphasizingRecent | Custom

#: How YAML spells the decays: ``decay: {linear: {horizon: 80000, floor: 0.1}}``
DECAYS: dict[str, type[Decay]] = {
    "exponential": Exponential,
    "linear": Linear,
    "power_law": PowerLaw,
    "window": Window,
    "ere": EmphasizingRecent,
}
KNOWN = f"the known decays: {', '.join(DECAYS)}"


def make_decay(decay: Any) -> Decay:
    """
    :param decay: A decay, a function of an array of ages, the name of a decay whose arguments all have defaults, or a
        mapping of one name to its arguments, ``{"linear": {"horizon": 80000, "floor": 0.1}}``
    :return: The decay
    :raises TypeError: if it is none of these, or an argument has the wrong type
    :raises ValueError: if the name or an argument is unknown, missing or not allowed
    """
    if isinstance(decay, Decay):
        return decay
    if isinstance(decay, str):
        decay = {decay: {}}
    if isinstance(decay, Mapping):
        if len(decay) != 1:
            raise ValueError(f"decay must name one decay, got {dict(decay)!r}; e.g. {{'window': {{'size': 5000}}}}")
        ((name, arguments),) = decay.items()
        if name not in DECAYS:
            close = difflib.get_close_matches(str(name), DECAYS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"unknown decay {name!r}; {hint}{KNOWN}")
        arguments = {} if arguments is None else arguments
        allowed = [field.name for field in fields(DECAYS[name])]
        if not isinstance(arguments, Mapping) or not set(arguments) <= set(allowed):
            raise ValueError(f"decay {name!r} takes {', '.join(allowed)}, got {arguments!r}")
        try:
            return DECAYS[name](**arguments)
        except TypeError as error:
            if "missing" in str(error):
                raise ValueError(f"decay {name!r} takes {', '.join(allowed)}, got {arguments!r}") from None
            raise
    return Custom(decay)


for _name, _decay in DECAYS.items():
    # Saved buffers and checkpoints name the decays as YAML does
    register_type(
        _name,
        _decay,
        lambda decay: [asdict(decay)],
        lambda arguments, make=_decay: make(**arguments),
    )
