"""The commands of ``sb3-reptile``: one line of a table for each, and how those of the RL Zoo are started."""

import argparse
import importlib
import runpy
import shutil
import sys
from dataclasses import dataclass

from sb3_reptile.zoo.errors import exit_with_error


@dataclass(frozen=True)
class Command:
    """
    :param what: What the command does, for ``--help``
    :param target: ``module:function``, or a module that is run as a script. It reads its arguments from ``sys.argv``
    :param ours: Whether the arguments are this package's instead of the RL Zoo's
    """

    what: str
    target: str
    ours: bool = False

    def run(self) -> None:
        """Run the command; it is imported now."""
        module, _, function = self.target.partition(":")
        if function:
            getattr(importlib.import_module(module), function)()
        else:
            runpy.run_module(module, run_name="__main__")


COMMANDS = {
    "train": Command("train an agent, or search for hyperparameters", f"{__name__}:train"),
    "enjoy": Command("watch a trained agent", "rl_zoo3.enjoy:enjoy"),
    "record_video": Command("record a video of a trained agent", "rl_zoo3.record_video"),
    "record_training": Command(
        "record videos of the checkpoints of a run, and join them (needs ffmpeg)", f"{__name__}:record_training"
    ),
    "plot_train": Command("plot the returns during training", "sb3_reptile.zoo.plotting:plot_train"),
    "all_plots": Command("gather evaluations: plots and a table", "sb3_reptile.zoo.plotting:all_plots"),
    "plot_from_file": Command("plot what all_plots saved", "sb3_reptile.zoo.plotting:plot_from_file"),
    "benchmark": Command("evaluate all trained agents", f"{__name__}:benchmark"),
    "push_to_hub": Command(
        "write a model card, and upload the agent to the Hugging Face hub", f"{__name__}:push_to_hub"
    ),
    "load_from_hub": Command("download an agent from the Hugging Face hub", "rl_zoo3.load_from_hub"),
    "compare": Command(
        "compare methods of replay on your task: which one helps?", "sb3_reptile.zoo.comparing:compare", ours=True
    ),
    "meta-train": Command(
        "learn parameters that adapt fast to new tasks (Reptile meta-learning)",
        "sb3_reptile.zoo.meta_training:meta_train",
        ours=True,
    ),
    "inspect": Command("draw what replay was doing", "sb3_reptile.zoo.inspection:inspect", ours=True),
}


def _help_is_wanted() -> bool:
    return not {"-h", "--help"}.isdisjoint(sys.argv)


def train() -> None:
    """``rl_zoo3.train``, which also takes ``--resume`` and what environments on a Ray cluster need."""
    from rl_zoo3.train import train

    from sb3_reptile.zoo.arguments import describe_additional_arguments, take_ray_arguments, take_resumed_run
    from sb3_reptile.zoo.experiment_manager import ReptileExperimentManager

    ReptileExperimentManager.resumed_run = take_resumed_run()
    ReptileExperimentManager.ray_arguments = take_ray_arguments()
    try:
        train()
    finally:
        if _help_is_wanted():
            print(f"\n{describe_additional_arguments()}", end="")


def record_training() -> None:
    """``rl_zoo3.record_training``, recorded by our ``record_video``."""
    from sb3_reptile.zoo import patches

    if not _help_is_wanted() and shutil.which("ffmpeg") is None:
        # rl_zoo3 would remove the videos that it could not join
        exit_with_error("record_training joins videos with ffmpeg, which is not installed; record_video does without")
    patches.patch_commands()
    runpy.run_module("rl_zoo3.record_training", run_name="__main__")


def benchmark() -> None:
    """``rl_zoo3.benchmark``, which evaluates with our ``enjoy``."""
    from rl_zoo3.utils import get_trained_models

    from sb3_reptile.zoo import patches

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--log-dir", default="rl-trained-agents")
    folder = parser.parse_known_args()[0].log_dir
    if "--no-hub" in sys.argv and not _help_is_wanted() and not get_trained_models(folder):
        exit_with_error(f"there is no trained agent in {folder} (--log-dir)")
    patches.patch_commands()
    runpy.run_module("rl_zoo3.benchmark", run_name="__main__")


def push_to_hub() -> None:
    """``rl_zoo3.push_to_hub``, which also works without a network."""
    from sb3_reptile.zoo import patches
    from sb3_reptile.zoo.arguments import add_default_algorithm
    from sb3_reptile.zoo.experiment_manager import ALGO, SBX

    patches.patch_hub(ours=any(name == ALGO or name.startswith(SBX) for name in add_default_algorithm("push_to_hub")))
    runpy.run_module("rl_zoo3.push_to_hub", run_name="__main__")
