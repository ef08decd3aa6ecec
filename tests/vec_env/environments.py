"""Environments of the tests of vectorized environments on Ray."""

import copy
import os
import signal
import threading
import time
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


def took_file(folder):
    """Whether there was a file in a folder, which is gone now; the folder may be None."""
    for file in Path(folder).glob("*") if folder is not None else ():
        try:
            file.unlink()
        except FileNotFoundError:
            continue
        return True
    return False


class Numbered(gym.Env):
    """
    Numbers its episodes and steps: from the observation (episode, step), any action leads to (episode, step + 1) with
    the reward step + 1, but for every tenth, which is random.

    :param length: Steps of an episode
    :param kills: Folder; an environment removes a file there, and kills its process in the middle of a step
    :param hangs: Folder; an environment removes a file there, and does not return from its step
    :param seconds: Duration of a step
    """

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    gain = 1.0

    def __init__(self, length=20, kills=None, seconds=0.0, hangs=None):
        self.length, self.kills, self.seconds, self.hangs = length, kills, seconds, hangs
        #: Attributes that were set since, in this order
        self.was_set = []

    def node_id(self):
        """Identifier of the node of Ray's cluster on which it runs."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name in ("gain", "length", "order") and "was_set" in vars(self):
            self.was_set.append(name)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_number = int(self.np_random.integers(1, 1 << 40)), 0
        return self._obs(), {"seed": seed, "options": options}

    def _obs(self):
        return np.array([self.episode, self.step_number], np.float64)

    def step(self, action):
        time.sleep(self.seconds)
        if self.step_number == self.length // 2:
            if took_file(self.kills):
                os.kill(os.getpid(), signal.SIGKILL)
            if took_file(self.hangs):
                time.sleep(600)
        self.step_number += 1
        return self._obs(), self.gain * self.step_number, self.step_number == self.length, False, {}


class Raises(Numbered):
    """Raises an exception on demand."""

    error = None

    def fail(self, error, *args):
        raise error(*args)

    def step(self, action):
        if self.error is not None:
            self.fail(*self.error)
        return super().step(action)


class NumberedGoals(Numbered):
    """The same with goals: the goal is a step number."""

    observation_space = spaces.Dict(
        {
            name: spaces.Box(-np.inf, np.inf, (size,), np.float64)
            for name, size in (("observation", 2), ("achieved_goal", 2), ("desired_goal", 2))
        }
    )

    def _obs(self):
        now = super()._obs()
        return {"observation": now, "achieved_goal": now.copy(), "desired_goal": np.array([self.episode, 5.0])}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -(np.abs(achieved_goal - desired_goal).sum(axis=-1) > 0).astype(np.float32)

    def step(self, action):
        obs, _, *others = super().step(action)
        return obs, float(self.compute_reward(obs["achieved_goal"], obs["desired_goal"], {})), *others


class Everything(gym.Env):
    """An environment of which an observation space is chosen; it writes into its action, and renders."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, space, render_mode="rgb_array"):
        self.observation_space, self.render_mode = copy.deepcopy(space), render_mode
        self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {"options": options}

    def step(self, action):
        self.steps += 1
        action *= 2
        return self.observation_space.sample(), float(action.sum()), self.steps == 7, self.steps == 5, {"acted": action}

    def render(self):
        return np.full((8, 8, 3), self.steps, np.uint8)

    def close(self):
        self.is_closed = True

    def add(self, number, other=0):
        if number is None:
            raise ValueError("number must be a number")
        return self.steps + number + other

    def named(self, **arguments):
        return arguments


class InThreads(Numbered):
    """Remembers the threads that it is used in; two of them step at the same time, or not at all."""

    meeting = threading.Barrier(2)
    broken = None

    def __init__(self):
        super().__init__()
        self.threads = [threading.get_ident()]

    def thread(self):
        return threading.get_ident()

    @property
    def read_in(self):
        return threading.get_ident()

    @property
    def written_in(self):
        return self._written_in

    @written_in.setter
    def written_in(self, value):
        self._written_in = threading.get_ident()

    def close(self):
        self.threads.append(threading.get_ident())
        super().close()

    def reset(self, *, seed=None, options=None):
        self.threads.append(threading.get_ident())
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.threads.append(threading.get_ident())
        self.meeting.wait(timeout=10)
        if self.broken is not None:
            raise ValueError(f"the environment {self.broken} is broken")
        obs, _, *others = super().step(action)
        return obs, 1.0, *others


SPACES = {
    "box": spaces.Box(-1, 1, (4,), np.float32),
    "image": spaces.Box(0, 255, (200, 200, 3), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(6),
    "dict": spaces.Dict({"a": spaces.Box(0, 1, (2, 2)), "b": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((spaces.Box(0, 1, (2,)), spaces.Discrete(3))),
}
