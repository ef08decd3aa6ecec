"""Buffers saved without pickle: they come back as they were, and what is wrong with a folder is told, never run."""

import contextlib
import errno
import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sb3_reptile import DecayedDictReplayBuffer, DecayedHerReplayBuffer, DecayedNStepReplayBuffer, DecayedReplayBuffer
from sb3_reptile.replay import storing
from sb3_reptile.storage import (
    DamagedError,
    ForeignError,
    MissingArgumentError,
    NewerVersionError,
    NotStorableError,
    StorageError,
)
from sb3_reptile.storage.folder import MANIFEST, Folder, _seal, write_folder
from sb3_reptile.storage.values import from_json, to_json
from tests import test_hindsight as hindsight
from tests.test_replay_buffers import NO_TIMEOUTS, fill, make_buffer

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
    if buffer._weighted is not None:
        assert np.array_equal(loaded._weighted.tree.nodes, buffer._weighted.tree.nodes)


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
    monkeypatch.setattr(storing, "SMALLEST_FILE", 3_000)
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


def test_what_is_no_number_cannot_be_saved(tmp_path):
    buffer = hindsight.make_buffer(copy_info_dict=True)
    hindsight.fill(buffer, 3)
    buffer.infos[1, 0] = {"strange": object()}
    with pytest.raises(NotStorableError, match=r"infos.*cannot be saved without pickle.*got <object"):
        buffer.save(tmp_path / "buffer")
    assert not list(tmp_path.iterdir())


# ---- Files and folders


@pytest.fixture
def saved(tmp_path):
    buffer = make_buffer(DecayedReplayBuffer, n_envs=2, prioritized=True)
    fill(buffer, 50)
    buffer.save(tmp_path / "buffer")
    return tmp_path / "buffer"


def test_a_folder_is_replaced_only_when_the_new_one_is_there(saved, monkeypatch):
    buffer = make_buffer(DecayedReplayBuffer, n_envs=2, prioritized=True)
    fill(buffer, 5)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def full_disk(arrays, path):
        if path.name.startswith("weights"):
            raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)}")
        save_file(arrays, path)

    with monkeypatch.context() as patch:
        patch.setattr("sb3_reptile.storage.folder.save_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            buffer.save(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert os.listdir(saved.parent) == ["buffer"]
    buffer.save(saved)
    assert DecayedReplayBuffer.load(saved).size() == 5
    assert os.listdir(saved.parent) == ["buffer"]


def test_a_process_that_ends_while_it_replaces_a_folder_leaves_the_old_one(saved, monkeypatch):
    buffer = make_buffer(DecayedReplayBuffer)
    rename = os.rename

    def ends_between_the_two(source, target):
        if os.path.basename(source).endswith(".saving"):
            os.chdir("/")
            raise SystemExit
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", ends_between_the_two)
        with pytest.raises(SystemExit):
            buffer.save(saved)
    assert DecayedReplayBuffer.load(saved).size() == 40
    buffer.save(saved)
    assert DecayedReplayBuffer.load(saved).size() == 0


def test_files_that_did_not_change_are_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "SMALLEST_FILE", 1_000)
    buffer = make_buffer(DecayedReplayBuffer, n_rows=1_000, prioritized=True)
    fill(buffer, 600)
    previous, inodes = None, []
    for name in ("first", "second"):
        state = buffer.state()
        write_folder(tmp_path / name, "test", {}, storing.files_of(buffer, state), previous)
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


def sealed(path, change):
    """Change a manifest as one would who knows how it is sealed."""
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    manifest["seal"] = _seal(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_each_thing_that_can_be_wrong_has_its_own_error(saved, tmp_path):
    def load(path=saved, buffer_class=DecayedReplayBuffer):
        return buffer_class.load(path)

    with pytest.raises(FileNotFoundError, match=r"there is no .*nothing; a replay buffer is a folder"):
        load(tmp_path / "nothing")
    (tmp_path / "pickle.pkl").write_bytes(pickle.dumps(load()))
    (tmp_path / "empty").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / MANIFEST).write_text('{"name": "an app"}')
    for path in ("pickle.pkl", "empty", "theirs"):
        with pytest.raises(ForeignError, match=r"no replay buffer saved by|not written by sb3-reptile"):
            load(tmp_path / path)
    with pytest.raises(ForeignError, match=r"holds a DecayedReplayBuffer: load it by DecayedReplayBuffer.load"):
        load(buffer_class=DecayedNStepReplayBuffer)
    with pytest.raises(ForeignError, match="holds a replay buffer, not a checkpoint"):
        Folder(saved, "checkpoint")

    file = saved / "transitions-0.safetensors"
    good = file.read_bytes()
    for bad in (good[:-1], good[:100], good[:3], b"", good + b"x", bytes([good[-9] ^ 16]).join([good[:-9], good[-8:]])):
        file.write_bytes(bad)
        with pytest.raises(DamagedError, match=r"transitions-0.safetensors is damaged"):
            load()
    file.unlink()
    with pytest.raises(DamagedError, match=r"transitions-0.safetensors is missing"):
        load()
    file.write_bytes(good)

    sealed(saved, lambda manifest: manifest.update(format_version=3, versions={"sb3-reptile": "9.9"}))
    with pytest.raises(NewerVersionError, match=r"format version 3.*knows 2.*upgrade it .it was saved by 9.9"):
        load()


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


EVIL = [
    {"$class": "os:system"},
    {"$class": "subprocess:Popen"},
    {"$class": "torch.nn.modules.module:Module.apply"},
    {"$class": "stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv"},
    {"$class": "torch.nn.modules:activation.torch._C"},
    {"$array": ["O", [1], "AAAAAAAAAAA="]},
    {"$array": ["|V8", [1], "AAAAAAAAAAA="]},
    {"$box": ["a", [], {}, "object"]},
    {"$linear": [{"horizon": "x"}]},
    {"$eval": ["1"]},
    {"$": 1},
    {"$dict": 3},
]


@pytest.mark.parametrize("evil", EVIL, ids=str)
def test_a_file_can_name_nothing_but_what_is_known(evil):
    with pytest.raises(StorageError):
        from_json(evil)


def test_nothing_is_executed(saved, tmp_path):
    trap = tmp_path / "trapped"
    for file in saved.iterdir():
        good = file.read_bytes()
        file.write_bytes(pickle.dumps(Trap(trap)))
        with pytest.raises(StorageError):
            DecayedReplayBuffer.load(saved)
        file.write_bytes(good)
    assert not trap.exists()


def test_values_come_back_as_they_were():
    for value in [
        None, True, 3, 2.5, float("inf"), "text", [1, [2]], (1, (2.5, "x")), {"a": {"c": (2,)}}, {1: 2, "$a": 3},
        th.nn.ReLU, th.optim.RMSprop, spaces.Discrete(3, start=1), spaces.MultiBinary(4),
        spaces.MultiDiscrete([2, 3]), spaces.Box(-1, np.array([1, np.inf], np.float32), (2,)),
        spaces.Box(0, 255, (3, 8), np.uint8),
        spaces.Dict({"a": spaces.Box(-1, 1, (2, 2), np.float64), "b": spaces.Discrete(2)}),
    ]:  # fmt: skip
        told = json.loads(json.dumps(to_json(value, "value"), allow_nan=False))
        assert from_json(told) == value
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(from_json(to_json(array, "array")), array)
    for value in (print, lambda x: x, object(), np.array([object()]), Trap, os.system, sys):
        with pytest.raises(NotStorableError, match="it cannot be saved without pickle"):
            to_json(value, "it")


def mutations(content, generator, n):
    for _ in range(n):
        changed = bytearray(content)
        kind = generator.integers(5)
        at = int(generator.integers(len(changed)))
        if kind == 0:
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at : at + 8] = generator.bytes(8)
        elif kind == 3:
            changed[at:at] = generator.bytes(int(generator.integers(1, 20)))
        else:
            del changed[at : at + int(generator.integers(1, 20))]
        if bytes(changed) != content:
            yield bytes(changed)


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


STRANGE = [
    None,
    -1,
    0,
    2**70,
    1e300,
    "",
    "x",
    [],
    {},
    {"$float": "nan"},
    {"$missing": "x"},
    {"$class": "os:system"},
    True,
]


def places(tree, path=()):
    """Every place in a tree of JSON."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def put(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def test_strange_but_sealed_manifests_are_refused_or_harmless(saved, tmp_path):
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


# ---- On disk


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
    monkeypatch.setattr("sb3_reptile.replay.scratch.RELEASE_EVERY", 10 * 2**20)
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


def test_a_folder_or_disk_that_will_not_do_is_told_at_once(tmp_path, monkeypatch):
    with pytest.raises(NotADirectoryError, match=r"storage_dir must be an existing folder, got '.*missing': make it"):
        make_buffer(DecayedReplayBuffer, storage_dir=tmp_path / "missing")

    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        make_buffer(DecayedReplayBuffer, storage_dir=tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how large it is is read from /proc")
def test_what_is_on_disk_is_not_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_reptile.replay.scratch.RELEASE_EVERY", 2**26)
    if shutil.disk_usage(tmp_path).free < 2**30:
        pytest.skip("no room for it")

    def resident():
        with open("/proc/self/statm") as file:
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
