"""What is done with a list of segments: splitting, joining, forgetting, sampling."""

import numpy as np
import pytest

from sb3_reptile.replay.auto import Segment, Segments, Settings, Transitions


def transitions(rows):
    rows = np.array(rows, dtype=np.int64)
    return Transitions(rows, np.zeros((len(rows), 2)), np.zeros_like(rows), np.zeros((len(rows), 3)))


def make_segments(starts, rows_seen=1_000, **settings):
    ends = [*starts[1:], rows_seen]
    segments = [
        Segment(start, 0, np.full(6, float(i)), transitions(range(start, end, 10)))
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return Segments(segments, np.random.default_rng(0), Settings(**settings))


def test_a_split_divides_the_sample_and_begins_a_regime():
    segments = make_segments([0, 300, 600])
    for segment in segments:
        segment.confirmations = 5
    segments[0].cusum[:] = 4
    segments.split(450, 1)
    assert segments.starts.tolist() == [0, 300, 450, 600]
    assert [segment.regime for segment in segments] == [0, 0, 1, 1]
    assert segments[1].sample.rows.max() == 440
    assert segments[2].sample.rows.min() == 450
    # The old part has at least the evidence of the segment before it, the new regime begins with none
    np.testing.assert_array_equal(segments.cusum, [[4] * 6, [4] * 6, [0] * 6, [0] * 6])
    assert all(segment.confirmations == 0 for segment in segments)
    assert segments[2].agreed_at == 450


def test_short_neighbours_that_are_old_and_equally_consistent_are_joined():
    segments = make_segments([0, 400, 450, 500, 900], max_segments=4, doubt=100.0)
    segments[1].confirmations, segments[2].confirmations = 3, 4
    segments[1].agreed_at = 460
    segments.join_neighbours(1_000)
    assert segments.starts.tolist() == [0, 400, 500, 900]
    joined = segments[1]
    np.testing.assert_array_equal(joined.sample.rows, np.arange(400, 500, 10))
    assert (joined.confirmations, joined.agreed_at, joined.cusum.tolist()) == (7, 450, [2] * 6)


def test_joined_samples_stay_within_their_size():
    segments = make_segments([0, 500, 900], max_segments=2, sample_size=30)
    segments.join_neighbours(1_000)
    (joined, _) = segments
    assert len(joined.sample.rows) == 30
    assert (np.diff(joined.sample.rows) > 0).all()


def test_segments_of_different_consistency_are_not_joined():
    segments = make_segments([0, 10, 20, 500, 900], max_segments=4)
    for segment, cusum in zip(segments, [16, 0, 16, 16, 0], strict=True):
        segment.cusum[:] = cusum
    segments.join_neighbours(1_000)
    # The first three are the shortest
    assert segments.starts.tolist() == [0, 10, 20, 900]


@pytest.mark.parametrize(
    ("first_kept", "left"), [(0, [0, 300, 600]), (299, [0, 300, 600]), (300, [300, 600]), (999, [600])]
)
def test_segments_that_have_left_the_buffer_are_forgotten(first_kept, left):
    segments = make_segments([0, 300, 600])
    assert segments.forget(first_kept) == (left != [0, 300, 600])
    assert segments.starts.tolist() == left


def test_silent_segments_follow_their_neighbours_in_the_same_regime():
    segments = make_segments([0, 100, 200, 300, 400], silent_step=0.5)
    for segment, regime in zip(segments, [0, 0, 0, 1, 1], strict=True):
        segment.regime = regime
    cusum = np.array([[8.0], [0.0], [4.0], [2.0], [0.0]])
    segments.follow_neighbours(cusum, np.array([False, True, True, True, False]))
    # The last segment counts for no neighbour, and the last but one has no other
    np.testing.assert_array_equal(cusum, [[8], [3], [2], [2], [0]])


def test_a_sample_grows_to_its_size_and_holds_transitions_from_the_whole_segment():
    segments = make_segments([0], rows_seen=0, sample_size=50, segment_size=200)
    for begin in range(0, 1_000, 20):
        segments.add_to_sample(transitions(range(begin, begin + 20)))
    rows = segments[0].sample.rows
    assert len(rows) == 50
    assert (np.diff(rows) > 0).all()
    assert rows.max() > 800


def test_an_opened_segment_continues_the_regime_with_an_empty_sample():
    segments = make_segments([0, 300])
    segments[-1].regime = 2
    segments.open(1_000)
    new = segments[-1]
    assert (new.start, new.regime, len(new.sample.rows), new.sample.outcomes.shape[1]) == (1_000, 2, 0, 3)
    new.cusum += 1
    assert segments[-2].cusum.tolist() == [1] * 6


def test_arrays_restore_the_segments():
    segments = make_segments([0, 300, 600])
    segments[1].agreed_at, segments[1].confirmations, segments[2].regime = 555, 7, 3
    restored = make_segments([0])
    restored.set_arrays(segments.arrays(), [segment.sample for segment in segments])
    for name, array in segments.arrays().items():
        np.testing.assert_array_equal(restored.arrays()[name], array)
    assert [len(segment.sample.rows) for segment in restored] == [30, 30, 40]
