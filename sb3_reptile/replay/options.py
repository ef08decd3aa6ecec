"""The options that decayed replay buffers add to SB3's, checked in one place for buffers and learner."""

import importlib
import os
from dataclasses import dataclass
from typing import Any, Literal

from sb3_reptile.replay.checks import OnBadTransition, Weighting, check_choice, check_number
from sb3_reptile.replay.decay import DEFAULT_DECAY, Decay, DecayOption, Exponential, make_decay
from sb3_reptile.replay.distribution import SamplingDistribution
from sb3_reptile.replay.initial_weights import InitialWeights, InitialWeightsOption, make_initial_weights

WEIGHTING = ("sampling", "loss")
ON_BAD_TRANSITION = ("raise", "skip", "allow")


@dataclass
class ReplayOptions:
    """
    The options of :class:`~sb3_reptile.replay.DecayedSampling`, which documents them.

    :raises TypeError: if an option has the wrong type
    :raises ValueError: if an option has a value that is not allowed
    """

    half_life: float | Literal["auto"] | None = None
    uniform_fraction: float = 0.0
    decay: DecayOption | None = None
    combined: bool = False
    initial_weights: InitialWeightsOption = "uniform"
    prioritized: bool = False
    beta: float = 0.0
    weighting: Weighting = "sampling"
    storage_dir: str | os.PathLike[str] | None = None
    on_bad_transition: OnBadTransition = "raise"
    distribution_class: type[SamplingDistribution] | str = SamplingDistribution

    def __post_init__(self) -> None:
        self.is_auto = isinstance(self.half_life, str) and self.half_life == "auto"
        self.made_decay = self._make_decay()
        self.made_initial_weights: InitialWeights | None = make_initial_weights(self.initial_weights)
        check_fraction("uniform_fraction", self.uniform_fraction, "use 0 to draw by the decay alone")
        check_fraction("beta", self.beta, "use 0 for no correction")
        check_weighting(self.weighting, self.prioritized)
        check_choice("on_bad_transition", self.on_bad_transition, ON_BAD_TRANSITION)
        self.made_distribution_class = _distribution_class(self.distribution_class)

    def _make_decay(self) -> Decay:
        check_half_life(self.half_life)
        if self.decay is not None:
            if self.half_life is not None and not self.is_auto:
                raise ValueError(
                    f"half_life={self.half_life!r} is an exponential decay and decay={self.decay!r} another one: "
                    "give one of them, and leave the other at None"
                )
            return make_decay(self.decay)
        if self.is_auto or self.half_life is None:
            return DEFAULT_DECAY
        return Exponential(self.half_life)  # type: ignore[arg-type]


def check_fraction(name: str, value: Any, advice: str) -> None:
    """
    :param name: Name of the argument, for the message
    :param value: The value given
    :param advice: What to do instead
    :raises TypeError: if the value is not a number
    :raises ValueError: if the value is outside [0, 1]
    """
    check_number(name, value, "in [0, 1]", lambda number: 0 <= number <= 1, advice)


def check_half_life(half_life: Any) -> None:
    """
    :param half_life: The option ``half_life``
    :raises TypeError: if it is not a number, ``"auto"`` or ``None``
    :raises ValueError: if it is a number that is not allowed
    """
    if isinstance(half_life, str):
        if half_life != "auto":
            raise TypeError(
                f"half_life must be a number > 0 or inf (transitions), 'auto' or None, got {half_life!r} (str); in "
                "YAML write .inf for no decay, and 1000 or !!float 1e3, as 1e3 is text"
            )
    elif half_life is not None:
        Exponential(half_life)


def check_weighting(weighting: Any, prioritized: bool) -> None:
    """
    :param weighting: The option ``weighting``
    :param prioritized: Whether there are priorities
    :raises ValueError: if it is not allowed, or not together with priorities
    """
    check_choice("weighting", weighting, WEIGHTING)
    if weighting == "loss" and prioritized:
        raise ValueError("weighting='loss' draws uniformly, which priorities do not: use weighting='sampling'")


def _distribution_class(given: Any) -> type[SamplingDistribution]:
    found = given
    if isinstance(given, str):
        module, _, name = given.rpartition(".")
        found = getattr(importlib.import_module(module), name, None) if module else None
    if not (isinstance(found, type) and issubclass(found, SamplingDistribution)):
        raise TypeError(
            "distribution_class must be a class that derives from SamplingDistribution, or its name with the module it "
            f"is imported from ('my_module.MyDistribution'), got {given!r}"
        )
    return found
