"""Reptile, the meta-learning algorithm: the outer loop around an algorithm of SB3."""

import inspect
import os
import time
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common import callbacks
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, configure_logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_reptile.meta import files
from sb3_reptile.meta.inner_runs import InnerLearner, InnerRun, Outcome, Processes
from sb3_reptile.meta.learned_parameters import (
    OptimizerStates,
    Parameters,
    learned_parameters,
    mean_of_states,
    meta_update,
    set_learned_parameters,
)
from sb3_reptile.meta.normalization import PREFIX, options_of
from sb3_reptile.meta.sine_waves import Regression
from sb3_reptile.meta.task_sampling import Tasks, TaskSampler
from sb3_reptile.replay.checks import check_choice, check_whole_number

SelfReptileMetaLearner = TypeVar("SelfReptileMetaLearner", bound="ReptileMetaLearner")

# Arguments of the inner learner that are the meta-learner's
OURS = ("env", "seed", "device", "policy", "_init_setup_model")


def check_step_size(value: Any) -> None:
    """
    :param value: A meta step size
    :raises ValueError: if it is not in [0, 1]
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ValueError(f"meta_step_size must be in [0, 1], or a function with such values, got {value!r}")


def share_of_buffer(algorithm: type[Any], arguments: dict[str, Any], n_tasks: int, n_envs: int) -> int:
    """
    :param algorithm: Class of an off-policy algorithm
    :param arguments: Its arguments
    :param n_tasks: Number of tasks
    :param n_envs: Number of environments of each
    :return: Size of the replay buffer of each task
    :raises ValueError: if the buffer is too small to be shared
    """
    total = arguments.get("buffer_size", inspect.signature(algorithm).parameters["buffer_size"].default)
    if total // n_tasks < n_envs:
        raise ValueError(f"buffer_size={total} is too small: {n_tasks} tasks share it, each with {n_envs} environments")
    return int(total // n_tasks)


def seed_of(seed: int, run: int) -> int:
    """
    :param seed: Seed of the meta-learner
    :param run: Number of an inner run
    :return: Seed of the run
    """
    return seed if run == 0 else int(np.random.SeedSequence([seed, run]).generate_state(1)[0])


class MetaProgressBar(callbacks.ProgressBarCallback):
    """SB3's progress bar, in meta-iterations."""

    def _on_training_start(self) -> None:
        model: Any = self.model
        self.pbar = callbacks.tqdm(total=self.locals["total"] - model.num_meta_iterations)

    def _on_step(self) -> bool:
        self.pbar.update(1)
        return True


class ReptileMetaLearner:
    """
    Reptile (Nichol, Achiam & Schulman 2018, https://arxiv.org/abs/1803.02999): learns parameters from which an
    algorithm adapts to a new task in few steps. This is not the experience replay of
    :class:`~sb3_reptile.ReptileDQN`, which has the same name; ``ReptileDQN(..., pretrained="meta.zip")`` starts from
    what is learned here.

    Each meta-iteration trains on ``meta_batch_size`` tasks, each time from the parameters ``φ``, and then moves them:
    ``φ ← φ + ε (mean(φ̃_i) - φ)``. Learned parameters, entropy coefficients, and statistics of BatchNorm and
    VecNormalize are averaged; target networks are set to the networks that they follow.

    An inner run is ``algorithm(policy, env, ...).learn(inner_timesteps)``, so counters, schedules and exploration begin
    again with each of them. The first one has the seed ``seed``: with one task, one meta-iteration and ``ε = 1`` the
    result is that of the algorithm, bit for bit. Results do not depend on ``n_processes`` and ``ray``.

    :param algorithm: Class of an off-policy algorithm of SB3, sb3-contrib or this package, or
        :class:`~sb3_reptile.meta.Regression`
    :param tasks: The tasks: a sequence of Gymnasium ids, environments (which are copied) and functions that make one;
        or a function of a ``numpy.random.Generator`` that makes the environment of a random task, such as
        :class:`~sb3_reptile.meta.Navigation`. Environments that are made here are closed.
    :param policy: The policy model of the algorithm (MlpPolicy, CnnPolicy, ...)
    :param inner_timesteps: Steps on each task
    :param meta_batch_size: Number of tasks in a meta-iteration; 1 for serial updates
    :param meta_step_size: ``ε``, in [0, 1], it can be a function of the current progress remaining (from 1 to 0): the
        paper anneals it, as ``LinearSchedule(1.0, 0.0, 1.0)`` does
    :param optimizer_state: ``"fresh"``: each inner run begins with a new optimizer. ``"carried"``: with the mean state
        of the optimizers at the end of the last meta-iteration. The paper uses Adam without momentum: ``"carried"``
        with ``policy_kwargs=dict(optimizer_kwargs=dict(betas=(0.0, 0.999)))``
    :param replay_buffer: ``"fresh"``: each inner run begins with an empty replay buffer. ``"task"``: each task of a
        sequence keeps its replay buffer; they share the algorithm's ``buffer_size``, so that memory does not grow with
        the number of tasks
    :param normalize: Whether environments are in SB3's ``VecNormalize``, or a dict of its arguments. Its statistics
        belong to what is learned. As in SB3, ``predict`` takes normalized observations:
        ``get_vec_normalize_env().normalize_obs(obs)``
    :param n_envs: Number of copies of a task's environment
    :param n_processes: Number of processes that train on tasks in parallel, at most ``meta_batch_size``
    :param ray: Address of a Ray cluster on whose nodes tasks are trained on instead (extra ``ray``): ``HOST:PORT``,
        ``ray://HOST:10001``, or ``local`` for this machine
    :param algorithm_kwargs: Arguments of the algorithm
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: Seed for tasks and inner runs; random by default
    :param device: Device (cpu, cuda, ...) of the inner runs
    :raises TypeError: if an argument has a type that is not allowed
    :raises ValueError: if an argument has a value that is not allowed
    """

    def __init__(
        self,
        algorithm: type[Any],
        tasks: Tasks,
        policy: str | type[BasePolicy] = "MlpPolicy",
        inner_timesteps: int = 1_000,
        meta_batch_size: int = 5,
        meta_step_size: float | Schedule = 1.0,
        optimizer_state: Literal["fresh", "carried"] = "fresh",
        replay_buffer: Literal["fresh", "task"] = "fresh",
        normalize: bool | dict[str, Any] = False,
        n_envs: int = 1,
        n_processes: int = 1,
        ray: str | None = None,
        algorithm_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
    ) -> None:
        self.algorithm = algorithm
        self.policy_class = policy
        self.inner_timesteps = inner_timesteps
        self.meta_batch_size = meta_batch_size
        self.meta_step_size = meta_step_size
        self.optimizer_state = optimizer_state
        self.replay_buffer = replay_buffer
        self.normalize = normalize
        self.n_envs = n_envs
        self.n_processes = n_processes
        self.ray = ray
        self.algorithm_kwargs = dict(algorithm_kwargs or {})
        self.tensorboard_log = tensorboard_log
        self.verbose = verbose
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.device = device
        self.task_sampler = TaskSampler(tasks)
        self._check_options()
        # SB3 takes Python's numbers only
        self.seed = int(self.seed)
        self.meta_step_size_schedule = FloatSchedule(
            meta_step_size if callable(meta_step_size) else float(meta_step_size)
        )
        arguments = dict(self.algorithm_kwargs)
        if replay_buffer == "task":
            assert self.task_sampler.n_tasks is not None
            arguments["buffer_size"] = share_of_buffer(algorithm, arguments, self.task_sampler.n_tasks, n_envs)
        normalization = options_of(normalize, self.algorithm_kwargs)
        self.inner_learner = InnerLearner(algorithm, policy, arguments, n_envs, device, normalization)
        #: Meta-iterations of the present training, and of all: tasks follow from the latter
        self.num_meta_iterations = self.n_meta_iterations_ever = 0
        #: Inner runs of all training: their seeds follow from it
        self.n_inner_runs_ever = 0
        #: Steps in environments, in all inner runs
        self.num_timesteps = 0
        self._total_meta_iterations = 0
        #: State of the optimizers to begin with, replay buffers by task
        self.optimizers: OptimizerStates | None = None
        self.replay_buffers: dict[int, ReplayBuffer] = {}
        self._logger: Logger | None = None
        self._custom_logger = False
        self._make_model()

    def _check_options(self) -> None:
        if not isinstance(self.algorithm, type) or not issubclass(self.algorithm, OffPolicyAlgorithm | Regression):
            raise TypeError(
                f"algorithm must be the class of an off-policy algorithm of SB3, or Regression, got {self.algorithm!r}"
            )
        for name, least in (
            ("inner_timesteps", 1),
            ("meta_batch_size", 1),
            ("n_envs", 1),
            ("n_processes", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            check_whole_number(name, value, least)
        check_choice("optimizer_state", self.optimizer_state, ("fresh", "carried"))
        check_choice("replay_buffer", self.replay_buffer, ("fresh", "task"))
        if not callable(self.meta_step_size):
            check_step_size(self.meta_step_size)
        given = [name for name in OURS if name in self.algorithm_kwargs]
        if given:
            raise ValueError(f"algorithm_kwargs must not contain {', '.join(given)}: pass it to ReptileMetaLearner")
        n_tasks = self.task_sampler.n_tasks
        if n_tasks is not None and self.meta_batch_size > n_tasks:
            raise ValueError(
                f"meta_batch_size must be at most the number of tasks, {n_tasks}, as those of a meta-iteration are "
                f"different; got {self.meta_batch_size}"
            )
        if self.n_processes > self.meta_batch_size:
            raise ValueError(
                f"n_processes must be at most meta_batch_size, {self.meta_batch_size}: a task is trained on in one "
                f"process; got {self.n_processes}"
            )
        if self.normalize is not False and not issubclass(self.algorithm, OffPolicyAlgorithm):
            raise ValueError("normalize needs an off-policy algorithm: scale the points of Regression instead")
        if self.ray is not None and self.n_processes > 1:
            raise ValueError("n_processes is for processes of this machine: leave it out with ray")
        if self.replay_buffer == "task" and (n_tasks is None or not issubclass(self.algorithm, OffPolicyAlgorithm)):
            raise ValueError(
                "replay_buffer='task' needs an off-policy algorithm and a sequence of tasks, as a task that a function "
                "draws does not come back: use replay_buffer='fresh'"
            )

    def _make_model(self) -> None:
        """The untrained algorithm, whose spaces and networks all tasks must have."""
        task = self.task_sampler.draw(np.random.default_rng([self.seed, 0]), 1)[0]
        env = task.make_vec_env(self.n_envs)
        try:
            self.observation_space, self.action_space = env.observation_space, env.action_space
            self._model = self.inner_learner.make(env, self.seed)
        finally:
            env.close()
        self._model.set_logger(Logger(folder=None, output_formats=[]))
        # Only inner runs need one
        self._model.replay_buffer = None
        self.parameters: Parameters = learned_parameters(self._model)
        if all(name.startswith(PREFIX) for name in self.parameters):
            raise TypeError(
                f"{self.algorithm.__name__} has no PyTorch parameters, from which Reptile learns (those of SBX are in "
                "JAX): use an algorithm of SB3, sb3-contrib or this package instead"
            )
        self._is_stale = False

    @property
    def model(self) -> Any:
        """The algorithm with the present parameters, not trained on any task."""
        if self._is_stale:
            set_learned_parameters(self._model, self.parameters)
            self._is_stale = False
        return self._model

    @property
    def policy(self) -> BasePolicy:
        """Its policy."""
        return self.model.policy

    @property
    def logger(self) -> Logger:
        """Getter for the logger object."""
        assert self._logger is not None, "there is no logger before learn(); call set_logger() to have one"
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """
        Setter for the logger object.

        :param logger: The logger, used instead of the one that ``verbose`` and ``tensorboard_log`` describe
        """
        self._logger, self._custom_logger = logger, True

    def get_env(self) -> VecEnv | None:
        """
        :return: The environment of the untrained algorithm, which is closed: for callbacks that need its type
        """
        return self.model.get_env()

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """
        :return: ``VecNormalize`` with the present statistics, None if environments are not normalized. Its environment
            is closed: save it, or copy its statistics.
        """
        return self.model.get_vec_normalize_env()

    def set_parameters(self, parameters: Parameters) -> None:
        """
        Start from other parameters.

        :param parameters: As in the attribute ``parameters``
        :raises ValueError: if a name or a shape differs; nothing is changed then
        """
        set_learned_parameters(self._model, parameters, "the given ones")
        self.parameters, self._is_stale = learned_parameters(self._model), False

    def make_model(self, env: GymEnv, seed: int | None = None, **kwargs: Any) -> Any:
        """
        The algorithm on a new task, with the parameters learned so far: ``make_model(env).learn(1_000)`` adapts.

        :param env: Environment, with the spaces of the tasks. With ``normalize`` it is put in ``VecNormalize``
        :param seed: Seed
        :param kwargs: Arguments of the algorithm that override ``algorithm_kwargs``
        :return: The algorithm
        :raises ValueError: if the parameters do not fit
        """
        inner = replace(self.inner_learner, arguments={**self.algorithm_kwargs, **kwargs})
        return inner.make(env, seed, self.parameters, "the meta-learner")

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        """
        The action before adaptation; see SB3's ``predict``.

        :param observation: the input observation
        :return: the action and the next state
        """
        return self.model.predict(observation, *args, **kwargs)

    def learn(
        self: SelfReptileMetaLearner,
        total_meta_iterations: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "ReptileMetaLearner",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfReptileMetaLearner:
        """
        :param total_meta_iterations: Number of meta-iterations
        :param callback: Callback(s) called after every meta-iteration
        :param log_interval: Meta-iterations between two logs, None for no logs
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the counters of meta-iterations and timesteps, and with them
            the schedule of ``meta_step_size``
        :param progress_bar: Display a progress bar using tqdm and rich.
        :return: The meta-learner
        :raises ValueError: if a task does not fit, no gradient step is made on it, or training on it diverges; the
            parameters are those after the last complete meta-iteration
        """
        total, callback = self._setup_learn(
            total_meta_iterations, callback, log_interval, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        processes = Processes(self.n_processes, self.ray)
        try:
            while self.num_meta_iterations < total:
                callback.on_rollout_start()
                outcomes = self._meta_iteration(processes)
                callback.update_locals(locals())
                callback.on_rollout_end()
                continues = callback.on_step()
                self._record(outcomes, log_interval)
                if not continues:
                    break
        finally:
            processes.close()
        callback.on_training_end()
        return self

    def _setup_learn(
        self,
        n: int,
        callback: MaybeCallback,
        log_interval: int | None,
        reset: bool,
        tb_log_name: str,
        progress_bar: bool,
    ) -> tuple[int, BaseCallback]:
        check_whole_number("total_meta_iterations", n, 0)
        if log_interval is not None:
            check_whole_number("log_interval", log_interval)
        if reset:
            self.num_meta_iterations = self.num_timesteps = 0
        total = self._total_meta_iterations = int(n) + self.num_meta_iterations
        self._start_time, self._timesteps_at_start = time.time_ns(), self.num_timesteps
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset)
        if isinstance(callback, list):
            callback = CallbackList(callback)
        if not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        if progress_bar:
            callback = CallbackList([callback, MetaProgressBar()])
        callback.init_callback(self)  # type: ignore[arg-type]
        return total, callback

    def _meta_iteration(self, processes: Processes) -> list[Outcome]:
        progress_remaining = 1.0 - self.num_meta_iterations / self._total_meta_iterations
        step_size = self.meta_step_size_schedule(progress_remaining)
        check_step_size(step_size)
        # Train on each task, from the same parameters
        runs = self._inner_runs()
        outcomes = processes.run_all(runs)
        # Move the parameters towards the mean of the results
        self.parameters, distance = meta_update(
            self.parameters, [outcome.parameters for outcome in outcomes], step_size
        )
        self._is_stale = True
        if self.optimizer_state == "carried":
            states = [outcome.optimizers for outcome in outcomes if outcome.optimizers is not None]
            self.optimizers = mean_of_states(states)
        for run, outcome in zip(runs, outcomes, strict=True):
            if run.task.number is not None and outcome.replay_buffer is not None:
                self.replay_buffers[run.task.number] = outcome.replay_buffer
        self.num_meta_iterations += 1
        self.n_meta_iterations_ever += 1
        self.n_inner_runs_ever += len(runs)
        self.num_timesteps += sum(outcome.n_timesteps for outcome in outcomes)
        self.logger.record("meta/step_size", step_size)
        self.logger.record("meta/distance", distance)
        return outcomes

    def _inner_runs(self) -> list[InnerRun]:
        """The runs of the present meta-iteration."""
        rng = np.random.default_rng([self.seed, self.n_meta_iterations_ever])
        return [
            InnerRun(
                learner=self.inner_learner,
                task=task,
                spaces=(self.observation_space, self.action_space),
                seed=seed_of(self.seed, self.n_inner_runs_ever + position),
                n_timesteps=self.inner_timesteps,
                parameters=self.parameters,
                optimizers=self.optimizers,
                replay_buffer=None if task.number is None else self.replay_buffers.get(task.number),
                keeps_optimizers=self.optimizer_state == "carried",
                keeps_replay_buffer=self.replay_buffer == "task",
            )
            for position, task in enumerate(self.task_sampler.draw(rng, self.meta_batch_size))
        ]

    def _record(self, outcomes: list[Outcome], log_interval: int | None) -> None:
        if log_interval is None or self.num_meta_iterations % log_interval != 0:
            return
        for key in sorted(set().union(*(outcome.log for outcome in outcomes))):
            self.logger.record(key, float(np.mean([outcome.log[key] for outcome in outcomes if key in outcome.log])))
        seconds = max((time.time_ns() - self._start_time) / 1e9, np.finfo(float).eps)
        self.logger.record("time/meta_iterations", self.num_meta_iterations, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._timesteps_at_start) / seconds))
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_meta_iterations)

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Save it as a zip-file, atomically. The file is also a saved model of ``algorithm``: ``algorithm.load(path)`` and
        ``ReptileDQN(..., pretrained=path)`` take it. Replay buffers of tasks are not in it; see
        :class:`~sb3_reptile.meta.MetaCheckpoint`.

        :param path: path to the file; ``.zip`` is appended if it has no suffix
        :raises OSError: if it cannot be written; what was there before stays
        """
        files.save_zip(self, path)

    @classmethod
    def load(
        cls: type[SelfReptileMetaLearner],
        path: str | os.PathLike[str],
        tasks: Tasks,
        device: th.device | str = "auto",
        **kwargs: Any,
    ) -> SelfReptileMetaLearner:
        """
        Load what ``save`` wrote. Nothing in the file is executed.

        :param path: path to the file
        :param tasks: The tasks
        :param device: Device of the inner runs
        :param kwargs: Arguments that override those saved. Those that could not be saved must be given: an algorithm of
            your own, a function as ``meta_step_size``, ``algorithm_kwargs`` that hold functions
        :return: The meta-learner; ``learn(n, reset_num_timesteps=False)`` continues
        :raises FileNotFoundError: if there is no such file
        :raises ForeignError: if it was not saved by a meta-learner
        :raises MissingArgumentError: if an argument could not be saved and is not given
        :raises ValueError: if the parameters or the carried state of the optimizers do not fit
        """
        return files.load_zip(cls, path, tasks, device, kwargs)
