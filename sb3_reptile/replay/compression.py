"""How transitions are written: without what follows from the rest. It is exact, bit for bit."""

from collections.abc import Mapping

import numpy as np

from sb3_reptile.storage import StorageError

# Added to the name of an array: one bit for each transition or element, packed
EXPLICIT, BITS = ":explicit", ":bits"


def encode(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    A next observation is left out where it is the observation of the following row, numbers that are all 0 or 1 become
    bits, and integers of no more bytes than they need.

    :param arrays: Arrays of successive rows, C-contiguous, each of shape (rows, n_envs, ...), by name;
        ``observations.position`` in a dict
    :return: Arrays that say the same in fewer bytes
    """
    encoded: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        observations = arrays.get(_observations_of(name))
        if observations is not None and name + EXPLICIT not in arrays:
            explicit = _differs_from_following(array, observations)
            encoded[name] = _transitions(array)[explicit]
            encoded[name + EXPLICIT] = np.packbits(explicit)
        elif array.dtype.kind == "f" and array.ndim == 2 and name + BITS not in arrays and _is_binary(array):
            encoded[name + BITS] = np.packbits(array != 0)
        elif array.dtype.kind in "iu" and array.itemsize > 1 and array.size:
            smallest = np.result_type(np.min_scalar_type(array.min()), np.min_scalar_type(array.max()))
            encoded[name] = array.astype(smallest) if smallest.itemsize < array.itemsize else array
        else:
            encoded[name] = array
    return encoded


def decode(encoded: Mapping[str, np.ndarray], into: Mapping[str, np.ndarray]) -> None:
    """
    :param encoded: What :func:`encode` returned
    :param into: Arrays like those it was given, to be written into
    :raises StorageError: if it was given others
    """
    for name, array in into.items():
        # A key of a dict may end like a name that was added to
        if name + EXPLICIT in encoded and name + EXPLICIT not in into:
            observations = into.get(_observations_of(name))
            explicit = _unpack(encoded[name + EXPLICIT], array.shape[:2], name)
            given = encoded.get(name)
            if observations is None or given is None or len(given) != np.count_nonzero(explicit):
                raise StorageError(f"the saved replay buffer does not contain all of {name}")
            array[:-1] = observations[1:]
            flat = _transitions(array)
            _check(given, (len(given), *flat.shape[1:]), array.dtype, name)
            flat[explicit.ravel()] = given
        elif name + BITS in encoded and name + BITS not in into:
            array[...] = _unpack(encoded[name + BITS], array.shape, name)
        else:
            given = encoded.get(name)
            _check(given, array.shape, array.dtype, name)
            assert given is not None
            array[...] = given


def _observations_of(name: str) -> str:
    """The array whose following row holds the same as a rule; none but for next observations."""
    return name.removeprefix("next_") if name.startswith("next_observations") else ""


def _transitions(array: np.ndarray) -> np.ndarray:
    """Rows and environments as one axis."""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _differs_from_following(following: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """
    By their bytes, as NaN equals nothing and -0 equals 0.

    :return: For each transition, shape (rows * n_envs,); all of the last row, which no row follows
    """
    n_rows, n_envs = following.shape[:2]
    differs = np.ones(n_rows * n_envs, bool)
    n_bytes = following.itemsize * int(np.prod(following.shape[2:]))
    if n_rows < 2 or n_bytes == 0:
        return differs
    word = next(size for size in (8, 4, 2, 1) if n_bytes % size == 0)
    before = following[:-1].reshape(-1).view(f"u{word}")
    after = observations[1:].reshape(-1).view(f"u{word}")
    found = np.flatnonzero(before != after) // (n_bytes // word)
    differs[: (n_rows - 1) * n_envs] = False
    differs[found] = True
    return differs


def _is_binary(array: np.ndarray) -> bool:
    """Whether there is nothing but 0 and 1, and no -0."""
    words = array.view(f"u{array.itemsize}")
    zero, one = np.array([0, 1], array.dtype).view(words.dtype)
    return bool(((words == zero) | (words == one)).all())


def _unpack(bits: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    n_bits = int(np.prod(shape))
    _check(bits, ((n_bits + 7) // 8,), np.dtype(np.uint8), name)
    return np.unpackbits(bits, count=n_bits).reshape(shape).astype(bool)


def _check(saved: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    smaller = saved is not None and saved.dtype.kind in "iu" and dtype.kind in "iu" and np.can_cast(saved.dtype, dtype)
    if saved is None or saved.shape != shape or not (saved.dtype == dtype or smaller):
        found = "nothing" if saved is None else f"{saved.dtype} of shape {saved.shape}"
        raise StorageError(
            f"the saved replay buffer has {found} for {name} where {dtype} of shape {shape} is needed: "
            "it was made with other arguments"
        )
