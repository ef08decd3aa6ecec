"""Decays: the decay factor of a transition as a function of its age, not how rows are drawn or stored."""

import copy
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeAlias, TypeVar

import numpy as np

from sb3_reptile.replay.checks import check_number
from sb3_reptile.replay.functions import pickled_function, unpickled_function
from sb3_reptile.storage.values import register_type


class Decay:
    """
    The decay factor of a transition as a function ``f(age)`` of its age, with ``f(0) = 1``, never rising, >= 0.

    Your own decay is a frozen dataclass that derives from this, registered by :func:`register_decay`, with a
    ``__call__`` that takes an array of ages in transitions and returns ``f(age)`` of the same shape.
    """


DecayClass = TypeVar("DecayClass", bound=type[Decay])

#: Decays by the names that YAML and saved files use: ``decay: {linear: {horizon: 80000, floor: 0.1}}``
DECAYS: dict[str, type[Decay]] = {}


def register_decay(name: str) -> Callable[[DecayClass], DecayClass]:
    """
    Give a decay a name for YAML and for saved buffers and checkpoints::

        @register_decay("half")
        @dataclass(frozen=True)
        class Half(Decay): ...

    :param name: The name
    :return: A decorator for the class, a frozen dataclass
    """

    def register(cls: DecayClass) -> DecayClass:
        DECAYS[name] = cls
        register_type(name, cls, lambda decay: [asdict(decay)], lambda arguments: cls(**arguments))
        return cls

    return register


@register_decay("exponential")
@dataclass(frozen=True)
class Exponential(Decay):
    """
    Exponential decay, ``f(age) = 2 ** (-age / half_life)``.

    Sampling with it is truncated geometric replay (https://arxiv.org/abs/2605.10236).

    :param half_life: Age, in transitions, at which the decay factor is 1/2.
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


@register_decay("linear")
@dataclass(frozen=True)
class Linear(Decay):
    """
    Linear decay down to a floor, ``f(age) = max(floor, 1 - age / horizon)``: sample weight decay
    (https://arxiv.org/abs/2604.01913).

    :param horizon: Age, in transitions, at which the line reaches 0
    :param floor: Decay factor of old transitions, in [0, 1]
    :raises TypeError: if an argument is not a number
    :raises ValueError: if ``horizon`` is not > 0 and finite, or ``floor`` outside [0, 1]
    """

    horizon: float
    floor: float = 0.1

    def __post_init__(self) -> None:
        is_horizon = lambda value: 0 < value < math.inf  # noqa: E731
        check_number("horizon", self.horizon, "> 0 and finite (transitions)", is_horizon, "try the buffer's size")
        check_number("floor", self.floor, "in [0, 1]", lambda value: 0 <= value <= 1, "use 0 to forget completely")

    def __call__(self, age: np.ndarray) -> np.ndarray:
        """
        :param age: Ages in transitions, any shape
        :return: ``f(age)``, same shape
        """
        return np.maximum(self.floor, 1 - np.asarray(age) / self.horizon)


@register_decay("power_law")
@dataclass(frozen=True)
class PowerLaw(Decay):
    """
    Power law, ``f(age) = (1 + age / scale) ** -exponent``. With ``exponent=1`` it is ``scale / (age + scale)``: one
    over the age (https://arxiv.org/abs/2110.02421).

    :param scale: Age, in transitions, at which the decay factor is ``2 ** -exponent``
    :param exponent: Exponent of the decay at large ages
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


#: The decay if neither a half-life nor a decay is given. In a buffer of 100,000, half of the draws are younger than 300
#: transitions and 7 % older than 10,000. It ranks first on the tuning tasks, by a small margin
#: (docs/explanation/results_one_step.md)
DEFAULT_DECAY = PowerLaw(scale=100, exponent=1.5)


@register_decay("window")
@dataclass(frozen=True)
class Window(Decay):
    """
    A window, ``f(age) = 1`` if ``age < size`` else 0: replay like that of a smaller buffer.

    :param size: Number of transitions in the window
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


@register_decay("ere")
@dataclass(frozen=True)
class EmphasizingRecent(Decay):
    """
    Emphasizing recent experience (ERE, https://arxiv.org/abs/1906.04009, section 4): update ``k`` of ``K`` draws
    uniformly from the newest ``c_k = max(N * eta ** (1000 k / K), minimum)`` of the ``N`` transitions stored, so that a
    cycle of updates closes in on the present.

    The paper counts ``k`` within the updates that follow an episode; here a call of ``sample()`` is an update and
    ``K = cycle`` of them are a cycle, so that only ``sample()`` needs to be called.

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
        :param n_transitions: Number of transitions stored
        :return: ``c_k``, the number of newest transitions that are drawn from; it may exceed ``n_transitions``
        """
        return max(n_transitions * self.eta ** (1000 * k / self.cycle), float(self.minimum))


@dataclass(frozen=True)
class Custom(Decay):
    """
    A decay given as a function of the age.

    :param function: Takes an array of ages in transitions (float64, increasing from 0) and returns ``f(age)`` of the
        same shape: finite, >= 0, never rising with age, and > 0 at age 0
    :raises TypeError: if it cannot be called
    """

    function: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a decay must be a function of an array of ages, got {self.function!r}; see {_known()}")

    def __reduce__(self) -> Any:
        return _unpickled_custom, (pickled_function(self.function),)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Custom":
        return Custom(copy.deepcopy(self.function, memo))

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


def _unpickled_custom(pickled: Any) -> Custom:
    return Custom(unpickled_function(pickled))


#: A decay, a function of an array of ages, or as YAML spells it: a name, or a name and its arguments
DecayOption: TypeAlias = Decay | Callable[[np.ndarray], np.ndarray] | str | Mapping[str, Mapping[str, Any] | None]


def _known() -> str:
    return f"the known decays: {', '.join(DECAYS)}"


def make_decay(decay: Any) -> Decay:
    """
    :param decay: A decay, a function of an array of ages, the name of a decay whose arguments all have defaults, or a
        mapping of one name to its arguments, ``{"linear": {"horizon": 80000, "floor": 0.1}}``
    :return: The decay
    :raises TypeError: if it is something else, or an argument has the wrong type
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
            raise ValueError(f"unknown decay {name!r}; {hint}{_known()}")
        arguments = {} if arguments is None else arguments
        of_decay = fields(DECAYS[name])  # type: ignore[arg-type]
        allowed = [field.name for field in of_decay]
        required = {field.name for field in of_decay if field.default is MISSING}
        if not isinstance(arguments, Mapping) or not required <= set(arguments) <= set(allowed):
            raise ValueError(f"decay {name!r} takes {', '.join(allowed)}, got {arguments!r}")
        return DECAYS[name](**arguments)
    return Custom(decay)
