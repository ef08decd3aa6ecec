"""How the commands end when their arguments, files or environments are wrong."""

import sys
from typing import NoReturn

PROGRAM = "sb3-reptile"


def exit_with_error(message: str) -> NoReturn:
    """
    End the process with code 2, as argparse does, and one line on the standard error stream.

    :param message: What was given, what is allowed and what to do
    """
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def describe(error: BaseException) -> str:
    """
    :param error: An error of rl_zoo3 or of a library that it calls
    :return: What it says, with the name of its type where that is needed to understand it
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    said = str(error)
    return said if said and isinstance(error, ValueError | AssertionError) else f"{type(error).__name__}: {said}"
