"""The environments of ns_gym (extra ``drift``) as ordinary Gymnasium environments whose drift does not start anew."""

from typing import Any

import gymnasium as gym

from sb3_reptile.envs.drift import layers


class NsGymTask(gym.Wrapper):
    """
    An environment of ns_gym whose parameters go on changing from episode to episode. As ns_gym has it, its clock and
    its parameters go back to the start in every episode, and observations come with notifications, in a dictionary.
    Here its schedulers are given the number of steps ever taken, observations are those of the environment inside, and
    rewards are numbers.

    ``info["phase"]`` is the number of steps so far that changed a parameter, the step itself included: a parameter that
    changes in every step makes every step a phase. ``reset(seed=...)`` seeds ns_gym's update functions; parameters and
    clock stay what they are.

    :param env: Environment wrapped in one of ``ns_gym.wrappers``
    :raises ValueError: if it is not
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
        reward = float(getattr(reward, "reward", reward))  # a number, or with scalar_reward=False an object of ns_gym
        return obs["state"], reward, terminated, truncated, {**info, "phase": self.phase}
