"""Neighbours keeps the present and the samples as the model places them, without placing all of them again."""

import numpy as np
import pytest

from sb3_reptile.replay.auto.neighbours import Neighbours
from tests.replay.auto.test_consistency import World, live, make_buffer


@pytest.mark.parametrize("n_envs", [1, 8])
def test_what_was_added_lies_where_all_of_it_would_be_placed(n_envs):
    world = World(n_envs=n_envs)
    buffer = make_buffer(world, rows=1_500 // n_envs)
    seen = set()
    for number in range(60):
        live(buffer, world, 72, sign=-1.0 if 15 < number < 30 else 1.0)
        consistency = buffer._consistency
        kept = consistency._neighbours
        if kept is None:
            continue
        samples = [segment.sample for segment in consistency.segments]
        fresh = Neighbours(consistency.model, consistency.present, samples)
        for name in ("_present", "_samples"):
            for one, other in zip(getattr(kept, name), getattr(fresh, name), strict=True):
                np.testing.assert_array_equal(one, other)
        seen.add((len(consistency.changes), len(samples[-1].rows) == consistency.settings.sample_size))
    # With and without a change, and a sample that was and was not full
    assert {changes for changes, _ in seen} >= {0, 1}
    assert {is_full for _, is_full in seen} == {False, True}
