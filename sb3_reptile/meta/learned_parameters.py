"""
What Reptile averages of a model: learned parameters, and statistics of BatchNorm and VecNormalize; target networks
follow from them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.save_util import recursive_getattr

from sb3_reptile.meta.normalization import PREFIX, get_statistics, set_statistics

#: Tensors by name, ``policy.q_net.q_net.0.weight`` or ``log_ent_coef``, on the CPU
Parameters = dict[str, th.Tensor]
#: For each optimizer, by parameter, the tensors of its state
OptimizerStates = dict[str, dict[int, dict[str, th.Tensor]]]

TARGET = "_target"


def _modules(model: Any) -> Iterator[tuple[str, th.nn.Module]]:
    for name in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, name)
        if isinstance(part, th.nn.Module):
            yield name, getattr(part, "_orig_mod", part)


def _optimizers(model: Any) -> Iterator[tuple[str, th.optim.Optimizer]]:
    for name in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, name)
        if isinstance(part, th.optim.Optimizer):
            yield name, part


def _pairs(module: th.nn.Module) -> Iterator[tuple[str, th.nn.Module, th.nn.Module]]:
    """Name of each target network, the network and the one that it follows."""
    for name, child in module.named_children():
        if name.endswith(TARGET):
            online = getattr(module, name.removesuffix(TARGET), None)
            if not isinstance(online, th.nn.Module):
                raise ValueError(
                    f"{type(module).__name__} has {name} but no {name.removesuffix(TARGET)} that it could follow: "
                    "rename one of them"
                )
            yield name, child, online


def learned_parameters(model: Any) -> Parameters:
    """
    :param model: One of SB3's algorithms
    :return: Copies of all that it learns: the parameters and statistics of its networks except target networks,
        entropy coefficients, and statistics of VecNormalize
    :raises ValueError: if a target network follows no network
    """
    found: Parameters = {}
    for part, module in _modules(model):
        targets = tuple(f"{name}." for name, _, _ in _pairs(module))
        for name, tensor in module.state_dict().items():
            if not name.startswith(targets):
                found[f"{part}.{name}"] = tensor.detach().cpu().clone()
    for name in model._get_torch_save_params()[1]:
        found[name] = recursive_getattr(model, name).detach().cpu().clone()
    return found | get_statistics(model)


def check_same_shapes(given: Mapping[str, th.Tensor], own: Mapping[str, th.Tensor], given_is: str, own_is: str) -> None:
    """
    :param given: Parameters
    :param own: Those that they must fit
    :param given_is: What the first are called in the message
    :param own_is: What the second are called
    :raises ValueError: if a name or a shape differs
    """
    problems = [
        f"{name} has shape {tuple(given[name].shape)} in {given_is} and {tuple(own[name].shape)} in {own_is}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    problems += [f"{name} is missing in {given_is}" for name in own if name not in given]
    problems += [f"{name} is missing in {own_is}" for name in given if name not in own]
    if problems:
        raise ValueError(
            f"the parameters differ, all tasks need the same networks: {'; '.join(problems[:3])}"
            f"{f' and {len(problems) - 3} more' if len(problems) > 3 else ''}"
        )


def set_learned_parameters(model: Any, parameters: Mapping[str, th.Tensor], given_is: str = "the start") -> None:
    """
    Set what a model learns, and synchronize its target networks.

    :param model: One of SB3's algorithms
    :param parameters: What :func:`learned_parameters` returned
    :param given_is: What these are called in error messages
    :raises ValueError: if a name or a shape differs; the model is not changed then
    """
    check_same_shapes(parameters, learned_parameters(model), given_is, "this model")
    for part, module in _modules(model):
        prefix = f"{part}."
        own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
        module.load_state_dict(own, strict=False)
        for _, target, online in _pairs(module):
            target.load_state_dict(online.state_dict())
    with th.no_grad():
        for name in model._get_torch_save_params()[1]:
            recursive_getattr(model, name).copy_(parameters[name])
    set_statistics(model, parameters)


def meta_update(parameters: Parameters, adapted: Sequence[Parameters], step_size: float) -> tuple[Parameters, float]:
    """
    Reptile's update, ``φ + ε (mean(φ̃_i) - φ)`` (Nichol et al. 2018, algorithm 2). With ``ε = 1`` it is the mean, bit
    for bit. Whole numbers, such as BatchNorm's count of batches, are rounded.

    :param parameters: φ
    :param adapted: φ̃_i, the parameters after training on each task
    :param step_size: ε
    :return: The updated parameters, and the Euclidean norm of ``mean(φ̃_i) - φ`` without statistics of VecNormalize
    """
    updated: Parameters = {}
    squares = 0.0
    for name, start in parameters.items():
        exact = start.dtype if start.is_floating_point() else th.float64
        mean = th.stack([task[name].to(exact) for task in adapted]).mean(0)
        moved = th.lerp(start.to(exact), mean, step_size)
        updated[name] = moved if start.is_floating_point() else moved.round().to(start.dtype)
        if start.is_floating_point() and not name.startswith(PREFIX):
            squares += float((mean - start).double().square().sum())
    return updated, squares**0.5


def optimizer_states(model: Any) -> OptimizerStates:
    """
    :param model: One of SB3's algorithms
    :return: Copies of the state of its optimizers, without their settings such as the learning rate
    :raises ValueError: if an optimizer keeps something other than tensors
    """
    found: OptimizerStates = {}
    for name, optimizer in _optimizers(model):
        found[name] = {}
        for index, state in optimizer.state_dict()["state"].items():
            kept = {key: value for key, value in state.items() if value is not None}
            if not all(isinstance(value, th.Tensor) for value in kept.values()):
                raise ValueError(
                    f"the state of {type(optimizer).__name__} holds more than tensors: use optimizer_state='fresh'"
                )
            found[name][index] = {key: value.detach().cpu().clone() for key, value in kept.items()}
    return found


def optimizer_classes(model: Any) -> dict[str, str]:
    """
    :param model: One of SB3's algorithms
    :return: Name of the class of each of its optimizers
    """
    return {name: type(optimizer).__name__ for name, optimizer in _optimizers(model)}


def set_optimizer_states(model: Any, states: OptimizerStates) -> None:
    """
    :param model: One of SB3's algorithms, with the optimizers of the model that the states are of
    :param states: What :func:`optimizer_states` returned
    """
    for name, optimizer in _optimizers(model):
        if states.get(name):
            settings = optimizer.state_dict()["param_groups"]
            copied = {
                index: {key: value.clone() for key, value in state.items()} for index, state in states[name].items()
            }
            optimizer.load_state_dict({"state": copied, "param_groups": settings})


def mean_of_states(states: Sequence[OptimizerStates]) -> OptimizerStates:
    """
    :param states: States of the optimizers of several models
    :return: Their mean. A parameter that some models did not update, such as one of TD3's actor after a single gradient
        step, has the mean of the others.
    """
    collected: dict[str, dict[int, dict[str, list[th.Tensor]]]] = {}
    for state in states:
        for name, of_optimizer in state.items():
            optimizer = collected.setdefault(name, {})
            for index, of_parameter in of_optimizer.items():
                for key, value in of_parameter.items():
                    optimizer.setdefault(index, {}).setdefault(key, []).append(value)
    return {
        name: {
            index: {
                key: th.stack([value.double() for value in values]).mean(0).to(values[0].dtype)
                for key, values in of_parameter.items()
            }
            for index, of_parameter in of_optimizer.items()
        }
        for name, of_optimizer in collected.items()
    }
