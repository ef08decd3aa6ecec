"""Options of ReptileDQN as attributes: a value that is set later is used from the next update on, or refused."""

from typing import Any

from stable_baselines3.common.utils import FloatSchedule

from sb3_reptile.replay import DecayedSampling


class Option:
    """
    An attribute of a model. Once there is a replay buffer, a new value is checked, and handed to the buffer if that has
    it; if it is refused, the former value stays.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        try:
            return vars(model)[self.name]
        except KeyError:
            raise AttributeError(f"{type(model).__name__!r} object has no attribute {self.name!r}") from None

    def __set__(self, model: Any, value: Any) -> None:
        values = vars(model)
        before = values.get(self.name)
        values[self.name] = value
        if values.get("replay_buffer") is None or value == before:
            return
        try:
            model._check_options()
            if reason := why_not(model, self.name, before):
                raise ValueError(f"{self.name} cannot be changed from {before!r} to {value!r}: {reason}")
            if self.name in ("half_life", "weighting"):
                setattr(model.replay_buffer, self.name, value)
            elif self.name == "beta":
                model.beta_schedule = FloatSchedule(value)
        except BaseException:
            values[self.name] = before
            raise


def why_not(model: Any, name: str, before: Any) -> str | None:
    """
    :param model: A model with a replay buffer
    :param name: An option that was set
    :param before: Its former value
    :return: Why the model cannot have its new value, and what to do; None if it can
    """
    buffer, value = model.replay_buffer, getattr(model, name)
    load = f"save the model and load it with {name}={value!r}"
    if name == "alpha" and model.priority is None:
        return "it is the exponent of priorities, which this model does not have"
    if name not in ("half_life", "weighting", "priority"):
        return None
    if not isinstance(buffer, DecayedSampling):
        return f"{type(buffer).__name__} does not decay: make a model without replay_buffer_class"
    if name == "priority":
        return f"the replay buffer was made {'with' if buffer.prioritized else 'without'} priorities: {load}"
    if name == "half_life" and (value is None or "auto" in (before, value)):
        return f"it needs another replay buffer: {load}, which takes over a saved replay buffer by load_replay_buffer()"
    if name == "half_life" and not buffer.takes_half_life:
        return f"the replay buffer has another decay, {buffer.decay}: make a model with half_life instead of decay"
    return None
