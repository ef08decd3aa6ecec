"""Values that can be told in JSON and made again from it without running anything that a file names."""

import base64
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy

from sb3_reptile.replay.decay import DECAYS
from sb3_reptile.storage.errors import MissingArgumentError, NotStorableError, StorageError

# Classes that a file may name: of these packages, and of these kinds. They must have been imported already.
PACKAGES = ("torch.nn.", "torch.optim.", "stable_baselines3.", "sb3_contrib.", "sb3_reptile.")
CLASSES = (th.nn.Module, th.optim.Optimizer, ReplayBuffer, BasePolicy, BaseAlgorithm)
ARRAY_KINDS = "biuf"


class Kind(NamedTuple):
    """How a kind of objects is told."""

    type: type
    arguments: Callable[[Any], list[Any]]
    make: Callable[..., Any]


def _box(low: Any, high: Any, shape: list[int], dtype: str) -> spaces.Box:
    low, high = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in (low, high))
    return spaces.Box(low, high, dtype=_dtype(dtype))


def _bound(bound: np.ndarray) -> Any:
    # Bounds that are all the same are told once: those of an image are as large as the image
    return bound.flat[0] if bound.size > 0 and (bound == bound.flat[0]).all() else bound


def _dtype(name: str) -> Any:
    return np.dtype(name).type


#: What JSON has no word for, by the name it gets. A subclass is another kind, which is not known.
KINDS: dict[str, Kind] = {
    "box": Kind(spaces.Box, lambda s: [_bound(s.low), _bound(s.high), list(s.shape), np.dtype(s.dtype).name], _box),
    "discrete": Kind(
        spaces.Discrete,
        lambda s: [int(s.n), int(s.start), np.dtype(s.dtype).name],
        lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=_dtype(dtype)),
    ),
    "multi_discrete": Kind(
        spaces.MultiDiscrete,
        lambda s: [s.nvec, s.start, np.dtype(s.dtype).name],
        lambda nvec, start, dtype: spaces.MultiDiscrete(nvec, dtype=_dtype(dtype), start=start),
    ),
    "multi_binary": Kind(spaces.MultiBinary, lambda s: [s.n], spaces.MultiBinary),
    "dict_space": Kind(
        spaces.Dict, lambda s: [[list(item) for item in s.spaces.items()]], lambda items: spaces.Dict(dict(items))
    ),
    "linear_schedule": Kind(LinearSchedule, lambda s: [s.start, s.end, s.end_fraction], LinearSchedule),
    "constant_schedule": Kind(ConstantSchedule, lambda s: [s.val], ConstantSchedule),
    "float_schedule": Kind(FloatSchedule, lambda s: [s.value_schedule], FloatSchedule),
    "train_freq": Kind(TrainFreq, lambda f: [f.frequency, f.unit.value], lambda frequency, unit: (frequency, unit)),
    "goal_selection_strategy": Kind(
        GoalSelectionStrategy, lambda s: [s.name], lambda name: GoalSelectionStrategy[name]
    ),
    "normal_action_noise": Kind(
        NormalActionNoise,
        lambda n: [n._mu, n._sigma, np.dtype(n._dtype).name],
        lambda mean, sigma, dtype: NormalActionNoise(mean, sigma, _dtype(dtype)),
    ),
    "ou_action_noise": Kind(
        OrnsteinUhlenbeckActionNoise,
        lambda n: [n._mu, n._sigma, n._theta, n._dt, n.initial_noise, np.dtype(n._dtype).name],
        lambda mean, sigma, theta, dt, initial, dtype: OrnsteinUhlenbeckActionNoise(
            mean, sigma, theta, dt, initial, _dtype(dtype)
        ),
    ),
    "vectorized_action_noise": Kind(VectorizedActionNoise, lambda n: [n.base_noise, n.n_envs], VectorizedActionNoise),
    **{
        name: Kind(decay, lambda d: [asdict(d)], lambda arguments, decay=decay: decay(**arguments))
        for name, decay in DECAYS.items()
    },
}
_KIND_OF = {kind.type: name for name, kind in KINDS.items()}


def name_of(cls: type) -> str:
    """
    :param cls: A class
    :return: Its name in a file
    """
    return f"{cls.__module__}:{cls.__qualname__}"


def _class_named(name: str) -> type:
    module, _, qualified = name.partition(":")
    if f"{module}.".startswith(PACKAGES):
        found: Any = sys.modules.get(module)
        for part in qualified.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, CLASSES):
            return found
    raise StorageError(
        f"a file may name networks, optimizers, policies, buffers and algorithms of {', '.join(PACKAGES)} "
        f"that have been imported, got {name!r}; give that argument again, or import its module first"
    )


def to_json(value: Any, name: str) -> Any:
    """
    :param value: Numbers, text, lists, tuples, dicts, arrays, and what is in ``KINDS``; classes that a file may name
    :param name: What it is, for the message
    :return: What ``json`` can write, from which :func:`from_json` makes an equal value
    :raises NotStorableError: if it is, or holds, anything else
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    kind = _KIND_OF.get(type(value))
    if kind is not None:
        return {f"${kind}": [to_json(argument, name) for argument in KINDS[kind].arguments(value)]}
    if type(value) is list:
        return [to_json(item, name) for item in value]
    if type(value) is tuple:
        return {"$tuple": [to_json(item, name) for item in value]}
    if isinstance(value, Mapping):
        items = [(key, to_json(item, f"{name}[{key!r}]")) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
            return dict(items)
        return {"$dict": [[to_json(key, name), item] for key, item in items]}
    if isinstance(value, np.ndarray) and value.dtype.kind in ARRAY_KINDS:
        data = base64.b64encode(value.tobytes()).decode("ascii")
        return {"$array": [value.dtype.str, list(value.shape), data]}
    if isinstance(value, type) and issubclass(value, CLASSES) and value.__module__.startswith(PACKAGES):
        return {"$class": name_of(value)}
    raise NotStorableError(
        f"{name} cannot be saved without pickle, got {value!r} ({type(value).__name__}): what can be is numbers, text, "
        f"lists, dicts, arrays, SB3's schedules and action noise, decays, and classes of {', '.join(PACKAGES)}"
    )


def from_json(value: Any) -> Any:
    """
    :param value: What :func:`to_json` made
    :return: The value
    :raises StorageError: if it is anything else
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: from_json(item) for key, item in value.items()}
    content = value[tag]
    try:
        if tag == "$float":
            return float(content)
        if tag == "$tuple":
            return tuple(from_json(content))
        if tag == "$dict":
            return {from_json(key): from_json(item) for key, item in content}
        if tag == "$array":
            dtype, shape, data = content
            if np.dtype(dtype).kind not in ARRAY_KINDS:
                raise StorageError(f"arrays hold numbers, got {dtype!r}")
            return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
        if tag == "$class":
            return _class_named(content)
        return KINDS[tag[1:]].make(*from_json(content))
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"{value!r:.200} describes nothing that is known here: {error}") from error


def arguments_to_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param arguments: Keyword arguments
    :return: Each of them as JSON, and why it is missing where it has none
    """
    told: dict[str, Any] = {}
    for name, value in arguments.items():
        try:
            told[name] = to_json(value, name)
        except NotStorableError as error:
            told[name] = {"$missing": str(error)}
    return told


def arguments_from_json(told: Mapping[str, Any], given: Mapping[str, Any], call: str) -> dict[str, Any]:
    """
    :param told: What :func:`arguments_to_json` made
    :param given: Arguments that go first
    :param call: What the user calls, for the message
    :return: The keyword arguments
    :raises MissingArgumentError: if one could not be saved and is not given
    """
    arguments = dict(given)
    for name, value in told.items():
        if name in given:
            continue
        if isinstance(value, dict) and "$missing" in value:
            raise MissingArgumentError(f"{name} must be given again, {call}(..., {name}=...): {value['$missing']}")
        arguments[name] = from_json(value)
    return arguments
