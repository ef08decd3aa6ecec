"""Whether the closed form applies to a model: what it would pass over, and whether that has changed since."""

from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn
from torch.nn.modules import module as all_modules
from torch.optim import optimizer as all_optimizers

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

# Steps of the training loop that a subclass may override, which the closed form would skip
STEPS = frozenset({"train", "_td_targets"})
OPTIMIZER_STEPS = frozenset({"step", "zero_grad"})
# Where PyTorch keeps hooks: of a module, of an optimizer, and of all of them
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
GLOBAL_MODULE_HOOKS = [getattr(all_modules, f"_global{name}") for name in MODULE_HOOKS]
GLOBAL_OPTIMIZER_HOOKS = [
    getattr(all_optimizers, name) for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
]
# Options of Adam that change its formula, or its order of operations, and their values in the closed form
ADAM = {
    "weight_decay": (0,),
    "amsgrad": (False,),
    "maximize": (False,),
    "foreach": (None, False),
    "fused": (None, False),
    "capturable": (False,),
    "differentiable": (False,),
    "decoupled_weight_decay": (False,),
}


def layers_of(network: QNetwork) -> list[nn.Linear] | None:
    """
    :param network: A Q-network
    :return: Its linear layers if it consists of these with ReLU between them, else None
    """
    modules = list(network.q_net)
    linear: list[Any] = modules[0::2]
    between = modules[1::2]
    is_mlp = all(type(module) is nn.Linear and module.bias is not None for module in linear)
    is_mlp = is_mlp and all(type(module) is nn.ReLU for module in between) and len(linear) == len(between) + 1
    return linear if is_mlp else None


def why_not_closed_form(model: "ReptileDQN") -> str | None:
    """
    :param model: The model
    :return: Why its updates cannot be computed in closed form, None if they can
    """
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

    policy, optimizer = model.policy, model.policy.optimizer
    for name in sorted(STEPS):
        if getattr(type(model), name) is not getattr(ReptileDQN, name):
            return f"{type(model).__name__} overrides {name}()"
    space = model.observation_space
    if type(policy) is not DQNPolicy or is_image_space(space) or space.dtype is None:
        return f"the policy is {type(policy).__name__} on {type(space).__name__} observations, not MlpPolicy on vectors"
    networks = (policy.q_net, policy.q_net_target)
    for network in networks:
        if type(network) is not QNetwork or type(network.features_extractor) is not FlattenExtractor:
            return f"the network is {type(network).__name__} with {type(network.features_extractor).__name__}"
        layers = layers_of(network)
        if layers is None:
            return "the network has other layers than nn.Linear and nn.ReLU"
        # Of a batch of one, autograd multiplies the gradient of such a layer in another order
        if model.batch_size == 1 and any(layer.in_features == 1 for layer in layers[1:]):
            return "a hidden layer has one unit and batch_size is 1"
    trained = list(policy.q_net.parameters())
    if any(p.dtype != th.float32 or p.device.type != "cpu" for p in (*trained, *policy.q_net_target.parameters())):
        return "a parameter is not float32 or not on the CPU"
    return Bystanders(model).name() or _why_not_adam(optimizer, trained)


def _why_not_adam(optimizer: th.optim.Optimizer, parameters: list[nn.Parameter]) -> str | None:
    if type(optimizer) is not th.optim.Adam:
        return f"the optimizer is {type(optimizer).__name__}, not torch.optim.Adam"
    if len(optimizer.param_groups) != 1 or [id(p) for p in optimizer.param_groups[0]["params"]] != list(
        map(id, parameters)
    ):
        return "the optimizer has other parameters than the network's, or groups of them"
    settings = optimizer.param_groups[0]
    for name, allowed in ADAM.items():
        if settings.get(name, allowed[0]) not in allowed:
            return f"the optimizer has {name}={settings[name]}"
    if not isinstance(settings["lr"], float) or not all(isinstance(beta, float) for beta in settings["betas"]):
        return "the optimizer's settings are tensors"
    states = [optimizer.state.get(parameter) for parameter in parameters]
    if len({float(state["step"]) if state else 0.0 for state in states}) > 1:
        return "the parameters have had different numbers of updates"
    return None


class Bystanders:
    """
    Parts of SB3's updates and acting that the closed form would leave out: hooks, methods that are
    replaced on an object, compiled modules, options. The closed form applies while there are none, and ends when one
    comes.

    :param model: The model, whose policy is a ``DQNPolicy``
    """

    def __init__(self, model: "ReptileDQN") -> None:
        self._model = model
        self._optimizer = model.policy.optimizer
        self._parameters = list(model.policy.q_net.parameters())
        self._modules = list(model.policy.modules())
        self._module_hooks = [getattr(module, name) for module in self._modules for name in MODULE_HOOKS]
        self._optimizer_hooks = [getattr(self._optimizer, name) for name in OPTIMIZER_HOOKS]
        self._children = self._present_children()
        self._options = self._present_options()

    def _present_children(self) -> list[dict[str, Any]]:
        return [dict(module._modules) for module in self._modules]

    def _present_options(self) -> list[Any]:
        options: list[Any] = [self._model.learner, self._model.max_grad_norm, self._model.batch_size]
        for group in self._optimizer.param_groups:
            options += map(group.get, ADAM)
            options += map(id, group["params"])
        return options

    def is_unchanged(self) -> bool:
        """
        :return: Whether there still are none, and modules and options are those of before
        """
        return (
            self.name() is None
            and [module._modules for module in self._modules] == self._children
            and self._present_options() == self._options
        )

    def name(self) -> str | None:
        """
        :return: What the closed form would pass over, None if there is nothing
        """
        if any(self._module_hooks) or any(GLOBAL_MODULE_HOOKS):
            return "a module of the network has hooks"
        if any(self._optimizer_hooks) or any(GLOBAL_OPTIMIZER_HOOKS):
            return "the optimizer has hooks"
        if th.is_anomaly_enabled():
            return "autograd detects anomalies"
        for module in self._modules:
            own = module.__dict__
            if "forward" in own or own.get("_compiled_call_impl") is not None:
                return f"a module of the network, {type(module).__name__}, is compiled or has a forward() of its own"
        for owner, names in ((self._model, STEPS), (self._optimizer, OPTIMIZER_STEPS)):
            if not names.isdisjoint(owner.__dict__):
                return f"{type(owner).__name__} overrides {min(names & owner.__dict__.keys())}()"
        for parameter in self._parameters:
            if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
                return "a parameter has hooks"
            if not parameter.requires_grad:
                return "a parameter is frozen"
        return None
