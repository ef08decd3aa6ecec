"""Makes ReptileDQN one of rl_zoo3's algorithms, in this process, and tells where its hyperparameters are."""

import argparse
import csv
import functools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

try:
    import optuna
    import rl_zoo3.train
    from rl_zoo3 import ALGOS
    from rl_zoo3.exp_manager import ExperimentManager
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from sqlalchemy.exc import DBAPIError
except ModuleNotFoundError as error:
    raise ImportError(
        f"the RL Zoo commands need the extra `zoo` (no module named {error.name!r} found): "
        "pip install 'sb3-reptile[zoo]'"
    ) from error
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import CSVOutputFormat
from stable_baselines3.common.vec_env import VecEnv

import sb3_reptile.envs  # registers the environments
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.reptile_dqn import ReptileDQN
from sb3_reptile.storage import StorageError
from sb3_reptile.storage.values import arguments_to_json
from sb3_reptile.zoo.search import convert_reptile_dqn_params, sample_reptile_dqn_params

ALGO = "reptile_dqn"
# What is logged during training, in the folder of a run
LOG_FILE = "progress.csv"
STEPS = "time/total_timesteps"


def zoo_configs() -> Path:
    """
    :return: The folder that holds our RL Zoo hyperparameter files, one per algorithm
    """
    package = Path(sb3_reptile.__file__).parent
    in_wheel = package / "zoo_configs"
    return in_wheel if in_wheel.is_dir() else package.parent / "zoo_configs"


class LogToFile(BaseCallback):
    """
    Writes what is logged to a CSV file too. What it holds up to the step at which training begins stays.

    :param path: The file
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def _on_training_start(self) -> None:
        rows: list[dict[str, str]] = []
        if self.num_timesteps > 0 and self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row.get(STEPS) or 0) <= self.num_timesteps]
        output = CSVOutputFormat(str(self.path))
        for row in rows:
            output.write(row, dict.fromkeys(row, ()))
        self.logger.output_formats.append(output)

    def _on_step(self) -> bool:
        return True


class ReptileExperimentManager(ExperimentManager):
    """
    rl_zoo3's experiment manager. Without ``-conf``, ``reptile_dqn`` takes its hyperparameters from our file; what is
    logged is kept in the folder of the run, and so are checkpoints whose path is not absolute.
    """

    #: Folder of a run that goes on from its last checkpoint
    resumed_run: Path | None = None

    def __init__(self, args: argparse.Namespace, *others: Any, **kwargs: Any) -> None:
        super().__init__(args, *others, **kwargs)
        if self.algo == ALGO and args.conf_file is None:
            self.config = str(zoo_configs() / f"{ALGO}.yml")
        if self.resumed_run is not None:
            if not self.resumed_run.is_dir():
                sys.exit(f"error: there is no {self.resumed_run}; --resume takes the folder of a run")
            self.save_path = str(self.resumed_run)
            self.params_path = f"{self.save_path}/{self.env_name}"
            self.continue_training = True

    def create_callbacks(self) -> None:
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, ResumableCheckpoint):
                callback.path = Path(self.save_path) / callback.path

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        if self.resumed_run is not None:
            self.monitor_kwargs = {**self.monitor_kwargs, "override_existing": False}
        return super().create_envs(n_envs, eval_env, no_log)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        if self.resumed_run is None:
            return super()._load_pretrained_agent(hyperparams, env)
        checkpoints = [callback for callback in self.callbacks if isinstance(callback, ResumableCheckpoint)]
        if not checkpoints:
            sys.exit("error: --resume needs a ResumableCheckpoint among the callbacks of the hyperparameter file")
        settings = {"verbose": self.verbose, "tensorboard_log": self.tensorboard_log}
        told = arguments_to_json(hyperparams).items()
        functions = {name: hyperparams[name] for name, value in told if isinstance(value, dict) and "$missing" in value}
        try:
            model = resume(checkpoints[0].path, env, device=self.device, **settings, **functions)
        except (StorageError, FileNotFoundError) as error:
            sys.exit(f"error: {error}")
        print(f"Resumed at step {model.num_timesteps}")
        return model

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return super().read_hyperparameters()
        except ValueError as error:
            if "Hyperparameters not found" not in str(error):
                raise
            sys.exit(f"error: {error}; name a file that has an entry for it, or one named `default`, with -conf")

    def hyperparameters_optimization(self) -> None:
        if self.storage is not None and not self.storage.endswith(".log"):
            make_tables(self.storage)
        super().hyperparameters_optimization()

    def learn(self, model: BaseAlgorithm) -> None:
        self.callbacks.append(LogToFile(f"{self.save_path}/{LOG_FILE}"))
        if self.resumed_run is None:
            super().learn(model)
            return
        for callback in self.callbacks:
            callback.n_calls = model.num_timesteps // model.n_envs
            if isinstance(callback, EvalCallback):
                _remember_evaluations(callback, model.num_timesteps)
        self.n_timesteps -= model.num_timesteps
        if self.n_timesteps <= 0:
            sys.exit(f"error: {model.num_timesteps} steps are done already; name a larger number of them with -n")
        model.learn = functools.partial(model.learn, reset_num_timesteps=False)  # type: ignore[method-assign]
        try:
            super().learn(model)
        finally:
            del model.learn  # it would be saved with the model


def _remember_evaluations(callback: EvalCallback, num_timesteps: int) -> None:
    """What was evaluated up to a step."""
    path = Path(f"{callback.log_path}.npz")
    if not path.is_file():
        return
    with np.load(path, allow_pickle=False) as evaluations:
        known = evaluations["timesteps"] <= num_timesteps
        callback.evaluations_timesteps = evaluations["timesteps"][known].tolist()
        callback.evaluations_results = evaluations["results"][known].tolist()
        callback.evaluations_length = evaluations["ep_lengths"][known].tolist()
        if "successes" in evaluations:
            callback.evaluations_successes = evaluations["successes"][known].tolist()
    callback.best_mean_reward = max((float(np.mean(r)) for r in callback.evaluations_results), default=-np.inf)


def make_tables(url: str, attempts: int = 10) -> None:
    """
    Make the tables of a study in a database that may have none yet. Optuna does so by itself, but one of two processes
    that begin at the same time then fails, as the other's tables are there before its own.

    :param url: URL of the database
    :param attempts: How often to try
    :raises sqlalchemy.exc.DBAPIError: if the last attempt fails too
    """
    for attempt in range(1, attempts + 1):
        try:
            optuna.storages.RDBStorage(url)
            return
        except DBAPIError:
            if attempt == attempts:
                raise
            time.sleep(0.2 * attempt)


def register(algo: str = ALGO) -> None:
    """
    Let rl_zoo3 know ReptileDQN, the space in which its hyperparameters are searched, and our environments.

    :param algo: What ``--algo`` calls it
    """
    ALGOS[algo] = ReptileDQN
    HYPERPARAMS_SAMPLER[algo] = sample_reptile_dqn_params
    HYPERPARAMS_CONVERTER[algo] = convert_reptile_dqn_params
    rl_zoo3.train.ExperimentManager = ReptileExperimentManager  # type: ignore[misc]
