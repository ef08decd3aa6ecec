"""Environments that drift while the agent learns, and discrete actions for environments with continuous ones."""

from typing import Any

# Hyperparameter files name the two networks here; they are in sb3_reptile.networks
from sb3_reptile.envs.atari import DqnCnn
from sb3_reptile.envs.clicks import Clicks
from sb3_reptile.envs.discrete_actions import DiscreteActions
from sb3_reptile.envs.drift import DriftingActions, DriftingPhysics, DriftingRewards, DriftWrapper, PermutedActions
from sb3_reptile.envs.logged_recommender import DaysInTurn, LoggedRecommender
from sb3_reptile.envs.minatar import MinAtarCnn
from sb3_reptile.envs.ns_gym import NsGymTask
from sb3_reptile.envs.pricing import Pricing
from sb3_reptile.envs.queue import Queue
from sb3_reptile.envs.recommender import Recommender
from sb3_reptile.envs.tasks import STATIONARY_TASKS, TASKS

__all__ = [
    "STATIONARY_TASKS",
    "TASKS",
    "Clicks",
    "DaysInTurn",
    "DiscreteActions",
    "DqnCnn",
    "DriftWrapper",
    "DriftingActions",
    "DriftingPhysics",
    "DriftingRewards",
    "EpisodeRecorder",
    "LoggedRecommender",
    "MinAtarCnn",
    "NsGymTask",
    "PermutedActions",
    "Pricing",
    "Queue",
    "Recommender",
]


def __getattr__(name: str) -> Any:
    # The former place of EpisodeRecorder. sb3_reptile.checkpoint imports this package: the import is deferred so that
    # this package does not import sb3_reptile.checkpoint in turn.
    if name == "EpisodeRecorder":
        from sb3_reptile.checkpoint import EpisodeRecorder

        return EpisodeRecorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
