"""
How fast whole `learn()` runs are: SB3's DQN, SBX's DQN and ReptileDQN, in environment steps and updates per second;
SB3's SAC and TD3 with a decayed buffer; and five algorithms of SB3 and sb3-contrib next to SBX's.

    python benchmarks/training.py [--quick] [--tasks NAME ...] [--output benchmarks/results/training.csv]

It writes records (CSV), one for each slice of a run, and, next to them, the tables (Markdown) that it prints;
`--from-records` rebuilds the tables from the records without measuring. For every task and number of threads a process
holds one model of each method, and they take turns: in every round each of them learns for a short while, in random
order, and is compared with the reference in the same round.
"""

import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import sb3_contrib
import stable_baselines3
import timings
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from tasks import CARTPOLE
from timings import FakeImages, Record, Records, by_round, distinct, where
from tqdm import tqdm

import sb3_reptile
from sb3_reptile.evaluation.machine import installed_versions, processor
from sb3_reptile.evaluation.templates import PageTemplate, join

TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "training.md")

REFERENCE = "SB3 DQN"
SBX = "SBX DQN"
WITH_SBX = ("DQN", "SAC", "TD3", "TQC", "CrossQ")
EXACT = "ReptileDQN"
FAST = 'ReptileDQN, learner="fast"'
EAGER = 'ReptileDQN, learner="eager"'
AUTO = 'ReptileDQN, half_life="auto"'
LAMBDA = "ReptileDQN, λ-returns of 10 steps"
OWN = "ReptileDQN, its own defaults"
# What SB3's DQN does apart from decay; a method names what is different
ONE_STEP: dict[str, Any] = {"n_steps": 1, "half_life": None}
PRIORITIES: dict[str, Any] = {"priority": "td_error"}
FUSED: dict[str, Any] = {"optimizer_kwargs": {"fused": True}}
# What users of other algorithms of SB3 can do
DECAYED: dict[str, Any] = {"replay_buffer_class": "DecayedReplayBuffer"}
DECAYED_FUSED: dict[str, Any] = {**DECAYED, "policy_kwargs": FUSED}
DECAYED_FUSED_8: dict[str, Any] = {**DECAYED_FUSED, "n_envs": 8, "gradient_steps": 8}

ROUNDS = 80
QUICK_ROUNDS = 5

# Keyword arguments in addition to the task's; policy_kwargs are added to the task's
METHODS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    SBX: {},
    EXACT: {},
    FAST: {"learner": "fast"},
    EAGER: {"learner": "eager"},
    "ReptileDQN, no decay": {"half_life": float("inf")},
    'ReptileDQN, weighting="loss"': {"half_life": 1_000, "weighting": "loss"},
    "ReptileDQN, priorities": PRIORITIES,
    'ReptileDQN, priorities, learner="fast"': {**PRIORITIES, "learner": "fast"},
    "ReptileDQN, double Q": {"double_q": True},
    'ReptileDQN, double Q, learner="fast"': {"double_q": True, "learner": "fast"},
    "ReptileDQN, 10-step returns": {"n_steps": 10},
    AUTO: {"half_life": "auto"},
    LAMBDA: {"n_steps": None},
    OWN: {"n_steps": None, "half_life": "auto"},
    "SB3 DQN, fused Adam": {"policy_kwargs": FUSED},
    **{
        f"SB3 {algorithm}{name}": kwargs
        for algorithm in ("SAC", "TD3")
        for name, kwargs in {
            "": {},
            ", DecayedReplayBuffer": DECAYED,
            ", DecayedReplayBuffer, fused Adam": DECAYED_FUSED,
            ", DecayedReplayBuffer, fused Adam, 8 environments, gradient_steps=8": DECAYED_FUSED_8,
        }.items()
    },
    **{f"SB3 {algorithm}": {} for algorithm in WITH_SBX[3:]},
    **{f"SBX {algorithm}": {} for algorithm in WITH_SBX[1:]},
    **{f"SBX {algorithm}, decayed replay": {} for algorithm in WITH_SBX},
}
# Those of a task that are not compared in all respects
MAIN_METHODS = [REFERENCE, SBX, EXACT, FAST, EAGER]

PACKAGES = ["torch", "stable_baselines3", "sbx_rl", "jax", "numpy"]
FIELDS = ["task", "threads", "round", "method", "steps", "updates", "seconds", "log_seconds", "environment"]


@dataclass(frozen=True)
class Task:
    """
    What is learned, and for how long.

    :param env: What SB3 gets as environment, or a function that makes it
    :param about: What it is, for the tables
    :param warm_up: Steps before the clock starts, some updates included
    :param steps: Steps of a turn
    :param settings: Keyword arguments of every method
    :param sbx_every: In every how many rounds SBX has a turn
    :param methods: What is compared
    :param threads: Numbers of threads to measure with
    :param rounds: Number of rounds
    """

    env: str | Callable[[], Any]
    about: str
    warm_up: int
    steps: int
    settings: dict[str, Any] = field(default_factory=dict)
    policy: str = "MlpPolicy"
    sbx_every: int = 1
    methods: Sequence[str] = tuple(MAIN_METHODS)
    threads: Sequence[int] = (1, 2)
    rounds: int = ROUNDS


ZOO = "the RL Zoo's hyperparameters"
ZOO_CARTPOLE = Task(
    "CartPole-v1", f"{ZOO}, batch 64, 128 updates every 256 steps", 6 * 256, 256, CARTPOLE, threads=(1,)
)
DEFAULT_CARTPOLE = Task(
    "CartPole-v1", "SB3's defaults, batch 32, an update every 4 steps", warm_up=600, steps=200, threads=(1,)
)
OWN_PARTS = (REFERENCE, EXACT, AUTO, LAMBDA, OWN)
MANY_AT_ONCE = dict(batch_size=256, train_freq=32, gradient_steps=32)
ABOUT_OWN = "auto and λ-returns of 10 steps next to one-step returns and decay alone"

TASKS = {
    "CartPole-v1": replace(
        ZOO_CARTPOLE,
        methods=(
            *MAIN_METHODS,
            *(name for name in METHODS if name.startswith("ReptileDQN") and name not in (*MAIN_METHODS, LAMBDA, OWN)),
            "SB3 DQN, fused Adam",
        ),
    ),
    "CartPole-v1, defaults": DEFAULT_CARTPOLE,
    "CartPole-v1, ReptileDQN's defaults": replace(ZOO_CARTPOLE, methods=OWN_PARTS, about=f"{ZOO}; {ABOUT_OWN}"),
    "CartPole-v1, SB3's and ReptileDQN's defaults": replace(
        DEFAULT_CARTPOLE, methods=OWN_PARTS, about=f"{DEFAULT_CARTPOLE.about}; {ABOUT_OWN}"
    ),
    "CartPole-v1, 8 environments": Task(
        partial(make_vec_env, "CartPole-v1", n_envs=8),
        f"{ZOO} with 8 environments, 128 updates every 2,048 steps",
        warm_up=16 * 256,
        steps=2_048,
        settings=CARTPOLE,
    ),
    "images": Task(
        FakeImages,
        "4x84x84 uint8 from an environment that takes no time, batch 32, an update every 4 steps; episodes of 50 steps",
        warm_up=120,
        steps=20,
        settings=dict(
            batch_size=32,
            buffer_size=5_000,
            learning_starts=100,
            target_update_interval=1_000,
            train_freq=4,
            gradient_steps=1,
        ),
        policy="CnnPolicy",
        # XLA compiles the convolutions of its training loop into slow code for CPUs
        sbx_every=10,
    ),
    **{
        f"Pendulum-v1, {algorithm}": Task(
            "Pendulum-v1",
            f"SB3's {algorithm} with its defaults, an update every step",
            warm_up=128,
            steps=16,
            settings=dict(learning_starts=100),
            methods=tuple(method for method in METHODS if method.startswith(f"SB3 {algorithm}")),
            threads=(1,),
        )
        for algorithm in ("SAC", "TD3")
    },
    **{
        f"SBX's {algorithm} on {env_id}{name}": Task(
            env_id,
            f"batch {settings['batch_size']}, layers of 256 and 256 units, {about}",
            warm_up=192,
            steps=32,
            settings=dict(learning_starts=100, policy_kwargs=dict(net_arch=[256, 256]), **settings),
            methods=(f"SB3 {algorithm}", f"SBX {algorithm}", f"SBX {algorithm}, decayed replay"),
            threads=(1,),
            rounds=10,
        )
        for algorithm, env_id, name, about, settings in [
            ("DQN", "CartPole-v1", "", "an update every 4 steps", dict(batch_size=64, train_freq=4)),
            *(
                (algorithm, "Pendulum-v1", "", "an update every step", dict(batch_size=256))
                for algorithm in WITH_SBX[1:]
            ),
            ("SAC", "Pendulum-v1", ", 32 updates at once", "32 updates every 32 steps", MANY_AT_ONCE),
        ]
    },
}


# ---- Measuring, in a process for each task and number of threads


def make_model(task: Task, method: str) -> Any:
    algorithm: Any = sb3_reptile.ReptileDQN
    library, _, name = method.partition(",")[0].partition(" ")
    if library == "SBX":
        import sbx

        from sb3_reptile import sbx as decayed

        algorithm = getattr(decayed if method.endswith("decayed replay") else sbx, name)
    elif library == "SB3":
        algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)

    one_step = ONE_STEP if algorithm is sb3_reptile.ReptileDQN else {}
    settings = {**task.settings, **one_step, **METHODS[method]}
    settings["policy_kwargs"] = {**task.settings.get("policy_kwargs", {}), **METHODS[method].get("policy_kwargs", {})}
    if "replay_buffer_class" in settings:
        settings["replay_buffer_class"] = getattr(sb3_reptile, settings["replay_buffer_class"])
    env = task.env() if callable(task.env) else task.env
    if "n_envs" in settings:
        env = make_vec_env(env, n_envs=settings.pop("n_envs"))
    return algorithm(task.policy, env, seed=0, device="cpu", **settings)


class Stopwatch:
    """Counts the seconds that a method of an object takes."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds = 0.0
        self._call = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *args: Any) -> Any:
        start = time.perf_counter()
        result = self._call(*args)
        self.seconds += time.perf_counter() - start
        return result


def turns(task_name: str, threads: int, methods: list[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Let the methods take turns; a record of each."""
    if hasattr(os, "sched_setaffinity"):
        # XLA makes as many threads as there are processors to run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    th.set_num_threads(threads)
    random.seed(0)
    task = TASKS[task_name]
    models = {method: make_model(task, method) for method in methods}
    logging = {name: Stopwatch(model, "_log_replay") for name, model in models.items() if hasattr(model, "_log_replay")}
    for model in models.values():
        model.learn(task.warm_up)
    environment = timings.machine(processor(), PACKAGES)
    for number in tqdm(range(rounds), f"{task_name}, threads: {threads}", unit="round"):
        for method in timings.shuffled(methods):
            if method == SBX and number % task.sbx_every:
                continue
            model = models[method]
            steps, updates = model.num_timesteps, model._n_updates
            log_seconds = logging[method].seconds if method in logging else 0.0
            start = time.perf_counter()
            model.learn(task.steps, reset_num_timesteps=False)
            yield {
                "task": task_name,
                "threads": threads,
                "round": number,
                "method": method,
                "seconds": f"{time.perf_counter() - start:.5f}",
                "steps": model.num_timesteps - steps,
                "updates": model._n_updates - updates,
                "log_seconds": f"{logging[method].seconds - log_seconds:.6f}" if method in logging else "",
                "environment": environment,
            }


def measure(records: Records, names: Sequence[str], quick: bool) -> None:
    with_sbx = bool(installed_versions(["sbx_rl"]))
    if not with_sbx:
        print("sbx-rl is not installed and left out; to compare with it: pip install '.[bench]'", file=sys.stderr)
    flags = os.environ.get("XLA_FLAGS", "")
    for name in names:
        task = TASKS[name]
        chosen = [method for method in task.methods if with_sbx or not method.startswith("SBX")]
        for threads in task.threads:
            one_thread = " --xla_cpu_multi_thread_eigen=false" if threads == 1 else ""
            variables = {"XLA_FLAGS": flags + one_thread, "JAX_PLATFORMS": "cpu"}
            arguments = (name, threads, chosen, QUICK_ROUNDS if quick else task.rounds)
            records.measure(turns, *arguments, threads=threads, variables=variables)


# ---- Tables


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Ranks between which the median lies in 95 of 100 cases, for any distribution; normal approximation."""
    half_width = 0.98 * len(values) ** 0.5
    low = max(0, math.floor(len(values) / 2 - half_width))
    return values[low], values[len(values) - 1 - low]


def row(method: str, turns: list[Record], of_reference: dict[str, float] | None) -> str:
    """A line of a table; the reference has no interval."""
    seconds = by_round(turns, "seconds")
    ratio = "1.00"
    if of_reference is not None:
        ratios = timings.ratios(of_reference, seconds)
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(statistics.median(ratios), *interval_of_median(ratios))
    share = ""
    if turns[0]["log_seconds"]:
        share = f"{100 * sum(by_round(turns, 'log_seconds').values()) / sum(seconds.values()):.2f} %"
    steps, updates = (
        f"{int(turns[0][what]) / statistics.median(seconds.values()):,.0f}" for what in ("steps", "updates")
    )
    return f"| {method} | {steps} | {updates} | {ratio} | {len(turns)} | {share} |"


def section(name: str, threads: str, records: list[Record]) -> str:
    task = TASKS[name]
    reference = task.methods[0]
    of_reference = by_round(where(records, method=reference), "seconds")
    found = {method: turns for method in METHODS if (turns := where(records, method=method))}
    return TEMPLATE.fill(
        "section",
        task=name,
        threads="1 thread" if threads == "1" else f"{threads} threads",
        about=f"{task.about[0].upper()}{task.about[1:]}",
        steps=records[0]["steps"],
        environment=records[0]["environment"],
        rows=[row(method, turns, None if method == reference else of_reference) for method, turns in found.items()],
    )


def markdown(records: list[Record]) -> str:
    sections = [
        section(task, threads, where(records, task=task, threads=threads))
        for task in TASKS
        for threads in distinct(where(records, task=task), "threads")
    ]
    without_sbx = "" if where(records, method=SBX) else TEMPLATE.fill("without_sbx")
    return TEMPLATE.fill("page", sections=join([without_sbx, *sections])) + "\n"


def main() -> None:
    parser = timings.command_line(__doc__)
    parser.add_argument(
        "--tasks", nargs="+", metavar="NAME", help="measure these tasks only; the CSV file keeps the records of others"
    )
    arguments = parser.parse_args()
    names = arguments.tasks or list(TASKS)
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"--tasks: there is no task {unknown[0]!r}, use some of: {'; '.join(TASKS)}")

    def measure_again(records: Records) -> None:
        records.discard(lambda record: arguments.tasks is None or record["task"] in names)
        measure(records, names, arguments.quick)

    timings.run(parser, "training", FIELDS, measure_again, markdown)


if __name__ == "__main__":
    main()
