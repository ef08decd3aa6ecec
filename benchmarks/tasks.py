"""The tasks of `benchmarks/learning.py` as data: environments, steps, settings and methods."""

from dataclasses import dataclass, field
from typing import Any, Literal

from methods import ALL, BLIND, BLIND_CONTINUOUS, CANDIDATES, FEWER, FEWEST, ORACLE, SMALLER, choice


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    A task and the settings for it.

    :param about: Description for the report
    :param role: Whether defaults are chosen on it (tuning) or only measured (reporting); decided before any reporting
        run
    :param tried: Whether multi-step returns were tried on it before the defaults of ReptileDQN were chosen, so that it
        is a tuning task for them, whatever its role is for one-step returns
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
    role: Literal["tuning", "reporting"]
    tried: bool = False
    drifts: bool = False
    conflicts: bool = False
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int
    settings: dict[str, Any]
    random_return: float | tuple[float, ...]
    reference_return: float | tuple[float, ...]
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

        def in_phase(returns: float | tuple[float, ...], phase: int) -> float:
            return returns[phase % len(returns)] if isinstance(returns, tuple) else returns

        scores = []
        for number, value in enumerate(curve):
            last_step = (number + 1) * self.steps // len(curve)
            phase = sum(step <= last_step for step in changes)
            zero, one = in_phase(self.random_return, phase), in_phase(self.reference_return, phase)
            scores.append((value - zero) / (one - zero))
        return scores


# Torch's Adam as one kernel: the same formulas, faster (benchmarks/results/training.md). The same for all methods
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

# The RL Zoo's values for Pendulum-v1 (hyperparams/td3.yml), with the networks, buffer and start of learning above, and
# the standard deviation of the action noise, which is normal
TD3_PENDULUM: dict[str, Any] = {**SAC_PENDULUM, "gamma": 0.98, "action_noise": 0.1}

# As zoo_configs/reptile_dqn.yml, without Double DQN, which SB3's DQN does not have
ROOMS: dict[str, Any] = dict(
    learning_rate=5e-4,
    batch_size=64,
    buffer_size=100_000,
    learning_starts=1_000,
    gamma=0.95,
    target_update_interval=500,
    train_freq=4,
    gradient_steps=1,
    exploration_fraction=0.1,
    exploration_final_eps=0.05,
    policy_kwargs=dict(net_arch=[128, 128]),
)
RECOMMENDER: dict[str, Any] = {**ROOMS, "learning_rate": 1e-3, "gamma": 0.5, "exploration_fraction": 0.05}

# Close to those of MinAtar's authors (arXiv:1903.03176), but an update every four steps, at a higher learning rate
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
    # A class of sb3_reptile.envs, by name, so that this file does not import torch
    policy_kwargs=dict(features_extractor_class="MinAtarCnn", net_arch=[]),
)

# As in zoo_configs/reptile_dqn.yml, for fewer steps
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
    """One game of MinAtar. Its results are the reference return of the task with both games."""
    return Task(
        about=f"MinAtar's {game} alone",
        role="tuning",
        env="DriftingMinAtar-v0",
        env_kwargs=dict(period=30_000, games=[game]),
        steps=30_000,
        # As many steps of exploration as in the task with both games
        settings={**MINATAR, "exploration_fraction": 16_000 / 30_000},
        random_return=random_return,
        reference_return=reference_return,
        seconds=20,
        policy="CnnPolicy",
        **others,
    )


def drifting(settings: dict[str, Any], exploration: float, **others: Any) -> dict[str, Any]:
    """
    A stationary task's settings for a version that drifts: a buffer that holds the whole run, as SB3's default would,
    and exploration that reaches its final rate long before the first change.
    """
    return {**settings, "buffer_size": 100_000, "exploration_fraction": exploration, **others}


def stationary(
    env: str, steps: int, settings: dict[str, Any], random_return: float, reference_return: float, **others: Any
) -> Task:
    """A reporting task of Gymnasium's that does not drift, with the fewest methods."""
    returns: dict[str, Any] = dict(random_return=random_return, reference_return=reference_return)
    return Task(
        about=env, role="reporting", env=env, steps=steps, settings=settings, methods=FEWEST, **returns, **others
    )


def blind(**others: Any) -> Task:
    """A reporting task whose phases conflict and on which nothing was tried before."""
    return Task(**{"role": "reporting", "drifts": True, "conflicts": True, "methods": BLIND, **others})


# Physics are given although they are the environments' defaults, so that they are part of a record's hash
TASKS = {
    "cartpole-actions": Task(
        about="CartPole-v1 whose two actions swap every 15,000 steps",
        role="tuning",
        drifts=True,
        conflicts=True,
        env="DriftingCartPoleActions-v0",
        env_kwargs=dict(period=15_000),
        steps=60_000,
        settings=drifting(CARTPOLE, exploration=8_000 / 60_000),
        random_return=22.3,
        reference_return=475.0,
        seeds=10,
        methods=ALL,
        seconds=60,
    ),
    "lunarlander-engines": Task(
        about="LunarLander-v3 whose side engines swap every 30,000 steps",
        role="tuning",
        drifts=True,
        conflicts=True,
        env="DriftingLunarLanderEngines-v0",
        env_kwargs=dict(period=30_000),
        steps=90_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 90_000, gradient_steps=2),
        random_return=-188.9,
        reference_return=200.0,
        methods=choice(*FEWER, "exp-100", "exp-1000"),
        seconds=140,
    ),
    "pendulum": Task(
        about="Pendulum-v1 with five torques",
        role="tuning",
        env="Pendulum-v1",
        steps=20_000,
        settings=PENDULUM,
        random_return=-1255.1,
        reference_return=-200.0,
        methods=CANDIDATES,
        seconds=30,
        bins=5,
    ),
    "pendulum-sac": Task(
        about="Pendulum-v1 under SAC",
        role="tuning",
        env="Pendulum-v1",
        steps=8_000,
        settings=SAC_PENDULUM,
        random_return=-1158.7,
        reference_return=-200.0,
        methods=choice(*CANDIDATES, "exp-10000"),
        seconds=30,
        algorithm="SAC",
    ),
    "minatar-breakout": reference_game("breakout", 0.5, 3.6, methods=CANDIDATES),
    "minatar-space_invaders": reference_game(
        "space_invaders", 2.8, 21.9, methods=choice(*CANDIDATES, *(method.name for method in SMALLER.values())), seeds=5
    ),
    "cartpole-physics": Task(
        about="CartPole-v1 whose pole length and force change every 15,000 steps",
        role="reporting",
        tried=True,
        drifts=True,
        env="DriftingCartPolePhysics-v0",
        env_kwargs=dict(period=15_000, parameters={"length": [0.5, 2.0], "force_mag": [10.0, 5.0]}),
        steps=60_000,
        settings=drifting(CARTPOLE, exploration=8_000 / 60_000),
        random_return=32.9,
        reference_return=475.0,
        seeds=10,
        seconds=60,
    ),
    "cartpole-gradual": Task(
        about="CartPole-v1 whose pole length and force move from one end to the other and back, 15,000 steps each way",
        role="reporting",
        tried=True,
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
        # There are no phases that an oracle could know
        methods=tuple(method for method in FEWER if method not in ("prioritized", ORACLE.name)),
        seconds=35,
    ),
    "acrobot-masses": Task(
        about="Acrobot-v1 whose link masses change every 20,000 steps",
        role="reporting",
        tried=True,
        drifts=True,
        env="DriftingAcrobot-v0",
        env_kwargs=dict(period=20_000, parameters={"LINK_MASS_2": [1.0, 0.02]}),
        steps=80_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 80_000, gradient_steps=2),
        random_return=-449.8,
        reference_return=-100.0,
        seconds=100,
    ),
    "lunarlander-gravity": Task(
        about="LunarLander-v3 whose gravity and wind change every 30,000 steps",
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
        seconds=140,
    ),
    "minatar": Task(
        about="MinAtar's breakout and space_invaders in turn, 30,000 steps each",
        role="reporting",
        drifts=True,
        env="DriftingMinAtar-v0",
        env_kwargs=dict(period=30_000, games=["breakout", "space_invaders"]),
        steps=120_000,
        settings=MINATAR,
        random_return=(0.5, 2.9),
        # SB3's DQN with these settings on each game alone: see reference_returns()
        reference_return=(3.6, 21.9),
        seconds=200,
        policy="CnnPolicy",
    ),
    "pendulum-motor": Task(
        about="Pendulum-v1 under SAC, whose motor is reversed every 6,000 steps",
        role="reporting",
        drifts=True,
        conflicts=True,
        env="DriftingPendulum-v0",
        env_kwargs=dict(period=6_000),
        steps=24_000,
        settings=SAC_PENDULUM,
        random_return=-1256.6,
        reference_return=-200.0,
        methods=tuple(method for method in FEWER if method != "prioritized"),  # SB3's SAC has none
        seconds=60,
        algorithm="SAC",
    ),
    "cartpole": stationary("CartPole-v1", 50_000, CARTPOLE, 22.3, 475.0, seconds=60, seeds=10, tried=True),
    "acrobot": stationary("Acrobot-v1", 100_000, LUNAR_LANDER, -499.9, -100.0, seconds=300),
    "mountaincar": stationary("MountainCar-v0", 120_000, MOUNTAIN_CAR, -200.0, -110.0, seconds=200),
    "lunarlander": stationary("LunarLander-v3", 100_000, LUNAR_LANDER, -185.2, 200.0, seconds=330),
    # ---- Blind: here, with their roles, before anything but random actions and crash tests of a few hundred steps was
    # run on them; phases have irregular lengths. The recommender and the rooms are applications, too, with other phases
    # and Double DQN. MinAtar's space_invaders and Pendulum were known with other changes, or none.
    "rooms": blind(
        about="a robot whose goal moves to another of three rooms",
        env="DriftingRooms-v0",
        env_kwargs=dict(period=[24_000, 14_000, 26_000, 16_000], parameters={"goal_room": [0, 3, 1]}),
        steps=80_000,
        settings=ROOMS,
        random_return=0.16,
        # The shortest way to the goal, on average over all cells and directions
        reference_return=0.92,
        regimes=(0, 1, 2),
        seconds=60,
    ),
    "recommender": blind(
        about="a recommender whose users' interests change",
        env="DriftingRecommender-v0",
        env_kwargs=dict(period=[24_000, 16_000, 22_000, 18_000], parameters={"mood": [0.0, 1.0]}),
        steps=80_000,
        settings=RECOMMENDER,
        random_return=(6.9, 7.5),
        # An oracle that shows each user the best item, where users have been shown random ones before
        reference_return=(39.9, 34.3),
        seconds=60,
    ),
    "pricing": blind(
        about="prices for customers who begin to mind them, and to stay away at weekends",
        env="DriftingPricing-v0",
        env_kwargs=dict(
            period=[20_000, 12_000, 18_000, 10_000], parameters={"elasticity": [0.6, 2.0], "weekend": [2.0, 0.7]}
        ),
        steps=60_000,
        settings=RECOMMENDER,
        random_return=(174.3, 102.9),
        # The best price of each day, which no policy exceeds
        reference_return=(222.0, 157.6),
        seconds=50,
    ),
    "acrobot-torques": blind(
        about="Acrobot-v1 whose torques are as usual, reversed or rotated",
        env="DriftingPermutedActions-v0",
        env_kwargs=dict(
            env="Acrobot-v1",
            period=[22_000, 14_000, 18_000, 10_000, 16_000],
            permutations=[[0, 1, 2], [2, 1, 0], [1, 2, 0]],
        ),
        steps=80_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 80_000, gradient_steps=2),
        random_return=-498.9,
        reference_return=-100.0,
        regimes=(0, 1, 2),
        seconds=100,
    ),
    "lunarlander-permuted": blind(
        about="LunarLander-v3 whose engines are as usual, swapped at the sides, or all reversed",
        env="DriftingPermutedActions-v0",
        env_kwargs=dict(
            env="LunarLander-v3",
            period=[30_000, 18_000, 12_000, 24_000, 16_000],
            permutations=[[0, 1, 2, 3], [0, 3, 2, 1], [3, 2, 1, 0]],
        ),
        steps=100_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 100_000, gradient_steps=2),
        random_return=-185.5,
        reference_return=200.0,
        regimes=(0, 1, 2),
        seconds=160,
    ),
    "minatar-permuted": blind(
        about="MinAtar's space_invaders whose actions are reversed: waiting and firing, up and right, left and down",
        env="DriftingPermutedActions-v0",
        env_kwargs=dict(
            env="DriftingMinAtar-v0",
            games=["space_invaders"],
            period=[40_000, 25_000, 30_000, 25_000],
            permutations=[[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]],
        ),
        steps=120_000,
        settings=MINATAR,
        random_return=2.8,
        # As that of the task with two games
        reference_return=21.9,
        seconds=200,
        policy="CnnPolicy",
    ),
    "pendulum-td3": blind(
        about="Pendulum-v1 under TD3, whose motor is reversed",
        env="DriftingPendulum-v0",
        env_kwargs=dict(period=[8_000, 5_000, 7_000, 4_000], factors=[1.0, -1.0]),
        steps=24_000,
        settings=TD3_PENDULUM,
        random_return=-1247.2,
        reference_return=-200.0,
        methods=BLIND_CONTINUOUS,
        seconds=60,
        algorithm="TD3",
    ),
    "cartpole-long": blind(
        about="CartPole-v1 whose two actions swap eight times",
        env="DriftingCartPoleActions-v0",
        env_kwargs=dict(period=[30_000, 15_000, 25_000, 20_000, 12_000, 28_000, 18_000, 22_000, 30_000]),
        steps=200_000,
        settings=drifting(CARTPOLE, exploration=8_000 / 200_000, buffer_size=200_000),
        random_return=22.2,
        reference_return=475.0,
        seconds=200,
    ),
    "lunarlander-long": blind(
        about="LunarLander-v3 whose side engines swap eight times",
        env="DriftingLunarLanderEngines-v0",
        env_kwargs=dict(period=[32_000, 18_000, 26_000, 14_000, 22_000, 28_000, 16_000, 20_000, 24_000]),
        steps=200_000,
        settings=drifting(LUNAR_LANDER, exploration=12_000 / 200_000, gradient_steps=2, buffer_size=200_000),
        random_return=-183.9,
        reference_return=200.0,
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
