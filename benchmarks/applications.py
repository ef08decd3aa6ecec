"""
What `docs/applications.md` shows: each application trained with decayed and with uniform replay, a record a run.

    python benchmarks/applications.py                     train what is missing, two at once
    python benchmarks/applications.py pong --jobs 1       only this one
    python benchmarks/applications.py --plan              what is there and what is missing
    python benchmarks/applications.py --report            the table, the curves and the films, of what there is

A run is the command that the page gives, with a seed. Its models and logs stay in `runs/applications`, its record is a
line of `benchmarks/results/applications/NAME.jsonl`. A run that was stopped is done again, or goes on if it keeps
checkpoints.
"""

import argparse
import csv
import datetime
import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import yaml
from learning import BINS, ROOT, THREADS, append, learning_curve, sole_writer, versions_used
from scipy.stats import t as student_t
from scipy.stats import ttest_ind
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

RECORDS = Path(__file__).parent / "results" / "applications"
RUNS = ROOT / "runs" / "applications"
IMAGES = ROOT / "docs" / "images"

Record = dict[str, Any]

DECAYED, UNIFORM = "decayed", "uniform"


@dataclass(frozen=True)
class Application:
    """
    What is trained.

    :param about: What it is, for the report
    :param section: Which figure shows its curve
    :param command: What a run is, but for the seed, the folder and the method's own arguments
    :param methods: The arguments of each method
    :param steps: Environment steps of a run
    :param changes: Steps at which what is true changes
    :param seeds: Runs of each method
    :param counts: Steps that SB3's Monitor counts for one of the agent's
    :param monitor: Which of the Monitor's files tell the returns, below the folder of a run
    :param evaluated: Episodes that the trained agent is evaluated for, greedily
    :param clicks: Which environment's ``info`` tells what an oracle and a random policy would get
    :param network: Where the network of the first decayed run is kept, for runs that start from it
    """

    about: str
    section: str
    command: tuple[str, ...]
    methods: dict[str, tuple[str, ...]]
    steps: int
    changes: tuple[int, ...] = ()
    seeds: int = 3
    counts: int = 1
    monitor: str = "**/*monitor.csv"
    evaluated: int = 0
    clicks: str | None = None
    network: Path | None = None


ZOO = ("-m", "sb3_reptile.zoo", "train")
NO_DECAY = "half_life:float('inf')"
# For tasks in which what was true is true again
AUTO = {"auto": ("-params", "half_life:'auto'")}


def zoo(
    about: str,
    section: str,
    algo: str,
    env: str,
    steps: int,
    *params: str,
    besides: dict[str, tuple[str, ...]] | None = None,
    **others: Any,
) -> Application:
    """An entry of ``zoo_configs``, with its own decay, with replay that does not decay, and with others ``besides``."""
    uniform = NO_DECAY if algo == "reptile_dqn" else "replay_buffer_kwargs:dict(half_life=float('inf'))"
    file = () if algo == "reptile_dqn" else ("-conf", f"zoo_configs/{algo}.yml")
    command = (*ZOO, "--algo", algo, "--env", env, *file, "-n", str(steps))
    methods = {DECAYED: ("-params", *params) if params else (), UNIFORM: ("-params", *params, uniform)}
    methods.update(besides or {})
    return Application(about, section, command, methods, steps, **others)


def changes(period: int, steps: int) -> tuple[int, ...]:
    return tuple(range(period, steps, period))


def small(*layers: int) -> tuple[str, str]:
    """Networks and batches smaller than the RL Zoo's, so that all of them can be trained on a small machine."""
    return f"policy_kwargs:dict(net_arch=[{','.join(map(str, layers))}])", "batch_size:128"


CONTROL = {
    "pendulum": ("Pendulum-v1", 10_000, (*small(64, 64), "learning_starts:500")),
    "lander": ("LunarLanderContinuous-v3", 40_000, small(256, 256)),
    "cheetah": ("HalfCheetah-v5", 30_000, (*small(64, 64), "learning_starts:1000")),
}

# Pong's actions are none, fire, up, down, and up and down with fire
SWAPPED = (
    "env_wrapper:[{'stable_baselines3.common.atari_wrappers.AtariWrapper': dict(screen_size=64)}, "
    "{'sb3_reptile.envs.PermutedActions': dict(period=1, permutations=[[0, 1, 3, 2, 5, 4]])}]"
)
PONG_NETWORK = RECORDS / "pong_network.zip"
FROM_PONG = (
    f"pretrained:'{PONG_NETWORK.relative_to(ROOT)}'",
    # There is something to lose by random actions
    "exploration_initial_eps:0.1",
)
EVALUATED = 20

APPLICATIONS = {
    "pong": zoo(
        "Pong",
        "pong",
        "reptile_dqn",
        "PongNoFrameskip-v4",
        600_000,
        seeds=1,
        counts=4,
        evaluated=EVALUATED,
        network=PONG_NETWORK,
    ),
    "pong-swapped": Application(
        "Pong with its controls swapped",
        "pong",
        (*ZOO, "--algo", "reptile_dqn", "--env", "PongNoFrameskip-v4", "-n", "300000"),
        {
            f"{DECAYED}, from scratch": ("-params", SWAPPED),
            f"{DECAYED}, from Pong's network": ("-params", SWAPPED, *FROM_PONG),
            f"{UNIFORM}, from Pong's network": ("-params", SWAPPED, *FROM_PONG, NO_DECAY),
        },
        300_000,
        seeds=1,
        counts=4,
        evaluated=EVALUATED,
    ),
    "obstacles": zoo(
        "A robot among moving obstacles", "navigation", "reptile_dqn", "MiniGrid-Dynamic-Obstacles-6x6-v0", 40_000
    ),
    "rooms": zoo(
        "A robot whose goal moves to another room",
        "navigation",
        "reptile_dqn",
        "DriftingRooms-v0",
        80_000,
        changes=changes(20_000, 80_000),
        besides=AUTO,
    ),
    "motorway": zoo(
        "Driving in changing traffic",
        "driving",
        "reptile_dqn",
        "DriftingHighway-v0",
        20_000,
        changes=changes(5_000, 20_000),
        # A longer memory than the default decay's
        besides={"half-life of 5,000": ("-params", "half_life:5000.0"), **AUTO},
    ),
    "recommender": zoo(
        "Recommending to users whose interests change",
        "recommendation",
        "reptile_dqn",
        "DriftingRecommender-v0",
        100_000,
        changes=changes(20_000, 100_000),
        besides=AUTO,
        clicks="DriftingRecommender-v0",
    ),
    "shop": zoo(
        "Showing items by a fashion shop's log",
        "recommendation",
        "reptile_dqn",
        "DriftingFashionShop-v0",
        70_000,
        changes=changes(10_000, 70_000),
        clicks="DriftingFashionShop-v0",
    ),
    **{
        f"{name}-{algo}": zoo(f"{env} with {algo.upper()}", "control", algo, env, steps, *params)
        for name, (env, steps, params) in CONTROL.items()
        for algo in ("sac", "td3", "tqc")
    },
    "pendulum-discrete": zoo(
        "Pendulum-v1 with ReptileDQN and DiscreteActions", "control", "reptile_dqn", "Pendulum-v1", 20_000
    ),
    "spread": Application(
        "Three agents that share one policy",
        "agents",
        ("examples/shared_policy.py",),
        {DECAYED: (), UNIFORM: ("--half-life", "inf")},
        300_000,
    ),
    "tag": Application(
        "A predator's return against a prey that learns, too",
        "agents",
        ("examples/opponents.py",),
        {
            "both decayed": (),
            "both uniform": ("--predator-half-life", "inf", "--prey-half-life", "inf"),
            "predator decayed, prey uniform": ("--prey-half-life", "inf"),
            "predator uniform, prey decayed": ("--predator-half-life", "inf"),
        },
        60_000,
        monitor="predator/monitor.csv",
    ),
}


class Run(NamedTuple):
    application: str
    method: str
    seed: int


def plan(names: list[str]) -> list[Run]:
    """All runs of these applications: every method once before any has its next seed."""
    applications = {name: APPLICATIONS[name] for name in names}
    most = max(application.seeds for application in applications.values())
    return [
        Run(name, method, seed)
        for seed in range(most)
        for name, application in applications.items()
        if seed < application.seeds
        for method in application.methods
    ]


def is_of_the_zoo(name: str) -> bool:
    return APPLICATIONS[name].command[: len(ZOO)] == ZOO


def command(run: Run, folder: str) -> list[str]:
    """What trains it, to be run in the root of the repository."""
    application = APPLICATIONS[run.application]
    own = application.methods[run.method]
    if is_of_the_zoo(run.application):
        where = ["--seed", str(run.seed), "-f", folder, "--eval-freq", "-1", "--verbose", "0", "--num-threads", "1"]
        return [*application.command, *where, *own]
    return [*application.command, "--seed", str(run.seed), "--log", folder, *own]


def set_up(run: Run) -> str:
    """What a run is made of, as eight digits: records of another set-up are not mixed with those of this one."""
    what: list[Any] = [command(run, "FOLDER")]
    if is_of_the_zoo(run.application):
        algo, env = (what[0][what[0].index(name) + 1] for name in ("--algo", "--env"))
        entries = yaml.safe_load((ROOT / "zoo_configs" / f"{algo}.yml").read_text())
        what.append(entries.get(env, entries["default"]))
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


# ---- Records


def read_records() -> dict[Run, Record]:
    """The records of today's applications; stderr tells how many are left out."""
    records: dict[Run, Record] = {}
    left_out = 0
    for path in sorted(RECORDS.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
                run = Run(record["task"], record["method"], record["seed"])
                usable = run not in records and record["setup"] == set_up(run)
            except (ValueError, KeyError):
                usable = False
            if usable:
                records[run] = record
            else:
                left_out += 1
    if left_out:
        print(f"{RECORDS}: {left_out} torn, repeated or outdated lines left out", file=sys.stderr)
    return records


def episodes_of(application: Application, folder: Path) -> list[tuple[int, float]]:
    """Last step and return of each episode of a run."""
    files = sorted(folder.glob(application.monitor))
    episodes: list[tuple[int, float]] = []
    for path in files:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(line for line in file if line[0] != "#") if row["l"]]
        # Environments side by side are all as fast
        ends = np.cumsum([int(float(row["l"])) for row in rows]) * len(files) // application.counts
        episodes += zip(ends.tolist(), (float(row["r"]) for row in rows), strict=True)
    return sorted(episodes)


# ---- Training


def trained(run: Run) -> tuple[BaseAlgorithm, VecEnv]:
    """What a run of the RL Zoo left in ``runs/applications``, and its environment to see it in."""
    from rl_zoo3 import ALGOS, create_test_env, get_saved_hyperparams

    from sb3_reptile.zoo.registration import register

    register()
    (model_path,) = folder_of(run).glob("*/*_1/*.zip")
    algo, env_id = model_path.parts[-3], model_path.stem
    saved = model_path.parent / env_id
    settings, stats = get_saved_hyperparams(str(saved), norm_reward=False, test_mode=True)
    kwargs = {"render_mode": "rgb_array"}
    env = create_test_env(env_id, stats_path=stats, seed=0, hyperparams=settings, env_kwargs=kwargs)
    return ALGOS[algo].load(model_path, device="cpu", custom_objects={"buffer_size": 1}), env


def keep_network(run: Run, path: Path) -> None:
    """The network of a run as ``pretrained`` takes it; in half precision and without the rest, a tenth of the size."""
    from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file

    (model_path,) = folder_of(run).glob("*/*_1/*.zip")
    _, parameters, _ = load_from_zip_file(model_path, load_data=False)
    network = {
        name.removeprefix("q_net."): value.half()
        for name, value in parameters["policy"].items()
        if name.startswith("q_net.")
    }
    # The same tensors under both names are stored once
    policy = {f"{net}.{name}": value for net in ("q_net", "q_net_target") for name, value in network.items()}
    save_to_zip_file(path, params={"policy": policy})


def evaluate(run: Run, n_episodes: int) -> list[float]:
    """Returns of what a run has learnt, without exploration."""
    model, env = trained(run)
    returns, _ = evaluate_policy(model, env, n_episodes, return_episode_rewards=True)
    assert isinstance(returns, list)
    env.close()
    return returns


def folder_of(run: Run) -> Path:
    return RUNS / f"{run.application}-{run.method}-{run.seed}".replace(" ", "_")


def wait_for(arguments: list[str], output: Path, processes: set[subprocess.Popen[bytes]]) -> int:
    """Run a Python command with one thread, its output added to a file; its exit status."""
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        processes.add(process)
        status = process.wait()
        processes.discard(process)
    return status


def train(run: Run, processes: set[subprocess.Popen[bytes]]) -> Record:
    """
    :param run: What to train
    :param processes: Where its process is to be found while it runs
    :return: Its record
    :raises RuntimeError: if it fails
    """
    application, folder = APPLICATIONS[run.application], folder_of(run)
    arguments = command(run, str(folder))
    begun = next((path.parent for path in folder.rglob("checkpoints") if any(path.iterdir())), None)
    if begun is not None:
        arguments += ["--resume", str(begun)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    start = time.perf_counter()
    # Of what was stopped after its last step only the record is missing
    is_trained = begun is not None and any(begun.glob("*.zip"))
    if not is_trained and wait_for(arguments, folder / "output.txt", processes) != 0:
        raise RuntimeError(f"{run.application}, {run.method}, seed {run.seed}: see {folder / 'output.txt'}")
    curve = learning_curve(episodes_of(application, folder), application.steps)
    seconds = round(time.perf_counter() - start, 1)
    if application.network is not None and run.method == DECAYED and run.seed == 0:
        keep_network(run, application.network)
    return {
        "task": run.application,
        "method": run.method,
        "seed": run.seed,
        "steps": application.steps,
        "curve": curve,
        **({"evaluation": evaluate(run, application.evaluated)} if application.evaluated else {}),
        "setup": set_up(run),
        "resumed": begun is not None,
        "wall_seconds": seconds,
        "command": shlex.join(["python", *command(run, "FOLDER")]),
        "versions": versions_used(),
        "finished": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def steps_so_far(run: Run) -> int:
    episodes = episodes_of(APPLICATIONS[run.application], folder_of(run))
    return min(episodes[-1][0], APPLICATIONS[run.application].steps) if episodes else 0


def train_all(runs: list[Run], jobs: int) -> None:
    """
    :param runs: What to train, in this order
    :param jobs: How many at once
    :raises SystemExit: if one fails, when those beside it are done
    """
    processes: set[subprocess.Popen[bytes]] = set()
    # Into a file a line a minute is enough
    interval = 1 if sys.stderr.isatty() else 60
    total = sum(APPLICATIONS[run.application].steps for run in runs)
    bar = tqdm(total=total, unit="step", unit_scale=True, mininterval=interval, maxinterval=interval)
    with ThreadPoolExecutor(jobs) as pool:
        waiting, futures, steps = list(runs), {}, dict.fromkeys(runs, 0)
        try:
            while waiting or futures:
                while waiting and len(futures) < jobs:
                    run = waiting.pop(0)
                    futures[pool.submit(train, run, processes)] = run
                done, _ = wait(futures, timeout=5, return_when=FIRST_COMPLETED)
                for run in futures.values():
                    steps[run] = steps_so_far(run)
                for future in done:
                    run = futures.pop(future)
                    append(future.result(), RECORDS)
                    steps[run] = APPLICATIONS[run.application].steps
                now = ", ".join(f"{run.application} {run.method} {run.seed}" for run in futures.values())
                bar.set_description(now, refresh=False)
                bar.update(sum(steps.values()) - bar.n)
        except BaseException as error:
            for process in list(processes):
                process.terminate()
            if isinstance(error, KeyboardInterrupt):
                raise SystemExit("stopped; the same command goes on from here") from None
            if isinstance(error, RuntimeError):
                raise SystemExit(f"failed: {error}") from None
            raise
        finally:
            bar.close()


# ---- The report


# Of the methods in their order; decayed and uniform replay have those of learning_report.py
COLORS = ("#0072b2", "#000000", "#e69f00", "#cc79a7")


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds with its 95 % interval, by Student's t."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    half = float(student_t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half


def difference(values: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Difference of the means of two sets of seeds with its 95 % interval, by Welch's t."""
    result = ttest_ind(values, others, equal_var=False).confidence_interval()
    return float(values.mean() - others.mean()), float(result.low), float(result.high)


def over_all(curves: np.ndarray) -> np.ndarray:
    """The mean of each curve."""
    return curves.mean(axis=-1)


def over_last_third(curves: np.ndarray) -> np.ndarray:
    """The mean of the end of each curve."""
    return curves[..., -BINS // 3 :].mean(axis=-1)


def smooth(curves: np.ndarray, width: int = 5) -> np.ndarray:
    """The mean of each point and those around it, as far as there are any."""
    kernel = np.ones(width)
    count = np.convolve(np.ones(curves.shape[1]), kernel, "same")
    return np.array([np.convolve(curve, kernel, "same") / count for curve in curves])


def oracle_and_random(application: Application) -> np.ndarray:
    """
    What an oracle and a random policy would get of users who are shown random items.

    :return: Returns per episode over a run, shape (2, BINS)
    """
    env = gym.make(f"sb3_reptile.envs:{application.clicks}")
    assert env.spec is not None
    assert env.spec.max_episode_steps is not None
    rates = np.empty((2, application.steps))
    env.action_space.seed(0)
    env.reset(seed=0)
    for step in range(application.steps):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        rates[:, step] = info["oracle_click_rate"], info["random_click_rate"]
        if terminated or truncated:
            env.reset()
    parts = np.array_split(rates * env.spec.max_episode_steps, BINS, axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


def draw(names: list[str], records: dict[Run, Record], path: Path) -> None:
    """
    Learning curves: the mean over seeds, and from the lowest to the highest of them. So few seeds have intervals that
    hide the curves; they are in the table.
    """
    from learning_report import grid, legend_below, save

    figure, panels = grid(len(names), columns=2 if len(names) in (2, 4) else 3)
    for name, panel in zip(names, panels, strict=True):
        application = APPLICATIONS[name]
        x = (np.arange(BINS) + 0.5) * application.steps / BINS / 1000
        for step in application.changes:
            panel.axvline(step / 1000, color="#bbbbbb", linewidth=0.8, zorder=0)
        if application.clicks is not None:
            for level, style, label in zip(
                smooth(oracle_and_random(application)), ("dashed", "dashdot"), ("oracle", "random"), strict=True
            ):
                panel.plot(x, level, color="#888888", linestyle=style, linewidth=1.2, label=label)
        for method, color in zip(application.methods, COLORS, strict=False):
            curves = [record["curve"] for run, record in records.items() if run[:2] == (name, method)]
            if not curves:
                continue
            seeds = smooth(np.array(curves))
            style = (0, (1, 1)) if method.startswith(UNIFORM) else "solid"
            label = f"{method} replay" if method in (DECAYED, UNIFORM) else method
            panel.plot(x, seeds.mean(axis=0), color=color, linestyle=style, linewidth=1.6, label=label)
            panel.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=color, alpha=0.15, linewidth=0)
        panel.set_title(application.about, fontsize=9, loc="left")
        panel.set_xlim(0, application.steps / 1000)
        panel.set_xlabel("thousand environment steps", fontsize=8)
        panel.set_ylabel("return per episode", fontsize=8)
    legend_below(figure, panels)
    save(figure, path)


def table(records: dict[Run, Record]) -> list[str]:
    """
    For each method the mean return over training, how much more that is than with uniform replay, and the mean return
    over the last third of training, with intervals over the seeds; of recommenders also what an oracle would get.
    """
    lines = [
        "| | method | seeds | mean return over training | less uniform's | over its last third | minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, application in APPLICATIONS.items():
        known = {
            method: own
            for method in application.methods
            if (own := [record for run, record in records.items() if run[:2] == (name, method)])
        }
        curves = {method: np.array([record["curve"] for record in own]) for method, own in known.items()}
        uniform = next((method for method in known if UNIFORM in method), None)
        for method, own in known.items():
            whole, end = over_all(curves[method]), over_last_third(curves[method])
            less = ""
            if uniform not in (None, method) and len(own) > 1 and len(known[uniform]) > 1:
                less = cell(difference(whole, over_all(curves[uniform])))
            # Of a resumed run it is only known what its last piece took
            seconds = [record["wall_seconds"] for record in own if not record["resumed"]]
            minutes = f"{float(np.median(seconds)) / 60:.1f}" if seconds else ""
            returns = cell(interval(whole)), less, cell(interval(end))
            lines.append(f"| {' | '.join([application.about, method, str(len(own)), *returns, minutes])} |")
        if known and application.clicks is not None:
            for policy, level in zip(("oracle", "random"), oracle_and_random(application), strict=True):
                # One curve: no interval
                part = (cell(interval(mean(level[None]))) for mean in (over_all, over_last_third))
                lines.append(f"| {application.about} | {policy} | | {' | | '.join(part)} | |")
    return lines


def between_changes(records: dict[Run, Record]) -> list[str]:
    """The mean return of each method before the first change, up to the second one, and so on."""
    lines = []
    for name, application in APPLICATIONS.items():
        ends = [round(step * BINS / application.steps) for step in application.changes]
        for method in application.methods:
            curves = [record["curve"] for run, record in records.items() if run[:2] == (name, method)]
            if ends and curves:
                means = [part.mean() for part in np.split(np.array(curves), ends, axis=1)]
                lines.append(f"* {application.about}, {method}: {'; '.join(f'{mean:.2f}' for mean in means)}")
    return ["", "Mean returns between changes, over all seeds:", "", *lines] if lines else []


def evaluations(records: dict[Run, Record]) -> list[str]:
    """What the trained agents reach without exploration, where that was asked for."""
    lines = []
    for run, record in records.items():
        if returns := record.get("evaluation"):
            about = f"{APPLICATIONS[run.application].about}, {run.method}, seed {run.seed}"
            mean, low, high = np.mean(returns), min(returns), max(returns)
            lines.append(f"* {about}: {mean:.2f} over {len(returns)} episodes ({low:.0f} to {high:.0f})")
    return ["", "Returns of the trained agents without exploration:", "", *lines] if lines else []


def cell(estimate: tuple[float, float, float]) -> str:
    mean, low, high = estimate
    decimals = 2 if abs(mean) < 10 else 1 if abs(mean) < 100 else 0
    text = f"{mean:.{decimals}f}"
    return text if math.isnan(low) else f"{text} ({low:.{decimals}f} to {high:.{decimals}f})"


def report() -> None:
    records = read_records()
    known = [name for name in APPLICATIONS if any(run.application == name for run in records)]
    for section in dict.fromkeys(APPLICATIONS[name].section for name in known):
        names = [name for name in known if APPLICATIONS[name].section == section]
        draw(names, records, IMAGES / f"applications_{section}.png")
    text = [
        "# Applications: decayed and uniform replay",
        "",
        "Made by `python benchmarks/applications.py --report` from the records in `applications/`, each of which names",
        "its command. Means over seeds, in brackets their 95 % intervals (Student's t, of differences Welch's).",
        "",
        *table(records),
        *between_changes(records),
        *evaluations(records),
        "",
    ]
    (RECORDS.parent / "applications.md").write_text("\n".join(text))


# ---- Films


class Film(NamedTuple):
    """How a trained agent is shown: how many frames, every how many of its steps, how long each, how wide."""

    frames: int
    every: int = 1
    milliseconds: int = 80
    width: int = 240


# Of which of the applications there is something to see
FILMS = {
    "pong": Film(300, every=4),
    "obstacles": Film(60, milliseconds=250),
    "rooms": Film(60, milliseconds=250),
    "motorway": Film(60, milliseconds=200, width=480),
    "lander-sac": Film(150, every=4),
}


def film(name: str) -> None:
    """A GIF of what the first decayed run has learnt, as its world was at the end of training."""
    from PIL import Image

    (frames, every, milliseconds, width), application = FILMS[name], APPLICATIONS[name]
    model, env = trained(Run(name, DECAYED, 0))
    if application.changes:
        env.env_method("set_wrapper_attr", "steps_taken", application.steps - frames * every)
    obs, pictures = env.reset(), []
    for step in range(frames * every):
        if step % every == 0:
            picture = Image.fromarray(env.render())
            picture = picture.resize((width, width * picture.height // picture.width))
            pictures.append(picture.quantize(64))
        action, _ = model.predict(obs, deterministic=True)
        obs, *_ = env.step(action)
    path = IMAGES / f"applications_{name}.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KB")


def print_plan(runs: list[Run], records: dict[Run, Record]) -> None:
    for name in dict.fromkeys(run.application for run in runs):
        own = [run for run in runs if run.application == name]
        done = sum(run in records for run in own)
        print(f"{name:<20}{done:>3} of {len(own):>2} runs of {APPLICATIONS[name].steps:>9,} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(APPLICATIONS)}; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--seeds", type=int, help="only seeds below this number")
    parser.add_argument("--plan", action="store_true", help="print what is there and what is missing; train nothing")
    parser.add_argument("--report", action="store_true", help="make the table and the curves; train nothing")
    parser.add_argument("--films", action="store_true", help="make the films of what was trained here; train nothing")
    arguments = parser.parse_args()
    names = arguments.names or list(APPLICATIONS)
    if unknown := set(names) - set(APPLICATIONS):
        parser.error(f"no such application: {', '.join(sorted(unknown))}; there are {', '.join(APPLICATIONS)}")
    if arguments.report:
        report()
        return
    if arguments.films:
        for name in set(names) & set(FILMS):
            film(name)
        return
    runs = [run for run in plan(names) if arguments.seeds is None or run.seed < arguments.seeds]
    if arguments.plan:
        print_plan(runs, read_records())
        return
    with sole_writer(RECORDS):
        records = read_records()
        train_all([run for run in runs if run not in records], arguments.jobs)


if __name__ == "__main__":
    main()
