"""Autograd with faster kernels, which round differently: PyTorch's fused Adam, and convolutions on channels last."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch as th
from torch import nn

# Options with which Adam has a fused kernel on the CPU
FUSIBLE = {"foreach": (None, False), "fused": (None, False), "capturable": (False,), "differentiable": (False,)}


def is_applicable(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: The optimizer of a policy
    :return: Whether it has a fused kernel that it does not use yet
    """
    return type(optimizer) is th.optim.Adam and all(
        all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in group["params"])
        and all(group.get(name, allowed[0]) in allowed for name, allowed in FUSIBLE.items())
        for group in optimizer.param_groups
    )


def put_channels_last(policy: nn.Module) -> None:
    """
    Change the layout in memory of the weights of convolutions; their values, shapes and names stay.

    :param policy: The policy, whose parameters are on the CPU
    """
    for module in policy.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=th.channels_last)


@contextmanager
def fused_adam(optimizer: th.optim.Optimizer) -> Iterator[None]:
    """
    Let Adam use its fused kernel for a while. Its options are not changed for good, as they are saved with a model.

    :param optimizer: The optimizer, for which :func:`is_applicable`
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            # The kernel takes for granted that the layouts are equal; those of a loaded state may not be
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = th.empty_like(parameter).copy_(value)
    before = [group["fused"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["fused"] = True
    try:
        yield
    finally:
        for group, fused in zip(optimizer.param_groups, before, strict=True):
            group["fused"] = fused


def contiguous(state: Any) -> Any:
    """
    :param state: Tensors in dicts and lists, as ``state_dict()`` returns them
    :return: The same with the layout that tensors have by default
    """
    if isinstance(state, th.Tensor):
        return state.contiguous()
    if isinstance(state, dict):
        result = copy(state)
        result.update((key, contiguous(value)) for key, value in state.items())
        return result
    return [contiguous(value) for value in state] if isinstance(state, list) else state
