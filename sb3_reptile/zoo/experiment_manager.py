"""The experiment manager behind ``sb3-reptile train``: our hyperparameter files, logs, and resumed runs."""

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
    from rl_zoo3.exp_manager import ExperimentManager
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
from sb3_reptile.storage import StorageError
from sb3_reptile.storage.values import arguments_to_json

ALGO = "reptile_dqn"
# The training log in the folder of a run, and its column of environment steps
LOG_FILE = "progress.csv"
STEPS = "time/total_timesteps"


def zoo_configs() -> Path:
    """
    :return: Folder of the RL Zoo hyperparameter files of this package, one per algorithm
    """
    package = Path(sb3_reptile.__file__).parent
    in_wheel = package / "zoo_configs"
    return in_wheel if in_wheel.is_dir() else package.parent / "zoo_configs"


class LogToFile(BaseCallback):
    """
    Also write the training log to a CSV file. A resumed run keeps the rows up to the step at which it continues.

    :param path: Path of the file
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
    rl_zoo3's experiment manager, which also resumes runs. Without ``-conf``, ``reptile_dqn`` reads the hyperparameter
    file of this package. The folder of the run also holds the training log, and checkpoints whose path is relative.
    """

    #: Folder of the run to resume from its last checkpoint
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
        # What a checkpoint cannot hold, schedules that are functions for instance, comes from the hyperparameter file
        stored = arguments_to_json(hyperparams).items()
        missing = {name: hyperparams[name] for name, value in stored if isinstance(value, dict) and "$missing" in value}
        # A checkpoint does not say where to write
        storage_dir = (hyperparams.get("replay_buffer_kwargs") or {}).get("storage_dir")
        if storage_dir is not None:
            missing.setdefault("replay_buffer_kwargs", {"storage_dir": storage_dir})
        try:
            model = resume(checkpoints[0].path, env, device=self.device, **settings, **missing)
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
            sys.exit(f"error: {error}; pass a file with an entry for it, or with an entry `default`, by -conf")

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
            sys.exit(f"error: {model.num_timesteps} steps are done already; pass a larger number of steps by -n")
        # rl_zoo3 passes no such argument. This sets an attribute of one model, no class is patched.
        model.learn = functools.partial(model.learn, reset_num_timesteps=False)  # type: ignore[method-assign]
        try:
            super().learn(model)
        finally:
            del model.learn  # otherwise it would be saved with the model


def _remember_evaluations(callback: EvalCallback, num_timesteps: int) -> None:
    """
    Restore the evaluations up to a step, so that the callback appends to its file and keeps the best model.

    :param callback: The evaluation callback
    :param num_timesteps: Step at which the run continues
    """
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
    Create Optuna's tables in a database. Optuna also creates them, but fails if another process creates them at the
    same time.

    :param url: URL of the database
    :param attempts: Number of attempts
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
