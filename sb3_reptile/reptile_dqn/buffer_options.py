"""The arguments of ReptileDQN's replay buffer that follow from the model's own options."""

import warnings
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_reptile.replay import DecayedSampling
from sb3_reptile.replay.multi_step import MultiStepSampling, check_n_steps
from sb3_reptile.replay.options import check_fraction

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

# Returns where none are asked for (docs/explanation/multi_step.md)
N_STEPS, Q_LAMBDA = 10, 0.7
# What to do, in errors
UNMIXED, UNDISCOUNTED = "1 uses n-step returns as they are", "0.99 is SB3's default"
# SB3's and our buffers with n-step returns
WITH_RETURNS = (MultiStepSampling, NStepReplayBuffer)


def returns_of(model: "ReptileDQN", buffer_class: type[ReplayBuffer]) -> tuple[int, float]:
    """
    :param model: A model, whose ``n_steps`` and ``q_lambda`` may be None
    :param buffer_class: Its ``replay_buffer_class``
    :return: Its ``n_steps`` and ``q_lambda``. Files from before λ-returns have the first only: it means uncorrected
        returns, as in SB3.
    """
    n_steps, q_lambda = model.n_steps, model.q_lambda
    if "n_steps" in model.replay_buffer_kwargs:
        check_n_steps(model.replay_buffer_kwargs["n_steps"])
        n_steps = model.replay_buffer_kwargs["n_steps"] if n_steps is None else n_steps
    if n_steps is None and issubclass(buffer_class, MultiStepSampling) and buffer_class.has_lambda_returns():
        return N_STEPS, Q_LAMBDA if q_lambda is None else q_lambda
    return n_steps or 1, 1.0 if q_lambda is None else q_lambda


def replay_options(model: "ReptileDQN", n_steps: int | None) -> dict[str, Any]:
    """
    :param model: A model whose ``replay_buffer_class`` is set
    :param n_steps: Number of steps of its returns; None if the class decides
    :return: Arguments of that class; ``replay_buffer_kwargs`` override those of its distribution
    :raises ValueError: if an option of the model needs another class, or contradicts ``replay_buffer_kwargs``
    """
    buffer_class = model.replay_buffer_class
    assert buffer_class is not None
    return _decay_options(model, buffer_class) | return_options(model, buffer_class, n_steps)


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


def return_options(model: OffPolicyAlgorithm, buffer_class: type[ReplayBuffer], n_steps: int | None) -> dict[str, Any]:
    """
    :param model: The model
    :param buffer_class: Its ``replay_buffer_class``
    :param n_steps: Number of steps of its returns; None if the class decides
    :return: Arguments of that class: ``n_steps`` and the model's ``gamma``
    :raises ValueError: if the class has no n-step returns, or ``replay_buffer_kwargs`` has other values
    """
    if not has_returns(buffer_class):
        check_has_returns(n_steps, buffer_class)
        return {}
    options: dict[str, Any] = {"gamma": model.gamma}
    if n_steps is not None:
        options["n_steps"] = n_steps
    for name, value in options.items():
        given = model.replay_buffer_kwargs.get(name, value)
        if given != value:
            raise ValueError(
                f"{name}={value} and replay_buffer_kwargs={{{name!r}: {given}}} contradict each other: "
                f"set {name} of {type(model).__name__} only, its replay buffer takes it over"
            )
    return options


def has_returns(buffer_class: type[ReplayBuffer]) -> bool:
    """
    :param buffer_class: A class of replay buffers
    :return: Whether it has n-step returns
    """
    return issubclass(buffer_class, WITH_RETURNS) and getattr(buffer_class, "has_returns", True)


def check_has_returns(n_steps: int | None, buffer_class: type[ReplayBuffer]) -> None:
    """
    :param n_steps: Number of steps of the returns; None if the class decides
    :param buffer_class: A class of replay buffers without n-step returns
    :raises ValueError: unless it is 1
    """
    if n_steps not in (None, 1):
        raise ValueError(
            f"n_steps must be 1 with {buffer_class.__name__}, which has no n-step returns, got {n_steps}: "
            "leave replay_buffer_class out, or derive yours from DecayedReplayBuffer, without its own _get_samples()"
        )


def hand_returns_to_buffer(model: "ReptileDQN") -> None:
    """
    Let the replay buffer have the model's ``n_steps`` and ``gamma``, which may have been set during training.

    :param model: The model
    :raises TypeError: if ``n_steps`` is not a whole number
    :raises ValueError: if ``n_steps``, ``gamma`` or ``q_lambda`` has a value that is not allowed
    """
    buffer: Any = model.replay_buffer
    check_fraction("q_lambda", model.q_lambda, UNMIXED)
    if not has_returns(type(buffer)):
        check_has_returns(model.n_steps, type(buffer))
    elif (buffer.n_steps, buffer.gamma) != (model.n_steps, model.gamma):
        check_n_steps(model.n_steps)
        check_fraction("gamma", model.gamma, UNDISCOUNTED)
        buffer.n_steps, buffer.gamma = model.n_steps, model.gamma


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
