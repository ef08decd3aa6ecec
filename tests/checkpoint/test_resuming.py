"""Training continues from a checkpoint as if it had not been interrupted, and damaged checkpoints are refused."""

import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile import DecayedReplayBuffer, ReptileDQN
from sb3_reptile.checkpoint import ResumableCheckpoint, resume
from sb3_reptile.checkpoint.buffers import get_buffer_arguments
from sb3_reptile.checkpoint.resuming import list_checkpoints
from sb3_reptile.storage import DamagedError, ForeignError, MissingArgumentError, NewerVersionError, StorageError
from sb3_reptile.storage.folder import MANIFEST
from tests.checkpoint.training import CASES, Cut, cartpole, cut_at, make_model, resumable, small
from tests.storage.corruption import STRANGE, Trap, mutations, places, put, sealed


def buffer_kwargs(**kwargs):
    return dict(replay_buffer_kwargs=kwargs)


ROOT = Path(__file__).parents[2]


def assert_same(ours, theirs):
    for key, value in theirs.policy.state_dict().items():
        assert th.equal(ours.policy.state_dict()[key], value), key
    assert np.array_equal(ours.replay_buffer.rewards, theirs.replay_buffer.rewards)
    assert np.array_equal(ours.replay_buffer.actions, theirs.replay_buffer.actions)
    for name in ("num_timesteps", "_n_updates", "_episode_num", "exploration_rate"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)


# Of SB3, about its own NStepReplayBuffer and memory optimisation
@pytest.mark.filterwarnings("ignore:The last trajectory")
@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_bit_for_bit_in_the_middle_of_an_episode(case, tmp_path):
    total, at = (470, 235) if case == "ddpg" else (160, 80)
    straight = make_model(case)
    straight.learn(total, callback=ResumableCheckpoint(at, tmp_path / "straight"))
    with pytest.raises(Cut):
        make_model(case).learn(total, callback=[ResumableCheckpoint(at, tmp_path / "cut"), cut_at(at + 9)])
    np.random.seed(99)  # of another process
    th.manual_seed(99)
    resumed = resume(tmp_path / "cut", CASES[case][1](), device="cpu")
    assert 0 < at - 10 <= resumed.num_timesteps <= at
    assert type(resumed) is CASES[case][0]
    resumed.learn(total - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, straight)
    assert resumed._n_updates > 0


# A model, and the options of another one whose buffer it trains with
WITH_ANOTHER_BUFFER = {
    "smaller": ("reptile_dqn", dict(buffer_size=50)),
    "larger, another decay": (
        "reptile_dqn",
        dict(buffer_size=400, half_life=None, replay_buffer_kwargs=dict(decay={"window": dict(size=40)})),
    ),
    "auto with a decay": ("reptile_dqn, 3 environments", dict(weighting="sampling", **buffer_kwargs(decay="ere"))),
    "no auto": ("reptile_dqn, auto", dict(half_life=50, replay_buffer_kwargs=dict(uniform_fraction=0.3))),
    "initial weights": ("reptile_dqn, dict", buffer_kwargs(initial_weights="random", combined=True)),
    "priorities": ("reptile_dqn", dict(priority="td_error", half_life=30)),
    "n-step returns": ("sac", buffer_kwargs(half_life=20, n_steps=3, gamma=0.9)),
    "without decay": ("qrdqn", dict(replay_buffer_class=ReplayBuffer)),
    "of SB3": ("dqn", dict(buffer_size=50)),
    "of SB3, n-step": ("dqn", dict(buffer_size=50, n_steps=3)),
    "hindsight": ("reptile_dqn, hindsight", dict(buffer_size=40, **buffer_kwargs(n_sampled_goal=2))),
    "hindsight of SB3": ("dqn, hindsight", dict(buffer_size=40, **buffer_kwargs(n_sampled_goal=2))),
}


@pytest.mark.filterwarnings("ignore:The last trajectory", "ignore:beta=", "ignore:You are using")
@pytest.mark.parametrize("case", WITH_ANOTHER_BUFFER)
def test_training_with_another_buffer_than_the_model_made_goes_on_bit_for_bit(case, tmp_path):
    case, options = WITH_ANOTHER_BUFFER[case]

    def model():
        made = make_model(case)
        made.replay_buffer = make_model(case, **options).replay_buffer
        if isinstance(made.replay_buffer, HerReplayBuffer):
            made.replay_buffer.env = made.env
        return made

    straight = model()
    straight.learn(160, callback=ResumableCheckpoint(80, tmp_path / "straight"))
    with pytest.raises(Cut):
        model().learn(160, callback=[ResumableCheckpoint(80, tmp_path / "cut"), cut_at(89)])
    resumed = resume(tmp_path / "cut", CASES[case][1](), device="cpu")
    resumed.learn(160 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, straight)
    assert type(resumed.replay_buffer) is type(straight.replay_buffer)
    assert get_buffer_arguments(resumed.replay_buffer) == get_buffer_arguments(straight.replay_buffer)


def assigned(tmp_path, buffer_class=DecayedReplayBuffer, **options):
    """The folder of a model whose replay buffer was assigned."""
    model = ReptileDQN("MlpPolicy", cartpole(), **small(n_steps=1))
    spaces = model.observation_space, model.action_space
    model.replay_buffer = buffer_class(50, *spaces, device="cpu", **options)
    model.learn(60, callback=ResumableCheckpoint(60, tmp_path / "run"))
    return tmp_path / "run"


def by_age(ages):
    return 0.5 ** (ages / 7)


def test_arguments_that_are_given_override_those_of_an_assigned_buffer(tmp_path):
    folder = assigned(tmp_path, half_life=10, uniform_fraction=0.2)
    given = dict(half_life=30, n_steps=3, gamma=0.5, replay_buffer_kwargs=dict(on_bad_transition="skip"))
    buffer = resume(folder, cartpole(), **given).replay_buffer
    assert (buffer.buffer_size, buffer.half_life, buffer.uniform_fraction) == (50, 30, 0.2)
    assert (buffer.n_steps, buffer.gamma, buffer.on_bad_transition) == (3, 0.5, "skip")


def test_what_could_not_be_saved_of_an_assigned_buffer_must_be_given(tmp_path):
    folder = assigned(tmp_path, decay=by_age)
    with pytest.raises(MissingArgumentError, match=r"decay must be given again, resume with replay_buffer_kwargs=dict"):
        resume(folder, cartpole())
    buffer = resume(folder, cartpole(), half_life=None, replay_buffer_kwargs=dict(decay=by_age)).replay_buffer
    assert buffer.decay.function is by_age
    assert buffer.buffer_size == 50


class OwnBuffer(DecayedReplayBuffer):
    pass


def test_the_class_of_an_assigned_buffer_must_be_given_if_it_is_the_users(tmp_path):
    folder = assigned(tmp_path, OwnBuffer)
    with pytest.raises(MissingArgumentError, match=r"replay_buffer_class must be given again, resume\("):
        resume(folder, cartpole())
    buffer = resume(folder, cartpole(), replay_buffer_class=OwnBuffer).replay_buffer
    assert type(buffer) is OwnBuffer
    assert buffer.buffer_size == 50


@pytest.mark.parametrize("is_auto", [False, True])
def test_checkpoints_that_do_not_say_which_buffer_they_hold_are_resumed(is_auto, tmp_path):
    kwargs = dict(decay="ere")
    model = ReptileDQN("MlpPolicy", cartpole(), **small(replay_buffer_kwargs=kwargs))
    if not is_auto:  # as earlier versions lost it where they resumed such a model
        other = ReptileDQN("MlpPolicy", cartpole(), **small(half_life=None, replay_buffer_kwargs=kwargs))
        model.replay_buffer = other.replay_buffer
    model.learn(60, callback=ResumableCheckpoint(60, tmp_path))
    sealed(list_checkpoints(tmp_path)[-1], lambda manifest: manifest["state"].pop("buffer_arguments"))
    buffer = resume(tmp_path, cartpole()).replay_buffer
    assert (buffer.consistency is not None) == is_auto
    assert buffer.size() == 60


def run_killed_training(what, folder):
    command = [sys.executable, "-m", "tests.checkpoint.killed_training", what, folder]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_no_kill_loses_more_than_save_freq_steps(tmp_path):
    output = run_killed_training("kills", tmp_path)
    kills, inside = re.match(r"(\d+) kills, (\d+) of them inside a save", output).groups()
    assert int(kills) == 50
    assert int(inside) >= 5
    assert int(re.search(r"(\d+) steps", output)[1]) > 100


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_ten_thousand_steps_a_kill_and_ten_thousand_more_are_twenty_thousand(tmp_path):
    assert run_killed_training("exact", tmp_path) == "the same\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_training_that_is_killed_ends_as_without_in_every_configuration(disk):
    lines = run_killed_training("configurations", disk).splitlines()
    assert len(lines) >= 20
    assert not [line for line in lines if ": the same, " not in line]
    for kind in (
        "auto, priorities",
        "hindsight",
        "dict",
        "normalised",
        "subprocesses",
        "on disk",
        "all of it",
        "qrdqn",
    ):
        assert any(kind in line for line in lines)
    assert sum(int(line.split(", ")[-1].split()[0]) for line in lines) >= len(lines) // 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_job_that_is_resumed_twice_gets_an_error_until_the_first_is_killed(tmp_path):
    output = run_killed_training("twice", tmp_path / "run")
    assert re.match(r"InUseError: .*run is in use by another process \(pid PID\): wait until it has ended", output)


@pytest.fixture(scope="module")
def one_checkpoint(tmp_path_factory):
    _, folder = resumable(tmp_path_factory.mktemp("checkpoint"), priority="td_error")
    return list_checkpoints(folder)[-1]


@pytest.fixture
def checkpoint(one_checkpoint, tmp_path):
    return Path(shutil.copytree(one_checkpoint, tmp_path / "checkpoint"))


def test_each_fault_has_its_own_error(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nothing"):
        with pytest.raises(FileNotFoundError, match=r"there is no"):
            resume(tmp_path / missing, cartpole())
    ReptileDQN("MlpPolicy", cartpole(), **small()).save(tmp_path / "model.zip")
    with pytest.raises(ForeignError, match=r"model.zip is not a checkpoint saved by sb3-reptile.*with load\(\)"):
        resume(tmp_path / "model.zip", cartpole())
    resume(checkpoint, cartpole()).replay_buffer.save(tmp_path / "buffer")
    with pytest.raises(ForeignError, match="holds a replay buffer, not a checkpoint"):
        resume(tmp_path / "buffer", cartpole())
    (checkpoint / "weights-0.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"weights-0.safetensors is missing"):
        resume(checkpoint, cartpole())
    sealed(checkpoint, lambda manifest: manifest.update(format_version=7))
    with pytest.raises(NewerVersionError, match=r"has format version 7, this version .* reads 2 and older: upgrade"):
        resume(checkpoint, cartpole())


def test_mutated_files_are_refused_and_nothing_else_happens(checkpoint, tmp_path):
    generator = np.random.default_rng(0)
    env = cartpole()
    trap = pickle.dumps(Trap(tmp_path / "trapped"))
    for file in sorted(checkpoint.iterdir()):
        good = file.read_bytes()
        for bad in (*mutations(good, generator, 60), trap, b"", good * 2):
            file.write_bytes(bad)
            with pytest.raises(StorageError):
                resume(checkpoint, env)
        file.write_bytes(good)
    assert not (tmp_path / "trapped").exists()
    resume(checkpoint, env)


# Numbers that make a model but no sense, and what NumPy and PyTorch say of them
@pytest.mark.filterwarnings("ignore")
def test_forged_manifests_are_refused_or_harmless(checkpoint):
    good = json.loads((checkpoint / MANIFEST).read_text())
    generator = np.random.default_rng(1)
    everywhere = list(places(good))
    env = cartpole()
    for number in range(120):
        path = everywhere[number * len(everywhere) // 120]
        value = STRANGE[generator.integers(len(STRANGE))]
        sealed(checkpoint, lambda manifest, path=path, value=value: put(manifest, path, value))
        with contextlib.suppress(StorageError):
            resume(checkpoint, env)
        (checkpoint / MANIFEST).write_text(json.dumps(good))
    resume(checkpoint, env)
