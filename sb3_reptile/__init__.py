"""The public API of sb3-reptile: decayed experience replay for Stable-Baselines3."""

from importlib.metadata import version

from sb3_reptile.callbacks import (
    DriftEvalCallback,
    HalfLifeSchedule,
    OnChange,
    ReExplore,
    ReplayFigures,
    ReplayLog,
)
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.envs import DiscreteActions
from sb3_reptile.replay import (
    Custom,
    Decay,
    DecayedDictReplayBuffer,
    DecayedDictReplayBufferSamples,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedReplayBufferSamples,
    DecayedSampling,
    EmphasizingRecent,
    Exponential,
    Linear,
    PowerLaw,
    SamplingDistribution,
    Window,
    register_decay,
    take_transitions,
)
from sb3_reptile.reptile_dqn import ReptileDQN, WholeEpisodes

__version__ = version("sb3-reptile")

__all__ = [
    "Custom",
    "Decay",
    "DecayedDictReplayBuffer",
    "DecayedDictReplayBufferSamples",
    "DecayedHerReplayBuffer",
    "DecayedNStepReplayBuffer",
    "DecayedReplayBuffer",
    "DecayedReplayBufferSamples",
    "DecayedSampling",
    "DiscreteActions",
    "DriftEvalCallback",
    "EmphasizingRecent",
    "Exponential",
    "HalfLifeSchedule",
    "Linear",
    "OnChange",
    "PowerLaw",
    "ReExplore",
    "ReplayFigures",
    "ReplayLog",
    "ReptileDQN",
    "ResumableCheckpoint",
    "SamplingDistribution",
    "WholeEpisodes",
    "Window",
    "__version__",
    "register_decay",
    "resume",
    "take_transitions",
]
