"""What runs in an actor: a worker that hosts several environments and steps them in one call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import cloudpickle
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.vec_env.ray_monitor_files import continued_monitor_files

# Observations by key (None unless the space is Dict or Tuple)
Obs = dict[Any, np.ndarray]
# Observations, rewards, dones, infos, and the reset infos of the environments that are done
Step = tuple[Obs, np.ndarray, np.ndarray, list[dict[str, Any]], dict[int, dict[str, Any]]]

# Bytes of observations up to which all travels in one pickle, which costs less than arrays in Ray's object store
SMALL = 32 * 1024


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


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt as error:
        raise EnvironmentInterruptedError(*error.args) from error


class EnvThread:
    """
    Successive environments of a worker, in SB3's ``DummyVecEnv``, and the thread in which they are made, stepped and
    called: always the same one, because simulators and renderers may belong to a thread.

    :param part: Positions of the environments in the worker
    :param is_main: Whether it is the thread of the actor, so that no other is started
    """

    def __init__(self, part: range, is_main: bool) -> None:
        self.part = part
        self._executor = None if is_main else ThreadPoolExecutor(1)
        self.envs: DummyVecEnv

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """
        :param function: What to call in the thread, and its arguments
        :return: Its result
        """
        if self._executor is not None:
            return self._executor.submit(_called, function, *args, **kwargs)
        future: Future[Any] = Future()
        future.set_result(_called(function, *args, **kwargs))
        return future

    def build(self, env_fns: Sequence[Callable[[], Any]]) -> tuple[Any, ...]:
        """
        :param env_fns: Functions that make the environments of the worker
        :return: Observation space, action space and metadata
        """
        self.envs = DummyVecEnv([env_fns[position] for position in self.part])
        return self.envs.observation_space, self.envs.action_space, self.envs.metadata

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> None:
        """
        :param seeds: Seed of each environment of the worker
        :param options: Options of each environment of the worker
        """
        self.envs._seeds = [seeds[position] for position in self.part]
        self.envs._options = [options[position] for position in self.part]
        self.envs.reset()


class EnvWorker:
    """
    Hosts environments in SB3's ``DummyVecEnv``, from which it has all of its behaviour. Observations travel as arrays;
    the rest travels pickled, because arrays from Ray's object store cannot be written to.
    """

    def build(self, env_fns: bytes, n_threads: int, is_restarted: bool) -> bytes:
        """
        :param env_fns: Pickled functions that make the environments
        :param n_threads: Number of threads that share them
        :param is_restarted: Whether environments like these have been lost, whose Monitor files are to be continued
        :return: Observation space, action space and metadata, pickled
        """
        fns = cloudpickle.loads(env_fns)
        n_threads = min(n_threads, len(fns))
        bounds = [len(fns) * number // n_threads for number in range(n_threads + 1)]
        self._threads = [EnvThread(range(start, stop), n_threads == 1) for start, stop in pairwise(bounds)]
        with continued_monitor_files() if is_restarted else contextlib.nullcontext():
            # One after another: what environments share while they are made may not be safe in threads
            made = [thread.submit(thread.build, fns).result() for thread in self._threads]
        return cloudpickle.dumps(made[0])

    def reset(self, seeds: Sequence[int | None], options: bytes) -> tuple[Obs, bytes]:
        """
        :param seeds: Seed of each environment
        :param options: Options of each environment, pickled
        :return: Observations, shape (n, ...) each, and the pickled list of reset infos
        """
        all_options = cloudpickle.loads(options)
        _results([thread.submit(thread.reset, seeds, all_options) for thread in self._threads])
        infos = [info for thread in self._threads for info in thread.envs.reset_infos]
        return self._obs(), cloudpickle.dumps(infos)

    def step(self, pickled_actions: bytes) -> bytes | tuple[Obs, bytes]:
        """
        :param pickled_actions: Actions, shape (n, ...), pickled: environments may write into them
        :return: The step for :func:`unpack`, in which large observations are separate
        """
        actions = cloudpickle.loads(pickled_actions)
        futures = [
            thread.submit(thread.envs.step, actions[thread.part.start : thread.part.stop]) for thread in self._threads
        ]
        _, rewards, dones, infos = zip(*_results(futures), strict=True)
        resets = {
            thread.part[index]: thread.envs.reset_infos[index]
            for thread, of_thread in zip(self._threads, dones, strict=True)
            for index in np.flatnonzero(of_thread)
        }
        obs = self._obs()
        others = (np.concatenate(rewards), np.concatenate(dones), [info for part in infos for info in part], resets)
        if sum(array.nbytes for array in obs.values()) <= SMALL:
            return cloudpickle.dumps((obs, *others))
        return obs, cloudpickle.dumps(others)

    def _obs(self) -> Obs:
        if len(self._threads) == 1:
            return dict(self._threads[0].envs.buf_obs)
        all_obs = [thread.envs.buf_obs for thread in self._threads]
        return {key: np.concatenate([obs[key] for obs in all_obs]) for key in all_obs[0]}

    def call(self, method: str, arguments: bytes) -> bytes:
        """
        :param method: Method of ``VecEnv``
        :param arguments: Its positional and keyword arguments, pickled
        :return: What it returns, pickled: with ``indices`` for each of them, otherwise for the environments of each
            thread
        """
        args, kwargs = cloudpickle.loads(arguments)
        if "indices" not in kwargs:
            return cloudpickle.dumps(
                _results([thread.submit(getattr(thread.envs, method), *args, **kwargs) for thread in self._threads])
            )
        results: list[Any] = []
        for position in kwargs.pop("indices"):
            thread = next(thread for thread in self._threads if position in thread.part)
            indices = [position - thread.part.start]
            future = thread.submit(getattr(thread.envs, method), *args, **kwargs, indices=indices)
            results += future.result() or [None]
        return cloudpickle.dumps(results)

    def restore(self, attributes: Mapping[int, Mapping[str, bytes]]) -> None:
        """
        :param attributes: Pickled values that attributes were set to, by environment, in this order
        """
        for index, values in attributes.items():
            for name, value in values.items():
                self.call("set_attr", cloudpickle.dumps(((name, cloudpickle.loads(value)), {"indices": [index]})))


def _results(futures: Sequence[Future[Any]]) -> list[Any]:
    """Results of all threads, or the first exception; another thread finishes its call before its next one."""
    return [future.result() for future in futures]
