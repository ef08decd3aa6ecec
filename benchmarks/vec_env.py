"""
How long environments take to step in RayVecEnv, SubprocVecEnv and DummyVecEnv, and what asynchronous workers gain.

    python benchmarks/vec_env.py               measure, about ten minutes; appends to results/vec_env.csv
    python benchmarks/vec_env.py --report      make results/vec_env.md from the records

An environment sleeps for the duration of its step, as one does that waits for a simulator in another process; without a
duration it returns at once, so that the overhead remains. The vectorized environments take turns within a round, and
every round begins with another one, because the speed of a machine changes while others use it.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_reptile.evaluation.machine import installed_versions, processor_name
from sb3_reptile.evaluation.records import now
from sb3_reptile.vec_env import Asynchronous, RayVecEnv

RESULTS = Path(__file__).parent / "results" / "vec_env.csv"
FIELDS = ["round", "vec_env", "envs_per_worker", "n_envs", "milliseconds", "steps", "seconds", "machine", "finished"]
DURATIONS = (0.0, 1.0, 10.0)
N_ENVS = (1, 4, 8, 16)
ENVS_PER_WORKER = (1, 4, 8)
ROUNDS = 3
# Seconds of a turn
TURN = 1.0
# Workers share the processors, as the processes of SubprocVecEnv do
SHARED = {"CPU": 0}
# The straggler: this number of environments of 10 ms, one of which takes 100 ms
STRAGGLERS, STRAGGLER_FACTOR = 8, 10
STRAGGLER_STEPS = 400

Record = dict[str, Any]


class Sleeping(gym.Env):
    """An environment whose step takes a certain time."""

    observation_space = gym.spaces.Box(-1, 1, (8,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, milliseconds: float = 0.0) -> None:
        self.seconds = milliseconds / 1000
        self.obs = np.zeros(8, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.seconds:
            time.sleep(self.seconds)
        self.n += 1
        return self.obs, 1.0, False, self.n == 200, {}


def vec_envs(n_envs: int) -> Iterator[tuple[str, int, Callable[[], VecEnv]]]:
    """What is compared: name, environments per worker, and how it is made."""
    fns: list[Callable[[], gym.Env]] = [Sleeping] * n_envs
    yield "Dummy", n_envs, lambda: DummyVecEnv(fns)
    yield "Subproc", 1, lambda: SubprocVecEnv(fns)
    for per_worker in ENVS_PER_WORKER:
        if per_worker <= n_envs:
            yield "Ray", per_worker, lambda per_worker=per_worker: RayVecEnv(fns, per_worker, SHARED)


def turn(env: VecEnv, seconds: float) -> tuple[int, float]:
    """Step for a time; the number of calls of ``step`` and the seconds they took."""
    actions = np.zeros(env.num_envs, int)
    start, n = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or n < 3:
        env.step(actions)
        n += 1
    return n, passed


def machine() -> str:
    versions = installed_versions(["ray", "stable_baselines3", "gymnasium", "numpy"])
    return f"{processor_name()}, {th.get_num_threads()} thread; " + ", ".join(f"{k} {v}" for k, v in versions.items())


def append(record: Record) -> None:
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({**record, "machine": machine(), "finished": now()})


def measure_steps(rounds: int, n_envs: Sequence[int], durations: Sequence[float]) -> None:
    for n in n_envs:
        made = [(name, per_worker, make()) for name, per_worker, make in vec_envs(n)]
        for milliseconds in durations:
            for _, _, env in made:
                env.set_attr("seconds", milliseconds / 1000)
                env.reset()
                turn(env, 0.2)
            for number in range(rounds):
                first = number % len(made)
                for name, per_worker, env in made[first:] + made[:first]:
                    steps, seconds = turn(env, TURN)
                    append(record_of(number, name, per_worker, n, milliseconds, steps * n, seconds))
        for _, _, env in made:
            env.close()


def record_of(
    number: int, vec_env: str, per_worker: int, n_envs: int, milliseconds: float, steps: int, seconds: float
) -> Record:
    return {
        "round": number,
        "vec_env": vec_env,
        "envs_per_worker": per_worker,
        "n_envs": n_envs,
        "milliseconds": milliseconds,
        "steps": steps,
        "seconds": f"{seconds:.4f}",
    }


class AsynchronousDQN(Asynchronous, DQN):
    """SB3's DQN with asynchronous workers."""


def measure_straggler(rounds: int) -> None:
    """DQN with one slow environment among fast ones, synchronous and asynchronous."""
    durations = [10.0 * STRAGGLER_FACTOR, *[10.0] * (STRAGGLERS - 1)]
    made_fns = [partial(Sleeping, milliseconds) for milliseconds in durations]
    models = {
        name: AsynchronousDQN(
            "MlpPolicy", RayVecEnv(made_fns, resources=SHARED, **kwargs), learning_starts=50, device="cpu", seed=0
        )
        for name, kwargs in {"straggler, synchronous": {}, "straggler, asynchronous": {"asynchronous": True}}.items()
    }
    for model in models.values():
        model.learn(100)
    for number in range(rounds):
        for name, model in models.items():
            start, before = time.perf_counter(), model.num_timesteps
            model.learn(STRAGGLER_STEPS, reset_num_timesteps=False)
            seconds = time.perf_counter() - start
            append(record_of(number, name, 1, STRAGGLERS, 10.0, model.num_timesteps - before, seconds))
    for model in models.values():
        model.env.close()


# ---- Tables


def read() -> list[Record]:
    with RESULTS.open() as file:
        return list(csv.DictReader(file))


def per_second(records: list[Record]) -> dict[tuple[str, int, int, float], dict[str, float]]:
    """Environment steps per second by what was measured and round."""
    rates: dict[tuple[str, int, int, float], dict[str, float]] = {}
    for record in records:
        key = (
            record["vec_env"],
            int(record["envs_per_worker"]),
            int(record["n_envs"]),
            float(record["milliseconds"]),
        )
        rates.setdefault(key, {})[record["round"]] = int(record["steps"]) / float(record["seconds"])
    return rates


def ratio(ours: dict[str, float], theirs: dict[str, float]) -> str:
    ratios = sorted(ours[number] / theirs[number] for number in ours if number in theirs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def report() -> str:
    records = read()
    rates = per_second(records)
    durations = sorted({key[3] for key in rates if not key[0].startswith("straggler")})
    lines = [
        "# How long environments take to step",
        "",
        "`python benchmarks/vec_env.py` measures it, and `--report` makes this page. The records are in the CSV file",
        "of the same name.",
        "",
        f"Machine: {records[-1]['machine']}.",
        "",
        "An environment sleeps for the duration of its step. Speeds are environment steps per second of `env.step()`,",
        "medians over the rounds; ratios are to SubprocVecEnv in the same round: median, smallest and largest. More is",
        "faster.",
        "",
    ]
    for milliseconds in durations:
        name = "no time" if milliseconds == 0 else f"{milliseconds:g} ms"
        lines += [f"## Environments that take {name}", "", "| environments | vec env | steps/s | ratio to Subproc |"]
        lines += ["|---:|---|---:|---:|"]
        measured = [key for key in rates if key[3] == milliseconds and "straggler" not in key[0]]
        for key in sorted(measured, key=lambda key: key[2]):
            vec_env, per_worker, n_envs, _ = key
            label = vec_env if vec_env != "Ray" else f"Ray, envs_per_worker={per_worker}"
            speed = statistics.median(rates[key].values())
            reference = rates["Subproc", 1, n_envs, milliseconds]
            lines.append(f"| {n_envs} | {label} | {speed:,.0f} | {ratio(rates[key], reference)} |")
        lines.append("")
    return "\n".join([*lines, *overhead(rates), *straggler(rates)])


def overhead(rates: dict[tuple[str, int, int, float], dict[str, float]]) -> list[str]:
    """Time of a step of environments that take none: a constant and a time per worker, fitted by least squares."""
    n_workers, milliseconds = [], []
    for (vec_env, per_worker, n_envs, duration), speeds in rates.items():
        if vec_env == "Ray" and duration == 0 and per_worker == 1:
            n_workers.append(n_envs)
            milliseconds.append(1000 * n_envs / statistics.median(speeds.values()))
    slope, constant = np.polyfit(n_workers, milliseconds, 1)
    lines = [
        "## Overhead",
        "",
        f"A step of Ray workers whose environments take no time takes {constant:.2f} ms, and {slope:.2f} ms more per",
        "worker (least squares over the medians with `envs_per_worker=1`). It is mostly work of the processors of",
        "this machine, which also run the workers.",
        "",
        "## Projection to 1,000 environments",
        "",
        "From these figures, for workers on other machines, each with a processor: time of a step =",
        f"{constant:.2f} ms + {slope:.2f} ms x workers + duration x environments per worker.",
        "",
        "| duration of a step | environments per worker | workers | ms per step | steps/s | time spent stepping |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for duration in (1.0, 10.0, 100.0):
        for per_worker in (1, 8, 32):
            workers = -(-1_000 // per_worker)
            total = max(constant, 0) + slope * workers + duration * per_worker
            share = duration * per_worker / total
            lines.append(
                f"| {duration:g} ms | {per_worker} | {workers} | {total:,.0f} | {1e6 / total:,.0f} "
                f"| {100 * share:.0f} % |"
            )
    return [
        *lines,
        "",
        "The last column is the share of the time in which the workers step. This is a projection, not a measurement.",
        "",
    ]


def straggler(rates: dict[tuple[str, int, int, float], dict[str, float]]) -> list[str]:
    keys = {key[0].partition(", ")[2]: key for key in rates if key[0].startswith("straggler")}
    if not keys:
        return []
    asynchronous, synchronous = rates[keys["asynchronous"]], rates[keys["synchronous"]]
    return [
        "## One environment that is ten times slower",
        "",
        f"SB3's DQN, its defaults, with {STRAGGLERS} environments of 10 ms, of which one takes 100 ms, one per worker.",
        "",
        "| | steps/s | ratio |",
        "|---|---:|---:|",
        f"| synchronous | {statistics.median(synchronous.values()):,.0f} | |",
        f"| asynchronous | {statistics.median(asynchronous.values()):,.0f} | {ratio(asynchronous, synchronous)} |",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each (default: {ROUNDS})")
    parser.add_argument("--n-envs", type=int, nargs="+", default=N_ENVS, help="numbers of environments")
    parser.add_argument("--milliseconds", type=float, nargs="+", default=DURATIONS, help="durations of a step")
    parser.add_argument("--no-straggler", action="store_true", help="leave out training with a straggler")
    parser.add_argument("--only-straggler", action="store_true", help="measure only training with a straggler")
    parser.add_argument("--report", action="store_true", help="make the report from the records; measure nothing")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    if not arguments.report:
        if not arguments.no_straggler:
            measure_straggler(arguments.rounds)
        if not arguments.only_straggler:
            measure_steps(arguments.rounds, arguments.n_envs, arguments.milliseconds)
    RESULTS.with_suffix(".md").write_text(report())


if __name__ == "__main__":
    main()
