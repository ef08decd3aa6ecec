"""Every entry of zoo_configs/ against the RL Zoo's own, and in the RL Zoo's own training, 200 steps of it."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import rl_zoo3.train
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC, TD3

from sb3_reptile import DecayedHerReplayBuffer, DecayedReplayBuffer, ReptileDQN
from sb3_reptile.replay.decay import DEFAULT_DECAY, Exponential
from sb3_reptile.zoo.experiment_manager import ALGO, zoo_configs
from sb3_reptile.zoo.patches import register

ZOO = Path(rl_zoo3.train.__file__).parent / "hyperparams"
FILES = {"dqn": DQN, "qrdqn": QRDQN, "reptile_dqn": ReptileDQN, "sac": SAC, "td3": TD3, "tqc": TQC}

# What the RL Zoo's files hold and ours do not, and what it would need
NO_MINITAUR = "not in pybullet_envs_gymnasium"
OLD_MUJOCO = "mujoco_py, of the old gym"
OLD_PANDA = "panda-gym < 2, of the old gym"
LEFT_OUT = {
    "sac": {
        "MinitaurBulletEnv-v0": NO_MINITAUR,
        "MinitaurBulletDuckEnv-v0": NO_MINITAUR,
        "FetchReach-v1": OLD_MUJOCO,
        "CarRacing-v3": "a trained autoencoder and its wrapper, not on PyPI",
        "donkey-generated-track-v0": "a simulator; its package is of the old gym",
        "NeckEnvRelative-v2": "a robot",
    },
    "td3": {"MinitaurBulletEnv-v0": NO_MINITAUR},
    "tqc": {
        "MinitaurBulletEnv-v0": NO_MINITAUR,
        "FetchReach-v1": OLD_MUJOCO,
        "FetchPush-v1": OLD_MUJOCO,
        "FetchSlide-v1": OLD_MUJOCO,
        "FetchPickAndPlace-v1": OLD_MUJOCO,
        "PandaReach-v1": OLD_PANDA,
        "PandaPush-v1": OLD_PANDA,
        "PandaSlide-v1": OLD_PANDA,
        "PandaPickAndPlace-v1": OLD_PANDA,
        "PandaStack-v1": OLD_PANDA,
        "CarRacing-v0": "an environment that gymnasium has no more",
        "A1Walking-v0": "a package that is not on PyPI",
        "RocketLander-v0": "a package that is not on PyPI",
    },
}
# What ours hold beyond the RL Zoo's, and entries with a half-life of their own
ADDED = {
    "reptile_dqn": {
        "Pendulum-v1",
        "PongNoFrameskip-v4",
        "MiniGrid-Dynamic-Obstacles-6x6-v0",
        "DriftingRooms-v0",
        "DriftingHighway-v0",
        "DriftingRecommender-v0",
        "DriftingFashionShop-v0",
    }
}
OWN_HALF_LIFE = {
    "dqn": {"atari"},
    "qrdqn": {"atari"},
    "reptile_dqn": {"PongNoFrameskip-v4"},
}

# The modules that environments need and gymnasium does not bring along
MODULES = {
    r"LunarLander|BipedalWalker": ["Box2D"],
    r"BulletEnv": ["pybullet_envs_gymnasium"],
    r"(HalfCheetah|Ant|Hopper|Walker2d|Humanoid|Swimmer)-v4": ["mujoco"],
    r"NoFrameskip": ["ale_py", "cv2"],
    r"parking|Highway": ["highway_env"],
    r"MiniGrid|Rooms": ["minigrid"],
    r"FashionShop": ["obp"],
}


def read(path):
    entries = yaml.safe_load(path.read_text())
    entries.pop("decay", None)  # our anchor
    return entries


def ours(file):
    return read(zoo_configs() / f"{file}.yml")


def theirs(file):
    return read(ZOO / ("dqn.yml" if file == ALGO else f"{file}.yml"))


def half_life(entry):
    return entry["half_life"] if "half_life" in entry else entry["replay_buffer_kwargs"]["half_life"]


def decayed_buffer(entry):
    """The decayed counterpart of the replay buffer of an entry of the RL Zoo."""
    known = {None: DecayedReplayBuffer, "HerReplayBuffer": DecayedHerReplayBuffer}
    return known[entry.get("replay_buffer_class")]


def plus_decay(entry, file, half_life):
    """An entry of the RL Zoo as it should be in our file."""
    if file == ALGO:
        return {**entry, "half_life": half_life}
    return {
        **entry,
        "replay_buffer_class": f"__import__('sb3_reptile').{decayed_buffer(entry).__name__}",
        # The RL Zoo spells it as Python
        "replay_buffer_kwargs": {**eval(entry.get("replay_buffer_kwargs", "{}")), "half_life": half_life},
    }


def test_there_is_one_file_for_each_algorithm():
    assert sorted(path.name for path in zoo_configs().iterdir()) == [f"{file}.yml" for file in FILES]


@pytest.mark.parametrize("file", FILES)
def test_every_environment_of_the_rl_zoo_is_there_or_left_out_by_name(file):
    assert set(theirs(file)) - set(ours(file)) == set(LEFT_OUT.get(file, {}))
    assert set(ours(file)) - set(theirs(file)) == ADDED.get(file, set())


@pytest.mark.parametrize("file", FILES)
def test_entries_are_the_rl_zoos_plus_the_decay_and_nothing_else(file):
    for env, entry in theirs(file).items():
        if env not in LEFT_OUT.get(file, {}):
            mine = ours(file)[env]
            assert mine == plus_decay(entry, file, half_life(mine)), env


@pytest.mark.parametrize("file", FILES)
def test_one_line_of_a_file_changes_its_half_life(file):
    text = (zoo_configs() / f"{file}.yml").read_text()
    before = yaml.safe_load(text)
    after = yaml.safe_load(re.sub(r"half_life: (\d+|null|auto)", "half_life: 123", text, count=1))
    unchanged = {env for env in before if half_life(after[env]) == half_life(before[env])}
    assert unchanged == OWN_HALF_LIFE.get(file, set())


def environment(file, entry):
    """An environment that the RL Zoo takes this entry for."""
    if entry == "atari":
        return "BreakoutNoFrameskip-v4"
    if entry == "default":
        return "CartPoleNoVel-v1" if "dqn" in file else "PendulumNoVel-v1"
    return entry


# Of gymnasium, about MuJoCo's -v4; of Box2D
@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning", "ignore:builtin type:DeprecationWarning")
@pytest.mark.parametrize(("file", "entry"), [(file, entry) for file in FILES for entry in ours(file)])
def test_the_rl_zoo_trains_the_entry_with_decayed_replay(file, entry, tmp_path, monkeypatch):
    env = environment(file, entry)
    for module in (module for pattern, modules in MODULES.items() if re.search(pattern, env) for module in modules):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{env} needs {module}, which is not installed")

    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where it runs
    # Put back afterwards, together with what register() puts there
    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", ExperimentManager)
    if file == ALGO:
        register()
    trained = []

    class KeepsTheModel(rl_zoo3.train.ExperimentManager):
        def save_trained_model(self, model):
            trained.append(model)

    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", KeepsTheModel)
    command = ["train", "--algo", file, "--env", env, "-conf", str(zoo_configs() / f"{file}.yml"), "-f", str(tmp_path)]
    command += ["-n", "200", "--eval-freq", "-1", "--seed", "1", "--verbose", "0"]
    # Learn within 200 steps; without memory for a million transitions, nor hundreds of updates
    command += ["-params", "learning_starts:195", "buffer_size:1000", "gradient_steps:2"]
    monkeypatch.setattr(sys, "argv", command)
    rl_zoo3.train.train()

    (model,) = trained
    assert type(model) is FILES[file]
    assert model.num_timesteps >= 200
    assert model._n_updates > 0
    expected_class = decayed_buffer(theirs(file).get(entry, {}))
    assert type(model.replay_buffer) is expected_class
    # Hindsight replay has none
    n_steps = getattr(model.replay_buffer, "n_steps", 1)
    assert n_steps == ours(file)[entry].get("n_steps", n_steps)
    expected = half_life(ours(file)[entry])
    assert model.replay_buffer.decay == (DEFAULT_DECAY if expected in (None, "auto") else Exponential(expected))
