"""Every patch of rl_zoo3, of the libraries that it calls, and of ``subprocess`` that our commands need."""

import subprocess
import sys
from typing import Any

# First: its error names the extra if rl_zoo3 is missing
from sb3_reptile.zoo.experiment_manager import (  # isort: split
    ALGO,
    SBX,
    DriftTrialEvalCallback,
    ReptileExperimentManager,
    SaveWholeVecNormalizeCallback,
)

import rl_zoo3.exp_manager
import rl_zoo3.train
import rl_zoo3.utils
from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_reptile.callbacks import DriftEvalCallback
from sb3_reptile.reptile_dqn import ReptileDQN
from sb3_reptile.zoo.arguments import store_values
from sb3_reptile.zoo.search import convert_reptile_dqn_params, sample_reptile_dqn_params


def register(algo: str = ALGO) -> None:
    """
    Register ReptileDQN with rl_zoo3 in this process: the algorithm, its hyperparameter search space, the drifting
    tasks, an experiment manager that can resume runs, and evaluations in the phase of training.

    :param algo: Name of the algorithm, the argument of ``--algo``
    """
    ALGOS[algo] = ReptileDQN
    HYPERPARAMS_SAMPLER[algo] = sample_reptile_dqn_params
    HYPERPARAMS_CONVERTER[algo] = convert_reptile_dqn_params
    rl_zoo3.train.ExperimentManager = ReptileExperimentManager  # type: ignore[misc]

    rl_zoo3.exp_manager.EvalCallback = DriftEvalCallback  # type: ignore[misc]
    rl_zoo3.exp_manager.TrialEvalCallback = DriftTrialEvalCallback  # type: ignore[misc]
    rl_zoo3.exp_manager.SaveVecNormalizeCallback = SaveWholeVecNormalizeCallback  # type: ignore[misc]


def register_sbx() -> None:
    """
    Register SBX's algorithms with decayed replay as ``sbx_dqn``, ``sbx_sac``, ``sbx_td3``, ``sbx_tqc`` and
    ``sbx_crossq``, with the search spaces of SB3's. It imports JAX, which takes seconds.

    :raises ImportError: if the extra ``sbx`` is missing
    """
    from sb3_reptile.sbx import ALGORITHMS

    ALGOS.update(ALGORITHMS)
    tables: list[dict[str, Any]] = [HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER]
    for table in tables:
        theirs = {name: table[name.removeprefix(SBX)] for name in ALGORITHMS if name.removeprefix(SBX) in table}
        table.update(theirs)


def patch_arguments() -> None:
    """
    Let ``-params`` and the other arguments of pairs ``NAME:VALUE`` take words, and give one line for what they do not
    take.
    """
    rl_zoo3.utils.StoreDict.__call__ = store_values  # type: ignore[method-assign]


def patch_commands() -> None:
    """
    Make ``rl_zoo3.benchmark`` evaluate agents with our ``enjoy``, and ``rl_zoo3.record_training`` record them with our
    ``record_video``. They start ``python enjoy.py``, which exists only in a clone of the RL Zoo, and
    ``python -m rl_zoo3.record_video``, which does not know our algorithm.
    """
    subprocess.call = _call_our_command  # type: ignore[assignment]


def _call_our_command(command: list[str], **kwargs: Any) -> int:
    for theirs, ours in (["enjoy.py"], "enjoy"), (["-m", "rl_zoo3.record_video"], "record_video"):
        if command[: len(theirs) + 1] == ["python", *theirs]:
            command = [sys.executable, "-m", "sb3_reptile.zoo", ours, *command[len(theirs) + 1 :]]
    return subprocess.run(command, **kwargs).returncode


def patch_hub(ours: bool) -> None:
    """
    Make ``rl_zoo3.push_to_hub`` work with today's huggingface_sb3, and without a network. Call it before
    ``rl_zoo3.push_to_hub`` is imported.

    :param ours: Whether the algorithm is one that rl_zoo3 does not have, whose model card names our commands
    """
    import huggingface_hub

    from sb3_reptile.zoo.hub import Hub, generate_metadata, metadata_module

    # rl_zoo3 2.9 imports this name, which later versions of huggingface_sb3 do not have
    if not hasattr(metadata_module, "generate_metadata"):
        metadata_module.generate_metadata = generate_metadata  # type: ignore[attr-defined]
    Hub.ours = ours
    huggingface_hub.HfApi = Hub  # type: ignore[misc]
