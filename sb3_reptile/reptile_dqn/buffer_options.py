"""The arguments of ReptileDQN's replay buffer that follow from the model's own options."""

import warnings
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_reptile.replay import DecayedSampling
from sb3_reptile.replay.multi_step import MultiStepSampling

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

# Returns where none are asked for (docs/explanation/multi_step.md)
N_STEPS, Q_LAMBDA = 10, 0.7


def returns_of(model: "ReptileDQN", buffer_class: type[ReplayBuffer]) -> tuple[int, float]:
    """
    :param model: A model, whose ``n_steps`` and ``q_lambda`` may be None
    :param buffer_class: Its ``replay_buffer_class``
    :return: Its ``n_steps`` and ``q_lambda``. Files from before λ-returns have the first only: it means uncorrected
        returns, as in SB3.
    """
    n_steps, q_lambda = model.n_steps, model.q_lambda
    if n_steps is None and "n_steps" in model.replay_buffer_kwargs:
        n_steps = model.replay_buffer_kwargs["n_steps"]
    if n_steps is None and issubclass(buffer_class, MultiStepSampling):
        return N_STEPS, Q_LAMBDA if q_lambda is None else q_lambda
    return n_steps or 1, 1.0 if q_lambda is None else q_lambda


def replay_options(model: "ReptileDQN") -> dict[str, Any]:
    """
    :param model: A model whose ``replay_buffer_class`` is set
    :return: Arguments of that class; ``replay_buffer_kwargs`` override those of its distribution
    :raises ValueError: if an option of the model needs another class, or contradicts ``replay_buffer_kwargs``
    """
    buffer_class = model.replay_buffer_class
    assert buffer_class is not None
    return _decay_options(model, buffer_class) | return_options(model, buffer_class)


def _decay_options(model: "ReptileDQN", buffer_class: type[ReplayBuffer]) -> dict[str, Any]:
    if not issubclass(buffer_class, DecayedSampling):
        if model.priority is not None or model.weighting == "loss":
            raise ValueError(
                f"priority and weighting='loss' need a replay buffer derived from DecayedSampling, "
                f"got {buffer_class.__name__}: leave replay_buffer_class out"
            )
        warn_of_buffer_without_decay(buffer_class, model.half_life)
        return {}
    options: dict[str, Any] = {"half_life": model.half_life}
    if model.weighting == "loss":
        options["weighting"] = "loss"
    if model.priority is not None:
        options["prioritized"] = True
    return options


def return_options(model: OffPolicyAlgorithm, buffer_class: type[ReplayBuffer]) -> dict[str, Any]:
    """
    :param model: The model
    :param buffer_class: Its ``replay_buffer_class``
    :return: Arguments of that class: the model's ``n_steps`` and ``gamma``
    :raises ValueError: if the class has no n-step returns, or ``replay_buffer_kwargs`` has other values
    """
    if not issubclass(buffer_class, (MultiStepSampling, NStepReplayBuffer)):
        if model.n_steps > 1:
            raise ValueError(
                f"n_steps must be 1 with {buffer_class.__name__}, which has no n-step returns, got {model.n_steps}: "
                "leave replay_buffer_class out, or derive yours from DecayedReplayBuffer"
            )
        return {}
    options: dict[str, Any] = {"gamma": model.gamma}
    if model.n_steps > 1:
        options["n_steps"] = model.n_steps
    for name, value in options.items():
        given = model.replay_buffer_kwargs.get(name, value)
        if given != value:
            raise ValueError(
                f"{name}={value} and replay_buffer_kwargs={{{name!r}: {given}}} contradict each other: "
                f"set {name} of {type(model).__name__} only, its replay buffer takes it over"
            )
    return options


def warn_of_buffer_without_decay(buffer_class: type, half_life: Any) -> None:
    """
    :param buffer_class: A class of replay buffers that does not decay
    :param half_life: The model's ``half_life``
    """
    warnings.warn(
        f"`half_life={half_life}` is ignored because `{buffer_class.__name__}` does not "
        "decay: leave `replay_buffer_class` out, or derive from `DecayedSampling` and the class you passed",
        stacklevel=5,
    )
