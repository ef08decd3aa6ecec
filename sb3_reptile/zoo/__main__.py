"""``sb3-reptile <command>``, or ``python -m sb3_reptile.zoo``: the RL Zoo's commands, with its own arguments."""

import importlib.util
import sys

import gymnasium as gym

from sb3_reptile import __version__
from sb3_reptile.zoo.commands import COMMANDS
from sb3_reptile.zoo.errors import PROGRAM, describe, exit_with_error

TRACEBACK = "--traceback"
USAGE = (
    f"usage: {PROGRAM} COMMAND [arguments]\n\n"
    + "\n".join(f"  {name:15} {command.what}" for name, command in COMMANDS.items())
    + "\n\nThe arguments are the RL Zoo's, but those of "
    + ", ".join(name for name, command in COMMANDS.items() if command.ours)
    + f"; `{PROGRAM} COMMAND --help`"
    "\nThe algorithm is reptile_dqn unless --algo names another one: the RL Zoo's, or with the extra `sbx` SBX's"
    "\n(sbx_dqn, sbx_sac, sbx_td3, sbx_tqc, sbx_crossq)"
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
    from sb3_reptile.zoo.arguments import add_default_algorithm, check_values
    from sb3_reptile.zoo.experiment_manager import SBX, ReptileExperimentManager

    patches.register()
    patches.patch_arguments()
    check_values(command)
    ReptileExperimentManager.training_has_begun = False
    if any(name.startswith(SBX) for name in add_default_algorithm(command)):
        patches.register_sbx()
    COMMANDS[command].run()


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
        said = _with_extra(describe(error), error)
        if isinstance(error, TypeError) and "'render_mode'" in said:
            said += "; the environment cannot be drawn: enjoy shows what the agent reaches with --no-render"
        exit_with_error(f"{said} ({TRACEBACK} shows where)")


if __name__ == "__main__":
    main()
