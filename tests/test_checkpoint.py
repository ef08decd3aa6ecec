"""Training goes on from a checkpoint as if it had not stopped, whatever stopped it; what is wrong with one is told."""

import contextlib
import copy
import errno
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_reptile import DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.callbacks import HalfLifeSchedule
from sb3_reptile.checkpoint import EpisodeRecorder, ResumableCheckpoint, resume
from sb3_reptile.checkpoint.resuming import KIND, checkpoints_in
from sb3_reptile.envs import PermutedActions
from sb3_reptile.storage import (
    DamagedError,
    ForeignError,
    MissingArgumentError,
    NewerVersionError,
    NotStorableError,
    OtherSpacesError,
    StorageError,
)
from sb3_reptile.storage.folder import MANIFEST, Folder
from tests.test_storage import STRANGE, Trap, mutations, places, put, sealed

ROOT = Path(__file__).parent.parent
DECAYED = dict(replay_buffer_class=DecayedReplayBuffer)


def small(**options):
    settings = dict(buffer_size=300, learning_starts=30, batch_size=8, seed=0, device="cpu")
    # SB3 writes into the inner ones
    return copy.deepcopy(settings | dict(policy_kwargs=dict(net_arch=[8])) | options)


class Cut(Exception):
    """Ends training in the middle of a rollout."""


class EachStep(BaseCallback):
    """Calls a function with the number of steps."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        self.function(self.num_timesteps)
        return True


def cut_at(step):
    def cut(num_timesteps):
        if num_timesteps >= step:
            raise Cut

    return EachStep(cut)


def cartpole(n_envs=1, **kwargs):
    return make_vec_env("CartPole-v1", n_envs=n_envs, **kwargs)


def pendulum(n_envs=1, **kwargs):
    return make_vec_env("Pendulum-v1", n_envs=n_envs, env_kwargs=dict(max_episode_steps=47), **kwargs)


def bit_flipping():
    return make_vec_env(BitFlippingEnv, env_kwargs=dict(n_bits=4, max_steps=7))


class Parts(gym.ObservationWrapper):
    """Dict observations."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({key: spaces.Box(-np.inf, np.inf, (2,)) for key in ("cart", "pole")})

    def observation(self, obs):
        return {"cart": obs[:2], "pole": obs[2:]}


def images():
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
    env.observation_space.seed(0)
    return VecFrameStack(DummyVecEnv([lambda: env]), 2)


def drifting():
    return PermutedActions(gym.make("CartPole-v1"), period=70)


CASES = {
    "reptile_dqn": (ReptileDQN, cartpole, dict(train_freq=4)),
    "reptile_dqn, all of it": (
        ReptileDQN,
        cartpole,
        dict(
            priority="td_error", n_steps=3, double_q=True, train_freq=8, gradient_steps=2, tau=0.5,
            target_update_interval=20, learning_rate=LinearSchedule(1e-2, 1e-3, 0.7), exploration_fraction=0.8,
            replay_buffer_kwargs=dict(decay="power_law", uniform_fraction=0.1),
        ),
    ),
    "reptile_dqn, 3 environments": (ReptileDQN, lambda: cartpole(3), dict(train_freq=4, weighting="loss")),
    "reptile_dqn, RMSprop": (
        ReptileDQN,
        cartpole,
        dict(policy_kwargs=dict(net_arch=[8], optimizer_class=th.optim.RMSprop, activation_fn=th.nn.Tanh)),
    ),
    "reptile_dqn, auto": (ReptileDQN, lambda: cartpole(2), dict(half_life="auto", train_freq=4)),
    "reptile_dqn, drifting": (ReptileDQN, drifting, dict(train_freq=4)),
    "reptile_dqn, dict": (
        ReptileDQN,
        lambda: cartpole(wrapper_class=Parts),
        dict(policy="MultiInputPolicy"),
    ),
    "dqn": (DQN, cartpole, {}),
    "dqn, n-step": (DQN, cartpole, dict(n_steps=3)),
    "dqn, memory optimised": (
        DQN,
        cartpole,
        dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    ),
    "dqn, hindsight": (DQN, bit_flipping, dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer)),
    "reptile_dqn, hindsight": (
        ReptileDQN,
        bit_flipping,
        dict(policy="MultiInputPolicy", replay_buffer_class=DecayedHerReplayBuffer),
    ),
    "dqn, frames": (
        DQN,
        images,
        dict(policy="CnnPolicy", buffer_size=100, policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8))),
    ),
    "qrdqn": (QRDQN, lambda: cartpole(2), dict(**DECAYED, policy_kwargs=dict(net_arch=[8], n_quantiles=5))),
    "sac": (SAC, pendulum, dict(**DECAYED, replay_buffer_kwargs=dict(half_life=50))),
    "sac, normalised": (SAC, lambda: VecNormalize(pendulum(2)), dict(train_freq=2, ent_coef=0.2)),
    "td3": (TD3, pendulum, dict(**DECAYED, action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)))),
    "ddpg": (DDPG, pendulum, dict(train_freq=(1, "episode"), gradient_steps=5)),
    "tqc": (TQC, lambda: pendulum(2), dict(**DECAYED, top_quantiles_to_drop_per_net=1)),
}  # fmt: skip


def make_model(case, **more):
    algorithm, make_env, options = CASES[case]
    return algorithm(env=make_env(), **small(**dict(policy="MlpPolicy") | options | more))


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


def resumable(tmp_path, at=60, total=120, env=None, callback=(), **options):
    """A model that was cut while it trained, and the folder of its checkpoints."""
    model = ReptileDQN("MlpPolicy", env or cartpole(), **small(**options))
    with pytest.raises(Cut):
        model.learn(total, callback=[*callback, ResumableCheckpoint(20, tmp_path / "run"), cut_at(at)])
    return model, tmp_path / "run"


# ---- Killed processes


def run_killed_training(what, folder):
    command = [sys.executable, "-m", "tests.killed_training", what, folder]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_no_kill_loses_more_than_save_freq_steps(tmp_path):
    output = run_killed_training("kills", tmp_path)
    kills, inside = re.match(r"(\d+) kills, (\d+) of them inside a save", output).groups()
    assert int(kills) == 50
    assert int(inside) >= 5
    assert int(re.search(r"(\d+) steps", output)[1]) > 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_ten_thousand_steps_a_kill_and_ten_thousand_more_are_twenty_thousand(tmp_path):
    assert run_killed_training("exact", tmp_path) == "the same\n"


# ---- What fails while saving


def test_a_full_disk_does_not_end_training_and_leaves_the_old_checkpoint(tmp_path):
    def limit(num_timesteps):
        if num_timesteps == 41:  # the system refuses larger files from now on, as it would on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    try:
        with pytest.warns(UserWarning, match=r"no checkpoint at step 60, training goes on: .*too large.*40 st"):
            model.learn(60, callback=[ResumableCheckpoint(20, tmp_path), EachStep(limit)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert model.num_timesteps == 60
    assert sorted(os.listdir(tmp_path)) == ["000002-step-20", "000003-step-40"]
    assert resume(tmp_path, cartpole()).num_timesteps == 40


def test_a_folder_that_cannot_be_written_does_not_end_training(tmp_path, monkeypatch):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    mkdir = Path.mkdir

    def read_only(path, *args, **kwargs):
        if model.num_timesteps > 30 and tmp_path in path.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.warns(UserWarning, match=r"no checkpoint at step 40.*Read-only file system.*step-20 stays"):
        model.learn(60, callback=ResumableCheckpoint(20, tmp_path))
    monkeypatch.undo()
    assert model.num_timesteps == 60
    assert resume(tmp_path, cartpole()).num_timesteps == 20


def test_a_path_that_can_never_be_written_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match=r"no checkpoint at step 0, training goes on.*there is none yet"):
        ReptileDQN("MlpPolicy", cartpole(), **small()).learn(20, callback=ResumableCheckpoint(20, tmp_path / "file"))


def test_what_cannot_be_saved_is_told_at_the_beginning(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    model.policy = model.policy.bfloat16()
    with pytest.raises(NotStorableError, match=r"is of type torch.bfloat16, which NumPy does not have"):
        model.learn(20, callback=ResumableCheckpoint(20, tmp_path))


# ---- Which checkpoints there are


def steps_of(folder):
    return [int(path.name.split("-")[-1]) for path in checkpoints_in(folder)]


def test_as_many_are_kept_as_asked_and_the_last_is_the_end(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(2), train_freq=4, **small())
    seen = []
    look = EachStep(lambda _: seen.append(steps_of(tmp_path)))
    model.learn(96, callback=[ResumableCheckpoint(21, tmp_path, keep=3), look])
    assert seen[0] == [0]
    assert seen[-1] == [48, 64, 80]
    assert steps_of(tmp_path) == [64, 80, 96]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    again = resume(tmp_path, cartpole(2))
    again.learn(32, callback=ResumableCheckpoint(21, tmp_path, keep=3), reset_num_timesteps=False)
    assert steps_of(tmp_path) == [96, 112, 128]


def test_checkpoints_of_another_run_are_not_touched(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), **small())
    callback = ResumableCheckpoint(20, tmp_path)
    model.learn(40, callback=callback)
    model.learn(20, callback=callback, reset_num_timesteps=False)
    assert steps_of(tmp_path) == [40, 60]
    with pytest.raises(ValueError, match=r"holds checkpoints of another run: go on from them with resume\("):
        ReptileDQN("MlpPolicy", cartpole(), **small()).learn(40, callback=ResumableCheckpoint(20, tmp_path))
    assert steps_of(tmp_path) == [40, 60]


def test_a_folder_is_the_same_by_any_name(tmp_path, monkeypatch):
    _, folder = resumable(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = resume("run", cartpole())
    model.learn(4, callback=ResumableCheckpoint(20, folder), reset_num_timesteps=False)
    model = resume(folder, cartpole())
    model.learn(4, callback=ResumableCheckpoint(20, "run"), reset_num_timesteps=False)
    assert steps_of(folder) == [44, 48]


def test_from_an_older_one_the_newer_are_replaced(tmp_path):
    _, folder = resumable(tmp_path)
    older = checkpoints_in(folder)[0]
    model = resume(older, cartpole())
    assert model.num_timesteps == 20
    model.learn(20, callback=ResumableCheckpoint(20, folder, keep=3), reset_num_timesteps=False)
    assert steps_of(folder) == [20, 40]


def test_a_damaged_one_is_passed_over_and_mended(tmp_path):
    _, folder = resumable(tmp_path)
    newer = checkpoints_in(folder)[-1]
    file = newer / "parameters.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"parameters.safetensors is damaged"):
        resume(newer, cartpole())
    with pytest.warns(UserWarning, match=r"is damaged.*the checkpoint before is taken, .*step-20"):
        model = resume(folder, cartpole())
    assert model.num_timesteps == 20
    model.learn(40, callback=ResumableCheckpoint(20, folder), reset_num_timesteps=False)
    assert steps_of(folder) == [40, 60]
    assert resume(folder, cartpole()).num_timesteps == 60


def test_a_shared_file_that_is_damaged_is_written_anew(tmp_path):
    model = ReptileDQN("MlpPolicy", cartpole(), learning_starts=1_000, buffer_size=90_000, seed=0)
    callback = ResumableCheckpoint(40, tmp_path)

    def damage(num_timesteps):
        if num_timesteps == 50:
            (path,) = checkpoints_in(tmp_path)[-1:]
            # Nothing is trained yet, so that the next checkpoint has the same parameters
            with (path / "parameters.safetensors").open("r+b") as file:
                file.seek(-5, os.SEEK_END)
                file.write(b"?")

    model.learn(80, callback=[callback, EachStep(damage)])
    older, newer = checkpoints_in(tmp_path)
    with pytest.raises(DamagedError):
        Folder(older, KIND).verify()
    Folder(newer, KIND).verify()


def test_leftovers_of_processes_that_ended_are_removed(tmp_path):
    _, folder = resumable(tmp_path)
    (folder / ".000009-step-99.123.saving").mkdir()
    model = resume(folder, cartpole())
    model.learn(4, callback=ResumableCheckpoint(20, folder), reset_num_timesteps=False)
    assert all(not name.startswith(".") for name in os.listdir(folder))


# ---- What a checkpoint is resumed with


def test_arguments_can_be_changed_and_functions_must_be_given(tmp_path):
    def schedule(progress):
        return 1e-3 * progress

    _, folder = resumable(
        tmp_path, learning_rate=schedule, replay_buffer_kwargs=dict(decay=lambda age: 0.99**age, uniform_fraction=0.2)
    )
    with pytest.raises(MissingArgumentError, match=r"learning_rate must be given again, resume\(..., learning_rate="):
        resume(folder, cartpole())
    with pytest.raises(MissingArgumentError, match=r"decay must be given again, resume with replay_buffer_kwargs=dict"):
        resume(folder, cartpole(), learning_rate=schedule)
    kwargs = dict(learning_rate=schedule, batch_size=16, verbose=1)
    resumed = resume(folder, cartpole(), replay_buffer_kwargs=dict(decay=lambda age: 0.5**age), **kwargs)
    assert resumed.batch_size == 16
    assert resumed.replay_buffer.uniform_fraction == 0.2
    assert resumed.replay_buffer.diagnostics().expected_age < 20
    assert resumed.learning_rate is schedule
    assert resumed.seed == 0


class OwnDQN(DQN):
    pass


class OwnNet(th.nn.ReLU):
    pass


def test_classes_of_ones_own_must_be_given(tmp_path):
    OwnDQN("MlpPolicy", cartpole(), **small(policy_kwargs=dict(activation_fn=OwnNet))).learn(
        40, callback=ResumableCheckpoint(20, tmp_path)
    )
    with pytest.raises(MissingArgumentError, match=r"algorithm must be given again"):
        resume(tmp_path, cartpole())
    with pytest.raises(MissingArgumentError, match=r"activation_fn must be given again"):
        resume(tmp_path, cartpole(), algorithm=OwnDQN)
    model = resume(tmp_path, cartpole(), algorithm=OwnDQN, policy_kwargs=dict(activation_fn=OwnNet))
    assert type(model) is OwnDQN
    assert isinstance(model.q_net.q_net[1], OwnNet)


def test_a_half_life_that_changes_goes_on_changing(tmp_path):
    schedule = {"start": 50, "end": 500, "end_fraction": 1.0}
    _, folder = resumable(tmp_path, callback=[HalfLifeSchedule(schedule)], priority="td_error")
    model = resume(folder, cartpole())
    assert model.half_life == model.replay_buffer.half_life == pytest.approx(50 + 450 * 40 / 120)


def test_a_buffer_on_disk_stays_there(tmp_path):
    _, folder = resumable(tmp_path, replay_buffer_kwargs=dict(storage_dir=str(tmp_path)))
    model = resume(folder, cartpole())
    assert model.replay_buffer._scratch.storage_dir == tmp_path
    assert model.replay_buffer.size() == 40


def test_the_model_is_one_of_sb3s_in_every_way(tmp_path):
    _, folder = resumable(tmp_path)
    resumed = resume(folder, "CartPole-v1")
    resumed.save(tmp_path / "model")
    resumed.save_replay_buffer(tmp_path / "buffer")
    again = ReptileDQN.load(tmp_path / "model", env=cartpole())
    again.load_replay_buffer(tmp_path / "buffer")
    assert again.replay_buffer.size() == resumed.replay_buffer.size() == 40
    again.learn(20)


# ---- Environments


@pytest.mark.parametrize("recorded", [False, True])
def test_environments_in_other_processes_go_on_where_they_have_a_recorder(recorded, tmp_path):
    make = (lambda: EpisodeRecorder(gym.make("CartPole-v1"))) if recorded else lambda: gym.make("CartPole-v1")
    env = SubprocVecEnv([make, make], start_method="fork")
    try:
        _, folder = resumable(tmp_path, at=90, env=env)
    finally:
        env.close()
    expected = contextlib.nullcontext() if recorded else pytest.warns(UserWarning, match="could not be brought to")
    with expected:
        model = resume(folder, DummyVecEnv([make, make]))
    assert (model._last_obs is not None) == recorded
    model.learn(20, reset_num_timesteps=False)


class Dice(gym.Wrapper):
    """Chance that nobody can bring back."""

    def step(self, action):
        obs, *others = self.env.step(action)
        return obs + np.random.default_rng().normal(0, 0.01, 4).astype(np.float32), *others


@pytest.mark.parametrize("n_steps", [1, 3])
def test_an_environment_that_cannot_be_brought_back_is_reset(n_steps, tmp_path):
    def dice():
        return make_vec_env("CartPole-v1", wrapper_class=Dice)

    _, folder = resumable(tmp_path, env=dice(), n_steps=n_steps)
    with pytest.warns(UserWarning, match=r"could not be brought to where it was and is reset.*docs/checkpoints.md"):
        model = resume(folder, dice())
    newest = model.replay_buffer.pos - 1
    assert model.replay_buffer.timeouts[newest] + model.replay_buffer.dones[newest] == 1  # no return runs over it
    model.learn(30, reset_num_timesteps=False)


def test_another_environment_is_refused(tmp_path):
    _, folder = resumable(tmp_path)
    for env, message in [
        ("Acrobot-v1", r"whose observation_space is Box.*, that of this one is Box"),
        (cartpole(2), r"is of 1 environments, these are 2"),
        (VecNormalize(cartpole()), r"is wrapped in \[\], this one in \['VecNormalize'\]: wrap it in the same way"),
    ]:
        with pytest.raises(OtherSpacesError, match=message):
            resume(folder, env)

    class Wider(gym.ActionWrapper):
        action_space = spaces.Discrete(3)

    with pytest.raises(OtherSpacesError, match=r"whose action_space is Discrete\(2\), that of this one is Discrete\(3"):
        resume(folder, Wider(gym.make("CartPole-v1")))


def test_only_off_policy_algorithms_have_them(tmp_path):
    with pytest.raises(ValueError, match="for off-policy algorithms, got PPO: use SB3's CheckpointCallback"):
        PPO("MlpPolicy", cartpole(), n_steps=8, batch_size=8).learn(8, callback=ResumableCheckpoint(8, tmp_path))


@pytest.mark.parametrize("arguments", [dict(save_freq=0), dict(save_freq=1.5), dict(save_freq=10, keep=0)])
def test_bad_arguments_are_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match=r"(save_freq|keep) must be a whole number >= 1, got"):
        ResumableCheckpoint(path=tmp_path, **arguments)


# ---- What is no good checkpoint


@pytest.fixture(scope="module")
def one_checkpoint(tmp_path_factory):
    _, folder = resumable(tmp_path_factory.mktemp("checkpoint"), priority="td_error")
    return checkpoints_in(folder)[-1]


@pytest.fixture
def checkpoint(one_checkpoint, tmp_path):
    return Path(shutil.copytree(one_checkpoint, tmp_path / "checkpoint"))


def test_each_thing_that_can_be_wrong_has_its_own_error(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nothing"):
        with pytest.raises(FileNotFoundError, match=r"there is no"):
            resume(tmp_path / missing, cartpole())
    ReptileDQN("MlpPolicy", cartpole(), **small()).save(tmp_path / "model.zip")
    with pytest.raises(ForeignError, match=r"model.zip is no checkpoint saved by sb3-reptile.*loaded by load\(\)"):
        resume(tmp_path / "model.zip", cartpole())
    resume(checkpoint, cartpole()).replay_buffer.save(tmp_path / "buffer")
    with pytest.raises(ForeignError, match="holds a replay buffer, not a checkpoint"):
        resume(tmp_path / "buffer", cartpole())
    (checkpoint / "weights-0.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"weights-0.safetensors is missing"):
        resume(checkpoint, cartpole())
    sealed(checkpoint, lambda manifest: manifest.update(format_version=7))
    with pytest.raises(NewerVersionError, match=r"has format version 7, this version .* knows 2 and older: upgrade"):
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
def test_strange_but_sealed_manifests_are_refused_or_harmless(checkpoint):
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
