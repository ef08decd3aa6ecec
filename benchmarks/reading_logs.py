"""
The pictures of `docs/explanation/what_logs_show.md`: what four short runs of ReptileDQN on CartPole-v1 write to
TensorBoard.

    python benchmarks/reading_logs.py [--from-records]

It writes `results/reading_logs.csv`, one line for each entry of the log, and draws the pictures from it;
`--from-records` only draws. A run that is in the file is not repeated.
"""

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.logger import configure
from tasks import CARTPOLE
from timings import Records, where

from sb3_reptile import ReptileDQN
from sb3_reptile.envs import PermutedActions
from sb3_reptile.figures import BLUE, GREY, ORANGE, PURPLE, label_axes

IMAGES = Path(__file__).parent.parent / "docs" / "images"
STEPS, SWAP = 30_000, 20_000
# Arguments of each run, and the step at which the actions swap. Runs of CartPole differ by their seeds: these are
# illustrations, not measurements
RUNS: dict[str, tuple[dict[str, Any], int | None]] = {
    "healthy": ({"seed": 2}, None),
    "change": ({"half_life": "auto", "seed": 0}, SWAP),
    "too_short": ({"half_life": 10, "seed": 0}, None),
    "too_long": ({"half_life": float("inf"), "seed": 0}, SWAP),
}
KEYS = [
    "time/total_timesteps",
    "rollout/ep_rew_mean",
    "replay/mean_age",
    "replay/effective_sample_size",
    "replay/td_error_age_q1",
    "replay/td_error_age_q4",
    "replay/alarms",
]
RECORDS = Records(Path(__file__).parent / "results" / "reading_logs.csv", ["run", *KEYS])


def train(name: str) -> list[dict[str, str]]:
    """What a run logs."""
    kwargs, swap = RUNS[name]
    kwargs = {"half_life": None, "n_steps": 1, **kwargs}
    env = gym.make("CartPole-v1")
    if swap is not None:
        env = PermutedActions(env, period=swap)
    model = ReptileDQN("MlpPolicy", env, device="cpu", stats_window_size=20, **CARTPOLE, **kwargs)
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["csv"]))
        model.learn(STEPS, log_interval=5)
        with Path(folder, "progress.csv").open(encoding="utf-8", newline="") as file:
            return [{"run": name, **{key: row.get(key, "") for key in KEYS}} for row in csv.DictReader(file)]


def draw(name: str, records: list[dict[str, str]]) -> None:
    log = {key: np.array([float(record[key] or "nan") for record in records]) for key in KEYS}
    steps = log["time/total_timesteps"]
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    returns, ages, errors = figure.subplots(1, 3)
    returns.plot(steps, log["rollout/ep_rew_mean"], color=BLUE)
    returns.set(ylim=(0, 510))
    label_axes(returns, "", "rollout/ep_rew_mean")
    for key, colour in ("mean_age", ORANGE), ("effective_sample_size", BLUE):
        ages.plot(steps, log[f"replay/{key}"], color=colour, label=f"replay/{key}")
    ages.set(yscale="log", ylim=(1, 50_000))
    label_axes(ages, "environment steps", "transitions")
    for key, colour in ("td_error_age_q4", PURPLE), ("td_error_age_q1", ORANGE):
        errors.plot(steps, log[f"replay/{key}"], color=colour, linewidth=1, label=f"replay/{key}")
    errors.set(yscale="log", ylim=(1e-2, 1e2))
    label_axes(errors, "", "absolute TD error")
    for axes in (returns, ages, errors):
        axes.set(xlim=(0, STEPS), xticks=range(0, STEPS + 1, 10_000))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if RUNS[name][1] is not None:
            axes.axvline(RUNS[name][1], color=GREY, linestyle="--", linewidth=1)
    for axes in (ages, errors):
        axes.legend(framealpha=1, edgecolor="white", fontsize=7, loc="lower right" if axes is ages else "upper left")
    for step in steps[1:][np.diff(log["replay/alarms"]) > 0]:
        returns.plot(step, 25, marker="^", color=ORANGE)
        returns.annotate(
            "replay/alarms rises", (step, 25), (-6, -2), textcoords="offset points", ha="right", fontsize=7
        )
    figure.savefig(IMAGES / f"log_{name}.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-records", action="store_true", help="draw only")
    arguments = parser.parse_args()
    for name in RUNS:
        if not arguments.from_records and not (RECORDS.path.exists() and where(RECORDS.read(), run=name)):
            RECORDS.append(train(name))
        draw(name, where(RECORDS.read(), run=name))


if __name__ == "__main__":
    main()
