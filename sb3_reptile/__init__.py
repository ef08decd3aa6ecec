"""The public API of sb3-reptile: decayed experience replay for Stable-Baselines3."""

from importlib.metadata import version

from sb3_reptile.evaluation.comparing import compare
from sb3_reptile.replay import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedSampling,
)
from sb3_reptile.reptile_dqn import ReptileDQN

__version__ = version("sb3-reptile")

__all__ = [
    "DecayedDictReplayBuffer",
    "DecayedHerReplayBuffer",
    "DecayedNStepReplayBuffer",
    "DecayedReplayBuffer",
    "DecayedSampling",
    "ReptileDQN",
    "__version__",
    "compare",
]
