"""Off-policy algorithms as arrays and JSON values, without their replay buffers and environments."""

import inspect
import math
import random
from collections import deque
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from sb3_reptile.checkpoint.arguments import NESTED, NOT_KEPT
from sb3_reptile.storage import ArgumentError, DamagedError, ForeignError, NotStorableError, StorageError
from sb3_reptile.storage.values import arguments_to_json, check_generator, from_json, infos_to_json, to_json

# Attributes that hold an argument under another name
ATTRIBUTES = {"policy": "policy_class", "stats_window_size": "_stats_window_size"}
# Progress in training: whole numbers, and others
COUNTERS = (
    "seed",
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_n_updates",
    "_n_calls",
    "_n_own_steps",
)
RATES = ("_current_progress_remaining", "exploration_rate", "half_life")
EPISODES = ("ep_info_buffer", "ep_success_buffer")
OBSERVATIONS = ("_last_obs", "_last_original_obs", "_last_episode_starts")


def get_hyperparameters(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """
    :param model: The model
    :return: The constructor arguments of an equal, untrained model, as JSON
    """
    names = [name for name in inspect.signature(type(model).__init__).parameters if name not in NOT_KEPT]
    arguments = {name: getattr(model, ATTRIBUTES.get(name, name)) for name in names}
    nested = {name: {"$arguments": arguments_to_json(arguments.pop(name) or {})} for name in NESTED}
    return arguments_to_json({"algorithm": type(model), **arguments}) | nested


def get_parameters(model: BaseAlgorithm) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """
    :param model: The model
    :return: Arrays: the parameters of its networks and the state of its optimizers; and values: the part of the
        optimizers' state that is not arrays, as JSON
    :raises NotStorableError: if a parameter has a data type that NumPy does not have
    """
    arrays: dict[str, np.ndarray] = {}
    optimizers: dict[str, Any] = {}
    state_dicts, variables = model._get_torch_save_params()
    for name in state_dicts:
        part = recursive_getattr(model, name)
        if isinstance(part, th.optim.Optimizer):
            optimizers[name] = _optimizer_to_json(name, part.state_dict(), arrays)
        else:
            for key, tensor in getattr(part, "_orig_mod", part).state_dict().items():
                arrays[f"{name}/{key}"] = _to_array(tensor, key)
    for name in variables:
        arrays[name] = _to_array(recursive_getattr(model, name), name)
    return arrays, optimizers


def set_parameters(
    model: BaseAlgorithm, arrays: Mapping[str, np.ndarray], optimizers: Mapping[str, Any], given: Container[str] = ()
) -> None:
    """
    :param model: A model with the same hyperparameters as the one that was saved
    :param arrays: The arrays that :func:`get_parameters` returned
    :param optimizers: The values that :func:`get_parameters` returned
    :param given: Names of arguments that override those saved: the model keeps what it was made with
    :raises ArgumentError: if an argument is given that does not go with the parameters
    :raises DamagedError: if a parameter is missing
    """
    state_dicts, variables = model._get_torch_save_params()
    for name in state_dicts:
        part = recursive_getattr(model, name)
        of_part = {key[len(name) + 1 :]: th.from_numpy(a) for key, a in arrays.items() if key.startswith(f"{name}/")}
        if isinstance(part, th.optim.Optimizer):
            _load_optimizer(
                part, _optimizer_from_json(of_part, optimizers[name]), "policy_kwargs.optimizer_kwargs" in given
            )
        else:
            part.load_state_dict(of_part)
    with th.no_grad():
        for name in variables:
            if name not in arrays:
                raise DamagedError(f"the checkpoint has no {name}")
            if name == "log_ent_coef" and "ent_coef" in given:
                raise ArgumentError("ent_coef cannot change when training is resumed: it is learned; leave it out")
            if name == "ent_coef_tensor" and "ent_coef" in given:
                continue
            recursive_getattr(model, name).copy_(th.from_numpy(arrays[name]))


def _load_optimizer(optimizer: th.optim.Optimizer, state: dict[str, Any], keep_settings: bool) -> None:
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, of_parameter in state["state"].items():
        for key, value in of_parameter.items():
            if isinstance(value, th.Tensor) and value.numel() > max(parameters[index].numel(), 1):
                raise StorageError(f"{key} of parameter {index} of the optimizer is larger than the parameter")
    optimizer.load_state_dict(state)
    if keep_settings:
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)


def _to_array(tensor: th.Tensor, name: str) -> np.ndarray:
    try:
        return np.asarray(tensor.detach().cpu().numpy(), order="C")
    except TypeError as error:
        raise NotStorableError(f"{name} is of type {tensor.dtype}, which NumPy does not have: use float32") from error


def _optimizer_to_json(name: str, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Add the tensors of an optimizer's state to the arrays, and return the rest of it."""
    others: dict[str, dict[str, Any]] = {}
    for index, of_parameter in state["state"].items():
        for key, value in of_parameter.items():
            if isinstance(value, th.Tensor):
                arrays[f"{name}/{index}/{key}"] = _to_array(value, f"{key} of {name}")
            else:
                others.setdefault(str(index), {})[key] = to_json(value, f"{key} of {name}")
    return {"others": others, "param_groups": to_json(state["param_groups"], f"param_groups of {name}")}


def _optimizer_from_json(tensors: dict[str, th.Tensor], values: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    for index, others in values["others"].items():
        state.setdefault(int(index), {}).update(from_json(others))
    return {"state": state, "param_groups": from_json(values["param_groups"])}


def get_counters(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """
    :param model: The model
    :return: Its progress in training, its last observations and its last episodes, as JSON
    """
    names = (*COUNTERS, *RATES, *OBSERVATIONS)
    counters = {name: to_json(getattr(model, name), name) for name in names if hasattr(model, name)}
    counters["ep_info_buffer"] = infos_to_json(model.ep_info_buffer or [], "info of an episode")
    successes = [{"is_success": success} for success in model.ep_success_buffer or []]
    counters["ep_success_buffer"] = [
        info["is_success"] for info in infos_to_json(successes, "info of an episode") if "is_success" in info
    ]
    return counters


def set_counters(model: OffPolicyAlgorithm, counters: Mapping[str, Any], given: Container[str] = ()) -> None:
    """
    :param model: A model with the same hyperparameters as the one that was saved
    :param counters: What :func:`get_counters` returned
    :param given: Names of counters that are not restored, as they are arguments that were given
    :raises ForeignError: if there is anything else among them
    """
    for name, saved in counters.items():
        value = from_json(saved)
        if not _is_counter(model, name, value):
            raise ForeignError(f"the checkpoint has {name!r:.100} = {value!r:.100} among its counters")
        if name in EPISODES:
            value = deque(value, maxlen=model._stats_window_size)
        if name not in given:
            vars(model)[name] = value  # options of ReptileDQN check what is set otherwise


def _is_counter(model: OffPolicyAlgorithm, name: str, value: Any) -> bool:
    """Whether a file may set an attribute of the model to a value."""
    if name == "_total_timesteps" and type(value) is float:  # of learn(1e5)
        return math.isfinite(value) and value >= 0
    if name in COUNTERS:
        return (type(value) is int and value >= 0) or (name == "seed" and value is None)
    if name == "half_life":
        return hasattr(model, name) and (value in (None, "auto") or (type(value) in (int, float) and value > 0))
    if name in RATES:
        return type(value) in (int, float) and math.isfinite(value)
    if name in EPISODES:
        return isinstance(value, list)
    if name not in OBSERVATIONS:
        return False
    if isinstance(value, dict):
        of_key: Any = getattr(model.observation_space, "spaces", {})
        return value.keys() == of_key.keys() and all(
            _is_shaped(model, v, of_key[key].shape) for key, v in value.items()
        )
    return value is None or _is_shaped(model, value, () if "starts" in name else model.observation_space.shape)


def _is_shaped(model: OffPolicyAlgorithm, value: Any, shape: tuple[int, ...] | None) -> bool:
    is_number = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return is_number and value.shape == (model.n_envs, *(shape or ()))


def get_random_states(model: BaseAlgorithm) -> dict[str, Any]:
    """
    :param model: The model
    :return: The states of all random number generators that training uses, except those of the environments
    """
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_available() else []
    return {
        "python": to_json(random.getstate(), "random"),
        "numpy": to_json(np.random.get_state(legacy=False), "np.random"),
        "torch": to_json(th.get_rng_state().numpy(), "torch"),
        "cuda": to_json([state.numpy() for state in cuda], "cuda"),
        "action_space": to_json(model.action_space.np_random.bit_generator.state, "action_space"),
    }


def set_random_states(model: BaseAlgorithm, saved: Mapping[str, Any]) -> None:
    """
    :param model: The model
    :param saved: What :func:`get_random_states` returned. States of CUDA devices are ignored if the number of devices
        is different.
    """
    states = {name: from_json(value) for name, value in saved.items()}
    random.setstate(states["python"])
    check_generator(states["numpy"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(th.from_numpy(states["torch"]))
    if states["cuda"] and th.cuda.is_available() and th.cuda.device_count() == len(states["cuda"]):
        th.cuda.set_rng_state_all([th.from_numpy(state) for state in states["cuda"]])
    check_generator(states["action_space"])
    model.action_space.np_random.bit_generator.state = states["action_space"]
