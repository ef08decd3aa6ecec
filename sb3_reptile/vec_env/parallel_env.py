"""PettingZoo's parallel environments as SB3's ``VecEnv``, in which each agent is one of the environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info

if TYPE_CHECKING:
    # PettingZoo is an extra, and only its environments are used here
    from pettingzoo import ParallelEnv

PARALLEL_ENV = ("possible_agents", "observation_space", "action_space", "reset", "step")


class AgentsVecEnv(VecEnv):
    """
    Parallel environments as one ``VecEnv``: the agents of the first environment, in the order of its
    ``possible_agents``, then those of the second, and so on. Create it with :func:`parallel_env_to_vec_env`.

    As in SB3's ``DummyVecEnv``, an environment is reset at the end of an episode, ``info["terminal_observation"]`` is
    the last observation, and ``info["TimeLimit.truncated"]`` distinguishes time limits from terminal states, separately
    for each agent. ``info["agent"]`` is the agent's name.

    ``get_attr``, ``set_attr`` and ``env_is_wrapped`` search PettingZoo's wrappers. ``render`` returns one image per
    environment, and ``env_method`` calls a method once per environment, whatever its number of agents.

    :param parallel_envs: Environments with the same agents, all of which have the same spaces
    """

    def __init__(self, parallel_envs: Sequence[ParallelEnv]) -> None:
        self.parallel_envs = list(parallel_envs)
        first = self.parallel_envs[0]
        #: Names of the agents of one environment
        self.agents: list[str] = list(first.possible_agents)
        super().__init__(
            len(self.parallel_envs) * len(self.agents),
            first.observation_space(self.agents[0]),
            first.action_space(self.agents[0]),
        )
        self.metadata = getattr(first, "metadata", self.metadata)
        self._keys, self._shapes, self._dtypes = obs_space_info(self.observation_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        :param seed: Seed of the first environment at the next reset; the others get ``seed + 1``, ``seed + 2``, ...
            Random if ``None``
        :return: Seed of each agent's environment
        """
        seeds = super().seed(seed)
        self._seeds = [seeds[slot // len(self.agents)] for slot in range(self.num_envs)]
        return self._seeds

    def reset(self) -> VecEnvObs:
        seen: list[Any] = []
        for index in range(len(self.parallel_envs)):
            slot = index * len(self.agents)
            options = {"options": self._options[slot]} if self._options[slot] else {}
            seen += self._reset_one(index, seed=self._seeds[slot], **options)
        # Seeds and options are only used once
        self._reset_seeds()
        self._reset_options()
        return self._stack(seen)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.reshape(actions, (len(self.parallel_envs), len(self.agents), *np.shape(actions)[1:]))

    def step_wait(self) -> VecEnvStepReturn:
        seen: list[Any] = []
        rewards: list[float] = []
        dones: list[bool] = []
        infos: list[dict[str, Any]] = []
        for index, env in enumerate(self.parallel_envs):
            actions = dict(zip(self.agents, self._actions[index], strict=True))
            observations, agent_rewards, terminated, truncated, agent_infos = env.step(actions)
            left = [agent for agent in self.agents if terminated.get(agent) or truncated.get(agent)]
            if left and len(left) < len(self.agents):
                raise ValueError(
                    f"agents must stay to the end of an episode to share one policy, {', '.join(left)} left early: "
                    "supersuit.black_death_v3 lets them stay, but counts time limits as terminal states"
                )
            for agent in self.agents:
                rewards.append(agent_rewards[agent])
                dones.append(bool(left))
                time_limit = bool(truncated[agent] and not terminated[agent])
                # Copies: the next step or the reset may write into the same arrays
                info = deepcopy(agent_infos.get(agent, {}))
                infos.append({**info, "agent": agent, "TimeLimit.truncated": time_limit})
                if left:
                    infos[-1]["terminal_observation"] = deepcopy(observations[agent])
            seen += self._reset_one(index) if left else [observations[agent] for agent in self.agents]
        return self._stack(seen), np.array(rewards, dtype=np.float32), np.array(dones), infos

    def close(self) -> None:
        for env in self.parallel_envs:
            env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [env.render() for env in self.parallel_envs]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return attribute from vectorized environment (see base class)."""
        return [getattr(_layer_with(attr_name, env), attr_name) for env in self._envs_of(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set attribute inside vectorized environments (see base class)."""
        for env in self._envs_of(indices):
            setattr(_layer_with(attr_name, env), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method once per environment of the given agents; return the result of each agent's environment."""
        envs = self._envs_of(indices)
        results = {
            id(env): getattr(_layer_with(method_name, env), method_name)(*method_args, **method_kwargs)
            for env in {id(env): env for env in envs}.values()
        }
        return [results[id(env)] for env in envs]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Check if the environments are wrapped in one of PettingZoo's wrappers (see base class)."""
        return [any(isinstance(layer, wrapper_class) for layer in _layers(env)) for env in self._envs_of(indices)]

    def _reset_one(self, index: int, **kwargs: Any) -> list[Any]:
        """Reset one of the environments; return the observation of each of its agents."""
        observations, infos = self.parallel_envs[index].reset(**kwargs)
        if not set(self.agents) <= set(observations):
            raise ValueError(
                f"all agents must be there after a reset to share one policy, got {', '.join(observations)} of "
                f"{', '.join(self.agents)}: give the environment fewer possible_agents"
            )
        for slot, agent in enumerate(self.agents, start=index * len(self.agents)):
            self.reset_infos[slot] = {**infos.get(agent, {}), "agent": agent}
        return [observations[agent] for agent in self.agents]

    def _stack(self, seen: Sequence[Any]) -> VecEnvObs:
        """Stack the agents' observations in new arrays of shape (num_envs, ...)."""
        arrays: dict[Any, np.ndarray] = {
            key: np.empty((self.num_envs, *self._shapes[key]), self._dtypes[key]) for key in self._keys
        }
        for slot, observation in enumerate(seen):
            for key, array in arrays.items():
                array[slot] = observation if key is None else observation[key]
        return dict_to_obs(self.observation_space, arrays)

    def _envs_of(self, indices: VecEnvIndices) -> list[ParallelEnv]:
        return [self.parallel_envs[slot // len(self.agents)] for slot in self._get_indices(indices)]


def parallel_env_to_vec_env(parallel_env: ParallelEnv | Sequence[ParallelEnv]) -> AgentsVecEnv:
    """
    Make a ``VecEnv`` in which all agents share one policy, which gets the observations of each agent and learns from
    the transitions of all agents.

    ``ReptileDQN("MlpPolicy", parallel_env_to_vec_env([simple_spread_v3.parallel_env() for _ in range(4)]))``

    :param parallel_env: A PettingZoo parallel environment, or a list of several with the same agents
    :return: The vectorized environment, whose ``num_envs`` is the number of agents in all environments
    :raises ValueError: if something else is given, or if the agents do not all have the same spaces
    """
    envs = list(parallel_env) if isinstance(parallel_env, Sequence) else [parallel_env]
    if not envs:
        raise ValueError("parallel_env must be an environment, or a list of at least one, got []")
    for env in envs:
        check_parallel_env(env)
    if len({id(env.unwrapped) for env in envs}) < len(envs):
        raise ValueError(
            f"environments must be different objects, got {len(envs)} of which some are the same: "
            "make each of them, as in [make_env() for _ in range(4)]"
        )
    agents = envs[0].possible_agents
    for env in envs:
        if env.possible_agents != agents:
            raise ValueError(f"environments must have the same agents, got {agents} and {env.possible_agents}")
        for kind, wrapper in (("observation", "pad_observations_v0"), ("action", "pad_action_space_v0")):
            shared = getattr(envs[0], f"{kind}_space")(agents[0])
            for agent in agents:
                space = getattr(env, f"{kind}_space")(agent)
                if space != shared:
                    raise ValueError(
                        f"agents must have the same {kind} space to share one policy, got {shared} of {agents[0]} and "
                        f"{space} of {agent}: wrap the environment in supersuit.{wrapper}"
                    )
    return AgentsVecEnv(envs)


def check_parallel_env(env: Any) -> None:
    """
    :param env: The environment to check
    :raises ValueError: if it is not a PettingZoo parallel environment
    """
    if hasattr(env, "agent_iter"):
        what_to_do = (
            "in an AEC environment they act in turns; pettingzoo.utils.conversions.aec_to_parallel(env) converts it"
        )
    elif isinstance(env, gym.Env | gym.vector.VectorEnv | VecEnv):
        what_to_do = "it has one agent, give it to the model as it is"
    elif callable(env) and not hasattr(env, "possible_agents"):
        what_to_do = "if it makes one, call it"
    elif not all(hasattr(env, name) for name in PARALLEL_ENV):
        what_to_do = f"it must have {', '.join(PARALLEL_ENV)}"
    else:
        return
    raise ValueError(
        f"parallel_env must be a PettingZoo parallel environment (all agents act at once), got {env!r}: {what_to_do}"
    )


def _layers(env: ParallelEnv) -> Iterator[Any]:
    """Iterate over PettingZoo's wrappers, from the outermost to the environment inside."""
    layer: Any = env
    while layer is not None:
        yield layer
        inside = vars(layer)
        layer = inside.get("env", inside.get("aec_env"))


def _layer_with(name: str, env: ParallelEnv) -> Any:
    """Return the outermost layer that has the attribute, not counting forwarded ones; the outermost if none has."""
    return next((layer for layer in _layers(env) if name in vars(layer) or hasattr(type(layer), name)), env)
