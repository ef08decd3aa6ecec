"""Environments that change while the agent learns, and discrete actions for environments that have others."""

from sb3_reptile.envs.discrete_actions import DiscreteActions
from sb3_reptile.envs.drift import PermutedActions

__all__ = ["DiscreteActions", "PermutedActions"]
