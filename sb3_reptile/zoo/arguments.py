"""Arguments of the command line that rl_zoo3 does not have, or reads in another way."""

import argparse
import builtins
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import rl_zoo3.utils
import yaml

from sb3_reptile.zoo.errors import describe, exit_with_error
from sb3_reptile.zoo.experiment_manager import ALGO

WORD = re.compile(r"[\w.+/-]+")
# Commands of rl_zoo3 that have --algo, -a or --algos
OF_ALGORITHMS = (
    "train",
    "enjoy",
    "record_video",
    "record_training",
    "plot_train",
    "all_plots",
    "push_to_hub",
    "load_from_hub",
)

# Commands of rl_zoo3 whose numbers and folders are checked first
CHECKED = ("train", "enjoy", "record_video", "record_training", "benchmark", "push_to_hub")
NUMBERS = (("-n", "--n-timesteps"), ("--eval-episodes",), ("--n-eval-envs",), ("--n-envs",), ("--n-trials",))
FOLDERS = (("-tb", "--tensorboard-log"), ("-o", "--output-folder"))


def add_default_algorithm(command: str) -> list[str]:
    """
    Add ReptileDQN to the command line if it names no algorithm.

    :param command: The command
    :return: The algorithms that the command line names now
    """
    if command not in OF_ALGORITHMS:
        return []
    parser = argparse.ArgumentParser(add_help=False)
    option = {"plot_train": "-a", "all_plots": "-a"}.get(command, "--algo")
    names = ["-a", "--algos" if command == "all_plots" else "--algo"] if option == "-a" else ["--algo"]
    parser.add_argument(*names, dest="algo", nargs="*")
    algorithms = parser.parse_known_args()[0].algo
    if algorithms is None:
        sys.argv[1:1] = [option, ALGO]
        return [ALGO]
    return algorithms


def check_values(command: str) -> None:
    """
    End the process with a message for values with which rl_zoo3 does nothing, or fails in the middle.

    :param command: The command
    """
    if command not in CHECKED:
        return
    parser = argparse.ArgumentParser(prog=sys.argv[0], add_help=False, allow_abbrev=False)
    for names in NUMBERS:
        parser.add_argument(*names)
    for names in FOLDERS:
        parser.add_argument(*names, type=Path)
    for name in ("--trial-id", "--study-name", "--storage"):
        parser.add_argument(name)
    given = vars(parser.parse_known_args()[0])

    for names in NUMBERS:
        value = given[names[-1].strip("-").replace("-", "_")]
        # Other text is an error of rl_zoo3's parser; -1 is its default for the steps of training
        is_default = (command, names[0], value) == ("train", "-n", "-1")
        if value is not None and re.fullmatch(r"-?\d+", value) and int(value) < 1 and not is_default:
            exit_with_error(f"{'/'.join(names)} must be >= 1, got {value}")
    for names in FOLDERS:
        folder = given[names[-1].strip("-").replace("-", "_")]
        if folder is not None and any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
            exit_with_error(f"{'/'.join(names)} must be a folder, {folder} is or goes through a file")
    if given["trial_id"] is not None and (given["study_name"] is None or given["storage"] is None):
        exit_with_error("--trial-id needs --storage and --study-name, which say where the trial is")


def _additional(**settings: Any) -> tuple[argparse.ArgumentParser, argparse._ArgumentGroup]:
    parser = argparse.ArgumentParser(prog=sys.argv[0], add_help=False, allow_abbrev=False, **settings)
    return parser, parser.add_argument_group("arguments that rl_zoo3 does not have")


def _parser_of_resuming() -> argparse.ArgumentParser:
    parser, group = _additional()
    group.add_argument(
        "--resume", type=Path, metavar="RUN", help="continue from the last checkpoint in this folder of a run"
    )
    return parser


def _parser_of_ray() -> argparse.ArgumentParser:
    parser, group = _additional()
    group.add_argument("--vec-env", metavar="ray", help="environments on a Ray cluster (extra `ray`)")
    group.add_argument("--ray", metavar="ADDRESS", help="of the Ray cluster (default: a Ray on this machine)")
    group.add_argument("--vec-env-kwargs", nargs="+", metavar="NAME:VALUE", help="arguments of RayVecEnv")
    return parser


def describe_additional_arguments() -> str:
    """
    :return: What ``train --help`` says of the arguments that rl_zoo3 does not have
    """
    parents = [_parser_of_resuming(), _parser_of_ray()]
    return _additional(parents=parents, usage=argparse.SUPPRESS)[0].format_help()


def take_resumed_run() -> Path | None:
    """
    Remove ``--resume`` from the command line.

    :return: Its value
    """
    ours, sys.argv[1:] = _parser_of_resuming().parse_known_args()
    return ours.resume


def take_ray_arguments() -> dict[str, Any] | None:
    """
    Remove ``--vec-env ray``, ``--ray`` and ``--vec-env-kwargs`` from the command line.

    :return: Arguments of ``RayVecEnv``, None without ``--vec-env ray``
    """
    parser = _parser_of_ray()
    ours, others = parser.parse_known_args()
    if ours.vec_env != "ray":
        for option, value in (("--ray", ours.ray), ("--vec-env-kwargs", ours.vec_env_kwargs)):
            if value is not None:
                exit_with_error(f"{option} needs --vec-env ray, got {option} {value} without it")
        return None
    sys.argv[1:] = others
    given = argparse.Namespace(values={})
    if ours.vec_env_kwargs is not None:
        action = argparse.Action(["--vec-env-kwargs"], "values")
        store_values(action, parser, given, ours.vec_env_kwargs, "--vec-env-kwargs")
    return {**given.values, "address": ours.ray}


def store_values(
    action: argparse.Action,
    parser: argparse.ArgumentParser,
    namespace: argparse.Namespace,
    values: Sequence[str],
    option_string: str | None = None,
) -> None:
    """
    Store the values of ``-params NAME:VALUE ...`` and similar options, instead of ``rl_zoo3.utils.StoreDict.__call__``:
    a value is Python, or else a word as in a YAML file. The process ends with a message if it is neither.

    :param action: The action of the argument
    :param parser: The parser
    :param namespace: Where the dictionary is stored
    :param values: Names and values
    :param option_string: The argument as it was given
    """
    stored = {}
    for given in values:
        name, colon, value = given.partition(":")
        if not name or not colon or not value:
            exit_with_error(f"{option_string} takes NAME:VALUE, got {given!r}")
        stored[name] = evaluate(value, f"{option_string} {name}")
    setattr(namespace, action.dest, stored)


def evaluate(value: str, of: str) -> Any:
    """
    :param value: Python with the names that rl_zoo3 knows there, or a word: ``auto``, ``inf``, ``true``, ``lin_0.001``
    :param of: What the value is of, for messages
    :return: The value
    """
    try:
        found = eval(value, vars(rl_zoo3.utils))
        # A word that Python has a function or module of: all, max, time
        is_name = hasattr(builtins, value) and not keyword.iskeyword(value)
        return value if is_name or isinstance(found, ModuleType) else found
    except Exception as error:
        if isinstance(error, NameError | SyntaxError) and WORD.fullmatch(value):
            return float(value) if value.lstrip("+-") in ("inf", "nan") else yaml.safe_load(value)
        reason = error.msg if isinstance(error, SyntaxError) else describe(error)
        exit_with_error(
            f"{of}: {value!r} is neither Python nor a word ({reason}); quote text for Python and for the shell: "
            f"{of.rpartition(' ')[2]}:\"'text'\""
        )
