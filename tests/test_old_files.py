"""Files saved by earlier versions load, and draw exactly what the version that saved them drew."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.save_util import load_from_pkl

from sb3_reptile import DecayedHerReplayBuffer
from sb3_reptile.checkpoint import resume
from sb3_reptile.meta import ReptileMetaLearner
from sb3_reptile.meta import resume as resume_meta_training
from sb3_reptile.storage.folder import MANIFEST
from tests.fixtures.make_fixtures import BUFFERS, META_LEARNERS, MODELS, SETS, draw, make_env, parameters_of

FIXTURES = Path(__file__).parent / "fixtures"


def files(part):
    """Parameters for each file of a part, in all sets."""
    return [(name_of_set, name) for name_of_set, parts in SETS.items() for name in parts.get(part, ())]


def assert_draws(buffer, expected):
    drawn = draw(buffer)
    assert drawn.keys() <= set(expected.files)
    # Exponential functions may differ in the last digit between CPUs
    for name in ("probabilities", "weights"):
        np.testing.assert_allclose(drawn.pop(name), expected[name], rtol=1e-6 if name == "weights" else 1e-12)
    for name, array in drawn.items():
        assert np.array_equal(array, expected[name]), name


def add_rows(buffer, n_rows):
    """Add the oldest rows again."""
    for row in range(n_rows):
        obs, next_obs = (
            {key: value[index] for key, value in buffer.observations.items()}
            if isinstance(buffer.observations, dict)
            else buffer.observations[index]
            for index in (row, row + 1)
        )
        infos = [{"replay_weight": 1.0} for _ in range(buffer.n_envs)]
        done = np.zeros(buffer.n_envs)
        buffer.add(obs, next_obs, buffer.actions[row], np.full(buffer.n_envs, 1e3), done, infos)


def assert_can_be_used(buffer):
    """New rows are added and drawn, and priorities can be updated."""
    add_rows(buffer, 10)
    batch = buffer.sample(1_000)
    assert (buffer.ages_of(batch.indices) < 10 * buffer.n_envs).sum() > 10
    if buffer.prioritized:
        buffer.update_priorities(batch.indices[:3], np.full(3, 2.0))


@pytest.mark.parametrize(("name_of_set", "name"), files("folders"))
def test_a_folder_of_a_buffer_loads_and_draws_what_was_saved(name_of_set, name, tmp_path):
    path = FIXTURES / name_of_set / "folders" / name
    shutil.unpack_archive(f"{path}.zip", tmp_path / name)
    expected = np.load(f"{path}.npz")
    cls, n_envs, _, _ = BUFFERS[name]
    env = dict(env=make_env("BitFlipping", n_envs)) if cls is DecayedHerReplayBuffer else {}
    buffer = cls.load(tmp_path / name, device="cpu", **env)
    assert buffer.size() == expected["size"]
    assert_draws(buffer, expected)
    if cls is not DecayedHerReplayBuffer:
        assert_can_be_used(buffer)


@pytest.mark.parametrize(("name_of_set", "name"), files("pickles"))
def test_a_pickled_buffer_loads_and_draws_what_was_saved(name_of_set, name, tmp_path):
    path = FIXTURES / name_of_set / "pickles" / name
    (tmp_path / "buffer.pkl").write_bytes(gzip.decompress(Path(f"{path}.pkl.gz").read_bytes()))
    cls, n_envs, _, _ = BUFFERS[name]
    buffer = load_from_pkl(tmp_path / "buffer.pkl")
    assert type(buffer) is cls
    if cls is DecayedHerReplayBuffer:
        buffer.set_env(make_env("BitFlipping", n_envs))
    assert_draws(buffer, np.load(f"{path}.npz"))
    if cls is not DecayedHerReplayBuffer:
        assert_can_be_used(buffer)


@pytest.mark.parametrize(("name_of_set", "name"), files("models"))
def test_a_model_loads_and_goes_on(name_of_set, name):
    path = FIXTURES / name_of_set / "models" / name
    algorithm, _, env, n_envs, _ = MODELS[name]
    model = algorithm.load(f"{path}.zip", env=make_env(env, n_envs), device="cpu")
    assert np.array_equal(parameters_of(model), np.load(f"{path}.npz")["parameters"])
    model.learn(60)
    assert model.replay_buffer.size() > 0


@pytest.mark.parametrize(("name_of_set", "name"), files("checkpoints"))
def test_a_checkpoint_is_resumed_and_draws_what_was_saved(name_of_set, name, tmp_path):
    path = FIXTURES / name_of_set / "checkpoints" / name
    shutil.unpack_archive(f"{path}.zip", tmp_path / "checkpoint")
    expected = np.load(f"{path}.npz")
    _, _, env, n_envs, _ = MODELS[name]
    model = resume(tmp_path / "checkpoint", make_env(env, n_envs), device="cpu")
    assert np.array_equal(parameters_of(model), expected["parameters"])
    assert (model.num_timesteps, model._n_updates) == (expected["num_timesteps"], expected["n_updates"])
    assert model.replay_buffer.size() == expected["size"]
    assert_draws(model.replay_buffer, expected)
    model.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize(("name_of_set", "name"), files("meta_learners"))
def test_a_meta_learner_is_loaded_and_resumed_and_goes_on(name_of_set, name, tmp_path):
    path = FIXTURES / name_of_set / "meta_learners" / name
    shutil.unpack_archive(f"{path}-checkpoint.zip", tmp_path / "checkpoint")
    expected = np.load(f"{path}.npz")
    tasks, options = META_LEARNERS[name]
    resumed = resume_meta_training(tmp_path / "checkpoint", tasks, device="cpu")
    assert {task: buffer.size() for task, buffer in resumed.replay_buffers.items()} == {0: 40, 1: 40}
    for learner in (ReptileMetaLearner.load(f"{path}.zip", tasks, device="cpu"), resumed):
        assert sorted(learner.parameters) == sorted(expected.files)
        for parameter, value in learner.parameters.items():
            assert np.array_equal(value.numpy(), expected[parameter]), parameter
        assert (learner.num_meta_iterations, learner.n_meta_iterations_ever, learner.num_timesteps) == (2, 2, 240)
        assert {option: getattr(learner, option) for option in options if option != "device"} == {
            option: value for option, value in options.items() if option != "device"
        }
        assert list(learner.optimizers) == ["policy.optimizer"]
        learner.learn(1, reset_num_timesteps=False)
        assert learner.num_meta_iterations == 3


@pytest.mark.parametrize(("name_of_set", "version"), [("v0_1", 2), ("format_1", 1)])
def test_the_files_have_the_format_that_they_stand_for(name_of_set, version, tmp_path):
    for part in ("folders", "checkpoints"):
        for path in (FIXTURES / name_of_set / part).glob("*.zip"):
            shutil.unpack_archive(path, tmp_path / part / path.stem)
            manifest = json.loads((tmp_path / part / path.stem / MANIFEST).read_text())
            assert manifest["format_version"] == version
