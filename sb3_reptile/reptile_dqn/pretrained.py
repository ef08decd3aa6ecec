"""Starting from a trained network: what fits is loaded, and a warning names what does not."""

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.dqn.dqn import DQN
from stable_baselines3.dqn.policies import DQNPolicy

Pretrained = str | pathlib.Path | DQN | Mapping[str, th.Tensor]


def state_dict_of(pretrained: Any) -> dict[str, th.Tensor]:
    """
    :param pretrained: Path of a saved DQN or ReptileDQN, such a model, or a state dict of its policy or ``q_net``
    :return: The parameters, by their names in a DQN policy
    :raises TypeError: if it is something else
    :raises ValueError: if the file holds no policy
    """
    if isinstance(pretrained, (str, pathlib.Path)):
        # Only the parameters are read, none of the pickled objects beside them
        _, parameters, _ = load_from_zip_file(pretrained, device="cpu", load_data=False)
        if "policy" not in parameters:
            raise ValueError(f"{pretrained} holds no policy but {sorted(parameters)}: it must be a saved DQN")
        return parameters["policy"]  # type: ignore[return-value]
    if isinstance(pretrained, DQN):
        return pretrained.policy.state_dict()
    if isinstance(pretrained, Mapping) and all(isinstance(value, th.Tensor) for value in pretrained.values()):
        if any(name.startswith("q_net_target.") for name in pretrained):
            return dict(pretrained)
        return {f"{net}.{name}": value for net in ("q_net", "q_net_target") for name, value in pretrained.items()}
    raise TypeError(
        "pretrained must be the path of a saved DQN or ReptileDQN, such a model, or a state dict of its policy or "
        f"q_net, got {type(pretrained).__name__}"
    )


def load_pretrained(policy: DQNPolicy, pretrained: Pretrained) -> None:
    """
    Load what fits into a policy. Parameters of another shape, such as the last layer with another number of actions,
    and parameters that only one of the two has keep their values; a warning names them.

    :param policy: The policy, changed in place
    :param pretrained: See :func:`state_dict_of`
    :raises TypeError: if ``pretrained`` cannot be loaded
    :raises ValueError: if nothing in it fits
    """
    given, own = state_dict_of(pretrained), policy.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    problems = [
        f"{name} has shape {tuple(given[name].shape)}, needs {tuple(own[name].shape)}"
        for name in own
        if name in given and name not in fitting
    ]
    problems += [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is unknown here" for name in given if name not in own]
    if not fitting:
        raise ValueError(f"nothing in pretrained fits this policy: {'; '.join(problems)}")
    policy.load_state_dict(fitting, strict=False)
    if problems:
        warnings.warn(
            f"pretrained: {len(fitting)} of {len(own)} parameters loaded, the others start from scratch: "
            f"{'; '.join(problems)}",
            stacklevel=2,
        )
