"""Buffers whose observations are in memory-mapped files."""

import copy
import errno
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile import DecayedDictReplayBuffer, DecayedReplayBuffer
from tests.conftest import fill, make_buffer
from tests.replay import hindsight
from tests.replay.saving import CASES, assert_same_batches, draw, prioritize


def test_on_disk_it_draws_what_it_draws_in_memory(tmp_path):
    for buffer_class, options in CASES.values():
        batches = []
        for where in ({}, {"storage_dir": tmp_path}):
            buffer = make_buffer(buffer_class, n_envs=3, **options, **where)
            np.random.seed(0)
            fill(buffer, 90)
            prioritize(buffer, draw(buffer))
            batches.append(draw(buffer))
        assert_same_batches(*batches)
    buffer = hindsight.make_buffer(n_envs=2, storage_dir=str(tmp_path))
    hindsight.fill(buffer, 70)
    buffer.sample(10)
    assert isinstance(buffer.observations["observation"].base, np.ndarray)
    assert not list(tmp_path.iterdir())


def test_what_is_on_disk_is_released_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_reptile.replay.memmap.RELEASE_EVERY", 10 * 2**20)
    buffer = make_buffer(DecayedReplayBuffer, storage_dir=tmp_path)
    for step in range(100):
        fill(buffer, 1, start=step)
        rewards = buffer.sample(8).rewards.flatten().tolist()
        assert set(rewards) <= {10 * (step - age) for age in range(40)}
    expected = np.roll(np.arange(60, 100), 20)
    assert np.array_equal(buffer.observations[:, 0, 0], expected)
    assert np.array_equal(buffer.next_observations[:, 0, 0], expected + 1)


def test_a_buffer_on_disk_is_saved_loaded_and_pickled(tmp_path):
    buffer = make_buffer(DecayedReplayBuffer, storage_dir=tmp_path)
    fill(buffer, 70)
    buffer.save(tmp_path / "saved")
    for loaded in (
        DecayedReplayBuffer.load(tmp_path / "saved", storage_dir=tmp_path),
        DecayedReplayBuffer.load(tmp_path / "saved"),
        pickle.loads(pickle.dumps(buffer)),
    ):
        assert np.array_equal(loaded.observations, buffer.observations)
        fill(loaded, 3)
        loaded.sample(5)


def test_a_key_without_letters_is_on_disk_too(tmp_path):
    space = spaces.Dict({"": spaces.Box(-1, 1, (2,)), "x": spaces.Box(-1, 1, (3,))})
    buffer = make_buffer(DecayedDictReplayBuffer, space=space, storage_dir=tmp_path)
    row = {key: np.ones((1, *box.shape)) for key, box in space.items()}
    buffer.add(row, row, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    assert buffer.observations[""].shape == (buffer.buffer_size, 1, 2)
    assert buffer.sample(3).observations[""].tolist() == [[1, 1]] * 3


def test_an_unusable_folder_or_full_disk_is_an_error_at_once(tmp_path, monkeypatch):
    with pytest.raises(NotADirectoryError, match=r"storage_dir must be an existing folder, got '.*missing': make it"):
        make_buffer(DecayedReplayBuffer, storage_dir=tmp_path / "missing")

    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        make_buffer(DecayedReplayBuffer, storage_dir=tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how large it is is read from /proc")
def test_what_is_on_disk_is_not_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_reptile.replay.memmap.RELEASE_EVERY", 2**26)
    if shutil.disk_usage(tmp_path).free < 2**30:
        pytest.skip("no room for it")

    def resident():
        with open("/proc/self/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = DecayedReplayBuffer(5_000, space, spaces.Discrete(2), device="cpu", storage_dir=tmp_path)
    image = np.ones((1, 4, 84, 84), np.uint8)
    for _ in range(5_000):
        buffer.add(image, image, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    for _ in range(50):
        buffer.sample(32)
    assert buffer.observations.nbytes + buffer.next_observations.nbytes > 2**28
    assert resident() - before < 2**27
    buffer.save(tmp_path / "saved")
    assert resident() - before < 2**27
    DecayedReplayBuffer.load(tmp_path / "saved", device="cpu", storage_dir=tmp_path)
    assert resident() - before < 2**27


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("where", ["add", "observations", "next_observations", "copy"])
def test_a_forked_child_cannot_write_into_its_parents_files(where, tmp_path):
    buffer = make_buffer(DecayedReplayBuffer, storage_dir=tmp_path)
    fill(buffer, 70)
    before = buffer.observations.copy(), buffer.next_observations.copy()
    child = os.fork()
    if child == 0:
        refused = False
        try:
            if where == "add":
                fill(buffer, 1)
            elif where == "copy":
                fill(copy.deepcopy(buffer), 1)
            else:
                getattr(buffer, where)[3] = 5
        except RuntimeError as error:
            refused = where == "add" and "which this one was forked from" in str(error)
        except ValueError as error:
            refused = where.endswith("observations") and "read-only" in str(error)
        os._exit(0 if refused == (where != "copy") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(buffer.observations, before[0])
    assert np.array_equal(buffer.next_observations, before[1])
    fill(buffer, 3)  # the parent can
    assert not np.array_equal(buffer.observations, before[0])
