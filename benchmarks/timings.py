"""What the programs that measure times share: records (CSV), processes, ratios within a round, and the command line."""

import argparse
import csv
import multiprocessing
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np

from sb3_reptile.evaluation.machine import THREADS, installed_versions

RESULTS = Path(__file__).parent / "results"

Record = dict[str, str]
T = TypeVar("T")


class Records(NamedTuple):
    """
    A CSV file of records.

    :param path: The file
    :param fields: Its columns
    """

    path: Path
    fields: Sequence[str]

    def read(self) -> list[Record]:
        """
        :return: The records; values are text
        :raises SystemExit: if the file has other columns
        """
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            records = list(reader)
        if reader.fieldnames != list(self.fields):
            raise SystemExit(f"{self.path} must have the columns {','.join(self.fields)}: move it and measure again")
        return records

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write each record as soon as it is there, after those in the file."""
        is_new = not self.path.is_file()
        if not is_new:
            self.read()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            if is_new:
                writer.writeheader()
            for record in records:
                writer.writerow(record)
                file.flush()

    def discard(self, is_outdated: Callable[[Record], bool] = lambda record: True) -> None:
        """Remove records from the file."""
        kept = [record for record in self.read() if not is_outdated(record)] if self.path.is_file() else []
        self.path.unlink(missing_ok=True)
        self.append(kept)

    def measure(
        self,
        function: Callable[..., Iterable[Mapping[str, Any]]],
        *arguments: Any,
        threads: int = 1,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """
        Append the records that a function yields in a new process.

        :param function: A function of a module
        :param arguments: Its arguments
        :param threads: Number of threads of numpy, torch, numba and others
        :param variables: Other environment variables of the process
        :raises SystemExit: if it fails
        """
        # Read when numpy and torch are imported
        os.environ.update({**dict.fromkeys(THREADS, str(threads)), **(variables or {})})
        process = multiprocessing.get_context("spawn").Process(target=_append, args=(self, function, arguments))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"failed: {function.__name__}{arguments}")


def _append(records: Records, function: Callable[..., Iterable[Mapping[str, Any]]], arguments: tuple[Any, ...]) -> None:
    records.append(function(*arguments))


def shuffled(those_in_turns: Iterable[T]) -> list[T]:
    """The order of a round: random, because the speed of a machine changes while others use it."""
    turns = list(those_in_turns)
    return random.sample(turns, len(turns))


def distinct(records: Iterable[Record], field: str) -> list[str]:
    """The values of a field, in the order of measurement."""
    return list(dict.fromkeys(record[field] for record in records))


def where(records: Iterable[Record], **values: str) -> list[Record]:
    """The records with these values."""
    return [record for record in records if values.items() <= record.items()]


def by_round(records: Iterable[Record], field: str) -> dict[str, float]:
    """The values of a field."""
    return {record["round"]: float(record[field]) for record in records}


def ratios(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[float]:
    """
    :param ours: Values by round
    :param theirs: Values of a reference by round
    :return: The ratios within the rounds that both have, the smallest first
    """
    return sorted(ours[number] / theirs[number] for number in ours if number in theirs)


def machine(processor: str, packages: Sequence[str]) -> str:
    """The processor and the versions of the packages that are installed."""
    return f"{processor}; {', '.join(' '.join(version) for version in installed_versions(packages).items())}"


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all programs have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; the files are NAME_quick")
    parser.add_argument("--output", type=Path, help="CSV file of the records; the page is in the same folder")
    parser.add_argument(
        "--from-records", "--report", action="store_true", help="make the page from the CSV file; measure nothing"
    )
    return parser


def run(
    parser: argparse.ArgumentParser,
    name: str,
    fields: Sequence[str],
    measure: Callable[[Records], None],
    page: Callable[[list[Record]], str],
) -> None:
    """
    Measure, if that is asked for; write and print the page.

    :param parser: What :func:`command_line` returned
    :param name: Name of the files in ``benchmarks/results``
    :param fields: Columns of the records
    :param measure: Appends records to the file
    :param page: Makes the page, in Markdown
    """
    arguments = parser.parse_args()
    path = arguments.output or RESULTS / f"{name}{'_quick' if arguments.quick else ''}.csv"
    if path.suffix != ".csv":
        parser.error(f"--output must end in .csv, got {path}")
    records = Records(path, fields)
    if not arguments.from_records:
        path.parent.mkdir(parents=True, exist_ok=True)
        measure(records)
    elif not path.is_file():
        parser.error(f"there is no {path}; measure first, or name the records with --output")
    text = page(records.read())
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")


class FakeImages(gym.Env):
    """An environment that takes no time: 64 random images in turn, episodes of 50 steps."""

    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(6)
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84), dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.images[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self.images[self.steps % 64], float(action == self.steps % 6), self.steps == 50, False, {}
