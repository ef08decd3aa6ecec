"""An adapter that makes environments of ns_gym (extra ``drift``) drift across episodes."""

from collections.abc import Mapping
from copy import deepcopy
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
        self._changes_in_plans = inside.in_sim_change
        self.observation_space = inside.observation_space["state"]
        self.steps_taken = 0
        self.phase = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return obs["state"], {**info, "phase": self.phase}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._ns_gym.t = self.steps_taken
        obs, reward, terminated, truncated, info = self.env.step(action)
        # Held, ns_gym changes nothing
        self.steps_taken += not self._ns_gym.is_sim_env
        self.phase += any(info["Ground Truth Delta Change"].values())
        reward = float(getattr(reward, "reward", reward))  # an object of ns_gym with scalar_reward=False
        return obs["state"], reward, terminated, truncated, {**info, "phase": self.phase}

    def get_drift_clock(self) -> dict[str, Any]:
        """
        :return: Phase, steps and present parameters, see :class:`~sb3_reptile.callbacks.DriftEvalCallback`
        """
        return {"phase": self.phase, "steps_taken": self.steps_taken, "parameters": self._get_parameters()}

    def set_drift_clock(self, clock: Mapping[str, Any], held: bool) -> None:
        """
        :param clock: What ``get_drift_clock`` returned, of this environment or of another copy
        :param held: Whether the parameters keep their present values in the steps that follow. If not, the update
            functions, whose state is not in the clock, continue
        :raises ValueError: if the clock has other parameters
        """
        if set(self._get_parameters()) != set(clock.get("parameters", ())):
            raise ValueError(
                f"the clock of a different environment cannot be set in {self}: make the two environments with the "
                f"same parameters, got the clock {dict(clock)!r}"
            )
        self.phase, self.steps_taken = clock["phase"], clock["steps_taken"]
        self._set_parameters(clock["parameters"])
        # In a copy to plan with, as ns_gym calls it, nothing changes
        self._ns_gym.is_sim_env = held
        self._ns_gym.in_sim_change = self._changes_in_plans and not held

    def _get_parameters(self) -> dict[str, Any]:
        inside = self._ns_gym
        if hasattr(inside, "transition_prob"):  # the grid worlds, whose table P is made from it
            return {"transition_prob": deepcopy(inside.transition_prob), "P": deepcopy(inside.P)}
        get = getattr(inside, "_get_param_value", None)  # of MuJoCo's environments
        return {name: deepcopy(get(name) if get else getattr(self.unwrapped, name)) for name in inside.tunable_params}

    def _set_parameters(self, parameters: Mapping[str, Any]) -> None:
        inside = self._ns_gym
        if hasattr(inside, "transition_prob"):
            inside.transition_prob, inside.P = deepcopy(parameters["transition_prob"]), deepcopy(parameters["P"])
            self.unwrapped.P = inside.P  # type: ignore[attr-defined]
            return
        for name, value in parameters.items():
            if hasattr(inside, "_set_param_value"):
                inside._set_param_value(name, deepcopy(value))
            else:
                setattr(self.unwrapped, name, deepcopy(value))
        inside._dependency_resolver()
