"""
How long environments take to step in RayVecEnv, SubprocVecEnv and DummyVecEnv, and what asynchronous workers gain.

    python benchmarks/vec_env.py               measure, six minutes or more; appends to results/vec_env.csv
    python benchmarks/vec_env.py --report      make results/vec_env.md from the records

An environment waits for the duration of its step, as one does whose simulator is another process, or computes for this
time; without a duration it returns at once, so that the overhead remains. The vectorized environments take turns within
a round, in random order. Only the one that is measured exists: processes that wait for work also take some of a
processor's time.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import timings
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from timings import Record, Records, shuffled

from sb3_reptile.evaluation.machine import processor_name
from sb3_reptile.evaluation.records import now
from sb3_reptile.evaluation.templates import PageTemplate, join
from sb3_reptile.vec_env import Asynchronous, RayVecEnv
from sb3_reptile.vec_env.ray_cluster import connected

TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "vec_env.md")
PACKAGES = ["ray", "stable_baselines3", "gymnasium", "numpy"]
DURATIONS = (0.0, 1.0, 10.0)
N_ENVS = (1, 4, 8, 16)
# Environments and threads of a worker
RAY = ((1, 1), (4, 1), (4, 4), (8, 1), (8, 8))
ROUNDS = 3
# Seconds of a turn
TURN = 0.6
# Seconds before the first turn: Ray starts spare processes after it has started a worker
WARM_UP = 3.0
# Of environments that compute: milliseconds of a step
COMPUTING = 10.0
# Workers share the processors, as the processes of SubprocVecEnv do
SHARED = {"CPU": 0}
# The straggler: this number of environments of 10 ms, one of which takes 100 ms
STRAGGLERS, STRAGGLER_FACTOR = 8, 10
# Steps of a turn, which should last some seconds
STRAGGLER_STEPS = {"synchronous": 400, "asynchronous": 1_600}
# Processes that ran or waited for a processor, on average over a minute, before this program began
LOAD = f"{os.getloadavg()[0]:.1f}"


class Working(gym.Env):
    """
    An environment whose step takes a certain time.

    :param milliseconds: Duration of a step
    :param does: What it does meanwhile: "waits", or "computes" and needs a processor
    """

    observation_space = gym.spaces.Box(-1, 1, (8,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, milliseconds: float = 0.0, does: str = "waits") -> None:
        self.seconds, self.does = milliseconds / 1000, does
        self.obs = np.zeros(8, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.does == "computes":
            end = time.thread_time() + self.seconds
            while time.thread_time() < end:
                pass
        elif self.seconds:
            time.sleep(self.seconds)
        self.n += 1
        return self.obs, 1.0, False, self.n == 200, {}


class Measured(NamedTuple):
    """What a speed is the speed of."""

    vec_env: str
    envs_per_worker: int
    threads_per_worker: int
    n_envs: int
    does: str = "waits"
    milliseconds: float = 0.0


def vec_envs(n_envs: int) -> Iterator[tuple[Measured, Callable[[], VecEnv]]]:
    """What is compared, and how it is made."""
    fns: list[Callable[[], gym.Env]] = [Working] * n_envs
    yield Measured("Dummy", n_envs, 1, n_envs), partial(DummyVecEnv, fns)
    yield Measured("Subproc", 1, 1, n_envs), partial(SubprocVecEnv, fns)
    for per_worker, threads in RAY:
        if per_worker <= n_envs:
            kwargs: Any = dict(envs_per_worker=per_worker, threads_per_worker=threads, resources=SHARED)
            yield Measured("Ray", per_worker, threads, n_envs), partial(RayVecEnv, fns, **kwargs)


def turn(env: VecEnv, seconds: float) -> tuple[int, float]:
    """Step for a time; the number of calls of ``step`` and the seconds they took."""
    actions = np.zeros(env.num_envs, int)
    start, n = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or n < 3:
        env.step(actions)
        n += 1
    return n, passed


FIELDS = ["round", *Measured._fields, "steps", "seconds", "load", "machine", "finished"]


def record(number: int, measured: Measured, steps: int, seconds: float) -> dict[str, Any]:
    processors = f"{processor_name()}, {os.cpu_count()} processors, {th.get_num_threads()} thread"
    machine = timings.machine(processors, PACKAGES)
    of_turn = {"round": number, **measured._asdict(), "steps": steps, "seconds": f"{seconds:.4f}"}
    return {**of_turn, "load": LOAD, "machine": machine, "finished": now()}


def measure_steps(rounds: int, n_envs: Sequence[int], durations: Sequence[float]) -> Iterator[dict[str, Any]]:
    works = [*(("waits", duration) for duration in durations), ("computes", COMPUTING)]
    with connected("local"):
        for n, number in itertools.product(n_envs, range(rounds)):
            for measured, make in shuffled(vec_envs(n)):
                env = make()
                env.reset()
                turn(env, WARM_UP)
                for does, milliseconds in works:
                    # Threads do not help those that compute
                    if does == "waits" or measured.threads_per_worker == 1:
                        env.set_attr("seconds", milliseconds / 1000)
                        env.set_attr("does", does)
                        env.reset()
                        turn(env, 0.2)
                        steps, seconds = turn(env, TURN)
                        of_work = measured._replace(does=does, milliseconds=milliseconds)
                        yield record(number, of_work, steps * n, seconds)
                env.close()


class AsynchronousDQN(Asynchronous, DQN):
    """SB3's DQN with asynchronous workers."""


def measure_straggler(rounds: int) -> Iterator[dict[str, Any]]:
    """DQN with one slow environment among fast ones, synchronous and asynchronous."""
    durations = [10.0 * STRAGGLER_FACTOR, *[10.0] * (STRAGGLERS - 1)]
    made_fns = [partial(Working, milliseconds) for milliseconds in durations]
    models = {
        name: AsynchronousDQN(
            "MlpPolicy", RayVecEnv(made_fns, resources=SHARED, **kwargs), learning_starts=50, device="cpu", seed=0
        )
        for name, kwargs in {"synchronous": {}, "asynchronous": {"asynchronous": True}}.items()
    }
    for model in models.values():
        model.learn(100)
    for number in range(rounds):
        for name, model in shuffled(models.items()):
            start, before = time.perf_counter(), model.num_timesteps
            model.learn(STRAGGLER_STEPS[name], reset_num_timesteps=False)
            seconds = time.perf_counter() - start
            measured = Measured(f"straggler, {name}", 1, 1, STRAGGLERS, milliseconds=10.0)
            yield record(number, measured, model.num_timesteps - before, seconds)
    for model in models.values():
        model.env.close()


# ---- Tables

Rates = dict[Measured, dict[str, float]]


def per_second(records: list[Record]) -> Rates:
    """Environment steps per second by what was measured and round."""
    rates: Rates = {}
    for record in records:
        of = Measured(*(kind(record[name]) for name, kind in Measured.__annotations__.items()))
        rates.setdefault(of, {})[record["round"]] = int(record["steps"]) / float(record["seconds"])
    return rates


def ratio(ours: dict[str, float], theirs: dict[str, float]) -> str:
    ratios = timings.ratios(ours, theirs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def label(of: Measured) -> str:
    if of.vec_env != "Ray":
        return of.vec_env
    threads = f", threads_per_worker={of.threads_per_worker}" if of.threads_per_worker > 1 else ""
    return f"Ray, envs_per_worker={of.envs_per_worker}{threads}"


def milliseconds_per_step(rates: Rates, of: Measured) -> float:
    return 1000 * of.n_envs / statistics.median(rates[of].values())


def markdown(records: list[Record]) -> str:
    rates = per_second(records)
    of_steps = {of: rate for of, rate in rates.items() if not of.vec_env.startswith("straggler")}
    groups = sorted({(of.milliseconds, of.does) for of in of_steps})
    loads = sorted({float(record["load"]) for record in records})
    page = TEMPLATE.fill(
        "page",
        n_envs=" ".join(map(str, sorted({of.n_envs for of in of_steps}))),
        machine=records[-1]["machine"],
        loads=" and ".join(f"{load:g}" for load in loads),
        steps=join(steps(of_steps, does, milliseconds) for milliseconds, does in groups),
        projection=projection(of_steps),
        straggler=straggler(rates),
    )
    return page + "\n"


def in_tables(of: Measured) -> tuple[int, ...]:
    """The order of the rows, which does not depend on that of the turns."""
    return of.n_envs, ("Dummy", "Subproc", "Ray").index(of.vec_env), of.envs_per_worker, of.threads_per_worker


def steps(rates: Rates, does: str, milliseconds: float) -> str:
    """The table of environments whose steps take the same time."""
    rows = []
    for of in sorted((of for of in rates if of[4:] == (does, milliseconds)), key=in_tables):
        reference = of._replace(vec_env="Subproc", envs_per_worker=1, threads_per_worker=1)
        in_turn = -(-of.envs_per_worker // of.threads_per_worker)
        overhead = f"{milliseconds_per_step(rates, of) - in_turn * milliseconds:.2f} ms" if does == "waits" else ""
        speed = f"{statistics.median(rates[of].values()):,.0f}"
        rows.append(f"| {of.n_envs} | {label(of)} | {speed} | {ratio(rates[of], rates[reference])} | {overhead} |")
    verb = "compute" if does == "computes" else "wait"
    what = f"{verb} for {milliseconds:g} ms" if milliseconds else "take no time"
    return TEMPLATE.fill("steps", what=what, rows=rows)


def projection(rates: Rates) -> str:
    """
    Time of a step of environments that take none: a constant and a time per worker, fitted by least squares, for steps
    that are calls and for those through channels.
    """
    without_time = [of for of in rates if of.vec_env == "Ray" and of.milliseconds == 0]
    kinds = {
        "calls": [of for of in without_time if of.threads_per_worker == of.envs_per_worker == 1],
        "channels": [of for of in without_time if of.threads_per_worker > 1],
    }
    fits = {}
    for kind, chosen in kinds.items():
        workers = [of.n_envs // of.envs_per_worker for of in chosen]
        if len(set(workers)) < 2:
            return ""
        slope, constant = np.polyfit(workers, [milliseconds_per_step(rates, of) for of in chosen], 1)
        fits |= {f"constant_of_{kind}": max(constant, 0.0), f"slope_of_{kind}": slope}
    rows = []
    for duration in (1.0, 10.0, 100.0):
        for per_worker, threads in ((1, 1), (8, 1), (8, 8), (50, 50)):
            n_workers = -(-1_000 // per_worker)
            in_turn = duration * per_worker / threads
            # Workers on other machines have no channels
            total = fits["constant_of_calls"] + fits["slope_of_calls"] * n_workers + in_turn
            rows.append(
                f"| {duration:g} ms | {per_worker} | {threads} | {n_workers} | {total:,.0f} ms | {1e6 / total:,.0f} "
                f"| {100 * in_turn / total:.0f} % |"
            )
    return TEMPLATE.fill("projection", **{name: f"{value:.2f}" for name, value in fits.items()}, rows=rows)


def straggler(rates: Rates) -> str:
    found = {of.vec_env.partition(", ")[2]: rate for of, rate in rates.items() if of.vec_env.startswith("straggler")}
    if not found:
        return ""
    speeds = {name: f"{statistics.median(rate.values()):,.0f}" for name, rate in found.items()}
    return TEMPLATE.fill(
        "straggler", n_envs=STRAGGLERS, ratio=ratio(found["asynchronous"], found["synchronous"]), **speeds
    )


def main() -> None:
    parser = timings.command_line(__doc__)
    parser.add_argument("--rounds", type=int, help=f"turns of each (default: {ROUNDS}, with --quick 1)")
    parser.add_argument("--n-envs", type=int, nargs="+", default=N_ENVS, help="numbers of environments")
    parser.add_argument("--milliseconds", type=float, nargs="+", default=DURATIONS, help="durations of a step")
    parser.add_argument("--no-straggler", action="store_true", help="leave out training with a straggler")
    parser.add_argument("--only-straggler", action="store_true", help="measure only training with a straggler")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else ROUNDS)

    def measure(records: Records) -> None:
        th.set_num_threads(1)
        if not arguments.no_straggler:
            records.append(measure_straggler(rounds))
        if not arguments.only_straggler:
            records.append(measure_steps(rounds, arguments.n_envs, arguments.milliseconds))

    timings.run(parser, "vec_env", FIELDS, measure, markdown)


if __name__ == "__main__":
    main()
