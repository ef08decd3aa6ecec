"""Environments that change while the agent learns."""

from sb3_reptile.envs.drift import PermutedActions

__all__ = ["PermutedActions"]
