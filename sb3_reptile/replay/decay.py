"""Decays: how much a transition of a given age counts. Nothing here knows how rows are drawn or stored."""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np


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
        if isinstance(self.half_life, bool) or not isinstance(self.half_life, Real):
            raise TypeError(
                "half_life must be a number > 0 or inf (transitions), "
                f"got {self.half_life!r} ({type(self.half_life).__name__}); "
                "YAML reads 1e3 as text, write 1000 or !!float 1e3, and .inf for no decay"
            )
        # `not >` also refuses NaN
        if not self.half_life > 0:
            raise ValueError(
                f"half_life must be > 0 or inf (transitions), got {self.half_life}; "
                "use float('inf') (in YAML: .inf) for no decay"
            )

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
