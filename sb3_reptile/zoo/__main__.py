"""``python -m sb3_reptile.zoo <command>``: the RL Zoo's commands, with its own arguments, knowing ReptileDQN."""

import importlib
import sys

COMMANDS = ("train", "enjoy")


def main() -> None:
    """Hand the command line to the RL Zoo's command of that name."""
    program = "python -m sb3_reptile.zoo"
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        given = f"unknown command {sys.argv[1]!r}" if len(sys.argv) > 1 else "no command given"
        wants_help = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
        usage = (
            f"usage: {program} {{{','.join(COMMANDS)}}} [the RL Zoo's arguments]\n"
            f"`{program} train --help` lists the arguments of train"
        )
        if wants_help:
            print(usage)
            return
        print(f"{usage}\nerror: {given}, use one of: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)

    try:
        from sb3_reptile.zoo.registration import register
    except ImportError as error:
        sys.exit(f"error: {error}")
    register()

    command = sys.argv.pop(1)
    sys.argv[0] = f"{program} {command}"  # argparse takes the program's name in its messages from here
    getattr(importlib.import_module(f"rl_zoo3.{command}"), command)()


if __name__ == "__main__":
    main()
