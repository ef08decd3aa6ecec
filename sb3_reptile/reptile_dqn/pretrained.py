"""The parameters of a trained network, wherever they were saved, fitted to the spaces of a new task."""

import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from sb3_contrib.qrdqn.qrdqn import QRDQN
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.dqn.dqn import DQN
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from sb3_reptile.reptile_dqn.transfer import Transfer
from sb3_reptile.storage.errors import CONSTRUCTION_ERRORS
from sb3_reptile.storage.values import from_json

Pretrained = str | os.PathLike[str] | DQN | QRDQN | Mapping[str, th.Tensor]

FORMS = (
    "the path of a saved DQN, QRDQN or ReptileDQN, a checkpoint or a folder of checkpoints, such a model, or a state "
    "dict of a DQN's policy or q_net"
)
NETWORKS = ("q_net", "q_net_target")
# What a file that is damaged, or no saved model, raises when it is read
READ_ERRORS = (*CONSTRUCTION_ERRORS, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)
# The most parameters that an error names
MOST_NAMES = 4


class Ends(NamedTuple):
    """
    The layers of a Q-network at which spaces meet it, by their names in the network.

    :param first: The layer whose columns are features of the observation; None if a features extractor that learns is
        before it
    :param last: The layer whose rows are actions
    """

    first: str | None
    last: str


def ends_of(policy: DQNPolicy) -> Ends:
    """
    :param policy: A policy
    :return: The first and the last layer of its networks
    :raises ValueError: if they are not SB3's
    """
    network = getattr(policy.q_net, "q_net", None)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)] if network else []
    if not linear:
        raise ValueError(f"transfer needs the networks of SB3's DQN policies, got {type(policy.q_net).__name__}")
    extractor = policy.q_net.features_extractor
    learns = any(True for _ in (*extractor.parameters(), *extractor.buffers()))
    return Ends(None if learns else f"q_net.{linear[0]}", f"q_net.{linear[-1]}")


def parameters_of(pretrained: Any) -> dict[str, th.Tensor]:
    """
    :param pretrained: See :data:`FORMS`. Of a file only parameters and sizes are read, no pickled objects.
    :return: The parameters, by their names in a DQN policy. Of QR-DQN, the last layer gives the mean of the quantiles.
    :raises TypeError: if it is something else
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file holds no Q-network
    """
    if isinstance(pretrained, (str, os.PathLike)):
        path = Path(pretrained)
        found, n_actions = _of_checkpoint(path) if path.is_dir() else _of_zip(path)
        return _as_dqn(found, n_actions, path)
    if isinstance(pretrained, (DQN, QRDQN)):
        return _as_dqn(pretrained.policy.state_dict(), _n_actions(pretrained.action_space), "the model")
    if isinstance(pretrained, Mapping) and all(isinstance(value, th.Tensor) for value in pretrained.values()):
        if any(name.startswith("quantile_net") for name in pretrained):
            raise TypeError(
                "pretrained cannot be a state dict of QRDQN, which does not say its actions: give the model"
            )
        if any(name.startswith("q_net_target.") for name in pretrained):
            return dict(pretrained)
        return {f"{network}.{name}": value for network in NETWORKS for name, value in pretrained.items()}
    raise TypeError(f"pretrained must be {FORMS}, got {type(pretrained).__name__}")


def _of_checkpoint(path: Path) -> tuple[dict[str, th.Tensor], int]:
    from sb3_reptile.checkpoint.resuming import PARAMETERS, newest_good
    from sb3_reptile.checkpoint.run_folder import KIND

    folder = newest_good(path, KIND, "ResumableCheckpoint")
    with folder.understood():
        space = from_json(folder.state["spaces"]["action_space"])
        arrays = folder.read(PARAMETERS)
        named = {name.removeprefix("policy/"): a for name, a in arrays.items() if name.startswith("policy/")}
        return {name: th.from_numpy(array) for name, array in named.items()}, _n_actions(space)


def _n_actions(space: Any) -> int:
    return int(getattr(space, "n", 0))


def _of_zip(path: Path) -> tuple[dict[str, th.Tensor], int]:
    # SB3 adds the suffix
    if not path.exists() and not path.with_name(f"{path.name}.zip").exists():
        raise FileNotFoundError(f"pretrained: there is no file {path}")
    try:
        _, parameters, _ = load_from_zip_file(path, device="cpu", load_data=False)
        with open_path(path, "r", suffix="zip") as file, zipfile.ZipFile(file) as archive:
            data = json.loads(archive.read("data")) if "data" in archive.namelist() else {}
    except READ_ERRORS as error:
        raise ValueError(f"{path} is not a saved model: {' '.join(str(error).split())[:200]}") from error
    space = data.get("action_space")
    # SB3 writes the attributes of a pickled object beside it
    n_actions = str(space.get("n")) if isinstance(space, dict) else ""
    policy: Any = parameters.get("policy", {})
    return dict(policy), int(n_actions) if n_actions.isdecimal() else 0


def _as_dqn(given: Mapping[str, th.Tensor], n_actions: int, source: Any) -> dict[str, th.Tensor]:
    """The parameters of a policy of DQN or QR-DQN, by their names in a DQN policy."""
    if any(name.startswith("q_net.") for name in given):
        return dict(given)
    if not any(name.startswith("quantile_net.") for name in given):
        raise ValueError(f"{source} holds no Q-network: it must be a saved DQN, QRDQN or ReptileDQN")
    numbers = [name.split(".")[2] for name in given if name.startswith("quantile_net.quantile_net.")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=-1)
    renamed = {}
    for name, value in given.items():
        network, _, rest = name.partition(".")
        if rest in (f"quantile_net.{last}.weight", f"quantile_net.{last}.bias"):
            if n_actions < 1 or len(value) % n_actions != 0:
                raise ValueError(
                    f"{source} has {len(value)} quantiles of {n_actions} actions, which do not fit together"
                )
            value = value.view(-1, n_actions, *value.shape[1:]).mean(dim=0)
        rest = rest.replace("quantile_net.", "q_net.", 1) if rest.startswith("quantile_net.") else rest
        renamed[f"{network.replace('quantile_net', 'q_net')}.{rest}"] = value
    return renamed


def load_pretrained(policy: DQNPolicy, pretrained: Pretrained, transfer: Transfer | None = None) -> None:
    """
    Load parameters into both networks of a policy: all of them, or none if one does not fit.

    :param policy: The policy, changed in place
    :param pretrained: See :func:`parameters_of`
    :param transfer: From which action and feature of ``pretrained`` each of the policy's starts
    :raises TypeError: if ``pretrained`` cannot be loaded
    :raises ValueError: if a parameter does not fit, or is not finite
    """
    given, own = parameters_of(pretrained), policy.state_dict()
    if transfer is not None and (transfer.actions is not None or transfer.observations is not None):
        given = _mapped(given, own, ends_of(policy), transfer)
    problems = list(_problems(policy, given, own))
    if problems:
        more = f"; and {len(problems) - MOST_NAMES} more" if len(problems) > MOST_NAMES else ""
        raise ValueError(f"pretrained does not fit this policy: {'; '.join(problems[:MOST_NAMES])}{more}")
    policy.load_state_dict(given)


def _problems(policy: DQNPolicy, given: Mapping[str, th.Tensor], own: Mapping[str, th.Tensor]) -> Iterator[str]:
    """Why parameters cannot be loaded, the most helpful reason first."""
    other = [name for name in own if name in given and given[name].shape != own[name].shape]
    at_ends: dict[str, tuple[str, int]] = {}
    if other:
        first, last = ends_of(policy)
        for network in NETWORKS:
            at_ends |= {f"{network}.{last}.{part}": ("actions", 0) for part in ("weight", "bias")}
            if first is not None and first != last:
                at_ends[f"{network}.{first}.weight"] = ("observations", 1)
    said = set()
    for name in other:
        theirs, ours = tuple(given[name].shape), tuple(own[name].shape)
        option, axis = at_ends.get(name, ("", 0))
        rest = [theirs[:axis] + theirs[axis + 1 :], ours[:axis] + ours[axis + 1 :]]
        if option and len(theirs) == len(ours) and rest[0] == rest[1]:
            if option not in said:
                what = "actions" if option == "actions" else "numbers in an observation"
                yield (
                    f"it has {theirs[axis]} {what}, this environment {ours[axis]}: map them, transfer={{{option!r}: "
                    f"[...]}} with, for each of the {ours[axis]}, its number there, or None"
                )
            said.add(option)
        else:
            yield f"{name} has shape {theirs}, needs {ours}: use the same policy_kwargs (net_arch)"
    yield from (f"{name} is missing" for name in own if name not in given)
    yield from (f"{name} is unknown here" for name in given if name not in own)
    yield from (
        f"{name} is not finite"
        for name, value in given.items()
        if value.is_floating_point() and not value.isfinite().all()
    )


def _mapped(
    given: Mapping[str, th.Tensor], own: Mapping[str, th.Tensor], ends: Ends, transfer: Transfer
) -> dict[str, th.Tensor]:
    """
    The parameters with rows and columns of the first and last layer in the order of a transfer. New features start at
    0, so that at first they change nothing; new actions start from the policy's own parameters.
    """
    mapped = dict(given)
    for network in NETWORKS:
        if transfer.observations is not None:
            if ends.first is None:
                raise ValueError(
                    "transfer={'observations': ...} maps numbers of vectors, which this policy's features extractor "
                    "transforms first: leave it out, and keep the observations"
                )
            name = f"{network}.{ends.first}.weight"
            mapped[name] = _columns(mapped, name, own[name].shape[1], transfer.observations)
        if transfer.actions is not None:
            for name in (f"{network}.{ends.last}.weight", f"{network}.{ends.last}.bias"):
                mapped[name] = _rows(mapped, name, own[name], transfer.actions)
    return mapped


def _columns(given: Mapping[str, th.Tensor], name: str, n_own: int, wanted: tuple[int | None, ...]) -> th.Tensor:
    weight = given.get(name)
    if weight is None or weight.dim() != 2:
        raise ValueError(f"pretrained does not fit this policy: it has no {name} of two dimensions")
    _check_numbers("observations", "numbers in an observation", wanted, n_own, weight.shape[1])
    columns = weight.new_zeros(len(weight), n_own)
    for column, number in enumerate(wanted):
        if number is not None:
            columns[:, column] = weight[:, number]
    return columns


def _rows(given: Mapping[str, th.Tensor], name: str, own: th.Tensor, wanted: tuple[int | None, ...]) -> th.Tensor:
    value = given.get(name)
    if value is None or value.dim() == 0 or value.shape[1:] != own.shape[1:]:
        # Without a number of actions in common there is nothing to map; the shapes are reported as they are
        found = None if value is None else tuple(value.shape)
        raise ValueError(
            f"pretrained does not fit this policy: {name} has shape {found}, needs {tuple(own.shape)} but for the "
            "number of actions: use the same policy_kwargs (net_arch), and map observations of another size"
        )
    _check_numbers("actions", "actions", wanted, len(own), len(value))
    rows = own.clone()
    for row, number in enumerate(wanted):
        if number is not None:
            rows[row] = value[number]
    return rows


def _check_numbers(option: str, what: str, wanted: tuple[int | None, ...], n_own: int, n_given: int) -> None:
    if len(wanted) != n_own:
        raise ValueError(
            f"transfer={{{option!r}: ...}} must have one entry for each of this environment's {n_own} {what}, "
            f"got {len(wanted)}: {list(wanted)!r:.100}"
        )
    for number in wanted:
        if number is not None and number >= n_given:
            raise ValueError(
                f"transfer={{{option!r}: ...}} must be numbers from 0 to {n_given - 1}, as pretrained has {n_given} "
                f"{what}, or None, got {number}"
            )
