"""
Which replay learns best, where tasks drift and where they do not: methods x tasks x seeds, one record per run.

    python benchmarks/learning.py --jobs 2 --hours 1.5      train the missing runs, the most informative first
    python benchmarks/learning.py --ray HOST:6379           train them on a Ray cluster
    python benchmarks/learning.py --plan                    list finished and missing runs, with an estimate of the time
    python benchmarks/learning.py --run TASK METHOD SEED    one run; prints its record, which names this command

Methods are in `benchmarks/methods.py`, tasks in `benchmarks/tasks.py`. Every finished run is a line of
`benchmarks/results/learning/TASK.jsonl`; an interrupted run is repeated.
`benchmarks/learning_report.py` makes `docs/explanation/results_one_step.md` from these records, and
`benchmarks/learner_report.py` makes `docs/explanation/results.md` from those of other learners.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from methods import LEARNERS, METHODS, TRIED, TRIED_SEEDS, VOLUME_METHODS
from tasks import GAMES, OPTIMIZER, TASKS, Task, settings_with_volume

from sb3_reptile.evaluation import records as evaluation
from sb3_reptile.evaluation.machine import THREADS, versions_used
from sb3_reptile.evaluation.records import BINS, Record, append, learning_curve, now, sole_writer
from sb3_reptile.evaluation.runner import Job, train_or_exit

ROOT = Path(__file__).parent.parent
RECORDS = Path(__file__).parent / "results" / "learning"
# Of runs with other learners than one-step returns
LEARNER_RECORDS = Path(__file__).parent / "results" / "learners"
# Program of the child processes
PROGRAM = Path(__file__)
# Code on which a record depends
CODE = ("sb3_reptile", *(f"benchmarks/{name}.py" for name in ("learning", "methods", "tasks", "variants", "rivals")))


# ---- The plan


class Run(NamedTuple):
    """Key of a record. A volume of None is that of the task, a learner of None has one-step returns."""

    task: str
    method: str
    seed: int
    volume: float | None = None
    learner: str | None = None


VOLUMES = (2, 8, 64)
VOLUME_TASK = "cartpole-actions"
# Ranges of seeds: all tasks finish a round before any begins the next. Other replay volumes have two rounds
ROUNDS = ((0, 3), (3, 5), (5, 10))
VOLUME_ROUNDS = ROUNDS[:2]


def seeds_of(task: str, method: str) -> int:
    return min(TASKS[task].seeds, TRIED_SEEDS if method in TRIED else sys.maxsize)


def plan() -> list[Run]:
    """
    All runs, the most informative first. Each round has the tuning tasks, the reporting tasks and the other replay
    volumes; within each of these, runs are ordered by seed.
    """
    runs = []
    for seeds in ROUNDS:
        for role, drifts in (("tuning", {True, False}), ("reporting", {True}), ("reporting", {False})):
            names = [name for name, task in TASKS.items() if task.role == role and task.drifts in drifts]
            for seed in range(*seeds):
                for name in names:
                    runs += [Run(name, method, seed) for method in TASKS[name].methods if seed < seeds_of(name, method)]
        if seeds in VOLUME_ROUNDS:
            runs += [
                Run(VOLUME_TASK, method, seed, volume)
                for seed in range(*seeds)
                for volume in VOLUMES
                for method in VOLUME_METHODS
            ]
    return runs


def learner_plan(learners: list[str], methods: list[str] | None) -> list[Run]:
    """All runs with these learners, ordered by seed."""
    of_task = {name: task.methods if methods is None else tuple(methods) for name, task in TASKS.items()}
    return [
        Run(name, method, seed, None, learner)
        for seed in range(max(task.seeds for task in TASKS.values()))
        for name, task in TASKS.items()
        for learner in learners
        for method in of_task[name]
        if seed < task.seeds and method in METHODS
    ]


def set_up(run: Run) -> str:
    """Hash of a run's configuration, eight digits; records with another hash are ignored."""
    task, method = TASKS[run.task], METHODS[run.method]
    settings = settings_with_volume(task, run.volume)
    what = [task.env, task.env_kwargs, task.steps, settings, OPTIMIZER, method.set_up]
    if task.bins is not None:
        what.append(task.bins)
    if task.algorithm != "DQN":
        what.append(task.algorithm)
    if method.reexplores:
        what.append("-reexplores")
    if run.learner is not None:
        what.append(LEARNERS[run.learner].set_up)
    return evaluation.hash_of(what)


def command(run: Run) -> list[str]:
    """The command that makes this record, run in the root of the repository."""
    volume = [] if run.volume is None else ["--volume", f"{run.volume:g}"]
    learner = [] if run.learner is None else ["--learner", run.learner]
    return ["benchmarks/learning.py", "--run", run.task, run.method, str(run.seed), *volume, *learner]


# ---- Records


def run_of(record: Record) -> Run:
    return Run(record["task"], record["method"], record["seed"], record["volume"], record.get("learner"))


def read_records(folder: Path = RECORDS) -> dict[Run, Record]:
    """The records of the present tasks and methods, in an order that does not depend on when they were made."""
    records = evaluation.read(folder, TASKS, run_of, set_up)
    return dict(sorted(records.items(), key=lambda item: (*item[0][:3], item[0].volume or 0, item[0].learner or "")))


def reference_returns(records: dict[Run, Record]) -> tuple[float, ...]:
    """For each of MinAtar's games, the mean return of uniform replay over the last third of its runs."""
    means = []
    for name in GAMES:
        curves = [record["curve"] for run, record in records.items() if (run.task, run.method) == (name, "uniform")]
        last_thirds = [curve[-BINS // 3 :] for curve in curves]
        means.append(round(sum(map(sum, last_thirds)) / sum(map(len, last_thirds)), 1))
    return tuple(means)


def compared(record: Record, known: Record) -> str:
    """Message that states whether a run was reproduced."""
    if record["curve"] == known["curve"]:
        return "the curve equals that of the existing record"
    here, there = (versions.get("processor", "an unknown one") for versions in (record["versions"], known["versions"]))
    reason = "" if here == there else f", which was made on another processor ({there}; this one: {here})"
    return f"the curve differs from that of the existing record{reason}"


# ---- One run


def make_env(task: Task) -> Any:
    import gymnasium as gym

    # Gymnasium imports sb3_reptile.envs first, which registers its tasks
    prefix = "sb3_reptile.envs:" if task.env.startswith("Drifting") else ""
    env = gym.make(prefix + task.env, **task.env_kwargs)
    if task.bins is not None:
        from sb3_reptile.envs import DiscreteActions

        env = DiscreteActions(env, bins=task.bins)
    return env


def build(run: Run) -> Any:
    """The model of a run, of one of SB3's algorithms or ours."""
    import numpy as np
    from stable_baselines3 import DQN, SAC, TD3
    from stable_baselines3.common.noise import NormalActionNoise

    from sb3_reptile import DecayedReplayBuffer, ReptileDQN, envs

    task, method = TASKS[run.task], METHODS[run.method]
    settings = {**settings_with_volume(task, run.volume), **method.arguments_for_training(task.regimes)}
    policy_kwargs = {**settings["policy_kwargs"], "optimizer_kwargs": OPTIMIZER}
    if "features_extractor_class" in policy_kwargs:
        policy_kwargs["features_extractor_class"] = getattr(envs, policy_kwargs["features_extractor_class"])
    settings["policy_kwargs"] = policy_kwargs
    learner = {}
    if run.learner is not None:
        settings, learner = LEARNERS[run.learner].settings(settings), LEARNERS[run.learner].arguments
    algorithm: Any = {"DQN": DQN, "ReptileDQN": ReptileDQN}[method.algorithm]
    if "q_lambda" in learner and algorithm is DQN:
        # The same replay; only the learner differs
        algorithm, settings["half_life"] = ReptileDQN, math.inf
    if run.learner is not None and LEARNERS[run.learner].cut:
        from variants import WatkinsDQN

        algorithm = WatkinsDQN
    if task.algorithm == "DQN":
        if algorithm is not DQN:
            # A method names what differs from one-step returns and the default decay
            settings = {"half_life": None, "n_steps": 1, **settings}
        settings |= learner
    else:
        # The rewards of several steps are summed in the replay buffer, SB3's own or ours
        if "q_lambda" in learner:
            use = f"use {learner['n_steps']}-step"
            raise ValueError(f"{run.learner} needs ReptileDQN, but {run.task} is learned by {task.algorithm}: {use}")
        algorithm = {"SAC": SAC, "TD3": TD3}[task.algorithm]
        if method.algorithm == "DQN":
            settings |= learner
        else:
            gamma = {"gamma": settings["gamma"]} if learner else {}
            half_life = {"half_life": settings.pop("half_life")} if "half_life" in settings else {}
            buffer = {**settings.get("replay_buffer_kwargs", {}), **learner, **gamma, **half_life}
            settings |= {"replay_buffer_class": DecayedReplayBuffer, "replay_buffer_kwargs": buffer}
    env = make_env(task)
    if "action_noise" in settings:
        shape = env.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, settings["action_noise"]))
    return algorithm(task.policy, env, seed=run.seed, device="cpu", **settings)


def train(run: Run, on_step: Callable[[int], None] = lambda step: None) -> Record:
    """The record of a run; ``on_step`` is called with the number of each step."""
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback

    from sb3_reptile.callbacks import ReExplore
    from sb3_reptile.evaluation.trained_run import Recorder

    th.set_num_threads(1)
    # Before training, so that the commit is that of the running code
    versions = versions_used(ROOT, CODE)
    task = TASKS[run.task]
    recorder = Recorder(task.steps, on_step)
    callbacks: list[BaseCallback] = [recorder]
    if METHODS[run.method].reexplores:
        callbacks.append(ReExplore())
    for name, arguments in METHODS[run.method].callbacks.items():
        import rivals
        import variants

        callbacks.append(getattr(variants if hasattr(variants, name) else rivals, name)(**arguments))

    start, cpu_start = time.perf_counter(), time.process_time()
    model = build(run)
    model.learn(task.steps, callback=callbacks, log_interval=None)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    curve = learning_curve(recorder.episodes, task.steps)
    return {
        **run._asdict(),
        "steps": task.steps,
        "auc": round(sum(curve) / BINS, 3),
        "changes": recorder.changes[1:],
        "curve": curve,
        "setup": set_up(run),
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "command": "python " + " ".join(command(run)),
        "versions": versions,
        "finished": now(),
    }


def random_returns(task: Task) -> list[float]:
    """
    Mean return of random actions over as many steps as a run has; one per phase if the task's ``random_return`` has
    several.
    """
    env = make_env(task)
    env.action_space.seed(0)
    env.reset(seed=0)
    n_games = len(task.random_return) if isinstance(task.random_return, tuple) else 1
    returns: list[list[float]] = [[] for _ in range(n_games)]
    total = 0.0
    for _ in range(task.steps):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total += float(reward)
        if terminated or truncated:
            returns[info.get("phase", 0) % n_games].append(total)
            total = 0.0
            env.reset()
    return [sum(of_game) / len(of_game) for of_game in returns]


# ---- Command line


def seconds_per_run(records: dict[Run, Record]) -> Callable[[Run], float]:
    """Estimate of the duration of a run: the mean over the records of its method or task, else ``Task.seconds``."""
    known: dict[tuple[Any, ...], list[float]] = {}
    for run, record in records.items():
        for key in ((run.task, run.volume, run.method), (run.task, run.volume)):
            known.setdefault(key, []).append(record["cpu_seconds"])

    def estimate(run: Run) -> float:
        for key in ((run.task, run.volume, run.method), (run.task, run.volume)):
            if key in known:
                return sum(known[key]) / len(known[key])
        task = TASKS[run.task]
        # The environment and acting in it take about a third
        return task.seconds * (1 if run.volume is None else (1 + 2 * run.volume / task.volume) / 3)

    return estimate


def print_plan(runs: list[Run], records: dict[Run, Record]) -> None:
    estimate = seconds_per_run(records)
    print(f"{'task':<22}{'volume':>7}  {'method':<24}{'done':>5}{'of':>4}{'s a run':>9}{'hours left':>12}")
    groups: dict[tuple[str, float | None, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.volume, run.method), []).append(run)
    hours = {run: estimate(run) / 3600 for run in runs}
    for (task, volume, method), group in groups.items():
        done = sum(run in records for run in group)
        left = sum(hours[run] for run in group if run not in records)
        name = "own" if volume is None else f"{volume:g}"
        seconds = estimate(group[0])
        print(f"{task:<22}{name:>7}  {method:<24}{done:>5}{len(group):>4}{seconds:>9.0f}{left:>12.2f}")
    missing = [run for run in runs if run not in records]
    left, total = sum(hours[run] for run in missing), sum(hours.values())
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished; core-hours left: {left:.1f} of {total:.1f}")


def make_one(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """The command ``--run``."""
    name, method, seed = arguments.run
    if name not in TASKS or not seed.isdecimal():
        parser.error(f"--run takes a task ({', '.join(TASKS)}), a method and a seed, got {name} {method} {seed}")
    if method not in METHODS:
        parser.error(f"unknown method {method!r}; benchmarks/methods.py has {', '.join(METHODS)}")
    volume = arguments.volume
    (learner,) = arguments.learner or [None]
    run = Run(name, method, int(seed), int(volume) if volume and volume.is_integer() else volume, learner)
    try:
        set_up(run)
    except ValueError as error:
        parser.error(str(error))
    # Read when numpy and torch are imported
    os.environ.update(dict.fromkeys(THREADS, "1"))

    def print_step(step: int) -> None:
        if arguments.progress and step % (TASKS[name].steps // 100) == 0:
            print(step, flush=True)

    try:
        record = train(run, print_step)
        print(json.dumps(record, separators=(",", ":")), flush=True)
    except BrokenPipeError:  # the parent process has ended
        os._exit(1)
    if arguments.append:
        append(record, arguments.records)
    elif not arguments.progress and run in (records := read_records(arguments.records)):
        print(compared(record, records[run]), file=sys.stderr)


def job(run: Run) -> Job:
    """A run in a child process."""
    return Job(" ".join(command(run)[2:]), [str(PROGRAM), *command(run)[1:], "--progress"], TASKS[run.task].steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, help="number of runs at once (default: 2; with --ray, one per processor)")
    parser.add_argument("--ray", metavar="ADDRESS", help="train on the Ray cluster at this address")
    parser.add_argument("--hours", type=float, default=math.inf, help="start no run after this time")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), help="only these tasks")
    parser.add_argument("--method", nargs="+", help="only these methods")
    parser.add_argument("--seeds", type=int, help="only seeds below this number")
    parser.add_argument(
        "--learner", nargs="+", choices=LEARNERS, help="with these learners instead of one-step returns"
    )
    parser.add_argument("--records", type=Path, help="folder of the records")
    parser.add_argument("--plan", action="store_true", help="list finished and missing runs; train nothing")
    parser.add_argument("--run", nargs=3, metavar=("TASK", "METHOD", "SEED"), help="train one run and print its record")
    parser.add_argument("--volume", type=float, help="with --run: replay volume (default: that of the task)")
    parser.add_argument("--append", action="store_true", help="with --run: append the record to the others")
    parser.add_argument("--random", action="store_true", help="measure the returns of random actions")
    parser.add_argument("--progress", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.records is None:
        arguments.records = LEARNER_RECORDS if arguments.learner else RECORDS

    if arguments.run:
        make_one(parser, arguments)
        return
    if arguments.random:
        for name in arguments.task:
            print(f"{name:<22}", *(f"{value:>8.2f}" for value in random_returns(TASKS[name])))
        return
    planned = learner_plan(arguments.learner, arguments.method) if arguments.learner else plan()
    runs = [
        run
        for run in planned
        if run.task in arguments.task
        and (arguments.method is None or run.method in arguments.method)
        and (arguments.seeds is None or run.seed < arguments.seeds)
    ]
    unknown = set(arguments.method or ()) - {run.method for run in planned}
    if unknown or not runs or (arguments.jobs is not None and arguments.jobs < 1):
        parser.error(f"nothing to train; not in the plan: {', '.join(sorted(unknown)) or 'this combination'}")
    if arguments.plan:
        print_plan(runs, read_records(arguments.records))
        return
    with sole_writer(arguments.records):
        records = read_records(arguments.records)
        jobs = [job(run) for run in runs if run not in records]
        train_or_exit(jobs, arguments.records, arguments.jobs, arguments.hours, ray=arguments.ray)


if __name__ == "__main__":
    main()
