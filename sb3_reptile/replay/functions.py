"""Functions that users hand to a replay buffer, in a form that can be pickled with it."""

import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import cloudpickle


class _Nowhere(io.RawIOBase):
    """Takes what is pickled, which may be large, and keeps nothing of it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(memoryview(data))


def why_not_picklable(thing: Any, pickler: Any = pickle.Pickler) -> Exception | None:
    """
    :param thing: Anything
    :param pickler: The class that pickles
    :return: The error that pickling it raises, None if there is none
    """
    try:
        pickler(_Nowhere()).dump(thing)
    except Exception as error:
        return error
    return None


def pickled_function(function: Callable[..., Any]) -> Any:
    """
    :param function: A function
    :return: What stands for it in a pickle: itself if its module can be asked for it, else its code
    """
    if why_not_picklable(function) is None:
        return function
    return _ByValue(cloudpickle.dumps(function))


def unpickled_function(pickled: Any) -> Callable[..., Any]:
    """
    :param pickled: What :func:`pickled_function` returned
    :return: The function
    """
    return cloudpickle.loads(pickled.code) if isinstance(pickled, _ByValue) else pickled


class _ByValue:
    def __init__(self, code: bytes) -> None:
        self.code = code


def warn_if_not_picklable(**options: Any) -> None:
    """
    Say now what would end the first save with pickle, hours later.

    :param options: Options of a buffer that may hold functions or classes of the user's, by name
    """
    for name, option in options.items():
        error = why_not_picklable(option)
        if error is not None:
            warnings.warn(
                f"{name}={option!r} cannot be pickled ({error}): save_replay_buffer() and "
                "CheckpointCallback(save_replay_buffer=True) will fail. Define it at the top level of a module, "
                "without open files or locks, or save by ResumableCheckpoint or buffer.save()",
                stacklevel=4,
            )
