"""Hindsight experience replay with decay, and what saves SB3's own."""

import json
import os
import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay.checks import Weighting
from sb3_reptile.replay.decayed_sampling import DecayedDictReplayBufferSamples, DecayedSampling
from sb3_reptile.replay.diagnostics import ReplayDiagnostics
from sb3_reptile.replay.distribution import NothingToDrawError
from sb3_reptile.replay.episodes import end_running_episodes
from sb3_reptile.replay.persistence import (
    BufferState,
    arguments_of_storage,
    objects_of,
    restore_storage,
    state_of_storage,
)
from sb3_reptile.replay.weight_users import check_learner
from sb3_reptile.storage.values import from_json, infos_to_json, register_former_name


def check_weighting_of_hindsight(weighting: Weighting) -> None:
    """
    :param weighting: The option ``weighting``
    :raises ValueError: if it is not ``"sampling"``: which transitions can be drawn depends on the episodes that have
        ended, which the weights of uniform draws do not know
    """
    if weighting != "sampling":
        raise ValueError(f"weighting must be 'sampling' with hindsight replay, got {weighting!r}")


class DecayedHerReplayBuffer(DecayedSampling, HerReplayBuffer):
    """
    Hindsight experience replay (https://arxiv.org/abs/1707.01495) that replays recent episodes more. It takes the
    arguments of SB3's ``HerReplayBuffer`` and those of :class:`DecayedSampling`, but for ``combined``: the newest
    transition has no goal to be relabelled with before its episode ends.

    Transitions of unfinished episodes are not drawn, as in SB3; their probability goes to the others in proportion.
    """

    def __init__(self, *args: Any, combined: bool = False, n_steps: int = 1, **kwargs: Any) -> None:
        if n_steps != 1:
            raise ValueError(f"n_steps must be 1 with hindsight replay, which has one-step returns, got {n_steps}")
        if combined:
            raise ValueError("combined must be False with hindsight replay: the newest episode has no end yet")
        check_weighting_of_hindsight(kwargs.get("weighting", "sampling"))
        super().__init__(*args, **kwargs)

    @property
    def weighting(self) -> Weighting:
        """Where decay and initial weights act: ``"sampling"``."""
        return super().weighting

    @weighting.setter
    def weighting(self, weighting: Weighting) -> None:
        check_weighting_of_hindsight(weighting)

    def _init_on_disk(self, storage_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        super()._init_on_disk(storage_dir, *args, **kwargs)
        self.infos = np.array([[{} for _ in range(self.n_envs)] for _ in range(self.buffer_size)])

    def _eligible(self) -> np.ndarray:
        ended: np.ndarray = self.ep_length > 0
        if not ended.any():
            raise self._no_episode()
        return ended

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DecayedDictReplayBufferSamples:  # type: ignore[override]
        """
        Draw transitions of finished episodes by decay, initial weights and priorities, and relabel a share of them.

        :param batch_size: Number of transitions to draw
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions, first those with their own goals, then the relabelled
        :raises RuntimeError: if no episode has ended yet, or none with a sampling weight above 0
        """
        check_learner(self)
        try:
            indices, weights = self.distribution.draw(batch_size, self._eligible())
        except NothingToDrawError:
            raise self._no_episode() from None
        # SB3 relabels the first of them and returns them last
        n_virtual = int(self.her_ratio * batch_size)
        indices, weights = np.roll(indices, -n_virtual), np.roll(weights, -n_virtual, axis=0)
        batch: Any = self._batch(self._fetch(indices, env), indices, weights)
        return batch

    def sampling_probabilities(self) -> np.ndarray:
        """
        The exact distribution of the next draw.

        :return: Probability of each transition, shape (buffer_size, n_envs), by row of the storage. O(size)
        :raises RuntimeError: if no episode has ended yet, or none with a sampling weight above 0
        """
        try:
            return super().sampling_probabilities()
        except NothingToDrawError:
            raise self._no_episode() from None

    def diagnostics(self) -> ReplayDiagnostics:
        """
        What is replayed, without transitions of unfinished episodes. O(size), but computed again only when the buffer
        has changed by more than 1 % of its size since.

        :return: The diagnostics
        :raises RuntimeError: if no episode has ended yet, or none with a sampling weight above 0
        """
        try:
            return super().diagnostics()
        except NothingToDrawError:
            raise self._no_episode() from None

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        for episodes in (self.ep_start, self.ep_length, self._current_ep_start):
            episodes.fill(0)

    def can_be_sampled(self) -> bool:
        """
        :return: Whether an episode has ended, and one of its transitions has a sampling weight above 0
        """
        if not (self.ep_length > 0).any():
            return False
        try:
            self.distribution.diagnostics(self._eligible())
        except NothingToDrawError:
            return False
        return True

    def transitions(  # type: ignore[override]
        self, indices: np.ndarray, env: VecNormalize | None = None
    ) -> DecayedDictReplayBufferSamples:
        """
        Certain transitions with their own goals, without a draw.

        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param env: Associated VecEnv to normalize the observations and rewards
        :return: The transitions; their weights are 1
        """
        if self._scratch is not None:
            self._scratch.touched(len(indices))
        fields = self._get_real_samples(*np.divmod(indices, self.n_envs), env)
        return DecayedDictReplayBufferSamples(*fields, indices, th.ones((len(indices), 1), device=self.device))

    @classmethod
    def _make(cls, arguments: dict[str, Any], device: th.device | str, env: VecEnv | None) -> "DecayedHerReplayBuffer":
        return cls(env=env, device=device, **arguments)

    def _leave_gap(self, done: np.ndarray) -> None:
        # Episodes may have gaps, but if their last transition is left out they end all the same
        end_running_episodes(self, np.flatnonzero(done))

    def _no_episode(self) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__} cannot be sampled before the end of the first episode that counts: "
            "raise learning_starts above the length of an episode, or use a decay that forgets less"
        )

    def _fetch(self, indices: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        rows, envs = np.divmod(indices, self.n_envs)
        n_real = len(rows) - int(self.her_ratio * len(rows))
        real = self._get_real_samples(rows[:n_real], envs[:n_real], env)
        virtual = self._get_virtual_samples(rows[n_real:], envs[n_real:], env)

        def join(first: Any, second: Any) -> Any:
            if isinstance(first, dict):
                return {key: th.cat((first[key], second[key])) for key in first}
            return None if first is None else th.cat((first, second))

        return tuple(join(*fields) for fields in zip(real, virtual, strict=True))


DecayedSampling.derive_from[HerReplayBuffer] = DecayedHerReplayBuffer
register_former_name("sb3_reptile.replay.buffers:DecayedHerReplayBuffer", DecayedHerReplayBuffer)


@end_running_episodes.register
def _(buffer: HerReplayBuffer, envs: np.ndarray | None = None) -> None:
    if envs is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it recommends an argument that this call has no use for
            buffer.truncate_last_trajectory()
        return
    for env in envs[buffer._current_ep_start[envs] != buffer.pos]:
        buffer._compute_episode_length(int(env))


@objects_of.register
def _(buffer: HerReplayBuffer) -> tuple[str, ...]:
    return ("infos",)


@arguments_of_storage.register
def _(buffer: HerReplayBuffer) -> dict[str, Any]:
    return {
        **arguments_of_storage.dispatch(object)(buffer),
        "n_sampled_goal": buffer.n_sampled_goal,
        "goal_selection_strategy": buffer.goal_selection_strategy,
        "copy_info_dict": buffer.copy_info_dict,
    }


@state_of_storage.register
def _(buffer: HerReplayBuffer) -> BufferState:
    state = state_of_storage.dispatch(object)(buffer)
    state.arrays["current_episode_start"] = buffer._current_ep_start
    if buffer.copy_info_dict:
        flat = iter(infos_to_json(buffer.infos[: buffer.size()].reshape(-1), "info"))
        infos = [list(row) for row in zip(*[flat] * buffer.n_envs, strict=True)]
        state.arrays["infos"] = np.frombuffer(json.dumps(infos).encode(), np.uint8)
    return state


@restore_storage.register
def _(buffer: HerReplayBuffer, state: BufferState) -> None:
    restore_storage.dispatch(object)(buffer, state)
    buffer._current_ep_start[:] = state.arrays["current_episode_start"]
    if buffer.copy_info_dict:
        for row, infos in enumerate(from_json(json.loads(state.arrays["infos"].tobytes()))):
            buffer.infos[row] = infos
