"""
How fast whole `learn()` runs are: SB3's DQN, SBX's DQN and ReptileDQN, in environment steps and updates per second;
SB3's SAC and TD3 with a decayed buffer; and five algorithms of SB3 and sb3-contrib next to SBX's.

    python benchmarks/training.py [--quick] [--tasks NAME ...] [--output benchmarks/results/training.csv]

It writes records (CSV), one for each slice of a run, and, next to them, the tables (Markdown) that it prints;
`--from-records` rebuilds the tables from the records without measuring. For every task and number of threads a process
holds one model of each method, and they take turns: in every round each of them learns for a short while, in random
order, and is compared with the reference in the same round.
"""

import argparse
import csv
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks import CARTPOLE
from tqdm import tqdm

from sb3_reptile.evaluation.machine import installed_versions, processor

RESULTS = Path(__file__).parent / "results"

REFERENCE = "SB3 DQN"
SBX = "SBX DQN"
WITH_SBX = ("DQN", "SAC", "TD3", "TQC", "CrossQ")
EXACT = "ReptileDQN"
FAST = 'ReptileDQN, learner="fast"'
EAGER = 'ReptileDQN, learner="eager"'
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
    'ReptileDQN, half_life="auto"': {"half_life": "auto"},
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

Record = dict[str, str]


@dataclass(frozen=True)
class Task:
    """
    What is learned, and for how long.

    :param make_env: What SB3 gets as environment
    :param settings: Keyword arguments of every method
    :param warm_up: Steps before the clock starts, some updates included
    :param steps: Steps of a turn
    :param about: What it is, for the tables
    :param sbx_every: In every how many rounds SBX has a turn
    :param methods: What is compared
    :param threads: Numbers of threads to measure with
    :param rounds: Number of rounds
    """

    make_env: Callable[[], Any]
    policy: str
    settings: dict[str, Any]
    warm_up: int
    steps: int
    about: str
    sbx_every: int = 1
    methods: Sequence[str] = tuple(MAIN_METHODS)
    threads: Sequence[int] = (1, 2)
    rounds: int = ROUNDS


def eight_cartpoles() -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env("CartPole-v1", n_envs=8)


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


ZOO_CARTPOLE = Task(
    lambda: "CartPole-v1",
    "MlpPolicy",
    CARTPOLE,
    warm_up=6 * 256,
    steps=256,
    about="the RL Zoo's hyperparameters, batch 64, 128 updates every 256 steps",
    threads=(1,),
)
DEFAULT_CARTPOLE = Task(
    lambda: "CartPole-v1",
    "MlpPolicy",
    {},
    warm_up=600,
    steps=200,
    about="SB3's defaults, batch 32, an update every 4 steps",
    threads=(1,),
)
ABOUT_OWN = "auto and λ-returns of 10 steps next to one-step returns and decay alone"

TASKS = {
    "CartPole-v1": replace(
        ZOO_CARTPOLE,
        methods=(
            *MAIN_METHODS,
            *(name for name in METHODS if name.startswith("ReptileDQN") and name not in (*MAIN_METHODS, OWN)),
            "SB3 DQN, fused Adam",
        ),
    ),
    "CartPole-v1, defaults": DEFAULT_CARTPOLE,
    "CartPole-v1, ReptileDQN's defaults": replace(
        ZOO_CARTPOLE, methods=(REFERENCE, EXACT, OWN), about=f"the RL Zoo's hyperparameters; {ABOUT_OWN}"
    ),
    "CartPole-v1, SB3's and ReptileDQN's defaults": replace(
        DEFAULT_CARTPOLE, methods=(REFERENCE, EXACT, OWN), about=f"{DEFAULT_CARTPOLE.about}; {ABOUT_OWN}"
    ),
    "CartPole-v1, 8 environments": Task(
        eight_cartpoles,
        "MlpPolicy",
        CARTPOLE,
        warm_up=16 * 256,
        steps=2_048,
        about="the RL Zoo's hyperparameters with 8 environments, 128 updates every 2,048 steps",
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
        steps=20,
        about="4x84x84 uint8 from an environment that takes no time, batch 32, an update every 4 steps; "
        "episodes of 50 steps",
        # XLA compiles the convolutions of its training loop into slow code for CPUs
        sbx_every=10,
    ),
    **{
        f"Pendulum-v1, {algorithm}": Task(
            lambda: "Pendulum-v1",
            "MlpPolicy",
            dict(learning_starts=100),
            warm_up=128,
            steps=16,
            about=f"SB3's {algorithm} with its defaults, an update every step",
            methods=tuple(method for method in METHODS if method.startswith(f"SB3 {algorithm}")),
            threads=(1,),
        )
        for algorithm in ("SAC", "TD3")
    },
    **{
        f"SBX's {algorithm} on {env_id}{name}": Task(
            lambda env_id=env_id: env_id,  # type: ignore[misc]
            "MlpPolicy",
            dict(learning_starts=100, policy_kwargs=dict(net_arch=[256, 256]), **settings),
            warm_up=192,
            steps=32,
            about=f"batch {settings['batch_size']}, layers of 256 and 256 units, {about}",
            methods=(f"SB3 {algorithm}", f"SBX {algorithm}", f"SBX {algorithm}, decayed replay"),
            threads=(1,),
            rounds=10,
        )
        for algorithm, env_id, name, settings, about in [
            ("DQN", "CartPole-v1", "", dict(batch_size=64, train_freq=4), "an update every 4 steps"),
            *(
                (algorithm, "Pendulum-v1", "", dict(batch_size=256), "an update every step")
                for algorithm in WITH_SBX[1:]
            ),
            (
                "SAC",
                "Pendulum-v1",
                ", 32 updates at once",
                dict(batch_size=256, train_freq=32, gradient_steps=32),
                "32 updates every 32 steps",
            ),
        ]
    },
}


# ---- Measuring, in a process for each task and number of threads


def make_model(task: Task, method: str) -> Any:
    import sb3_contrib
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    import sb3_reptile

    algorithm: Any = sb3_reptile.ReptileDQN
    library, _, name = method.partition(",")[0].partition(" ")
    if library == "SBX":
        import sbx

        import sb3_reptile.sbx

        algorithm = getattr(sb3_reptile.sbx if method.endswith("decayed replay") else sbx, name)
    elif library == "SB3":
        algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)

    one_step = ONE_STEP if algorithm is sb3_reptile.ReptileDQN else {}
    settings = {**task.settings, **one_step, **METHODS[method]}
    settings["policy_kwargs"] = {**task.settings.get("policy_kwargs", {}), **METHODS[method].get("policy_kwargs", {})}
    if "replay_buffer_class" in settings:
        settings["replay_buffer_class"] = getattr(sb3_reptile, settings["replay_buffer_class"])
    env = task.make_env()
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


def child(task_name: str, threads: int, methods: list[str], rounds: int) -> None:
    """Let the methods take turns, and print a record of each turn."""
    if hasattr(os, "sched_setaffinity"):
        # XLA makes as many threads as there are processors to run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    import torch as th

    th.set_num_threads(threads)
    random.seed(0)
    task = TASKS[task_name]
    models = {method: make_model(task, method) for method in methods}
    logging = {
        method: Stopwatch(model, "_log_replay") for method, model in models.items() if hasattr(model, "_log_replay")
    }
    for model in models.values():
        model.learn(task.warm_up)
    for number in range(rounds):
        for method in random.sample(methods, len(methods)):
            if method == SBX and number % task.sbx_every:
                continue
            model = models[method]
            steps, updates = model.num_timesteps, model._n_updates
            log_seconds = logging[method].seconds if method in logging else 0.0
            start = time.perf_counter()
            model.learn(task.steps, reset_num_timesteps=False)
            record = {
                "task": task_name,
                "threads": threads,
                "round": number,
                "method": method,
                "seconds": f"{time.perf_counter() - start:.5f}",
                "steps": model.num_timesteps - steps,
                "updates": model._n_updates - updates,
                "log_seconds": f"{logging[method].seconds - log_seconds:.6f}" if method in logging else "",
                "environment": environment(),
            }
            print(json.dumps({key: str(value) for key, value in record.items()}), flush=True)


def start_child(task: str, threads: int, methods: list[str], rounds: int) -> Iterable[Record]:
    xla_flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1:
        xla_flags += " --xla_cpu_multi_thread_eigen=false"
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environ = {**os.environ, **dict.fromkeys(variables, str(threads)), "XLA_FLAGS": xla_flags, "JAX_PLATFORMS": "cpu"}
    what = json.dumps({"task_name": task, "threads": threads, "methods": methods, "rounds": rounds})
    command = [sys.executable, __file__, "--child", what]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode != 0:
        raise SystemExit(f"failed: {task}, threads: {threads}")


def environment() -> str:
    versions = [f"{package} {version}" for package, version in installed_versions(PACKAGES).items()]
    return f"{processor()}; {', '.join(versions)}"


def run(path: Path, names: Sequence[str], quick: bool, kept: Sequence[Record]) -> None:
    """Measure the tasks, and write each record when it is there, after those that are kept."""
    with_sbx = bool(installed_versions(["sbx_rl"]))
    if not with_sbx:
        print("sbx-rl is not installed and left out; to compare with it: pip install '.[bench]'", file=sys.stderr)
    plan = []
    for name in names:
        task = TASKS[name]
        chosen = [method for method in task.methods if with_sbx or not method.startswith("SBX")]
        rounds = QUICK_ROUNDS if quick else task.rounds
        plan += [(name, threads, chosen, rounds) for threads in task.threads]
    total = sum(len(methods) * rounds for _, _, methods, rounds in plan)
    with path.open("w", encoding="utf-8", newline="") as file, tqdm(total=total, unit="turn") as bar:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        file.flush()
        for name, threads, methods, rounds in plan:
            bar.set_description(f"{name}, threads: {threads}")
            for record in start_child(name, threads, methods, rounds):
                writer.writerow(record)
                file.flush()
                bar.update()


# ---- Tables


def distinct(records: Iterable[Record], field: str) -> list[str]:
    """The values of a field, in the order in which they were measured."""
    return list(dict.fromkeys(record[field] for record in records))


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Ranks between which the median lies in 95 of 100 cases, for any distribution; normal approximation."""
    values = sorted(values)
    half_width = 0.98 * len(values) ** 0.5
    low = max(0, math.floor(len(values) / 2 - half_width))
    return values[low], values[len(values) - 1 - low]


def section(task: str, threads: str, records: list[Record]) -> list[str]:
    about = f"{TASKS[task].about}. " if task in TASKS else ""
    reference = TASKS[task].methods[0] if task in TASKS else REFERENCE
    of_reference = {record["round"]: float(record["seconds"]) for record in records if record["method"] == reference}
    lines = [
        f"## {task}, {threads} thread{'' if threads == '1' else 's'}",
        "",
        f"{about[:1].upper()}{about[1:]}Turns of {records[0]['steps']} steps. {records[0]['environment']}.",
        "",
        "| method | steps/s | updates/s | ratio (95 % interval) | rounds | logging of replay |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for method in METHODS:
        turns = [record for record in records if record["method"] == method]
        if not turns:
            continue
        seconds = [float(record["seconds"]) for record in turns]
        ratios = [of_reference[record["round"]] / float(record["seconds"]) for record in turns]
        ratio = f"{statistics.median(ratios):.2f}"
        if method != reference:
            ratio += " ({:.2f} to {:.2f})".format(*interval_of_median(ratios))
        share = ""
        if turns[0]["log_seconds"]:
            share = f"{100 * sum(float(record['log_seconds']) for record in turns) / sum(seconds):.2f} %"
        rates = [f"{int(turns[0][what]) / statistics.median(seconds):,.0f}" for what in ("steps", "updates")]
        lines.append(f"| {method} | {rates[0]} | {rates[1]} | {ratio} | {len(turns)} | {share} |")
    return [*lines, ""]


def markdown(records: list[Record]) -> str:
    lines = [
        "# How fast whole runs are",
        "",
        "`python benchmarks/training.py` measures it; the records are in the CSV file of the same name.",
        "",
        "Environment steps and updates (gradient steps) per second of `learn()`, medians over short turns, and the",
        "ratio of its speed to that of SB3's algorithm in the same round: the median over the rounds, with its 95 %",
        "interval. More is faster. Steps and updates have the same ratio, as all methods make as many of both in a",
        "turn. The methods take their turns in random order; building the models, compiling and first updates are not",
        "timed. All run on the CPU, on as many processors (where the system lets a process choose) as there are",
        "threads.",
        "",
        "The last column is the share of the time that goes into ReptileDQN's logging of replay, with SB3's",
        "default `log_interval=4` (episodes): the shorter the episodes, the larger.",
        "",
        'ReptileDQN trains the same bits as with `learner="eager"`, without autograd; `learner="fast"` may round',
        "differently. On images both use autograd. Fused Adam is",
        "`policy_kwargs=dict(optimizer_kwargs=dict(fused=True))`.",
        "",
        "SBX's DQN does not clip gradients, and draws the batches of all updates between two rollouts at once. It",
        "updates within `jax.lax.scan`, where XLA's convolutions are slow on CPUs.",
        "",
    ]
    if SBX not in distinct(records, "method"):
        lines += ["sbx-rl was not installed (`pip install '.[bench]'`).", ""]
    present = distinct(records, "task")
    for task in sorted(present, key=lambda task: list(TASKS).index(task) if task in TASKS else len(TASKS)):
        of_task = [record for record in records if record["task"] == task]
        for threads in distinct(of_task, "threads"):
            lines += section(task, threads, [record for record in of_task if record["threads"] == threads])
    return "\n".join(lines).rstrip() + "\n"


def read(path: Path, parser: argparse.ArgumentParser) -> list[Record]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        records = list(reader)
    if reader.fieldnames != FIELDS or not records:
        parser.error(f"{path} does not hold records of this benchmark; measure again")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}: about three minutes"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="CSV file to write; the tables go next to it (default: benchmarks/results/training.csv, "
        "with --quick training_quick.csv)",
    )
    parser.add_argument(
        "--tasks", nargs="+", metavar="NAME", help="measure these tasks only; the CSV file keeps the records of others"
    )
    parser.add_argument("--from-records", action="store_true", help="rebuild the tables from the CSV file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(**arguments.child)
        return
    path = arguments.output or RESULTS / ("training_quick.csv" if arguments.quick else "training.csv")
    if path.suffix != ".csv":
        parser.error(f"--output must end in .csv, got {path}")

    names = arguments.tasks or list(TASKS)
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"--tasks: there is no task {unknown[0]!r}, use some of: {'; '.join(TASKS)}")

    if not arguments.from_records:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = read(path, parser) if arguments.tasks and path.is_file() else []
        run(path, names, arguments.quick, [record for record in kept if record["task"] not in names])
    elif not path.is_file():
        parser.error(f"--from-records: there is no {path}; measure first, or name the records with --output")
    records = read(path, parser)
    text = markdown(records)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
