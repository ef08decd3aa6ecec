"""Transitions that are taken from one replay buffer into another, and buffers that do not fit."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile import DecayedDictReplayBuffer, DecayedHerReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay import take_transitions
from tests.conftest import N_ROWS, NO_TIMEOUTS, fill, identifier, make_buffer
from tests.replay import hindsight

OPTIMIZED = dict(optimize_memory_usage=True, **NO_TIMEOUTS)
DICT = dict(space=spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (2,))}))


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [7, N_ROWS, 2 * N_ROWS + 9])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ((ReplayBuffer, {}), (DecayedReplayBuffer, {})),
        ((ReplayBuffer, OPTIMIZED), (DecayedReplayBuffer, {})),
        ((ReplayBuffer, {}), (DecayedReplayBuffer, OPTIMIZED)),
        ((ReplayBuffer, {}), (DecayedReplayBuffer, dict(half_life="auto", prioritized=True))),
        ((ReplayBuffer, {}), (DecayedNStepReplayBuffer, dict(n_steps=1))),
        ((NStepReplayBuffer, dict(n_steps=3)), (DecayedReplayBuffer, dict(n_rows=25))),
        ((DecayedReplayBuffer, dict(half_life=5)), (DecayedNStepReplayBuffer, dict(n_steps=1))),
        ((DictReplayBuffer, DICT), (DecayedDictReplayBuffer, DICT)),
    ],
)
def test_the_newest_transitions_are_taken_in_their_order(theirs, ours, n_steps, n_envs):
    source = make_buffer(theirs[0], n_envs=n_envs, **theirs[1])
    fill(source, n_steps)
    target = make_buffer(ours[0], n_envs=n_envs, **ours[1])
    taken = take_transitions(source, target)
    n = min(n_steps, N_ROWS - source.optimize_memory_usage * source.full, target.buffer_size)
    assert taken == n * n_envs == target.n_added
    ages = target.ages().reshape(-1)
    batch = target.transitions(np.flatnonzero(ages >= 0)[:: -1 if target.full else 1])
    steps = n_steps - 1 - target.ages_of(batch.indices) // n_envs
    assert np.array_equal(batch.rewards.flatten().numpy(), identifier(steps, batch.indices % n_envs))
    here = batch.observations["x"] if isinstance(batch.observations, dict) else batch.observations
    there = batch.next_observations["x"] if isinstance(batch.next_observations, dict) else batch.next_observations
    is_drawable = np.isin(batch.indices, target.drawable())
    assert np.array_equal(here[:, 0].numpy()[is_drawable], steps[is_drawable])
    assert np.array_equal(there[:, 0].numpy(), steps + 1)
    assert not batch.dones.any()


def test_ends_and_time_limits_are_taken():
    source, target = make_buffer(ReplayBuffer, n_envs=2), make_buffer(DecayedReplayBuffer, n_envs=2)
    rows = np.zeros((2, 2))
    for done, truncated in [([0, 1], [False, False]), ([1, 1], [True, False]), ([0, 0], [False, False])]:
        infos = [{"TimeLimit.truncated": each} for each in truncated]
        source.add(rows, rows, np.zeros(2), np.zeros(2), np.array(done), infos)
    take_transitions(source, target)
    assert target.dones[:3].tolist() == source.dones[:3].tolist() == [[0, 1], [1, 1], [0, 0]]
    assert target.timeouts[:3].tolist() == source.timeouts[:3].tolist() == [[0, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("n_envs", [1, 2])
def test_hindsight_episodes_are_taken(n_envs):
    source = hindsight.make_buffer(HerReplayBuffer, n_envs=n_envs, copy_info_dict=True)
    target = hindsight.make_buffer(DecayedHerReplayBuffer, n_envs=n_envs, copy_info_dict=True)
    hindsight.fill(source, 27)
    source.infos[3, 0]["wind"] = 5
    take_transitions(source, target)
    for name in ("ep_start", "ep_length", "dones", "timeouts", "actions"):
        assert np.array_equal(getattr(target, name), getattr(source, name)), name
    assert target.infos[3, 0]["wind"] == 5


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(n_envs=3), "the buffer to take from was made for n_envs=3, the model has n_envs=1"),
        (dict(space=spaces.Box(0, 1, (2,))), "made for observation_space=Box"),
    ],
)
def test_what_does_not_fit_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        take_transitions(make_buffer(ReplayBuffer, **other), make_buffer(DecayedReplayBuffer))


@pytest.mark.parametrize("options", [{}, OPTIMIZED], ids=["plain", "memory-optimised"])
@pytest.mark.parametrize("where", ["rewards", "observations"])
@pytest.mark.parametrize("row", [3, 399])
def test_nothing_is_taken_if_a_row_is_not_finite(row, where, options):
    source = make_buffer(ReplayBuffer, n_rows=400, n_envs=2, **options)
    fill(source, 430)
    getattr(source, where)[row, 1] = np.nan
    target = make_buffer(DecayedReplayBuffer, n_rows=500, n_envs=2)
    fill(target, 5)
    before = target.observations.copy()
    # The oldest row is 30. With memory optimisation it is not taken, and an observation is also the next one before
    step = 5 + (row - 30) % 400 + 1 - source.optimize_memory_usage
    name = where.removesuffix("s")
    if options and where == "observations":
        name, step = "next observation", step - 1
    with pytest.raises(ValueError, match=rf"^the {name} of environment 1 is nan at its step {step}: mend"):
        take_transitions(source, target)
    assert target.size() == target.n_added // 2 == 5
    assert np.array_equal(target.observations, before)
    skipping = make_buffer(DecayedReplayBuffer, n_rows=500, n_envs=2, on_bad_transition="skip")
    with pytest.warns(UserWarning, match="not stored"):
        take_transitions(source, skipping)
    assert skipping.size() > 390


def test_rows_of_another_number_of_environments_are_refused():
    buffer = make_buffer(DecayedReplayBuffer, n_envs=3)
    row = np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"made for 3 environments with actions of 1 numbers, got .* shape \(1,\)"):
        buffer.add(row, row, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    assert buffer.size() == 0
