"""What is remembered and how much it counts: decays, samplers and the replay buffers that use them."""

from sb3_reptile.replay.auto import Change, Consistency
from sb3_reptile.replay.buffers import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedReplayBufferSamples,
    DecayedSampling,
    ReplayDiagnostics,
)
from sb3_reptile.replay.decay import Custom, EmphasizingRecent, Exponential, Linear, PowerLaw, Window

__all__ = [
    "Change",
    "Consistency",
    "Custom",
    "DecayedDictReplayBuffer",
    "DecayedHerReplayBuffer",
    "DecayedNStepReplayBuffer",
    "DecayedReplayBuffer",
    "DecayedReplayBufferSamples",
    "DecayedSampling",
    "EmphasizingRecent",
    "Exponential",
    "Linear",
    "PowerLaw",
    "ReplayDiagnostics",
    "Window",
]
