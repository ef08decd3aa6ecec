"""The arguments of a replay buffer as they are in a file, and those that are given when it is loaded."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from sb3_reptile.storage import ForeignError, MissingArgumentError
from sb3_reptile.storage.values import arguments_to_json

#: Arguments that say the same in two ways
DECAY = ("half_life", "decay")
# Memory that a buffer takes at least for each transition, and with a dict for the info of each
BYTES_OF_TRANSITION, BYTES_WITH_INFO = 16, 128
# The largest buffer where the size of memory is unknown
FALLBACK = 2**31


def described(name: str, value: Any) -> str:
    """
    :param name: Name of an argument
    :param value: What was given
    :return: The argument as it is written in a call, for messages
    """
    return f"{name}={value!r:.100}"


def changed_arguments(saved: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """
    :param saved: Arguments, as JSON
    :param given: Arguments that override them
    :param prefix: Name of the argument that these are items of, for the message
    :return: For each that is given and not equal to the one saved, both of them in words
    """
    changed = {}
    for name, value in arguments_to_json(given).items():
        before = saved.get(name)
        is_missing = isinstance(before, dict) and "$missing" in before
        if name not in saved or is_missing or before != value:
            text = described(f"{prefix}.{name}" if prefix else name, given[name])
            changed[name] = text if name not in saved or is_missing else f"{text} (saved: {before!r:.100})"
    return changed


def without_decay(saved: dict[str, Any], given: Mapping[str, Any]) -> None:
    """
    :param saved: Saved arguments, as JSON, from which the decay is removed if another one is given. A decay and
        ``half_life="auto"`` go together: neither overrides the other.
    :param given: Arguments that override them
    """
    if not any(name in given for name in DECAY):
        return
    is_auto = given.get("half_life", saved.get("half_life")) == "auto"
    for name in DECAY:
        if name in given or not is_auto:
            saved.pop(name, None)


def check_saved_arguments(
    saved: Mapping[str, Any], given: Mapping[str, Any], call: str, has_infos: bool = False
) -> None:
    """
    Check what a file says before a buffer of that size is made, and before anything is written where it says.

    :param saved: Saved arguments, as JSON
    :param given: Arguments that override them
    :param call: The function that the user calls, for the message
    :param has_infos: Whether the buffer keeps the info of each transition
    :raises MissingArgumentError: if an argument must be given, as a file is not followed in it
    :raises ForeignError: if the buffer would be larger than this machine's memory
    """
    kept = {name: value for name, value in saved.items() if name not in given}
    if kept.get("storage_dir") is not None:
        raise MissingArgumentError(
            f"storage_dir must be given again, {call}(..., storage_dir={kept['storage_dir']!r:.200}), or None for "
            "memory: a file does not say where to write"
        )
    name = kept.get("distribution_class")
    if isinstance(name, str) and name.rpartition(".")[0] not in sys.modules:
        raise MissingArgumentError(
            f"distribution_class must be given again, {call}(..., distribution_class=...), or import the module of "
            f"{name!r:.200} first: a file does not say what to import"
        )
    most = most_transitions(BYTES_WITH_INFO if has_infos else BYTES_OF_TRANSITION)
    for name in ("buffer_size", "n_envs", "n_steps"):
        if isinstance(kept.get(name), int | float) and kept[name] > most:
            raise ForeignError(
                f"the saved replay buffer has {name}={kept[name]}, more than {most}, which fit into this machine's "
                f"memory: give {name} again if it is right"
            )


def most_transitions(n_bytes: int) -> int:
    """
    :param n_bytes: Memory that each takes
    :return: The largest size of a buffer that is believed of a file
    """
    if sys.platform == "win32":
        return FALLBACK
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // n_bytes
    except (OSError, ValueError):
        return FALLBACK
