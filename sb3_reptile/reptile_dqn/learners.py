"""How ReptileDQN computes its updates: whether the closed form applies to a model, and its training loop."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_reptile.replay import DecayedSampling
from sb3_reptile.reptile_dqn.closed_form import AdamSettings, ClosedForm, FlatParameters, forward

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

# Transitions that are fetched at once, at most
PASS = 16_384
# Steps of the training loop that a subclass may override, which the closed form would skip
STEPS = frozenset({"train", "_td_targets"})
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


class LastBatch(NamedTuple):
    """
    What the log needs of the last batch.

    :param indices: Numbers of its transitions; None if the buffer does not number them
    :param weights: Their weights, shape (batch_size, 1)
    """

    indices: np.ndarray | None
    weights: th.Tensor


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


def why_not_as_they_are(modules: Iterable[nn.Module], parameters: Iterable[nn.Parameter]) -> str | None:
    """
    :param modules: Modules of the networks
    :param parameters: Their parameters
    :return: What the closed form would pass over: hooks, or parameters that are not trained; None if there is nothing
    """
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return "a module of the network has hooks"
    for parameter in parameters:
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return "a parameter has hooks"
        if not parameter.requires_grad:
            return "a parameter is frozen"
    return None


def why_not_closed_form(model: "ReptileDQN") -> str | None:
    """
    :param model: The model
    :return: Why its updates cannot be computed in closed form, None if they can
    """
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

    policy, optimizer = model.policy, model.policy.optimizer
    for name in sorted(STEPS):
        if getattr(type(model), name) is not getattr(ReptileDQN, name) or name in vars(model):
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
    return why_not_as_they_are(policy.modules(), trained) or _why_not_adam(optimizer, trained)


def _why_not_adam(optimizer: th.optim.Optimizer, parameters: list[nn.Parameter]) -> str | None:
    if type(optimizer) is not th.optim.Adam:
        return f"the optimizer is {type(optimizer).__name__}, not torch.optim.Adam"
    if len(optimizer.param_groups) != 1 or [id(p) for p in optimizer.param_groups[0]["params"]] != list(
        map(id, parameters)
    ):
        return "the optimizer has other parameters than the network's, or groups of them"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has hooks"
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


class ClosedFormLearner:
    """
    Trains a model by :class:`~sb3_reptile.reptile_dqn.closed_form.ClosedForm`.

    The parameters of both networks and the optimizer's state become views of flat tensors. Whoever replaces them
    (``load_state_dict``, ``policy.to()``) is noticed by :meth:`is_attached`; a new learner is made then.

    :param model: The model, for which :func:`why_not_closed_form` returned None
    """

    def __init__(self, model: "ReptileDQN") -> None:
        self.model = model
        self.policy = model.policy
        self.optimizer = model.policy.optimizer
        self.parameters = list(model.policy.q_net.parameters())
        self.target_parameters = list(model.policy.q_net_target.parameters())
        self._modules = list(self.policy.modules())
        self._layers = self._present_layers()
        self._options = self._present_options()
        self.is_fast = model.learner == "fast"
        self.network = ClosedForm(self.parameters, model.max_grad_norm, fused=self.is_fast)
        self.target = FlatParameters(self.target_parameters, adopt=True)
        self._target_outputs: list[th.Tensor] = []
        self._share_optimizer_state()

    def _share_optimizer_state(self) -> None:
        """Let the optimizer's state consist of views of the flat tensors, with its present values."""
        network = self.network
        for parameter, mean, square in zip(self.parameters, network.means.views, network.squares.views, strict=True):
            state = self.optimizer.state[parameter]
            if state:
                mean.copy_(state["exp_avg"])
                square.copy_(state["exp_avg_sq"])
                network.step = int(state["step"])
            step = th.tensor(float(network.step))
            self.optimizer.state[parameter] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        self._steps = [self.optimizer.state[parameter]["step"] for parameter in self.parameters]

    def _present_layers(self) -> list[nn.Module]:
        return [*self.policy.q_net.q_net, *self.policy.q_net_target.q_net]

    def _present_options(self) -> list[Any]:
        """Options that were looked at when the learner was made."""
        of_adam = [group.get(name) for group in self.optimizer.param_groups for name in ADAM]
        return [self.model.learner, self.model.max_grad_norm, *of_adam]

    def is_attached(self) -> bool:
        """
        :return: Whether parameters and optimizer state are still the ones that this learner updates, and nothing else
            has to be called
        """
        network = self.network
        if self.model.policy is not self.policy or self.policy.optimizer is not self.optimizer:
            return False
        states = [self.optimizer.state.get(parameter) for parameter in self.parameters]
        if any(not state or state["step"] is not step for state, step in zip(states, self._steps, strict=True)):
            return False
        return (
            self.holds_parameters()
            and not STEPS & vars(self.model).keys()
            and why_not_as_they_are(self._modules, self.parameters) is None
            and self._present_layers() == self._layers
            and self._present_options() == self._options
            and network.means.hold([state["exp_avg"] for state in states])  # type: ignore[index]
            and network.squares.hold([state["exp_avg_sq"] for state in states])  # type: ignore[index]
        )

    def holds_parameters(self) -> bool:
        """
        :return: Whether the parameters of both networks are still views of the flat tensors
        """
        return self.network.values.hold(self.parameters) and self.target.hold(self.target_parameters)

    def update_target(self, tau: float) -> None:
        """
        Polyak averaging, by the operators of SB3's ``polyak_update``.

        :param tau: The soft update coefficient
        """
        self.target.flat.mul_(1 - tau)
        th.add(self.target.flat, self.network.values.flat, alpha=tau, out=self.target.flat)

    def greedy_actions(self, observations: np.ndarray) -> np.ndarray:
        """
        :param observations: Observations of all environments, shape (n_envs, ...)
        :return: Their greedy actions, int64, shape (n_envs,), as ``policy.predict()`` returns them
        """
        flat = self._flatten(th.as_tensor(observations))
        views = self.network.values.views
        outputs = [bias.new_empty(len(flat), len(bias)) for bias in views[1::2]]
        return forward(views, flat, outputs).argmax(dim=1).numpy()

    def _flatten(self, observations: th.Tensor) -> th.Tensor:
        q_net = self.model.q_net
        if observations.dtype == th.float32 and observations.dim() == 2:
            return observations
        return q_net.extract_features(observations, q_net.features_extractor)

    def train(self, gradient_steps: int, batch_size: int) -> tuple[list[float], LastBatch, th.Tensor]:
        """
        :param gradient_steps: Number of updates
        :param batch_size: Size of their batches
        :return: The loss of each update; what the log needs of the last batch; the absolute TD errors in it
        """
        per_pass = max(PASS // batch_size, 1) if self._can_draw_ahead() else 1
        losses: list[th.Tensor] = []
        with th.no_grad():
            for start in range(0, gradient_steps, per_pass):
                last, errors = self._train_on(min(per_pass, gradient_steps - start), batch_size, losses)
        th._foreach_add_(self._steps, gradient_steps)
        return th.stack(losses).tolist(), last, errors.abs().flatten()

    def _can_draw_ahead(self) -> bool:
        """Whether the batches of several updates do not depend on what these change."""
        buffer: Any = self.model.replay_buffer
        return self.model.priority is None and type(buffer).sample is DecayedSampling.sample

    def _sample(self, n_batches: int, batch_size: int) -> Any:
        model, buffer = self.model, self.model.replay_buffer
        assert buffer is not None
        if n_batches == 1:
            return buffer.sample(batch_size, env=model._vec_normalize_env)
        assert isinstance(buffer, DecayedSampling)
        indices, weights = zip(*(buffer.distribution.draw(batch_size) for _ in range(n_batches)), strict=True)
        batch = buffer.transitions(np.concatenate(indices), env=model._vec_normalize_env)
        return batch._replace(weights=buffer.to_torch(np.concatenate(weights), copy=False))

    def _train_on(self, n_batches: int, batch_size: int, losses: list[th.Tensor]) -> tuple[LastBatch, th.Tensor]:
        """Draw several batches, and do an update by each."""
        model, adam = self.model, self.adam_settings()
        batch = self._sample(n_batches, batch_size)
        observations = self._flatten(batch.observations)
        # With double Q-learning, targets depend on the updates before
        targets_of = self._double_q_targets(batch) if model.double_q else self._targets(batch, batch_size).__getitem__
        weights: Any = getattr(batch, "weights", None)
        is_weighted = weights is not None and bool((weights != 1).any())
        actions = batch.actions.long()
        for k in range(n_batches):
            part = slice(k * batch_size, (k + 1) * batch_size)
            errors, loss = self.network.update(
                observations[part],
                actions[part],
                targets_of(part),
                weights[part] if is_weighted else None,
                model.loss,
                adam,
            )
            losses.append(loss)
        indices: Any = getattr(batch, "indices", None)
        if model.priority is not None:
            model._update_priorities(indices, errors)
        last_weights = th.ones_like(errors) if weights is None else weights[part]
        return LastBatch(None if indices is None else indices[part], last_weights), errors

    def _targets(self, batch: Any, batch_size: int) -> th.Tensor:
        """TD targets of several batches, shape (n, 1)."""
        if self.model.q_lambda < 1:
            return self.model.lambda_returns().targets(batch.indices, self._values_of_next)
        next_observations = self._flatten(batch.next_observations)
        if self.is_fast and len(next_observations) > batch_size:
            # With decay, many draws repeat
            _, first, back = np.unique(batch.indices, return_index=True, return_inverse=True)
            next_values = self._target_values(next_observations[first], batch_size)[back]
        else:
            next_values = self._target_values(next_observations, batch_size)
        discounts = batch.discounts if batch.discounts is not None else self.model.gamma
        return batch.rewards + (1 - batch.dones) * discounts * next_values.max(dim=1).values.reshape(-1, 1)

    def _double_q_targets(self, batch: Any) -> Callable[[slice], th.Tensor]:
        """A function that computes the TD targets of a part of the batch, with the network as it is then."""
        if self.model.q_lambda < 1:
            returns = self.model.lambda_returns()
            return lambda part: returns.targets(batch.indices[part], self._values_of_next)
        next_observations = self._flatten(batch.next_observations)

        def targets_of(part: slice) -> th.Tensor:
            next_values = self._target_values(next_observations[part], part.stop - part.start)
            best = self.network.q_values(next_observations[part]).argmax(dim=1, keepdim=True)
            discounts = batch.discounts[part] if batch.discounts is not None else self.model.gamma
            return batch.rewards[part] + (1 - batch.dones[part]) * discounts * next_values.gather(1, best)

        return targets_of

    def _values_of_next(self, next_observations: th.Tensor) -> th.Tensor:
        flat = self._flatten(next_observations)
        views = self.target.views
        return forward(views, flat, [bias.new_empty(len(flat), len(bias)) for bias in views[1::2]])

    def adam_settings(self) -> AdamSettings:
        """
        :return: The optimizer's present settings
        """
        group = self.optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        return AdamSettings(group["lr"], beta1, beta2, group["eps"])

    def _target_values(self, observations: th.Tensor, batch_size: int) -> th.Tensor:
        """Q-values of the target network, in chunks of the batch size, as one at a time would compute them."""
        views = self.target.views
        values = observations.new_empty(len(observations), len(views[-1]))
        if not self._target_outputs or len(self._target_outputs[0]) != batch_size:
            self._target_outputs = [bias.new_empty(batch_size, len(bias)) for bias in views[1:-2:2]]
        for start in range(0, len(observations), batch_size):
            part = slice(start, start + batch_size)
            chunk = observations[part]
            forward(views, chunk, [*(output[: len(chunk)] for output in self._target_outputs), values[part]])
        return values
