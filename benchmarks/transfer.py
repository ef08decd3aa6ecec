"""
What a start from a pretrained network is worth on a task with other actions and observations: ways to start x seeds.

    python benchmarks/transfer.py --jobs 2                train the missing runs; then the page and the figure
    python benchmarks/transfer.py --run METHOD SEED       one run; prints its record, which names this command
    python benchmarks/transfer.py --report                the page and the figure, from the records

The pretrained networks are SB3's DQN on CartPole-v1, one for each seed, kept in `--sources`. The task is a CartPole
with a longer pole, two weaker motors more, and an observation in another order with a further number. Every finished
run is a line of `benchmarks/results/transfer/cartpole-motors.jsonl`; an interrupted run is repeated.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import DQN
from tasks import CARTPOLE

from sb3_reptile import ReptileDQN
from sb3_reptile.evaluation import plotting, records, tables
from sb3_reptile.evaluation.machine import versions_used
from sb3_reptile.evaluation.plotting import DASH_DOTTED, DASHED, DOTTED, Style
from sb3_reptile.evaluation.records import BINS, Record, learning_curve, now, sole_writer
from sb3_reptile.evaluation.runner import Job, train_or_exit
from sb3_reptile.evaluation.statistics import Estimate, estimates, iqm_of_points, student_interval, welch_interval
from sb3_reptile.evaluation.templates import PageTemplate
from sb3_reptile.evaluation.trained_run import Recorder

ROOT = Path(__file__).parent.parent
RECORDS = Path(__file__).parent / "results" / "transfer"
PAGE = Path(__file__).parent / "results" / "transfer.md"
FIGURE = ROOT / "docs" / "images" / "transfer.png"
TEMPLATE = PageTemplate(Path(__file__).parent / "templates" / "transfer.md")
CODE = ("sb3_reptile", "benchmarks/transfer.py", "benchmarks/tasks.py")
TASK = "cartpole-motors"
SOURCE_STEPS, STEPS, SEEDS = 20_000, 12_000, 4
# As in benchmarks/tasks.py, with a smaller network and fewer updates
SETTINGS: dict[str, Any] = {**CARTPOLE, "gradient_steps": 64, "policy_kwargs": dict(net_arch=[64, 64])}
# Half length of the pole (m), and force of each action as a share of CartPole's
LENGTH, FORCES = 1.0, (-0.5, -1.0, 1.0, 0.5)
# CartPole observes position, velocity, angle, angular velocity; the task these in this order, then the last force
ORDER = (1, 2, 3, 0)
MAPPING: dict[str, Any] = {"observations": [*ORDER, None], "actions": [None, 0, 1, None]}
FROZEN, SLOW = {**MAPPING, "freeze_steps": 6_000}, {**MAPPING, "learning_rate_factor": 0.1}
LITTLE_EXPLORATION: dict[str, Any] = dict(exploration_initial_eps=0.1)


class Method(NamedTuple):
    """
    A way to start.

    :param label: What it is called in the table and the figure
    :param style: Its colour and line
    :param settings: Arguments in addition to those of the task
    :param transfer: The option of that name; None to start from scratch
    """

    label: str
    style: Style
    settings: dict[str, Any]
    transfer: dict[str, Any] | None = None


METHODS = {
    "scratch": Method("from scratch", Style("#000000", DOTTED), {}),
    "scratch-little": Method("from scratch, little exploration", Style("#999999", DASHED), LITTLE_EXPLORATION),
    "pretrained": Method("pretrained", Style("#0072b2"), LITTLE_EXPLORATION, MAPPING),
    "frozen": Method("pretrained, first layers frozen", Style("#009e73", DASHED), LITTLE_EXPLORATION, FROZEN),
    "slow": Method("pretrained, a tenth of the learning rate", Style("#d55e00", DASH_DOTTED), LITTLE_EXPLORATION, SLOW),
}


class Run(NamedTuple):
    """Key of a record."""

    method: str
    seed: int


def set_up(run: Run) -> str:
    """Hash of a run's configuration, eight digits; records with another hash are ignored."""
    method = METHODS[run.method]
    return records.hash_of([SETTINGS, SOURCE_STEPS, STEPS, LENGTH, FORCES, ORDER, method.settings, method.transfer])


def command(run: Run) -> list[str]:
    return ["benchmarks/transfer.py", "--run", run.method, str(run.seed)]


def read_records() -> dict[Run, Record]:
    def run_of(record: Record) -> Run:
        return Run(record["method"], record["seed"])

    return dict(sorted(records.read(RECORDS, [TASK], run_of, set_up).items()))


def by_method(found: dict[Run, Record]) -> dict[str, list[Record]]:
    return {name: [record for run, record in found.items() if run.method == name] for name in METHODS}


class Motors(gym.Wrapper):
    """CartPole with a longer pole, more motors and another observation."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        cart: Any = self.unwrapped
        cart.length = LENGTH
        cart.polemass_length = cart.masspole * LENGTH
        self.full_force = cart.force_mag
        self.action_space = gym.spaces.Discrete(len(FORCES))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(ORDER) + 1,), np.float32)

    def observed(self, obs: np.ndarray, force: float) -> np.ndarray:
        return np.append(obs[list(ORDER)], force).astype(np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        return self.observed(obs, 0.0), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        force = FORCES[action]
        cart: Any = self.unwrapped
        cart.force_mag = self.full_force * abs(force)
        obs, reward, terminated, truncated, info = super().step(int(force > 0))
        return self.observed(obs, force), float(reward), terminated, truncated, info


def source(seed: int, folder: Path) -> Path:
    """The file of the network pretrained with this seed, which is trained if there is none."""
    path = folder / f"cartpole-{records.hash_of([SETTINGS, SOURCE_STEPS])}-{seed}.zip"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = DQN("MlpPolicy", "CartPole-v1", seed=seed, device="cpu", **SETTINGS).learn(SOURCE_STEPS)
        model.save(path.with_suffix(".part.zip"))
        path.with_suffix(".part.zip").rename(path)
    return path


def train(run: Run, sources: Path, steps: int = STEPS) -> Record:
    """The record of a run that may start from a network in the folder ``sources``."""
    th.set_num_threads(1)
    # Before training, so that the commit is that of the running code
    versions = versions_used(ROOT, CODE)
    method = METHODS[run.method]
    settings = {**SETTINGS, **method.settings}
    if method.transfer is not None:
        settings |= {"pretrained": source(run.seed, sources), "transfer": method.transfer}
    recorder = Recorder(steps)
    cpu_start = time.process_time()
    model = ReptileDQN("MlpPolicy", Motors(), seed=run.seed, device="cpu", n_steps=1, **{"half_life": None, **settings})
    model.learn(steps, callback=recorder, log_interval=None)
    curve = learning_curve(recorder.episodes, steps)
    return {
        "task": TASK,
        **run._asdict(),
        "steps": steps,
        "auc": round(sum(curve) / BINS, 3),
        "curve": curve,
        "setup": set_up(run),
        "cpu_seconds": round(time.process_time() - cpu_start, 1),
        "command": "python " + " ".join(command(run)),
        "versions": versions,
        "finished": now(),
    }


def thirds(found: list[Record]) -> np.ndarray:
    """Mean returns of the whole runs and of their first and last thirds, shape (3, runs)."""
    curves = np.array([record["curve"] for record in found])
    return np.array([part.mean(axis=1) for part in (curves, curves[:, : BINS // 3], curves[:, -BINS // 3 :])])


def page(found: dict[str, list[Record]]) -> str:
    rows = []
    scratch = thirds(found["scratch"])
    for name, of_method in found.items():
        returns = thirds(of_method)
        difference = "" if name == "scratch" else tables.cell(welch_interval(returns[0], scratch[0]), 0)
        cells = [tables.cell(student_interval(values), 0) for values in returns]
        rows.append([METHODS[name].label, str(len(of_method)), *cells, difference])
    header = ["start", "seeds", "return", "first third", "last third", "return minus that from scratch"]
    lines = tables.table(header, rows)
    return TEMPLATE.fill("page", steps=f"{STEPS:,}", source_steps=f"{SOURCE_STEPS:,}", table=lines) + "\n"


def draw(found: dict[str, list[Record]], path: Path) -> None:
    figure, (panel,) = plotting.grid(1, width=6.5, height=3.6)
    x = plotting.training_panel(panel, "CartPole with other motors and sensors", STEPS)
    window = np.ones(5) / 5
    for name, of_method in found.items():
        # Means over 500 steps
        curves = [np.convolve(np.pad(record["curve"], 2, mode="edge"), window, "valid") for record in of_method]
        points: list[Estimate] = estimates(iqm_of_points, np.array(curves)[:, None])
        plotting.draw_curve(panel, x, points, METHODS[name].style, METHODS[name].label, band=0.12)
    plotting.save_with_legend(figure, [panel], path)


def report() -> None:
    found = by_method(read_records())
    PAGE.write_text(page(found))
    draw(found, FIGURE)
    print(PAGE.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=2, metavar=("METHOD", "SEED"))
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument(
        "--sources", type=Path, default=ROOT / "runs" / "transfer", help="folder of the pretrained networks"
    )
    arguments = parser.parse_args()
    if arguments.run:
        name, seed = arguments.run
        if name not in METHODS:
            parser.error(f"METHOD must be one of {', '.join(METHODS)}, got {name}")
        print(json.dumps(train(Run(name, int(seed)), arguments.sources), separators=(",", ":")), flush=True)
        return
    if not arguments.report:
        with sole_writer(RECORDS):
            done = read_records()
            planned = [Run(name, seed) for seed in range(arguments.seeds) for name in METHODS]
            missing = [run for run in planned if run not in done]
            where = ["--sources", str(arguments.sources)]
            jobs = [Job(f"{run.method} {run.seed}", [*command(run), *where], STEPS, cwd=ROOT) for run in missing]
            # Before the runs that need them
            if arguments.jobs > 1:
                for seed in range(arguments.seeds):
                    source(seed, arguments.sources)
            train_or_exit(jobs, RECORDS, arguments.jobs)
    report()


if __name__ == "__main__":
    main()
