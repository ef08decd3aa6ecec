"""Published methods against forgetting too little that change the learner, not replay: callbacks for any SB3 model."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn import functional as F


class ShrinkAndPerturb(BaseCallback):
    """
    Shrink and perturb (Ash & Adams, arXiv 1910.08475), which sample weight decay is combined with in arXiv 2604.01913::

        parameters <- shrink * parameters + perturb * fresh parameters

    The fresh parameters are those of a network that is initialized again. Target networks are treated like the networks
    that they follow, with the same fresh parameters, and optimizers start from scratch, as in the first paper.

    The second paper states no factors and no period in what could be found of it, and its released code does not
    contain the combination: those of ``methods.py`` are assumed.

    :param every: Steps of the environments between two perturbations
    :param shrink: Factor of the present parameters
    :param perturb: Factor of the fresh parameters
    """

    def __init__(self, every: int, shrink: float, perturb: float) -> None:
        super().__init__()
        self.every = every
        self.shrink = shrink
        self.perturb = perturb
        self._next = every

    def _on_step(self) -> bool:
        # The last perturbation of a run would never be learned from
        if self._next <= self.num_timesteps < self.model._total_timesteps:
            self._next += self.every
            self._shrink_and_perturb()
        return True

    def _shrink_and_perturb(self) -> None:
        model: Any = self.model
        policy = model.policy
        fresh = model.policy_class(
            model.observation_space, model.action_space, model.lr_schedule, **model.policy_kwargs
        ).to(model.device)
        with th.no_grad():
            for parameter, new in zip(policy.parameters(), fresh.parameters(), strict=True):
                parameter.mul_(self.shrink).add_(new, alpha=self.perturb)
        for module in policy.modules():
            optimizer = getattr(module, "optimizer", None)
            if optimizer is not None:
                optimizer.state.clear()


class SpaceSampledValueDecay(BaseCallback):
    """
    Space-sampled value decay (Störck, Hinder & Hammer, arXiv 2606.11797): in every update, values of situations that
    are drawn from the observation space decay towards a baseline. To the algorithm's loss is added the mean of::

        loss(Q(s, a), (1 - rate) * Q_frozen(s, a) + rate * baseline)

    over sampled ``s`` and all actions with DQN, sampled ``s`` and ``a`` with SAC, for each of its critics. Where the
    paper and its released code (github.com/Felix-St/SpaceSampledValueDecay) differ, this is the code, which made the
    paper's results: with DQN, the frozen values are those of the present network without gradient, not of the target
    network, and the loss is Huber's, not the square; the number of situations is rounded down. With SAC the frozen
    values are those of the target critics. TD3 is not in the paper; it is treated like SAC.

    :param rate: How far values decay in each update, the paper's eta
    :param share: Number of sampled situations relative to the batch size, the paper's xi; at least one is sampled
    :param baseline: What values decay to, the paper's b
    """

    def __init__(self, rate: float, share: float, baseline: float) -> None:
        super().__init__()
        self.rate = rate
        self.share = share
        self.baseline = baseline

    def _on_training_start(self) -> None:
        model: Any = self.model
        # Spaces of its own, so that the random draws of the algorithm stay the same
        self._situations, self._actions = (
            copy.deepcopy(space) for space in (model.observation_space, model.action_space)
        )
        for space in (self._situations, self._actions):
            space.seed(model.seed)
        self._is_dqn = hasattr(model, "q_net")
        if hasattr(model, "learner"):
            # The closed form does not call the optimizer, in which the loss is added
            model.learner = "eager"
        self._optimizer: Any = model.policy.optimizer if self._is_dqn else model.critic.optimizer
        clear = self._optimizer.zero_grad

        def clear_and_decay(*args: Any, **options: Any) -> None:
            # Between this and the algorithm's own backward(), which adds to the gradient; it is clipped as a whole
            clear(*args, **options)
            self.loss().backward()

        self._optimizer.zero_grad = clear_and_decay

    def _on_training_end(self) -> None:
        del self._optimizer.zero_grad

    def _on_step(self) -> bool:
        return True

    def loss(self) -> th.Tensor:
        """What is added to the loss of a batch."""
        model: Any = self.model
        number = max(int(self.share * model.batch_size), 1)
        situations, _ = model.policy.obs_to_tensor(np.stack([self._situations.sample() for _ in range(number)]))
        losses = [
            self._loss_of_one(values, (1 - self.rate) * frozen + self.rate * self.baseline)
            for values, frozen in self._values(situations, number)
        ]
        return th.stack(losses).sum()

    def _loss_of_one(self, values: th.Tensor, targets: th.Tensor) -> th.Tensor:
        if self._is_dqn:
            return F.smooth_l1_loss(values, targets)
        # SB3's critic loss is half the squared error with SAC, and the squared error with TD3
        return F.mse_loss(values, targets) * (0.5 if hasattr(self.model, "ent_coef") else 1.0)

    def _values(self, situations: th.Tensor, number: int) -> Iterator[tuple[th.Tensor, th.Tensor]]:
        """The values of each network and what they decay from."""
        model: Any = self.model
        if self._is_dqn:
            values = model.q_net(situations)
            yield values, values.detach()
            return
        drawn = np.stack([self._actions.sample() for _ in range(number)])
        actions = th.as_tensor(model.policy.scale_action(drawn), device=model.device)
        with th.no_grad():
            frozen = model.critic_target(situations, actions)
        yield from zip(model.critic(situations, actions), frozen, strict=True)
