"""An adapter that makes environments of ns_gym (extra ``drift``) drift across episodes."""

from typing import Any

import gymnasium as gym

from sb3_reptile.envs.drift import layers


class NsGymTask(gym.Wrapper):
    """
    An environment of ns_gym whose parameters keep changing across episodes. ns_gym resets its clock and its parameters
    in every episode, and returns dictionaries of the observation and notifications. This adapter passes the number of
    steps of all episodes to the schedulers, and returns the environment's observations and rewards that are floats.

    ``info["phase"]`` is the number of steps so far that changed a parameter, including the present step: if a parameter
    changes in every step, every step is a phase. ``reset(seed=...)`` seeds ns_gym's update functions and keeps the
    parameters and the clock.

    :param env: Environment wrapped in one of ``ns_gym.wrappers``
    :raises ValueError: if the environment is not wrapped in one of them
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        inside: Any = next((layer for layer in layers(env) if hasattr(layer, "tunable_params")), None)
        if inside is None:
            raise ValueError(f"NsGymTask needs an environment in one of ns_gym.wrappers, got {env}")
        inside.persistent_params = True
        self._ns_gym = inside
        self.observation_space = inside.observation_space["state"]
        self.steps_taken = 0
        self.phase = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return obs["state"], {**info, "phase": self.phase}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._ns_gym.t = self.steps_taken
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps_taken += 1
        self.phase += any(info["Ground Truth Delta Change"].values())
        reward = float(getattr(reward, "reward", reward))  # an object of ns_gym with scalar_reward=False
        return obs["state"], reward, terminated, truncated, {**info, "phase": self.phase}
