"""Parts of ``half_life="auto"``, which compares stored segments with the present and draws accordingly."""

from sb3_reptile.replay.auto.consistency import Change, Consistency
from sb3_reptile.replay.auto.features import Actions, Embedding, Transitions
from sb3_reptile.replay.auto.outcome_model import OutcomeModel
from sb3_reptile.replay.auto.segmented_sampler import SegmentedSampler
from sb3_reptile.replay.auto.segments import Segment, Segments
from sb3_reptile.replay.auto.settings import Settings

__all__ = [
    "Actions",
    "Change",
    "Consistency",
    "Embedding",
    "OutcomeModel",
    "Segment",
    "SegmentedSampler",
    "Segments",
    "Settings",
    "Transitions",
]
