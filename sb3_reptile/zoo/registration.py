"""Makes ReptileDQN one of rl_zoo3's algorithms, in this process, and tells where its hyperparameters are."""

import argparse
from pathlib import Path
from typing import Any

try:
    import rl_zoo3.train
    from rl_zoo3 import ALGOS
    from rl_zoo3.exp_manager import ExperimentManager
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
except ModuleNotFoundError as error:
    raise ImportError(
        f"the RL Zoo commands need the extra `zoo` (no module named {error.name!r} found): "
        "pip install 'sb3-reptile[zoo]'"
    ) from error

import sb3_reptile
from sb3_reptile.reptile_dqn import ReptileDQN

ALGO = "reptile_dqn"


def zoo_configs() -> Path:
    """
    :return: The folder that holds our RL Zoo hyperparameter files, one per algorithm
    """
    package = Path(sb3_reptile.__file__).parent
    in_wheel = package / "zoo_configs"
    return in_wheel if in_wheel.is_dir() else package.parent / "zoo_configs"


class ReptileExperimentManager(ExperimentManager):
    """rl_zoo3's experiment manager; without ``-conf``, ``reptile_dqn`` takes its hyperparameters from our file."""

    def __init__(self, args: argparse.Namespace, *others: Any, **kwargs: Any) -> None:
        super().__init__(args, *others, **kwargs)
        if self.algo == ALGO and args.conf_file is None:
            self.config = str(zoo_configs() / f"{ALGO}.yml")


def register() -> None:
    """Add ``reptile_dqn`` to what rl_zoo3 knows: the choices of ``--algo``, its hyperparameters and their search."""
    ALGOS[ALGO] = ReptileDQN
    # DQN's search space: every hyperparameter in it is one of ReptileDQN too
    HYPERPARAMS_SAMPLER[ALGO] = HYPERPARAMS_SAMPLER["dqn"]
    HYPERPARAMS_CONVERTER[ALGO] = HYPERPARAMS_CONVERTER["dqn"]
    rl_zoo3.train.ExperimentManager = ReptileExperimentManager  # type: ignore[misc]
