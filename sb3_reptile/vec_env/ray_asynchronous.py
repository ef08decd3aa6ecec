"""Environments on a Ray cluster that nobody waits for, and the mixin that lets off-policy algorithms use them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, VecEnvWrapper, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.vec_env.ray_calls import Call, Worker
from sb3_reptile.vec_env.ray_vec_env import RayVecEnv
from sb3_reptile.vec_env.ray_workers import Workers

# Updates after which Ape-X replaces the policy of an actor (https://arxiv.org/abs/1803.00933, appendix C)
MAX_DELAY = 400


class AsynchronousRayVecEnv(RayVecEnv):
    """
    :class:`~sb3_reptile.vec_env.RayVecEnv` with ``asynchronous=True``: a step sends actions to one worker and returns
    what any worker has finished, so that nothing waits for the slowest environments.

    The learner chooses the actions of a worker when it is ready, with its newest policy (as in SEED RL,
    https://arxiv.org/abs/1910.06591). While the worker acts, the learner goes on, and its policy changes. Before an
    update would make the policy that a worker acts with more than ``max_delay`` updates old, the learner waits for this
    worker.

    ``num_envs`` is the number of environments of one worker, the same for all. Only an algorithm with the mixin
    :class:`Asynchronous` can use these environments, because what a step returns does not follow from its actions.

    :param env_fns: Functions that make the environments, picklable by cloudpickle
    :param envs_per_worker: Number of environments of each worker
    :param resources: What a worker needs, by Ray's names of resources
    :param asynchronous: True
    :param max_delay: Number of updates that the policy in use by a worker may be old; 400 unless given
    :param kwargs: Other arguments of ``RayVecEnv``
    :raises ValueError: if the workers cannot all have this number of environments, or ``max_delay`` is not a whole
        number >= 0
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        envs_per_worker: int = 1,
        resources: Mapping[str, float] | None = None,
        *,
        asynchronous: bool = True,
        max_delay: int | None = None,
        **kwargs: Any,
    ) -> None:
        max_delay = MAX_DELAY if max_delay is None else max_delay
        if isinstance(max_delay, bool) or not isinstance(max_delay, int) or max_delay < 0:
            raise ValueError(f"max_delay must be a whole number of updates >= 0, got {max_delay!r}")
        env_fns = list(env_fns)
        if isinstance(envs_per_worker, int) and envs_per_worker > 0 and len(env_fns) % envs_per_worker:
            raise ValueError(
                f"asynchronous workers must all have the same number of environments, got {len(env_fns)} environments "
                f"and envs_per_worker={envs_per_worker}: use a number that divides {len(env_fns)}"
            )
        self.max_delay = max_delay
        #: Whether an algorithm is collecting that knows which action a result belongs to
        self.is_collecting = False
        #: Worker whose observations were returned last, and that the next actions are for
        self.current: Worker
        #: Worker that the last actions were sent to
        self.sent: Worker
        #: Workers that have been reset, and wait for their first actions
        self.unacted: deque[Worker] = deque()
        super().__init__(env_fns, envs_per_worker, resources, asynchronous=True, **kwargs)

    def _check_is_asynchronous(self) -> None:
        pass

    def _n_at_once(self) -> int:
        return len(self.workers.all[0].indices)

    def _make(self, workers: Workers) -> None:
        super()._make(workers)
        self.reset_infos = [{} for _ in range(self.workers.n_envs)]
        self._reset_seeds()
        self._reset_options()

    def _reset_seeds(self) -> None:
        self._seeds = [None] * self.workers.n_envs

    def _reset_options(self) -> None:
        self._options = [{} for _ in range(self.workers.n_envs)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        first = super().seed(seed)[0]
        assert first is not None
        self._seeds = [first + index for index in range(self.workers.n_envs)]
        return self._seeds

    def set_options(self, options: list[dict] | dict | None = None) -> None:
        super().set_options([dict(options or {})] * self.workers.n_envs if not isinstance(options, list) else options)

    def _get_indices(self, indices: VecEnvIndices) -> Any:
        return range(self.workers.n_envs) if indices is None else super()._get_indices(indices)

    def reset(self) -> VecEnvObs:
        self._reset_workers()
        self.current, *others = self.workers.all
        self.unacted = deque(others)
        return self.obs_of(self.current)

    def obs_of(self, worker: Worker) -> VecEnvObs:
        """
        :param worker: A worker
        :return: The last observations of its environments
        """
        return self._stack([worker])

    def step_async(self, actions: np.ndarray) -> None:
        self._check_open()
        if not self.is_collecting:
            raise ValueError(
                "RayVecEnv(asynchronous=True) needs an algorithm that knows which action a result belongs to, for "
                "training only: ReptileDQN, or class AsynchronousSAC(Asynchronous, SAC) for another off-policy "
                "algorithm; evaluate in environments without asynchronous=True"
            )
        self.send(self.current, actions)

    def send(self, worker: Worker, actions: np.ndarray) -> None:
        """
        :param worker: Worker that is not acting
        :param actions: Actions of its environments
        """
        if worker in self.unacted:
            self.unacted.remove(worker)
        self.sent = worker
        self._send(worker, actions)
        self._acting.append(worker)

    def _reset_workers(self) -> None:
        # In the order in which they began
        self._acting: list[Worker] = []
        super()._reset_workers()

    def step_wait(self) -> VecEnvStepReturn:
        self._check_begun(self._acting[:1])
        # A worker that was started again since is ready too
        ready = [worker for worker in self._acting if worker.fresh is not None]
        if not ready:
            done = self.workers.wait(self._calls(self._acting))
            # All were started again if none is done
            ready = [call.worker for call in done] or self._acting
        self.current = ready[0]
        self._acting.remove(self.current)
        return self._receive([self.current])

    def wait_for(self, workers: Sequence[Worker]) -> None:
        """
        Wait until workers have finished their steps; what they return is not taken yet.

        :param workers: Workers that act
        """
        calls = self._calls(workers)
        if calls:
            self.workers.wait(calls, len(calls))

    def _calls(self, workers: Sequence[Worker]) -> list[Call]:
        """The steps of workers that are under way."""
        pending = [self._pending[worker.indices.start] for worker in workers]
        return [call for call in pending if call is not None and call.worker.fresh is None]


class Act(NamedTuple):
    """
    What a worker is doing.

    :param obs: The observations that the actions were chosen for
    :param actions: The actions, as the replay buffer stores them
    :param update: Number of updates of the policy that chose them
    """

    obs: Any
    actions: np.ndarray
    update: int


class Asynchronous(OffPolicyAlgorithm):
    """
    Mixin for off-policy algorithms, of which :class:`~sb3_reptile.reptile_dqn.ReptileDQN` is one, that trains in
    ``RayVecEnv(..., asynchronous=True)``::

        class AsynchronousSAC(Asynchronous, SAC): ...

    Each result is stored when it arrives, with the observation and the action that it belongs to, so that its age
    counts from the moment at which it was made. Rows of different workers follow each other in the replay buffer, which
    is why multi-step returns, hindsight and wrappers that combine steps are refused. With one worker it is synchronous
    training, bit for bit. In other environments the mixin changes nothing.

    :raises TypeError: when a class is defined, if the algorithm comes before the mixin among its bases
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = [one for one in cls.__mro__ if issubclass(one, OffPolicyAlgorithm) and "train" in vars(one)]
        before = before[: before.index(Asynchronous)]
        # train() of an algorithm does not call that of the next base; that of another mixin does
        if super().train is OffPolicyAlgorithm.train:
            for one in before:
                if not issubclass(one, Asynchronous):
                    raise TypeError(
                        f"Asynchronous must come before {one.__name__}, or it has no effect: "
                        f"class {cls.__name__}(Asynchronous, {one.__name__})"
                    )

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, train_freq: Any, replay_buffer: Any, *args: Any, **kwargs: Any
    ) -> RolloutReturn:
        base = _asynchronous(env)
        if base is None:
            return super().collect_rollouts(env, callback, train_freq, replay_buffer, *args, **kwargs)
        self._check_can_be_asynchronous(env, base, replay_buffer)
        base.is_collecting = True
        try:
            if base.unacted or not hasattr(self, "_acts"):
                self._begin(env, base, kwargs.get("action_noise"), kwargs.get("learning_starts", 0))
            rollout = super().collect_rollouts(env, callback, train_freq, replay_buffer, *args, **kwargs)
        except BaseException:
            self._last_obs = None  # the environments are reset before the next step
            raise
        finally:
            base.is_collecting = False
        if not rollout.continue_training:
            self._last_obs = None
        return rollout

    def _check_can_be_asynchronous(self, env: VecEnv, base: AsynchronousRayVecEnv, buffer: Any) -> None:
        if len(base.workers.all) == 1:
            return
        wrappers = [type(wrapper).__name__ for wrapper in _wrappers(env) if not isinstance(wrapper, STATELESS)]
        noise = self.action_noise
        noises = noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
        refused = {
            f"the wrapper {'/'.join(wrappers)} (wrap each environment instead: wrapper_class)": bool(wrappers),
            "optimize_memory_usage=True": getattr(buffer, "optimize_memory_usage", False),
            "hindsight replay": isinstance(buffer, HerReplayBuffer),
            "more than one step in a return (n_steps=1 has one)": getattr(buffer, "n_steps", 1) > 1,
            "OrnsteinUhlenbeckActionNoise": any(isinstance(one, OrnsteinUhlenbeckActionNoise) for one in noises),
        }
        for what, is_used in refused.items():
            if is_used:
                raise ValueError(
                    "asynchronous workers take turns, so that successive steps are not those of one environment: "
                    f"{what} needs RayVecEnv with one worker, or without asynchronous=True"
                )

    def _begin(self, env: VecEnv, base: AsynchronousRayVecEnv, action_noise: Any, learning_starts: int) -> None:
        """After a reset: give all workers but the first, whose turn is next, their first actions."""
        self._acts: dict[int, Act] = {}
        self._delays: list[int] = []
        first_obs = self._last_obs
        for worker in list(base.unacted):
            obs: Any = base.obs_of(worker)
            for wrapper in reversed(list(_wrappers(env))):
                obs = wrapper.transpose_observations(obs) if isinstance(wrapper, VecTransposeImage) else obs
            self._last_obs = obs
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, base.num_envs)
            base.send(worker, actions)
            self._acts[worker.indices.start] = Act(obs, buffer_actions, self._n_updates)
        self._last_obs = first_obs

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
    ) -> None:
        base = _asynchronous(self.env)
        if base is not None:
            assert self._last_obs is not None
            self._acts[base.sent.indices.start] = Act(self._last_obs, buffer_action, self._n_updates)
            act = self._acts.pop(base.current.indices.start)
            self._last_obs, buffer_action = act.obs, act.actions
            self._delays.append(self._n_updates - act.update)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        self.wait_for_late_workers(gradient_steps)
        super().train(gradient_steps, batch_size)

    def wait_for_late_workers(self, gradient_steps: int) -> None:
        """
        Wait for the workers whose policy would be too old after the next updates. A ``train()`` that does not call that
        of this class must call it.

        :param gradient_steps: Number of these updates
        """
        base = _asynchronous(self.env)
        if base is not None:
            oldest = self._n_updates + gradient_steps - base.max_delay
            base.wait_for([worker for worker in base.workers.all if self._update_of(worker) < oldest])

    def _update_of(self, worker: Worker) -> float:
        """Number of updates of the policy that a worker acts with; inf if it does not act."""
        act = self._acts.get(worker.indices.start)
        return float("inf") if act is None else act.update

    def dump_logs(self) -> None:
        base = None if self.env is None else self.env.unwrapped
        if isinstance(base, RayVecEnv):
            for key, value in base.log_values().items():
                self.logger.record(key, value)
        if _asynchronous(self.env) is not None and self._delays:
            self.logger.record("workers/mean_delay", float(np.mean(self._delays)))
            self.logger.record("workers/max_delay", max(self._delays))
            self._delays.clear()
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_acts", "_delays"]


# Wrappers for which the steps of an environment are independent
STATELESS = (VecTransposeImage, VecCheckNan)


def _asynchronous(env: VecEnv | None) -> AsynchronousRayVecEnv | None:
    base = None if env is None else env.unwrapped
    return base if isinstance(base, AsynchronousRayVecEnv) else None


def _wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv
