"""Makes ReptileDQN one of rl_zoo3's algorithms, in this process, and tells where its hyperparameters are."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

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
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat

import sb3_reptile.envs  # registers the environments
from sb3_reptile.reptile_dqn import ReptileDQN
from sb3_reptile.zoo.search import convert_reptile_dqn_params, sample_reptile_dqn_params

ALGO = "reptile_dqn"
# What is logged during training, in the folder of a run
LOG_FILE = "progress.csv"


def zoo_configs() -> Path:
    """
    :return: The folder that holds our RL Zoo hyperparameter files, one per algorithm
    """
    package = Path(sb3_reptile.__file__).parent
    in_wheel = package / "zoo_configs"
    return in_wheel if in_wheel.is_dir() else package.parent / "zoo_configs"


class LogToFile(BaseCallback):
    """
    Writes what is logged to a CSV file too.

    :param path: The file
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def _on_training_start(self) -> None:
        self.logger.output_formats.append(CSVOutputFormat(self.path))

    def _on_step(self) -> bool:
        return True


class ReptileExperimentManager(ExperimentManager):
    """
    rl_zoo3's experiment manager. Without ``-conf``, ``reptile_dqn`` takes its hyperparameters from our file; what is
    logged is kept in the folder of the run.
    """

    def __init__(self, args: argparse.Namespace, *others: Any, **kwargs: Any) -> None:
        super().__init__(args, *others, **kwargs)
        if self.algo == ALGO and args.conf_file is None:
            self.config = str(zoo_configs() / f"{ALGO}.yml")

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
        super().learn(model)


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
