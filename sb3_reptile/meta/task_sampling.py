"""How tasks are given and drawn: sequences of environments, and functions that make one."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

#: Tasks: ids, environments or functions without arguments that make one; or a function that draws a task
Tasks = Sequence[str | gym.Env | Callable[[], gym.Env]] | Callable[[np.random.Generator], gym.Env]

ALLOWED = (
    "a sequence of Gymnasium ids, environments and functions that make one, or a function of a "
    "numpy.random.Generator that makes the environment of a random task"
)


VECTORIZED = (
    ": return one environment that is not vectorized; n_envs makes copies of it, normalize=True puts it in VecNormalize"
)


class Task(NamedTuple):
    """
    A task that was drawn. It can be pickled if its function can.

    :param name: What it is called in messages
    :param function: Function that makes its environment
    :param seed: Seed of the generator that the function is called with, None for a function without arguments
    :param number: Its place in the sequence of tasks, None if they are drawn by a function
    """

    name: str
    function: Callable[..., gym.Env]
    seed: int | None
    number: int | None

    def make(self) -> gym.Env:
        """
        :return: A new environment of the task. Each call returns the same task.
        :raises TypeError: if the function returns something else
        """
        env = self.function() if self.seed is None else self.function(np.random.default_rng(self.seed))
        if not isinstance(env, gym.Env):
            if isinstance(env, VecEnv):
                env.close()
            raise TypeError(
                f"{self.name} must be a Gymnasium environment, got {type(env).__name__}"
                f"{VECTORIZED if isinstance(env, VecEnv) else ''}"
            )
        return env

    def make_vec_env(self, n_envs: int) -> gym.Env | DummyVecEnv:
        """
        :param n_envs: Number of copies of the environment
        :return: The environment, or several copies of it
        """
        return self.make() if n_envs == 1 else DummyVecEnv([lambda: Monitor(self.make())] * n_envs)


class CopyOf:
    """
    Function that copies an environment.

    :param env: The environment, which is not used or closed
    :raises TypeError: if it cannot be copied
    """

    def __init__(self, env: gym.Env, name: str) -> None:
        try:
            self._pickled = cloudpickle.dumps(env)
            cloudpickle.loads(self._pickled).close()
        except Exception as error:  # environments raise any
            raise TypeError(
                f"{name} cannot be copied ({type(error).__name__}: {error}): pass a function that makes it"
            ) from error

    def __call__(self) -> gym.Env:
        return cloudpickle.loads(self._pickled)


class MadeById:
    """
    Function that makes an environment that is registered with Gymnasium.

    :param env_id: Its id
    :raises ValueError: if there is no such environment
    """

    def __init__(self, env_id: str) -> None:
        try:
            gym.spec(env_id)
        except gym.error.Error as error:
            raise ValueError(f"tasks: {error}") from error
        self.env_id = env_id

    def __call__(self) -> gym.Env:
        return gym.make(self.env_id)


def _check_takes(function: Callable[..., Any], name: str, arguments: list[str]) -> None:
    """
    :param function: Function that a user gave
    :param name: Name of the argument or task
    :param arguments: What it is called with
    :raises TypeError: if it takes other arguments
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{name} is called with {' and '.join(arguments) or 'no arguments'}, which it does not take ({error}): "
            "functions in a sequence take no arguments, one that draws a random task is given alone"
        ) from error


class TaskSampler:
    """
    Draws tasks.

    :param tasks: See :data:`Tasks`. An environment serves as a model: it is copied for each use.
    :raises TypeError: if it is something else
    :raises ValueError: if it is empty, or names an environment that does not exist
    """

    def __init__(self, tasks: Tasks) -> None:
        self.function: Callable[[np.random.Generator], gym.Env] | None = None
        self.functions: list[Callable[[], gym.Env]] = []
        if isinstance(tasks, str | gym.Env | VecEnv) or (isinstance(tasks, type) and issubclass(tasks, gym.Env)):
            raise TypeError(f"tasks must be {ALLOWED}; got {tasks!r}: use [{tasks!r}] for a single task")
        if isinstance(tasks, Sequence):
            self.functions = [_function_of(task, f"task {number}") for number, task in enumerate(tasks)]
            if not self.functions:
                raise ValueError(f"tasks must be {ALLOWED}; got an empty sequence")
        elif callable(tasks):
            _check_takes(tasks, "tasks", ["a numpy.random.Generator"])
            self.function = tasks  # type: ignore[assignment]
        else:
            raise TypeError(f"tasks must be {ALLOWED}; got {type(tasks).__name__}")

    @property
    def n_tasks(self) -> int | None:
        """Number of tasks, None if a function draws them."""
        return len(self.functions) if self.function is None else None

    @property
    def names(self) -> list[str | None]:
        """Of each task or function the id or values of its fields, None if it has neither."""
        functions: list[Any] = self.functions if self.function is None else [self.function]
        return [
            function.env_id if isinstance(function, MadeById) else repr(function) if is_dataclass(function) else None
            for function in functions
        ]

    def draw(self, rng: np.random.Generator, n: int) -> list[Task]:
        """
        :param rng: Random generator
        :param n: Number of tasks
        :return: Tasks: of a sequence, different ones
        """
        if self.function is not None:
            seeds = rng.integers(2**63, size=n).tolist()
            return [Task(f"the task of seed {seed}", self.function, seed, None) for seed in seeds]
        return [self.numbered(number) for number in rng.choice(len(self.functions), size=n, replace=False).tolist()]

    def numbered(self, number: int) -> Task:
        """
        :param number: Place of a task in a sequence of tasks
        :return: The task
        """
        return Task(f"task {number}", self.functions[number], None, number)


def _function_of(task: Any, name: str) -> Callable[[], gym.Env]:
    if isinstance(task, str):
        return MadeById(task)
    if isinstance(task, gym.Env):
        return CopyOf(task, name)
    if callable(task) and not isinstance(task, VecEnv):
        _check_takes(task, name, [])
        return task
    raise TypeError(
        f"{name} must be a Gymnasium id, environment or function that makes one, got {task!r:.200}"
        f"{VECTORIZED if isinstance(task, VecEnv) else ''}"
    )
