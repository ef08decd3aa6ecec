"""
Cost of saving, checking and storing replay buffers, compared with SB3's pickle and with memory.

    python benchmarks/checkpoint.py [--quick] [--output benchmarks/results/checkpoint.csv]

It writes records (CSV) and, in the same folder, the tables (Markdown) that it prints; `--from-records` rebuilds the
tables without measuring. Methods take turns, in random order; every part runs in its own process.

    python benchmarks/checkpoint.py --part soak --transitions 100000000

The soak test adds this number of transitions, with draws and checkpoints; it is not part of the default run.
"""

import os
import random
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timings
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from timings import FakeImages, Record, Records, by_round, distinct, shuffled, where

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.evaluation import tables
from sb3_reptile.evaluation.machine import processor_name
from sb3_reptile.evaluation.templates import PageTemplate, join
from sb3_reptile.replay.persistence import files_of
from sb3_reptile.storage.folder import Folder, write_folder

TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "checkpoint.md")
FIELDS = ["part", "method", "round", "measure", "value", "environment"]
PACKAGES = ["torch", "stable_baselines3", "safetensors", "numpy"]
# Of each part of the default run; a third of them with --quick
ROUNDS = {"save": 15, "add": 100, "atari": 12}
PICKLE, PICKLE_FLUSHED = "SB3 pickle", "SB3 pickle, flushed to the disk"
FULL, AGAIN = "save()", "checkpoint, 10,000 new since the last"
CHECKED = "checkpoint, 10,000 new, read again"

# Method, round, measure, value
Measured = Iterator[tuple[str, int, str, float]]


# ---- Measuring, in a process for each part


def resident() -> int:
    """Memory of this process, in bytes."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """Increase of this process's memory at its peak while the block runs."""

    def __enter__(self) -> "Peak":
        self.before = self.highest = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.0005):
            self.highest = max(self.highest, resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.highest = max(self.highest, resident())

    @property
    def bytes(self) -> int:
        return self.highest - self.before


def seconds_of(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def filled(buffer: Any) -> int:
    """Fill a buffer of 8 floats with episodes of 200 steps; return its size in bytes."""
    generator = np.random.default_rng(0)
    buffer.observations[:] = generator.random(buffer.observations.shape, dtype=np.float32)
    buffer.next_observations[:-1] = buffer.observations[1:]
    buffer.next_observations[199::200] = generator.random((len(buffer.dones[199::200]), 1, 8), dtype=np.float32)
    buffer.actions[:] = generator.integers(0, 4, buffer.actions.shape)
    buffer.rewards[:] = generator.random(buffer.rewards.shape, dtype=np.float32)
    buffer.dones[199::200] = 1
    buffer.full = True
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    return sum(getattr(buffer, name).nbytes for name in names)


def checkpoint(buffer: DecayedReplayBuffer, path: Path, previous: Folder | None) -> None:
    write_folder(path, "benchmark", {}, files_of(buffer, buffer.state()), previous)


def measure_save(rounds: int, folder: Path) -> Measured:
    arguments = (1_000_000, spaces.Box(-1, 1, (8,)), spaces.Discrete(4))
    theirs = ReplayBuffer(*arguments, device="cpu")
    ours = DecayedReplayBuffer(*arguments, device="cpu")
    n_bytes = filled(theirs)
    filled(ours)
    pickled, saved, before, again = (folder / name for name in ("buffer.pkl", "saved", "before", "again"))

    def save_flushed() -> None:
        save_to_pkl(pickled, theirs)
        flush(pickled)
        flush(folder)

    def checkpoint_and_read() -> None:
        checkpoint(ours, again, previous)
        Folder(again, "benchmark").verify()

    methods: dict[str, Callable[[], None]] = {
        PICKLE: partial(save_to_pkl, pickled, theirs),
        PICKLE_FLUSHED: save_flushed,
        FULL: partial(ours.save, saved),
        AGAIN: lambda: checkpoint(ours, again, previous),
        CHECKED: checkpoint_and_read,
    }
    loads = {PICKLE: partial(load_from_pkl, pickled), FULL: partial(DecayedReplayBuffer.load, saved, device="cpu")}
    checkpoint(ours, before, None)
    for number in range(rounds):
        # As if training had added 10,000 transitions
        first = 10_000 * number % 1_000_000
        ours.rewards[first : first + 10_000] += 1
        previous = Folder(before, "benchmark")
        for method in shuffled(methods):
            for path in (pickled, saved, again):
                if method in (AGAIN, CHECKED) or path != again:
                    shutil.rmtree(path, ignore_errors=True)
                    path.unlink(missing_ok=True)
            os.sync()  # so that no method waits for the writes of another
            with Peak() as peak:
                seconds = seconds_of(methods[method])
            yield method, number, "seconds", seconds
            # Including the buffer itself
            yield method, number, "peak / buffer", 1 + peak.bytes / n_bytes
            if method in loads:
                yield f"{method}, load", number, "seconds", seconds_of(loads[method])
        shutil.rmtree(before)
        os.rename(again, before)


def measure_add(rounds: int, folder: Path) -> Measured:
    arguments = (10_000, spaces.Box(-1, 1, (8,)), spaces.Discrete(4))
    buffers = {"SB3": ReplayBuffer(*arguments, device="cpu")}
    for what in ("allow", "raise", "skip"):
        name = f'on_bad_transition="{what}"'
        buffers[name] = DecayedReplayBuffer(*arguments, device="cpu", on_bad_transition=what)
    obs, zero = np.ones((1, 8), np.float32), np.zeros(1, np.float32)
    for number in range(rounds):
        for name in shuffled(buffers):
            add = buffers[name].add
            start = time.perf_counter()
            for _ in range(200):
                add(obs, obs, zero, zero, zero, [{}])
            yield name, number, "microseconds", (time.perf_counter() - start) / 200 * 1e6


def measure_atari(rounds: int, folder: Path, methods: list[str]) -> Measured:
    """
    DQN with images: 200,000 transitions on disk or in memory. One method alone measures memory, two in turns measure
    speed.
    """
    # SB3 warns at each learn() that memory optimization truncates the last episode
    warnings.filterwarnings("ignore", module="stable_baselines3.common.off_policy_algorithm")

    def make(method: str) -> Any:
        on_disk = {"storage_dir": str(folder)} if method.startswith("disk") else {}
        model = ReptileDQN(
            "CnnPolicy",
            FakeImages(),
            seed=0,
            device="cpu",
            half_life=float("inf") if method.endswith("uniform") else 10_000,
            buffer_size=200_000,
            learning_starts=100,
            batch_size=32,
            train_freq=4,
            optimize_memory_usage=True,
            replay_buffer_kwargs={"handle_timeout_termination": False, **on_disk},
        )
        image, zero = FakeImages.images[:1], np.zeros(1)
        for _ in range(200_000):
            model.replay_buffer.add(image, image, zero, zero, zero, [{}])  # type: ignore[union-attr]
        return model.learn(120)

    models = {method: make(method) for method in methods}
    for number in range(rounds):
        for method in shuffled(methods):
            seconds = seconds_of(partial(models[method].learn, 100, reset_num_timesteps=False))
            if len(methods) > 1:
                yield method, number, "steps/s", 100 / seconds
    if len(methods) == 1:
        with open("/proc/self/status", encoding="utf-8") as file:
            (peak,) = [line.split()[1] for line in file if line.startswith("VmHWM")]
        yield methods[0], 0, "peak MB", int(peak) * 1024 / 1e6


ATARI_METHODS = ["memory, uniform", "disk, uniform", "memory, half-life 10,000", "disk, half-life 10,000"]
SOAK_POINTS = 50


def measure_soak(transitions: int, folder: Path) -> Measured:
    """Add many transitions to one buffer, with draws, priorities and checkpoints."""
    n_envs, per_draw = 64, 10_000
    space = spaces.Box(-1, 1, (8,))
    options: Any = dict(half_life=100_000, prioritized=True, beta=0.4)
    buffer = DecayedReplayBuffer(1_000_000, space, spaces.Discrete(4), device="cpu", n_envs=n_envs, **options)
    obs, zeros, infos = np.ones((n_envs, 8), np.float32), np.zeros(n_envs, np.float32), [{} for _ in range(n_envs)]
    previous = None
    np.random.seed(0)
    adds = transitions // n_envs
    for point in range(SOAK_POINTS):
        n_adds = adds // SOAK_POINTS
        adding = drawing = 0.0
        draws = 0
        for begin in range(0, n_adds, per_draw // n_envs):
            start = time.perf_counter()
            for number in range(begin, min(begin + per_draw // n_envs, n_adds)):
                zeros[:] = number % 7
                buffer.add(obs, obs, zeros, zeros, zeros, infos)
            middle = time.perf_counter()
            batch = buffer.sample(256)
            buffer.update_priorities(batch.indices, 0.1 + np.random.random(256))
            adding, drawing = adding + middle - start, drawing + time.perf_counter() - middle
            draws += 1
        path = folder / f"checkpoint-{point}"
        saving = seconds_of(partial(checkpoint, buffer, path, previous))
        if previous is not None:
            shutil.rmtree(previous.path)
        previous = Folder(path, "benchmark")
        done = (point + 1) * n_adds * n_envs
        assert abs(buffer.sampling_probabilities().sum() - 1) < 1e-9
        for measure, value in (
            ("transitions", float(done)),
            ("add, us per transition", adding / (n_adds * n_envs) * 1e6),
            ("sample and update, us", drawing / draws * 1e6),
            ("save, s", saving),
            ("resident MB", resident() / 1e6),
        ):
            yield "soak", point, measure, value


def records_of(part: str, rounds: int, *arguments: Any) -> Iterator[dict[str, Any]]:
    random.seed(rounds)
    environment = timings.machine(processor_name(), PACKAGES)
    for method, number, measure, value in PARTS[part][0](rounds, *arguments):
        yield {
            "part": part,
            "method": method,
            "round": number,
            "measure": measure,
            "value": f"{value:.6g}" if measure != "transitions" else f"{value:.0f}",
            "environment": environment,
        }


def measure(records: Records, part: str, rounds: int, storage: Path) -> None:
    in_turns = [ATARI_METHODS[:2], ATARI_METHODS[2:], *([method] for method in ATARI_METHODS)]
    for arguments in [[methods] for methods in in_turns] if part == "atari" else [[]]:
        with tempfile.TemporaryDirectory(dir=storage) as folder:
            records.measure(records_of, part, rounds, Path(folder), *arguments)


# ---- Tables


def values(records: list[Record], method: str, measure: str) -> dict[str, float]:
    return by_round(where(records, method=method, measure=measure), "value")


def ratio(records: list[Record], method: str, reference: str, measure: str) -> str:
    ratios = timings.ratios(values(records, method, measure), values(records, reference, measure))
    return f"{statistics.median(ratios):.2f}"


def median(records: list[Record], method: str, measure: str) -> float:
    return statistics.median(values(records, method, measure).values())


def save_table(records: list[Record]) -> list[str]:
    rows = []
    for method in (PICKLE, PICKLE_FLUSHED, FULL, AGAIN, CHECKED):
        peak = max(values(records, method, "peak / buffer").values())
        ratios = [ratio(records, method, reference, "seconds") for reference in (PICKLE, PICKLE_FLUSHED)]
        rows.append([method, f"{1e3 * median(records, method, 'seconds'):.0f}", *ratios, f"{peak:.2f}"])
    pickle = f"{PICKLE}, load"
    for method, label in ((pickle, pickle), (f"{FULL}, load", "load()")):
        compared = ratio(records, method, pickle, "seconds")
        rows.append([label, f"{1e3 * median(records, method, 'seconds'):.0f}", compared, "", ""])
    return tables.table(["", "ms", "ratio to the pickle", "to the flushed pickle", "peak / buffer"], rows)


def add_table(records: list[Record]) -> list[str]:
    methods = sorted(distinct(records, "method"), key=lambda method: (method != "SB3", method))
    measure = "microseconds"
    rows = [[name, f"{median(records, name, measure):.1f}", ratio(records, name, "SB3", measure)] for name in methods]
    return tables.table(["", "us", "ratio to SB3"], rows)


def atari_table(records: list[Record]) -> list[str]:
    rows = []
    for method in ATARI_METHODS:
        (peak,) = values(records, method, "peak MB").values()
        compared = ratio(records, method, method.replace("disk", "memory"), "steps/s")
        rows.append([method, f"{median(records, method, 'steps/s'):.0f}", compared, f"{peak:,.0f}"])
    return tables.table(["", "steps/s", "speed relative to memory", "peak of resident memory, MB"], rows)


def soak_table(records: list[Record]) -> list[str]:
    names = ["add, us per transition", "sample and update, us", "save, s", "resident MB"]
    columns = [values(records, "soak", name) for name in names]
    rows = []
    fifth = SOAK_POINTS // 5
    for part in range(5):
        points = [str(point) for point in range(part * fifth, (part + 1) * fifth)]
        medians = [statistics.median(column[point] for point in points) for column in columns]
        cells = (f"{value:.3g}" if value < 100 else f"{value:,.0f}" for value in medians)
        rows.append([f"{part * 20} to {part * 20 + 20} %", *cells])
    return tables.table(["share of the run", *names], rows)


# How each part is measured, and its table
PARTS: dict[str, tuple[Callable[..., Measured], Callable[[list[Record]], list[str]]]] = {
    "save": (measure_save, save_table),
    "add": (measure_add, add_table),
    "atari": (measure_atari, atari_table),
    "soak": (measure_soak, soak_table),
}


def markdown(records: list[Record]) -> str:
    sections = []
    for part, (_, table) in PARTS.items():
        if of_part := where(records, part=part):
            soak = {}
            if part == "soak":
                total = max(values(of_part, "soak", "transitions").values())
                soak = {"transitions": f"{total:,.0f}", "points": SOAK_POINTS}
            sections.append(TEMPLATE.fill(part, table=table(of_part), **soak))
    return TEMPLATE.fill("page", environment=records[0]["environment"], sections=join(sections)) + "\n"


def main() -> None:
    parser = timings.command_line(__doc__)
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="measure only this part and keep the other records"
    )
    parser.add_argument("--transitions", type=int, default=100_000_000, help="number of transitions of the soak test")
    parser.add_argument(
        "--storage", type=Path, default=Path(), help="folder on the disk to measure (default: the working directory)"
    )
    arguments = parser.parse_args()
    parts = arguments.part or list(ROUNDS)

    def measure_again(records: Records) -> None:
        records.discard(lambda record: record["part"] in parts)
        for part in parts:
            rounds = ROUNDS[part] // (3 if arguments.quick else 1) if part in ROUNDS else arguments.transitions
            measure(records, part, rounds, arguments.storage)

    timings.run(parser, "checkpoint", FIELDS, measure_again, markdown)


if __name__ == "__main__":
    main()
