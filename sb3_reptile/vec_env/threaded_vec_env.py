"""SB3's ``DummyVecEnv`` whose environments step at the same time, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

# What a step returns, and what the reset after it or instead of it does
Outcome = tuple[Any, Any]


def _step(env: gym.Env, action: Any) -> Outcome:
    stepped = env.step(action)
    return stepped, env.reset() if stepped[2] or stepped[3] else None


def _reset(env: gym.Env, **kwargs: Any) -> Outcome:
    return None, env.reset(**kwargs)


class CallingThread:
    """Stands in for the executor of another thread: what is submitted is done at once, in the calling thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        outcome: Future[Any] = Future()
        try:
            outcome.set_result(function(*args, **kwargs))
        except BaseException as error:  # as executors do
            outcome.set_exception(error)
        return outcome


class Begun:
    """
    Stands in for an environment that already does what ``DummyVecEnv`` is about to ask for.

    :param outcome: What it does
    """

    def __init__(self, outcome: Future[Outcome]) -> None:
        self._outcome = outcome

    def step(self, action: Any) -> Any:
        return self._outcome.result()[0]

    def reset(self, **kwargs: Any) -> Any:
        return self._outcome.result()[1]


class ThreadedVecEnv(DummyVecEnv):
    """
    Environments that share threads, successive ones the same. Each is made, stepped and called in one thread only,
    because simulators and renderers may belong to a thread. All else is done by ``DummyVecEnv`` with their results.

    :param env_fns: Functions that make the environments
    :param n_threads: Number of threads, the calling one among them
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], n_threads: int) -> None:
        # The last environments are stepped when all others are under way, by the thread that would wait for them
        executors: list[ThreadPoolExecutor | CallingThread] = [
            *(ThreadPoolExecutor(1) for _ in range(n_threads - 1)),
            CallingThread(),
        ]
        self._executors = [executors[n_threads * index // len(env_fns)] for index in range(len(env_fns))]
        # One after another: what environments share while they are made may not be safe in threads
        super().__init__([partial(self._call, index, fn) for index, fn in enumerate(env_fns)])

    def _call(self, index: int, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function in the thread of an environment."""
        return self._executors[index].submit(function, *args, **kwargs).result()

    def step_wait(self) -> VecEnvStepReturn:
        envs = self.envs
        self.envs = [
            Begun(executor.submit(_step, env, action))  # type: ignore[misc]
            for executor, env, action in zip(self._executors, envs, self.actions, strict=True)
        ]
        try:
            return super().step_wait()
        finally:
            self.envs = envs

    def reset(self) -> VecEnvObs:
        envs = self.envs
        kwargs = [{"options": options} if options else {} for options in self._options]
        self.envs = [
            Begun(executor.submit(_reset, env, seed=seed, **others))  # type: ignore[misc]
            for executor, env, seed, others in zip(self._executors, envs, self._seeds, kwargs, strict=True)
        ]
        try:
            return super().reset()
        finally:
            self.envs = envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._call_each(indices, super().get_attr, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._call_each(indices, super().set_attr, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._call_each(indices, super().env_method, method_name, *method_args, **method_kwargs)

    def _call_each(self, indices: VecEnvIndices, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        results: list[Any] = []
        for index in self._get_indices(indices):
            results += self._call(index, method, *args, **kwargs, indices=[index]) or []
        return results

    def get_images(self) -> Sequence[np.ndarray | None]:
        if self.render_mode != "rgb_array":
            return super().get_images()  # which warns
        return [self._call(index, env.render) for index, env in enumerate(self.envs)]

    def close(self) -> None:
        for index, env in enumerate(self.envs):
            self._call(index, env.close)
