"""Training on one task: a function of its arguments, so that it gives the same result in every process."""

import copy
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.meta.learned_parameters import (
    OptimizerStates,
    Parameters,
    learned_parameters,
    optimizer_states,
    set_learned_parameters,
    set_optimizer_states,
)
from sb3_reptile.meta.normalization import normalized
from sb3_reptile.meta.task_sampling import Task
from sb3_reptile.replay.episodes import end_running_episodes


@dataclass(frozen=True)
class InnerLearner:
    """
    What is trained on each task.

    :param algorithm: Class of one of SB3's off-policy algorithms, or :class:`~sb3_reptile.meta.Regression`
    :param policy: Its policy
    :param arguments: Its other arguments
    :param n_envs: Number of copies of a task's environment
    :param device: PyTorch device
    :param normalization: Arguments of VecNormalize, None without it
    """

    algorithm: Any
    policy: Any
    arguments: dict[str, Any]
    n_envs: int
    device: th.device | str
    normalization: dict[str, Any] | None = None

    def make(
        self, env: Any, seed: int | None, parameters: Parameters | None = None, given_is: str = "the start"
    ) -> Any:
        """
        :param env: Environment
        :param seed: Seed
        :param parameters: Parameters to start from, None for random ones
        :param given_is: What these are called in error messages
        :return: The algorithm, untrained
        :raises ValueError: if the parameters do not fit
        """
        # SB3 adds to policy_kwargs, and action noise has a state
        arguments = copy.deepcopy(self.arguments)
        if self.normalization is not None:
            env = normalized(env, self.normalization)
        model = self.algorithm(self.policy, env, seed=seed, device=self.device, **arguments)
        if parameters is not None:
            set_learned_parameters(model, parameters, given_is)
        return model


class InnerRun(NamedTuple):
    """
    Training on one task.

    :param learner: What is trained
    :param task: The task
    :param spaces: Observation and action space that the task must have
    :param seed: Seed of the run
    :param n_timesteps: Argument of ``learn()``
    :param parameters: Parameters to start from
    :param optimizers: State of the optimizers to start from, None for a fresh one
    :param replay_buffer: Replay buffer to start from, None for a fresh one
    :param keeps_optimizers: Whether the state of the optimizers is needed afterwards
    :param keeps_replay_buffer: Whether the replay buffer is needed afterwards
    """

    learner: InnerLearner
    task: Task
    spaces: tuple[Any, Any]
    seed: int
    n_timesteps: int
    parameters: Parameters
    optimizers: OptimizerStates | None
    replay_buffer: ReplayBuffer | None
    keeps_optimizers: bool
    keeps_replay_buffer: bool


class Outcome(NamedTuple):
    """
    Result of an inner run.

    :param parameters: The learned parameters
    :param optimizers: State of the optimizers, if it is needed
    :param replay_buffer: The replay buffer, if it is needed
    :param n_timesteps: Steps in the environment, or of gradient for supervised learning
    :param log: Values for the logger
    """

    parameters: Parameters
    optimizers: OptimizerStates | None
    replay_buffer: ReplayBuffer | None
    n_timesteps: int
    log: dict[str, float]


def run(inner: InnerRun) -> Outcome:
    """
    Train on one task. The environment is closed afterwards.

    :param inner: The run
    :return: Its result
    :raises ValueError: if the task has other spaces, no gradient step is made, or training diverges
    """
    env = inner.task.make_vec_env(inner.learner.n_envs)
    try:
        check_spaces(inner.task.name, env, inner.spaces)
        model = inner.learner.make(env, inner.seed, inner.parameters)
        if inner.optimizers is not None:
            set_optimizer_states(model, inner.optimizers)
        if inner.replay_buffer is not None:
            _continue_with(model, inner.replay_buffer)
        # SB3 would make a folder for each logger that it makes
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(inner.n_timesteps, log_interval=None)
        return _outcome(inner, model)
    finally:
        env.close()


def empty_replay_buffer(learner: InnerLearner, task: Task) -> ReplayBuffer:
    """
    :param learner: What is trained on the task
    :param task: The task
    :return: The replay buffer of its first inner run before it begins
    """
    env = task.make_vec_env(learner.n_envs)
    try:
        return learner.make(env, seed=None).replay_buffer
    finally:
        env.close()


def check_spaces(name: str, env: Any, spaces: tuple[Any, Any]) -> None:
    """
    :param name: Name of the task
    :param env: Its environment
    :param spaces: Observation and action space that it must have
    :raises ValueError: if it has others
    """
    found = env.observation_space, env.action_space
    if found != spaces:
        raise ValueError(
            f"{name} has the spaces {found[0]} and {found[1]}, another task {spaces[0]} and {spaces[1]}: all tasks "
            "must have the same"
        )


def _continue_with(model: Any, buffer: ReplayBuffer) -> None:
    if isinstance(buffer, HerReplayBuffer):
        # That of its last run, which is closed
        buffer.env = None
        buffer.set_env(model.env)
    # The environment is another one than that of the newest row
    end_running_episodes(buffer)
    buffer.device = model.device
    model.replay_buffer = buffer


def _outcome(inner: InnerRun, model: Any) -> Outcome:
    if model._n_updates == 0:
        starts = getattr(model, "learning_starts", None)
        raise ValueError(
            f"there was no gradient step in {inner.n_timesteps} steps on {inner.task.name}: increase inner_timesteps"
            f"{'' if starts is None else f', or decrease learning_starts, which is {starts}, or train_freq'}"
        )
    parameters = learned_parameters(model)
    diverged = [name for name, value in parameters.items() if not bool(th.isfinite(value).all())]
    if diverged:
        raise ValueError(
            f"training on {inner.task.name} diverged, {diverged[0]} is not finite: decrease the learning rate"
        )
    episodes = list(model.ep_info_buffer or ())
    of_episodes = {"ep_rew_mean": [info["r"] for info in episodes], "ep_len_mean": [info["l"] for info in episodes]}
    log = {f"rollout/{name}": float(np.mean(values)) for name, values in of_episodes.items() if values}
    recorded = model.logger.name_to_value
    log |= {key: float(value) for key, value in recorded.items() if key.startswith("train/") and "n_updates" not in key}
    return Outcome(
        parameters,
        optimizer_states(model) if inner.keeps_optimizers else None,
        model.replay_buffer if inner.keeps_replay_buffer else None,
        model.num_timesteps,
        log,
    )


def _run_pickled(pickled: bytes) -> bytes:
    return cloudpickle.dumps(run(cloudpickle.loads(pickled)))


def _run_on_node(given: tuple[int, bytes]) -> bytes:
    n_threads, pickled = given
    _start_process(n_threads)
    return _run_pickled(pickled)


def _start_process(n_threads: int) -> None:
    # Results depend on the number of threads
    th.set_num_threads(n_threads)


class Processes:
    """
    Inner runs in this process, in several, or on the nodes of a Ray cluster.

    :param n_processes: Number of processes; 1 for this one
    :param ray: Address of the cluster, None for processes of this machine
    :raises ImportError: without the extra ``ray``, if it is needed
    :raises ConnectionError: if there is no cluster at this address
    """

    def __init__(self, n_processes: int, ray: str | None = None) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._ray = ray
        if ray is not None:
            from sb3_reptile.vec_env.ray_cluster import connect

            self._connection = connect(ray)
        elif n_processes > 1:
            methods = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
            if "forkserver" in methods:
                context.set_forkserver_preload([__name__])
            self._executor = ProcessPoolExecutor(n_processes, context, _start_process, (th.get_num_threads(),))

    def run_all(self, runs: Sequence[InnerRun]) -> list[Outcome]:
        """
        :param runs: Inner runs
        :return: Their results
        :raises TypeError: if a run cannot be sent to another process
        :raises RuntimeError: if a process ends
        """
        if self._executor is None and self._ray is None:
            return [run(inner) for inner in runs]
        pickled = [_pickle(inner) for inner in runs]
        if self._executor is None:
            from sb3_reptile.vec_env.ray_cluster import map_on_cluster

            given = [(th.get_num_threads(), one) for one in pickled]
            return [cloudpickle.loads(result) for result in map_on_cluster(_run_on_node, given, self._ray)]
        try:
            results = list(self._executor.map(_run_pickled, pickled))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process of meta-training ended unexpectedly: it may have run out of memory, or the script lacks "
                "`if __name__ == '__main__':`"
            ) from error
        return [cloudpickle.loads(result) for result in results]

    def close(self) -> None:
        """End the processes, or the connection to the cluster."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        elif self._ray is not None:
            from sb3_reptile.vec_env.ray_cluster import disconnect

            disconnect(self._connection)


def _pickle(inner: InnerRun) -> bytes:
    try:
        return cloudpickle.dumps(inner)
    except Exception as error:  # objects of users raise any
        raise TypeError(
            f"{inner.task.name} cannot be sent to another process ({type(error).__name__}: {error}): use n_processes=1"
        ) from error
