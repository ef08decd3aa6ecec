"""ReptileDQN: SB3's DQN with decayed replay."""

import io
import pathlib
from typing import Any, Literal, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch.nn import functional as F

from sb3_reptile.replay import DecayedDictReplayBuffer, DecayedReplayBuffer, DecayedSampling, use_weights
from sb3_reptile.replay.checks import Weighting, check_choice, check_whole_number
from sb3_reptile.replay.log import batch_log
from sb3_reptile.replay.multi_step import check_n_steps
from sb3_reptile.replay.options import check_fraction, check_half_life, check_weighting
from sb3_reptile.replay.taking_over import fitted
from sb3_reptile.reptile_dqn.buffer_options import (
    UNDISCOUNTED,
    UNMIXED,
    hand_returns_to_buffer,
    replay_options,
    returns_of,
)
from sb3_reptile.reptile_dqn.closed_form_dqn import ClosedFormDQN
from sb3_reptile.reptile_dqn.discrete_spaces import check_discrete_spaces
from sb3_reptile.reptile_dqn.lambda_returns import LambdaReturns, TargetNetwork, replay_buffer_of, tensors_of
from sb3_reptile.reptile_dqn.loading import (
    buffer_in_file,
    decay_what_dqn_saved,
    hand_options_to_buffer,
    was_saved_by_dqn,
)
from sb3_reptile.reptile_dqn.pretrained import Pretrained
from sb3_reptile.reptile_dqn.set_options import Option
from sb3_reptile.reptile_dqn.transfer import Transfer, TransferOptions, make_transfer
from sb3_reptile.reptile_dqn.whole_episodes import WholeEpisodes
from sb3_reptile.vec_env.ray_asynchronous import Asynchronous

SelfReptileDQN = TypeVar("SelfReptileDQN", bound="ReptileDQN")

LOSSES = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}
OPTIONS = {
    "priority": (None, "td_error"),
    "loss": tuple(LOSSES),
    "double_q": (False, True),
    "learner": ("auto", "eager", "fast"),
}
# Added to absolute TD errors, so that none becomes impossible to draw (Schaul et al. 2016, section 3.3)
SMALLEST_TD_ERROR = 1e-6
# Exponent of the priorities (https://arxiv.org/abs/1511.05952, appendix)
ALPHA = 0.6


class ReptileDQN(Asynchronous, WholeEpisodes, ClosedFormDQN):
    """
    DQN with decayed experience replay ("Reptile: Recurrent Experience Replay Technique"; not the meta-learning
    algorithm of the same name): recent transitions are replayed more often, so that the policy follows a changing
    environment.

    Its loop is: interact, store, draw, weight by age, update the policy network, hand it to the agent. The arguments up
    to ``half_life`` are those of SB3's ``DQN``. By default it replays what still holds, the newest most often, and
    learns from λ-returns of 10 steps. With ``n_steps=1, half_life=float("inf")`` and otherwise defaults it is SB3's
    ``DQN``, bit for bit.

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
        ``DecayedReplayBuffer`` among them. A ``half_life`` or ``weighting`` in it overrides the argument of that name.
    :param optimize_memory_usage: Enable a memory efficient variant of the replay buffer
        at a cost of more complexity.
    :param n_steps: When n_step > 1, uses n-step return when updating the Q-value network, with any decayed replay
        buffer but the one for hindsight. ``None`` is 10 steps mixed with ``q_lambda=0.7``, or 1 where the replay buffer
        has no n-step returns.
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
    :param half_life: For exponential decay, the age at which a transition is half as likely to be replayed as the
        newest, in transitions (all environments counted); ``inf`` replays uniformly; ``"auto"`` replays what still
        holds, see :class:`~sb3_reptile.replay.Consistency`, and weights it by the buffer's ``decay``; ``None`` replays
        by that decay alone, with which a number cannot be combined. The decay is ``(1 + age / 100) ** -1.5`` unless
        ``replay_buffer_kwargs`` have another one.
    :param weighting: Where decay acts: in the draws (``"sampling"``), or in the loss of uniform draws (``"loss"``). The
        expected gradient is the same, the variance of ``"loss"`` higher.
    :param priority: ``"td_error"`` replays transitions with large TD errors more often (prioritized experience replay,
        https://arxiv.org/abs/1511.05952), on top of the decay; ``None`` does not
    :param alpha: Exponent of the priorities, in [0, 1]; 0 makes them all the same
    :param beta: Exponent of the importance weights that correct for priorities and decay, in [0, 1], or a function of
        the remaining progress (from 1 to 0); used with ``priority`` only
    :param loss: ``"huber"``, as in SB3's DQN, or ``"mse"``, the squared TD error
    :param double_q: Let the online network choose the action that the target network evaluates (Double DQN,
        https://arxiv.org/abs/1509.06461)
    :param pretrained: Parameters to start from instead of random ones: the path of a saved DQN, QRDQN or ReptileDQN, a
        checkpoint or a folder of checkpoints, such a model, or a state dict of a DQN's policy or ``q_net``. If the
        numbers of actions or observations differ, ``transfer`` maps them.
    :param transfer: How training continues from ``pretrained``: a dict of ``actions`` and ``observations``, lists of
        the numbers that they have there, or None for new ones; ``freeze_steps`` and ``freeze_layers``, for which all
        but the last or the first layers do not learn; and ``learning_rate_factor``, a smaller learning rate for what
        was loaded. See :class:`~sb3_reptile.reptile_dqn.transfer.TransferOptions`
    :param learner: How updates are computed: ``"eager"``, by PyTorch's autograd and optimizer; ``"auto"``, in closed
        form where that applies (an MlpPolicy with ReLU on vectors, Adam, on the CPU), with the same results bit for
        bit; or ``"fast"``, the closed form with the fused kernel of Adam, which rounds differently, and targets
        computed once for draws that repeat. Where the closed form does not apply, all of them use autograd, ``"fast"``
        with the fused kernel of Adam and convolutions on channels last. With ``verbose=1`` it prints which is used,
        and why.
    :param q_lambda: Mixes the returns of 1 to ``n_steps`` steps: the λ of Peng's Q(λ)
        (https://arxiv.org/abs/2103.00107), in [0, 1]. 1 uses the return of ``n_steps`` steps alone, as SB3 does; less
        relies more on the target network and less on how the actions after the first one were chosen, and needs
        ``n_steps > 1``. ``None`` is 1 if ``n_steps`` is given, and else 0.7.
    :raises TypeError: if ``half_life``, ``alpha`` or ``beta`` is not a number
    :raises ValueError: if an argument has a value that is not allowed
    """

    # A class that does not decay may be passed; type checkers see what is usual
    replay_buffer: DecayedSampling

    half_life, weighting, priority, alpha, beta = Option(), Option(), Option(), Option(), Option()
    loss, double_q, learner = Option(), Option(), Option()

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
        n_steps: int | None = None,
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
        half_life: float | Literal["auto"] | None = "auto",
        weighting: Weighting = "sampling",
        priority: Literal["td_error"] | None = None,
        alpha: float = ALPHA,
        beta: float | Schedule = 0.4,
        loss: Literal["huber", "mse"] = "huber",
        double_q: bool = False,
        pretrained: Pretrained | None = None,
        transfer: TransferOptions | Transfer | None = None,
        learner: Literal["auto", "eager", "fast"] = "auto",
        q_lambda: float | None = None,
    ) -> None:
        self.half_life = half_life
        self.weighting = weighting
        self.priority = priority
        self.alpha = alpha
        self.beta = beta
        self.loss = loss
        self.double_q = double_q
        self.pretrained = pretrained
        self.transfer = make_transfer(transfer, pretrained is not None)
        self.learner = learner
        # What is None is decided when the replay buffer's class is known
        self.q_lambda: float = q_lambda  # type: ignore[assignment]
        self.n_steps: int = n_steps  # type: ignore[assignment]
        self._lambda_returns: LambdaReturns | None = None
        self._last_batch: tuple[Any, th.Tensor] | None = None
        self._check_options()  # before anything is built
        if priority is None and alpha != ALPHA:
            raise ValueError(f"alpha={alpha!r} is the exponent of priorities: set priority='td_error' too, or no alpha")
        try:
            super().__init__(
                policy,
                env,
                learning_rate=learning_rate,
                buffer_size=buffer_size,
                learning_starts=learning_starts,
                batch_size=batch_size,
                tau=tau,
                gamma=gamma,
                train_freq=train_freq,
                gradient_steps=gradient_steps,
                replay_buffer_class=replay_buffer_class,
                replay_buffer_kwargs=replay_buffer_kwargs,
                optimize_memory_usage=optimize_memory_usage,
                n_steps=n_steps,  # type: ignore[arg-type]
                target_update_interval=target_update_interval,
                exploration_fraction=exploration_fraction,
                exploration_initial_eps=exploration_initial_eps,
                exploration_final_eps=exploration_final_eps,
                max_grad_norm=max_grad_norm,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                policy_kwargs=policy_kwargs,
                verbose=verbose,
                seed=seed,
                device=device,
                _init_setup_model=_init_setup_model,
            )
        except AssertionError as error:
            if isinstance(getattr(self, "action_space", None), (spaces.Discrete, type(None))):
                raise
            raise AssertionError(f"{error}: wrap the environment in sb3_reptile.envs.DiscreteActions") from None

    def _check_options(self) -> None:
        check_half_life(self.half_life)
        for name, allowed in OPTIONS.items():
            check_choice(name, getattr(self, name), allowed)
        for name in ("alpha",) if callable(self.beta) else ("alpha", "beta"):
            check_fraction(name, getattr(self, name), "0 switches it off")
        if self.q_lambda is not None:
            check_fraction("q_lambda", self.q_lambda, UNMIXED)
        if self.n_steps is not None:
            check_n_steps(self.n_steps)
        check_weighting(self.weighting, self.priority is not None)

    def _setup_model(self) -> None:
        if was_saved_by_dqn(self):
            decay_what_dqn_saved(self)
        kwargs = dict(self.replay_buffer_kwargs)
        # The user's arguments of the buffer override the model's options, which are set to the same values
        for name in ("half_life", "weighting"):
            if name in kwargs:
                setattr(self, name, kwargs.pop(name))
        self._check_options()
        check_discrete_spaces(self.observation_space, self.action_space)
        if self.replay_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.replay_buffer_class = DecayedDictReplayBuffer if is_dict else DecayedReplayBuffer
        check_fraction("gamma", self.gamma, UNDISCOUNTED)
        check_whole_number("batch_size", self.batch_size)
        # SB3's own class with n-step returns decides, if nobody asks for a number
        is_open = self.n_steps is None
        self.n_steps, self.q_lambda = returns_of(self, self.replay_buffer_class)
        # The model's options reach the buffer through its kwargs
        options = replay_options(self, None if is_open and self.n_steps == 1 else self.n_steps)
        self.replay_buffer_kwargs = {**options, **kwargs}
        # SB3 gives n_steps to its own class only, and warns that any other ignores it; here it is among the kwargs
        n_steps, self.n_steps = self.n_steps, 1
        in_file = buffer_in_file(self)
        if in_file is not None:
            self.replay_buffer = None  # type: ignore[assignment]
        super()._setup_model()
        self.n_steps = getattr(self.replay_buffer, "n_steps", n_steps)
        self.replay_buffer_kwargs = kwargs
        self.beta_schedule = FloatSchedule(self.beta)
        if in_file is not None:
            self._take_buffer(in_file, "the model's file")
        if self.q_lambda < 1:
            replay_buffer_of(self)

    def _take_buffer(self, loaded: ReplayBuffer, path: Any) -> None:
        """Replay from a buffer that was loaded, as the model's options say."""
        present = self.replay_buffer
        self.replay_buffer = fitted(loaded, present, path)  # type: ignore[assignment]
        hand_options_to_buffer(self, present, path)
        hand_returns_to_buffer(self)

    def load_replay_buffer(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        truncate_last_traj: bool = True,
    ) -> None:
        """
        Load a replay buffer from a pickle file. Its transitions keep their ages, and it keeps its size; it adopts the
        model's half-life, weighting, n-step returns and the other options that a buffer can change. The transitions of
        a buffer of another kind, SB3's own for instance, or with another decay or other options that it cannot change,
        are taken into the model's in their order, with a warning.

        :param path: Path to the pickled replay buffer.
        :param truncate_last_traj: When using ``HerReplayBuffer`` with online sampling:
            If set to ``True``, we assume that the last trajectory in the replay buffer was finished
            (and truncate it).
            If set to ``False``, we assume that we continue the same trajectory (same episode).
        :raises ValueError: if the buffer was made for other spaces or another number of environments, or cannot be
            taken over and has no priorities, which the model needs; the model keeps its own then
        """
        present = self.replay_buffer
        assert present is not None
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            loaded, self.replay_buffer = self.replay_buffer, present
            self._take_buffer(loaded, path)
        except BaseException:
            self.replay_buffer = present
            raise

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        self.wait_for_late_workers(gradient_steps)
        # Update learning rate and importance exponent according to their schedules
        self._update_learning_rate(self.policy.optimizer)
        self._freeze_or_thaw()
        buffer = self.replay_buffer
        assert buffer is not None
        hand_returns_to_buffer(self)
        if isinstance(buffer, DecayedSampling):
            use_weights(buffer)
        if self.priority is not None:
            buffer.beta = self.beta_schedule(self._current_progress_remaining)

        closed_form = self._attached_closed_form()
        if closed_form is None:
            with self._faster_autograd():
                losses, batch, td_errors = self._train_eagerly(gradient_steps, batch_size)
        else:
            losses, batch, td_errors = closed_form.train(gradient_steps, batch_size)

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses) if len(losses) > 1 else losses[0])
        # For dump_logs(), which is called less often
        self._last_batch = batch, td_errors

    def _train_eagerly(self, gradient_steps: int, batch_size: int) -> tuple[list[float], Any, th.Tensor]:
        """The training loop with PyTorch's autograd and optimizer."""
        # Switch to train mode (this affects batch norm / dropout)
        self._set_training_mode()
        buffer = self.replay_buffer
        assert buffer is not None
        losses, parameters = [], list(self.policy.parameters())
        for _ in range(gradient_steps):
            # Draw, by age and priority or uniformly
            batch: Any = buffer.sample(batch_size, env=self._vec_normalize_env)
            # TD targets and values
            targets = self._td_targets(batch)
            values = th.gather(self.q_net(batch.observations), dim=1, index=batch.actions.long())
            # Loss of each transition, times its weight
            loss = (LOSSES[self.loss](values, targets, reduction="none") * getattr(batch, "weights", 1)).mean()
            losses.append(loss.item())
            # Update the policy network
            self.policy.optimizer.zero_grad()
            loss.backward()
            th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
            self.policy.optimizer.step()
            # Large TD errors have priority next time
            td_errors = (targets - values).detach()
            if self.priority is not None:
                self._update_priorities(batch.indices, td_errors)
        return losses, batch, td_errors.abs().flatten()

    def _update_priorities(self, indices: np.ndarray, td_errors: th.Tensor) -> None:
        """Set the priorities of transitions to ``(|TD error| + 1e-6) ** alpha``."""
        sizes = np.abs(td_errors.detach().cpu().numpy().reshape(-1).astype(np.float64))
        self.replay_buffer.update_priorities(indices, (sizes + SMALLEST_TD_ERROR) ** self.alpha)

    def _td_targets(self, batch: Any) -> th.Tensor:
        """``r + gamma max_a Q_target(s', a)``, or with the action that the online network prefers; or λ-returns."""
        if self.q_lambda < 1:
            with th.no_grad():
                target = TargetNetwork(self.q_net_target, list(tensors_of(self.q_net_target)))
                return self.lambda_returns().targets(batch.indices, target)
        discounts = batch.discounts if batch.discounts is not None else self.gamma
        with th.no_grad():
            next_values = self.q_net_target(batch.next_observations)
            if self.double_q:
                best = self.q_net(batch.next_observations).argmax(dim=1, keepdim=True)
                next_values = next_values.gather(1, best)
            else:
                next_values = next_values.max(dim=1).values.reshape(-1, 1)
            return batch.rewards + (1 - batch.dones) * discounts * next_values

    def lambda_returns(self) -> LambdaReturns:
        """
        :return: The λ-returns of its present replay buffer, with a cache of the target network's values
        """
        if self._lambda_returns is None or not self._lambda_returns.is_of(self):
            self._lambda_returns = LambdaReturns(self)
        return self._lambda_returns

    def td_errors(self, indices: np.ndarray) -> th.Tensor:
        """
        The TD errors of stored transitions under the present networks; nothing is trained. With hindsight replay, those
        with the goals that were pursued.

        :param indices: Numbers of transitions in the replay buffer, int64, shape (n,)
        :return: ``target - value``, shape (n, 1)
        :raises ValueError: if nothing is stored at one of them, or it is overwritten in part, as the oldest row of a
            full buffer with ``optimize_memory_usage``
        """
        assert isinstance(self.replay_buffer, DecayedSampling), "td_errors() needs a decayed replay buffer"
        indices = np.asarray(indices, dtype=np.int64)
        n_stored, n_drawable = self.replay_buffer.size() * self.n_envs, self.replay_buffer.n_drawable()
        refused = indices[(indices < 0) | (indices >= n_stored)]
        if not len(refused):
            refused = indices[self.replay_buffer.ages_of(indices) >= n_drawable]
        if len(refused):
            raise ValueError(
                f"indices must be numbers of stored transitions, from 0 to {n_stored - 1}, of which {n_drawable} can "
                f"be drawn, got {refused[0]}: replay_buffer.drawable() has them"
            )
        hand_returns_to_buffer(self)
        batch = self.replay_buffer.transitions(indices, env=self._vec_normalize_env)
        with th.no_grad():
            return self._td_targets(batch) - th.gather(self.q_net(batch.observations), 1, batch.actions.long())

    def dump_logs(self) -> None:
        """
        Write log data.
        """
        is_decayed = isinstance(self.replay_buffer, DecayedSampling)
        if self._last_batch is not None and is_decayed and self.replay_buffer.can_be_sampled():
            self._log_replay(*self._last_batch)
        super().dump_logs()

    def _log_replay(self, batch: Any, td_errors: th.Tensor) -> None:
        """Log what is replayed, and the mean TD error by age."""
        assert isinstance(self.replay_buffer, DecayedSampling)
        values = self.replay_buffer.log_values()
        values |= batch_log(batch.weights, self.replay_buffer.ages_of(batch.indices), td_errors)
        for key, value in values.items():
            self.logger.record(key, value)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_batch", "_lambda_returns"]

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
