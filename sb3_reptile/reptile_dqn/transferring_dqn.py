"""SB3's DQN that starts from pretrained parameters, of which some are frozen at first or learn slowly."""

import torch as th
from stable_baselines3.dqn.dqn import DQN

from sb3_reptile.reptile_dqn.pretrained import Pretrained, ends_of, load_pretrained
from sb3_reptile.reptile_dqn.transfer import (
    Transfer,
    frozen_layers,
    grouped_optimizer,
    make_transfer,
    scale_learning_rates,
)


class TransferringDQN(DQN):
    """
    The part of :class:`~sb3_reptile.reptile_dqn.ReptileDQN` that uses ``pretrained`` and ``transfer``. Without them it
    does what SB3 does.
    """

    pretrained: Pretrained | None
    transfer: Transfer | None = None
    #: Environment steps of this model, all environments counted, which ``learn()`` does not reset
    _n_own_steps: int = 0
    #: Layers that are frozen now
    _frozen: tuple[th.nn.Module, ...] = ()

    def _setup_model(self) -> None:
        # SB3 sets the attributes of a saved model before it calls this
        if self.pretrained is not None and "exploration_schedule" in vars(self):
            raise ValueError(
                f"pretrained={self.pretrained!r:.100} cannot be given to load(), which loads all parameters: leave it "
                "out, or make a new model"
            )
        self.transfer = make_transfer(self.transfer, self.pretrained is not None)
        super()._setup_model()
        if self.pretrained is not None:
            load_pretrained(self.policy, self.pretrained, self.transfer)
        if self.transfer is None:
            return
        if self.transfer.learning_rate_factor is not None:
            self.policy.optimizer = grouped_optimizer(
                self.policy, self.lr_schedule, self.transfer.learning_rate_factor, self._new_parameters()
            )
            scale_learning_rates(self.policy.optimizer)
        self._freeze_or_thaw()

    def _new_parameters(self) -> list[str]:
        """Names in the network of the parameters that were not loaded, or not as a whole."""
        assert self.transfer is not None
        names = []
        ends = ends_of(self.policy)
        if self.transfer.observations is not None and None in self.transfer.observations:
            names.append(f"{ends.first}.weight")
        if self.transfer.actions is not None and None in self.transfer.actions:
            names += [f"{ends.last}.weight", f"{ends.last}.bias"]
        return names

    def _freeze_or_thaw(self) -> None:
        """Freeze the layers that are frozen at this step, and thaw the others once."""
        if self.transfer is None or self.transfer.freeze_steps is None:
            return
        is_frozen = self._n_own_steps < self.transfer.freeze_steps
        if is_frozen == bool(self._frozen):
            return
        layers = frozen_layers(self.policy.q_net, self.transfer)
        for layer in layers:
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(not is_frozen)
        self._frozen = tuple(layers) if is_frozen else ()
        if self.verbose >= 1:
            names = f"The first {len(layers)} layers"
            steps = self.transfer.freeze_steps
            print(f"{names} are frozen for {steps:,.0f} steps" if is_frozen else f"{names} learn from now on")

    def _set_training_mode(self) -> None:
        """The mode of networks that are trained; frozen layers do not update their statistics either."""
        self.policy.set_training_mode(True)
        for layer in self._frozen:
            layer.eval()

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        if self.transfer is not None:
            scale_learning_rates(self.policy.optimizer)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_frozen", "pretrained"]
