"""The plot commands of rl_zoo3, which state what is missing where rl_zoo3 draws an empty figure or a table of zeros."""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from sb3_reptile.zoo.errors import exit_with_error

Check = Callable[[argparse.Namespace], None]


def plot_train() -> None:
    """``rl_zoo3.plots.plot_train``."""
    _run("plot_train", _check_runs)


def all_plots() -> None:
    """``rl_zoo3.plots.all_plots``."""
    _run("all_plots", _check_evaluations)


def plot_from_file() -> None:
    """``rl_zoo3.plots.plot_from_file``."""
    _run("plot_from_file", _check_input)


def _run(command: str, check: Check) -> None:
    from huggingface_sb3 import EnvironmentName

    class Parser(argparse.ArgumentParser):
        # rl_zoo3 passes the description as the name of the program, with which usage and errors begin
        def __init__(self, description: str) -> None:
            super().__init__(description=description)

        def parse_args(self) -> argparse.Namespace:  # type: ignore[override]
            given = super().parse_args()
            if getattr(given, "env", None):
                given.env = [str(EnvironmentName(env)) for env in given.env]  # as folders of runs are called
            check(given)
            return given

    module = importlib.import_module(f"rl_zoo3.plots.{command}")
    module.argparse = SimpleNamespace(ArgumentParser=Parser)  # type: ignore[attr-defined]
    getattr(module, command)()


def _check_runs(given: argparse.Namespace) -> None:
    if given.episode_window < 1:
        exit_with_error(f"--episode-window must be >= 1 (episodes), got {given.episode_window}")
    folder = Path(given.exp_folder, given.algo)
    if not folder.is_dir():
        exit_with_error(f"there is no folder {folder}: -f takes the log folder, -a an algorithm that was trained there")
    for env in given.env:
        if not any(env in run.name and run.is_dir() for run in folder.iterdir()):
            exit_with_error(f"there is no run of {env} in {folder}")


def _check_evaluations(given: argparse.Namespace) -> None:
    for option, values in (("-e/--env", given.env), ("-f/--exp-folders", given.exp_folders)):
        if not values:
            exit_with_error(f"all_plots needs {option}")
    folders = [Path(folder, algo.lower()) for folder in given.exp_folders for algo in given.algos]
    for env in given.env:
        if not any(found for folder in folders for found in folder.glob(f"*{env}*/evaluations.npz")):
            exit_with_error(
                f"there is no evaluations.npz of a run of {env} in {', '.join(map(str, folders))}: "
                "train with evaluations (--eval-freq)"
            )


def _check_input(given: argparse.Namespace) -> None:
    if given.input is None:
        exit_with_error("plot_from_file needs -i FILE, which all_plots -o FILE writes")
