"""ReptileDQN: SB3's DQN that replays by age. How ages are drawn is the replay buffer's business."""

import io
import pathlib
import warnings
from typing import Any, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.dqn.dqn import DQN
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_reptile.replay import (
    DecayedDictReplayBuffer,
    DecayedNStepReplayBuffer,
    DecayedReplayBuffer,
    DecayedSampling,
    Exponential,
)

SelfReptileDQN = TypeVar("SelfReptileDQN", bound="ReptileDQN")


class ReptileDQN(DQN):
    """
    DQN with decayed experience replay ("Reptile: Recurrent Experience Replay Technique"; not the meta-learning
    algorithm of the same name): recent transitions are replayed more often, so that the policy follows a changing
    environment.

    All arguments but the last are those of SB3's ``DQN``. ``half_life=float("inf")`` is SB3's ``DQN``, bit for bit.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, ...)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param learning_rate: The learning rate, it can be a function
        of the current progress remaining (from 1 to 0)
    :param buffer_size: size of the replay buffer
    :param learning_starts: how many steps of the model to collect transitions for before learning starts
    :param batch_size: Minibatch size for each gradient update
    :param tau: the soft update coefficient ("Polyak update", between 0 and 1) default 1 for hard update
    :param gamma: the discount factor
    :param train_freq: Update the model every ``train_freq`` steps. Alternatively pass a tuple of frequency and unit
        like ``(5, "step")`` or ``(2, "episode")``.
    :param gradient_steps: How many gradient steps to do after each rollout (see ``train_freq``)
        Set to ``-1`` means to do as many gradient steps as steps done in the environment
        during the rollout.
    :param replay_buffer_class: Replay buffer class to use. If ``None``, the decayed buffer for the observation space
        and ``n_steps`` is selected. A class that does not derive from ``DecayedSampling`` replays as it always does;
        ``half_life`` is then ignored, with a warning.
    :param replay_buffer_kwargs: Keyword arguments to pass to the replay buffer on creation, the other options of
        ``DecayedReplayBuffer`` among them. A ``half_life`` or ``decay`` in it goes before the argument ``half_life``.
    :param optimize_memory_usage: Enable a memory efficient variant of the replay buffer
        at a cost of more complexity.
    :param n_steps: When n_step > 1, uses n-step return (with the DecayedNStepReplayBuffer) when updating the
        Q-value network. As in ``DQN``, only used when ``replay_buffer_class`` is ``None``.
    :param target_update_interval: update the target network every ``target_update_interval``
        environment steps.
    :param exploration_fraction: fraction of entire training period over which the exploration rate is reduced
    :param exploration_initial_eps: initial value of random action probability
    :param exploration_final_eps: final value of random action probability
    :param max_grad_norm: The maximum value for the gradient clipping
    :param stats_window_size: Window size for the rollout logging, specifying the number of episodes to average
        the reported success rate, mean episode length, and mean reward over
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation, as in ``DQN``
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used), 2 for
        debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run.
        Setting it to auto, the code will be run on the GPU if possible.
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param half_life: Age at which a transition is half as likely to be replayed as the newest, in transitions (all
        environments counted); ``inf`` replays uniformly
    :raises TypeError: if ``half_life`` is not a number
    :raises ValueError: if ``half_life`` is not > 0
    """

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,  # 1e6
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 10000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        half_life: float = 1_000,
    ) -> None:
        self.half_life = Exponential(half_life).half_life  # refuse a bad one before anything is built
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            replay_buffer_class,
            replay_buffer_kwargs,
            optimize_memory_usage,
            n_steps,
            target_update_interval,
            exploration_fraction,
            exploration_initial_eps,
            exploration_final_eps,
            max_grad_norm,
            stats_window_size,
            tensorboard_log,
            policy_kwargs,
            verbose,
            seed,
            device,
            _init_setup_model,
        )

    def _setup_model(self) -> None:
        if self.replay_buffer_class is None:
            self._select_replay_buffer_class()
        with warnings.catch_warnings():
            if issubclass(self.replay_buffer_class, DecayedNStepReplayBuffer):  # type: ignore[arg-type]
                # SB3 warns that n_steps is ignored with any class but its own; this one got it in its kwargs
                warnings.filterwarnings("ignore", message="`n_steps=")
            super()._setup_model()
        self.half_life = self.replay_buffer_kwargs.get("half_life", self.half_life)
        self._set_half_life_of_buffer()

    def _select_replay_buffer_class(self) -> None:
        """The decayed counterpart of the class that SB3 would select."""
        if isinstance(self.observation_space, spaces.Dict):
            if self.n_steps > 1:
                raise ValueError(
                    f"n_steps must be 1 with Dict observations, got {self.n_steps}; "
                    "flatten the observations (gymnasium.wrappers.FlattenObservation) for n-step returns"
                )
            self.replay_buffer_class = DecayedDictReplayBuffer
        elif self.n_steps > 1:
            self.replay_buffer_class = DecayedNStepReplayBuffer
            self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, "n_steps": self.n_steps, "gamma": self.gamma}
        else:
            self.replay_buffer_class = DecayedReplayBuffer

    def _set_half_life_of_buffer(self) -> None:
        if isinstance(self.replay_buffer, DecayedSampling):
            # Another decay, from the kwargs or with a loaded buffer, has no use for it
            if "decay" not in self.replay_buffer_kwargs and isinstance(self.replay_buffer.decay, Exponential):
                self.replay_buffer.half_life = self.half_life
        else:
            warnings.warn(
                f"`half_life={self.half_life}` is ignored because `{type(self.replay_buffer).__name__}` does not "
                "decay: leave `replay_buffer_class` out, or derive from `DecayedSampling` and the class you passed",
                stacklevel=2,
            )

    def load_replay_buffer(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        truncate_last_traj: bool = True,
    ) -> None:
        """
        Load a replay buffer from a pickle file. Its transitions keep their ages; it takes over the model's half-life.

        :param path: Path to the pickled replay buffer.
        :param truncate_last_traj: When using ``HerReplayBuffer`` with online sampling:
            If set to ``True``, we assume that the last trajectory in the replay buffer was finished
            (and truncate it).
            If set to ``False``, we assume that we continue the same trajectory (same episode).
        """
        super().load_replay_buffer(path, truncate_last_traj)
        self._set_half_life_of_buffer()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        super().train(gradient_steps, batch_size)
        if isinstance(self.replay_buffer, DecayedSampling):
            diagnostics = self.replay_buffer.diagnostics()
            self.logger.record("replay/mean_age", diagnostics.expected_age)
            self.logger.record("replay/effective_sample_size", diagnostics.effective_sample_size)

    def learn(
        self: SelfReptileDQN,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "ReptileDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfReptileDQN:
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
