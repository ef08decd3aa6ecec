"""Records of training runs: one JSON line per run, only ever appended to a file per task."""

import contextlib
import datetime
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sb3_reptile.storage.errors import InUseError
from sb3_reptile.storage.lock import FolderLock

Record = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)

# Characters that the name of a file cannot have, on some system
FORBIDDEN = r'[/\\:*?"<>|\x00]'
# Points of a learning curve
BINS = 120


def hash_of(what: Any) -> str:
    """
    :param what: A configuration: text, or values of JSON
    :return: Eight digits that identify it
    """
    text = what if isinstance(what, str) else json.dumps(what, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def path_of(task: str, folder: Path) -> Path:
    return folder / f"{re.sub(FORBIDDEN, '-', task)}.jsonl"


def append(record: Record, folder: Path) -> None:
    """
    Append a record to its task's file. If the machine stops meanwhile, the file ends with a torn line, which readers
    leave out.

    :param record: The record; ``record["task"]`` names the file
    :param folder: Folder of the records
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(record["task"], folder)
    # Unbuffered: a record is written by one call, or not at all
    with open(path, "a+b", buffering=0) as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        line = (b"\n" if torn else b"") + json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if file.write(line) < len(line):
            raise OSError(f"{path}: no space left for a record; free some and repeat the run")
        os.fsync(file.fileno())


def read(
    folder: Path, tasks: Iterable[str], run_of: Callable[[Record], Key], set_up_of: Callable[[Key], str]
) -> dict[Key, Record]:
    """
    Read the records of the present set-up. Torn lines, repeated runs, unknown runs and records of another set-up are
    left out; stderr says how many.

    :param folder: Folder of the records
    :param tasks: Names of the tasks
    :param run_of: The run that a record is of
    :param set_up_of: The present set-up of a run, compared with ``record["setup"]``; KeyError for an unknown run
    :return: The first record of each run
    """
    records: dict[Key, Record] = {}
    left_out = 0
    for path in (path_of(task, folder) for task in tasks):
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                run = run_of(record)
                usable = run not in records and record["setup"] == set_up_of(run)
            except (ValueError, KeyError):
                usable = False
            if usable:
                records[run] = record
            else:
                left_out += 1
    if left_out:
        print(f"{folder}: {left_out} torn, repeated or outdated lines left out", file=sys.stderr)
    return records


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """
    Lock a folder of records, because two commands at once would train the same runs.

    :param folder: Folder of the records, created if it is missing
    :raises InUseError: if another process holds the lock
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder)
    except InUseError:
        raise InUseError(
            f"another process is writing records to {folder}: wait for it, or stop it and train several runs at once"
        ) from None
    try:
        yield
    finally:
        lock.release()


def rounded(value: float) -> float:
    """A return with six significant digits, however small it is."""
    return float(f"{value:.6g}")


def learning_curve(episodes: Iterable[tuple[int, float]], steps: int) -> list[float]:
    """
    Mean return of the episodes that end within each of ``BINS`` equal parts of a run. A part in which none ends has
    the value of the previous part, or, before the first end of an episode, of the first part that has one.

    :param episodes: Last step, counted from 1, and return of each episode; those that end after ``steps`` do not count
    :param steps: Steps of the run
    :return: ``BINS`` returns
    :raises ValueError: if no episode ends
    """
    ends: list[list[float]] = [[] for _ in range(BINS)]
    for step, episode_return in episodes:
        if step <= steps:
            ends[(step - 1) * BINS // steps].append(episode_return)
    if not any(ends):
        raise ValueError(f"no episode ended within {steps} steps; a learning curve needs at least one")
    curve: list[float] = []
    value = next(sum(returns) / len(returns) for returns in ends if returns)
    for returns in ends:
        value = sum(returns) / len(returns) if returns else value
        curve.append(rounded(value))
    return curve


def now() -> str:
    """The time in UTC, as records state it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
