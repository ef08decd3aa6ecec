"""Environments that change while the agent learns, and discrete actions for environments that have others."""

from sb3_reptile.envs.atari import DqnCnn
from sb3_reptile.envs.discrete_actions import DiscreteActions
from sb3_reptile.envs.drift import DriftingActions, DriftingPhysics, DriftingRewards, DriftWrapper, PermutedActions
from sb3_reptile.envs.episode_recorder import EpisodeRecorder
from sb3_reptile.envs.logged_recommender import DaysInTurn, LoggedRecommender
from sb3_reptile.envs.minatar import MinAtarCnn
from sb3_reptile.envs.ns_gym import NsGymTask
from sb3_reptile.envs.recommender import Recommender
from sb3_reptile.envs.tasks import TASKS

__all__ = [
    "TASKS",
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
    "Recommender",
]
