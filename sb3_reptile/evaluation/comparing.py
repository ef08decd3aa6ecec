"""``compare()``: trains methods of replay on the user's own task, resumes, and writes a report."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import math
import os
import re
import shlex
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    is_vecenv_wrapped,
)

from sb3_reptile.checkpoint.models import ATTRIBUTES, get_hyperparameters
from sb3_reptile.evaluation import records
from sb3_reptile.evaluation.comparison_report import Comparison, write_report
from sb3_reptile.evaluation.methods import Method, make_methods
from sb3_reptile.evaluation.records import Record, sole_writer
from sb3_reptile.evaluation.runner import Job, train_all
from sb3_reptile.evaluation.trained_run import RANDOM, Plan
from sb3_reptile.replay.checks import check_whole_number

# Arguments that SB3 looks up, adds to or converts, so that the model has something else
CONVERTED = ("policy", "policy_kwargs", "train_freq", "device", "target_entropy")
# Not ``-m``: the package imports the module, too
PROGRAM = ["-c", "from sb3_reptile.evaluation.trained_run import main; main()"]
MakeModel = Callable[..., OffPolicyAlgorithm]


class Run(NamedTuple):
    """Key of a record."""

    method: str
    seed: int


def compare(
    make_model: MakeModel,
    methods: Sequence[str | Mapping[str, Any]] | None = None,
    seeds: int | Iterable[int] = 5,
    steps: int = 50_000,
    folder: str | os.PathLike[str] = "comparison",
    n_jobs: int | None = None,
    ray: str | None = None,
    task: str | None = None,
    command: str | None = None,
) -> Comparison:
    """
    Train an algorithm on a task with several methods of replay, and write a report: ``comparison.md`` with a verdict,
    ``comparison.png`` with the learning curves, and ``comparison.csv``. The records of the runs are in the same
    folder; runs that are there already, with the same configuration, are not repeated, so that the same call continues
    an interrupted comparison. Each run is trained by one thread of its own process. Needs the extra ``compare``.

    :param make_model: Takes ``seed`` and further keyword arguments of an off-policy algorithm, such as
        ``replay_buffer_class``, and returns a model made with them, for example
        ``lambda **arguments: DQN("MlpPolicy", "CartPole-v1", **arguments)``. Arguments that are passed override its
        own: ``DQN(..., **{"buffer_size": 50_000, **arguments})``
    :param methods: ``"uniform"``, ``"fifo"`` (a small buffer), ``"fifo:SIZE"``, ``"default"`` (the default decay),
        ``"auto"``, or dictionaries of options of the replay buffer and arguments of the algorithm, such as
        ``{"half_life": 300}``. Uniform replay is always trained; all of the standard methods are if none is named
    :param seeds: Number of runs of each method, or their seeds
    :param steps: Steps of the environments in each run
    :param folder: Folder of the report and the records
    :param n_jobs: Number of runs that are trained at once; None for 2, or for the processors of the cluster
    :param ray: Address of a Ray cluster that trains the runs; every node needs this package and what ``make_model``
        imports
    :param task: Name of the task in the report; by default that of the environment
    :param command: The command that makes the report; by default that of this process
    :return: The results, with the path of the report
    :raises TypeError: if a method, or what ``make_model`` returns, has the wrong type
    :raises ValueError: if an argument has a value that is not allowed, or ``make_model`` does not pass its arguments on
    :raises RuntimeError: if runs failed; the report has the others
    :raises InUseError: if another process writes to the folder
    :raises ImportError: without the extra ``compare``, or with ``ray`` if it is not installed
    :raises ConnectionError: if there is no Ray cluster at this address
    :raises KeyboardInterrupt: on SIGINT or SIGTERM, after the processes have ended
    """
    _check_packages()
    numbers = _seeds(seeds)
    for name, value in (("steps", steps), ("n_jobs", 1 if n_jobs is None else n_jobs)):
        check_whole_number(name, value)
    with _made(make_model, {}) as model:
        chosen = make_methods(methods, min(model.buffer_size, steps))
        arguments = {method.name: method.arguments(model) for method in chosen}
        task = task or _task_name(model.env)
        of_env = _not_in_specs(model.get_env())  # type: ignore[arg-type]
    setups = {}
    for method in chosen:
        with _made(make_model, arguments[method.name]) as model:
            _check_is_used(model, arguments[method.name], method)
            setups[method.name] = setup_of(model, steps, of_env)
    setups[RANDOM] = setups[chosen[0].name]
    folder = Path(folder)
    command = command or shlex.join([Path(sys.executable).name, *sys.argv])
    # All methods finish a seed before any begins the next
    plan = [Run(RANDOM, 0), *(Run(method.name, seed) for seed in numbers for method in chosen)]
    text = Plan(make_model, arguments, setups, steps, task, command).to_text()
    with sole_writer(folder):
        missing = [run for run in plan if run not in read_runs(folder, task, setups)]
        jobs = [Job(f"{run.method} {run.seed}", [*PROGRAM, text, run.method, str(run.seed)], steps) for run in missing]
        failed = train_all(jobs, folder, n_jobs, ray=ray) if jobs else []
        found = read_runs(folder, task, setups)
    wanted = {run: found[run] for run in plan if run in found}
    result = None
    if Run(RANDOM, 0) in wanted and any(run.method == chosen[0].name for run in wanted):
        result = write_report(folder, task, chosen, wanted, command, len(plan))
    if failed or result is None:
        raise RuntimeError(
            f"runs failed: {', '.join(job.name for job in failed)}; see above why. Repeat the same command to train "
            f"those that are missing" + (f"; {folder} has a report of the others" if result else "")
        )
    return result


def read_runs(folder: Path, task: str, setups: Mapping[str, str]) -> dict[Run, Record]:
    """
    :param folder: Folder of the records
    :param task: Name of the task
    :param setups: Hash of the present configuration of each method
    :return: The records of these configurations
    """

    def run_of(record: Record) -> Run:
        # Records of an earlier version may have such returns
        if not math.isfinite(record["auc"]):
            raise ValueError(f"auc is {record['auc']}")
        return Run(record["method"], record["seed"])

    return records.read(folder, [task], run_of, lambda run: setups[run.method])


def _check_packages() -> None:
    """The report needs them after hours of training."""
    missing = [name for name in ("matplotlib", "rliable", "scipy", "tqdm") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"compare() needs the extra `compare` (no module named {missing[0]!r} found): "
            "pip install 'sb3-reptile[compare]'"
        )


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    numbers = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    numbers = list(numbers) if isinstance(numbers, Iterable) and not isinstance(numbers, str) else []
    are_whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in numbers)
    if not numbers or not are_whole or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"seeds must be the number of runs of each method, >= 1, or their seeds, all different, got {seeds!r}"
        )
    return numbers


@contextlib.contextmanager
def _made(make_model: MakeModel, arguments: Mapping[str, Any]) -> Iterator[OffPolicyAlgorithm]:
    """A model to look at; its environment is closed afterwards."""
    names = ", ".join(["seed", *arguments])
    try:
        model = make_model(seed=0, **arguments)
    except TypeError as error:
        raise ValueError(
            f"make_model must take {names} and pass them on to the algorithm, overriding its own arguments, as in "
            f"DQN('MlpPolicy', env, **{{'buffer_size': 50_000, **arguments}}): {error}"
        ) from error
    if not isinstance(model, OffPolicyAlgorithm):
        raise TypeError(
            f"make_model must return an off-policy algorithm, such as DQN or SAC, got {type(model).__name__}"
        )
    if model.env is None:
        raise ValueError("make_model must return a model with an environment, got one without")
    if not is_vecenv_wrapped(model.env, VecMonitor) and not all(model.env.env_is_wrapped(Monitor)):
        raise ValueError(
            "returns of episodes are not known: wrap the environments of make_model in Monitor, or its VecEnv in "
            "VecMonitor, of stable_baselines3.common"
        )
    try:
        yield model
    finally:
        # A process of SubprocVecEnv that has failed
        with contextlib.suppress(EOFError, OSError):
            model.env.close()


def _check_is_used(model: OffPolicyAlgorithm, arguments: Mapping[str, Any], method: Method) -> None:
    """
    :raises ValueError: if the model was not made with the arguments of the method
    """
    for name, value in arguments.items():
        used = getattr(model, ATTRIBUTES.get(name, name), value)
        if name == "replay_buffer_kwargs":
            is_used = used == value
        elif name in CONVERTED or value is None:
            is_used = True
        else:
            is_used = used is value or used == value
        if not is_used:
            raise ValueError(
                f"method {method.name}: make_model was passed {name}={value!r}, and its model has {used!r}: pass all "
                "keyword arguments on to the algorithm"
            )
    _check_returns(model, method)


def _check_returns(model: OffPolicyAlgorithm, method: Method) -> None:
    """
    :raises ValueError: if the replay buffer makes other returns than the algorithm was asked for
    """
    buffer = model.replay_buffer
    n_steps, asked = getattr(buffer, "n_steps", 1), getattr(model, "n_steps", 1)
    if "n_steps" in method.given and n_steps != asked:
        raise ValueError(
            f"method {method.name}: n_steps={asked} has no effect with the replay buffer {type(buffer).__name__}, "
            f"which has n_steps={n_steps}: leave out n_steps, or make_model's replay_buffer_class"
        )


def _task_name(env: Any) -> str:
    spec = _specs(env)[0]
    name = spec.id if spec is not None else "task"
    return re.sub(r"[^\w.-]", "-", name)


def _specs(env: VecEnv) -> list[Any]:
    try:
        return env.get_attr("spec")
    except AttributeError:
        return [None] * env.num_envs
    except (EOFError, OSError) as error:
        raise ValueError(
            "the environment's spec cannot be sent between processes: register it with an entry point "
            "'module:Class' and plain arguments, or use DummyVecEnv"
        ) from error


def setup_of(model: OffPolicyAlgorithm, steps: int, of_env: list[dict[str, str]] | None = None) -> str:
    """
    :param model: A model that has not been trained
    :param steps: Steps of a run
    :param of_env: What :func:`_not_in_specs` found in the environments of another model that was made in the same way:
        what differs, such as the time or a random number, is no argument
    :return: Hash of its hyperparameters and its environments, eight digits, the same in every process
    """
    assert model.env is not None
    # It changes nothing in training
    hyperparameters = {**get_hyperparameters(model), "tensorboard_log": None}
    for name, value in hyperparameters.items():
        # What cannot be saved, such as schedules that are functions
        if isinstance(value, dict) and "$missing" in value:
            hyperparameters[name] = _described(getattr(model, ATTRIBUTES.get(name, name)))
    wrappers: list[Any] = []
    env = model.env
    while isinstance(env, VecEnvWrapper):
        wrappers.append(type(env).__name__)
        if isinstance(env, VecNormalize):
            wrappers += [env.norm_obs, env.norm_reward, env.clip_obs, env.clip_reward]
        env = env.venv
    spec = _specs(model.env)[0]
    of_spec = [] if spec is None else [spec.id, spec.kwargs, spec.max_episode_steps, spec.additional_wrappers]
    spaces = [model.observation_space, model.action_space]
    what = [hyperparameters, model.env.num_envs, wrappers, _described(of_spec), _described(spaces), steps]
    found = _not_in_specs(model.env)
    pairs = zip(found, found if of_env is None or len(of_env) != len(found) else of_env, strict=True)
    what += [dict(sorted(attributes.items() & others.items())) for attributes, others in pairs]
    return records.hash_of(_without_addresses(json.dumps(what, sort_keys=True)))


def _not_in_specs(env: VecEnv) -> list[dict[str, str]]:
    """What wrappers, and environments without a spec, were made with; those in other processes cannot be seen."""
    found: list[dict[str, str]] = []
    while isinstance(env, VecEnvWrapper):
        if not isinstance(env, VecMonitor):  # which holds the time
            found.append(_plain_attributes(env))
        env = env.venv
    for wrapped in env.envs if isinstance(env, DummyVecEnv) else ():
        has_spec = wrapped.spec is not None
        while isinstance(wrapped, gym.Wrapper):
            # The spec has the arguments of those that record them
            if not isinstance(wrapped, Monitor) and not (has_spec and isinstance(wrapped, RecordConstructorArgs)):
                found.append(_plain_attributes(wrapped))
            wrapped = wrapped.env
        if not has_spec:
            found.append(_plain_attributes(wrapped))
    return [attributes for attributes in found if attributes]


def _is_plain(value: Any) -> bool:
    """Whether it is a number, a text, a function, or a collection of such. Arrays are rather states than arguments."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    return isinstance(value, str | int | float | np.generic | types.FunctionType)


def _plain_attributes(of: Any) -> dict[str, str]:
    return {name: _described(value) for name, value in vars(of).items() if _is_plain(value)}


def _described(value: Any, inside: tuple[Any, ...] = ()) -> str:
    """
    A value as text: the code of a function and what it refers to, the parts of a collection, the type and attributes of
    an object.

    :param value: The value
    :param inside: What it is a part of
    """
    if any(value is outer for outer in inside):
        return "..."  # a function that calls itself, for instance
    parts: Any
    if isinstance(value, types.ModuleType | type):
        return value.__name__
    if isinstance(value, np.ndarray):  # repr() leaves out most of a long one
        parts = [value.dtype.str, value.shape, records.hash_of(value.tobytes().hex())]
    elif isinstance(value, types.FunctionType):
        parts = _parts_of_function(value)
    elif isinstance(value, types.CodeType):
        parts = [value.co_code.hex(), value.co_consts, value.co_names]
    elif isinstance(value, types.MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, list | tuple | dict):
        parts = value
    elif type(value).__repr__ is object.__repr__ and hasattr(value, "__dict__"):
        parts = dict(sorted(vars(value).items()))
    else:
        return _without_addresses(repr(value))
    named = parts.items() if isinstance(parts, dict) else enumerate(parts)
    described = [f"{name!r}: {_described(part, (*inside, value))}" for name, part in named]
    return f"{type(value).__qualname__} {{{', '.join(described)}}}"


def _parts_of_function(function: types.FunctionType) -> list[Any]:
    """What decides what a function returns: code, defaults, and what it and functions that it calls refer to."""
    parts: list[Any] = []
    functions = [function]
    for each in functions:
        codes = [each.__code__]
        for code in codes:
            codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        names = sorted({name for code in codes for name in code.co_names} & each.__globals__.keys())
        around = {name: each.__globals__[name] for name in names}
        values = {
            name: value if _is_plain(value) or isinstance(value, np.ndarray) else type(value).__qualname__
            for name, value in around.items()
            if not isinstance(value, types.FunctionType)
        }
        cells = [_content(cell) for cell in each.__closure__ or ()]
        parts.append([each.__qualname__, each.__code__, each.__defaults__, each.__kwdefaults__, cells, values])
        # Those of the same module: other packages are the same unless another version is installed
        functions += [
            other
            for other in around.values()
            if isinstance(other, types.FunctionType) and other.__module__ == each.__module__ and other not in functions
        ]
    return parts


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)
