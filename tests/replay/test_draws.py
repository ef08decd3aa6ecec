"""Several batches at once are those that would be drawn one after the other."""

import math

import numpy as np
import pytest

from tests.replay.test_distribution import DECAYS, add, make

OPTIONS = {
    **{name: arguments for name, (arguments, _) in DECAYS.items()},
    "ere": dict(decay={"ere": {"minimum": 3, "cycle": 4}}),
    "auto": dict(half_life="auto"),
    **{
        f"{name}, contradicted": dict(arguments, half_life="auto", uniform_fraction=0.2)
        for name, arguments in {
            "auto": {},
            "linear auto": dict(decay={"linear": {"horizon": 60, "floor": 0.2}}),
            "table auto": dict(decay=lambda ages: 1 / (1 + ages)),
            "ere auto": dict(decay={"ere": {"minimum": 3, "cycle": 4}}),
            "uniform auto": dict(decay={"exponential": {"half_life": math.inf}}),
        }.items()
    },
    "uniform fraction": dict(half_life=6, uniform_fraction=0.3),
    "combined": dict(half_life=6, combined=True),
    "importance weights": dict(half_life=6, beta=0.7),
    "loss weights": dict(half_life=6, weighting="loss"),
    "initial weights": dict(half_life=6, initial_weights="info"),
    "uniform loss weights": dict(half_life=math.inf, weighting="loss"),
}


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "memory-optimised"])
@pytest.mark.parametrize("name", OPTIONS)
def test_several_batches_at_once_are_those_drawn_one_by_one(name, kind, n_envs):
    found = []
    for at_once in (True, False):
        buffer = make(kind, n_envs, **OPTIONS[name])
        add(buffer, steps=35, start=0)
        distribution = buffer.distribution
        if "contradicted" in name:
            distribution.set_segments(np.array([0, 15, 25, 30]), np.array([0.9, 0.1, 0.4, 1.0]), 25)
        np.random.seed(1)
        if at_once:
            indices, weights = distribution.draws(5, 7)
        else:
            draws = [distribution.draw(7) for _ in range(5)]
            indices, weights = (np.concatenate(parts) for parts in zip(*draws, strict=True))
        found.append((indices, weights, distribution.drawn, np.random.rand()))
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours, theirs)
