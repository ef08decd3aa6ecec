"""
Values as JSON, and values made from JSON again without executing anything that a file names.

Types that JSON does not have are registered by :func:`register_type`, here for Gymnasium, SB3 and PyTorch, and by the
modules of this package for their own.
"""

import base64
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from sb3_reptile.storage.errors import CONSTRUCTION_ERRORS, MissingArgumentError, NotStorableError, StorageError, warn

# A file may name only classes of these packages and with these base classes, and only if they have been imported
PACKAGES = ("torch.nn.", "torch.optim.", "stable_baselines3.", "sb3_contrib.", "sb3_reptile.")
BASE_CLASSES = (th.nn.Module, th.optim.Optimizer, ReplayBuffer, BasePolicy, BaseAlgorithm)
# Data types of arrays: booleans, numbers, dates and text, but no Python objects
ARRAY_KINDS = "biufcmMSU"
# The most elements that a space may have that a file describes: room for an image of 8,000 by 8,000 pixels
LARGEST_SPACE = 2**26
# Names that registered types cannot have, because a tag with that name has another meaning
RESERVED = ("float", "tuple", "dict", "array", "scalar", "class", "missing", "arguments")


class RegisteredType(NamedTuple):
    """
    How a type is serialized.

    :param cls: The type. Its subclasses are other types.
    :param to_arguments: Returns the arguments that make an equal object; they are serialized in turn
    :param make: Makes an object from these arguments
    """

    cls: type
    to_arguments: Callable[[Any], Sequence[Any]]
    make: Callable[..., Any]


_TYPES: dict[str, RegisteredType] = {}
_NAMES_OF_TYPES: dict[type, str] = {}
_FORMER_NAMES: dict[str, type] = {}


def register_type(
    name: str, cls: type, to_arguments: Callable[[Any], Sequence[Any]], make: Callable[..., Any] | None = None
) -> None:
    """
    Make objects of a type storable::

        register_type("linear", Linear, lambda decay: [asdict(decay)], lambda arguments: Linear(**arguments))

    :param name: Name of the type in files. It must never change, so that files can be loaded later.
    :param cls: The type. Its subclasses must be registered under names of their own.
    :param to_arguments: Takes an object and returns the arguments that make an equal one. They must be storable.
    :param make: Takes these arguments and returns the object; ``cls`` by default. It must check them, as a file may
        hold any arguments.
    :raises ValueError: if the name is taken
    """
    taken = _TYPES.get(name)
    if name in RESERVED or (taken is not None and name_of(taken.cls) != name_of(cls)):
        owner = "a JSON tag" if taken is None else name_of(taken.cls)
        raise ValueError(f"the name {name!r} is taken by {owner}: register {name_of(cls)} under another name")
    _TYPES[name] = RegisteredType(cls, to_arguments, cls if make is None else make)
    _NAMES_OF_TYPES[cls] = name


def register_former_name(name: str, cls: type) -> None:
    """
    Let files that name a class by an earlier name load after the class has been moved.

    :param name: Its earlier name, as :func:`name_of` returned it: ``"sb3_reptile.old_module:SomeClass"``
    :param cls: The class
    :raises ValueError: if it is not a class that a file may name
    """
    if not _may_be_named(cls):
        raise ValueError(f"{name_of(cls)} is not a class that a file may name; see BASE_CLASSES and PACKAGES")
    _FORMER_NAMES[name] = cls


def name_of(cls: type) -> str:
    """
    :param cls: A class
    :return: Its name in a file
    """
    return f"{cls.__module__}:{cls.__qualname__}"


def _may_be_named(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, BASE_CLASSES) and f"{cls.__module__}.".startswith(PACKAGES)


def _class_named(name: str) -> type:
    if name in _FORMER_NAMES:
        return _FORMER_NAMES[name]
    module, _, qualified = name.partition(":")
    if f"{module}.".startswith(PACKAGES):
        found: Any = sys.modules.get(module)
        for part in qualified.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, BASE_CLASSES):
            return found
    raise StorageError(
        f"a file may name networks, optimizers, policies, buffers and algorithms of {', '.join(PACKAGES)} "
        f"that have been imported, got {name!r}; pass that argument again, or import its module first"
    )


def to_json(value: Any, name: str) -> Any:
    """
    :param value: Numbers, text, lists, tuples, dicts, arrays, objects of registered types, and classes that a file
        may name
    :param name: Name of the value, for the error message
    :return: The value as ``json`` can write it. :func:`from_json` makes an equal value of it.
    :raises NotStorableError: if it is, or contains, anything else
    """
    if isinstance(value, np.generic):
        value = _plain(value)
    if value is None or type(value) in (bool, str):
        return value
    if isinstance(value, np.generic) and _is_plain(value.dtype):
        return {"$scalar": [value.dtype.str, base64.b64encode(value.tobytes()).decode("ascii")]}
    if type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    registered = _registered_name(type(value))
    if registered is not None:
        return {f"${registered}": [to_json(argument, name) for argument in _TYPES[registered].to_arguments(value)]}
    if type(value) is list:
        return [to_json(item, name) for item in value]
    if type(value) is tuple:
        return {"$tuple": [to_json(item, name) for item in value]}
    if isinstance(value, Mapping):
        items = {key: to_json(item, f"{name}[{key!r}]") for key, item in value.items()}
        return items if _are_names(items) else _pairs(items, name)
    if isinstance(value, np.ndarray) and _is_plain(value.dtype):
        data = base64.b64encode(value.tobytes()).decode("ascii")
        return {"$array": [value.dtype.str, list(value.shape), data]}
    if _may_be_named(value):
        return {"$class": name_of(value)}
    if isinstance(value, str):  # a subclass
        return str.__str__(value)
    raise NotStorableError(
        f"{name} cannot be saved without pickle, got {value!r} ({type(value).__name__}). Allowed are numbers, text, "
        f"lists, dicts, arrays, SB3's schedules and action noise, decays, and classes of {', '.join(PACKAGES)}"
    )


def _is_plain(dtype: np.dtype) -> bool:
    return dtype.kind in ARRAY_KINDS and dtype.itemsize > 0


def _plain(scalar: np.generic) -> Any:
    """A Python number or text that is equal to a NumPy scalar, or the scalar itself if there is none."""
    if scalar.dtype.kind == "f":
        return float(scalar)  # item() of a long double is one again
    return scalar.item() if scalar.dtype.kind in "biuU" else scalar


def _registered_name(cls: type) -> str | None:
    if cls in _NAMES_OF_TYPES or not issubclass(cls, spaces.Space):
        return _NAMES_OF_TYPES.get(cls)
    # A space of a user's class equals the one that it derives from, which is saved in its place
    return next((_NAMES_OF_TYPES[base] for base in cls.__mro__ if base in _NAMES_OF_TYPES), None)


def infos_to_json(infos: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    """
    :param infos: What environments report: dicts that may hold anything
    :param name: What they are, for the warning
    :return: The dicts as JSON. Items that cannot be saved are left out, with a warning for each key.
    """
    left_out: dict[Any, str] = {}
    saved = []
    for info in infos:
        kept = {}
        for key, value in info.items():
            try:
                to_json(key, name)
                kept[key] = to_json(value, f"{name}[{key!r}]")
            except NotStorableError:
                left_out.setdefault(key, type(value).__name__)
        saved.append(kept if _are_names(kept) else _pairs(kept, name))
    for key, type_name in left_out.items():
        warn(
            f"{name}[{key!r}] is left out, as a {type_name} cannot be saved without pickle: report numbers, text, "
            "lists, dicts or arrays"
        )
    return saved


def _are_names(keys: Iterable[Any]) -> bool:
    """Whether a dict with these keys can be one in JSON, where a ``$`` marks other types."""
    return all(type(key) is str and not key.startswith("$") for key in keys)


def _pairs(saved: Mapping[Any, Any], name: str) -> dict[str, Any]:
    return {"$dict": [[to_json(key, name), item] for key, item in saved.items()]}


def from_json(value: Any) -> Any:
    """
    :param value: What :func:`to_json` returned
    :return: The value
    :raises StorageError: if :func:`to_json` cannot have returned it
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: from_json(item) for key, item in value.items()}
    try:
        return _from_tagged(tag, value[tag])
    except StorageError:
        raise
    except CONSTRUCTION_ERRORS as error:
        raise StorageError(f"{value!r:.200} does not describe a known value: {error}") from error


def _from_tagged(tag: str, content: Any) -> Any:
    if tag == "$float":
        return float(content)
    if tag == "$tuple":
        return tuple(from_json(content))
    if tag == "$dict":
        return {from_json(key): from_json(item) for key, item in content}
    if tag == "$array":
        dtype, shape, data = content
        return np.frombuffer(base64.b64decode(data), _array_type(dtype)).reshape(shape).copy()
    if tag == "$scalar":
        dtype, data = content
        return np.frombuffer(base64.b64decode(data), _array_type(dtype)).reshape(())[()]
    if tag == "$class":
        return _class_named(content)
    if tag[1:] not in _TYPES:
        raise StorageError(f"{tag!r} is not a known type; known are {', '.join(_TYPES)}")
    return _TYPES[tag[1:]].make(*from_json(content))


def _array_type(name: Any) -> np.dtype:
    dtype = np.dtype(name)
    if not _is_plain(dtype):
        raise StorageError(f"the elements of an array must be booleans, numbers, dates or text, got {name!r}")
    return dtype


def arguments_to_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param arguments: Keyword arguments
    :return: Each of them as JSON. An argument that cannot be saved is replaced by the reason.
    """
    saved: dict[str, Any] = {}
    for name, value in arguments.items():
        try:
            saved[name] = to_json(value, name)
        except NotStorableError as error:
            saved[name] = {"$missing": str(error)}
    return saved


def arguments_from_json(saved: Mapping[str, Any], given: Mapping[str, Any], call: str) -> dict[str, Any]:
    """
    :param saved: What :func:`arguments_to_json` returned
    :param given: Arguments that override those saved
    :param call: The function that the user calls, for the error message
    :return: The keyword arguments
    :raises MissingArgumentError: if an argument could not be saved and is not given
    """
    arguments = dict(given)
    for name, value in saved.items():
        if name in given:
            continue
        if isinstance(value, dict) and "$missing" in value:
            raise MissingArgumentError(f"{name} must be given again, {call}(..., {name}=...): {value['$missing']}")
        arguments[name] = from_json(value)
    return arguments


def check_generator(state: Any) -> None:
    """
    :param state: The state of a random bit generator of NumPy from a file
    :raises StorageError: if its position is outside of its numbers, which NumPy would read without a check
    """
    inside = [state, state.get("state")] if isinstance(state, Mapping) else []
    for part in inside:
        for name, last in (("pos", 624), ("buffer_pos", 4)):
            if isinstance(part, Mapping) and name in part and not (type(part[name]) is int and 0 <= part[name] <= last):
                raise StorageError(f"the state of a random generator has {name}={part[name]!r:.100}, not 0 to {last}")


def _dtype_name(dtype: Any) -> str:
    return np.dtype(dtype).name


def _dtype_named(name: str) -> Any:
    return np.dtype(name).type


def _bound(bound: np.ndarray) -> Any:
    # Equal bounds are saved once: those of an image are as large as the image
    return bound.flat[0] if bound.size > 0 and (bound == bound.flat[0]).all() else bound


def _check_size(shape: Any) -> None:
    """Before anything of that size is made."""
    sizes = np.atleast_1d(np.asarray(shape, np.int64)).tolist()
    if min(sizes, default=0) < 0 or math.prod(sizes) > LARGEST_SPACE:
        raise StorageError(f"a space must have at most {LARGEST_SPACE} elements, got the shape {shape!r:.100}")


def _make_box(low: Any, high: Any, shape: list[int], dtype: str) -> spaces.Box:
    _check_size(shape)
    low, high = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in (low, high))
    return spaces.Box(low, high, dtype=_dtype_named(dtype))


def _make_multi_binary(n: Any) -> spaces.MultiBinary:
    _check_size(n)
    return spaces.MultiBinary(n)


register_type(
    "box", spaces.Box, lambda s: [_bound(s.low), _bound(s.high), list(s.shape), _dtype_name(s.dtype)], _make_box
)
register_type(
    "discrete",
    spaces.Discrete,
    lambda s: [int(s.n), int(s.start), _dtype_name(s.dtype)],
    lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=_dtype_named(dtype)),
)
register_type(
    "multi_discrete",
    spaces.MultiDiscrete,
    lambda s: [s.nvec, s.start, _dtype_name(s.dtype)],
    lambda nvec, start, dtype: spaces.MultiDiscrete(nvec, dtype=_dtype_named(dtype), start=start),
)
register_type("multi_binary", spaces.MultiBinary, lambda s: [s.n], _make_multi_binary)
register_type(
    "dict_space",
    spaces.Dict,
    lambda s: [[list(item) for item in s.spaces.items()]],
    lambda items: spaces.Dict(OrderedDict(items)),  # of a dict it would sort the keys
)
register_type("linear_schedule", LinearSchedule, lambda s: [s.start, s.end, s.end_fraction])
register_type("constant_schedule", ConstantSchedule, lambda s: [s.val])
register_type("float_schedule", FloatSchedule, lambda s: [s.value_schedule])
# SB3 takes the tuple and makes a TrainFreq of it
register_type("train_freq", TrainFreq, lambda f: [f.frequency, f.unit.value], lambda frequency, unit: (frequency, unit))
register_type(
    "goal_selection_strategy", GoalSelectionStrategy, lambda s: [s.name], lambda name: GoalSelectionStrategy[name]
)
register_type(
    "normal_action_noise",
    NormalActionNoise,
    lambda n: [n._mu, n._sigma, _dtype_name(n._dtype)],
    lambda mean, sigma, dtype: NormalActionNoise(mean, sigma, _dtype_named(dtype)),
)
register_type(
    "ou_action_noise",
    OrnsteinUhlenbeckActionNoise,
    lambda n: [n._mu, n._sigma, n._theta, n._dt, n.initial_noise, _dtype_name(n._dtype)],
    lambda mean, sigma, theta, dt, initial, dtype: OrnsteinUhlenbeckActionNoise(
        mean, sigma, theta, dt, initial, _dtype_named(dtype)
    ),
)
register_type("vectorized_action_noise", VectorizedActionNoise, lambda n: [n.base_noise, n.n_envs])
