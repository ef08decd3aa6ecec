"""Buffers of every kind that is saved, and what two of them have to have in common."""

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_reptile import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay import use_weights
from tests.conftest import NO_TIMEOUTS

DICT = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,))})
PRIORITIZED = dict(prioritized=True, beta=0.5)
CASES = {
    "plain": (DecayedReplayBuffer, dict(half_life=7.5, uniform_fraction=0.2)),
    "uniform": (DecayedReplayBuffer, dict(half_life=float("inf"))),
    "ere": (DecayedReplayBuffer, dict(decay={"ere": dict(minimum=4, cycle=5)}, combined=True)),
    "priorities": (DecayedReplayBuffer, dict(half_life=9, **PRIORITIZED)),
    "priorities, half-life below a row": (DecayedReplayBuffer, dict(half_life=0.3, **PRIORITIZED)),
    "priorities, power law": (DecayedReplayBuffer, dict(decay="power_law", uniform_fraction=0.1, **PRIORITIZED)),
    "random weights": (DecayedReplayBuffer, dict(initial_weights={"random": dict(seed=3)}, **PRIORITIZED)),
    "memory optimised": (DecayedReplayBuffer, dict(optimize_memory_usage=True, **NO_TIMEOUTS, **PRIORITIZED)),
    "in the loss": (DecayedReplayBuffer, dict(weighting="loss", decay={"linear": dict(horizon=30)})),
    "dict": (DecayedDictReplayBuffer, dict(space=DICT, **PRIORITIZED)),
    "n-step": (DecayedNStepReplayBuffer, dict(n_steps=3, gamma=0.9)),
}


def draw(buffer, size=64):
    use_weights(buffer)
    return buffer.sample(size)


def assert_same_batches(one, other):
    for ours, theirs in zip(one, other, strict=True):
        if isinstance(ours, dict):
            assert_same_batches(ours.values(), theirs.values())
        elif ours is not None:
            equal = th.equal if isinstance(ours, th.Tensor) else np.array_equal
            assert equal(ours, theirs)


def prioritize(buffer, batch):
    if buffer.prioritized:
        buffer.update_priorities(batch.indices, 0.5 + np.random.random(len(batch.indices)))
