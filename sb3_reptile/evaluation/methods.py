"""The methods of replay that a comparison trains, as arguments of any of SB3's off-policy algorithms."""

import dataclasses
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.evaluation.plotting import Style, style_of
from sb3_reptile.replay import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedSampling,
)
from sb3_reptile.replay.options import ReplayOptions
from sb3_reptile.reptile_dqn import ReptileDQN

#: Names of the methods that every comparison trains unless some of them are named
STANDARD = ("uniform", "fifo", "default", "auto")
UNIFORM = {"half_life": math.inf}
# Size of the small FIFO buffer, the best one on the tasks that drift in docs/explanation/results_one_step.md, or this
# part of a shorter run or of a smaller buffer
FIFO_SIZE, FIFO_PART = 3_000, 10

OPTIONS = [field.name for field in dataclasses.fields(ReplayOptions)]
# Options that decide what is drawn: a method replaces all of the user's
OF_DRAWS = [name for name in OPTIONS if name not in ("storage_dir", "on_bad_transition")]
# Arguments of ReptileDQN that do the same, with the values that leave it to the others
OF_REPTILE_DQN = {"half_life": None, "weighting": "sampling", "priority": None}
DECAYED: dict[type[ReplayBuffer], type[DecayedSampling]] = {
    ReplayBuffer: DecayedReplayBuffer,
    DictReplayBuffer: DecayedDictReplayBuffer,
    NStepReplayBuffer: DecayedNStepReplayBuffer,
    HerReplayBuffer: DecayedHerReplayBuffer,
}
SPARE_STYLES = tuple(map(style_of, ("exponential", "power", "prioritized", "linear", "another default")))


@dataclasses.dataclass(frozen=True)
class Method:
    """
    A method of replay.

    :param name: Its name in records and commands
    :param label: Its name in tables and figures
    :param given: Options of the replay buffer and arguments of the algorithm
    :param style: Its colour and line in figures
    """

    name: str
    label: str
    given: dict[str, Any]
    style: Style

    def arguments(self, model: OffPolicyAlgorithm) -> dict[str, Any]:
        """
        :param model: A model with the user's own arguments
        :return: Arguments to add to them, or to replace some of them
        :raises ValueError: if the algorithm or its replay buffer cannot replay by this method
        """
        of_algorithm = inspect.signature(type(model).__init__).parameters
        unknown = [name for name in self.given if name not in of_algorithm and name not in OPTIONS]
        if unknown:
            raise ValueError(
                f"method {self.name}: {type(model).__name__} has no argument {unknown[0]!r}, and a decayed replay "
                f"buffer has no option of that name; its options are {', '.join(OPTIONS)}"
            )
        arguments = {name: value for name, value in self.given.items() if name in of_algorithm}
        options = {name: value for name, value in self.given.items() if name not in of_algorithm}
        buffer_class = model.replay_buffer_class
        assert buffer_class is not None
        if issubclass(buffer_class, DecayedSampling):
            options = _kept(model) | options
        elif options == UNIFORM:
            return arguments
        else:
            arguments["replay_buffer_class"] = self._decayed(buffer_class)
            options = _kept(model) | options
        if isinstance(model, ReptileDQN):
            arguments = {**OF_REPTILE_DQN, **arguments}
        elif arguments.get("n_steps", 1) != 1 or "n_steps" in options:
            # SB3 passes them on to its own class only
            own = {"gamma": model.gamma, **options, **arguments}
            options |= {name: own[name] for name in ("n_steps", "gamma")}
        return {**arguments, "replay_buffer_kwargs": options}

    def _decayed(self, buffer_class: type[ReplayBuffer]) -> type[DecayedSampling]:
        if buffer_class not in DECAYED:
            raise ValueError(
                f"method {self.name}: the replay buffer {buffer_class.__name__} has no decay: derive it from "
                "DecayedSampling and the class that it derives from now"
            )
        return DECAYED[buffer_class]


def _kept(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """The user's own arguments of the replay buffer, without those that a method replaces."""
    return {name: value for name, value in model.replay_buffer_kwargs.items() if name not in OF_DRAWS}


def default_methods(named: Sequence[str | Mapping[str, Any]] | None) -> list[str | Mapping[str, Any]]:
    """
    :param named: The methods that the user names, or None
    :return: The methods to train: uniform replay, the standard ones that are named, or all of them if none is, and the
        others that are named
    """
    named = list(named or ())
    standard = [name for name in STANDARD if name in named]
    others = [method for method in named if method not in STANDARD]
    return [*(dict.fromkeys(["uniform", *standard]) if standard else STANDARD), *others]


def make_methods(named: Sequence[str | Mapping[str, Any]] | None, stored: int) -> list[Method]:
    """
    :param named: Names ``"uniform"``, ``"fifo"``, ``"fifo:SIZE"``, ``"default"`` and ``"auto"``, or dictionaries of
        options of the replay buffer and arguments of the algorithm; None for the standard methods
    :param stored: Transitions that uniform replay stores at the end of a run
    :return: The methods, uniform replay first
    :raises TypeError: if one is neither a name nor a dictionary
    :raises ValueError: if a name is unknown, or two methods are the same
    """
    spare = iter(SPARE_STYLES)
    methods: dict[str, Method] = {}
    for given in default_methods(named):
        method = _make_method(given, stored, spare)
        if any(method.given == other.given for other in methods.values()):
            raise ValueError(f"method {method.name} is named twice: name each method once")
        if method.name in methods:
            raise ValueError(
                f"two methods are called {method.name}, whose records could not be distinguished: give their "
                "functions different names"
            )
        methods[method.name] = method
    return list(methods.values())


def _make_method(given: str | Mapping[str, Any], stored: int, spare: Any) -> Method:
    if isinstance(given, Mapping):
        name = ",".join(f"{option}:{_shown(value)}" for option, value in given.items())
        if not given or "seed" in given:
            raise ValueError(f"a method needs at least one option or argument other than the seed, got {dict(given)}")
        return Method(name, _label(given), dict(given), next(spare, style_of("other")))
    if not isinstance(given, str):
        raise TypeError(f"a method is a name or a dictionary of arguments, got {given!r}")
    kind, colon, size = given.partition(":")
    if kind == "fifo":
        n = size if colon else str(max(1, min(FIFO_SIZE, stored // FIFO_PART)))
        if not n.isdecimal() or int(n) < 1:
            raise ValueError(f"method {given}: the size of a FIFO buffer is a whole number >= 1, for example fifo:1000")
        if int(n) >= stored:
            raise ValueError(
                f"method {given}: uniform replay stores no more than {stored:,} transitions in a run: name a smaller "
                "size"
            )
        style = next(spare, style_of("other")) if colon else style_of("fifo")
        return Method(given, f"FIFO {int(n):,}", {**UNIFORM, "buffer_size": int(n)}, style)
    of_name: dict[str, tuple[str, dict[str, Any]]] = {
        "uniform": ("uniform", UNIFORM),
        "default": ("default", {}),
        "auto": ("auto", {"half_life": "auto"}),
    }
    if given not in of_name:
        raise ValueError(
            f"unknown method {given!r}: use {', '.join(STANDARD)}, fifo:SIZE, or options and arguments, for example "
            "half_life:300"
        )
    label, options = of_name[given]
    return Method(given, label, dict(options), style_of(given))


def _label(given: Mapping[str, Any]) -> str:
    if list(given) == ["half_life"] and isinstance(given["half_life"], int | float):
        return f"half-life {given['half_life']:,g}"
    return ", ".join(f"{name} {_shown(value)}" for name, value in given.items())


def _shown(value: Any) -> str:
    """A value as text that is the same in every process: without addresses."""
    return getattr(value, "__qualname__", "") or re.sub(r" at 0x[0-9a-f]+", "", str(value))
