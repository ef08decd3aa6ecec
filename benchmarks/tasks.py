"""The tasks of `benchmarks/learning.py` as data: environments, steps, settings and methods."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from methods import ALL, BLIND, BLIND_CONTINUOUS, CANDIDATES, FEWER, FEWEST, ORACLE, SMALLER, choice

Role = Literal["tuning", "reporting"]
# One for all phases, or one per phase
Returns = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    A task and the settings for it.

    :param about: Description for the report
    :param role: Whether defaults are chosen on it (tuning) or only measured (reporting); decided before any reporting
        run
    :param tried: Whether multi-step returns were tried on it before the defaults of ReptileDQN were chosen, so that it
        is a tuning task for them, whatever its role is for one-step returns
    :param blind: Whether it was added after ``half_life="auto"``, and its role fixed before anything but random actions
        was run on it
    :param drifts: Whether it changes during training
    :param conflicts: Whether no policy is good in all of its phases
    :param env: Id of the environment, registered by Gymnasium or ``sb3_reptile.envs``
    :param env_kwargs: Its arguments
    :param steps: Environment steps of a run
    :param settings: Arguments of the algorithm
    :param random_return: Mean return of random actions, which has the score 0; one for all phases, or one per phase.
        ``--random`` measures it
    :param reference_return: Return that has the score 1, in the same form: Gymnasium's ``reward_threshold`` unless a
        comment says otherwise
    :param seconds: Rough duration of a run, for ``--plan`` until there are records
    :param seeds: Runs of each method
    :param methods: Names of the methods that are run
    :param policy: Policy of the algorithm
    :param bins: Number of values per continuous action, for ``DiscreteActions``
    :param algorithm: SB3's DQN and ReptileDQN, or SB3's SAC or TD3 with our replay buffer
    :param regimes: Regimes of successive phases, from the start again after the last, for an oracle
    """

    about: str
    role: Role
    tried: bool = False
    blind: bool = False
    drifts: bool = False
    conflicts: bool = False
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int
    settings: dict[str, Any]
    random_return: Returns
    reference_return: Returns
    seconds: float
    seeds: int = 5
    methods: tuple[str, ...] = FEWER
    policy: str = "MlpPolicy"
    bins: int | None = None
    algorithm: Literal["DQN", "SAC", "TD3"] = "DQN"
    regimes: tuple[int, ...] = (0, 1)

    @property
    def volume(self) -> float:
        """Transitions replayed per environment step."""
        frequency, updates = self.settings["train_freq"], self.settings["gradient_steps"]
        return self.settings["batch_size"] * (1 if updates == -1 else updates / frequency)

    def scores(self, curve: list[float], changes: list[int]) -> list[float]:
        """
        Normalize a learning curve: 0 for random actions, 1 for the reference.

        :param curve: Returns at equal distances
        :param changes: First step, counted from 1, of each new phase
        :return: As many scores
        """
        last_steps = (np.arange(len(curve)) + 1) * self.steps // len(curve)
        phases = np.searchsorted(changes, last_steps, side="right")
        levels = map(np.atleast_1d, (self.random_return, self.reference_return))
        zero, one = (by_phase[phases % len(by_phase)] for by_phase in levels)
        return ((np.array(curve) - zero) / (one - zero)).tolist()


# Torch's Adam as one kernel: the same formulas, faster (benchmarks/results/training.md). The same for all methods
OPTIMIZER: dict[str, Any] = dict(fused=True)


def dqn(
    learning_rate: float,
    updates: tuple[int, int],
    target: int,
    exploration: tuple[float, float],
    layers: Sequence[int] = (256, 256),
    **others: Any,
) -> dict[str, Any]:
    """
    Settings of DQN.

    :param updates: Steps of a rollout, and updates after it
    :param target: Steps between two updates of the target network
    :param exploration: Fraction of the run until the rate of random actions is final, and that rate
    :param layers: Units of the network
    :param others: Other arguments, and those that differ from what most tasks have
    """
    return {
        **dict(learning_rate=learning_rate, batch_size=64, buffer_size=100_000, learning_starts=1_000, gamma=0.99),
        **dict(target_update_interval=target, train_freq=updates[0], gradient_steps=updates[1]),
        **dict(exploration_fraction=exploration[0], exploration_final_eps=exploration[1]),
        **dict(policy_kwargs=dict(net_arch=list(layers))),
        **others,
    }


# The RL Zoo's tuned values (rl_zoo3 2.9.2, hyperparams/dqn.yml)
CARTPOLE = dqn(2.3e-3, updates=(256, 128), target=10, exploration=(0.16, 0.04))
# The same for LunarLander-v3 and Acrobot-v1
LUNAR_LANDER = dqn(
    6.3e-4, updates=(4, -1), target=250, exploration=(0.12, 0.1), batch_size=128, buffer_size=50_000, learning_starts=0
)
MOUNTAIN_CAR = dqn(
    4e-3, updates=(16, 8), target=600, exploration=(0.2, 0.07), batch_size=128, buffer_size=10_000, gamma=0.98
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

# The RL Zoo's values for Pendulum-v1 (hyperparams/td3.yml), with the networks, buffer and start of learning above, and
# the standard deviation of the action noise, which is normal
TD3_PENDULUM: dict[str, Any] = {**SAC_PENDULUM, "gamma": 0.98, "action_noise": 0.1}

# As zoo_configs/reptile_dqn.yml, without Double DQN, which SB3's DQN does not have
ROOMS = dqn(5e-4, updates=(4, 1), target=500, exploration=(0.1, 0.05), layers=(128, 128), gamma=0.95)
RECOMMENDER = {**ROOMS, "learning_rate": 1e-3, "gamma": 0.5, "exploration_fraction": 0.05}

# Close to those of MinAtar's authors (arXiv:1903.03176), but an update every four steps, at a higher learning rate
MINATAR = dqn(
    1e-3,
    updates=(4, 1),
    target=1_000,
    exploration=(16_000 / 120_000, 0.05),
    batch_size=32,
    learning_starts=2_000,
    # A class of sb3_reptile.envs, by name, so that this file does not import torch
    policy_kwargs=dict(features_extractor_class="MinAtarCnn", net_arch=[]),
)

# As in zoo_configs/reptile_dqn.yml, for fewer steps
PENDULUM = dqn(
    1e-3,
    updates=(4, 4),
    target=1,
    exploration=(0.5, 0.02),
    layers=(128, 128),
    batch_size=128,
    buffer_size=50_000,
    gamma=0.98,
    tau=0.01,
)


def task(role: Role, about: str, env: str, returns: tuple[Returns, Returns], **others: Any) -> Task:
    """
    :param returns: Those of random actions, and those that have the score 1
    """
    return Task(role=role, about=about, env=env, random_return=returns[0], reference_return=returns[1], **others)


tuning, reporting = partial(task, "tuning"), partial(task, "reporting")
# A reporting task of Gymnasium's that does not drift, with the fewest methods
stationary = partial(reporting, methods=FEWEST)
# A reporting task whose phases conflict and on which nothing was tried before
blind = partial(reporting, blind=True, drifts=True, conflicts=True, methods=BLIND)


def reference_game(game: str, returns: tuple[float, float], methods: tuple[str, ...]) -> Task:
    """One game of MinAtar. Its results are the reference return of the task with both games."""
    return tuning(
        f"MinAtar's {game} alone",
        "DriftingMinAtar-v0",
        returns,
        env_kwargs=dict(period=30_000, games=[game]),
        steps=30_000,
        # As many steps of exploration as in the task with both games
        settings={**MINATAR, "exploration_fraction": 16_000 / 30_000},
        seconds=20,
        policy="CnnPolicy",
        methods=methods,
    )


def drifting(settings: dict[str, Any], steps: int, exploration: int, **others: Any) -> dict[str, Any]:
    """
    Steps, and a stationary task's settings for a version that drifts: a buffer that holds the whole run, as SB3's
    default would, and exploration that reaches its final rate long before the first change.

    :param exploration: Steps until the final rate
    """
    fixed = {"buffer_size": max(steps, 100_000), "exploration_fraction": exploration / steps}
    return {"steps": steps, "settings": {**settings, **fixed, **others}}


cartpole = partial(drifting, CARTPOLE, exploration=8_000)
lunar_lander = partial(drifting, LUNAR_LANDER, exploration=12_000, gradient_steps=2)

# Physics are given although they are the environments' defaults, so that they are part of a record's hash
POLE = {"length": [0.5, 2.0], "force_mag": [10.0, 5.0]}
WEATHER = {"gravity": [-10.0, -2.0], "wind_power": [0.0, 10.0], "turbulence_power": [0.0, 1.0]}
TASKS = {
    "cartpole-actions": tuning(
        "CartPole-v1 whose two actions swap every 15,000 steps",
        "DriftingCartPoleActions-v0",
        (22.3, 475.0),
        drifts=True,
        conflicts=True,
        env_kwargs=dict(period=15_000),
        **cartpole(steps=60_000),
        seeds=10,
        methods=ALL,
        seconds=60,
    ),
    "lunarlander-engines": tuning(
        "LunarLander-v3 whose side engines swap every 30,000 steps",
        "DriftingLunarLanderEngines-v0",
        (-188.9, 200.0),
        drifts=True,
        conflicts=True,
        env_kwargs=dict(period=30_000),
        **lunar_lander(steps=90_000),
        methods=choice(*FEWER, "exp-100", "exp-1000"),
        seconds=140,
    ),
    "pendulum": tuning(
        "Pendulum-v1 with five torques",
        "Pendulum-v1",
        (-1255.1, -200.0),
        steps=20_000,
        settings=PENDULUM,
        methods=CANDIDATES,
        seconds=30,
        bins=5,
    ),
    "pendulum-sac": tuning(
        "Pendulum-v1 under SAC",
        "Pendulum-v1",
        (-1158.7, -200.0),
        steps=8_000,
        settings=SAC_PENDULUM,
        methods=choice(*CANDIDATES, "exp-10000"),
        seconds=30,
        algorithm="SAC",
    ),
    "minatar-breakout": reference_game("breakout", (0.5, 3.6), CANDIDATES),
    "minatar-space_invaders": reference_game(
        "space_invaders", (2.8, 21.9), choice(*CANDIDATES, *(method.name for method in SMALLER.values()))
    ),
    "cartpole-physics": reporting(
        "CartPole-v1 whose pole length and force change every 15,000 steps",
        "DriftingCartPolePhysics-v0",
        (32.9, 475.0),
        tried=True,
        drifts=True,
        env_kwargs=dict(period=15_000, parameters=POLE),
        **cartpole(steps=60_000),
        seeds=10,
        seconds=60,
    ),
    "cartpole-gradual": reporting(
        "CartPole-v1 whose pole length and force move from one end to the other and back, 15,000 steps each way",
        "DriftingCartPolePhysics-v0",
        (39.2, 475.0),
        tried=True,
        drifts=True,
        env_kwargs=dict(period=15_000, kind="gradual", parameters=POLE),
        **cartpole(steps=60_000),
        seeds=10,
        # There are no phases that an oracle could know
        methods=tuple(method for method in FEWER if method not in ("prioritized", ORACLE.name)),
        seconds=35,
    ),
    "acrobot-masses": reporting(
        "Acrobot-v1 whose link masses change every 20,000 steps",
        "DriftingAcrobot-v0",
        (-449.8, -100.0),
        tried=True,
        drifts=True,
        env_kwargs=dict(period=20_000, parameters={"LINK_MASS_2": [1.0, 0.02]}),
        **lunar_lander(steps=80_000),
        seconds=100,
    ),
    "lunarlander-gravity": reporting(
        "LunarLander-v3 whose gravity and wind change every 30,000 steps",
        "DriftingLunarLander-v0",
        (-275.4, 200.0),
        drifts=True,
        env_kwargs=dict(period=30_000, parameters=WEATHER),
        **lunar_lander(steps=90_000),
        seconds=140,
    ),
    "minatar": reporting(
        "MinAtar's breakout and space_invaders in turn, 30,000 steps each",
        "DriftingMinAtar-v0",
        # The reference is SB3's DQN with these settings on each game alone: see reference_returns()
        ((0.5, 2.9), (3.6, 21.9)),
        drifts=True,
        env_kwargs=dict(period=30_000, games=["breakout", "space_invaders"]),
        steps=120_000,
        settings=MINATAR,
        seconds=200,
        policy="CnnPolicy",
    ),
    "pendulum-motor": reporting(
        "Pendulum-v1 under SAC, whose motor is reversed every 6,000 steps",
        "DriftingPendulum-v0",
        (-1256.6, -200.0),
        drifts=True,
        conflicts=True,
        env_kwargs=dict(period=6_000),
        steps=24_000,
        settings=SAC_PENDULUM,
        methods=tuple(method for method in FEWER if method != "prioritized"),  # SB3's SAC has none
        seconds=60,
        algorithm="SAC",
    ),
    **{
        name: stationary(env, env, returns, steps=steps, settings=settings, seconds=seconds, **others)
        for name, env, returns, steps, settings, seconds, others in [
            ("cartpole", "CartPole-v1", (22.3, 475.0), 50_000, CARTPOLE, 60, dict(seeds=10, tried=True)),
            ("acrobot", "Acrobot-v1", (-499.9, -100.0), 100_000, LUNAR_LANDER, 300, {}),
            ("mountaincar", "MountainCar-v0", (-200.0, -110.0), 120_000, MOUNTAIN_CAR, 200, {}),
            ("lunarlander", "LunarLander-v3", (-185.2, 200.0), 100_000, LUNAR_LANDER, 330, {}),
        ]
    },
    # ---- Blind: here, with their roles, before anything but random actions and crash tests of a few hundred steps was
    # run on them; phases have irregular lengths. The recommender and the rooms are applications, too, with other phases
    # and Double DQN. MinAtar's space_invaders and Pendulum were known with other changes, or none.
    "rooms": blind(
        "a robot whose goal moves to another of three rooms",
        "DriftingRooms-v0",
        # The reference is the shortest way to the goal, on average over all cells and directions
        (0.16, 0.92),
        env_kwargs=dict(period=[24_000, 14_000, 26_000, 16_000], parameters={"goal_room": [0, 3, 1]}),
        steps=80_000,
        settings=ROOMS,
        regimes=(0, 1, 2),
        seconds=60,
    ),
    "recommender": blind(
        "a recommender whose users' interests change",
        "DriftingRecommender-v0",
        # The reference is an oracle that shows each user the best item, where users have been shown random ones before
        ((6.9, 7.5), (39.9, 34.3)),
        env_kwargs=dict(period=[24_000, 16_000, 22_000, 18_000], parameters={"mood": [0.0, 1.0]}),
        steps=80_000,
        settings=RECOMMENDER,
        seconds=60,
    ),
    "pricing": blind(
        "prices for customers who begin to mind them, and to stay away at weekends",
        "DriftingPricing-v0",
        # The reference is the best price of each day, which no policy exceeds
        ((174.3, 102.9), (222.0, 157.6)),
        env_kwargs=dict(
            period=[20_000, 12_000, 18_000, 10_000], parameters={"elasticity": [0.6, 2.0], "weekend": [2.0, 0.7]}
        ),
        steps=60_000,
        settings=RECOMMENDER,
        seconds=50,
    ),
    "acrobot-torques": blind(
        "Acrobot-v1 whose torques are as usual, reversed or rotated",
        "DriftingPermutedActions-v0",
        (-498.9, -100.0),
        env_kwargs=dict(
            env="Acrobot-v1",
            period=[22_000, 14_000, 18_000, 10_000, 16_000],
            permutations=[[0, 1, 2], [2, 1, 0], [1, 2, 0]],
        ),
        **lunar_lander(steps=80_000),
        regimes=(0, 1, 2),
        seconds=100,
    ),
    "lunarlander-permuted": blind(
        "LunarLander-v3 whose engines are as usual, swapped at the sides, or all reversed",
        "DriftingPermutedActions-v0",
        (-185.5, 200.0),
        env_kwargs=dict(
            env="LunarLander-v3",
            period=[30_000, 18_000, 12_000, 24_000, 16_000],
            permutations=[[0, 1, 2, 3], [0, 3, 2, 1], [3, 2, 1, 0]],
        ),
        **lunar_lander(steps=100_000),
        regimes=(0, 1, 2),
        seconds=160,
    ),
    "minatar-permuted": blind(
        "MinAtar's space_invaders whose actions are reversed: waiting and firing, up and right, left and down",
        "DriftingPermutedActions-v0",
        # The reference is that of the task with two games
        (2.8, 21.9),
        env_kwargs=dict(
            env="DriftingMinAtar-v0",
            games=["space_invaders"],
            period=[40_000, 25_000, 30_000, 25_000],
            permutations=[[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]],
        ),
        steps=120_000,
        settings=MINATAR,
        seconds=200,
        policy="CnnPolicy",
    ),
    "pendulum-td3": blind(
        "Pendulum-v1 under TD3, whose motor is reversed",
        "DriftingPendulum-v0",
        (-1247.2, -200.0),
        env_kwargs=dict(period=[8_000, 5_000, 7_000, 4_000], factors=[1.0, -1.0]),
        steps=24_000,
        settings=TD3_PENDULUM,
        methods=BLIND_CONTINUOUS,
        seconds=60,
        algorithm="TD3",
    ),
    "cartpole-long": blind(
        "CartPole-v1 whose two actions swap eight times",
        "DriftingCartPoleActions-v0",
        (22.2, 475.0),
        env_kwargs=dict(period=[30_000, 15_000, 25_000, 20_000, 12_000, 28_000, 18_000, 22_000, 30_000]),
        **cartpole(steps=200_000),
        seconds=200,
    ),
    "lunarlander-long": blind(
        "LunarLander-v3 whose side engines swap eight times",
        "DriftingLunarLanderEngines-v0",
        (-183.9, 200.0),
        env_kwargs=dict(period=[32_000, 18_000, 26_000, 14_000, 22_000, 28_000, 16_000, 20_000, 24_000]),
        **lunar_lander(steps=200_000),
        seconds=310,
    ),
}

# The tasks with one game of MinAtar, in the order of the task with both
GAMES = ("minatar-breakout", "minatar-space_invaders")


def settings_with_volume(task: Task, volume: float | None) -> dict[str, Any]:
    """
    The task's settings with another replay volume: another number of updates per rollout, or longer rollouts if that
    number would be less than one.

    :param task: The task
    :param volume: Transitions replayed per environment step; None for that of the task
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
        raise ValueError(f"batches of {batch_size} every {frequency} steps cannot have a volume of {volume}")
    return {**task.settings, "train_freq": int(frequency), "gradient_steps": int(updates)}
