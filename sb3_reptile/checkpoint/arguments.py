"""The arguments that a resumed model is made from: those saved, those given to ``resume()``, and what they may be."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_reptile.replay.saved_arguments import (
    DECAY,
    changed_arguments,
    check_saved_arguments,
    described,
    without_decay,
)
from sb3_reptile.storage import ArgumentError, ForeignError, StorageError
from sb3_reptile.storage.errors import warn
from sb3_reptile.storage.values import arguments_from_json

# Arguments of the algorithms that are not hyperparameters, or are not needed after the first construction
NOT_KEPT = {"self", "env", "device", "seed", "pretrained", "_init_setup_model"}
# Arguments that are dicts of arguments, each of which can be given again separately
NESTED = ("replay_buffer_kwargs", "policy_kwargs")
# Arguments that cannot change, and why
FIXED = {
    "buffer_size": "the replay buffer keeps its size",
    "optimize_memory_usage": "the replay buffer keeps its form",
    "seed": "the random number generators continue where they were",
    "pretrained": "the networks are those of the checkpoint",
    "transfer": "the networks are those of the checkpoint",
    "_init_setup_model": "the model must be built",
    "policy_kwargs.optimizer_class": "the optimizer continues with its state",
}
# Arguments of policies that are numbers of units or of networks, or lists and dicts of such
SIZES = {"net_arch", "n_quantiles", "n_critics", "features_dim", "cnn_output_dim"}
# The largest number that is believed of a file whose arrays are all smaller, and of a batch
SMALL, LARGEST_BATCH = 1024, 2**24


class ModelArguments(NamedTuple):
    """
    What a model is made from.

    :param algorithm: Its class
    :param arguments: Its keyword arguments
    :param given: Names of those given to ``resume()``; ``policy_kwargs.net_arch`` for one in a dict
    :param changed: Those among them that are not as they were saved, in words
    """

    algorithm: type[OffPolicyAlgorithm]
    arguments: dict[str, Any]
    given: set[str]
    changed: dict[str, str]


def resolve_arguments(saved: Mapping[str, Any], given: Mapping[str, Any], seed: Any = None) -> ModelArguments:
    """
    :param saved: The hyperparameters in a checkpoint
    :param given: Arguments that override them
    :param seed: The seed that was saved
    :return: The arguments of the model
    :raises ArgumentError: if an argument that is given does not exist or cannot change
    :raises MissingArgumentError: if an argument could not be saved and is not given
    :raises StorageError: if the algorithm is not one of SB3's off-policy algorithms, or has no argument that is saved
    """
    given = {name: value for name, value in given.items() if name != "seed" or value != seed}
    items = {name: _items(name, given.pop(name, None)) for name in NESTED}
    inside = {name: dict(saved[name]["$arguments"]) for name in NESTED}
    flat = {name: value for name, value in saved.items() if name not in NESTED}
    algorithm = arguments_from_json({"algorithm": flat.pop("algorithm")}, _only(given, "algorithm"), "resume")[
        "algorithm"
    ]
    if not (isinstance(algorithm, type) and issubclass(algorithm, OffPolicyAlgorithm)):
        raise StorageError(f"the algorithm must be one of SB3's off-policy algorithms, got {algorithm!r}")
    given.pop("algorithm", None)
    changed = changed_arguments(flat, given)
    for name in NESTED:
        changed |= {f"{name}.{key}": text for key, text in changed_arguments(inside[name], items[name], name).items()}
    for name, reason in FIXED.items():
        if name in changed:
            raise ArgumentError(f"{changed[name]} cannot change when training is resumed: {reason}")
    _check_names(algorithm, flat, given)
    _check_sizes(flat, inside["policy_kwargs"], given)
    _keep_one_decay(flat, inside["replay_buffer_kwargs"], given, items["replay_buffer_kwargs"])
    has_infos = "HerReplayBuffer" in str(given.get("replay_buffer_class") or flat.get("replay_buffer_class"))
    check_saved_arguments({"buffer_size": flat["buffer_size"]}, given, "resume", has_infos)
    check_saved_arguments(
        inside["replay_buffer_kwargs"], items["replay_buffer_kwargs"], "resume with replay_buffer_kwargs=dict"
    )
    _let_go_of_log(flat, given)
    for name in {"n_steps", "gamma"} & given.keys() & inside["replay_buffer_kwargs"].keys():  # SB3 put it there
        items["replay_buffer_kwargs"].setdefault(name, given[name])
    arguments = arguments_from_json(flat, given, "resume")
    if "alpha" not in given and arguments.get("priority", "") is None:
        arguments.pop("alpha", None)  # former versions of ReptileDQN took it without priorities, and ignored it
    for name in NESTED:
        arguments[name] = arguments_from_json(inside[name], items[name], f"resume with {name}=dict")
    names = {*given, *(f"{name}.{key}" for name in NESTED for key in items[name])}
    return ModelArguments(algorithm, arguments, names, changed)


def check_network_sizes(saved: Mapping[str, Any], given: set[str], arrays: Mapping[str, Any]) -> None:
    """
    Before networks of that size are made.

    :param saved: The hyperparameters in a checkpoint
    :param given: Names of the arguments given to ``resume()``
    :param arrays: Type, shape and checksum of each array of parameters, by name
    :raises ForeignError: if the parameters of such networks are not among the arrays
    """
    largest = max((size for _, shape, _ in arrays.values() for size in shape), default=0)
    largest, longest = max(largest, SMALL), len(arrays)
    for name, value in saved["policy_kwargs"]["$arguments"].items():
        if f"policy_kwargs.{name}" in given:
            continue
        for number, length in _sizes({name: value}, False):
            if number > largest or length > longest:
                raise ForeignError(
                    f"the checkpoint describes networks with {name}={value!r:.200}, and has no parameters of that size"
                )


def check_n_steps(model: OffPolicyAlgorithm, found: ModelArguments) -> None:
    """
    :param model: A model
    :param found: The arguments that it was made from
    :raises ArgumentError: if the returns of its replay buffer are not those that were given to ``resume()``
    """
    for name in ("n_steps", "gamma"):
        default = 1 if name == "n_steps" else getattr(model, name, None)
        if name in found.changed and getattr(model.replay_buffer, name, default) != found.arguments[name]:
            raise ArgumentError(
                f"{found.changed[name]} needs a replay_buffer_class with n-step returns, and no other {name} in "
                f"replay_buffer_kwargs; the class is {type(model.replay_buffer).__name__}"
            )


def _sizes(value: Any, is_size: bool) -> Iterator[tuple[float, int]]:
    """The numbers in what describes a network, and the lengths of its lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _sizes(item, is_size or key in SIZES)
    elif isinstance(value, list):
        yield 0, len(value) if is_size else 0
        for item in value:
            yield from _sizes(item, is_size)
    elif is_size and isinstance(value, int | float):
        yield value, 0


def _only(arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: arguments[name]} if name in arguments else {}


def _items(name: str, given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ArgumentError(f"{name} must be a dict of arguments, got {given!r}")
    return dict(given or {})


def _check_names(algorithm: type, flat: dict[str, Any], given: dict[str, Any]) -> None:
    allowed = {*inspect.signature(algorithm.__init__).parameters} - NOT_KEPT - {*NESTED}  # type: ignore[misc]
    for name in given:
        if name not in allowed:
            raise ArgumentError(
                f"resume() got {described(name, given[name])}, which {algorithm.__name__} does not take; it takes "
                f"{', '.join(sorted(allowed))}"
            )
    for name in flat:
        if name not in allowed:
            raise ForeignError(f"the checkpoint has {name!r:.100} among the arguments of {algorithm.__name__}")


def _check_sizes(flat: dict[str, Any], policy_kwargs: dict[str, Any], given: dict[str, Any]) -> None:
    batch_size = flat.get("batch_size", 0)
    if "batch_size" not in given and not (type(batch_size) is int and 0 <= batch_size <= LARGEST_BATCH):
        raise ForeignError(f"the checkpoint has batch_size={batch_size!r:.100}; at most {LARGEST_BATCH} is believed")


def _keep_one_decay(
    flat: dict[str, Any], kwargs: dict[str, Any], given: dict[str, Any], given_kwargs: dict[str, Any]
) -> None:
    """A decay that is given overrides one that was saved, wherever they stand: half_life, or in the buffer's kwargs."""
    decay = {name: value for name, value in {**given, **given_kwargs}.items() if name in DECAY}
    without_decay(kwargs, decay)
    if "half_life" not in flat or "half_life" in given:
        return
    goes_together = flat["half_life"] == "auto" and "half_life" not in decay
    if not goes_together and any(name in kwargs or name in given_kwargs for name in DECAY):
        flat["half_life"] = None


def _let_go_of_log(flat: dict[str, Any], given: dict[str, Any]) -> None:
    """A file does not say where to write."""
    folder = flat.get("tensorboard_log")
    if folder is not None and "tensorboard_log" not in given:
        flat["tensorboard_log"] = None
        warn(
            f"training was logged to tensorboard_log={folder!r:.200} and is not any longer: give it again, "
            "resume(..., tensorboard_log=...), or None"
        )
