"""Files that were forged, with checksums that match: what they may not do, and what is not made because they say so."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.checkpoint import resume
from sb3_reptile.checkpoint.run_folder import list_checkpoints
from sb3_reptile.storage import MissingArgumentError, StorageError
from sb3_reptile.storage.folder import Folder
from sb3_reptile.storage.values import from_json, to_json
from tests.checkpoint.training import cartpole, resumable
from tests.storage.corruption import put, sealed


@pytest.fixture(scope="module")
def one_checkpoint(tmp_path_factory):
    _, folder = resumable(tmp_path_factory.mktemp("checkpoint"))
    return list_checkpoints(folder)[-1]


@pytest.fixture
def checkpoint(one_checkpoint, tmp_path):
    return Path(shutil.copytree(one_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def little_memory():
    """What is larger than 4 GB cannot be made."""
    if not sys.platform.startswith("linux"):
        pytest.skip("how much is used is read from /proc")
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="utf-8") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def forge(path, *where, value):
    sealed(path, lambda manifest: put(manifest, ("state", *where), value))


OBSERVATION = to_json(np.zeros((1, 5), np.float32), "observation")
COUNTERS = {
    "__class__": "x",
    "predict": "x",
    "env": None,
    "policy": None,
    "learn": 3,
    "replay_buffer": None,
    "num_timesteps": -1,
    "_total_timesteps": "x",
    "_n_updates": 1.5,
    "_episode_num": True,
    "seed": "x",
    "exploration_rate": {"$float": "nan"},
    "half_life": "soon",
    "ep_info_buffer": 3,
    "_last_obs": OBSERVATION,
    "_last_original_obs": to_json(np.full((1, 4), "x"), "observation"),
    "_last_episode_starts": OBSERVATION,
}


@pytest.mark.parametrize("name", COUNTERS)
def test_only_counters_with_values_that_make_sense_are_set(name, checkpoint):
    forge(checkpoint, "counters", name, value=COUNTERS[name])
    with pytest.raises(StorageError, match=rf"the checkpoint has '{name}' = .* among its counters"):
        resume(checkpoint, cartpole())


def test_a_log_folder_in_a_file_is_not_written_to(checkpoint, tmp_path):
    forge(checkpoint, "hyperparameters", "tensorboard_log", value=str(tmp_path / "anywhere"))
    with pytest.warns(UserWarning, match=r"was logged to tensorboard_log='.*anywhere' and is not any longer: give it"):
        model = resume(checkpoint, cartpole())
    model.learn(20, reset_num_timesteps=False)
    assert not (tmp_path / "anywhere").exists()
    given = resume(checkpoint, cartpole(), tensorboard_log=str(tmp_path / "mine"))
    assert given.tensorboard_log == str(tmp_path / "mine")


def test_a_storage_folder_in_a_file_is_not_written_to(checkpoint, tmp_path):
    forge(checkpoint, "hyperparameters", "replay_buffer_kwargs", "$arguments", "storage_dir", value=str(tmp_path))
    with pytest.raises(
        MissingArgumentError, match=r"storage_dir must be given again, resume with replay_buffer_kwargs"
    ):
        resume(checkpoint, cartpole())
    saved_buffer(tmp_path / "buffer")
    forge(tmp_path / "buffer", "arguments", "storage_dir", value=str(tmp_path))
    with pytest.raises(MissingArgumentError, match=r"storage_dir must be given again, DecayedReplayBuffer.load\("):
        DecayedReplayBuffer.load(tmp_path / "buffer")


@pytest.mark.parametrize("name", ["pretrained", "env", "device", "_init_setup_model", "learn"])
def test_a_file_gives_no_arguments_that_are_not_saved(name, checkpoint, tmp_path):
    forge(checkpoint, "hyperparameters", name, value=str(tmp_path / "model.zip"))
    with pytest.raises(StorageError, match=rf"has '{name}' among the arguments of ReptileDQN"):
        resume(checkpoint, cartpole())


def test_a_file_does_not_say_what_is_imported(checkpoint, tmp_path):
    sys.modules.pop("antigravity", None)
    forge(
        checkpoint, "hyperparameters", "replay_buffer_kwargs", "$arguments", "distribution_class", value="antigravity.X"
    )
    with pytest.raises(MissingArgumentError, match=r"import the module of 'antigravity.X' first"):
        resume(checkpoint, cartpole())
    saved_buffer(tmp_path / "buffer")
    forge(tmp_path / "buffer", "arguments", "distribution_class", value="antigravity.X")
    with pytest.raises(MissingArgumentError, match=r"import the module of 'antigravity.X' first"):
        DecayedReplayBuffer.load(tmp_path / "buffer")
    assert "antigravity" not in sys.modules


SIZES = {
    "buffer_size": (("hyperparameters", "buffer_size"), 10**13, "buffer_size=10+, more than"),
    "batch_size": (("hyperparameters", "batch_size"), 10**12, "batch_size=10+; at most"),
    "batch_size, no number": (("hyperparameters", "batch_size"), "x", "batch_size='x'"),
    "n_steps": (("hyperparameters", "replay_buffer_kwargs", "$arguments", "n_steps"), 10**13, "n_steps=10+, more"),
    "net_arch": (("hyperparameters", "policy_kwargs", "$arguments", "net_arch"), [10**9], "no parameters of that"),
    "many layers": (("hyperparameters", "policy_kwargs", "$arguments", "net_arch"), [8] * 10**6, "no parameters of"),
    "features": (
        ("hyperparameters", "policy_kwargs", "$arguments", "features_extractor_kwargs"),
        {"features_dim": 10**10},
        "no parameters of that size",
    ),
    "a space": (("spaces", "observation_space", "$box", 2), [10**6, 10**6], "a space must have at most"),
    "a negative space": (("spaces", "observation_space", "$box", 2), [-4], "a space must have at most"),
    "environments": (("spaces", "n_envs"), 10**9, "has 1000000000 environments, this one has 1"),
    "wider layers": (("hyperparameters", "policy_kwargs", "$arguments", "net_arch"), [16], "cannot be used"),
}


@pytest.mark.parametrize("case", SIZES)
def test_what_is_larger_than_what_was_saved_is_not_made(case, checkpoint, little_memory):
    where, value, message = SIZES[case]
    forge(checkpoint, *where, value=value)
    with pytest.raises(StorageError, match=message):
        resume(checkpoint, cartpole())


def saved_buffer(path):
    buffer = DecayedReplayBuffer(40, spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    for _ in range(10):
        buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    buffer.save(path)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("arguments", "buffer_size"), 10**13, "buffer_size=10+, more than"),
        (("arguments", "n_envs"), 10**13, "n_envs=10+, more than"),
        (("arguments", "observation_space", "$box", 2), [10**9, 10**9], "a space must have at most"),
        (("arguments", "observation_space"), {"$multi_binary": [10**12]}, "a space must have at most"),
        (("arguments", "observation_space", "$box", 2), [3], "made with other arguments|cannot be used"),
    ],
)
def test_a_buffer_larger_than_this_machine_is_not_made(where, value, message, tmp_path, little_memory):
    saved_buffer(tmp_path / "buffer")
    forge(tmp_path / "buffer", *where, value=value)
    with pytest.raises(StorageError, match=message):
        DecayedReplayBuffer.load(tmp_path / "buffer")


@pytest.mark.parametrize("n_bytes", [2**36, 10])
def test_a_file_that_is_not_as_large_as_its_arrays_is_not_read(n_bytes, checkpoint):
    os.truncate(checkpoint / "parameters.safetensors", n_bytes)
    with pytest.raises(StorageError, match=rf"is damaged: it has {n_bytes} bytes, its arrays"):
        resume(checkpoint, cartpole())


def test_a_manifest_that_is_too_large_is_not_read(checkpoint):
    os.truncate(checkpoint / "manifest.json", 2**36)
    with pytest.raises(StorageError, match=r"cannot be read: it has 68719476736 bytes, more than"):
        resume(checkpoint, cartpole())


@pytest.mark.parametrize("position", [-1, 625, 10**9, "x"])
def test_positions_of_random_generators_are_checked(position, checkpoint):
    # NumPy reads whatever is there in memory
    forge(checkpoint, "random", "numpy", "state", "pos", value=position)
    with pytest.raises(StorageError, match="the state of a random generator has pos="):
        resume(checkpoint, cartpole())


def test_optimizer_states_are_not_larger_than_their_parameters(checkpoint, monkeypatch):
    read = Folder.read

    def larger(folder, name):
        arrays = read(folder, name)
        if name == "parameters.safetensors":
            key = next(key for key in arrays if key.endswith("exp_avg"))
            arrays[key] = np.zeros((1000, 1000), np.float32)
        return arrays

    monkeypatch.setattr(Folder, "read", larger)
    with pytest.raises(StorageError, match="of the optimizer is larger than the parameter"):
        resume(checkpoint, cartpole())


def test_spaces_as_large_as_images_are_made():
    space = spaces.Box(0, 255, (1024, 1024, 3), np.uint8)
    assert from_json(to_json(space, "space")) == space


def test_what_a_caller_gives_is_believed(tmp_path):
    _, folder = resumable(tmp_path)
    model = resume(folder, cartpole(), batch_size=2**25, buffer_size=300)
    assert isinstance(model, ReptileDQN)
    assert model.batch_size == 2**25


def test_statistics_of_wrappers_keep_their_shape(tmp_path):
    _, folder = resumable(tmp_path, env=VecNormalize(cartpole()))
    forge(list_checkpoints(folder)[-1], "environment", "wrappers", 0, "obs_rms", "mean", value=OBSERVATION)
    with pytest.raises(StorageError, match=r"mean must have the shape \(4,\), the checkpoint has \(1, 5\)"):
        resume(folder, VecNormalize(cartpole()))


@pytest.mark.parametrize("seed", [-1, "x", 1.5])
def test_what_the_environment_refuses_is_an_error_of_the_file(seed, tmp_path):
    _, folder = resumable(tmp_path, at=30)  # in the first episode
    newest = list_checkpoints(folder)[-1]
    forge(newest, "environment", "episodes", 0, "start", "seed", value=seed)
    with pytest.raises(StorageError, match="the environment cannot repeat the episode of the checkpoint: Seed must be"):
        resume(newest, cartpole())
