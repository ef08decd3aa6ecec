"""The option ``transfer`` of ReptileDQN, checked, and what it does to layers and optimizer; it reads no parameters."""

import difflib
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_reptile.replay.checks import check_number
from sb3_reptile.storage.values import register_type

# The factor of the learning rate, beside the other settings of a parameter group
FACTOR = "learning_rate_factor"


class TransferOptions(TypedDict, total=False):
    """
    How training continues from a pretrained network, as Python and YAML spell it.

    :param actions: For each action, the number of the action in the pretrained network that it starts from, or None
        for a new one, which starts from scratch. Needed if the numbers of actions differ
    :param observations: For each number of an observation, the number of the one in the pretrained network that it
        starts from, or None for a new one, whose weights start at 0. Numbers are counted as the network gets them:
        arrays flattened, Discrete ones one-hot, Dict ones key by key in the order of the space
    :param freeze_layers: The number of layers, from the observation on, that are frozen at first: all but the last by
        default. Layers are the modules that have parameters or statistics
    :param freeze_steps: The number of environment steps for which they are frozen, all environments counted; ``inf``
        for the whole training
    :param learning_rate_factor: What the learning rate is multiplied with for parameters that were loaded, in (0, 1).
        Those of layers with new actions or observations learn at the full rate
    """

    actions: Sequence[int | None]
    observations: Sequence[int | None]
    freeze_layers: int
    freeze_steps: float
    learning_rate_factor: float


@dataclass(frozen=True)
class Transfer:
    """
    :class:`TransferOptions` that were checked. A model that is loaded or resumed has them, and needs no ``pretrained``.

    :raises TypeError: if an option has the wrong type
    :raises ValueError: if an option has a value that is not allowed, or none is given
    """

    actions: tuple[int | None, ...] | None = None
    observations: tuple[int | None, ...] | None = None
    freeze_layers: int | None = None
    freeze_steps: float | None = None
    learning_rate_factor: float | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, field.name) is None for field in fields(self)):
            raise ValueError(f"transfer must have one of {_known()}, got none of them: leave it out")
        for name in ("actions", "observations"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _numbers(name, given))
        if self.observations is not None and all(number is None for number in self.observations):
            raise ValueError("transfer={'observations': ...} has only new ones: leave pretrained out, nothing is left")
        if self.freeze_steps is not None:
            is_steps = lambda value: value >= 1 and (math.isinf(value) or value.is_integer())  # noqa: E731
            check_number("freeze_steps", self.freeze_steps, "a whole number >= 1, or inf", is_steps, "leave it out")
        if self.freeze_layers is not None:
            is_layers = lambda value: value >= 1 and value.is_integer()  # noqa: E731
            check_number("freeze_layers", self.freeze_layers, "a whole number >= 1", is_layers, "leave it out")
            if self.freeze_steps is None:
                raise ValueError(f"freeze_layers={self.freeze_layers} needs freeze_steps: for how many steps")
        if self.learning_rate_factor is not None:
            check_number(
                FACTOR,
                self.learning_rate_factor,
                "in (0, 1)",
                lambda value: 0 < value < 1,
                "leave it out for the full rate, use freeze_steps for none",
            )


register_type("transfer", Transfer, lambda transfer: [asdict(transfer)], lambda arguments: Transfer(**arguments))


def _known() -> str:
    return ", ".join(field.name for field in fields(Transfer))


def _numbers(name: str, given: Any) -> tuple[int | None, ...]:
    advice = "give a list with, for each of this environment's, its number in the pretrained network, or None"
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"transfer={{{name!r}: ...}} must be a list, got {given!r:.100}: {advice}")
    numbers: list[int | None] = []
    for number in given:
        if number is None:
            numbers.append(None)
            continue
        if isinstance(number, bool | np.bool_) or not hasattr(number, "__index__"):
            raise TypeError(
                f"transfer={{{name!r}: ...}} must hold whole numbers or None, got {number!r:.100}: {advice}"
            )
        numbers.append(operator.index(number))
        if operator.index(number) < 0:
            raise ValueError(f"transfer={{{name!r}: ...}} must hold numbers >= 0 or None, got {number}: {advice}")
    return tuple(numbers)


def make_transfer(transfer: Any, is_from_pretrained: bool) -> Transfer | None:
    """
    :param transfer: The option
    :param is_from_pretrained: Whether there is a ``pretrained`` network
    :return: The option, checked; None if there is none
    :raises TypeError: if it is not a dict
    :raises ValueError: if it has an option that does not exist or is not allowed, or there is nothing to transfer
    """
    if transfer is None or isinstance(transfer, Transfer):
        return transfer
    if not isinstance(transfer, Mapping):
        raise TypeError(f"transfer must be a dict of {_known()}, got {transfer!r:.100}")
    known = [field.name for field in fields(Transfer)]
    for name in transfer:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"transfer has no option {name!r}; {hint}It takes {_known()}")
    checked = Transfer(**transfer)
    if not is_from_pretrained:
        raise ValueError(f"transfer={dict(transfer)!r:.100} needs pretrained: the network to start from")
    return checked


def frozen_layers(network: QNetwork, transfer: Transfer) -> list[nn.Module]:
    """
    :param network: A Q-network
    :param transfer: The option
    :return: The layers that it freezes
    :raises ValueError: if nothing would learn
    """
    layers = [
        module
        for module in network.modules()
        if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    ]
    n = len(layers) - 1 if transfer.freeze_layers is None else int(transfer.freeze_layers)
    if not 1 <= n < len(layers):
        raise ValueError(
            f"freeze_layers must be from 1 to {len(layers) - 1}, as the network has {len(layers)} layers and one must "
            f"learn, got {n}: leave freeze_steps out, or use learning_starts to learn later"
        )
    return layers[:n]


def grouped_optimizer(
    policy: DQNPolicy, learning_rate: Schedule, factor: float, new_layers: Sequence[str]
) -> th.optim.Optimizer:
    """
    :param policy: A policy
    :param learning_rate: The learning rate of new parameters, as a function of the remaining progress
    :param factor: What it is multiplied with for loaded parameters
    :param new_layers: Names of parameters that are new, in part at least
    :return: Its optimizer, with a group of parameters for each rate. Those of a group are in the network's order.
    """
    named = dict(policy.q_net.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [value for name, value in named.items() if name in new_layers]},
        {"params": [value for name, value in named.items() if name not in new_layers], FACTOR: factor},
    ]
    make: Any = policy.optimizer_class
    optimizer: th.optim.Optimizer = make(
        [group for group in groups if group["params"]], lr=learning_rate(1), **policy.optimizer_kwargs
    )
    return optimizer


def scale_learning_rates(optimizer: th.optim.Optimizer) -> None:
    """
    :param optimizer: An optimizer all of whose groups have the same learning rate, which is multiplied by their factors
    """
    for group in optimizer.param_groups:
        if FACTOR in group:
            group["lr"] = group["lr"] * group[FACTOR]
