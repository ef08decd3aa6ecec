"""What runs in an actor: a worker that hosts several environments and steps them in one call."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.vec_env.ray_monitor_files import continued_monitor_files
from sb3_reptile.vec_env.threaded_vec_env import CallingThread, ThreadedVecEnv

# Observations by key (None unless the space is Dict or Tuple)
Obs = dict[Any, np.ndarray]
# Observations, rewards, dones, infos, and the reset infos of the environments that are done
Step = tuple[Obs, np.ndarray, np.ndarray, list[dict[str, Any]], dict[int, dict[str, Any]]]

# Bytes of observations up to which all travels in one pickle, which costs less than arrays in Ray's object store
SMALL = 32 * 1024
# Bytes of a message in a channel, at most: Ray enlarges its buffers for more, and keeps the old ones
LARGEST_MESSAGE = 900_000


def unpack(packed: bytes | tuple[Obs, bytes]) -> Step:
    """
    :param packed: What :meth:`EnvWorker.step` returns
    :return: The step
    """
    if isinstance(packed, bytes):
        return cloudpickle.loads(packed)
    obs, others = packed
    return (obs, *cloudpickle.loads(others))


class EnvironmentInterruptedError(Exception):
    """An environment has raised ``KeyboardInterrupt``, which would look to Ray as if the call had been cancelled."""


class EnvironmentFailedError(RuntimeError):
    """
    Stands in for an exception of an environment that cannot be unpickled. Its text has the class, the text and the
    traceback of that exception.
    """


def _can_be_sent(error: Exception) -> bool:
    try:
        return str(cloudpickle.loads(cloudpickle.dumps(error))) == str(error)
    except Exception:  # classes of users raise any
        return False


def _called(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt as error:
        raise EnvironmentInterruptedError(*error.args) from error
    except Exception as error:
        if _can_be_sent(error):
            raise
        raised = "".join(traceback.format_exception(error))
        raise EnvironmentFailedError(f"{type(error).__name__}: {error}\n\n{raised}") from error


class EnvWorker:
    """
    Hosts environments in SB3's ``DummyVecEnv``, from which it has all of its behaviour, or in a
    :class:`~sb3_reptile.vec_env.threaded_vec_env.ThreadedVecEnv`. Observations travel as arrays;
    the rest travels pickled, because arrays from Ray's object store cannot be written to.

    Steps that come through a :class:`~sb3_reptile.vec_env.ray_channel.StepChannel` arrive in another thread than the
    other calls. Therefore all of them are done in a third one, unless the environments have only the main thread.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | CallingThread = CallingThread()
        # The last step that came through the channel, and its number
        self._step: Future[bytes]
        self._n_steps, self._lock = 0, threading.Lock()

    def _do(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._thread.submit(_called, function, *args).result()

    def build(self, env_fns: bytes, n_threads: int, is_restarted: bool) -> bytes:
        """
        :param env_fns: Pickled functions that make the environments
        :param n_threads: Number of threads that share them
        :param is_restarted: Whether environments like these have been lost, whose Monitor files are to be continued
        :return: Observation space, action space and metadata, pickled
        """
        fns = cloudpickle.loads(env_fns)
        n_threads = min(n_threads, len(fns))
        in_threads = partial(ThreadedVecEnv, n_threads=n_threads)
        if n_threads > 1:
            self._thread = ThreadPoolExecutor(1)
        with continued_monitor_files() if is_restarted else contextlib.nullcontext():
            self._envs: DummyVecEnv = self._do(in_threads if n_threads > 1 else DummyVecEnv, fns)
        return cloudpickle.dumps((self._envs.observation_space, self._envs.action_space, self._envs.metadata))

    def reset(self, seeds: Sequence[int | None], options: bytes) -> tuple[Obs, bytes]:
        """
        :param seeds: Seed of each environment
        :param options: Options of each environment, pickled
        :return: Observations, shape (n, ...) each, and the pickled list of reset infos
        """
        self._envs._seeds, self._envs._options = list(seeds), cloudpickle.loads(options)
        self._do(self._envs.reset)
        return dict(self._envs.buf_obs), cloudpickle.dumps(self._envs.reset_infos)

    def step(self, pickled_actions: bytes) -> bytes | tuple[Obs, bytes]:
        """
        :param pickled_actions: Actions, shape (n, ...), pickled: environments may write into them
        :return: The step for :func:`unpack`, in which large observations are separate
        """
        obs, *others = self._do(self._stepped, pickled_actions)
        if sum(array.nbytes for array in obs.values()) <= SMALL:
            return cloudpickle.dumps((obs, *others))
        return obs, cloudpickle.dumps(others)

    def _stepped(self, pickled_actions: bytes) -> Step:
        _, rewards, dones, infos = self._envs.step(cloudpickle.loads(pickled_actions))
        resets = {index: self._envs.reset_infos[index] for index in np.flatnonzero(dones).tolist()}
        return dict(self._envs.buf_obs), rewards, dones, infos, resets

    def begin_step(self, number: int, pickled_actions: bytes) -> Future[bytes]:
        """
        Begin a step that was sent through the channel, unless it has begun: a message may arrive late, or never.

        :param number: Number of the step among those sent through the channel, from 1
        :param pickled_actions: Actions, shape (n, ...), pickled
        :return: What becomes the step, pickled as a whole: arrays in a channel last until the next message
        """
        with self._lock:
            if number > self._n_steps:
                self._step = self._thread.submit(_called, lambda: cloudpickle.dumps(self._stepped(pickled_actions)))
                self._n_steps = number
            return self._step

    def step_in_channel(self, message: bytes) -> bytes:
        """
        :param message: Number of the step, as 8 bytes, and the pickled actions
        :return: The step; nothing if it is large, and has to be asked for with :meth:`result_of_step`
        """
        step = self.begin_step(int.from_bytes(message[:8], "big"), message[8:]).result()
        return step if len(step) < LARGEST_MESSAGE else b""

    def await_step(self, number: int, pickled_actions: bytes) -> None:
        """The calls that follow are done after this step; see :meth:`begin_step`."""
        self.begin_step(number, pickled_actions)

    def result_of_step(self, number: int, pickled_actions: bytes) -> bytes:
        """What this step returns; see :meth:`begin_step`."""
        return self.begin_step(number, pickled_actions).result()

    def node_id(self) -> str:
        """Ray's identifier of the machine on which it runs."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def call(self, method: str, arguments: bytes) -> bytes:
        """
        :param method: Method of ``VecEnv``
        :param arguments: Its positional and keyword arguments, pickled
        :return: What it returns for each of the ``indices`` among them, pickled
        """
        args, kwargs = cloudpickle.loads(arguments)
        results = self._do(partial(getattr(self._envs, method), *args, **kwargs))
        return cloudpickle.dumps([None] * len(kwargs["indices"]) if results is None else results)

    def close(self) -> None:
        """Close the environments."""
        self._do(self._envs.close)

    def restore(self, attributes: Mapping[int, Mapping[str, bytes]]) -> None:
        """
        :param attributes: Pickled values that attributes were set to, by environment, in this order
        """
        for index, values in attributes.items():
            for name, value in values.items():
                self.call("set_attr", cloudpickle.dumps(((name, cloudpickle.loads(value)), {"indices": [index]})))
