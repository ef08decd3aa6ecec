"""`sb3-reptile meta-train`: meta-training with Reptile, saved for ``pretrained=`` of ReptileDQN."""

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
from rl_zoo3 import ALGOS
from rl_zoo3.utils import StoreDict
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from sb3_reptile.checkpoint.run_folder import list_candidates
from sb3_reptile.meta import MetaCheckpoint, ReptileMetaLearner, resume
from sb3_reptile.meta.tasks import FAMILIES
from sb3_reptile.storage.values import to_json
from sb3_reptile.zoo.errors import describe, exit_with_error
from sb3_reptile.zoo.experiment_manager import ALGO

LINEAR = "lin_"


def _step_size(text: str) -> float | LinearSchedule:
    """A number, or ``lin_1.0`` for one that is annealed to 0."""
    try:
        value = float(text.removeprefix(LINEAR))
    except ValueError:
        raise argparse.ArgumentTypeError(f"it must be a number or {LINEAR}NUMBER, got {text!r}") from None
    return LinearSchedule(value, 0.0, 1.0) if text.startswith(LINEAR) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Meta-train with Reptile (Nichol et al. 2018): learn parameters from which the algorithm adapts to "
        "a new task in few steps. Another run starts from them with `sb3-reptile train -params "
        "pretrained:\"'meta.zip'\"`. With --checkpoint, the same command continues an interrupted meta-training."
    )
    tasks = parser.add_mutually_exclusive_group(required=True)
    tasks.add_argument("--tasks", choices=FAMILIES, help="a family of random tasks")
    tasks.add_argument("--env", nargs="+", metavar="ID", help="Gymnasium ids, one for each task")
    parser.add_argument("--task-params", nargs="+", action=StoreDict, default={}, help="arguments of the family")
    parser.add_argument("--algo", default=ALGO, help=f"the algorithm that is trained on each task (default: {ALGO})")
    parser.add_argument("--policy", default="MlpPolicy", help="its policy (default: MlpPolicy)")
    parser.add_argument(
        "-params",
        "--hyperparams",
        nargs="+",
        action=StoreDict,
        default={},
        help="its arguments, NAME:VALUE; also normalize, True or a dict of arguments of VecNormalize, and n_envs",
    )
    parser.add_argument("-n", "--meta-iterations", type=int, default=100, help="meta-iterations (default: 100)")
    parser.add_argument("--inner-timesteps", type=int, default=1_000, help="steps on each task (default: 1000)")
    parser.add_argument("--meta-batch-size", type=int, default=5, help="tasks of a meta-iteration (default: 5)")
    parser.add_argument(
        "--meta-step-size", type=_step_size, default="lin_1.0", help="number, or lin_NUMBER to anneal it (lin_1.0)"
    )
    parser.add_argument("--optimizer-state", choices=["fresh", "carried"], default="fresh", help="default: fresh")
    parser.add_argument("--replay-buffer", choices=["fresh", "task"], default="fresh", help="default: fresh")
    parser.add_argument("--processes", type=int, default=1, help="processes that train on tasks (default: 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="train on tasks on the nodes of this Ray cluster")
    parser.add_argument("--seed", type=int, help="random by default")
    parser.add_argument("--device", default="auto", help="PyTorch device (default: auto)")
    parser.add_argument("-o", "--output", type=Path, default=Path("meta.zip"), help="file to save (default: meta.zip)")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="folder of checkpoints to continue from")
    parser.add_argument("--save-freq", type=int, default=10, help="meta-iterations between checkpoints (default: 10)")
    parser.add_argument("-tb", "--tensorboard-log", default=None, help="folder of TensorBoard logs")
    parser.add_argument("-P", "--progress", action="store_true", help="show a progress bar")
    parser.add_argument("--verbose", type=int, default=1, help="0 for no output (default: 1)")
    return parser


def meta_train() -> None:
    """Run the command. Its arguments are those of the command line."""
    arguments = _parser().parse_args()
    if arguments.env and arguments.task_params:
        exit_with_error("--task-params are the arguments of a family of --tasks: leave them out with --env")
    algorithms = {name: cls for name, cls in ALGOS.items() if issubclass(cls, OffPolicyAlgorithm)}
    if arguments.algo not in algorithms:
        exit_with_error(f"--algo must be an off-policy algorithm, {', '.join(algorithms)}; got {arguments.algo!r}")
    if arguments.meta_iterations < 1:
        exit_with_error(f"--meta-iterations must be >= 1, got {arguments.meta_iterations}")
    if arguments.output.is_dir():
        exit_with_error(f"--output must be a file, {arguments.output} is a folder")
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        exit_with_error(f"--output cannot be written to {arguments.output}: {describe(error)}")
    learner = _learner(arguments, algorithms[arguments.algo])
    callback = None if arguments.checkpoint is None else MetaCheckpoint(arguments.save_freq, arguments.checkpoint)
    remaining = max(arguments.meta_iterations - learner.num_meta_iterations, 0)
    try:
        learner.learn(remaining, callback, reset_num_timesteps=False, progress_bar=arguments.progress)
    except KeyboardInterrupt:
        where = "" if arguments.checkpoint is None else "; repeat the same command to continue"
        raise SystemExit(f"stopped after {learner.num_meta_iterations} meta-iterations{where}") from None
    path = arguments.output if arguments.output.suffix else arguments.output.with_name(f"{arguments.output.name}.zip")
    learner.save(path)
    print(f"Saved to {path}")


def _learner(arguments: argparse.Namespace, algorithm: Any) -> Any:
    """A new meta-learner, or the one of the newest checkpoint."""
    tasks = arguments.env
    if arguments.tasks:
        try:
            tasks = FAMILIES[arguments.tasks](**arguments.task_params)
        except TypeError as error:
            exit_with_error(f"--task-params: {describe(error)}")
    hyperparams = dict(arguments.hyperparams)
    given: dict[str, Any] = dict(
        policy=arguments.policy,
        inner_timesteps=arguments.inner_timesteps,
        meta_batch_size=arguments.meta_batch_size,
        meta_step_size=arguments.meta_step_size,
        optimizer_state=arguments.optimizer_state,
        replay_buffer=arguments.replay_buffer,
        # Hyperparameters in the RL Zoo
        normalize=hyperparams.pop("normalize", False),
        n_envs=hyperparams.pop("n_envs", 1),
        algorithm_kwargs=hyperparams,
    )
    free = dict(
        n_processes=arguments.processes,
        ray=arguments.ray,
        tensorboard_log=arguments.tensorboard_log,
        verbose=arguments.verbose,
    )
    if arguments.checkpoint is not None and list_candidates(arguments.checkpoint):
        learner = resume(arguments.checkpoint, tasks, device=arguments.device, **free)
        _check_unchanged(learner, {**given, "algorithm": algorithm}, arguments)
        return learner
    if arguments.env:
        # Before training, so that an environment that cannot be made is one line
        for env_id in arguments.env:
            gym.make(env_id).close()
    return ReptileMetaLearner(algorithm, tasks, seed=arguments.seed, device=arguments.device, **given, **free)


def _check_unchanged(learner: Any, given: dict[str, Any], arguments: argparse.Namespace) -> None:
    saved = {name: getattr(learner, "policy_class" if name == "policy" else name) for name in given}
    changed = [name for name in given if _comparable(given[name]) != _comparable(saved[name])]
    if arguments.seed is not None and arguments.seed != learner.seed:
        changed.append("seed")
    if changed:
        exit_with_error(
            f"{arguments.checkpoint} was saved with another {changed[0]}: repeat the command as it was, or use another "
            "folder for --checkpoint"
        )


def _comparable(value: Any) -> Any:
    return to_json(value, "argument")
