"""Names that pickles of former versions look up in one module; they live in two now."""

from sb3_reptile.replay.age_samplers import (
    AgeSampler,
    EmphasizingRecentSampler,
    GeometricSampler,
    LinearSampler,
    TableSampler,
    WindowSampler,
    make_age_sampler,
)
from sb3_reptile.replay.weighted_sampler import WeightedSampler

__all__ = [
    "AgeSampler",
    "EmphasizingRecentSampler",
    "GeometricSampler",
    "LinearSampler",
    "TableSampler",
    "WeightedSampler",
    "WindowSampler",
    "make_age_sampler",
]
