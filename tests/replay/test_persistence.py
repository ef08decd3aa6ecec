"""Saved buffers: a loaded one draws what the saved one would have drawn, and what is wrong with a file is reported."""

import contextlib
import json
import math
import os
import pickle

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile import (
    DecayedDictReplayBuffer,
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
)
from sb3_reptile.replay import persistence
from sb3_reptile.replay.auto.features import Embedding
from sb3_reptile.storage import (
    ForeignError,
    MissingArgumentError,
    StorageError,
)
from sb3_reptile.storage.folder import MANIFEST, Folder, write_folder
from tests.conftest import fill, make_buffer
from tests.replay import hindsight
from tests.replay.saving import CASES, assert_same_batches, draw, prioritize
from tests.storage.corruption import (
    STRANGE,
    Trap,
    assert_damage_is_detected,
    assert_newer_versions_are_refused,
    mutations,
    places,
    put,
    sealed,
)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 17, 40, 293])
@pytest.mark.parametrize("case", CASES)
def test_a_loaded_buffer_goes_on_as_if_nothing_had_happened(case, n_steps, n_envs, tmp_path):
    buffer_class, options = CASES[case]
    buffer = make_buffer(buffer_class, n_envs=n_envs, **options)
    np.random.seed(0)
    fill(buffer, n_steps)
    prioritize(buffer, draw(buffer))
    fill(buffer, 2, start=n_steps)
    buffer.save(tmp_path / "buffer")
    loaded = buffer_class.load(tmp_path / "buffer", device="cpu")
    assert loaded.diagnostics() == buffer.diagnostics()
    batches = {}
    for which in (buffer, loaded):
        np.random.seed(1)
        drawn = []
        for step in range(n_steps + 2, n_steps + 50, 6):
            drawn.append(draw(which))
            prioritize(which, drawn[-1])
            fill(which, 6, start=step)
        batches[which] = drawn
    for one, other in zip(*batches.values(), strict=True):
        assert_same_batches(one, other)
    assert loaded.sampling_probabilities() == pytest.approx(buffer.sampling_probabilities())
    if buffer.distribution._weighted is not None:
        assert np.array_equal(loaded.distribution._weighted.tree.nodes, buffer.distribution._weighted.tree.nodes)


@pytest.mark.parametrize("copy_info_dict", [False, True])
@pytest.mark.parametrize("n_steps", hindsight.FILLS.values(), ids=hindsight.FILLS.keys())
def test_hindsight_replay_goes_on_in_the_middle_of_an_episode(n_steps, copy_info_dict, tmp_path):
    buffer = hindsight.make_buffer(n_envs=2, half_life=20, copy_info_dict=copy_info_dict, prioritized=True)
    hindsight.fill(buffer, n_steps)
    if copy_info_dict:
        buffer.infos[3, 1] = {"distance": np.float32(0.5), "where": np.arange(3), "ended": True, "why": None}
    buffer.save(tmp_path / "buffer")
    loaded = DecayedHerReplayBuffer.load(tmp_path / "buffer", device="cpu", env=buffer.env)
    batches = []
    for which in (buffer, loaded):
        hindsight.fill(which, 11, start=n_steps)
        np.random.seed(1)
        batches.append(which.sample(64))
    assert_same_batches(*batches)
    for row in range(buffer.size()):
        assert [sorted(info) for info in loaded.infos[row]] == [sorted(info) for info in buffer.infos[row]]


def test_dict_observations_keep_the_features_by_which_changes_are_noticed(tmp_path):
    space = spaces.Dict(speed=spaces.Box(-1, 1, (1,)), image=spaces.Box(-1, 1, (3,)))
    buffer = make_buffer(DecayedDictReplayBuffer, space=space, half_life="auto")
    buffer.save(tmp_path / "buffer")
    loaded = DecayedDictReplayBuffer.load(tmp_path / "buffer")
    observations = {"speed": np.full((1, 1), 0.5, np.float32), "image": np.zeros((1, 3), np.float32)}
    features = [Embedding(which.observation_space)(observations).tolist() for which in (buffer, loaded)]
    assert features[0] == features[1]


@pytest.mark.filterwarnings("ignore:the reward")
def test_hindsight_replay_goes_on_after_a_transition_that_was_skipped(tmp_path):
    buffer = hindsight.make_buffer(on_bad_transition="skip")

    def add(which, step, reward=0.0, done=False):
        obs, next_obs = ({key: np.full((1, 2), t) for key in which.observations} for t in (step, step + 1))
        which.add(obs, next_obs, np.zeros((1, 2)), np.array([reward]), np.array([done]), [{}])

    for step in range(3):
        add(buffer, step)
    add(buffer, 3, reward=math.nan)
    buffer.save(tmp_path / "buffer")
    loaded = DecayedHerReplayBuffer.load(tmp_path / "buffer", device="cpu", env=buffer.env)
    for which in (buffer, loaded):
        for step in (4, 5, 6):
            add(which, step, done=step == 6)
    assert buffer.ep_length[:6, 0].tolist() == loaded.ep_length[:6, 0].tolist() == [6] * 6


def test_what_changed_at_run_time_is_kept(tmp_path):
    buffer = make_buffer(DecayedReplayBuffer, half_life=10, prioritized=True)
    fill(buffer, 30)
    buffer.half_life, buffer.beta = 25.5, 0.75
    buffer.save(tmp_path / "buffer")
    loaded = DecayedReplayBuffer.load(tmp_path / "buffer")
    assert (loaded.half_life, loaded.beta) == (25.5, 0.75)


def test_only_the_filled_part_is_written(tmp_path):
    sizes = []
    for n_steps in (10, 1_000):
        buffer = make_buffer(DecayedReplayBuffer, n_rows=1_000_000)
        fill(buffer, n_steps)
        buffer.save(tmp_path / str(n_steps))
        sizes.append(sum(file.stat().st_size for file in (tmp_path / str(n_steps)).iterdir()))
    # An observation, an action, a reward; bits for done, timeout and whether the next observation is the following one
    bytes_of_row = 8 + 1 + 4 + 3 / 8
    assert sizes[1] - sizes[0] == pytest.approx(990 * bytes_of_row, rel=0.01)
    assert sizes[0] < 10 * bytes_of_row + 8_000


def test_files_may_hold_any_number_of_rows(tmp_path, monkeypatch):
    buffer = make_buffer(DecayedReplayBuffer, n_rows=1_000, n_envs=2, prioritized=True)
    fill(buffer, 1_017)
    monkeypatch.setattr(persistence, "SMALLEST_FILE", 3_000)
    buffer.save(tmp_path / "many")
    monkeypatch.undo()
    buffer.save(tmp_path / "one")
    assert len(list((tmp_path / "many").glob("transitions-*"))) > 8
    assert len(list((tmp_path / "one").glob("transitions-*"))) == 1
    batches = []
    for name in ("many", "one"):
        np.random.seed(0)
        batches.append(DecayedReplayBuffer.load(tmp_path / name, device="cpu").sample(200))
    assert_same_batches(*batches)


def by_age(ages):
    return 1 / (1 + ages)


def by_reward(obs, next_obs, action, reward, done, infos):
    return 1 + np.abs(reward)


def test_functions_must_be_given_again(tmp_path):
    buffer = make_buffer(DecayedReplayBuffer, decay=by_age, initial_weights=by_reward)
    fill(buffer, 60)
    buffer.save(tmp_path / "buffer")
    with pytest.raises(MissingArgumentError, match=r"decay must be given again, DecayedReplayBuffer.load\(..., decay="):
        DecayedReplayBuffer.load(tmp_path / "buffer", initial_weights=by_reward)
    loaded = DecayedReplayBuffer.load(tmp_path / "buffer", decay=by_age, initial_weights=by_reward)
    assert np.array_equal(loaded.sampling_probabilities(), buffer.sampling_probabilities())


def test_what_cannot_be_saved_in_an_info_is_left_out_with_one_warning(tmp_path):
    buffer = hindsight.make_buffer(copy_info_dict=True)
    hindsight.fill(buffer, 3)
    for row in range(3):
        buffer.infos[row, 0] = {"strange": object(), "is_success": np.bool_(True), "number": row}
    with pytest.warns(UserWarning, match=r"info\['strange'\] is left out, as a object cannot be saved") as warned:
        buffer.save(tmp_path / "buffer")
    assert len(warned) == 1
    loaded = DecayedHerReplayBuffer.load(tmp_path / "buffer", device="cpu", env=buffer.env)
    assert loaded.infos[:3, 0].tolist() == [{"is_success": True, "number": row} for row in range(3)]


@pytest.fixture
def saved(tmp_path):
    buffer = make_buffer(DecayedReplayBuffer, n_envs=2, prioritized=True)
    fill(buffer, 50)
    buffer.save(tmp_path / "buffer")
    return tmp_path / "buffer"


def test_a_saved_buffer_is_replaced(saved):
    buffer = make_buffer(DecayedReplayBuffer, n_envs=2, prioritized=True)
    fill(buffer, 5)
    buffer.save(saved)
    assert DecayedReplayBuffer.load(saved).size() == 5
    assert os.listdir(saved.parent) == ["buffer"]


def test_files_that_did_not_change_are_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(persistence, "SMALLEST_FILE", 1_000)
    buffer = make_buffer(DecayedReplayBuffer, n_rows=1_000, prioritized=True)
    fill(buffer, 600)
    previous, inodes = None, []
    for name in ("first", "second"):
        state = buffer.state()
        write_folder(tmp_path / name, "test", {}, persistence.files_of(buffer, state), previous)
        previous = Folder(tmp_path / name, "test")
        previous.verify()
        inodes.append({file.name: file.stat().st_ino for file in (tmp_path / name).iterdir()})
        fill(buffer, 10, start=600)
        buffer.update_priorities(np.array([3]), np.array([5.0]))
    linked = {name for name in inodes[0] if inodes[0][name] == inodes[1].get(name)}
    written = set(inodes[1]) - linked - {MANIFEST}
    assert len([name for name in linked if name.startswith("transitions")]) >= 8
    assert {name for name in written if name.startswith("transitions")} == {
        max(inodes[0], key=lambda name: int(name[12:-12]) if name.startswith("transitions") else -1)
    }
    assert "weights-0.safetensors" in written


def test_each_fault_has_its_own_error(saved, tmp_path):
    def load(path=saved, buffer_class=DecayedReplayBuffer):
        return buffer_class.load(path)

    with pytest.raises(FileNotFoundError, match=r"there is no .*nothing; a replay buffer is a folder"):
        load(tmp_path / "nothing")
    (tmp_path / "pickle.pkl").write_bytes(pickle.dumps(load()))
    (tmp_path / "empty").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / MANIFEST).write_text('{"name": "an app"}')
    for path in ("pickle.pkl", "empty", "theirs"):
        with pytest.raises(ForeignError, match=r"not a replay buffer saved by|not written by sb3-reptile"):
            load(tmp_path / path)
    with pytest.raises(ForeignError, match=r"holds a DecayedReplayBuffer: load it by DecayedReplayBuffer.load"):
        load(buffer_class=DecayedNStepReplayBuffer)
    with pytest.raises(ForeignError, match="holds a replay buffer, not a checkpoint"):
        Folder(saved, "checkpoint")

    assert_damage_is_detected(saved / "transitions-0.safetensors", load)
    assert_newer_versions_are_refused(saved, load)


def test_nothing_is_executed(saved, tmp_path):
    trap = tmp_path / "trapped"
    for file in saved.iterdir():
        good = file.read_bytes()
        file.write_bytes(pickle.dumps(Trap(trap)))
        with pytest.raises(StorageError):
            DecayedReplayBuffer.load(saved)
        file.write_bytes(good)
    assert not trap.exists()


def test_mutated_files_are_refused_and_nothing_else_happens(saved):
    generator = np.random.default_rng(0)
    for file in sorted(saved.iterdir()):
        good = file.read_bytes()
        for bad in mutations(good, generator, 120):
            file.write_bytes(bad)
            with pytest.raises(StorageError):
                DecayedReplayBuffer.load(saved)
        file.write_bytes(good)
    DecayedReplayBuffer.load(saved)


def test_forged_manifests_are_refused_or_harmless(saved, tmp_path):
    good = json.loads((saved / MANIFEST).read_text())
    generator = np.random.default_rng(1)
    everywhere = list(places(good))
    for number in range(400):
        path = everywhere[number % len(everywhere)]
        value = STRANGE[generator.integers(len(STRANGE))]
        if path[-1] == "buffer_size" and value == 2**70:
            continue
        sealed(saved, lambda manifest, path=path, value=value: put(manifest, path, value))
        with contextlib.suppress(StorageError):
            DecayedReplayBuffer.load(saved)
        (saved / MANIFEST).write_text(json.dumps(good))


@pytest.mark.parametrize(
    ("given", "weights", "new"),
    [
        ({}, [1, 4, 9, 376], 94),
        (dict(prioritized=False), [1, 2, 3, 4], 1),
        (dict(initial_weights="uniform"), [1, 2, 3, 94], 94),
    ],
    ids=str,
)
def test_initial_weights_and_priorities_can_be_left_out_when_a_buffer_is_loaded(given, weights, new, tmp_path):
    kwargs = dict(half_life=math.inf, prioritized=True, initial_weights="info")
    buffer = DecayedReplayBuffer(8, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), **kwargs)

    def add(to, weight):
        zeros = np.zeros((1, 1))
        to.add(zeros, zeros, zeros, np.zeros(1), np.zeros(1), [{"replay_weight": weight}])

    for weight in (1, 2, 3, 4):
        add(buffer, weight)
    buffer.update_priorities(np.arange(4), np.array([1, 2, 3, 94]))
    buffer.save(tmp_path / "buffer")
    loaded = DecayedReplayBuffer.load(tmp_path / "buffer", **given)
    add(loaded, 1)
    expected = np.array([*weights, new]) / sum([*weights, new])
    np.testing.assert_allclose(loaded.distribution.all_probabilities().ravel()[:5], expected)
