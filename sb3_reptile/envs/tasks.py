"""
The drifting tasks, registered with Gymnasium: well-known environments and the values that drift in them.

``period``, ``kind`` and ``recurring`` are arguments of ``DriftWrapper``, ``parameters`` is one of ``DriftingPhysics``;
all other arguments are passed to the environment.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, PendulumEnv

from sb3_reptile.envs.clicks import Clicks
from sb3_reptile.envs.drift import DriftingActions, DriftingPhysics, Kind, Period, PermutedActions
from sb3_reptile.envs.logged_recommender import DaysInTurn, LoggedRecommender
from sb3_reptile.envs.minatar import GAMES, GamesInTurn, MinAtarGames
from sb3_reptile.envs.ns_gym import NsGymTask
from sb3_reptile.envs.pricing import Pricing
from sb3_reptile.envs.queue import STEPS_OF_DAY, Queue
from sb3_reptile.envs.recommender import Recommender

Parameters = Mapping[str, Sequence[float]]

CARTPOLE: Parameters = {"length": [0.5, 2.0], "force_mag": [10.0, 5.0]}
ACROBOT: Parameters = {"LINK_MASS_2": [1.0, 0.02]}
LUNAR_LANDER: Parameters = {"gravity": [-10.0, -2.0], "wind_power": [0.0, 10.0], "turbulence_power": [0.0, 1.0]}
MOODS: Parameters = {"mood": [0.0, 1.0]}
CUSTOMERS: Parameters = {"elasticity": [0.6, 2.0], "weekend": [2.0, 0.7]}
FASHIONS: Parameters = {"fashion": [0.0, 1.0]}
BUSINESS: Parameters = {"arrivals": [4.0, 7.0], "service": [4.0, 2.0]}
GOALS: Parameters = {"goal_room": [0, 3]}
TRAFFIC: Parameters = {"density": [1.0, 1.5]}
SIDE_ENGINES_SWAPPED = [[0, 1, 2, 3], [0, 3, 2, 1]]
CARTPOLE_WALK = {"length": {"mu": 0.0, "sigma": 0.1, "lo": 0.25, "hi": 2.0}}


def cartpole_actions(
    period: Period = 15_000, kind: Kind = "abrupt", recurring: bool = True, **env_kwargs: Any
) -> PermutedActions:
    """CartPole in which the two actions swap."""
    return PermutedActions(CartPoleEnv(**env_kwargs), period, kind=kind, recurring=recurring)


def permuted_actions(
    env: str = "CartPole-v1",
    period: Period = 15_000,
    permutations: Sequence[Sequence[int]] | None = None,
    kind: Kind = "abrupt",
    recurring: bool = True,
    **env_kwargs: Any,
) -> PermutedActions:
    """
    Any registered environment with discrete actions, which change their meaning.

    :param env: Its id
    :param period: As in ``PermutedActions``, like ``permutations``, ``kind`` and ``recurring``
    """
    # What is made of it is checked again
    inside = gym.make(env, disable_env_checker=True, **env_kwargs)
    return PermutedActions(inside, period, permutations, kind, recurring)


def cartpole_physics(
    period: Period = 15_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = CARTPOLE,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """CartPole in which the pole becomes four times as long and the force halves."""
    return DriftingPhysics(CartPoleEnv(**env_kwargs), parameters, period, kind, recurring)


def acrobot(
    period: Period = 20_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = ACROBOT,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """Acrobot whose second link becomes 50 times lighter."""
    return DriftingPhysics(AcrobotEnv(**env_kwargs), parameters, period, kind, recurring)


def pendulum(
    period: Period = 10_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    factors: Sequence[float] = (1.0, -1.0),
    **env_kwargs: Any,
) -> DriftingActions:
    """Pendulum, which has continuous actions, with a motor that starts to turn backwards."""
    return DriftingActions(PendulumEnv(**env_kwargs), factors, period, kind, recurring)


def lunar_lander(
    period: Period = 30_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = LUNAR_LANDER,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """
    LunarLander in which gravity decreases and wind sets in (extra ``box2d``).

    :raises ImportError: without the extra ``box2d``
    """
    # The environment draws the wind of an episode in `reset`: wind must be enabled in calm phases too
    env = _lunar_lander("DriftingLunarLander-v0", enable_wind=True, **env_kwargs)
    return DriftingPhysics(env, parameters, period, kind, recurring)


def lunar_lander_engines(
    period: Period = 30_000, kind: Kind = "abrupt", recurring: bool = True, **env_kwargs: Any
) -> PermutedActions:
    """
    LunarLander in which the side engines swap (extra ``box2d``).

    :raises ImportError: without the extra ``box2d``
    """
    env = _lunar_lander("DriftingLunarLanderEngines-v0", **env_kwargs)
    return PermutedActions(env, period, SIDE_ENGINES_SWAPPED, kind, recurring)


def _lunar_lander(task: str, **env_kwargs: Any) -> gym.Env:
    try:
        from gymnasium.envs.box2d.lunar_lander import LunarLander
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise ImportError(f"{task} needs the extra `box2d`: pip install 'sb3-reptile[box2d]'") from error
    return LunarLander(**env_kwargs)


def cartpole_walk(
    period: int = 500, walks: Mapping[str, Mapping[str, float]] = CARTPOLE_WALK, **env_kwargs: Any
) -> NsGymTask:
    """
    CartPole in which the length of the pole follows a random walk, in ns_gym's wrapper (extra ``drift``).

    :param period: Steps between two changes, over all episodes
    :param walks: For each parameter the arguments of ns_gym's ``BoundedRandomWalk``
    :raises ImportError: without the extra ``drift``
    """
    try:
        from ns_gym.schedulers import PeriodicScheduler
        from ns_gym.update_functions import BoundedRandomWalk
        from ns_gym.wrappers import NSClassicControlWrapper
    except ImportError as error:
        raise ImportError(
            "DriftingCartPoleWalk-v0 needs the extra `drift`: pip install 'sb3-reptile[drift]'"
        ) from error
    changes = {name: BoundedRandomWalk(PeriodicScheduler(period, start=1), **walk) for name, walk in walks.items()}
    return NsGymTask(NSClassicControlWrapper(CartPoleEnv(**env_kwargs), changes))


def recommender(
    period: Period = 20_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = MOODS,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """A recommender whose users' interests drift between two sets of interests."""
    return DriftingPhysics(Recommender(**env_kwargs), parameters, period, kind, recurring)


def pricing(
    period: Period = 15_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = CUSTOMERS,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """A shop whose customers begin to mind the price, and to stay away at weekends."""
    return DriftingPhysics(Pricing(**env_kwargs), parameters, period, kind, recurring)


def clicks(
    period: Period = 15_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = FASHIONS,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """Visitors who begin to like other advertisements."""
    return DriftingPhysics(Clicks(**env_kwargs), parameters, period, kind, recurring)


def queue(
    period: Period = 15_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = BUSINESS,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """A service desk to which more customers come, who take longer."""
    return DriftingPhysics(Queue(**env_kwargs), parameters, period, kind, recurring)


def fashion_shop(period: Period = 10_000, **env_kwargs: Any) -> DaysInTurn:
    """
    A fashion shop's log of a week, one day per phase (extra ``logs``).

    :raises ImportError: without the extra ``logs``
    """
    return DaysInTurn(LoggedRecommender(**env_kwargs), period)


def rooms(
    period: Period = 20_000, recurring: bool = True, parameters: Parameters = GOALS, **env_kwargs: Any
) -> DriftingPhysics:
    """
    A robot whose goal moves to another room (extra ``minigrid``).

    :raises ImportError: without the extra ``minigrid``
    """
    try:
        from sb3_reptile.envs.rooms import RobotView, Rooms
    except ImportError as error:
        raise ImportError("DriftingRooms-v0 needs the extra `minigrid`: pip install 'sb3-reptile[minigrid]'") from error
    return DriftingPhysics(RobotView(Rooms(**env_kwargs)), parameters, period, recurring=recurring)


def highway(
    period: Period = 5_000,
    kind: Kind = "abrupt",
    recurring: bool = True,
    parameters: Parameters = TRAFFIC,
    **env_kwargs: Any,
) -> DriftingPhysics:
    """
    A motorway whose traffic becomes denser (extra ``highway``).

    :raises ImportError: without the extra ``highway``
    """
    try:
        from sb3_reptile.envs.highway import Highway
    except ImportError as error:
        raise ImportError("DriftingHighway-v0 needs the extra `highway`: pip install 'sb3-reptile[highway]'") from error
    return DriftingPhysics(Highway(**env_kwargs), parameters, period, kind, recurring)


def minatar(
    period: Period = 100_000, recurring: bool = True, games: Sequence[str] = GAMES, **env_kwargs: Any
) -> GamesInTurn:
    """
    MinAtar's games, one per phase (extra ``minatar``). With one game there is no drift.

    :param games: The games, in order
    :raises ImportError: without the extra ``minatar``
    """
    return GamesInTurn(MinAtarGames(games, **env_kwargs), period, recurring)


# For each task, the function that makes it and its time limit, that of the environment without drift
TASKS: dict[str, tuple[Callable[..., gym.Env], int | None]] = {
    "DriftingCartPoleActions-v0": (cartpole_actions, 500),
    "DriftingCartPolePhysics-v0": (cartpole_physics, 500),
    "DriftingCartPoleWalk-v0": (cartpole_walk, 500),
    "DriftingAcrobot-v0": (acrobot, 500),
    "DriftingLunarLander-v0": (lunar_lander, 1000),
    "DriftingLunarLanderEngines-v0": (lunar_lander_engines, 1000),
    "DriftingPendulum-v0": (pendulum, 200),
    "DriftingRecommender-v0": (recommender, 50),
    "DriftingFashionShop-v0": (fashion_shop, 50),
    # Four weeks
    "DriftingPricing-v0": (pricing, 28),
    "DriftingClicks-v0": (clicks, 50),
    # A day
    "DriftingQueue-v0": (queue, STEPS_OF_DAY),
    "DriftingMinAtar-v0": (minatar, None),
    # These have time limits of their own
    "DriftingPermutedActions-v0": (permuted_actions, None),
    "DriftingRooms-v0": (rooms, None),
    "DriftingHighway-v0": (highway, None),
}

# Noisy tasks without drift, which the package defines itself
STATIONARY_TASKS: dict[str, tuple[type[gym.Env], int]] = {
    "Pricing-v0": (Pricing, 28),
    "Clicks-v0": (Clicks, 50),
    "Queue-v0": (Queue, STEPS_OF_DAY),
}

for _name, (_make, _max_episode_steps) in TASKS.items():
    gym.register(_name, f"{__name__}:{_make.__name__}", max_episode_steps=_max_episode_steps)
for _name, (_class, _max_episode_steps) in STATIONARY_TASKS.items():
    gym.register(_name, f"{_class.__module__}:{_class.__name__}", max_episode_steps=_max_episode_steps)
