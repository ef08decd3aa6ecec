"""Transitions that are written without what follows from the rest come back bit for bit."""

import numpy as np
import pytest

from sb3_reptile.replay.compression import BITS, EXPLICIT, decode, encode
from sb3_reptile.storage import StorageError

SHAPES = {"a number": (), "floats": (8,), "three doubles": (3,), "images": (2, 5, 7), "nothing": (0,)}
DTYPES = ("float32", "float64", "float16", "uint8", "int64", "bool")
# What compares unlike its bytes
ODD = np.array([np.nan, -0.0, 0.0, np.inf, 1.0], "float32")


def stream(n_rows, n_envs, shape=(8,), dtype="float32", episode=7, seed=0):
    """Rows of environments whose episodes end at different times, as SB3 stores them."""
    generator = np.random.default_rng(seed)
    observations = generator.integers(0, 2 if dtype == "bool" else 100, (n_rows + 1, n_envs, *shape)).astype(dtype)
    next_observations = observations[1:].copy()
    dones = np.zeros((n_rows, n_envs), "float32")
    for env in range(n_envs):
        ends = np.arange(env, n_rows, episode)
        dones[ends, env] = 1
        last = generator.integers(0, 2 if dtype == "bool" else 100, (len(ends), *shape)).astype(dtype)
        next_observations[ends, env] = last
    return {
        "observations": observations[:-1].copy(),
        "next_observations": next_observations,
        "actions": generator.integers(0, 4, (n_rows, n_envs, 1)),
        "rewards": generator.normal(size=(n_rows, n_envs)).astype("float32"),
        "dones": dones,
        "timeouts": np.zeros((n_rows, n_envs), "float32"),
    }


def in_bytes(arrays):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


def decoded(encoded, like):
    into = {name: np.ones_like(array) for name, array in like.items()}
    decode(encoded, into)
    return into


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("n_rows", [1, 2, 50])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_was_encoded_comes_back_bit_for_bit(shape, dtype, n_rows, n_envs):
    arrays = stream(n_rows, n_envs, shape, dtype)
    encoded = encode(arrays)
    assert all(array.flags.c_contiguous for array in encoded.values())
    assert in_bytes(decoded(encoded, arrays)) == in_bytes(arrays)


@pytest.mark.parametrize("ending", [BITS, EXPLICIT, BITS + BITS, EXPLICIT + EXPLICIT])
@pytest.mark.parametrize("is_binary", [False, True])
def test_keys_that_end_like_names_that_are_added_to_come_back(is_binary, ending):
    arrays = {}
    for seed, key in enumerate(("x", f"x{ending}", "y")):
        arrays |= {f"{name}.{key}": array for name, array in stream(20, 2, (), seed=seed).items() if "obs" in name}
    if is_binary:
        arrays = {name: (array > 50).astype("float32") for name, array in arrays.items()}
    assert in_bytes(decoded(encode(arrays), arrays)) == in_bytes(arrays)


@pytest.mark.parametrize("name", ["observations", "next_observations", "rewards", "dones", "timeouts"])
def test_numbers_that_compare_unlike_their_bytes_come_back(name):
    for value in ODD:
        for other in ODD:
            arrays = stream(20, 2)
            arrays[name][3] = value
            arrays[name][4, 1] = other
            if name == "observations":  # the following observation, but for its bytes
                arrays["next_observations"][2] = other
            assert in_bytes(decoded(encode(arrays), arrays)) == in_bytes(arrays)


def test_dicts_and_buffers_without_next_observations():
    first, second = stream(30, 3, (4,)), stream(30, 3, (2, 2), "uint8", seed=1)
    of_dict = {
        "observations.x": first["observations"],
        "observations.next_observations": second["observations"],
        "next_observations.x": first["next_observations"],
        "next_observations.next_observations": second["next_observations"],
        "actions": first["actions"],
    }
    without = {name: array for name, array in first.items() if name != "next_observations"}
    for arrays in (of_dict, without):
        assert in_bytes(decoded(encode(arrays), arrays)) == in_bytes(arrays)
    encoded = encode(of_dict)
    assert len(encoded["next_observations.x"]) < 30
    assert len(encoded["next_observations.next_observations"]) < 30


def test_only_what_follows_from_nothing_is_written():
    arrays = stream(700, 2, (8,), episode=70)
    encoded = encode(arrays)
    assert len(encoded["next_observations"]) <= 2 * 10 + 2
    assert encoded["actions"].dtype == np.uint8
    assert encoded["dones" + BITS].nbytes == 175
    arrays["dones"][5, 1] = 0.5
    arrays["actions"][0] = -300
    encoded = encode(arrays)
    assert encoded["dones"] is arrays["dones"]
    assert encoded["actions"].dtype == np.int16
    assert in_bytes(decoded(encoded, arrays)) == in_bytes(arrays)


def test_integers_beyond_their_smaller_types_come_back():
    limits = [np.iinfo(dtype) for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")]
    for least in {int(limit.min) for limit in limits}:
        for largest in {int(limit.max) for limit in limits}:
            arrays = {"actions": np.array([[[least]], [[largest]]], "int64")}
            assert in_bytes(decoded(encode(arrays), arrays)) == in_bytes(arrays)


def test_arrays_as_they_are_can_be_decoded_too():
    arrays = stream(20, 2)
    assert in_bytes(decoded(arrays, arrays)) == in_bytes(arrays)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("next_observations", None),
        ("next_observations", np.zeros((3, 8), "float32")),
        ("next_observations", np.zeros((1, 4), "float32")),
        ("next_observations" + EXPLICIT, np.zeros(1, "uint8")),
        ("next_observations" + EXPLICIT, np.zeros(5, "uint8")),
        ("dones" + BITS, np.zeros(6, "uint8")),
        ("dones" + BITS, np.zeros(5, "int8")),
        ("dones" + BITS, None),
        ("actions", np.zeros((20, 2, 1), "uint64")),
        ("actions", np.zeros((20, 2, 1), "float32")),
        ("rewards", np.zeros((20, 2), "float64")),
        ("rewards", np.zeros((20, 2), "int8")),
        ("observations", np.zeros((20, 2, 9), "float32")),
    ],
)
def test_what_was_made_of_other_arrays_is_refused(name, value):
    arrays = stream(20, 2)
    encoded = encode(arrays)
    if value is None:
        del encoded[name]
    else:
        encoded[name] = value
    with pytest.raises(StorageError, match=r"saved replay buffer (has|does not contain all of)"):
        decoded(encoded, arrays)
