"""The replay buffer of a checkpoint, which may be another than the model's arguments make: loaded, or assigned."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_reptile.checkpoint.arguments import ModelArguments
from sb3_reptile.replay import DecayedSampling
from sb3_reptile.replay.persistence import arguments_of, empty_buffer
from sb3_reptile.replay.saved_arguments import DECAY, check_saved_arguments
from sb3_reptile.storage import StorageError
from sb3_reptile.storage.values import arguments_from_json, arguments_to_json

# Arguments that follow from the environment
OF_ENVIRONMENT = {"observation_space", "action_space", "n_envs"}
# Arguments of the model that cannot change, though the buffer may have another value
FIXED = {"buffer_size", "optimize_memory_usage"}
# Arguments that are restored together with what the buffer holds
RESTORED = {"beta", "weighting"}
RETURNS = ("n_steps", "gamma")


def get_buffer_arguments(buffer: ReplayBuffer) -> dict[str, Any]:
    """
    :param buffer: A replay buffer
    :return: Its class, and the arguments that make an empty buffer like it, as JSON
    """
    named = arguments_to_json({"replay_buffer_class": type(buffer)})
    return {**named, "arguments": arguments_to_json(arguments_of(buffer))}


def make_buffer(
    model: OffPolicyAlgorithm, found: ModelArguments, saved: Mapping[str, Any] | None, values: Mapping[str, Any]
) -> ReplayBuffer:
    """
    Make an empty replay buffer like the one that was saved.

    :param model: The model, with the buffer that its arguments make
    :param found: The arguments that it was made from
    :param saved: What :func:`get_buffer_arguments` returned; None in checkpoints of earlier versions
    :param values: The values of the saved buffer
    :return: The model's own buffer, if it is like the saved one, and else another
    :raises StorageError: if it cannot be made
    """
    own = model.replay_buffer
    assert own is not None
    ours = get_buffer_arguments(own)
    if saved is None:
        saved = _of_earlier_version(ours, found, values)
    name = "replay_buffer_class"
    is_own_class = saved[name] == ours[name]
    if name in found.given and not is_own_class:
        return own
    overridden = _overridden(found, ours["arguments"], saved["arguments"])
    same = overridden | RESTORED
    if "half_life" in values and getattr(own, "takes_half_life", False):
        same = same | {"decay"}  # exponential, and its half-life is among the values
    if is_own_class and _without(same, ours["arguments"]) == _without(same, saved["arguments"]):
        return own
    cls = type(own) if is_own_class else arguments_from_json({name: saved[name]}, {}, "resume")[name]
    if not issubclass(cls, ReplayBuffer):
        raise StorageError(f"the replay buffer must be of a class of replay buffers, got {cls!r}")
    given = {name: value for name, value in arguments_of(own).items() if name in overridden}
    given |= {name: found.arguments[name] for name in RETURNS if name in found.given and name in saved["arguments"]}
    storage_dir = found.arguments["replay_buffer_kwargs"].get("storage_dir")
    if storage_dir is not None and issubclass(cls, DecayedSampling):
        given["storage_dir"] = storage_dir
    kept = _without(overridden, saved["arguments"])
    call = "resume with replay_buffer_kwargs=dict"
    check_saved_arguments(kept, given, call, "HerReplayBuffer" in cls.__name__)
    return empty_buffer(cls, arguments_from_json(kept, given, call), model.device, model.env)


def _overridden(found: ModelArguments, ours: Mapping[str, Any], saved: Mapping[str, Any]) -> set[str]:
    """Names of the arguments in which the saved buffer is not followed, but the model's own."""
    names = {name.removeprefix("replay_buffer_kwargs.") for name in found.given} - FIXED
    if "priority" in names:
        names.add("prioritized")
    if not names.isdisjoint(DECAY):
        names.update(DECAY)
    # What could not be saved has been given again
    missing = [{name for name, value in which.items() if "$missing" in str(value)} for which in (ours, saved)]
    return names | OF_ENVIRONMENT | (missing[0] & missing[1])


def _without(names: set[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


def _of_earlier_version(ours: Mapping[str, Any], found: ModelArguments, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's own buffer; but without ``"auto"``, if an earlier version lost that where training was resumed."""
    if "consistency" in values or "half_life" in found.given:
        return ours
    return {**ours, "arguments": _without({"half_life"}, ours["arguments"])}
