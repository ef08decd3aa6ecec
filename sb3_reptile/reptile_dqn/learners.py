"""The training loop of ReptileDQN with updates in closed form."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th

from sb3_reptile.replay import DecayedSampling
from sb3_reptile.reptile_dqn.applicability import Bystanders
from sb3_reptile.reptile_dqn.closed_form import AdamSettings, ClosedForm, FlatParameters, Layers, mean_losses
from sb3_reptile.reptile_dqn.fast_closed_form import FastClosedForm, FastLayers, Repetitions
from sb3_reptile.reptile_dqn.lambda_returns import TargetNetwork

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

# Transitions that are fetched at once, at most
PASS = 16_384
# Next observations of which the fast learner computes the target network's values at once
FAST_CHUNK = 256


class LastBatch(NamedTuple):
    """
    What the log needs of the last batch.

    :param indices: Numbers of its transitions; None if the buffer does not number them
    :param weights: Their weights, shape (batch_size, 1)
    """

    indices: np.ndarray | None
    weights: th.Tensor


class Drawn(NamedTuple):
    """
    What λ-returns leave to be fetched: the transitions of several batches without their rewards and next observations.

    :param observations: Shape (n, ...)
    :param actions: Shape (n, 1)
    :param indices: Numbers of the transitions, int64, shape (n,)
    :param weights: Their weights, shape (n, 1)
    """

    observations: Any
    actions: th.Tensor
    indices: np.ndarray
    weights: th.Tensor


class ClosedFormLearner:
    """
    Trains a model by :class:`~sb3_reptile.reptile_dqn.closed_form.ClosedForm`.

    The parameters of both networks become views of flat tensors, and, from the first update on, the optimizer's state
    too. Whoever replaces them (``load_state_dict``, ``policy.to()``) is noticed by :meth:`is_attached`; a new learner
    is made then.

    :param model: The model, for which :func:`~sb3_reptile.reptile_dqn.applicability.why_not_closed_form`
        returned None
    """

    def __init__(self, model: "ReptileDQN") -> None:
        self.model = model
        self.policy = model.policy
        self.optimizer = model.policy.optimizer
        self.parameters = list(model.policy.q_net.parameters())
        self.target_parameters = list(model.policy.q_net_target.parameters())
        self._bystanders = Bystanders(model)
        self._trained_modules = [self.policy, *self.policy.q_net.modules()]
        self.is_fast = model.learner == "fast"
        self.network = (FastClosedForm if self.is_fast else ClosedForm)(self.parameters, model.max_grad_norm)
        self.target = FlatParameters(self.target_parameters, adopt=True)
        self._target_layers = (FastLayers if self.is_fast else Layers)(self.target.views)
        # To act by: a batch of as many as there are environments
        self._acting_layers = Layers(self.network.values.views)
        steps = th.zeros(len(self.parameters))
        self._steps, self._all_steps = list(steps), steps.numpy()
        self._states: list[dict[str, th.Tensor]] = []
        self._repetitions = Repetitions()
        if self.optimizer.state:
            self._share_optimizer_state()

    def _share_optimizer_state(self) -> None:
        """Let the optimizer's state consist of views of flat tensors, with its present values."""
        network = self.network
        tensors = zip(self.parameters, self._steps, network.means.views, network.squares.views, strict=True)
        for parameter, step, mean, square in tensors:
            state = self.optimizer.state[parameter]
            if state:
                mean.copy_(state["exp_avg"])
                square.copy_(state["exp_avg_sq"])
                step.copy_(state["step"])
            self.optimizer.state[parameter] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        self._states = [self.optimizer.state[parameter] for parameter in self.parameters]

    def is_attached(self) -> bool:
        """
        :return: Whether parameters and optimizer state are still the ones that this learner updates, and nothing else
            has to be called
        """
        return (
            self.model.policy is self.policy
            and self.policy.optimizer is self.optimizer
            and self.holds_parameters()
            and self._holds_optimizer_state()
            and self._bystanders.is_unchanged()
        )

    def holds_parameters(self) -> bool:
        """
        :return: Whether the parameters of both networks are still views of the flat tensors
        """
        return self.network.values.hold(self.parameters) and self.target.hold(self.target_parameters)

    def _holds_optimizer_state(self) -> bool:
        present = self.optimizer.state
        if not self._states:
            return not present
        states = [present.get(parameter, {}) for parameter in self.parameters]
        return (
            all(a is b and a.get("step") is step for a, b, step in zip(states, self._states, self._steps, strict=True))
            and len(set(self._all_steps.tolist())) == 1
            and self.network.means.hold([state["exp_avg"] for state in states])
            and self.network.squares.hold([state["exp_avg_sq"] for state in states])
        )

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
        values: np.ndarray = self._acting_layers.q_values(self._flatten(th.from_numpy(observations))).numpy()
        return values.argmax(axis=1)

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
        for module in self._trained_modules:  # policy.set_training_mode(True), without nn.Module.__setattr__()
            module.__dict__["training"] = True
        if not self._states:
            self._share_optimizer_state()
        self.network.step = int(self._all_steps[0])
        batch_size = int(batch_size)  # of NumPy, PyTorch does not take it
        per_pass = max(PASS // batch_size, 1) if self._can_draw_ahead() else 1
        errors: list[th.Tensor] = []
        weights: list[th.Tensor] = []
        any_weighted = False
        with th.no_grad():
            for start in range(0, gradient_steps, per_pass):
                n_batches = min(per_pass, gradient_steps - start)
                last, is_weighted = self._train_on(n_batches, batch_size, errors, weights)
                any_weighted |= is_weighted
            losses = mean_losses(errors, th.cat(weights) if any_weighted else None, self.model.loss)
            self._all_steps.fill(self.network.step)
        if self.parameters[0].grad is not self.network.gradients.views[0]:
            for parameter, gradient in zip(self.parameters, self.network.gradients.views, strict=True):
                parameter.grad = gradient
        return losses, last, errors[-1].abs().flatten()

    def _can_draw_ahead(self) -> bool:
        """Whether the batches of several updates do not depend on what these change."""
        buffer: Any = self.model.replay_buffer
        return self.model.priority is None and type(buffer).sample is DecayedSampling.sample

    def _sample(self, n_batches: int, batch_size: int) -> Any:
        model, buffer, env = self.model, self.model.replay_buffer, self.model._vec_normalize_env
        assert buffer is not None
        has_lambda_returns = model.q_lambda < 1 and self._can_draw_ahead()
        if n_batches == 1 and not has_lambda_returns:
            return buffer.sample(batch_size, env=env)
        assert isinstance(buffer, DecayedSampling)
        indices, drawn_weights = buffer.distribution.draws(n_batches, batch_size)
        weights = th.from_numpy(drawn_weights)
        if has_lambda_returns:
            observations, actions = model.lambda_returns().buffer.observations_and_actions(indices, env)
            return Drawn(observations, actions, indices, weights)
        return buffer.transitions(indices, env=env)._replace(weights=weights)

    def _train_on(
        self, n_batches: int, batch_size: int, errors: list[th.Tensor], weights: list[th.Tensor]
    ) -> tuple[LastBatch, bool]:
        """
        Draw several batches, do an update by each, and append the TD errors of each, and the weights of all. Returns
        the last batch, and whether any weight is not 1.
        """
        model, adam = self.model, self.adam_settings()
        batch = self._sample(n_batches, batch_size)
        # With double Q-learning, targets depend on the updates before
        targets = self._double_q_targets if model.double_q else self._targets
        batch_weights: Any = getattr(batch, "weights", None)
        is_weighted = batch_weights is not None and not (batch_weights.numpy() == 1).all()
        parts = zip(
            _split(self._flatten(batch.observations), batch_size),
            _split(batch.actions.long(), batch_size),
            targets(batch, batch_size),
            _split(batch_weights, batch_size) if is_weighted else [None] * n_batches,
            strict=True,
        )
        errors += [self.network.update(*part, model.loss, adam) for part in parts]
        if batch_weights is not None:
            weights.append(batch_weights)
        indices: Any = getattr(batch, "indices", None)
        if model.priority is not None:
            model._update_priorities(indices, errors[-1])
        last = LastBatch(
            None if indices is None else indices[-batch_size:],
            th.ones_like(errors[-1]) if batch_weights is None else batch_weights[-batch_size:],
        )
        return last, is_weighted

    def _targets(self, batch: Any, batch_size: int) -> Iterable[th.Tensor]:
        """TD targets of each batch, shape (batch_size, 1)."""
        if self.model.q_lambda < 1:
            return _split(self.model.lambda_returns().targets(batch.indices, self._target_network()), batch_size)
        next_values = self._next_values(batch, batch_size).max(dim=1, keepdim=True).values
        discounts = batch.discounts if batch.discounts is not None else self.model.gamma
        return _split(batch.rewards + (1 - batch.dones) * discounts * next_values, batch_size)

    def _double_q_targets(self, batch: Any, batch_size: int) -> Iterator[th.Tensor]:
        """TD targets of each batch, computed when they are asked for, with the network as it is then."""
        if self.model.q_lambda < 1:
            returns, target = self.model.lambda_returns(), self._target_network()
            for start in range(0, len(batch.indices), batch_size):
                yield returns.targets(batch.indices[start : start + batch_size], target)
            return
        discounts = batch.discounts if batch.discounts is not None else self.model.gamma
        # Of each action
        targets = batch.rewards + (1 - batch.dones) * discounts * self._next_values(batch, batch_size)
        next_observations = self._flatten(batch.next_observations)
        for part, of_actions in zip(_split(next_observations, batch_size), _split(targets, batch_size), strict=True):
            best = self.network.layers.q_values(part).argmax(dim=1, keepdim=True)
            yield of_actions.gather(1, best)

    def _next_values(self, batch: Any, batch_size: int) -> th.Tensor:
        """Q-values of the target network at the next observations of several batches."""
        next_observations = self._flatten(batch.next_observations)
        if self.is_fast and len(next_observations) > batch_size:
            # With decay, many draws repeat
            first, back = self._repetitions.find(batch.indices)
            return self._target_values(next_observations[first], FAST_CHUNK)[back]
        return self._target_values(next_observations, batch_size)

    def _target_network(self) -> TargetNetwork:
        return TargetNetwork(self._values_of_next, [self.target.flat])

    def _values_of_next(self, next_observations: th.Tensor) -> th.Tensor:
        """Q-values of the target network at any number of next observations."""
        return self._target_layers.q_values(self._flatten(next_observations))

    def _target_values(self, observations: th.Tensor, chunk: int) -> th.Tensor:
        """Q-values of the target network, in chunks: of the batch size, as one batch at a time would compute them."""
        if observations.shape[0] == chunk:
            return self._target_layers.q_values(observations)
        values = observations.new_empty(len(observations), len(self.target.views[-1]))
        for part, output in zip(observations.split(chunk), values.split(chunk), strict=True):
            output.copy_(self._target_layers.q_values(part))
        return values

    def adam_settings(self) -> AdamSettings:
        """
        :return: The optimizer's present settings
        """
        group = self.optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        return AdamSettings(group["lr"], beta1, beta2, group["eps"])


def _split(whole: th.Tensor, size: int) -> Sequence[th.Tensor]:
    """The parts of a tensor; no view where there is one part."""
    parts: Sequence[th.Tensor] = (whole,) if whole.shape[0] == size else whole.split(size)
    return parts
