"""``sb3-reptile <command>``, or ``python -m sb3_reptile.zoo``: the RL Zoo's commands, with its own arguments."""

import argparse
import importlib
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import gymnasium as gym

PROGRAM = "sb3-reptile"
COMMANDS = {
    "train": "train an agent, or search for hyperparameters",
    "enjoy": "watch a trained agent",
    "plot_train": "plot the returns during training",
    "all_plots": "gather evaluations: plots and a table",
    "plot_from_file": "plot what all_plots saved",
    "benchmark": "evaluate all trained agents",
    "push_to_hub": "write a model card, and upload the agent to the Hugging Face hub",
    "load_from_hub": "download an agent from the Hugging Face hub",
    "inspect": "draw what replay was doing",
}
USAGE = f"usage: {PROGRAM} COMMAND [arguments]\n\n" + "\n".join(
    f"  {name:15} {what}" for name, what in COMMANDS.items()
)
USAGE += (
    f"\n\nThe arguments are the RL Zoo's, but for inspect, which is not one of its commands; `{PROGRAM} COMMAND --help`"
    f"\n`{PROGRAM} train` also takes `--resume RUN`: the same command continues from RUN's last checkpoint"
)

# Part of an environment's name: the package that registers such environments, and the extra that installs it
EXTRAS = {
    "NoFrameskip": ("ale_py", "atari"),
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BulletEnv": ("pybullet_envs_gymnasium", "pybullet"),
}


def _with_extra(message: str) -> str:
    """
    :param message: Message of an error about an environment that is not registered or cannot be made
    :return: The message; if one of our extras is missing, its name is appended
    """
    extras = [
        extra for part, (package, extra) in EXTRAS.items() if part in message and not importlib.util.find_spec(package)
    ]
    extras += re.findall(r"gymnasium\[(atari|box2d|mujoco)\]", message)
    return f"{message} (needs the extra `{extras[0]}`: pip install 'sb3-reptile[{extras[0]}]')" if extras else message


def _take_resumed_run() -> Path | None:
    """Remove ``--resume``, which the RL Zoo does not have, from the command line and return its value."""
    parser = argparse.ArgumentParser(prog=sys.argv[0], add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path, metavar="RUN")
    ours, sys.argv[1:] = parser.parse_known_args()
    return ours.resume


def _run(command: str) -> None:
    from sb3_reptile.zoo import patches
    from sb3_reptile.zoo.experiment_manager import ALGO, ReptileExperimentManager

    patches.register()
    if command == "train":
        ReptileExperimentManager.resumed_run = _take_resumed_run()
    if command == "inspect":
        from sb3_reptile.zoo.inspection import inspect

        inspect()
    elif command in ("train", "enjoy", "plot_train", "all_plots", "plot_from_file"):
        module = command if command in ("train", "enjoy") else "plots"
        getattr(importlib.import_module(f"rl_zoo3.{module}"), command)()
    else:
        if command == "benchmark":
            patches.patch_benchmark()
        elif command == "push_to_hub":
            patches.patch_hub(ours=ALGO in sys.argv)
        runpy.run_module(f"rl_zoo3.{command}", run_name="__main__")


def main() -> None:
    """Run the RL Zoo's command that the command line names."""
    command = sys.argv[1] if len(sys.argv) > 1 else None
    if command in ("-h", "--help"):
        print(USAGE)
        return
    if command not in COMMANDS:
        given = "no command given" if command is None else f"unknown command {command!r}"
        print(f"{USAGE}\n\nerror: {given}, use one of: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    sys.argv[0] = f"{PROGRAM} {command}"  # argparse's messages begin with it
    try:
        _run(command)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        sys.exit(f"error: {_with_extra(str(error))}")
    except ValueError as error:
        if "not found in gym registry" not in str(error):
            raise
        sys.exit(f"error: {_with_extra(str(error))}")


if __name__ == "__main__":
    main()
