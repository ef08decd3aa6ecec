"""A wrapper that records an episode and repeats it in another copy of the environment."""

from collections.abc import Iterator
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import xxhash
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_reptile.envs.drift import DriftWrapper, layers
from sb3_reptile.storage import NotStorableError
from sb3_reptile.storage.values import check_generator, from_json, to_json


class EpisodeRecorder(gym.Wrapper, RecordConstructorArgs):
    """
    Record what determines the current episode: the random state and the clocks of drift wrappers before its reset, and
    the actions since. Repeating these brings another copy of the environment to the same state, provided that all
    randomness comes from ``np_random`` or the spaces, and that no other state persists across episodes.

    :class:`~sb3_reptile.checkpoint.ResumableCheckpoint` wraps every environment of a ``DummyVecEnv`` in it. In a
    ``SubprocVecEnv``, wrap the environments when you create them, with this wrapper outermost.

    :param env: Environment to wrap
    :param max_steps: Longer episodes are not recorded
    """

    def __init__(self, env: gym.Env, max_steps: int = 100_000) -> None:
        RecordConstructorArgs.__init__(self, max_steps=max_steps)
        gym.Wrapper.__init__(self, env)
        self.max_steps = max_steps
        self._start: dict[str, Any] | None = None
        self._actions: list[Any] = []
        self._obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._start = self._initial_state(seed, options)
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

    def _initial_state(self, seed: int | None, options: Any) -> dict[str, Any] | None:
        clocks = [layer.steps_taken for layer in layers(self.env) if isinstance(layer, DriftWrapper)]
        states = [generator.bit_generator.state for generator in self._generators()]
        start = {"seed": seed, "options": options, "clocks": clocks, "random_states": states}
        try:
            return to_json(start, "options of reset()")
        except NotStorableError:
            return None

    def _generators(self) -> Iterator[np.random.Generator]:
        """The random generators of the environment and of its spaces, which it may sample."""
        if isinstance(self.unwrapped, gym.Env):
            yield self.unwrapped.np_random
        todo = list(vars(self.unwrapped).values())
        while todo:
            value = todo.pop()
            if isinstance(value, spaces.Space):
                yield value.np_random
            parts: Any = ()
            if isinstance(value, spaces.Dict | dict):
                parts = value.values()
            elif isinstance(value, spaces.Tuple | list | tuple):
                parts = value
            # Collections of spaces alone: others may be long
            if isinstance(next(iter(parts), None), spaces.Space):
                todo += parts

    def begin_with(self, seed: int | None, obs: Any) -> None:
        """
        Start recording in an environment that was reset before it was wrapped.

        :param seed: Seed of that reset
        :param obs: Observation from that reset
        """
        if seed is not None:
            self._start = self._initial_state(seed, None)
            self._obs = obs

    def episode(self) -> dict[str, Any] | None:
        """
        :return: The episode as JSON, for ``repeat``; None if it was not recorded from its beginning
        """
        if self._start is None:
            return None
        actions = to_json(np.array(self._actions), "actions")
        return {"start": self._start, "actions": actions, "observation": self._digest()}

    def repeat(self, episode: dict[str, Any]) -> bool:
        """
        Repeat all steps of an episode.

        :param episode: Return value of ``episode()`` of another copy
        :return: Whether the last observation is the same
        """
        start = from_json(episode["start"])
        drifting = [layer for layer in layers(self.env) if isinstance(layer, DriftWrapper)]
        for layer, steps_taken in zip(drifting, start["clocks"], strict=True):
            layer.steps_taken = steps_taken
        generators = list(self._generators())
        if len(generators) != len(start["random_states"]):
            return False  # saved before all of them were recorded
        for generator, state in zip(generators, start["random_states"], strict=True):
            check_generator(state)
            generator.bit_generator.state = state
        self.reset(seed=start["seed"], options=start["options"])
        self._start = episode["start"]
        actions = from_json(episode["actions"])
        for action in actions:
            _, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                return False  # no step of an episode in progress was its last
        return self._digest() == episode["observation"]

    def _digest(self) -> str:
        def of(obs: Any, space: spaces.Space) -> bytes:
            if isinstance(space, spaces.Dict):
                return b"".join(of(obs[key], space[key]) for key in space)
            return np.ascontiguousarray(np.asarray(obs, space.dtype)).tobytes()

        return xxhash.xxh3_128_hexdigest(of(self._obs, self.observation_space))
