"""
Which replay learns best, where tasks drift and where they do not: methods x tasks x seeds, one record a run.

    python benchmarks/learning.py --jobs 2 --hours 1.5      train what is missing, the most informative runs first
    python benchmarks/learning.py --plan                    what is there, what is missing, how long it would take
    python benchmarks/learning.py --run TASK METHOD SEED    one run; prints its record, which names this command

Every finished run is a line of `benchmarks/results/learning/TASK.jsonl`; a run that was stopped leaves nothing and is
done again. `benchmarks/learning_report.py` makes the tables and figures of `docs/results.md` from these records.
"""

import argparse
import asyncio
import contextlib
import datetime
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
RECORDS = Path(__file__).parent / "results" / "learning"
# What the processes run that train
PROGRAM = Path(__file__)

# Points of a learning curve
BINS = 120
# What tells numpy, torch and numba how many threads to use
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

Record = dict[str, Any]


# ---- Methods


# The default, inside half_life="auto" too, and the best exponential decay
DEFAULT = "power-100-1.5"
BEST_HALF_LIFE = 300

REEXPLORES = "-reexplores"
HALF_LIVES = (100, 300, 1_000, 3_000, 10_000, 30_000)
# One of them replays transitions of the same mean age as the default
WINDOWS = (1_000, 3_000, 5_000, 6_000, 10_000, 30_000)
# Buffers that hold less than a run, with the default decay
CAPACITIES = (3_000, 10_000)


METHODS = (
    "uniform",
    *(f"fifo-{window}" for window in WINDOWS),
    *(f"exp-{half_life}" for half_life in HALF_LIVES),
    "power-1",
    "power-100",
    *("power-100-1.5", "power-300-2"),
    "linear-10000",
    "linear-80000",
    "ere",
    "combined",
    "prioritized",
    f"prioritized-exp-{BEST_HALF_LIFE}",
    f"loss-exp-{BEST_HALF_LIFE}",
    f"exp-{BEST_HALF_LIFE}-uniform-0.1",
    *(f"{DEFAULT}-in-{capacity}" for capacity in CAPACITIES),
    *(f"auto-exp-{half_life}" for half_life in (300, 1_000, 3_000)),
    *("auto-power-1", "auto-power-100", "auto-power-100-1.5"),
    *(f"auto-{DEFAULT}-{change}" for change in ("forgets", "ordinary-clock", "reexplores")),
    f"oracle-{DEFAULT}",
)
# half_life="auto" as it is, and if it knew; without some of its parts
AUTO = (f"auto-{DEFAULT}", f"oracle-{DEFAULT}")
ABLATIONS = tuple(method for method in METHODS if re.fullmatch(rf"{AUTO[0]}-[a-z-]+", method))
# With other decays inside
AUTO_METHODS = tuple(method for method in METHODS if method.startswith("auto-") and method not in ABLATIONS)
SMALLER = tuple(f"{DEFAULT}-in-{capacity}" for capacity in CAPACITIES)
# Tried to choose from, and left at so many seeds
TRIED = (
    *("fifo-5000", "fifo-30000", "linear-80000", "power-300-2", f"exp-{BEST_HALF_LIFE}-uniform-0.1"),
    *SMALLER,
    *(method for method in AUTO_METHODS if method != AUTO[0]),
)
TRIED_SEEDS = 5


def fewer(*methods: str) -> tuple[str, ...]:
    """A choice for tasks whose runs take long, the default always among it."""
    assert set(methods) <= set(METHODS), set(methods) - set(METHODS)
    return tuple(method for method in METHODS if method in methods or method == DEFAULT)


FEWER = fewer(*("uniform", "fifo-1000", "fifo-3000", "exp-300", "power-1", "prioritized", *AUTO))
# What a default could be
CANDIDATES = fewer(
    *("uniform", "fifo-1000", "fifo-3000"),
    *("exp-100", "exp-300", "exp-1000", "exp-3000"),
    *("power-1", "power-100", "power-100-1.5", "power-300-2", "exp-300-uniform-0.1"),
)
# Where a run takes longest
FEWEST = fewer("uniform", "fifo-1000", AUTO[0])
# With other replay volumes than the task's own
VOLUME_METHODS = fewer("uniform", "fifo-1000", "exp-300", "exp-1000", "exp-3000", "power-100-1.5")


def arguments_of(method: str) -> tuple[Literal["DQN", "ReptileDQN"], dict[str, Any]]:
    """
    What a method's name means.

    * ``uniform``: SB3's DQN; ``fifo-N``: the same with a buffer of N transitions
    * ``exp-H``: ReptileDQN with half-life H; ``exp-H-uniform-F``: a share F of the draws is uniform
    * ``power-S``: ``S / (S + age)``; ``power-1`` is 1/age (arXiv 2110.02421); ``power-S-E``: to the power of E
    * ``...-in-N``: the same in a buffer of N transitions
    * ``linear-T``: sample weight decay with horizon T (arXiv 2604.01913)
    * ``ere``: emphasizing recent experience (arXiv 1906.04009); ``combined``: the newest transition is in every batch
      (arXiv 1712.01275); both with the papers' own values
    * ``prioritized``: by TD error (arXiv 1511.05952); ``prioritized-exp-H``: times exponential decay
    * ``loss-exp-H``: drawn uniformly, with exponential decay in the loss
    * ``auto-exp-H``, ``auto-power-S``: ``half_life="auto"``, with that decay while nothing changes;
      ``...-forgets``: at every alarm, what was before, for ever; ``...-ordinary-clock``: on which time in another
      counts too; ``...-reexplores``: with the callback ``ReExplore``
    * ``oracle-exp-H``, ``oracle-power-S``: the same if it knew what is true

    :param method: The name
    :return: The algorithm, and its arguments besides the task's
    :raises ValueError: if it is none of these
    """
    no_decay = float("inf")
    of_variants = {
        "oracle-": "OracleReplayBuffer",
        "-forgets": "DetectionReplayBuffer",
        "-ordinary-clock": "OrdinaryClockReplayBuffer",
    }
    for part, buffer_class in of_variants.items():
        if method.startswith(part) or (method.startswith("auto-") and method.endswith(part)):
            _, inner = arguments_of(method.removeprefix(part).removesuffix(part))
            # By its name, so that this file can be read without importing it
            return "ReptileDQN", {**inner, "replay_buffer_class": buffer_class}
    if re.fullmatch(r"(exp|power|linear)-.*-in-\d+", method):
        method, _, capacity = method.rpartition("-in-")
        algorithm, inner = arguments_of(method)
        return algorithm, {**inner, "buffer_size": int(capacity)}
    if method.startswith("auto-"):
        _, inner = arguments_of(method.removeprefix("auto-").removesuffix(REEXPLORES))
        buffer = inner.get("replay_buffer_kwargs", {})
        exponential = {"exponential": {"half_life": inner["half_life"]}} if "half_life" in inner else None
        decay = buffer.get("decay", exponential)
        if decay is None or set(inner) - {"half_life", "replay_buffer_kwargs"} or set(buffer) - {"decay"}:
            raise ValueError(f"unknown method {method!r}; auto- goes before a decay, as in auto-exp-1000")
        return "ReptileDQN", {"half_life": "auto", "replay_buffer_kwargs": {"decay": decay}}
    pattern = r"(uniform|combined|ere|prioritized)|(fifo|exp|power|linear|prioritized-exp|loss-exp)-(\d+)"
    match = re.fullmatch(pattern + r"|(exp)-(\d+)-uniform-(0?\.\d+)|power-(\d+)-([\d.]+)", method)
    if match is None:
        raise ValueError(f"unknown method {method!r}; the planned ones: {', '.join(METHODS)}")
    word, family, number, _, half_life, share, scale, exponent = match.groups()
    if scale is not None:
        power_law = {"scale": int(scale), "exponent": float(exponent)}
        return "ReptileDQN", {"replay_buffer_kwargs": {"decay": {"power_law": power_law}}}
    if half_life is not None:
        return "ReptileDQN", {
            "half_life": int(half_life),
            "replay_buffer_kwargs": {"uniform_fraction": float(share)},
        }
    match word or family:
        case "uniform":
            return "DQN", {}
        case "fifo":
            return "DQN", {"buffer_size": int(number)}
        case "exp":
            return "ReptileDQN", {"half_life": int(number)}
        case "power":
            return "ReptileDQN", {"replay_buffer_kwargs": {"decay": {"power_law": {"scale": int(number)}}}}
        case "linear":
            return "ReptileDQN", {"replay_buffer_kwargs": {"decay": {"linear": {"horizon": int(number)}}}}
        case "ere":
            return "ReptileDQN", {"replay_buffer_kwargs": {"decay": {"ere": {}}}}
        case "combined":
            return "ReptileDQN", {"half_life": no_decay, "replay_buffer_kwargs": {"combined": True}}
        case "prioritized":
            return "ReptileDQN", {"half_life": no_decay, "priority": "td_error"}
        case "prioritized-exp":
            return "ReptileDQN", {"half_life": int(number), "priority": "td_error"}
        case _:
            return "ReptileDQN", {"half_life": int(number), "weighting": "loss"}


# ---- Tasks


@dataclass(frozen=True)
class Task:
    """
    What is learned, and for how long.

    :param about: What it is, for the report
    :param role: Whether defaults are chosen on it (tuning) or it only tells how good they are (reporting), fixed
        before any run of those
    :param drifts: Whether it changes in mid-training
    :param env: Id of the environment, registered by Gymnasium or ``sb3_reptile.envs``
    :param env_kwargs: Its arguments
    :param steps: Environment steps of a run
    :param settings: Arguments of the algorithm
    :param random_return: Mean return of random actions: the score 0, one for all phases or one for each in turn.
        ``--random`` measures it
    :param reference_return: The return that scores 1, likewise
    :param seeds: Runs of each method
    :param methods: Which methods are run
    :param seconds: What a run takes, roughly, for the plan until there are records
    :param policy: Policy of the algorithm
    :param bins: Values of each continuous action, of which ``DiscreteActions`` makes discrete ones
    :param algorithm: What learns it: SB3's DQN and ReptileDQN, or SB3's SAC with our replay buffer
    """

    about: str
    role: Literal["tuning", "reporting"]
    drifts: bool
    env: str
    env_kwargs: dict[str, Any]
    steps: int
    settings: dict[str, Any]
    random_return: float | tuple[float, ...]
    reference_return: float | tuple[float, ...]
    seeds: int
    methods: tuple[str, ...]
    seconds: float
    policy: str = "MlpPolicy"
    bins: int | None = None
    algorithm: Literal["DQN", "SAC"] = "DQN"

    @property
    def volume(self) -> float:
        """Transitions replayed per environment step."""
        frequency, updates = self.settings["train_freq"], self.settings["gradient_steps"]
        return self.settings["batch_size"] * (1 if updates == -1 else updates / frequency)

    def scores(self, curve: list[float], changes: list[int]) -> list[float]:
        """
        Normalize a learning curve: 0 for random actions, 1 for the reference.

        :param curve: ``BINS`` returns
        :param changes: The steps, counted from 1, that are the first of a new phase
        :return: ``BINS`` scores
        """

        def in_phase(returns: float | tuple[float, ...], phase: int) -> float:
            return returns[phase % len(returns)] if isinstance(returns, tuple) else returns

        scores = []
        for number, value in enumerate(curve):
            last_step = (number + 1) * self.steps // len(curve)
            phase = sum(step <= last_step for step in changes)
            zero, one = in_phase(self.random_return, phase), in_phase(self.reference_return, phase)
            scores.append((value - zero) / (one - zero))
        return scores


# Torch's Adam as one kernel: the same formulas, faster (benchmarks/results/training.md). For all methods alike
OPTIMIZER: dict[str, Any] = dict(fused=True)

# The RL Zoo's tuned values (rl_zoo3 2.9.2, hyperparams/dqn.yml)
CARTPOLE: dict[str, Any] = dict(
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
)
# The same for LunarLander-v3 and Acrobot-v1
LUNAR_LANDER: dict[str, Any] = dict(
    learning_rate=6.3e-4,
    batch_size=128,
    buffer_size=50_000,
    learning_starts=0,
    gamma=0.99,
    target_update_interval=250,
    train_freq=4,
    gradient_steps=-1,
    exploration_fraction=0.12,
    exploration_final_eps=0.1,
    policy_kwargs=dict(net_arch=[256, 256]),
)
MOUNTAIN_CAR: dict[str, Any] = dict(
    learning_rate=4e-3,
    batch_size=128,
    buffer_size=10_000,
    learning_starts=1_000,
    gamma=0.98,
    target_update_interval=600,
    train_freq=16,
    gradient_steps=8,
    exploration_fraction=0.2,
    exploration_final_eps=0.07,
    policy_kwargs=dict(net_arch=[256, 256]),
)


# The RL Zoo's values for Pendulum-v1 (hyperparams/sac.yml), with smaller networks and batches
SAC_PENDULUM: dict[str, Any] = dict(
    learning_rate=1e-3,
    batch_size=128,
    buffer_size=100_000,
    learning_starts=500,
    gamma=0.99,
    train_freq=1,
    gradient_steps=1,
    policy_kwargs=dict(net_arch=[64, 64]),
)


# Close to MinAtar's authors (arXiv:1903.03176), but for an update every four steps only, at a higher learning rate
MINATAR: dict[str, Any] = dict(
    learning_rate=1e-3,
    batch_size=32,
    buffer_size=100_000,
    learning_starts=2_000,
    gamma=0.99,
    target_update_interval=1_000,
    train_freq=4,
    gradient_steps=1,
    exploration_fraction=16_000 / 120_000,
    exploration_final_eps=0.05,
    # A class of sb3_reptile.envs, by its name, so that this file can be read without importing it
    policy_kwargs=dict(features_extractor_class="MinAtarCnn", net_arch=[]),
)


# As zoo_configs/reptile_dqn.yml, for less long
PENDULUM: dict[str, Any] = dict(
    learning_rate=1e-3,
    batch_size=128,
    buffer_size=50_000,
    learning_starts=1_000,
    gamma=0.98,
    tau=0.01,
    target_update_interval=1,
    train_freq=4,
    gradient_steps=4,
    exploration_fraction=0.5,
    exploration_final_eps=0.02,
    policy_kwargs=dict(net_arch=[128, 128]),
)


def reference_game(game: str, random_return: float, reference_return: float, **others: Any) -> Task:
    """One of MinAtar's games alone, which also tells what can be learned of it within a phase of the task of both."""
    return Task(
        f"MinAtar's {game} alone",
        role="tuning",
        drifts=False,
        env="DriftingMinAtar-v0",
        env_kwargs=dict(period=30_000, games=[game]),
        steps=30_000,
        # As far as it has come with exploration before its first change
        settings={**MINATAR, "exploration_fraction": 16_000 / 30_000},
        random_return=random_return,
        reference_return=reference_return,
        seconds=20,
        policy="CnnPolicy",
        **others,
    )


def drifting(settings: dict[str, Any], exploration: float, **others: Any) -> dict[str, Any]:
    """
    A stationary task's settings where the task drifts: a buffer that holds the whole run, as SB3's default would, and
    exploration that is down to its final rate long before the first change and stays there.
    """
    return {**settings, "buffer_size": 100_000, "exploration_fraction": exploration, **others}


# Physics are named here although they are the defaults of the environments: records of other values are not mixed then.
# Reference returns are what Gymnasium calls solved (reward_threshold of its registry), where nothing else is said.
TASKS = {
    "cartpole-actions": Task(
        "CartPole-v1 whose two actions swap every 15,000 steps",
        role="tuning",
        drifts=True,
        env="DriftingCartPoleActions-v0",
        env_kwargs=dict(period=15_000),
        steps=60_000,
        settings=drifting(CARTPOLE, exploration=8_000 / 60_000),
        random_return=22.3,
        reference_return=475.0,
        seeds=10,
        methods=METHODS,
        seconds=60,
    ),
    "lunarlander-engines": Task(
        "LunarLander-v3 whose side engines swap every 30,000 steps",
        role="tuning",
        drifts=True,
        env="DriftingLunarLanderEngines-v0",
        env_kwargs=dict(period=30_000),
        steps=90_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 90_000, gradient_steps=2),
        random_return=-188.9,
        reference_return=200.0,
        seeds=5,
        methods=fewer(*FEWER, "exp-100", "exp-1000"),
        seconds=140,
    ),
    "pendulum": Task(
        "Pendulum-v1 with five torques",
        role="tuning",
        drifts=False,
        env="Pendulum-v1",
        env_kwargs={},
        steps=20_000,
        settings=PENDULUM,
        random_return=-1255.1,
        reference_return=-200.0,
        seeds=5,
        methods=CANDIDATES,
        seconds=30,
        bins=5,
    ),
    "pendulum-sac": Task(
        "Pendulum-v1 under SAC",
        role="tuning",
        drifts=False,
        env="Pendulum-v1",
        env_kwargs={},
        steps=8_000,
        settings=SAC_PENDULUM,
        random_return=-1158.7,
        reference_return=-200.0,
        seeds=5,
        methods=fewer(*CANDIDATES, "exp-10000"),
        seconds=30,
        algorithm="SAC",
    ),
    "minatar-breakout": reference_game("breakout", 0.5, 3.6, methods=CANDIDATES, seeds=5),
    "minatar-space_invaders": reference_game(
        "space_invaders", 2.8, 21.9, methods=fewer(*CANDIDATES, *SMALLER), seeds=5
    ),
    "cartpole-physics": Task(
        "CartPole-v1 whose pole length and force change every 15,000 steps",
        role="reporting",
        drifts=True,
        env="DriftingCartPolePhysics-v0",
        env_kwargs=dict(
            period=15_000,
            parameters={"length": [0.5, 2.0], "force_mag": [10.0, 5.0]},
        ),
        steps=60_000,
        settings=drifting(CARTPOLE, exploration=8_000 / 60_000),
        random_return=32.9,
        reference_return=475.0,
        seeds=10,
        methods=FEWER,
        seconds=60,
    ),
    "cartpole-gradual": Task(
        "CartPole-v1 whose pole length and force move from one end to the other and back, 15,000 steps each way",
        role="reporting",
        drifts=True,
        env="DriftingCartPolePhysics-v0",
        env_kwargs=dict(
            period=15_000,
            kind="gradual",
            parameters={"length": [0.5, 2.0], "force_mag": [10.0, 5.0]},
        ),
        steps=60_000,
        settings=drifting(CARTPOLE, exploration=8_000 / 60_000),
        random_return=39.2,
        reference_return=475.0,
        seeds=10,
        # An oracle knows phases, of which there are none
        methods=tuple(method for method in FEWER if method not in ("prioritized", AUTO[1])),
        seconds=35,
    ),
    "acrobot-masses": Task(
        "Acrobot-v1 whose link masses change every 20,000 steps",
        role="reporting",
        drifts=True,
        env="DriftingAcrobot-v0",
        env_kwargs=dict(
            period=20_000,
            parameters={"LINK_MASS_2": [1.0, 0.02]},
        ),
        steps=80_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 80_000, gradient_steps=2),
        random_return=-449.8,
        reference_return=-100.0,
        seeds=5,
        methods=FEWER,
        seconds=100,
    ),
    "lunarlander-gravity": Task(
        "LunarLander-v3 whose gravity and wind change every 30,000 steps",
        role="reporting",
        drifts=True,
        env="DriftingLunarLander-v0",
        env_kwargs=dict(
            period=30_000,
            parameters={"gravity": [-10.0, -2.0], "wind_power": [0.0, 10.0], "turbulence_power": [0.0, 1.0]},
        ),
        steps=90_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 90_000, gradient_steps=2),
        random_return=-275.4,
        reference_return=200.0,
        seeds=5,
        methods=FEWER,
        seconds=140,
    ),
    "minatar": Task(
        "MinAtar's breakout and space_invaders in turn, 30,000 steps each",
        role="reporting",
        drifts=True,
        env="DriftingMinAtar-v0",
        env_kwargs=dict(period=30_000, games=["breakout", "space_invaders"]),
        steps=120_000,
        settings=MINATAR,
        random_return=(0.5, 2.9),
        # SB3's DQN with these settings on each game alone: see reference_returns()
        reference_return=(3.6, 21.9),
        seeds=5,
        methods=FEWER,
        seconds=200,
        policy="CnnPolicy",
    ),
    "pendulum-motor": Task(
        "Pendulum-v1 under SAC, whose motor is reversed every 6,000 steps",
        role="reporting",
        drifts=True,
        env="DriftingPendulum-v0",
        env_kwargs=dict(period=6_000),
        steps=24_000,
        settings=SAC_PENDULUM,
        random_return=-1256.6,
        reference_return=-200.0,
        seeds=5,
        methods=tuple(method for method in FEWER if method != "prioritized"),  # SB3's SAC has none
        seconds=60,
        algorithm="SAC",
    ),
    "cartpole": Task(
        "CartPole-v1",
        role="reporting",
        drifts=False,
        env="CartPole-v1",
        env_kwargs={},
        steps=50_000,
        settings=CARTPOLE,
        random_return=22.3,
        reference_return=475.0,
        seeds=10,
        methods=FEWEST,
        seconds=60,
    ),
    "acrobot": Task(
        "Acrobot-v1",
        role="reporting",
        drifts=False,
        env="Acrobot-v1",
        env_kwargs={},
        steps=100_000,
        settings=LUNAR_LANDER,
        random_return=-499.9,
        reference_return=-100.0,
        seeds=5,
        methods=FEWEST,
        seconds=300,
    ),
    "mountaincar": Task(
        "MountainCar-v0",
        role="reporting",
        drifts=False,
        env="MountainCar-v0",
        env_kwargs={},
        steps=120_000,
        settings=MOUNTAIN_CAR,
        random_return=-200.0,
        reference_return=-110.0,
        seeds=5,
        methods=FEWEST,
        seconds=200,
    ),
    "lunarlander": Task(
        "LunarLander-v3",
        role="reporting",
        drifts=False,
        env="LunarLander-v3",
        env_kwargs={},
        steps=100_000,
        settings=LUNAR_LANDER,
        random_return=-185.2,
        reference_return=200.0,
        seeds=5,
        methods=FEWEST,
        seconds=330,
    ),
}

# MinAtar's games alone, in the order of the task that has both
GAMES = ("minatar-breakout", "minatar-space_invaders")


def settings_with_volume(task: Task, volume: float | None) -> dict[str, Any]:
    """
    The task's settings with another replay volume: other updates per rollout, or, where that would be less than one,
    longer rollouts.

    :param task: The task
    :param volume: Transitions replayed per environment step; None for the task's own
    :return: The settings
    :raises ValueError: if batches of the task's size do not make such a volume
    """
    if volume is None:
        return task.settings
    frequency, batch_size = task.settings["train_freq"], task.settings["batch_size"]
    updates = volume * frequency / batch_size
    if 0 < updates < 1:
        updates, frequency = 1, batch_size / volume
    if updates <= 0 or not float(updates).is_integer() or not float(frequency).is_integer():
        raise ValueError(f"batches of {batch_size} every {frequency} steps do not make a volume of {volume}")
    return {**task.settings, "train_freq": int(frequency), "gradient_steps": int(updates)}


# ---- The plan


class Run(NamedTuple):
    """What tells one record from another. A volume of None is the task's own."""

    task: str
    method: str
    seed: int
    volume: float | None = None


def run_of(record: Record) -> Run:
    return Run(record["task"], record["method"], record["seed"], record["volume"])


VOLUMES = (2, 8, 64)
VOLUME_TASK = "cartpole-actions"
# How far all tasks get before any goes on. Replay volumes end with the second, large tasks have no more either
ROUNDS = ((0, 3), (3, 5), (5, 10))
VOLUME_ROUNDS = ROUNDS[:2]


def seeds_of(task: str, method: str) -> int:
    return min(TASKS[task].seeds, TRIED_SEEDS if method in TRIED else sys.maxsize)


def plan() -> list[Run]:
    """
    All runs, the most informative first. In each round come the tasks that decide, those that report and the other
    replay volumes; within each of these, all methods have one seed before any has the next.
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


def set_up(run: Run) -> str:
    """What a run is made of, as eight digits: records of another set-up are not mixed with those of this one."""
    task = TASKS[run.task]
    settings = settings_with_volume(task, run.volume)
    what = [task.env, task.env_kwargs, task.steps, settings, OPTIMIZER, arguments_of(run.method)]
    if task.bins is not None:
        what.append(task.bins)
    if task.algorithm != "DQN":
        what.append(task.algorithm)
    if run.method.endswith(REEXPLORES):
        what.append(REEXPLORES)
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


# ---- Records


def path_of(task: str, folder: Path) -> Path:
    return folder / f"{task}.jsonl"


def append(record: Record, folder: Path) -> None:
    """Add a record to its task's file, all of it or, if the machine stops in between, a line that is not read."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path_of(record["task"], folder), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = ("\n" if torn else "") + json.dumps(record, separators=(",", ":")) + "\n"
        if os.write(descriptor, line.encode()) < len(line):
            raise OSError(f"{path_of(record['task'], folder)}: no room for a record")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_records(folder: Path = RECORDS) -> dict[Run, Record]:
    """
    The records of today's tasks and methods, in an order that does not depend on when they were made. Torn lines,
    repeated runs and records of another set-up are left out; stderr tells how many.
    """
    records: dict[Run, Record] = {}
    left_out = 0
    for name in TASKS:
        path = path_of(name, folder)
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                run = run_of(record)
                usable = run not in records and record["setup"] == set_up(run)
            except ValueError:  # no JSON, or no method of today
                usable = False
            if usable:
                records[run] = record
            else:
                left_out += 1
    if left_out:
        print(f"{folder}: {left_out} torn, repeated or outdated lines left out", file=sys.stderr)
    return {run: records[run] for run in sorted(records, key=lambda run: (*run[:3], run.volume or 0))}


def reference_returns(records: dict[Run, Record]) -> tuple[float, ...]:
    """
    :param records: Records
    :return: For each of MinAtar's games alone the mean return of uniform replay over the last third of its runs
    """
    means = []
    for name in GAMES:
        curves = [record["curve"] for run, record in records.items() if (run.task, run.method) == (name, "uniform")]
        last_thirds = [curve[-BINS // 3 :] for curve in curves]
        means.append(round(sum(map(sum, last_thirds)) / sum(map(len, last_thirds)), 1))
    return tuple(means)


def learning_curve(episodes: list[tuple[int, float]], steps: int) -> list[float]:
    """
    Mean return of the episodes that end within each of ``BINS`` equal parts of a run. A part in which none ends has
    the value of the one before it, or, before the first end, of the first that has one.

    :param episodes: Last step, counted from 1, and return of each episode; those that end after ``steps`` do not count
    :param steps: Steps of the run
    :return: ``BINS`` returns
    """
    ends: list[list[float]] = [[] for _ in range(BINS)]
    for step, episode_return in episodes:
        if step <= steps:
            ends[(step - 1) * BINS // steps].append(episode_return)
    if not any(ends):
        raise ValueError(f"no episode ended within {steps} steps")
    curve: list[float] = []
    value = next(sum(returns) / len(returns) for returns in ends if returns)
    for returns in ends:
        value = sum(returns) / len(returns) if returns else value
        curve.append(round(value, 2))
    return curve


def make_env(task: Task) -> Any:
    import gymnasium as gym

    # Imported by Gymnasium first, it registers its tasks
    prefix = "sb3_reptile.envs:" if task.env.startswith("Drifting") else ""
    env = gym.make(prefix + task.env, **task.env_kwargs)
    if task.bins is not None:
        from sb3_reptile.envs import DiscreteActions

        env = DiscreteActions(env, bins=task.bins)
    return env


def build(run: Run) -> Any:
    """
    :param run: What to train
    :return: The model that learns, one of SB3's or ours
    """
    import variants
    from stable_baselines3 import DQN, SAC

    from sb3_reptile import DecayedReplayBuffer, ReptileDQN, envs

    task = TASKS[run.task]
    algorithm, arguments = arguments_of(run.method)
    settings = {**settings_with_volume(task, run.volume), **arguments}
    policy_kwargs = {**settings["policy_kwargs"], "optimizer_kwargs": OPTIMIZER}
    if "features_extractor_class" in policy_kwargs:
        policy_kwargs["features_extractor_class"] = getattr(envs, policy_kwargs["features_extractor_class"])
    settings["policy_kwargs"] = policy_kwargs
    if "replay_buffer_class" in settings:
        settings["replay_buffer_class"] = getattr(variants, settings["replay_buffer_class"])
    kind: Any = {"DQN": DQN, "ReptileDQN": ReptileDQN}[algorithm]
    if task.algorithm == "SAC":
        kind = SAC
        if algorithm == "ReptileDQN":
            settings.setdefault("replay_buffer_class", DecayedReplayBuffer)
            buffer = dict(settings.get("replay_buffer_kwargs", {}))
            if "half_life" in settings:
                buffer["half_life"] = settings.pop("half_life")
            settings["replay_buffer_kwargs"] = buffer
    return kind(task.policy, make_env(task), seed=run.seed, device="cpu", **settings)


def train(run: Run, on_step: Callable[[int], None] = lambda step: None) -> Record:
    """
    :param run: What to train
    :param on_step: Called with the number of each step
    :return: Its record
    """
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback

    from sb3_reptile.callbacks import ReExplore

    th.set_num_threads(1)
    versions = versions_used()
    task = TASKS[run.task]
    episodes: list[tuple[int, float]] = []
    changes: list[int] = []
    phases: list[Any] = []

    def keep(scope: dict[str, Any], _: dict[str, Any]) -> bool:
        step, (info,) = scope["self"].num_timesteps, scope["infos"]
        if "episode" in info:
            episodes.append((step, float(info["episode"]["r"])))
        if info.get("phase") not in phases[-1:] and step <= task.steps:
            phases.append(info.get("phase"))
            changes.append(step)
        on_step(step)
        return True

    callbacks: list[BaseCallback] = [ConvertCallback(keep)]
    if run.method.endswith(REEXPLORES):
        callbacks.append(ReExplore())

    start, cpu_start = time.perf_counter(), time.process_time()
    model = build(run)
    # Nobody reads the logs
    model.learn(task.steps, callback=callbacks, log_interval=None)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    curve = learning_curve(episodes, task.steps)
    return {
        **run._asdict(),
        "steps": task.steps,
        "auc": round(sum(curve) / BINS, 3),
        "changes": changes[1:],
        "curve": curve,
        "setup": set_up(run),
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "command": "python " + " ".join(command(run)),
        "versions": versions,
        "finished": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def command(run: Run) -> list[str]:
    """What makes exactly one record, to be run in the root of the repository."""
    volume = [] if run.volume is None else ["--volume", f"{run.volume:g}"]
    return ["benchmarks/learning.py", "--run", run.task, run.method, str(run.seed), *volume]


def processor() -> str:
    """The kind of processor, on which the last digits of floating point depend, and soon all that is learned."""
    import torch

    names = {"model name": platform.machine()}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            names[name.strip()] = value.strip()
    numbers = [f"{name} {names[name]}" for name in ("cpu family", "model", "stepping") if name in names]
    return ", ".join([names["model name"], *numbers, torch.backends.cpu.get_cpu_capability()])


def versions_used() -> dict[str, str]:
    versions = {"python": platform.python_version(), "processor": processor()}
    for package in ("torch", "stable_baselines3", "gymnasium", "numpy", "numba", "sb3_reptile"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "--no-optional-locks", "-C", str(ROOT)]
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        code = ["sb3_reptile", "benchmarks/learning.py", "benchmarks/variants.py"]
        changed = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, check=True)
        versions["commit"] = commit.stdout.strip() + ("+" if changed.stdout else "")
    return versions


def compared(record: Record, known: Record) -> str:
    """Whether a run has been repeated, in words."""
    if record["curve"] == known["curve"]:
        return "the curve is that of the record there is"
    here, there = (versions.get("processor", "an unknown one") for versions in (record["versions"], known["versions"]))
    reason = "" if here == there else f": that was made on another kind of processor ({there}; here: {here})"
    return f"the curve is not that of the record there is{reason}"


# ---- Training what is missing


# What fails that often is not the fault of a single run
TOO_MANY_FAILURES = 3


class Estimate:
    """What runs take, from the records there are."""

    def __init__(self, records: dict[Run, Record]) -> None:
        self.seconds: dict[tuple[Any, ...], list[float]] = {}
        for run, record in records.items():
            for key in ((run.task, run.volume, run.method), (run.task, run.volume)):
                self.seconds.setdefault(key, []).append(record["cpu_seconds"])

    def __call__(self, run: Run) -> float:
        for key in ((run.task, run.volume, run.method), (run.task, run.volume)):
            if key in self.seconds:
                return sum(self.seconds[key]) / len(self.seconds[key])
        task = TASKS[run.task]
        # About a third is the environment and acting in it
        return task.seconds * (1 if run.volume is None else (1 + 2 * run.volume / task.volume) / 3)


def print_plan(runs: list[Run], records: dict[Run, Record]) -> None:
    estimate = Estimate(records)
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
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are there; core-hours left: {left:.1f} of {total:.1f}")


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Two harnesses at once would train the same runs."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SystemExit(f"another harness is writing to {folder}: wait for it, or let it have --jobs 2") from None
    finally:
        os.close(descriptor)


async def train_all(runs: list[Run], jobs: int, deadline: float, folder: Path) -> list[Run]:
    """
    Train in ``jobs`` processes at once, a fresh one for each run, as its command would.

    :param runs: What to train, in this order
    :param jobs: How many processes
    :param deadline: ``time.monotonic()`` after which no run is started
    :param folder: Where the records go
    :return: The runs that failed
    """
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    waiting = iter(runs)
    failed: list[Run] = []
    done = 0

    async def work() -> None:
        nonlocal done
        for run in waiting:
            if time.monotonic() > deadline or len(failed) >= TOO_MANY_FAILURES:
                return
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(PROGRAM),
                *command(run)[1:],
                "--progress",
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 20,
                start_new_session=True,  # Ctrl-C is for us
            )
            assert process.stdout is not None
            steps, record = 0, None
            try:
                async for line in process.stdout:
                    if line.startswith(b"{"):
                        record = json.loads(line)
                    else:
                        bar.update(int(line) - steps)
                        steps = int(line)
                if await process.wait() == 0 and record is not None:
                    append(record, folder)
                    done += 1
                else:
                    failed.append(run)
                    bar.update(-steps)
            finally:
                if process.returncode is None:
                    process.terminate()
                    await process.wait()
            bar.set_description(f"{done} of {len(runs)} runs", refresh=False)

    total = sum(TASKS[run.task].steps for run in runs)
    # Into a file a line a minute is enough
    interval = 1 if sys.stderr.isatty() else 60
    with tqdm(total=total, unit="step", unit_scale=True, mininterval=interval, maxinterval=interval) as bar:
        bar.set_description(f"0 of {len(runs)} runs")
        await asyncio.gather(*(work() for _ in range(jobs)))
    return failed


def print_record(run: Run, with_progress: bool) -> Record:
    hundredth = TASKS[run.task].steps // 100

    def tell(step: int) -> None:
        if step % hundredth == 0:
            print(step, flush=True)

    record = train(run, tell) if with_progress else train(run)
    print(json.dumps(record, separators=(",", ":")), flush=True)
    return record


def random_returns(task: Task) -> list[float]:
    """
    Mean return of the episodes that random actions finish in as many steps as a run has; one for each game, where the
    task's ``random_return`` has several.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--hours", type=float, default=math.inf, help="start no run after that long")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), help="only these tasks")
    parser.add_argument("--method", nargs="+", default=list(METHODS), help="only these methods")
    parser.add_argument("--seeds", type=int, help="only seeds below this number")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    parser.add_argument("--plan", action="store_true", help="print what is there and what is missing; train nothing")
    parser.add_argument("--run", nargs=3, metavar=("TASK", "METHOD", "SEED"), help="one run; print its record")
    parser.add_argument("--volume", type=float, help="with --run: another replay volume than the task's own")
    parser.add_argument("--append", action="store_true", help="with --run: add the record to the others")
    parser.add_argument("--random", action="store_true", help="measure the returns of random actions")
    parser.add_argument("--progress", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.run:
        name, method, seed = arguments.run
        if name not in TASKS or not seed.isdecimal():
            parser.error(f"--run takes a task ({', '.join(TASKS)}), a method and a seed, got {name} {method} {seed}")
        try:
            volume = arguments.volume
            run = Run(name, method, int(seed), int(volume) if volume and volume.is_integer() else volume)
            set_up(run)
        except ValueError as error:
            parser.error(str(error))
        # Read when numpy and torch are imported
        for variable in THREADS:
            os.environ[variable] = "1"
        try:
            record = print_record(run, arguments.progress)
        except BrokenPipeError:  # who started it is gone
            os._exit(1)
        if arguments.append:
            append(record, arguments.records)
        elif not arguments.progress and run in (records := read_records(arguments.records)):
            print(compared(record, records[run]), file=sys.stderr)
        return
    if arguments.random:
        for name in arguments.task:
            print(f"{name:<22}", *(f"{value:>8.1f}" for value in random_returns(TASKS[name])))
        return

    runs = [
        run
        for run in plan()
        if run.task in arguments.task
        and run.method in arguments.method
        and (arguments.seeds is None or run.seed < arguments.seeds)
    ]
    unknown = set(arguments.method) - {run.method for run in plan()}
    if unknown or not runs or arguments.jobs < 1:
        parser.error(f"nothing to train; not in the plan: {', '.join(sorted(unknown)) or 'this combination'}")
    if arguments.plan:
        print_plan(runs, read_records(arguments.records))
        return
    with sole_writer(arguments.records):
        records = read_records(arguments.records)
        missing = [run for run in runs if run not in records]
        deadline = time.monotonic() + 3600 * arguments.hours
        try:
            failed = asyncio.run(train_all(missing, arguments.jobs, deadline, arguments.records))
        except asyncio.CancelledError:
            raise SystemExit("stopped; the same command goes on from here") from None
    for run in failed:
        print(f"failed: python {' '.join(command(run))}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
