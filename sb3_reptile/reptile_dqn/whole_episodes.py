"""Training that stores every transition, and ends episodes where it leaves them."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_reptile.replay import DecayedSampling
from sb3_reptile.replay.episodes import end_running_episodes
from sb3_reptile.replay.taking_over import check_fits


class WholeEpisodes(OffPolicyAlgorithm):
    """
    Mixin for off-policy algorithms, of which :class:`~sb3_reptile.reptile_dqn.ReptileDQN` is one::

        class MySAC(WholeEpisodes, SAC): ...

    SB3 does not store the step at which a callback stops training, and when training goes on, it combines the
    observation before that step with what follows after it. With this mixin the step is stored. Where an exception ends
    training, or it starts again, the environments are reset, and episodes in progress end in the replay buffer.
    """

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.replay_buffer is not None:
            check_fits(
                self.replay_buffer, self.observation_space, self.action_space, self.n_envs, "model.replay_buffer"
            )
        # The conditions under which SB3 resets the environments
        if (reset_num_timesteps or self._last_obs is None) and isinstance(self.replay_buffer, DecayedSampling):
            end_running_episodes(self.replay_buffer)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        if isinstance(self.replay_buffer, HerReplayBuffer):
            self.replay_buffer.env = self.env  # which computes the rewards of relabelled goals

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        try:
            rollout = super().collect_rollouts(env, callback, *args, **kwargs)
        except BaseException:
            # The environments may have gone on without the model: reset them before the next step
            self._last_obs = None
            raise
        if not rollout.continue_training:
            step = callback.locals
            self._store_transition(
                step["replay_buffer"],
                step["buffer_actions"],
                step["new_obs"],
                step["rewards"],
                step["dones"],
                step["infos"],
            )
        return rollout
