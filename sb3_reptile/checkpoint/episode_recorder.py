"""A wrapper that can bring another copy of an environment to the same point of the same episode."""

from collections.abc import Iterator
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import xxhash
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_reptile.envs.drift import DriftWrapper, layers
from sb3_reptile.storage import NotStorableError
from sb3_reptile.storage.values import from_json, to_json


class EpisodeRecorder(gym.Wrapper, RecordConstructorArgs):
    """
    Remembers how the present episode came about: the random state before its reset, what drift wrappers' clocks showed
    then, and the actions since. Another copy of the environment that repeats this is at the same point, if all its
    chance comes from ``np_random`` or its spaces, and nothing else lasts from one episode to the next.

    :class:`~sb3_reptile.checkpoint.ResumableCheckpoint` puts it around every environment of a ``DummyVecEnv``. In a
    ``SubprocVecEnv`` it must be there from the beginning, as the outermost wrapper.

    :param env: Environment to wrap
    :param max_steps: Episodes that get longer than this are not remembered
    """

    def __init__(self, env: gym.Env, max_steps: int = 100_000) -> None:
        RecordConstructorArgs.__init__(self, max_steps=max_steps)
        gym.Wrapper.__init__(self, env)
        self.max_steps = max_steps
        self._start: dict[str, Any] | None = None
        self._actions: list[Any] = []
        self._obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._start = self._how_it_starts(seed, options)
        self._actions = []
        self._obs, info = self.env.reset(seed=seed, options=options)
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if len(self._actions) < self.max_steps:
            self._actions.append(np.array(action))
        else:
            self._start = None
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        return self._obs, reward, terminated, truncated, info

    def _how_it_starts(self, seed: int | None, options: Any) -> dict[str, Any] | None:
        clocks = [layer.steps_taken for layer in layers(self.env) if isinstance(layer, DriftWrapper)]
        states = [generator.bit_generator.state for generator in self._generators()]
        start = {"seed": seed, "options": options, "clocks": clocks, "random_states": states}
        try:
            return to_json(start, "options of reset()")
        except NotStorableError:
            return None

    def _generators(self) -> Iterator[np.random.Generator]:
        """What the environment inside draws from: its own, and those of spaces that it may sample."""
        if isinstance(self.unwrapped, gym.Env):
            yield self.unwrapped.np_random
        todo = [value for value in vars(self.unwrapped).values() if isinstance(value, spaces.Space)]
        while todo:
            space = todo.pop()
            yield space.np_random
            todo += space.spaces.values() if isinstance(space, spaces.Dict) else ()

    def begin_with(self, seed: int | None, obs: Any) -> None:
        """
        For an environment that was reset before it was wrapped.

        :param seed: The seed that it was reset with
        :param obs: The observation that it returned
        """
        if seed is not None:
            self._start = self._how_it_starts(seed, None)
            self._obs = obs

    def episode(self) -> dict[str, Any] | None:
        """
        :return: What ``repeat`` takes, as JSON; None if the episode is not known from its beginning
        """
        if self._start is None:
            return None
        actions = to_json(np.array(self._actions), "actions")
        return {"start": self._start, "actions": actions, "observation": self._digest()}

    def repeat(self, episode: dict[str, Any]) -> bool:
        """
        Take all steps of an episode again.

        :param episode: What ``episode()`` returned of another copy
        :return: Whether it led to the same observation
        """
        start = from_json(episode["start"])
        drifting = [layer for layer in layers(self.env) if isinstance(layer, DriftWrapper)]
        for layer, steps_taken in zip(drifting, start["clocks"], strict=True):
            layer.steps_taken = steps_taken
        for generator, state in zip(self._generators(), start["random_states"], strict=True):
            generator.bit_generator.state = state
        self.reset(seed=start["seed"], options=start["options"])
        self._start = episode["start"]
        actions = from_json(episode["actions"])
        for action in actions:
            self.step(action)
        return self._digest() == episode["observation"]

    def _digest(self) -> str:
        def of(obs: Any, space: spaces.Space) -> bytes:
            if isinstance(space, spaces.Dict):
                return b"".join(of(obs[key], space[key]) for key in space)
            return np.ascontiguousarray(np.asarray(obs, space.dtype)).tobytes()

        return xxhash.xxh3_128_hexdigest(of(self._obs, self.observation_space))
