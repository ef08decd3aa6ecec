"""What runs in an actor: a worker that hosts several environments and steps them in one call."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import cloudpickle
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_reptile.vec_env.ray_monitor_files import continued_monitor_files

# Observations by key (None unless the space is Dict or Tuple), and pickled infos
Reset = tuple[dict[Any, np.ndarray], bytes]
Step = tuple[dict[Any, np.ndarray], np.ndarray, np.ndarray, bytes]


class EnvWorker:
    """
    Hosts environments in SB3's ``DummyVecEnv``, from which it has all of its behaviour. Observations travel as arrays;
    the rest travels pickled, because arrays from Ray's object store cannot be written to.
    """

    def build(self, env_fns: bytes, is_restarted: bool) -> bytes:
        """
        :param env_fns: Pickled functions that make the environments
        :param is_restarted: Whether environments like these have been lost, whose Monitor files are to be continued
        :return: Observation space, action space and metadata, pickled
        """
        with continued_monitor_files() if is_restarted else contextlib.nullcontext():
            self._envs = DummyVecEnv(cloudpickle.loads(env_fns))
        return cloudpickle.dumps((self._envs.observation_space, self._envs.action_space, self._envs.metadata))

    def reset(self, seeds: Sequence[int | None], options: bytes) -> Reset:
        """
        :param seeds: Seed of each environment
        :param options: Options of each environment, pickled
        :return: Observations, shape (n, ...) each, and the pickled list of reset infos
        """
        self._envs._seeds, self._envs._options = list(seeds), cloudpickle.loads(options)
        self._envs.reset()
        return dict(self._envs.buf_obs), cloudpickle.dumps(list(self._envs.reset_infos))

    def step(self, actions: Any) -> Step:
        """
        :param actions: Actions, shape (n, ...)
        :return: Observations, rewards, dones; infos and the reset infos of the environments that are done, pickled
        """
        # Environments may write into their action
        _, rewards, dones, infos = self._envs.step(np.array(actions) if isinstance(actions, np.ndarray) else actions)
        resets = {int(index): self._envs.reset_infos[index] for index in np.flatnonzero(dones)}
        return dict(self._envs.buf_obs), rewards, dones, cloudpickle.dumps((infos, resets))

    def call(self, method: str, arguments: bytes) -> bytes:
        """
        :param method: Method of ``VecEnv``
        :param arguments: Its positional and keyword arguments, pickled
        :return: What it returns, pickled
        """
        args, kwargs = cloudpickle.loads(arguments)
        return cloudpickle.dumps(getattr(self._envs, method)(*args, **kwargs))

    def restore(self, attributes: Mapping[int, Mapping[str, bytes]]) -> None:
        """
        :param attributes: Pickled values that attributes were set to, by environment, in this order
        """
        for index, values in attributes.items():
            for name, value in values.items():
                self._envs.set_attr(name, cloudpickle.loads(value), [index])
