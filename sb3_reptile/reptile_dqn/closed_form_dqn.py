"""SB3's DQN with the loops around its updates: acting, and updating the target network, on flat parameters."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.dqn.dqn import DQN

from sb3_reptile.reptile_dqn.applicability import why_not_closed_form
from sb3_reptile.reptile_dqn.fast_autograd import contiguous, fused_adam, is_applicable, put_channels_last
from sb3_reptile.reptile_dqn.learners import ClosedFormLearner
from sb3_reptile.reptile_dqn.transferring_dqn import TransferringDQN


class ClosedFormDQN(TransferringDQN):
    """
    The parts of :class:`~sb3_reptile.reptile_dqn.ReptileDQN` that use the closed form of its Q-network where that
    applies, and otherwise do what SB3 does. Actions, random draws and parameters are the same.
    """

    learner: str
    _closed_form: ClosedFormLearner | None = None
    _said_of_learner: str = ""

    def _setup_model(self) -> None:
        super()._setup_model()
        # Not at the first update, so that views of parameters that a user makes remain views of the trained parameters
        if self._attached_closed_form() is None and self.learner == "fast" and is_applicable(self.policy.optimizer):
            put_channels_last(self.policy)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self._closed_form is not None:
            # Something may have been hooked in since the last update, which acting must call too
            self._attached_closed_form()
        return super()._setup_learn(*args, **kwargs)

    def _attached_closed_form(self) -> ClosedFormLearner | None:
        """The closed form of the present parameters and optimizer state, None where autograd is used."""
        if self.learner == "eager":
            self._closed_form = None
            return None
        if self._closed_form is None or not self._closed_form.is_attached():
            model: Any = self
            reason = why_not_closed_form(model)
            self._closed_form = ClosedFormLearner(model) if reason is None else None
            said = "Updates are computed in closed form" if reason is None else f"Updates use autograd: {reason}"
            if self.verbose >= 1 and said != self._said_of_learner:
                print(said)
            self._said_of_learner = said
        return self._closed_form

    def _faster_autograd(self) -> AbstractContextManager[None]:
        """With ``learner="fast"``, kernels that round differently."""
        optimizer = self.policy.optimizer
        return fused_adam(optimizer) if self.learner == "fast" and is_applicable(optimizer) else nullcontext()

    def get_parameters(self) -> dict[str, dict]:
        """
        Return the parameters of the agent. This includes parameters from different networks, e.g.
        critics (value functions) and policies (pi functions).

        :return: Mapping of from names of the objects to PyTorch state-dicts.
        """
        parameters: dict[str, dict] = contiguous(super().get_parameters())
        return parameters

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        closed_form = self._closed_form
        is_own = type(self).predict is DQN.predict and "predict" not in vars(self)
        is_warm_up = self.num_timesteps < learning_starts
        if closed_form is None or is_warm_up or not (is_own and closed_form.holds_parameters()):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        # The same random draws and actions as predict(), which checks and converts more
        if np.random.rand() < self.exploration_rate:
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            actions = closed_form.greedy_actions(self._last_obs)  # type: ignore[arg-type]
        return actions, actions

    def _on_step(self) -> None:
        self._n_calls += 1
        self._n_own_steps += self.n_envs
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            if self._closed_form is not None and self._closed_form.holds_parameters():
                self._closed_form.update_target(self.tau)
            else:
                polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_closed_form", "_said_of_learner"]
