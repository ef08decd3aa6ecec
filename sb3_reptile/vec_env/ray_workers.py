"""The driver's side of the workers: starting their actors, calling them, and starting them again when they are lost."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import cloudpickle

from sb3_reptile.vec_env import ray_calls
from sb3_reptile.vec_env.ray_calls import Call, Calls, LostError, Worker
from sb3_reptile.vec_env.ray_channel import StepChannel, is_possible
from sb3_reptile.vec_env.ray_worker import EnvWorker

# Options of an actor by resource; Ray has a dictionary for the others
OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
# Seconds of the longest pause before a worker is started again
LONGEST_PAUSE = 60.0


class WorkersLostError(RuntimeError):
    """Workers were lost more often than ``max_restarts`` allows, or cannot be started."""


def actor_options(resources: Mapping[str, float] | None, num_cpus: int = 1) -> dict[str, Any]:
    """
    :param resources: What a worker needs, by Ray's names of resources, for instance ``{"CPU": 1, "GPU": 0.5}``
    :param num_cpus: Number of processors unless they say so
    :return: Options of an actor
    :raises ValueError: if an amount is not a number >= 0
    """
    resources = {"CPU": num_cpus, **(resources or {})}
    for name, amount in resources.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not amount >= 0:
            raise ValueError(f"resources must be numbers >= 0 by name, as in {{'CPU': 1}}, got {name!r}: {amount!r}")
    others = {name: amount for name, amount in resources.items() if name not in OPTIONS}
    return {OPTIONS[name]: amount for name, amount in resources.items() if name in OPTIONS} | {"resources": others}


class Workers:
    """
    All workers of a ``RayVecEnv``.

    :param ray: The module ``ray``
    :param env_fns: Functions that make the environments
    :param envs_per_worker: Number of environments of each worker, of the last one at most
    :param threads_per_worker: Number of threads of each worker
    :param options: Options of the actors
    :param max_restarts: Number of times that each worker is started again
    :param backoff: Seconds of the pause before the first restart of a worker; doubled for each further one
    :param start_timeout: Seconds within which a worker must start
    :param call_timeout: Seconds within which a call of a worker must return; None: no limit
    :param in_channels: Whether steps are sent through channels, where these are possible; they return results in the
        order of the workers
    """

    def __init__(
        self,
        ray: Any,
        env_fns: Sequence[Callable[[], Any]],
        envs_per_worker: int,
        threads_per_worker: int,
        options: Mapping[str, Any],
        max_restarts: int,
        backoff: float,
        start_timeout: float,
        call_timeout: float | None,
        in_channels: bool,
    ) -> None:
        self._ray, self._calls = ray, Calls(ray, call_timeout)
        self._options = dict(options)
        self._actor_class = ray.remote(max_restarts=0, max_task_retries=0, **self._options)(EnvWorker)
        self.max_restarts, self.backoff = max_restarts, backoff
        self.start_timeout = start_timeout
        self._in_channels = in_channels
        self._channels: list[StepChannel] = []
        #: Number of restarts of all workers
        self.n_restarts = 0
        #: Called before the error that says that too many were lost
        self.before_failure: list[Callable[[], None]] = []
        self._failure: WorkersLostError | None = None
        self.n_envs, self._per_worker, self._n_threads = len(env_fns), envs_per_worker, threads_per_worker
        self.all: list[Worker] = []
        for start in range(0, len(env_fns), envs_per_worker):
            indices = range(start, min(start + envs_per_worker, len(env_fns)))
            fns = cloudpickle.dumps([env_fns[index] for index in indices])
            self.all.append(Worker(indices, fns, seeds=[None] * len(indices)))

    def start(self) -> bytes:
        """
        Start all workers.

        :return: The spaces and metadata of the environments, pickled
        :raises WorkersLostError: if one does not start in time, or was lost too often
        """
        self._warn_of_missing()
        self.restart(self._start(self.all))
        return self.all[0].built

    def find(self, index: int) -> tuple[Worker, int]:
        """
        :param index: Number of an environment; negative ones count from the end
        :return: Its worker, and its position in it
        :raises IndexError: if there is no such environment
        """
        if not -self.n_envs <= index < self.n_envs:
            raise IndexError(f"there are the environments 0 to {self.n_envs - 1}, got {index}")
        worker = self.all[index % self.n_envs // self._per_worker]
        return worker, index % self.n_envs - worker.indices.start

    def submit(self, worker: Worker, method: str, *arguments: Any) -> Call:
        """
        Call a method of a worker without waiting for it.

        :return: The call
        :raises WorkersLostError: if too many workers were lost before
        """
        if self._failure is not None:
            raise self._failure
        return self._calls.begin(worker, method, *arguments)

    def call_all(self, calls: Sequence[tuple[Worker, str, tuple[Any, ...]]]) -> list[Any]:
        """
        Call methods of several workers at once; again where a worker is lost meanwhile.

        :param calls: Workers, names of methods and arguments
        :return: The results
        :raises WorkersLostError: if workers were lost too often
        """
        results: list[Any] = [None] * len(calls)
        waiting = list(range(len(calls)))
        while waiting:
            submitted = [self.submit(calls[number][0], calls[number][1], *calls[number][2]) for number in waiting]
            fetched = dict(zip(waiting, self.fetch_all(submitted), strict=True))
            results = [fetched.get(number, results[number]) for number in range(len(calls))]
            waiting = [number for number in waiting if results[number] is None]
            self.restart(list({id(calls[number][0]): calls[number][0] for number in waiting}.values()))
        return [result for (result,) in results]

    def fetch_all(self, calls: Sequence[Call]) -> list[tuple[Any] | None]:
        """
        :param calls: What :meth:`submit` returned
        :return: The results as tuples of one; None where the worker was lost, or did not return within ``call_timeout``
        :raises Exception: what an environment has raised, the first of them
        """
        return self._calls.fetch(calls)

    def wait(self, calls: Sequence[Call], n: int = 1) -> list[Call]:
        """
        Wait for some calls. If fewer than ``n`` have returned after ``call_timeout``, the workers of the others are
        started again.

        :param calls: What :meth:`submit` returned
        :param n: Number of calls to wait for
        :return: Those that have returned or are lost, in the order in which they were given; none if all workers were
            started again
        """
        returned = self._calls.returned(calls, n, time.monotonic())
        if len(returned) < n:
            self.restart([call.worker for call in calls if call not in returned])
        return returned

    def restart(self, workers: Sequence[Worker]) -> None:
        """
        Start workers again, with the attributes that were set before and other seeds, and reset their environments.

        :param workers: The workers that were lost
        :raises WorkersLostError: if one was lost too often, after the functions in ``before_failure`` were called
        """
        while workers:
            for worker in workers:
                self._ray.kill(worker.actor)
                worker.channel = None
                if worker.restarts >= self.max_restarts:
                    self._give_up(worker, self._calls.last_loss)
                worker.restarts += 1
                self.n_restarts += 1
            exponent = max(worker.restarts for worker in workers) - 1
            time.sleep(min(self.backoff * 2.0**exponent, LONGEST_PAUSE))
            lost_again = self._start(workers)
            started = [worker for worker in workers if worker not in lost_again]
            calls = [self.submit(worker, "restore", worker.attributes) for worker in started]
            # Environments that were lost before their first reset need none yet
            calls += [self._reset_again(worker) for worker in started if worker.obs]
            for call, result in zip(calls, self.fetch_all(calls), strict=True):
                if result is None:
                    lost_again.append(call.worker)
                elif call.method == "reset":
                    (call.worker.fresh,) = result
            workers = [worker for worker in workers if worker in lost_again]

    def _reset_again(self, worker: Worker) -> Call:
        # Seeds that no environment has had, but that the first seed determines
        step = self.n_envs * worker.restarts
        seeds = [None if seed is None else seed + step for seed in worker.seeds]
        return self.submit(worker, "reset", seeds, cloudpickle.dumps([{} for _ in worker.indices]))

    def stop(self) -> None:
        """Close the environments, and end the actors."""
        # After a step that is under way
        refs = [self._calls.begin(worker, "close").result for worker in self.all if worker.actor]
        if refs and self._failure is None:
            # A step that is still under way may take longer than anybody wants to wait
            self._ray.wait(refs, num_returns=len(refs), timeout=10)
        for worker in self.all:
            if worker.actor is not None:
                self._ray.kill(worker.actor)
            worker.channel = None
        while self._channels:
            self._channels.pop().close()

    def _start(self, workers: Sequence[Worker]) -> list[Worker]:
        """Start workers; those that were lost meanwhile."""
        refs = []
        for worker in workers:
            worker.actor = self._actor_class.remote()
            refs.append(worker.actor.build.remote(worker.env_fns, self._n_threads, worker.restarts > 0))
        lost = []
        for worker, ref in zip(workers, refs, strict=True):
            try:
                worker.built = self._started(worker, ref)
                self._open_channel(worker)
            except LostError as error:
                self._calls.last_loss = LostError(f"while it started: {error}")
                lost.append(worker)
        return lost

    def _open_channel(self, worker: Worker) -> None:
        # With one environment, the last worker may have the main thread alone
        if self._in_channels and len(worker.indices) > 1:
            try:
                if is_possible(self._ray, worker.actor):
                    worker.channel = StepChannel(worker.actor)
                    self._channels.append(worker.channel)
            except self._calls.ray_error:  # if the worker is lost, its next call says so
                worker.channel = None

    def _started(self, worker: Worker, ref: Any) -> bytes:
        try:
            try:
                return self._calls.get(ref, min(ray_calls.PATIENCE, self.start_timeout))
            except self._calls.timeout_error:
                message = f"{worker.name} has not started yet: {self._needs()}"
                warnings.warn(message, stacklevel=2)
                return self._calls.get(ref, max(self.start_timeout - ray_calls.PATIENCE, 0))
        except self._calls.timeout_error:
            failure = WorkersLostError(
                f"{worker.name} did not start within {self.start_timeout:g} s: {self._needs()}; use fewer "
                "workers (envs_per_worker), ask for less (resources), add nodes, or raise start_timeout"
            )
            if worker.restarts:
                self._give_up(worker, failure)
            raise failure from None

    def _warn_of_missing(self) -> None:
        """Say at once what all workers together need and the cluster does not have; nodes may still be added."""
        wanted, has = self._wanted(), self._ray.cluster_resources()
        all_need = {name: amount * len(self.all) for name, amount in wanted.items()}
        missing = [name for name, amount in all_need.items() if amount > has.get(name, 0)]
        if missing:
            warnings.warn(
                f"the cluster has {', '.join(f'{has.get(name, 0):g} {name}' for name in missing)}, and the workers "
                f"need {', '.join(f'{all_need[name]:g} {name}' for name in missing)}: those that find no room wait for "
                f"it, at most start_timeout={self.start_timeout:g} s; use fewer workers (envs_per_worker), ask for "
                "less (resources), or add nodes",
                stacklevel=2,
            )

    def _wanted(self) -> dict[str, float]:
        """What a worker needs, by Ray's names of resources."""
        named = {name: self._options[option] for name, option in OPTIONS.items() if option in self._options}
        return named | self._options["resources"]

    def _needs(self) -> str:
        wanted, free = self._wanted(), self._ray.available_resources()
        return (
            f"it needs {wanted}, {len(self.all)} workers do, and the cluster has "
            f"{ {name: free.get(name, 0) for name in wanted} } free"
        )

    def _give_up(self, worker: Worker, cause: BaseException | None) -> NoReturn:
        failure = WorkersLostError(
            f"{worker.name} was lost and started again {worker.restarts} times, max_restarts="
            f"{self.max_restarts} allows no more (last reason: {cause}); look at its node, or raise max_restarts"
        )
        self._failure = failure
        for save in list(self.before_failure):
            try:
                save()
            except Exception as error:  # the failure matters more
                warnings.warn(f"nothing was saved before the failure of the workers: {error}", stacklevel=2)
        raise failure from cause
