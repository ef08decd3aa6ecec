"""Checks of arguments. Their errors say what was given, what is allowed and what to do."""

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

#: Where decay and initial weights act
Weighting: TypeAlias = Literal["sampling", "loss"]
#: What happens to rewards and observations that are not finite
OnBadTransition: TypeAlias = Literal["raise", "skip", "allow"]


def check_number(name: str, value: Any, allowed: str, is_allowed: Callable[[float], bool], advice: str) -> None:
    """
    :param name: Name of the argument, for the message
    :param value: The value given
    :param allowed: What is allowed, in words that follow "a number" unless they begin with "a "
    :param is_allowed: The same as a predicate; it must be False for NaN
    :param advice: What to do instead
    :raises TypeError: if the value is not a number
    :raises ValueError: if the value is not allowed
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        numbers = allowed if allowed.startswith("a ") else f"a number {allowed}"
        raise TypeError(f"{name} must be {numbers}, got {value!r} ({type(value).__name__}); {advice}")
    if not is_allowed(float(value)):
        raise ValueError(f"{name} must be {allowed}, got {value}; {advice}")


def check_whole_number(name: str, value: Any, least: int = 1) -> None:
    """
    :param name: Name of the argument, for the message
    :param value: The value given, Python's or NumPy's
    :param least: The smallest number that is allowed
    :raises ValueError: if the value is not a whole number, or less
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """
    :param name: Name of the argument, for the message
    :param value: The value given
    :param allowed: All that is allowed
    :raises ValueError: if the value is not among them
    """
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
