"""Values come back from JSON as they were, and a file can name only known classes."""

import json
import os
import sys

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_reptile import DecayedReplayBuffer
from sb3_reptile.storage import MissingArgumentError, NotStorableError, StorageError, values
from sb3_reptile.storage.values import arguments_from_json, arguments_to_json, from_json, to_json
from tests.storage.corruption import Trap

EVIL = [
    {"$class": "os:system"},
    {"$class": "subprocess:Popen"},
    {"$class": "torch.nn.modules.module:Module.apply"},
    {"$class": "stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv"},
    {"$class": "torch.nn.modules:activation.torch._C"},
    {"$array": ["O", [1], "AAAAAAAAAAA="]},
    {"$array": ["|V8", [1], "AAAAAAAAAAA="]},
    {"$box": ["a", [], {}, "object"]},
    {"$linear": [{"horizon": "x"}]},
    {"$eval": ["1"]},
    {"$": 1},
    {"$dict": 3},
]


@pytest.mark.parametrize("evil", EVIL, ids=str)
def test_a_file_can_name_only_known_classes_and_types(evil):
    with pytest.raises(StorageError):
        from_json(evil)


def test_values_come_back_as_they_were():
    for value in [
        None, True, 3, 2.5, float("inf"), "text", [1, [2]], (1, (2.5, "x")), {"a": {"c": (2,)}}, {1: 2, "$a": 3},
        th.nn.ReLU, th.optim.RMSprop, spaces.Discrete(3, start=1), spaces.MultiBinary(4),
        spaces.MultiDiscrete([2, 3]), spaces.Box(-1, np.array([1, np.inf], np.float32), (2,)),
        spaces.Box(0, 255, (3, 8), np.uint8),
        spaces.Dict({"a": spaces.Box(-1, 1, (2, 2), np.float64), "b": spaces.Discrete(2)}),
    ]:  # fmt: skip
        saved = json.loads(json.dumps(to_json(value, "value"), allow_nan=False))
        assert from_json(saved) == value
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(from_json(to_json(array, "array")), array)
    for value in (print, lambda x: x, object(), np.array([object()]), Trap, os.system, sys):
        with pytest.raises(NotStorableError, match="it cannot be saved without pickle"):
            to_json(value, "it")


def test_a_dict_space_keeps_the_order_of_its_keys():
    space = spaces.Dict(speed=spaces.Discrete(2), image=spaces.Discrete(3))
    assert list(from_json(json.loads(json.dumps(to_json(space, "space"))))) == ["speed", "image"]


class Celsius:
    def __init__(self, degrees):
        if degrees < -273.15:
            raise ValueError("colder than anything")
        self.degrees = degrees


@pytest.fixture
def registered():
    values.register_type("celsius", Celsius, lambda value: [value.degrees])
    yield
    del values._TYPES["celsius"], values._NAMES_OF_TYPES[Celsius]


def test_a_registered_type_comes_back(registered):
    saved = to_json({"inside": Celsius(np.float64(3.5))}, "value")
    assert saved == {"inside": {"$celsius": [3.5]}}
    assert from_json(saved)["inside"].degrees == 3.5
    with pytest.raises(StorageError, match="does not describe a known value: colder than anything"):
        from_json({"$celsius": [-300]})

    class Warm(Celsius):
        """A subclass is another type."""

    with pytest.raises(NotStorableError):
        to_json(Warm(30), "it")


def test_a_name_is_registered_once(registered):
    values.register_type("celsius", Celsius, lambda value: [value.degrees])  # when its module is reloaded
    for name, owner in [("celsius", "Celsius"), ("box", "gymnasium.spaces.box:Box"), ("array", "a JSON tag")]:
        with pytest.raises(
            ValueError, match=rf"the name '{name}' is taken by .*{owner}: register .*Trap under another"
        ):
            values.register_type(name, Trap, lambda trap: [trap.path])


@pytest.mark.parametrize("name", values.RESERVED)
def test_reserved_names_cannot_be_registered(name):
    with pytest.raises(ValueError, match="is taken by a JSON tag"):
        values.register_type(name, Trap, lambda trap: [trap.path])


def test_a_class_that_was_moved_is_found_by_its_former_name(monkeypatch):
    monkeypatch.setattr(values, "_FORMER_NAMES", {})
    former = {"$class": "sb3_reptile.replay.no_such_module:Buffer"}
    with pytest.raises(StorageError, match=r"that have been imported, got .*no_such_module:Buffer"):
        from_json(former)
    values.register_former_name(former["$class"], DecayedReplayBuffer)
    assert from_json(former) is DecayedReplayBuffer
    with pytest.raises(ValueError, match=r"Trap is not a class that a file may name"):
        values.register_former_name("sb3_reptile.replay:Trap", Trap)


def test_arguments_that_cannot_be_saved_must_be_given():
    saved = json.loads(json.dumps(arguments_to_json({"size": 3, "function": print})))
    with pytest.raises(
        MissingArgumentError, match=r"function must be given again, load\(..., function=...\): function"
    ):
        arguments_from_json(saved, {}, "load")
    assert arguments_from_json(saved, {"function": max}, "load") == {"size": 3, "function": max}
    assert arguments_from_json(saved, {"function": max, "size": 4}, "load") == {"size": 4, "function": max}
