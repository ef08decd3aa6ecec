"""Decays, sampling distributions and replay buffers."""

from sb3_reptile.replay.age_samplers import AgeSampler
from sb3_reptile.replay.auto import Change, Consistency
from sb3_reptile.replay.buffers import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay.decay import (
    Custom,
    Decay,
    EmphasizingRecent,
    Exponential,
    Linear,
    PowerLaw,
    Window,
    register_decay,
)
from sb3_reptile.replay.decayed_sampling import (
    DecayedDictReplayBufferSamples,
    DecayedReplayBufferSamples,
    DecayedSampling,
)
from sb3_reptile.replay.diagnostics import ReplayDiagnostics
from sb3_reptile.replay.distribution import SamplingDistribution
from sb3_reptile.replay.former_pickles import alias_former_modules
from sb3_reptile.replay.hindsight import DecayedHerReplayBuffer
from sb3_reptile.replay.taking_over import take_transitions
from sb3_reptile.replay.weight_users import use_weights

alias_former_modules()

__all__ = [
    "AgeSampler",
    "Change",
    "Consistency",
    "Custom",
    "Decay",
    "DecayedDictReplayBuffer",
    "DecayedDictReplayBufferSamples",
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
    "SamplingDistribution",
    "Window",
    "register_decay",
    "take_transitions",
    "use_weights",
]
