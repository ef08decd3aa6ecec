"""Attributes and methods of environments on a Ray cluster, as SB3's ``VecEnv`` gives access to them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from sb3_reptile.vec_env.ray_calls import Worker
from sb3_reptile.vec_env.ray_workers import Workers


class RemoteAttributes(VecEnv):
    """
    The part of :class:`~sb3_reptile.vec_env.RayVecEnv` that reaches into the environments.
    """

    workers: Workers
    _closed: bool

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the environments have been closed: make new ones")

    def get_images(self) -> Sequence[np.ndarray | None]:
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"get_images() needs environments with render_mode='rgb_array', these have {self.render_mode!r}",
                stacklevel=2,
            )
            return [None] * self.num_envs
        return self.env_method("render")

    def has_attr(self, attr_name: str) -> bool:
        """Check if an attribute exists for a vectorized environment (see base class)."""
        return all(self.env_method("has_wrapper_attr", attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return attribute from vectorized environment (see base class)."""
        return self._call(indices, "get_attr", attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set attribute inside vectorized environments (see base class). It is set again where a worker is lost."""
        indices = list(self._get_indices(indices))
        self._call(indices, "set_attr", attr_name, value)
        pickled = cloudpickle.dumps(value)
        for index in indices:
            worker, position = self.workers.find(index)
            values = worker.attributes.setdefault(position, {})
            values.pop(attr_name, None)
            values[attr_name] = pickled

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call instance methods of vectorized environments (see base class)."""
        return self._call(indices, "env_method", method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Check if the environments are wrapped with a given wrapper (see base class)."""
        return self._call(indices, "env_is_wrapped", wrapper_class)

    def _call(self, indices: VecEnvIndices, method: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of ``VecEnv`` that takes ``indices``, in the workers of these environments."""
        self._check_open()
        wanted = [self.workers.find(index) for index in self._get_indices(indices)]
        places: dict[int, list[int]] = {}
        for place, (worker, _) in enumerate(wanted):
            places.setdefault(worker.indices.start, []).append(place)
        calls: list[tuple[Worker, str, tuple[Any, ...]]] = []
        for in_worker in places.values():
            positions = [wanted[place][1] for place in in_worker]
            arguments = cloudpickle.dumps((args, {**kwargs, "indices": positions}))
            calls.append((wanted[in_worker[0]][0], "call", (method, arguments)))
        results: list[Any] = [None] * len(wanted)
        for in_worker, pickled in zip(places.values(), self.workers.call_all(calls), strict=True):
            for place, result in zip(in_worker, cloudpickle.loads(pickled), strict=True):
                results[place] = result
        return results
