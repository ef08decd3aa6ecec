"""`sb3-reptile inspect`: pickled buffers, saved folders and checkpoints."""

import os
import shutil

import numpy as np
import pytest
import torch as th
from matplotlib import pyplot as plt
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_reptile import (
    DecayedHerReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    ReptileDQN,
)
from sb3_reptile.checkpoint import ResumableCheckpoint
from sb3_reptile.checkpoint.resuming import list_checkpoints
from sb3_reptile.replay import PowerLaw
from sb3_reptile.storage import MissingArgumentError
from sb3_reptile.zoo.inspection import load_saved_buffer
from tests.zoo.commands import run

SMALL = dict(buffer_size=200, learning_starts=30, batch_size=8, seed=0, device="cpu")


def test_a_run_is_drawn(logs, here, tmp_path):
    output = run("-m", "sb3_reptile.zoo", "inspect", logs / "reptile_dqn" / "CartPole-v1_1", "-o", tmp_path / "a.png")
    assert f"Drawn to {tmp_path / 'a.png'}" in output
    both = plt.imread(tmp_path / "a.png")
    here("inspect", logs / "reptile_dqn" / "CartPole-v1_1" / "replay_buffer.pkl", "-o", tmp_path / "b.png")
    one = plt.imread(tmp_path / "b.png")
    height = both.shape[0] // 2
    # What was logged is drawn below, and only if there is a log
    assert (both[height:] < 0.9).any(axis=2).mean() > 2 * (one[height:] < 0.9).any(axis=2).mean()
    assert (one[:height] < 0.9).any(axis=2).mean() > 0.01


def test_errors_state_why_nothing_can_be_drawn(here, tmp_path):
    def refused(path):
        return here("inspect", path, code=2)

    assert f"error: there is no {tmp_path / 'nothing'}" in refused(tmp_path / "nothing")
    assert "holds neither replay_buffer.pkl" in refused(tmp_path)
    (tmp_path / "text.pkl").write_text("no pickle")
    assert "is not a saved replay buffer" in refused(tmp_path / "text.pkl")
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=10)
    model.save_replay_buffer(tmp_path / "uniform.pkl")
    assert "holds a ReplayBuffer; only decayed" in refused(tmp_path / "uniform.pkl")
    ReptileDQN("MlpPolicy", "CartPole-v1", buffer_size=10).save_replay_buffer(tmp_path / "empty.pkl")
    assert "is empty" in refused(tmp_path / "empty.pkl")
    for name in ("figure", "figure.doc"):
        output = here("inspect", tmp_path / "empty.pkl", "-o", tmp_path / name, code=2)
        assert "-o must end with one of" in output
        assert ".png" in output


def goals():
    return BitFlippingEnv(n_bits=4, max_steps=7)


MODELS = {
    "half-life": lambda: ReptileDQN("MlpPolicy", "CartPole-v1", half_life=50, **SMALL),
    "priorities": lambda: ReptileDQN("MlpPolicy", "CartPole-v1", priority="td_error", n_steps=3, **SMALL),
    "auto": lambda: ReptileDQN("MlpPolicy", "CartPole-v1", half_life="auto", **SMALL),
    "SAC": lambda: SAC("MlpPolicy", "Pendulum-v1", replay_buffer_class=DecayedReplayBuffer, **SMALL),
    "QRDQN": lambda: QRDQN(
        "MlpPolicy",
        "CartPole-v1",
        replay_buffer_class=DecayedNStepReplayBuffer,
        replay_buffer_kwargs=dict(n_steps=2, gamma=0.9, decay=PowerLaw(30)),
        **SMALL,
    ),
    "goals": lambda: DQN("MultiInputPolicy", goals(), replay_buffer_class=DecayedHerReplayBuffer, **SMALL),
    "dict": lambda: ReptileDQN("MultiInputPolicy", goals(), **SMALL),
    # The buffer needs no argument that a checkpoint cannot hold
    "functions": lambda: ReptileDQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=lambda progress: 1e-3 * progress,
        policy_kwargs=dict(net_arch=[8], activation_fn=Activation),
        **SMALL,
    ),
}


class Activation(th.nn.Tanh):
    """A class of the user's own."""


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_folder_and_a_checkpoint_give_the_buffer_of_the_model(model, tmp_path):
    model = MODELS[model]()
    model.learn(72, callback=ResumableCheckpoint(100, tmp_path / "checkpoints"))
    model.replay_buffer.save(tmp_path / "buffer")
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    for folder in (tmp_path / "buffer", newest):
        buffer = load_saved_buffer(folder)
        assert type(buffer) is type(model.replay_buffer)
        assert buffer.pos == model.replay_buffer.pos == 72
        assert np.array_equal(buffer.ages(), model.replay_buffer.ages())
        assert np.array_equal(buffer.sampling_probabilities(), model.replay_buffer.sampling_probabilities())


@pytest.mark.parametrize("buffer_size", [50, 500])
@pytest.mark.parametrize("model", ["half-life", "SAC"])
def test_a_checkpoint_gives_the_buffer_that_was_assigned(model, buffer_size, tmp_path):
    model = MODELS[model]()
    own = model.replay_buffer
    model.replay_buffer = DecayedReplayBuffer(
        buffer_size, own.observation_space, own.action_space, decay=PowerLaw(7), uniform_fraction=0.5
    )
    model.learn(72, callback=ResumableCheckpoint(100, tmp_path / "checkpoints"))
    buffer = load_saved_buffer(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert buffer.buffer_size == buffer_size != own.buffer_size
    assert np.array_equal(buffer.sampling_probabilities(), model.replay_buffer.sampling_probabilities())


def test_folders_are_drawn_and_stay_as_they_are(here, tmp_path):
    run = tmp_path / "run"
    model = MODELS["half-life"]()
    model.learn(72, callback=ResumableCheckpoint(30, run / "checkpoints", keep=3))
    model.replay_buffer.save(tmp_path / "buffer")
    newest = list_checkpoints(run / "checkpoints")[-1]
    files = sorted(newest.iterdir())
    pictures = []
    for folder, picture in [
        (tmp_path / "buffer", tmp_path),
        (newest, newest.parent),
        (newest.parent, newest.parent),
        (run, run),
    ]:
        assert f"Drawn to {picture / 'replay.png'}" in here("inspect", folder)
        # Without the title, which is the path
        pictures.append(plt.imread(picture / "replay.png")[40:])
        (picture / "replay.png").unlink()
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    assert (pictures[0][:300] < 0.9).any(axis=2).mean() > 0.01
    assert sorted(newest.iterdir()) == files
    # The newest is that of step 72, the one before is of another
    shutil.rmtree(newest)
    here("inspect", run)
    assert not np.array_equal(plt.imread(run / "replay.png")[40:], pictures[0])


def test_the_name_of_a_folder_is_no_mathematics(here, tmp_path):
    folder = tmp_path / r"run $\frac_x$"
    MODELS["half-life"]().learn(72).replay_buffer.save(folder)
    here("inspect", folder, "-o", tmp_path / "replay.png")


def test_a_pickle_of_the_run_comes_before_its_checkpoints(here, tmp_path):
    model = MODELS["half-life"]()
    model.learn(72, callback=ResumableCheckpoint(100, tmp_path / "checkpoints"))
    (tmp_path / "replay_buffer.pkl").write_text("no pickle")
    assert "replay_buffer.pkl is not a saved replay buffer" in here("inspect", tmp_path, code=2)


def test_a_buffer_class_of_ones_own_must_be_imported(here, tmp_path):
    class Mine(DecayedReplayBuffer):
        pass

    model = DQN("MlpPolicy", "CartPole-v1", replay_buffer_class=Mine, **SMALL)
    model.learn(40, callback=ResumableCheckpoint(100, tmp_path / "checkpoints"))
    model.replay_buffer.save(tmp_path / "imported")
    assert type(load_saved_buffer(tmp_path / "imported")) is Mine
    Mine.__name__ = "Theirs"
    model.replay_buffer.save(tmp_path / "unknown")
    Mine.__name__ = "Mine"
    output = here("inspect", tmp_path / "unknown", code=2)
    assert f"error: {tmp_path / 'unknown'} holds a Theirs, a class that is not imported" in output
    output = here("inspect", tmp_path, code=2)
    assert output.startswith("sb3-reptile: error: replay_buffer_class must be given again")
    assert output.count("\n") == 1


def test_a_buffer_with_a_function_for_a_decay_is_refused_in_one_line(here, tmp_path):
    kwargs = dict(decay=lambda ages: 1 / (1 + ages))
    model = ReptileDQN("MlpPolicy", "CartPole-v1", replay_buffer_kwargs=kwargs, **SMALL)
    model.learn(40, callback=ResumableCheckpoint(100, tmp_path / "checkpoints"))
    model.replay_buffer.save(tmp_path / "buffer")
    for path in (tmp_path / "buffer", tmp_path):
        output = here("inspect", path, code=2)
        assert output.startswith("sb3-reptile: error: decay must be given again")
        assert output.count("\n") == 1
    with pytest.raises(MissingArgumentError):
        load_saved_buffer(tmp_path / "buffer")


def test_bad_folders_are_refused_in_one_line(here, tmp_path):
    def refused(path):
        output = here("inspect", path, code=2)
        assert output.startswith("sb3-reptile: error: ")
        assert output.count("\n") == 1
        return output

    model = MODELS["half-life"]()
    model.learn(40, callback=ResumableCheckpoint(100, tmp_path / "run" / "checkpoints"))
    model.replay_buffer.save(tmp_path / "buffer")
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    for folder in (tmp_path / "buffer", newest):
        file = folder / "transitions-0.safetensors"
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert "is damaged: the checksum of" in refused(folder)
        file.unlink()
        assert f"is damaged: {file.name} is missing" in refused(folder)
    (newest / "manifest.json").write_text(
        (newest / "manifest.json").read_text().replace("sb3-reptile", "sb3_reptile", 1)
    )
    assert "manifest.json" in refused(tmp_path / "run")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "app"}')
    assert "was not written by sb3-reptile" in refused(tmp_path / "web")

    DecayedReplayBuffer(10, model.observation_space, model.action_space).save(tmp_path / "empty")
    assert f"the replay buffer in {tmp_path / 'empty'} is empty" in refused(tmp_path / "empty")
    uniform = DQN("MlpPolicy", "CartPole-v1", **SMALL)
    uniform.learn(40, callback=ResumableCheckpoint(100, tmp_path / "uniform"))
    assert "holds a ReplayBuffer; only decayed replay buffers" in refused(tmp_path / "uniform")
    unfinished = DQN("MultiInputPolicy", goals(), replay_buffer_class=DecayedHerReplayBuffer, **SMALL)
    unfinished.learn(2, callback=ResumableCheckpoint(100, tmp_path / "unfinished"))
    assert "cannot be sampled before the end of the first episode" in refused(tmp_path / "unfinished")


def test_a_damaged_log_is_drawn_as_far_as_it_can_be_read(here, tmp_path):
    log = tmp_path / "progress.csv"
    rows = [f"{step},{step / 2},{step / 3}\n" for step in range(100, 900, 100)]
    text = "time/total_timesteps,replay/effective_sample_size,replay/mean_age\n" + "".join(rows)
    log.write_bytes(text.encode() + b"\xff\xfe,\x00\n800,nothing,3,4,5\n900,4")
    with pytest.warns(UserWarning, match="2 damaged lines of .* are left out"):
        here("inspect", tmp_path)
    assert (plt.imread(tmp_path / "replay.png") < 0.9).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.csv", "replay.png"]
    log.write_bytes(b"\x00" * 500)
    with pytest.warns(UserWarning, match="1 damaged lines"):
        assert "sb3-reptile: error: " in here("inspect", tmp_path, code=2)


def test_a_picture_that_cannot_be_drawn_leaves_the_former_one(logs, here, tmp_path, monkeypatch):
    picture = tmp_path / "replay.png"
    picture.write_text("former")

    def fail(figure, path, **kwargs):
        path.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    output = here("inspect", logs / "reptile_dqn" / "CartPole-v1_1", "-o", picture, code=2)
    assert "no space left on device" in output
    assert picture.read_text() == "former"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "error: there is no" in here("inspect", fifo, code=2)
