"""What is remembered and how much it counts: decays, samplers and the replay buffers that use them."""

from sb3_reptile.replay.buffers import (
    DecayedDictReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedSampling,
)
from sb3_reptile.replay.decay import Exponential

__all__ = [
    "DecayedDictReplayBuffer",
    "DecayedNStepReplayBuffer",
    "DecayedReplayBuffer",
    "DecayedSampling",
    "Exponential",
]
