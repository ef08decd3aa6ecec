"""A parallel environment from the view of one agent, for agents with separate learners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor

from sb3_reptile.vec_env.parallel_env import check_parallel_env

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv


class OneAgent(gym.Env):
    """
    A PettingZoo parallel environment from the view of one agent. The other agents act by policies of their own and are
    part of this agent's environment: when they learn, it drifts.

    The episode ends when it ends for this agent. Other agents may leave earlier.

    :param parallel_env: The environment; nothing else may step it
    :param agent: Name of the agent
    :param policies: Policies of the other agents by name: models, or any objects with SB3's ``predict``. An agent
        without a policy, or with ``None``, takes random actions; of discrete ones, those that PettingZoo's
        ``action_mask`` in its observation or info allows. They can be replaced at any time: ``env.policies = {...}``
    :param deterministic: Whether the policies act deterministically
    :raises ValueError: if it is not a parallel environment, or if a name is not one of its agents
    """

    def __init__(
        self,
        parallel_env: ParallelEnv,
        agent: str,
        policies: Mapping[str, PolicyPredictor | None] | None = None,
        deterministic: bool = False,
    ) -> None:
        check_parallel_env(parallel_env)
        self.parallel_env = parallel_env
        self._check_names("agent", [agent])
        self.agent = agent
        self.policies = {} if policies is None else policies
        self.deterministic = deterministic
        self.observation_space = parallel_env.observation_space(agent)
        self.action_space = parallel_env.action_space(agent)
        self.metadata = getattr(parallel_env, "metadata", self.metadata)
        self.render_mode = getattr(parallel_env, "render_mode", None)
        # Copies: the agents can share one space object, and a learner seeds the space that it samples from
        self._random_actions = {
            name: deepcopy(parallel_env.action_space(name)) for name in parallel_env.possible_agents if name != agent
        }
        self._seed_random_actions()
        self._observations: dict[str, Any] = {}
        self._infos: dict[str, Any] = {}

    @property
    def policies(self) -> Mapping[str, PolicyPredictor | None]:
        """Policies of the other agents, by name."""
        return self._policies

    @policies.setter
    def policies(self, policies: Mapping[str, PolicyPredictor | None]) -> None:
        self._check_names("policies", policies)
        self._policies = policies
        # States of recurrent policies; a state is of no use to another policy
        self._states: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._seed_random_actions()
        self._states.clear()
        self._observations, self._infos = self.parallel_env.reset(seed=seed, options=options)
        return self._observations[self.agent], dict(self._infos.get(self.agent, {}))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        actions = {name: self._act(name) for name in self.parallel_env.agents if name != self.agent}
        step = self.parallel_env.step({**actions, self.agent: _scalar(action)})
        self._observations, rewards, terminated, truncated, self._infos = step
        return (
            self._observations[self.agent],
            float(rewards[self.agent]),
            bool(terminated[self.agent]),
            bool(truncated[self.agent]),
            dict(self._infos.get(self.agent, {})),
        )

    def render(self) -> Any:
        return self.parallel_env.render()

    def close(self) -> None:
        self.parallel_env.close()

    def _act(self, name: str) -> Any:
        policy = self.policies.get(name)
        if policy is None:
            return self._random_actions[name].sample(self._action_mask(name))
        action, self._states[name] = policy.predict(
            self._observations[name],
            state=self._states.get(name),
            episode_start=np.array([name not in self._states]),
            deterministic=self.deterministic,
        )
        return _scalar(action)

    def _action_mask(self, name: str) -> np.ndarray | None:
        """Which of its discrete actions an agent may take; None if all."""
        if isinstance(self._random_actions[name], gym.spaces.Discrete):
            for where in (self._observations.get(name), self._infos.get(name)):
                if isinstance(where, Mapping) and where.get("action_mask") is not None:
                    return np.asarray(where["action_mask"], np.int8)
        return None

    def _seed_random_actions(self) -> None:
        for space in self._random_actions.values():
            space.seed(int(self.np_random.integers(2**31)))

    def _check_names(self, argument: str, names: Iterable[str]) -> None:
        agents = self.parallel_env.possible_agents
        for name in names:
            if name not in agents:
                raise ValueError(f"{argument} must name agents of the environment ({', '.join(agents)}), got {name!r}")


def _scalar(action: Any) -> Any:
    """Convert 0-dimensional arrays from ``predict`` to scalars: some environments write into the actions they get."""
    return action[()] if isinstance(action, np.ndarray) else action
