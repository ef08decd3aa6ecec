"""
Cost of saving, checking and storing replay buffers, compared with SB3's pickle and with memory.

    python benchmarks/checkpoint.py [--quick] [--output benchmarks/results/checkpoint.csv]

It writes records (CSV) and, in the same folder, the tables (Markdown) that it prints; `--from-records` rebuilds the
tables without measuring. Methods take turns, in random order; every part runs in its own process.

    python benchmarks/checkpoint.py --part soak --transitions 100000000

The soak test adds this number of transitions, with draws and checkpoints; it is not part of the default run.
"""

import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sb3_reptile.evaluation import tables
from sb3_reptile.evaluation.machine import THREADS, installed_versions, processor_name
from sb3_reptile.evaluation.templates import PageTemplate, join

RESULTS = Path(__file__).parent / "results"
TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "checkpoint.md")
FIELDS = ["part", "method", "round", "measure", "value", "environment"]
PARTS = ["save", "add", "atari", "soak"]
PACKAGES = ["torch", "stable_baselines3", "safetensors", "numpy"]
PICKLE, PICKLE_FLUSHED = "SB3 pickle", "SB3 pickle, flushed to the disk"
FULL, AGAIN = "save()", "checkpoint, 10,000 new since the last"
CHECKED = "checkpoint, 10,000 new, read again"

Record = dict[str, str]


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


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def filled(buffer: Any) -> int:
    """Fill a buffer of 8 floats with episodes of 200 steps; return its size in bytes."""
    import numpy as np

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


def measure_save(rounds: int, folder: Path) -> Iterator[tuple[str, int, str, float]]:
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

    from sb3_reptile import DecayedReplayBuffer
    from sb3_reptile.replay.persistence import files_of
    from sb3_reptile.storage.folder import Folder, write_folder

    arguments = (1_000_000, spaces.Box(-1, 1, (8,)), spaces.Discrete(4))
    theirs = ReplayBuffer(*arguments, device="cpu")
    ours = DecayedReplayBuffer(*arguments, device="cpu")
    n_bytes = filled(theirs)
    filled(ours)
    pickled, saved, before, again = (folder / name for name in ("buffer.pkl", "saved", "before", "again"))

    def checkpoint(path: Path, previous: Folder | None) -> None:
        state = ours.state()
        write_folder(path, "benchmark", {}, files_of(ours, state), previous)

    def save_flushed() -> None:
        save_to_pkl(pickled, theirs)
        flush(pickled)
        flush(folder)

    def checkpoint_and_read() -> None:
        checkpoint(again, previous)
        Folder(again, "benchmark").verify()

    methods: dict[str, Callable[[], None]] = {
        PICKLE: lambda: save_to_pkl(pickled, theirs),
        PICKLE_FLUSHED: save_flushed,
        FULL: lambda: ours.save(saved),
        AGAIN: lambda: checkpoint(again, previous),
        CHECKED: checkpoint_and_read,
    }
    loads: dict[str, Callable[[], Any]] = {
        PICKLE: lambda: load_from_pkl(pickled),
        FULL: lambda: DecayedReplayBuffer.load(saved, device="cpu"),
    }
    checkpoint(before, None)
    for number in range(rounds):
        # As if training had added 10,000 transitions
        first = 10_000 * number % 1_000_000
        ours.rewards[first : first + 10_000] += 1
        previous = Folder(before, "benchmark")
        for method in random.sample(list(methods), len(methods)):
            for path in (pickled, saved, again):
                if method in (AGAIN, CHECKED) or path != again:
                    shutil.rmtree(path, ignore_errors=True)
                    path.unlink(missing_ok=True)
            os.sync()  # so that no method waits for the writes of another
            with Peak() as peak:
                start = time.perf_counter()
                methods[method]()
                seconds = time.perf_counter() - start
            yield method, number, "seconds", seconds
            # Including the buffer itself
            yield method, number, "peak / buffer", 1 + peak.bytes / n_bytes
            if method in loads:
                start = time.perf_counter()
                loads[method]()
                yield f"{method}, load", number, "seconds", time.perf_counter() - start
        shutil.rmtree(before)
        os.rename(again, before)


def measure_add(rounds: int, folder: Path) -> Iterator[tuple[str, int, str, float]]:
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer

    from sb3_reptile import DecayedReplayBuffer

    arguments = (10_000, spaces.Box(-1, 1, (8,)), spaces.Discrete(4))
    buffers = {"SB3": ReplayBuffer(*arguments, device="cpu")}
    for what in ("allow", "raise", "skip"):
        name = f'on_bad_transition="{what}"'
        buffers[name] = DecayedReplayBuffer(*arguments, device="cpu", on_bad_transition=what)
    obs, zero = np.ones((1, 8), np.float32), np.zeros(1, np.float32)
    for number in range(rounds * 4):
        for name in random.sample(list(buffers), len(buffers)):
            add = buffers[name].add
            start = time.perf_counter()
            for _ in range(200):
                add(obs, obs, zero, zero, zero, [{}])
            yield name, number, "microseconds", (time.perf_counter() - start) / 200 * 1e6


def measure_atari(rounds: int, folder: Path) -> Iterator[tuple[str, int, str, float]]:
    """DQN with images from an environment that takes no time: 200,000 transitions on disk or in memory."""
    import gymnasium as gym
    import numpy as np

    from sb3_reptile import ReptileDQN

    # SB3 warns at each learn() that memory optimization truncates the last episode
    warnings.filterwarnings("ignore", module="stable_baselines3.common.off_policy_algorithm")

    class FakeImages(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        action_space = gym.spaces.Discrete(6)
        images = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84), dtype=np.uint8)
        steps = 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            return self.images[0], {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            self.steps += 1
            return self.images[self.steps % 64], float(action == self.steps % 6), self.steps % 50 == 0, False, {}

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

    # One method alone measures memory, two in turns measure speed
    methods = os.environ["ATARI_METHODS"].split("|")
    models = {method: make(method) for method in methods}
    for number in range(rounds):
        for method in random.sample(methods, len(methods)):
            start = time.perf_counter()
            models[method].learn(100, reset_num_timesteps=False)
            if len(methods) > 1:
                yield method, number, "steps/s", 100 / (time.perf_counter() - start)
    if len(methods) == 1:
        with open("/proc/self/status", encoding="utf-8") as file:
            (peak,) = [line.split()[1] for line in file if line.startswith("VmHWM")]
        yield methods[0], 0, "peak MB", int(peak) * 1024 / 1e6


ATARI_METHODS = ["memory, uniform", "disk, uniform", "memory, half-life 10,000", "disk, half-life 10,000"]
SOAK_POINTS = 50


def measure_soak(transitions: int, folder: Path) -> Iterator[tuple[str, int, str, float]]:
    """Add many transitions to one buffer, with draws, priorities and checkpoints."""
    import numpy as np
    from gymnasium import spaces

    from sb3_reptile import DecayedReplayBuffer
    from sb3_reptile.replay.persistence import files_of
    from sb3_reptile.storage.folder import Folder, write_folder

    n_envs, per_draw = 64, 10_000
    space = spaces.Box(-1, 1, (8,))
    buffer = DecayedReplayBuffer(
        1_000_000, space, spaces.Discrete(4), device="cpu", n_envs=n_envs, half_life=100_000, prioritized=True, beta=0.4
    )
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
        start = time.perf_counter()
        path = folder / f"checkpoint-{point}"
        state = buffer.state()
        write_folder(path, "benchmark", {}, files_of(buffer, state), previous)
        saving = time.perf_counter() - start
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


def child(part: str, rounds: int, folder: str) -> None:
    random.seed(rounds)
    measure = {"save": measure_save, "add": measure_add, "atari": measure_atari, "soak": measure_soak}[part]
    for method, number, name, value in measure(rounds, Path(folder)):
        print(json.dumps([method, number, name, value]), flush=True)


def environment() -> str:
    versions = installed_versions(PACKAGES)
    return f"{processor_name()}; {', '.join(f'{package} {number}' for package, number in versions.items())}"


def run_child(part: str, rounds: int, storage: Path, **variables: str) -> Iterator[Record]:
    about = environment()
    with tempfile.TemporaryDirectory(dir=storage) as folder:
        command = [sys.executable, __file__, "--child", part, str(rounds), folder]
        environ = {**os.environ, **dict.fromkeys(THREADS, "1"), **variables}
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                method, number, measure, value = json.loads(line)
                yield {
                    "part": part,
                    "method": method,
                    "round": str(number),
                    "measure": measure,
                    "value": f"{value:.6g}" if measure != "transitions" else f"{value:.0f}",
                    "environment": about,
                }
        if process.returncode != 0:
            raise SystemExit(f"failed: {part}")


def measure(part: str, quick: bool, transitions: int, storage: Path) -> Iterator[Record]:
    rounds = {"save": 5 if quick else 15, "add": 5 if quick else 25, "atari": 3 if quick else 12}
    if part == "atari":
        in_turns = ["|".join(ATARI_METHODS[:2]), "|".join(ATARI_METHODS[2:])]
        for method in (*in_turns, *ATARI_METHODS):
            yield from run_child(part, rounds[part], storage, ATARI_METHODS=method)
    else:
        yield from run_child(part, rounds.get(part, transitions), storage)


# ---- Tables


def values(records: Iterable[Record], method: str, measure: str) -> dict[str, float]:
    """By round."""
    return {
        record["round"]: float(record["value"])
        for record in records
        if record["method"] == method and record["measure"] == measure
    }


def ratio(records: list[Record], method: str, reference: str, measure: str) -> str:
    ours, theirs = values(records, method, measure), values(records, reference, measure)
    return f"{statistics.median(ours[number] / theirs[number] for number in ours):.2f}"


def median(records: Iterable[Record], method: str, measure: str) -> float:
    return statistics.median(values(records, method, measure).values())


def save_table(records: list[Record]) -> list[str]:
    rows = []
    for method in (PICKLE, PICKLE_FLUSHED, FULL, AGAIN, CHECKED):
        peak = max(values(records, method, "peak / buffer").values())
        ratios = [ratio(records, method, reference, "seconds") for reference in (PICKLE, PICKLE_FLUSHED)]
        rows.append([method, f"{1e3 * median(records, method, 'seconds'):.0f}", *ratios, f"{peak:.2f}"])
    for method, label in ((f"{PICKLE}, load", f"{PICKLE}, load"), (f"{FULL}, load", "load()")):
        compared = ratio(records, method, f"{PICKLE}, load", "seconds")
        rows.append([label, f"{1e3 * median(records, method, 'seconds'):.0f}", compared, "", ""])
    return tables.table(["", "ms", "ratio to the pickle", "to the flushed pickle", "peak / buffer"], rows)


def add_table(records: list[Record]) -> list[str]:
    methods = sorted({record["method"] for record in records}, key=lambda method: (method != "SB3", method))
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


def markdown(records: list[Record]) -> str:
    functions = {"save": save_table, "add": add_table, "atari": atari_table, "soak": soak_table}
    sections = []
    for part, table in functions.items():
        of_part = [record for record in records if record["part"] == part]
        soak = {}
        if of_part and part == "soak":
            total = max(values(of_part, "soak", "transitions").values())
            soak = {"transitions": f"{total:,.0f}", "points": SOAK_POINTS}
        if of_part:
            sections.append(TEMPLATE.fill(part, table=table(of_part), **soak))
    return TEMPLATE.fill("page", environment=records[0]["environment"], sections=join(sections)) + "\n"


def read(path: Path) -> list[Record]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="measure only this part and keep the other records"
    )
    parser.add_argument("--transitions", type=int, default=100_000_000, help="number of transitions of the soak test")
    parser.add_argument(
        "--storage", type=Path, default=Path(), help="folder on the disk to measure (default: the working directory)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "checkpoint.csv", help="CSV file to write")
    parser.add_argument("--from-records", action="store_true", help="rebuild the tables from the CSV file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        part, rounds, folder = arguments.child
        child(part, int(rounds), folder)
        return
    path = arguments.output
    if path.suffix != ".csv":
        parser.error(f"--output must end in .csv, got {path}")
    if arguments.from_records and not path.is_file():
        parser.error(f"--from-records: there is no {path}; measure first, or name the records with --output")
    if not arguments.from_records:
        parts = arguments.part or ["save", "add", "atari"]
        kept = [record for record in read(path) if record["part"] not in parts] if path.is_file() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
            for part in parts:
                for record in measure(part, arguments.quick, arguments.transitions, arguments.storage):
                    writer.writerow(record)
                    file.flush()
    text = markdown(read(path))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
