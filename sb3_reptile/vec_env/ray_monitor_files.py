"""The Monitor files of environments that are made a second time: continued, not overwritten."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

from stable_baselines3.common import monitor


class ContinuedResultsWriter(monitor.ResultsWriter):
    """
    A ``ResultsWriter`` that appends to the file if it has a header. See ``ResultsWriter`` for the arguments.
    """

    def __init__(
        self,
        filename: str = "",
        header: dict[str, Any] | None = None,
        extra_keys: tuple[str, ...] = (),
        override_existing: bool = True,
    ) -> None:
        #: Time at which the file was begun, None if there was none
        self.started = start_of(filename)
        super().__init__(filename, header, extra_keys, override_existing and self.started is None)


def start_of(filename: str) -> float | None:
    """
    :param filename: The argument ``filename`` of ``Monitor``
    :return: The time at which the file was begun, None if there is no such file
    """
    ending = monitor.Monitor.EXT
    if not filename.endswith(ending):
        filename = os.path.join(filename, ending) if os.path.isdir(filename) else f"{filename}.{ending}"
    try:
        with open(filename, encoding="utf-8") as file:
            return float(json.loads(file.readline().removeprefix("#"))["t_start"])
    except (OSError, ValueError, KeyError):
        return None


@contextlib.contextmanager
def continued_monitor_files() -> Iterator[None]:
    """
    Context in which SB3's ``Monitor`` continues the files that are there, and counts its times from their beginning, so
    that plots have the episodes in their order.
    """
    original_init: Any = monitor.Monitor.__init__

    def init(this: monitor.Monitor, *args: Any, **kwargs: Any) -> None:
        original_init(this, *args, **kwargs)
        started = getattr(this.results_writer, "started", None)
        if started is not None:
            this.t_start = started

    with (
        mock.patch.object(monitor, "ResultsWriter", ContinuedResultsWriter),
        mock.patch.object(monitor.Monitor, "__init__", init),
    ):
        yield
