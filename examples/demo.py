"""
Compare ReptileDQN with SB3's DQN on a CartPole whose actions swap halfway through training; plot the learning curves.

    python examples/demo.py [--steps 40000] [--seeds 3] [--output demo]

Both use the RL Zoo's hyperparameters for CartPole-v1; they differ only in replay.
"""

import argparse
import csv
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_reptile import ReptileDQN
from sb3_reptile.envs import PermutedActions
from sb3_reptile.evaluation.plotting import style_of

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# The same learner, so that they differ by what they replay: one-step returns
METHODS: dict[str, Callable[..., DQN]] = {"ReptileDQN": partial(ReptileDQN, n_steps=1, half_life=None), "DQN": DQN}
STYLES = {"ReptileDQN": style_of("default"), "DQN": style_of("uniform")}
LABELS = {"ReptileDQN": "ReptileDQN (decayed replay)", "DQN": "DQN (uniform replay)"}

# The RL Zoo's tuned values for CartPole-v1 (rl_zoo3 2.9.2, hyperparams/dqn.yml)
HYPERPARAMETERS: dict[str, Any] = dict(
    learning_rate=2.3e-3,
    batch_size=64,
    buffer_size=100_000,
    learning_starts=1_000,
    target_update_interval=10,
    train_freq=256,
    gradient_steps=128,
    exploration_fraction=0.16,
    exploration_final_eps=0.04,
    policy_kwargs=dict(net_arch=[256, 256]),
)

Episode = tuple[str, int, int, float]  # method, seed, step at which it ended, return


class RecordEpisodes(BaseCallback):
    """Records the return of every episode, and counts steps for the progress bar of the parent process."""

    def __init__(self) -> None:
        super().__init__()
        self.episodes: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        with steps_done.get_lock():
            steps_done.value += 1
        for info in self.locals["infos"]:
            if "episode" in info:
                self.episodes.append((self.num_timesteps, info["episode"]["r"]))
        return True


def start_worker(counter: Any) -> None:
    global steps_done
    steps_done = counter
    th.set_num_threads(1)


def run(method: str, seed: int, steps: int) -> list[Episode]:
    env = PermutedActions(gym.make("CartPole-v1"), period=steps // 2)
    model = METHODS[method]("MlpPolicy", env, seed=seed, device="cpu", **HYPERPARAMETERS)
    record = RecordEpisodes()
    model.learn(steps, callback=record)
    return [(method, seed, step, float(episode_return)) for step, episode_return in record.episodes]


def train_all(steps: int, seeds: int) -> list[Episode]:
    """Train every method on every seed, two at a time, with one progress bar."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with (
        ProcessPoolExecutor(2, mp_context=context, initializer=start_worker, initargs=(counter,)) as pool,
        tqdm(total=steps * seeds * len(METHODS), unit="step", desc=f"{len(METHODS)} methods x {seeds} seeds") as bar,
    ):
        runs: list[Future[list[Episode]]] = [
            pool.submit(run, method, seed, steps) for seed in range(seeds) for method in METHODS
        ]
        while not all(future.done() for future in runs):
            time.sleep(0.2)
            # Runs end with a full rollout, a little past `steps`
            bar.update(min(counter.value, bar.total) - bar.n)
        return [episode for future in runs for episode in future.result()]


def return_per_step(episodes: list[Episode], method: str, seed: int, steps: int, window: int = 1_000) -> np.ndarray:
    """The return of the episode in progress at each step, as a running mean over ``window`` steps."""
    ends = np.array([step for m, s, step, _ in episodes if (m, s) == (method, seed)])
    returns = np.array([value for m, s, _, value in episodes if (m, s) == (method, seed)])
    # The end of training cuts off the last episode: its steps get the return of the previous episode
    under_way = np.minimum(np.searchsorted(ends, np.arange(1, steps + 1)), len(ends) - 1)
    sums = np.cumsum(np.concatenate([np.zeros(1), returns[under_way]]))
    starts = np.maximum(np.arange(1, steps + 1) - window, 0)
    return (sums[1:] - sums[starts]) / (np.arange(1, steps + 1) - starts)


def curves(episodes: list[Episode], steps: int, seeds: int) -> Iterator[tuple[str, np.ndarray]]:
    """The learning curves of each method, shape (seeds, steps)."""
    for method in METHODS:
        yield method, np.stack([return_per_step(episodes, method, seed, steps) for seed in range(seeds)])


def draw(episodes: list[Episode], steps: int, seeds: int, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    x = np.arange(1, steps + 1)
    for method, returns in curves(episodes, steps, seeds):
        axes.plot(x, returns.T, color=STYLES[method].color, alpha=0.3, linewidth=0.8)
        axes.plot(x, returns.mean(axis=0), **STYLES[method]._asdict(), linewidth=2.4, label=LABELS[method])
    axes.axvline(steps // 2, color="black", linestyle="-", linewidth=0.8)
    axes.annotate(" the controls swap", (steps // 2, 505), va="bottom", fontsize=10)
    axes.set(xlim=(0, steps), ylim=(0, 540), xlabel="environment steps", ylabel="return per episode")
    axes.set_title(f"CartPole-v1: mean of {seeds} seeds (bold) and each seed (thin)", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps of each run (default: 40000)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to (default: demo)")
    arguments = parser.parse_args()
    if arguments.steps < 2_000 or arguments.seeds < 1:
        parser.error("--steps must be at least 2000 and --seeds at least 1")

    arguments.output.mkdir(parents=True, exist_ok=True)
    episodes = train_all(arguments.steps, arguments.seeds)

    records = arguments.output / "learning_curves.csv"
    with records.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "seed", "step", "return"])
        writer.writerows(episodes)
    picture = arguments.output / "learning_curves.png"
    draw(episodes, arguments.steps, arguments.seeds, picture)

    print("Return per episode, mean over the steps and seeds:")
    for method, returns in curves(episodes, arguments.steps, arguments.seeds):
        before, after = np.split(returns.mean(axis=0), 2)
        print(f"  {method:<10}  before the swap {before.mean():5.0f}   after it {after.mean():5.0f}")
    print(f"Learning curves: {picture}\nRaw records:     {records}")


if __name__ == "__main__":
    main()
