"""Callbacks for training with decayed replay: a half-life that changes, and pictures of what is replayed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule

from sb3_reptile.figures import GREY, ORANGE, draw_probability_by_age, label_axes
from sb3_reptile.replay import DecayedSampling, Exponential
from sb3_reptile.reptile_dqn import ReptileDQN


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
    Changes the half-life of the replay buffer as training goes on, once per rollout. It works with every algorithm
    whose replay buffer is a decayed one.

    :param half_life: The half-life in transitions as a function of the remaining progress (from 1 to 0), or the
        arguments of SB3's ``LinearSchedule``, ``{"start": 300, "end": 3000, "end_fraction": 0.5}``, as YAML spells them
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises TypeError: if ``half_life`` is neither
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
        if not isinstance(buffer.decay, Exponential):
            raise ValueError(f"HalfLifeSchedule needs an exponential decay, the replay buffer's is {buffer.decay}")
        self._set()

    def _on_rollout_start(self) -> None:
        self._set()

    def _set(self) -> None:
        half_life = float(self.half_life(self.model._current_progress_remaining))
        _decayed_buffer(self).half_life = half_life
        if hasattr(self.model, "half_life"):
            self.model.half_life = half_life

    def _on_step(self) -> bool:
        return True


class ReplayFigures(BaseCallback):
    """
    Draws to TensorBoard how much the transitions of each age are replayed, and, for ``ReptileDQN``, how large their TD
    errors are: when the world changes, the errors of the youngest rise first. Needs the extra ``plots``.

    :param draw_freq: Draw every so many steps of the environments
    :param n_transitions: Of how many transitions, drawn uniformly, the TD errors are told; they are not trained on
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
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        self.draw_freq = draw_freq
        self.n_transitions = n_transitions
        self._drawn_at = 0

    def _on_training_start(self) -> None:
        _decayed_buffer(self)

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._drawn_at >= self.draw_freq and _decayed_buffer(self).size() > 0:
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
        ages = buffer.ages().ravel()
        valid = np.flatnonzero((ages >= 0) & (ages <= buffer.diagnostics().oldest_age))
        # A generator of its own, so that training goes on as if nothing had been drawn
        indices = np.random.default_rng(self.num_timesteps).choice(valid, self.n_transitions)
        errors = model.td_errors(indices).abs().flatten().cpu().numpy()
        ages = ages[indices]
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
