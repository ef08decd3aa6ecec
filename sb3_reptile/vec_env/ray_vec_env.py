"""SB3's ``VecEnv`` whose environments live on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info

from sb3_reptile.replay.checks import check_whole_number
from sb3_reptile.replay.episodes import LOST
from sb3_reptile.vec_env.ray_attributes import RemoteAttributes
from sb3_reptile.vec_env.ray_calls import Call, Worker
from sb3_reptile.vec_env.ray_cluster import connect, disconnect, import_ray
from sb3_reptile.vec_env.ray_worker import unpack
from sb3_reptile.vec_env.ray_workers import Workers, actor_options


class RayVecEnv(RemoteAttributes):
    """
    Environments on a Ray cluster, several per worker; a drop-in for SB3's ``SubprocVecEnv``::

        env = make_vec_env("CartPole-v1", n_envs=16, vec_env_cls=RayVecEnv, vec_env_kwargs=dict(envs_per_worker=4))

    A worker is an actor. It makes its environments, steps them one after another or in threads, and returns one array
    for all of them; the workers run in parallel. Rewards, observations and infos are those of ``DummyVecEnv``.
    Environment ``index`` has the seed ``seed + index``, in every worker.

    **Lost workers.** If an actor or its node dies, the worker is started again where Ray finds room, after a pause.
    Attributes that were set with ``set_attr`` are set again, and each environment is reset with the seed ``seed + index
    + k * n_envs`` in the k-th restart, so that it does not repeat itself. The step that was under way has an unknown
    outcome. It is delivered as the end of an episode that a time limit cuts off: reward 0, the last good observation
    as ``terminal_observation``, and ``info["RayVecEnv.lost"]``. SB3's replay buffers store it like this; those of this
    package leave the row out. A worker that does not return within ``call_timeout`` is ended, and counts as lost. What
    else a method of an environment has changed is lost. Exceptions that an environment raises are raised here, also
    ``KeyboardInterrupt``.

    The environments must be the same on all nodes: Python, packages and files.

    :param env_fns: Functions that make the environments, picklable by cloudpickle
    :param envs_per_worker: Number of environments of each worker
    :param resources: What a worker needs, by Ray's names of resources; ``{"CPU": 1}`` unless given. The workers of a
        Ray that is started here share the processors instead
    :param address: Address of the cluster: ``HOST:PORT``, ``ray://HOST:10001``, ``auto``, or ``local`` for a Ray on
        this machine, which ends with the environments. ``None``: ``RAY_ADDRESS``, or else ``local``
    :param max_restarts: Number of times that each worker is started again
    :param backoff: Seconds of the pause before a worker's first restart, doubled for each further one, up to 60
    :param start_timeout: Seconds within which a worker must start
    :param asynchronous: Do not wait for the slowest environments; see
        :class:`~sb3_reptile.vec_env.ray_asynchronous.AsynchronousRayVecEnv`
    :param max_delay: With ``asynchronous``: the number of updates that the policy in use by a worker may be old
    :param threads_per_worker: Number of threads of each worker, which share its environments; for environments that
        wait for something else, such as a simulator. Each environment is made and stepped in one thread, and draws from
        its own generator, so that results do not depend on it; the environments must be safe in threads. With one
        thread, it is the main thread of the worker; with more, it is another one, and on this machine steps do not
        go through Ray's scheduler, which takes less time
    :param call_timeout: Seconds within which a step, a reset or another call of a worker must return; one that takes
        longer counts as lost. ``None``: no limit, and a warning after a minute
    :raises ImportError: if Ray is not installed
    :raises ConnectionError: if there is no cluster at this address
    :raises WorkersLostError: if the workers do not start, or if one is lost more often than ``max_restarts``
    :raises ValueError: if an argument has a value that is not allowed
    """

    def __new__(cls, *args: Any, asynchronous: bool = False, **kwargs: Any) -> RayVecEnv:
        if asynchronous and cls is RayVecEnv:
            from sb3_reptile.vec_env.ray_asynchronous import AsynchronousRayVecEnv

            cls = AsynchronousRayVecEnv
        return super().__new__(cls)

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        envs_per_worker: int = 1,
        resources: Mapping[str, float] | None = None,
        address: str | None = None,
        max_restarts: int = 5,
        backoff: float = 1.0,
        start_timeout: float = 300.0,
        asynchronous: bool = False,
        max_delay: int | None = None,
        threads_per_worker: int = 1,
        call_timeout: float | None = None,
    ) -> None:
        env_fns = list(env_fns)
        _check_arguments(
            env_fns, envs_per_worker, threads_per_worker, max_restarts, backoff, start_timeout, call_timeout
        )
        if max_delay is not None and not asynchronous:
            raise ValueError(f"max_delay needs asynchronous=True, got max_delay={max_delay!r} without it")
        if asynchronous:
            self._check_is_asynchronous()
        actor_options(resources)  # an error before anything starts
        self._connection = connect(address)
        self._closed = False
        try:
            # On one machine they share the processors, as those of SubprocVecEnv do
            options = actor_options(resources, num_cpus=0 if self._connection.is_local else 1)
            self._make(
                Workers(
                    import_ray(),
                    env_fns,
                    envs_per_worker,
                    threads_per_worker,
                    options,
                    max_restarts,
                    backoff,
                    start_timeout,
                    call_timeout,
                    # What comes through a channel does not reach the main thread of a worker
                    in_channels=threads_per_worker > 1 and not asynchronous,
                )
            )
        except BaseException:
            self.close()
            raise

    def _check_is_asynchronous(self) -> None:
        if type(self) is RayVecEnv:
            raise ValueError("asynchronous=True must be given by name")
        raise ValueError(
            f"{type(self).__name__} cannot be asynchronous: derive it from "
            "sb3_reptile.vec_env.ray_asynchronous.AsynchronousRayVecEnv"
        )

    def _make(self, workers: Workers) -> None:
        self.workers = workers
        observation_space, action_space, metadata = cloudpickle.loads(workers.start())
        self._keys, self._shapes, self._dtypes = obs_space_info(observation_space)
        #: Number of transitions that were under way when their worker was lost
        self.n_lost = 0
        self._pending: dict[int, Call | None] = {}
        super().__init__(self._n_at_once(), observation_space, action_space)
        self.metadata = metadata

    def _n_at_once(self) -> int:
        """Number of environments that are stepped at once, ``num_envs``."""
        return self.workers.n_envs

    @property
    def before_failure(self) -> list[Callable[[], None]]:
        """Functions that are called before the error that says that a worker was lost too often."""
        return self.workers.before_failure

    def log_values(self) -> dict[str, float]:
        """
        :return: What callbacks and ``ReptileDQN`` log: restarts of workers and lost transitions so far
        """
        return {"workers/restarts": self.workers.n_restarts, "workers/lost_transitions": self.n_lost}

    def reset(self) -> VecEnvObs:
        self._reset_workers()
        return self._stack(self.workers.all)

    def _reset_workers(self) -> None:
        """Reset all environments."""
        self._check_open()
        # Steps that are under way are cancelled: their results are not wanted
        self._pending.clear()
        calls: list[tuple[Worker, str, tuple[Any, ...]]] = []
        for worker in self.workers.all:
            seeds = [self._seeds[index] for index in worker.indices]
            worker.seeds = [old if new is None else new for old, new in zip(worker.seeds, seeds, strict=True)]
            options = cloudpickle.dumps([self._options[index] for index in worker.indices])
            calls.append((worker, "reset", (seeds, options)))
        for worker, (obs, reset_infos) in zip(self.workers.all, self.workers.call_all(calls), strict=True):
            worker.obs, worker.fresh = obs, None
            self._set_reset_infos(worker, dict(enumerate(cloudpickle.loads(reset_infos))))
        # Seeds and options are only used once
        self._reset_seeds()
        self._reset_options()

    def step_async(self, actions: np.ndarray) -> None:
        self._check_open()
        if len(actions) != self.num_envs:
            raise ValueError(f"actions must be those of {self.num_envs} environments, got {len(actions)}")
        for worker in self.workers.all:
            self._send(worker, actions[worker.indices.start : worker.indices.stop])

    def _send(self, worker: Worker, actions: Any) -> None:
        # Of a worker that was started again since, the episode that the actions belong to is lost
        call = None if worker.fresh is not None else self.workers.submit(worker, "step", cloudpickle.dumps(actions))
        self._pending[worker.indices.start] = call

    def step_wait(self) -> VecEnvStepReturn:
        self._check_begun(self.workers.all)
        return self._receive(self.workers.all)

    def _check_begun(self, workers: Sequence[Worker]) -> None:
        self._check_open()
        if not workers or not all(worker.indices.start in self._pending for worker in workers):
            raise ValueError("step_wait() returns what step_async() has begun: call step_async() before")

    def _receive(self, workers: Sequence[Worker]) -> VecEnvStepReturn:
        """Wait for the steps of workers; start those again that are lost."""
        pending = [self._pending.pop(worker.indices.start) for worker in workers]
        # A worker that was started again since has lost its step
        calls = [call for call in pending if call is not None and call.worker.fresh is None]
        fetched = self.workers.fetch_all(calls)
        results = {call.worker.indices.start: result for call, result in zip(calls, fetched, strict=True)}
        self.workers.restart([call.worker for call in calls if results[call.worker.indices.start] is None])
        n = sum(len(worker.indices) for worker in workers)
        rewards, dones, infos = np.zeros(n, np.float32), np.ones(n, bool), []
        start = 0
        for worker in workers:
            part = slice(start, start := start + len(worker.indices))
            if worker.fresh is not None:
                infos += self._lost_infos(worker)
                continue
            (result,) = results[worker.indices.start]  # type: ignore[misc]
            worker.obs, rewards[part], dones[part], new_infos, resets = unpack(result)
            infos += new_infos
            self._set_reset_infos(worker, resets)
        return self._stack(workers), rewards, dones, infos

    def _lost_infos(self, worker: Worker) -> list[dict[str, Any]]:
        """The infos of the transitions that a lost worker had under way; its observations are those after a restart."""
        assert worker.fresh is not None
        infos = []
        for position in range(len(worker.indices)):
            last = {key: np.array(array[position]) for key, array in worker.obs.items()}
            obs = dict_to_obs(self.observation_space, last)
            infos.append({"TimeLimit.truncated": True, "terminal_observation": obs, LOST: True})
        self.n_lost += len(infos)
        (worker.obs, reset_infos), worker.fresh = worker.fresh, None
        self._set_reset_infos(worker, dict(enumerate(cloudpickle.loads(reset_infos))))
        return infos

    def _set_reset_infos(self, worker: Worker, reset_infos: Mapping[int, dict[str, Any]]) -> None:
        for position, info in reset_infos.items():
            self.reset_infos[worker.indices[position]] = info

    def _stack(self, workers: Sequence[Worker]) -> VecEnvObs:
        """The last observations of workers, in new arrays of shape (n, ...)."""
        n = sum(len(worker.indices) for worker in workers)
        arrays: dict[Any, np.ndarray] = {}
        for key in self._keys:
            arrays[key] = np.empty((n, *self._shapes[key]), self._dtypes[key])
            np.concatenate([worker.obs[key] for worker in workers], out=arrays[key])
        return dict_to_obs(self.observation_space, arrays)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            # After ray.shutdown() there are no workers, and Ray may be another one
            if hasattr(self, "workers") and self._connection.is_up():
                self.workers.stop()
        finally:
            disconnect(self._connection)


def _check_arguments(
    env_fns: Sequence[Any],
    envs_per_worker: int,
    threads_per_worker: int,
    max_restarts: int,
    backoff: float,
    start_timeout: float,
    call_timeout: float | None,
) -> None:
    if not env_fns or not all(callable(fn) for fn in env_fns):
        raise ValueError(f"env_fns must be functions that make environments, at least one, got {env_fns!r}")
    check_whole_number("envs_per_worker", envs_per_worker, 1)
    check_whole_number("threads_per_worker", threads_per_worker, 1)
    check_whole_number("max_restarts", max_restarts, 0)
    if threads_per_worker > envs_per_worker:
        raise ValueError(
            f"threads_per_worker must be at most envs_per_worker={envs_per_worker}, got {threads_per_worker}"
        )
    for name, seconds in (("backoff", backoff), ("start_timeout", start_timeout)):
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise ValueError(f"{name} must be a number of seconds >= 0, got {seconds!r}")
    is_number = isinstance(call_timeout, int | float) and not isinstance(call_timeout, bool)
    if call_timeout is not None and not (is_number and 0 < call_timeout < float("inf")):
        raise ValueError(f"call_timeout must be a number of seconds > 0, or None, got {call_timeout!r}")
