"""n-step returns against a reference that walks through the history, step by step."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile import DecayedDictReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay import Change
from sb3_reptile.replay.episodes import end_running_episodes
from sb3_reptile.replay.kernels import VECTORISED, kernels
from tests.conftest import make_buffer

GAMMA = 0.9
BOX = spaces.Box(-np.inf, np.inf, (2,))
KINDS = {
    "plain": (DecayedReplayBuffer, BOX, {}),
    "SB3's class": (DecayedNStepReplayBuffer, BOX, {}),
    "Dict": (DecayedDictReplayBuffer, spaces.Dict({"x": BOX}), {}),
    "memory-optimised": (
        DecayedReplayBuffer,
        BOX,
        dict(optimize_memory_usage=True, handle_timeout_termination=False),
    ),
    "priorities": (DecayedReplayBuffer, BOX, dict(prioritized=True)),
    "auto": (DecayedReplayBuffer, BOX, dict(half_life="auto")),
}
N_ROWS = 40
# Rows before which a transition was not stored, learn() was called again, or training was resumed
BOUNDARIES = (13, 55, 56, 90)
# Rows at which a change was noticed
CHANGES = (30, 75, 77)


class History:
    """All transitions ever added: of each environment episodes of irregular lengths, some cut off by a time limit."""

    def __init__(self, buffer, n_rows, seed=0):
        random = np.random.default_rng(seed)
        shape = n_rows, buffer.n_envs
        self.buffer = buffer
        self.rewards = random.normal(size=shape).astype(np.float32)
        self.terminated = random.random(shape) < 0.1
        self.truncated = ~self.terminated & (random.random(shape) < 0.08)
        self.positions = random.normal(size=(*shape, 2)).astype(np.float32)
        # Where a new episode begins, the next observation is not the observation of the following row
        self.next_positions = np.append(self.positions[1:], random.normal(size=(1, *shape[1:], 2)), axis=0)
        self.next_positions = self.next_positions.astype(np.float32)
        if not buffer.optimize_memory_usage:
            over = self.terminated | self.truncated
            self.next_positions[over] = random.normal(size=(over.sum(), 2))
        for row in range(n_rows):
            self.add(row)

    def add(self, row):
        if row in BOUNDARIES:
            end_running_episodes(self.buffer)
        infos = [{"TimeLimit.truncated": bool(truncated)} for truncated in self.truncated[row]]
        obs, next_obs = self.positions[row], self.next_positions[row]
        if isinstance(self.buffer.observation_space, spaces.Dict):
            obs, next_obs = {"x": obs}, {"x": next_obs}
        done = self.terminated[row] | self.truncated[row]
        self.buffer.add(obs, next_obs, np.zeros(self.buffer.n_envs), self.rewards[row], done, infos)

    def steps(self, row, env, n_steps):
        """Rows that belong to the return of a transition."""
        rows = [row]
        changes = CHANGES if self.buffer.consistency is not None else ()
        while len(rows) < n_steps and row + 1 < len(self.rewards):
            if self.terminated[row, env] or self.truncated[row, env] or row + 1 in (*BOUNDARIES, *changes):
                break
            row += 1
            rows.append(row)
        return rows


@pytest.mark.parametrize("n_steps", [1, 2, 5, 60])
@pytest.mark.parametrize("n_rows", [7, N_ROWS, 3 * N_ROWS + 17])
@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_returns_are_those_of_the_definition(kind, n_envs, n_rows, n_steps):
    buffer_class, space, options = KINDS[kind]
    buffer = make_buffer(buffer_class, n_envs, N_ROWS, space, n_steps=n_steps, gamma=GAMMA, **options)
    history = History(buffer, n_rows)
    if buffer.consistency is not None:
        buffer.consistency.changes = [Change(100 * n_envs, row * n_envs, 1) for row in CHANGES]
    is_optimised = buffer.optimize_memory_usage
    stored = range(max(0, n_rows - N_ROWS) + (is_optimised and n_rows >= N_ROWS), n_rows)
    indices = np.array([row % N_ROWS * n_envs + env for row in stored for env in range(n_envs)])
    batch = buffer.transitions(indices)
    sequences = buffer.sequences(indices)
    is_dict = isinstance(space, spaces.Dict)
    next_observations = batch.next_observations["x"] if is_dict else batch.next_observations
    for i, (row, env) in enumerate((row, env) for row in stored for env in range(n_envs)):
        rows = history.steps(row, env, n_steps)
        expected = sum(GAMMA**k * history.rewards[r, env] for k, r in enumerate(rows))
        assert batch.rewards[i].item() == pytest.approx(expected, abs=1e-5)
        final = rows[-1]
        # Without time limits of its own, the memory-optimised buffer takes them, and boundaries, for ends
        is_cut = is_optimised and (history.truncated[final, env] or (final + 1 in BOUNDARIES and final + 1 < n_rows))
        is_end = history.terminated[final, env] or is_cut
        assert batch.dones[i].item() == is_end
        if not is_end:
            assert next_observations[i].tolist() == history.next_positions[final, env].tolist()
        if batch.discounts is not None:
            assert batch.discounts[i].item() == pytest.approx(GAMMA ** len(rows), abs=1e-6)
        else:
            assert n_steps == 1
        padded = rows + [final] * (n_steps - len(rows))
        assert sequences.indices[i].tolist() == [r % N_ROWS * n_envs + env for r in padded]
        assert sequences.last[i] == len(rows) - 1
        assert sequences.rewards[i].tolist() == [
            *history.rewards[rows, env].tolist(),
            *[0] * (n_steps - len(rows)),
        ]
        assert sequences.dones[i] == is_end


def test_a_buffer_with_returns_is_saved_with_them(tmp_path):
    for buffer_class in (DecayedReplayBuffer, DecayedDictReplayBuffer):
        space = spaces.Dict({"x": BOX}) if buffer_class is DecayedDictReplayBuffer else BOX
        buffer = make_buffer(buffer_class, 2, N_ROWS, space, n_steps=4, gamma=0.5)
        History(buffer, 50)
        path = tmp_path / buffer_class.__name__
        buffer.save(path)
        loaded = buffer_class.load(path)
        assert (loaded.n_steps, loaded.gamma) == (4, 0.5)
        indices = np.arange(buffer.size() * 2)
        ours, theirs = buffer.transitions(indices), loaded.transitions(indices)
        assert ours.rewards.equal(theirs.rewards)
        assert ours.discounts.equal(theirs.discounts)


@pytest.mark.parametrize(("name", "value"), [("n_steps", 0), ("gamma", 1.5), ("gamma", float("nan"))])
def test_values_that_are_not_allowed_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        make_buffer(DecayedReplayBuffer, **{name: value})


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_observations_and_actions_are_those_of_the_transitions(kind, n_envs):
    buffer_class, space, options = KINDS[kind]
    buffer = make_buffer(buffer_class, n_envs, N_ROWS, space, n_steps=5, gamma=GAMMA, **options)
    History(buffer, 55)
    buffer.actions[:] = np.random.default_rng(0).integers(9, size=buffer.actions.shape)
    indices = np.arange(N_ROWS * n_envs)
    batch = buffer.transitions(indices)
    observations, actions = buffer.observations_and_actions(indices)
    is_dict = isinstance(space, spaces.Dict)
    assert observations["x"].equal(batch.observations["x"]) if is_dict else observations.equal(batch.observations)
    assert actions.equal(batch.actions)


@pytest.mark.parametrize("n_steps", [1, 3, 10])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_compiled_and_vectorised_sequences_are_the_same_bit_for_bit(n_envs, n_steps):
    pytest.importorskip("numba")
    random = np.random.default_rng(0)
    shape = N_ROWS * n_envs
    stored = [(random.random(shape) < share).astype(np.float32) for share in (0.2, 0.1)]
    rewards = random.normal(size=shape).astype(np.float32)
    factors = random.random(n_steps).astype(np.float32)
    arguments = (*stored, rewards, random.permutation(shape), np.array([30, 7]), n_envs, factors)
    for vectorised, compiled in zip(VECTORISED.follow(*arguments), kernels().follow(*arguments), strict=True):
        assert (vectorised.dtype, vectorised.shape) == (compiled.dtype, compiled.shape)
        assert vectorised.tobytes() == compiled.tobytes()


def test_compiled_and_vectorised_loops_find_the_same_missing_numbers():
    pytest.importorskip("numba")
    random = np.random.default_rng(0)
    for missing in (VECTORISED.missing, kernels().missing):
        versions = random.integers(3, size=50)
        # Scratch holds anything, the numbers found among them
        numbers, scratch = random.integers(50, size=200), random.integers(-5, 60, size=50).astype(np.int32)
        found = missing(numbers, versions, 1, scratch)
        assert sorted(found.tolist()) == sorted(set(numbers[versions[numbers] != 1].tolist()))


def test_what_is_not_finite_after_the_end_of_a_return_does_not_matter():
    buffer = make_buffer(
        DecayedReplayBuffer, space=spaces.Box(-9, 9, (1,)), on_bad_transition="allow", n_steps=3, gamma=0.9
    )
    for step, reward in enumerate([1.0, 1.0, np.nan]):
        obs = np.full((1, 1), step, dtype=np.float32)
        buffer.add(obs, obs + 1, np.zeros((1, 1)), np.array([reward]), np.array([step == 1]), [{}])
    returns = buffer.transitions(np.arange(3)).rewards.flatten().tolist()
    assert returns[:2] == pytest.approx([1.9, 1.0])
    assert np.isnan(returns[2])
