"""The episode recorder: another copy of an environment repeats what it recorded."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_reptile.checkpoint import EpisodeRecorder
from sb3_reptile.envs import DriftingPhysics
from tests.processes import run_python


def test_an_episode_longer_than_max_steps_is_not_recorded():
    env = EpisodeRecorder(gym.make("Pendulum-v1"), max_steps=5)
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.zeros(1))
    assert env.episode() is not None
    env.step(np.zeros(1))
    assert env.episode() is None
    env.reset()
    assert env.episode() is not None


def drifting_pendulum():
    return EpisodeRecorder(DriftingPhysics(gym.make("Pendulum-v1"), {"m": [1.0, 3.0]}, period=12))


def test_another_copy_repeats_the_episode_and_its_drift():
    env, copy = drifting_pendulum(), drifting_pendulum()
    generator = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(3):
        env.reset()
        for _ in range(7):
            env.step(generator.uniform(-2, 2, 1).astype(np.float32))
    assert copy.repeat(env.episode())
    action = np.ones(1, np.float32)
    assert [str(env.step(action)) for _ in range(10)] == [str(copy.step(action)) for _ in range(10)]
    # Another observation than the recorded one is noticed
    assert not copy.repeat(env.episode() | {"actions": copy.episode()["actions"], "observation": ""})


class Samples(gym.Env):
    """Draws from spaces that it holds in collections."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (4,))

    def __init__(self):
        numbers = (spaces.Box(0, 1, (1,)) for _ in range(4))
        self.of_others = {"red": next(numbers), "blue": spaces.Tuple([next(numbers)])}
        self.in_list, self.in_tuple = [next(numbers)], (next(numbers),)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        drawn = [self.of_others["red"].sample(), *self.of_others["blue"].sample()]
        drawn += [self.in_list[0].sample(), self.in_tuple[0].sample()]
        return np.concatenate(drawn), 0.0, False, False, {}


def test_randomness_of_spaces_in_collections_is_repeated():
    env, copy = EpisodeRecorder(Samples()), EpisodeRecorder(Samples())
    env.reset(seed=0)
    for _ in range(3):
        env.step(0)
    assert copy.repeat(env.episode())
    assert [str(env.step(0)) for _ in range(3)] == [str(copy.step(0)) for _ in range(3)]


@pytest.mark.parametrize("first", ["sb3_reptile.envs", "sb3_reptile.envs.episode_recorder"])
def test_the_former_import_paths_work(first, tmp_path):
    code = (
        f"import sys, {first} as former; "
        "from sb3_reptile.checkpoint.episode_recorder import EpisodeRecorder; "
        "assert former.EpisodeRecorder is EpisodeRecorder; assert not hasattr(former, 'Recorder')"
    )
    (tmp_path / "script.py").write_text(code)
    result = run_python(tmp_path / "script.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
