"""Options of ReptileDQN that are set after the model was made: used from the next update on, or refused."""

from typing import TYPE_CHECKING, Any, NamedTuple

from stable_baselines3.common.utils import FloatSchedule

from sb3_reptile.replay import DecayedSampling

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN


class OptionsInUse(NamedTuple):
    """Values of the options that are checked, or handed on, once."""

    half_life: Any
    weighting: Any
    priority: Any
    alpha: Any
    beta: Any
    loss: Any
    double_q: Any
    learner: Any


def options_of(model: "ReptileDQN") -> OptionsInUse:
    """
    :param model: A model
    :return: What its options are now
    """
    return OptionsInUse(
        model.half_life,
        model.weighting,
        model.priority,
        model.alpha,
        model.beta,
        model.loss,
        model.double_q,
        model.learner,
    )


def use_changed_options(model: "ReptileDQN", in_use: OptionsInUse) -> None:
    """
    :param model: A model
    :param in_use: What its options were before
    :raises TypeError: if an option has the wrong type
    :raises ValueError: if an option has a value that is not allowed, or one that needs another replay buffer
    """
    model._check_options()
    now = options_of(model)
    buffer: Any = model.replay_buffer
    for name, before, value in zip(now._fields, in_use, now, strict=True):
        if before != value and not _can_change(name, before, value, buffer):
            raise ValueError(
                f"{name} cannot be changed from {before!r} to {value!r} in this model, whose {type(buffer).__name__} "
                f"was made for it: save the model, and load it with {name}={value!r}"
            )
    if now.half_life != in_use.half_life:
        buffer.half_life = now.half_life
    if now.weighting != in_use.weighting:
        buffer.weighting = now.weighting
    model.beta_schedule = FloatSchedule(model.beta)
    if now.learner != in_use.learner:
        model._closed_form = None


def _can_change(name: str, before: Any, value: Any, buffer: Any) -> bool:
    """Whether the replay buffer that there is can have another value of an option."""
    if name in ("half_life", "weighting") and not isinstance(buffer, DecayedSampling):
        return False
    if name == "half_life":
        # "auto" and None have other distributions
        return not isinstance(before, str | None) and not isinstance(value, str | None) and buffer.takes_half_life
    return name != "priority"
