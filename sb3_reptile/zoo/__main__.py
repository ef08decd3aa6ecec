"""``sb3-reptile <command>``, or ``python -m sb3_reptile.zoo``: the RL Zoo's commands, with its own arguments."""

import importlib
import importlib.util
import runpy
import shutil
import sys

import gymnasium as gym

from sb3_reptile import __version__
from sb3_reptile.zoo.errors import PROGRAM, describe, exit_with_error

TRACEBACK = "--traceback"
COMMANDS = {
    "train": "train an agent, or search for hyperparameters",
    "enjoy": "watch a trained agent",
    "record_video": "record a video of a trained agent",
    "record_training": "record videos of the checkpoints of a run, and join them (needs ffmpeg)",
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
    "\nThe algorithm is reptile_dqn unless --algo names another one"
    f"\n`{PROGRAM} train` also takes `--resume RUN`: the same command continues from RUN's last checkpoint"
    f"\n`{PROGRAM} train --vec-env ray` trains with environments on a Ray cluster, at --ray ADDRESS or on this"
    "\nmachine; --vec-env-kwargs NAME:VALUE ... are arguments of RayVecEnv"
    f"\nErrors are one line; with {TRACEBACK}, they are tracebacks. `{PROGRAM} --version` prints the version"
)

# Part of an environment's name: the package that registers such environments, and the extra that installs it
EXTRAS = {
    "NoFrameskip": ("ale_py", "atari"),
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BulletEnv": ("pybullet_envs_gymnasium", "pybullet"),
}
# Modules that Gymnasium's environments import, and the extras that install them
MODULES = {"Box2D": "box2d", "mujoco": "mujoco"}


def _with_extra(message: str, error: BaseException) -> str:
    """
    :param message: Message of the error
    :param error: The error
    :return: The message; if the environment needs an extra that is missing, its name is appended
    """
    extras = [
        extra
        for part, (package, extra) in EXTRAS.items()
        if any(part in argument for argument in sys.argv[1:]) and not importlib.util.find_spec(package)
    ]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name in MODULES:
            extras.append(MODULES[cause.name])
        cause = cause.__cause__ or cause.__context__
    return f"{message} (needs the extra `{extras[0]}`: pip install 'sb3-reptile[{extras[0]}]')" if extras else message


def _run(command: str) -> None:
    from sb3_reptile.zoo import patches
    from sb3_reptile.zoo.arguments import add_default_algorithm, take_ray_arguments, take_resumed_run
    from sb3_reptile.zoo.experiment_manager import ALGO, ReptileExperimentManager

    patches.register()
    patches.patch_arguments()
    ReptileExperimentManager.training_has_begun = False
    add_default_algorithm(command)
    if command == "train":
        ReptileExperimentManager.resumed_run = take_resumed_run()
        ReptileExperimentManager.ray_arguments = take_ray_arguments()
    if command == "inspect":
        from sb3_reptile.zoo.inspection import inspect

        inspect()
    elif command in ("train", "enjoy", "plot_train", "all_plots", "plot_from_file"):
        module = command if command in ("train", "enjoy") else "plots"
        getattr(importlib.import_module(f"rl_zoo3.{module}"), command)()
    else:
        if command in ("benchmark", "record_training"):
            patches.patch_commands()
        elif command == "push_to_hub":
            patches.patch_hub(ours=ALGO in sys.argv)
        if command == "record_training" and "-h" not in sys.argv and "--help" not in sys.argv:
            _check_ffmpeg()
        runpy.run_module(f"rl_zoo3.{command}", run_name="__main__")


def _check_ffmpeg() -> None:
    # rl_zoo3 would remove the videos that it could not join
    if shutil.which("ffmpeg") is None:
        exit_with_error("record_training joins videos with ffmpeg, which is not installed; record_video does without")


def _training_has_begun() -> bool:
    manager = sys.modules.get("sb3_reptile.zoo.experiment_manager")
    return manager is not None and manager.ReptileExperimentManager.training_has_begun


def main() -> None:
    """Run the RL Zoo's command that the command line names."""
    with_traceback = TRACEBACK in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != TRACEBACK]
    command = sys.argv[1] if len(sys.argv) > 1 else None
    if command in ("-h", "--help"):
        print(USAGE)
        return
    if command == "--version":
        print(f"{PROGRAM} {__version__}")
        return
    if command not in COMMANDS:
        given = "no command given" if command is None else f"unknown command {command!r}"
        exit_with_error(f"{given}, use one of: {', '.join(COMMANDS)}; `{PROGRAM} --help` says what they do")
    del sys.argv[1]
    sys.argv[0] = f"{PROGRAM} {command}"  # argparse's messages begin with it
    try:
        _run(command)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        if with_traceback or _training_has_begun():
            raise
        exit_with_error(_with_extra(str(error), error))
    except Exception as error:  # rl_zoo3 and the environments raise any
        if with_traceback or _training_has_begun():
            raise
        exit_with_error(f"{_with_extra(describe(error), error)} ({TRACEBACK} shows where)")


if __name__ == "__main__":
    main()
