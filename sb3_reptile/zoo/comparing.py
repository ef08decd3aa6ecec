"""``sb3-reptile compare``: methods of replay on the user's task, with hyperparameters as the RL Zoo reads them."""

import argparse
import contextlib
import difflib
import importlib
import io
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
from rl_zoo3 import ALGOS
from rl_zoo3.utils import StoreDict
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_reptile.evaluation import comparing
from sb3_reptile.evaluation.methods import STANDARD
from sb3_reptile.storage.errors import InUseError
from sb3_reptile.zoo.arguments import evaluate
from sb3_reptile.zoo.errors import PROGRAM, exit_with_error
from sb3_reptile.zoo.experiment_manager import ALGO, ReptileExperimentManager


class ComparedExperiment(ReptileExperimentManager):
    """
    rl_zoo3's experiment manager for a run of a comparison: it writes no files, evaluates nothing, and overrides
    hyperparameters by those of the method.
    """

    #: Arguments of the method
    replaced: Mapping[str, Any] = MappingProxyType({})

    def create_log_folder(self) -> None:
        pass

    def create_callbacks(self) -> None:
        pass

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        pass

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        return super().create_envs(n_envs, eval_env, no_log=True)

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        return super()._preprocess_action_noise(hyperparams, saved_hyperparams, env) | dict(self.replaced)


@dataclass(frozen=True)
class ZooModel:
    """
    Makes models as ``sb3-reptile train`` does.

    :param arguments: Arguments of the command line
    """

    arguments: argparse.Namespace

    def __call__(self, seed: int, **replaced: Any) -> Any:
        return self.set_up(seed, **replaced)[1]

    def set_up(self, seed: int, **replaced: Any) -> tuple[ComparedExperiment, Any]:
        """
        :param seed: Seed
        :param replaced: Arguments of the algorithm that override the hyperparameters
        :return: The experiment and its model
        """
        from sb3_reptile.zoo import patches

        patches.register()
        given = self.arguments
        for package in given.gym_packages:
            importlib.import_module(package)
        experiment = ComparedExperiment(
            given,
            given.algo,
            given.env,
            given.log_folder,
            n_timesteps=given.n_timesteps,
            hyperparams=dict(given.hyperparams or {}),
            env_kwargs=dict(given.env_kwargs or {}),
            seed=seed,
            vec_env_type=given.vec_env,
            device=given.device,
            config=given.conf_file,
            verbose=0,
        )
        experiment.replaced = replaced
        # rl_zoo3 prints the hyperparameters of every run
        with contextlib.redirect_stdout(io.StringIO()):
            set_up = experiment.setup_experiment()
        assert set_up is not None
        return experiment, set_up[0]


def compare() -> None:
    """
    Run the command. Its arguments are those of the command line; it exits with code 2 if they are wrong, and with code
    1 if runs failed or were interrupted.
    """
    given = _parse()
    _check_environment(given)
    make_model = ZooModel(given)
    experiment, model = make_model.set_up(seed=0)
    model.env.close()
    if experiment.callbacks:
        names = ", ".join(type(callback).__name__ for callback in experiment.callbacks)
        print(f"Callbacks of the hyperparameter file are left out: {names}", file=sys.stderr)
    folder = Path(given.log_folder, "compare", given.algo, str(experiment.env_name))
    print(
        f"Comparing methods of replay on {given.env}: {experiment.n_timesteps:,} steps, {given.seeds} seeds, {folder}"
    )
    command = shlex.join([PROGRAM, "compare", *sys.argv[1:]])
    try:
        found = comparing.compare(
            make_model,
            _methods(given.methods),
            given.seeds,
            experiment.n_timesteps,
            folder,
            given.jobs,
            given.ray,
            task=str(experiment.env_name),
            command=command,
        )
    except KeyboardInterrupt:
        raise SystemExit("stopped; repeat the same command to continue") from None
    except InUseError as error:
        exit_with_error(str(error))
    except RuntimeError as error:
        raise SystemExit(f"{PROGRAM}: {error}") from None
    print(f"\n{found.verdict}\n\nThe report is in {folder / 'comparison.md'}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train an algorithm on your task with several methods of replay, and write a report with a "
        "verdict: LOG_FOLDER/compare/ALGO/ENV/comparison.md, with a figure and a table (.png, .csv). The same command "
        "continues a comparison that was interrupted.",
    )
    off_policy = [name for name, algorithm in ALGOS.items() if issubclass(algorithm, OffPolicyAlgorithm)]
    add = parser.add_argument
    add("--algo", help=f"RL algorithm (off-policy, default: {ALGO})", default=ALGO, choices=off_policy)
    add("--env", help="environment ID (default: CartPole-v1)", default="CartPole-v1")
    add(
        "-n", "--n-timesteps", help="overwrite the number of timesteps of the hyperparameter file", default=-1, type=int
    )
    add("--seeds", help="number of runs of each method (default: 5)", default=5, type=int)
    add("-j", "--jobs", help="number of runs at once (default: 2, or the processors of the cluster)", type=int)
    add(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help=f"of {', '.join(STANDARD)}, those that are named are trained, or all if none is; others are added: "
        "fifo:SIZE, or options of the replay buffer and arguments of the algorithm, NAME:VALUE[;NAME:VALUE], for "
        "example half_life:300",
    )
    add("--ray", metavar="ADDRESS", help="train on the Ray cluster at this address (extra `ray`)")
    add("-f", "--log-folder", help="log folder (default: logs)", default="logs")
    add("--vec-env", help="VecEnv type", default="dummy", choices=["dummy", "subproc"])
    add("--device", help="PyTorch device (cpu, cuda, ...)", default="auto")
    add("--gym-packages", nargs="+", default=[], help="packages to import that register environments")
    add("--env-kwargs", nargs="+", action=StoreDict, help="arguments of the environment, NAME:VALUE")
    add("-params", "--hyperparams", nargs="+", action=StoreDict, help="overwrite hyperparameters, NAME:VALUE")
    add("-conf", "--conf-file", help="YAML file or Python package with the hyperparameters")
    given = parser.parse_args()
    if given.conf_file is not None and Path(given.conf_file).exists():
        # Nodes of a cluster work elsewhere
        given.conf_file = str(Path(given.conf_file).absolute())
    for name in ("seeds", "jobs", "n_timesteps"):
        value = getattr(given, name)
        if value is not None and value < 1 and not (name == "n_timesteps" and value == -1):
            exit_with_error(f"--{name.replace('_', '-')} must be a whole number >= 1, got {value}")
    return given


def _check_environment(given: argparse.Namespace) -> None:
    for package in given.gym_packages:
        importlib.import_module(package)
    if given.env not in gym.registry:
        closest = difflib.get_close_matches(given.env, gym.registry, n=1)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        exit_with_error(f"{given.env} is not a registered environment{hint}")


def _methods(named: list[str] | None) -> list[str | Mapping[str, Any]] | None:
    return None if named is None else [_method(name) for name in named]


def _method(name: str) -> str | dict[str, Any]:
    """A name, or NAME:VALUE pairs."""
    if ":" not in name or name.startswith("fifo:"):
        return name
    arguments = {}
    for part in name.split(";"):
        option, colon, value = part.partition(":")
        if not option or not colon or not value:
            exit_with_error(
                f"--methods takes {', '.join(STANDARD)}, fifo:SIZE or NAME:VALUE[;NAME:VALUE], got {name!r}"
            )
        arguments[option] = evaluate(value, f"--methods {option}")
    return arguments
