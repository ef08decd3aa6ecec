"""
How fast whole `learn()` runs are: SB3's DQN, SBX's DQN and ReptileDQN, in environment steps and updates per second.

    python benchmarks/training.py [--quick] [--output benchmarks/results/training.csv]

It writes records (CSV) and, next to them, the tables (Markdown) that it prints; `--from-records` rebuilds the tables
from the records without measuring. Every run has a process of its own, so that neither compiled code nor the number of
threads is carried over; the methods take turns: in every round each of them runs once, in random order.
"""

import argparse
import csv
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"

REFERENCE = "SB3 DQN"
SBX = "SBX DQN"
DECAY = "ReptileDQN, half-life 1,000"
FUSED: dict[str, Any] = {"optimizer_kwargs": {"fused": True}}

# Keyword arguments besides those of the task; policy_kwargs are added to the task's
METHODS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    SBX: {},
    "ReptileDQN, no decay": {"half_life": float("inf")},
    DECAY: {"half_life": 1_000},
    'ReptileDQN, half-life 1,000, weighting="loss"': {"half_life": 1_000, "weighting": "loss"},
    'ReptileDQN, half-life 1,000, priority="td_error"': {"half_life": 1_000, "priority": "td_error"},
    "SB3 DQN, fused Adam": {"policy_kwargs": FUSED},
    "ReptileDQN, half-life 1,000, fused Adam": {"half_life": 1_000, "policy_kwargs": FUSED},
}
# With one thread all methods are measured, with more only these
WITH_MORE_THREADS = [REFERENCE, SBX, DECAY]

PACKAGES = ["torch", "stable_baselines3", "sbx_rl", "jax", "numpy"]
FIELDS = ["task", "threads", "method", "steps_per_s", "updates_per_s", "ratio_steps", "ratio_min", "ratio_max"]
FIELDS += ["ratio_updates", "reference", "log_share", "timed_steps", "rounds", *PACKAGES, "cpu"]

Record = dict[str, str]
# What a run tells: steps_per_s, updates_per_s and, of ReptileDQN, log_share
Run = dict[str, float]


@dataclass(frozen=True)
class Task:
    """
    What is learned, and for how long.

    :param make_env: What SB3 gets as environment
    :param settings: Keyword arguments of every method
    :param warm_up: Steps before the clock starts, some updates included
    :param steps: Steps that are timed
    :param quick_steps: The same with ``--quick``
    :param rounds: How often each method has its turn, by number of threads
    :param about: What it is, for the tables
    :param slow: Steps that are timed of methods that would take too long
    """

    make_env: Callable[[], Any]
    policy: str
    settings: dict[str, Any]
    warm_up: int
    steps: int
    quick_steps: int
    rounds: dict[int, int]
    about: str
    slow: dict[str, int] = field(default_factory=dict)


def fake_images() -> Any:
    """An environment that takes no time: 64 random images in turn, episodes of 50 steps."""
    import gymnasium as gym
    import numpy as np

    class FakeImages(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        action_space = gym.spaces.Discrete(6)

        def __init__(self) -> None:
            self.images = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84), dtype=np.uint8)
            self.steps = 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            self.steps = 0
            return self.images[0], {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            self.steps += 1
            return self.images[self.steps % 64], float(action == self.steps % 6), self.steps == 50, False, {}

    return FakeImages()


TASKS = {
    "CartPole-v1": Task(
        lambda: "CartPole-v1",
        "MlpPolicy",
        # RL Zoo, hyperparams/dqn.yml
        dict(
            learning_rate=2.3e-3,
            batch_size=64,
            buffer_size=100_000,
            learning_starts=1_000,
            gamma=0.99,
            target_update_interval=10,
            train_freq=256,
            gradient_steps=128,
            exploration_fraction=0.16,
            exploration_final_eps=0.04,
            policy_kwargs=dict(net_arch=[256, 256]),
        ),
        warm_up=6 * 256,
        steps=10 * 256,
        quick_steps=4 * 256,
        rounds={1: 3, 2: 2},
        about="the RL Zoo's hyperparameters, batch 64, 128 updates every 256 steps",
    ),
    "images": Task(
        fake_images,
        "CnnPolicy",
        dict(
            batch_size=32,
            buffer_size=5_000,
            learning_starts=100,
            target_update_interval=1_000,
            train_freq=4,
            gradient_steps=1,
        ),
        warm_up=120,
        steps=200,
        quick_steps=100,
        rounds={1: 2, 2: 2},
        about="4x84x84 uint8 from an environment that takes no time, batch 32, an update every 4 steps; "
        "episodes of 50 steps",
        # XLA compiles the convolutions of its training loop into slow code for CPUs
        slow={SBX: 60},
    ),
}


# ---- A run, in a process of its own


def child(task: Task, threads: int, method: str, steps: int, seed: int) -> Run:
    """Learn, and tell how fast."""
    if hasattr(os, "sched_setaffinity"):
        # XLA makes as many threads as there are processors to run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    import torch as th

    th.set_num_threads(threads)

    algorithm: Any
    if method == SBX:
        from sbx import DQN as algorithm
    elif method.startswith("SB3"):
        from stable_baselines3 import DQN as algorithm
    else:
        from sb3_reptile import ReptileDQN as algorithm

    settings = {**task.settings, **METHODS[method]}
    settings["policy_kwargs"] = {**task.settings.get("policy_kwargs", {}), **METHODS[method].get("policy_kwargs", {})}
    model = algorithm(task.policy, task.make_env(), seed=seed, device="cpu", **settings)
    logging = 0.0
    log_replay = getattr(model, "_log_replay", None)
    if log_replay is not None:

        def timed(*args: Any) -> None:
            nonlocal logging
            start = time.perf_counter()
            log_replay(*args)
            logging += time.perf_counter() - start

        model._log_replay = timed

    model.learn(task.warm_up, log_interval=4)
    logging, steps_before, updates_before = 0.0, model.num_timesteps, model._n_updates
    start = time.perf_counter()
    model.learn(steps, log_interval=4, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    run = {
        "steps_per_s": (model.num_timesteps - steps_before) / seconds,
        "updates_per_s": (model._n_updates - updates_before) / seconds,
    }
    if log_replay is not None:
        run["log_share"] = logging / seconds
    return run


def start_child(task: str, threads: int, method: str, steps: int, seed: int) -> Run:
    xla_flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1:
        xla_flags += " --xla_cpu_multi_thread_eigen=false"
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environ = {**os.environ, **dict.fromkeys(variables, str(threads)), "XLA_FLAGS": xla_flags, "JAX_PLATFORMS": "cpu"}
    what = json.dumps({"task": task, "threads": threads, "method": method, "steps": steps, "seed": seed})
    done = subprocess.run(
        [sys.executable, __file__, "--child", what], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr}\nfailed: {task}, threads: {threads}, {method}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- Measuring


def records_of(task: str, threads: int, methods: list[str], steps: int, rounds: int, bar: tqdm) -> Iterator[Record]:
    runs: dict[str, list[Run]] = defaultdict(list)
    steps_of = {method: min(steps, TASKS[task].slow.get(method, steps)) for method in methods}
    for seed in range(rounds):
        for method in random.sample(methods, len(methods)):
            bar.set_description(f"{task}, threads: {threads}, {method}")
            runs[method].append(start_child(task, threads, method, steps_of[method], seed))
            bar.update()
    for method in methods:
        rows = runs[method]

        def values(key: str, rows: list[Run] = rows) -> list[float]:
            return [run[key] for run in rows]

        def ratios(key: str, rows: list[Run] = rows) -> list[float]:
            return [run[key] / other[key] for run, other in zip(rows, runs[REFERENCE], strict=True)]

        yield {
            "task": task,
            "threads": str(threads),
            "method": method,
            "steps_per_s": f"{statistics.median(values('steps_per_s')):.1f}",
            "updates_per_s": f"{statistics.median(values('updates_per_s')):.1f}",
            "ratio_steps": f"{statistics.median(ratios('steps_per_s')):.3f}",
            "ratio_min": f"{min(ratios('steps_per_s')):.3f}",
            "ratio_max": f"{max(ratios('steps_per_s')):.3f}",
            "ratio_updates": f"{statistics.median(ratios('updates_per_s')):.3f}",
            "reference": REFERENCE,
            "log_share": f"{statistics.median(values('log_share')):.5f}" if "log_share" in rows[0] else "",
            "timed_steps": str(steps_of[method]),
            "rounds": str(rounds),
            **environment(),
        }


def environment() -> Record:
    return {**{package: installed_version(package) for package in PACKAGES}, "cpu": cpu_model()}


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def run(path: Path, quick: bool) -> None:
    """Measure everything, and write the records of a task as soon as it is done."""
    random.seed(0)
    with_sbx = bool(installed_version("sbx_rl"))
    if not with_sbx:
        print("sbx-rl is not installed and left out; to compare with it: pip install '.[bench]'", file=sys.stderr)
    plan = []
    for name, task in TASKS.items():
        for threads, rounds in {1: 1}.items() if quick else task.rounds.items():
            chosen = METHODS if threads == 1 else WITH_MORE_THREADS
            methods = [method for method in chosen if with_sbx or method != SBX]
            plan.append((name, threads, methods, task.quick_steps if quick else task.steps, rounds))
    total = sum(rounds * len(methods) for _, _, methods, _, rounds in plan)
    with path.open("w", newline="") as file, tqdm(total=total, unit="run") as bar:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for arguments in plan:
            writer.writerows(records_of(*arguments, bar))
            file.flush()


# ---- Tables


def distinct(records: Iterable[Record], field: str) -> list[str]:
    """The values of a field, in the order in which they were measured."""
    return list(dict.fromkeys(record[field] for record in records))


def section(task: str, threads: str, records: list[Record]) -> list[str]:
    steps, rounds = int(records[0]["timed_steps"]), int(records[0]["rounds"])
    about = f"{TASKS[task].about}. " if task in TASKS else ""
    fewer = [record for record in records if int(record["timed_steps"]) < steps]
    exceptions = "".join(f" (of {record['method']} {int(record['timed_steps']):,})" for record in fewer)
    lines = [
        f"## {task}, {threads} thread{'' if threads == '1' else 's'}",
        "",
        f"{about[:1].upper()}{about[1:]}{steps:,} steps timed{exceptions}, {rounds} round{'' if rounds == 1 else 's'}.",
        "",
        "| method | steps/s | updates/s | ratio of steps/s (from, to) | ratio of updates/s | logging of replay |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        share = f"{100 * float(record['log_share']):.2f} %" if record["log_share"] else ""
        ratio = " ".join(
            [f"{float(record['ratio_steps']):.2f}"]
            + [f"({float(record['ratio_min']):.2f}, {float(record['ratio_max']):.2f})"] * (rounds > 1)
        )
        numbers = [f"{float(record['steps_per_s']):,.0f}", f"{float(record['updates_per_s']):,.0f}", ratio]
        numbers += [f"{float(record['ratio_updates']):.2f}", share]
        lines.append(f"| {record['method']} | " + " | ".join(numbers) + " |")
    return [*lines, ""]


def markdown(records: list[Record]) -> str:
    first = records[0]
    lines = [
        "# How fast whole runs are",
        "",
        "`python benchmarks/training.py` measures it; the records are in the CSV file of the same name.",
        "",
        "Environment steps and updates (gradient steps) per second of `learn()`, median over the rounds, and their",
        f"ratios to {first['reference']} in the same round, median too (in brackets the lowest and the highest).",
        "More is faster. In every round each method has a process of its own, in random order; building the model,",
        "compiling and a warm-up with the first updates are not timed. All run on the CPU, on as many processors",
        "(where the system lets a process choose) as there are threads.",
        "",
        "The last column is the share of the time that goes into ReptileDQN's logging of what is replayed, with SB3's",
        "default `log_interval=4` (episodes): the shorter the episodes, the larger.",
        "",
        "SBX's DQN does not clip gradients, and draws the batches of all updates between two rollouts at once. It",
        "updates within `jax.lax.scan`, where XLA's convolutions are slow on CPUs.",
        "",
    ]
    if len(distinct(records, "threads")) > 1:
        lines += [f"With more than one thread, only these are measured: {'; '.join(WITH_MORE_THREADS)}.", ""]
    versions = ", ".join(f"{package} {first[package]}" for package in PACKAGES if first[package])
    lines += [f"{first['cpu']}; {versions}.", ""]
    if not first["sbx_rl"]:
        lines += ["sbx-rl was not installed (`pip install '.[bench]'`).", ""]
    for task in distinct(records, "task"):
        of_task = [record for record in records if record["task"] == task]
        for threads in distinct(of_task, "threads"):
            lines += section(task, threads, [record for record in of_task if record["threads"] == threads])
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread, one round of shorter runs: about two minutes")
    parser.add_argument(
        "--output",
        type=Path,
        help="CSV file to write; the tables go next to it (default: benchmarks/results/training.csv, "
        "with --quick training_quick.csv)",
    )
    parser.add_argument("--from-records", action="store_true", help="rebuild the tables from the CSV file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(child(**{**arguments.child, "task": TASKS[arguments.child["task"]]})))
        return
    path = arguments.output or RESULTS / ("training_quick.csv" if arguments.quick else "training.csv")
    if path.suffix != ".csv":
        parser.error(f"--output must end in .csv, got {path}")

    if not arguments.from_records:
        path.parent.mkdir(parents=True, exist_ok=True)
        run(path, arguments.quick)
    elif not path.is_file():
        parser.error(f"--from-records: there is no {path}; measure first, or name the records with --output")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        records = list(reader)
    if reader.fieldnames != FIELDS or not records:
        parser.error(f"{path} does not hold records of this benchmark; measure anew")
    text = markdown(records)
    path.with_suffix(".md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
