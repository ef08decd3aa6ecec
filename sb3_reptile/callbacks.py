"""Callbacks for training with decayed replay: schedules, evaluation, reactions to changes, logs and pictures."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback
from stable_baselines3.common.logger import Figure
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule

from sb3_reptile.evaluation.callback import DriftEvalCallback
from sb3_reptile.figures import GREY, ORANGE, draw_probability_by_age, label_axes
from sb3_reptile.replay import Change, DecayedSampling
from sb3_reptile.replay.checks import check_number, check_whole_number
from sb3_reptile.reptile_dqn import ReptileDQN
from sb3_reptile.vec_env.ray_vec_env import RayVecEnv

__all__ = [
    "ConsistencyHistory",
    "DriftEvalCallback",
    "HalfLifeSchedule",
    "OnChange",
    "ReExplore",
    "ReplayFigures",
    "ReplayLog",
    "WorkerLog",
]


def _decayed_buffer(callback: BaseCallback) -> DecayedSampling:
    """
    :raises ValueError: if the model has no decayed replay buffer
    """
    buffer = getattr(callback.model, "replay_buffer", None)
    if not isinstance(buffer, DecayedSampling):
        raise ValueError(
            f"{type(callback).__name__} needs a model with a decayed replay buffer, got {type(buffer).__name__}: "
            "use ReptileDQN, or replay_buffer_class=DecayedReplayBuffer"
        )
    return buffer


class HalfLifeSchedule(BaseCallback):
    """
    Changes the half-life of the replay buffer once per rollout. It works with every algorithm that has a decayed replay
    buffer.

    :param half_life: The half-life in transitions as a function of the remaining progress (from 1 to 0), or the
        arguments of SB3's ``LinearSchedule``, ``{"start": 300, "end": 3000, "end_fraction": 0.5}``, as YAML spells them
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises TypeError: if ``half_life`` is something else
    """

    def __init__(self, half_life: Schedule | Mapping[str, float], verbose: int = 0) -> None:
        super().__init__(verbose)
        if isinstance(half_life, Mapping):
            half_life = LinearSchedule(**half_life)
        if not callable(half_life):
            raise TypeError(
                "half_life must be a function of the remaining progress or the arguments of LinearSchedule, "
                f"got {half_life!r}; for a constant one use the argument half_life of the model"
            )
        self.half_life = half_life

    def _on_training_start(self) -> None:
        buffer = _decayed_buffer(self)
        if not buffer.takes_half_life:
            raise ValueError(f"HalfLifeSchedule needs an exponential decay, the replay buffer's is {buffer.decay}")
        self._set()

    def _on_rollout_start(self) -> None:
        self._set()

    def _set(self) -> None:
        half_life = float(self.half_life(self.model._current_progress_remaining))
        _decayed_buffer(self).half_life = half_life
        model: Any = self.model
        # A decay among the buffer's arguments stays the only place that names one
        if getattr(model, "half_life", "auto") != "auto" and "decay" not in model.replay_buffer_kwargs:
            model.half_life = half_life

    def _on_step(self) -> bool:
        return True


class ReplayLog(BaseCallback):
    """
    Logs what replay is doing, whenever an episode ends, which is when SB3 writes its log; for algorithms other than
    ``ReptileDQN``, which logs it anyway. With ``half_life="auto"`` this includes regime, number of alarms, mean
    consistency and effective half-life. ``sb3-reptile train`` adds it to every algorithm with a decayed replay buffer.

    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    """

    def _on_training_start(self) -> None:
        _decayed_buffer(self)

    def _record(self) -> None:
        buffer = _decayed_buffer(self)
        if buffer.can_be_sampled():
            for key, value in buffer.log_values().items():
                self.logger.record(key, value)

    def _on_step(self) -> bool:
        # Not every step: with priorities, the diagnostics take longer the larger the buffer is
        if np.any(self.locals["dones"]):
            self._record()
        return True

    def _on_training_end(self) -> None:
        self._record()


class WorkerLog(BaseCallback):
    """
    Logs restarts of workers and lost transitions of a ``RayVecEnv`` once per rollout, for algorithms other than
    ``ReptileDQN``, which logs them anyway. Where training has a ``CheckpointCallback`` too, this saves before training
    ends because workers are lost.

    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises ValueError: when training starts, if the environments are not on a Ray cluster
    """

    def _on_training_start(self) -> None:
        env = self._ray_env()
        self._on_training_end()  # of a training that was interrupted
        for callback in _flat(self.locals.get("callback")):
            if isinstance(callback, CheckpointCallback):
                env.before_failure.append(partial(_save_now, callback))

    def _on_rollout_end(self) -> None:
        for key, value in self._ray_env().log_values().items():
            self.logger.record(key, value)

    def _on_training_end(self) -> None:
        env = self._ray_env()
        env.before_failure[:] = [save for save in env.before_failure if getattr(save, "func", None) is not _save_now]

    def _ray_env(self) -> RayVecEnv:
        env = self.training_env.unwrapped
        if not isinstance(env, RayVecEnv):
            raise ValueError(f"WorkerLog needs environments in a RayVecEnv, got {type(env).__name__}: leave it out")
        return env

    def _on_step(self) -> bool:
        return True


def _flat(callback: Any) -> Iterator[BaseCallback]:
    if isinstance(callback, CallbackList):
        for child in callback.callbacks:
            yield from _flat(child)
    elif isinstance(callback, BaseCallback):
        yield callback


def _save_now(callback: CheckpointCallback) -> None:
    save_freq, callback.save_freq = callback.save_freq, 1
    try:
        callback._on_step()
    finally:
        callback.save_freq = save_freq


class OnChange(BaseCallback):
    """
    Calls a function whenever a replay buffer with ``half_life="auto"`` detects a change.

    :param on_change: Takes the callback (its ``model``, ``logger`` and ``num_timesteps``) and the change
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    """

    def __init__(self, on_change: Callable[[BaseCallback, Change], None], verbose: int = 0) -> None:
        super().__init__(verbose)
        self.on_change = on_change
        self._n_seen = 0

    def _on_training_start(self) -> None:
        self._n_seen = len(self._changes())

    def _changes(self) -> list[Change]:
        consistency = _decayed_buffer(self).consistency
        if consistency is None:
            raise ValueError(
                f"{type(self).__name__} needs a replay buffer that notices changes: make it with half_life='auto'"
            )
        return consistency.changes

    def _on_step(self) -> bool:
        changes = self._changes()
        for change in changes[self._n_seen :]:
            if self.verbose >= 1:
                print(f"{type(self).__name__}: {change}")
            self.on_change(self, change)
        self._n_seen = len(changes)
        return True


class RaisedSchedule:
    """
    A schedule of the exploration rate that can be raised.

    :param schedule: The schedule to be raised, a function of the remaining progress (from 1 to 0)
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        #: The lowest rate of the next call alone: nothing stays raised if training is interrupted
        self.at_least = 0.0

    def __call__(self, progress_remaining: float) -> float:
        at_least, self.at_least = self.at_least, 0.0
        return max(self.schedule(progress_remaining), at_least)


class ReExplore(OnChange):
    """
    Explores again after a change: raises the exploration rate of DQN, QRDQN or ReptileDQN, which then falls linearly
    until it meets the algorithm's own schedule.

    :param exploration_rate: The rate right after a change, in (0, 1]
    :param n_steps: Number of steps of the environments after which it would reach 0
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises TypeError: if an argument is not a number
    :raises ValueError: if an argument is outside its range
    """

    def __init__(self, exploration_rate: float = 0.3, n_steps: int = 2_000, verbose: int = 0) -> None:
        super().__init__(lambda callback, change: self._raise(), verbose)
        is_rate = lambda value: 0 < value <= 1  # noqa: E731
        check_number("exploration_rate", exploration_rate, "in (0, 1]", is_rate, "leave the callback out for none")
        check_number("n_steps", n_steps, ">= 1", lambda value: value >= 1, "try the length of some episodes")
        self.exploration_rate = exploration_rate
        self.n_steps = n_steps
        self._raised_at: int | None = None

    def _raise(self) -> None:
        self._raised_at = self.num_timesteps

    def _on_training_start(self) -> None:
        super()._on_training_start()
        model: Any = self.model
        if not hasattr(model, "exploration_schedule"):
            raise ValueError(
                f"ReExplore raises the exploration rate of DQN, QRDQN or ReptileDQN, {type(model).__name__} has none"
            )
        schedule = model.exploration_schedule
        # Still wrapped if the training before was interrupted
        self._schedule = RaisedSchedule(schedule.schedule if isinstance(schedule, RaisedSchedule) else schedule)
        model.exploration_schedule = self._schedule
        if self._raised_at is not None and self._raised_at > model.num_timesteps:
            self._raised_at = None  # in a training before this one, whose steps are not counted any more

    def _on_step(self) -> bool:
        super()._on_step()
        if self._raised_at is not None:
            left = 1 - (self.num_timesteps - self._raised_at) / self.n_steps
            self._schedule.at_least = self.exploration_rate * max(left, 0.0)
        return True

    def _on_training_end(self) -> None:
        self.model.exploration_schedule = self._schedule.schedule  # type: ignore[attr-defined]


class ConsistencyHistory(BaseCallback):
    """
    Records the consistency of the segments of a replay buffer with ``half_life="auto"`` during training, for
    :func:`sb3_reptile.figures.draw_consistency`. It begins again when the buffer is reset or replaced.

    :param every: Number of steps of the environments between two records
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    """

    def __init__(self, every: int = 500, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.every = every
        #: Transitions added; number of the first of each segment; consistency of each segment
        self.history: list[tuple[int, np.ndarray, np.ndarray]] = []

    def _on_step(self) -> bool:
        buffer = _decayed_buffer(self)
        if buffer.consistency is None:
            raise ValueError("ConsistencyHistory needs a replay buffer made with half_life='auto'")
        added = buffer.consistency.rows_seen * buffer.n_envs
        if self.history and added < self.history[-1][0]:
            self.history.clear()
        if added - (self.history[-1][0] if self.history else 0) >= self.every:
            self.history.append((added, buffer.consistency.starts * buffer.n_envs, buffer.consistency.consistencies))
        return True


class ReplayFigures(BaseCallback):
    """
    Draws to TensorBoard how much transitions of each age are replayed, and, for ``ReptileDQN``, their TD errors: after
    a change, the errors of the newest rise first. Needs the extra ``plots``.

    :param draw_freq: Number of steps of the environments between two drawings
    :param n_transitions: Number of transitions, sampled uniformly, whose TD errors are drawn
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises ImportError: if matplotlib is missing
    :raises ValueError: if an argument is not a whole number >= 1
    """

    def __init__(self, draw_freq: int = 10_000, n_transitions: int = 1_024, verbose: int = 0) -> None:
        super().__init__(verbose)
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ImportError("ReplayFigures needs the extra `plots`: pip install 'sb3-reptile[plots]'") from error
        for name, value in [("draw_freq", draw_freq), ("n_transitions", n_transitions)]:
            check_whole_number(name, value)
        self.draw_freq = draw_freq
        self.n_transitions = n_transitions
        self._drawn_at = 0

    def _on_training_start(self) -> None:
        _decayed_buffer(self)
        self._drawn_at = min(self._drawn_at, self.model.num_timesteps)

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._drawn_at >= self.draw_freq and _decayed_buffer(self).can_be_sampled():
            self._drawn_at = self.num_timesteps
            self._record("replay/probability_by_age", self._probability_by_age())
            if isinstance(self.model, ReptileDQN):
                self._record("replay/td_error_by_age", self._td_error_by_age(self.model))

    def _record(self, key: str, figure: Any) -> None:
        self.logger.record(key, Figure(figure, close=True), exclude=("stdout", "log", "json", "csv"))

    def _axes(self) -> tuple[Any, Any]:
        from matplotlib.figure import Figure as MatplotlibFigure

        figure = MatplotlibFigure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.set_title(f"after {self.model.num_timesteps:,} steps", fontsize=10, loc="left")
        return figure, axes

    def _probability_by_age(self) -> Any:
        figure, axes = self._axes()
        draw_probability_by_age(axes, _decayed_buffer(self))
        return figure

    def _td_error_by_age(self, model: ReptileDQN) -> Any:
        buffer = _decayed_buffer(self)
        # Its own generator, so that training does not change
        indices = np.random.default_rng(self.num_timesteps).choice(buffer.drawable(), self.n_transitions)
        errors = model.td_errors(indices).abs().flatten().cpu().numpy()
        ages = buffer.ages_of(indices)
        order = ages.argsort()
        figure, axes = self._axes()
        label_axes(axes, "age (transitions)", "absolute TD error")
        axes.scatter(ages, errors, s=4, alpha=0.3, color=GREY, linewidths=0)
        bins = [part for part in np.array_split(order, 20) if len(part) > 0]
        axes.plot([ages[part].mean() for part in bins], [errors[part].mean() for part in bins], color=ORANGE)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{axes.get_title('left')}: each, and means", fontsize=10, loc="left")
        return figure

    def _on_step(self) -> bool:
        return True
