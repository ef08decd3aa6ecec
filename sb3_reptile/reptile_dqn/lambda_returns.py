"""λ-returns over replayed sequences, and a cache of the target network's values that makes them cheap."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_reptile.replay.kernels import kernels
from sb3_reptile.replay.multi_step import MultiStepSampling

if TYPE_CHECKING:
    from sb3_reptile.reptile_dqn.reptile_dqn import ReptileDQN

# Next observations that are fetched at once, at most
CHUNK = 1_024
# Next observations of which values are computed at once, always: the last bits of a product of matrices depend on the
# number of rows, and a value must not depend on what else was missing when it was computed. Fewer images, each of
# which takes long
ROWS, IMAGES = 64, 8
# They also depend on where a row is in memory: rows of 4 numbers have the same place in a vector of 16 bytes again
ALIGNED = 4
# What is computed in a row without a transition goes to the end of an array
NOTHING = -1


class TargetNetwork(NamedTuple):
    """
    The target network, as a learner computes with it.

    :param q_values: Its Q-values, shape (n, n_actions), of n observations
    :param tensors: Everything that they depend on
    """

    q_values: Callable[[Any], th.Tensor]
    tensors: Sequence[th.Tensor]


class ValueCache:
    """
    ``max_a Q'(s', a)`` of stored next observations, computed once for each target network Q' and stored row. Rows that
    have been overwritten are forgotten, and everything when the target network or the normalization of observations
    has changed.

    :param model: The model whose target network and replay buffer it is
    """

    def __init__(self, model: "ReptileDQN") -> None:
        self.model = model
        self.buffer = replay_buffer_of(model)
        space = self.buffer.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        self._n_at_once = IMAGES if any(len(part.shape or ()) == 3 for part in parts) else ROWS
        n = self.buffer.buffer_size * self.buffer.n_envs
        self._values = np.zeros(n + 1, dtype=np.float32)  # and one for rows without a transition
        # The version of the target network that each value is of
        self._versions = np.zeros(n, dtype=np.int32)
        self._scratch = np.zeros(n, dtype=np.int32)
        self._version = 1
        self._rows_added, self._n_resets = 0, 0
        self._is_normalized = False
        self._target: list[th.Tensor] = []

    def refresh(self, target: Sequence[th.Tensor]) -> None:
        """
        Forget what no longer holds. It must be called after rows were added or the target network was changed.

        :param target: Its tensors
        """
        buffer, distribution = self.buffer, self.buffer.distribution
        n_new = distribution.rows_added - self._rows_added
        is_same_ring = distribution.n_resets == self._n_resets and n_new < buffer.buffer_size
        is_same_target = len(target) == len(self._target) and all(map(th.equal, target, self._target))
        # Statistics may have changed, or the environment that has them
        is_normalized = self.model._vec_normalize_env is not None
        if not (is_same_ring and is_same_target) or is_normalized or self._is_normalized:
            self._version += 1
        elif n_new:
            versions = self._versions.reshape(-1, buffer.n_envs)
            first = self._rows_added % buffer.buffer_size
            versions[first : first + n_new] = 0
            versions[: max(first + n_new - buffer.buffer_size, 0)] = 0
        self._is_normalized = is_normalized
        if not is_same_target:
            self._target = [tensor.detach().clone() for tensor in target]
        self._rows_added, self._n_resets = distribution.rows_added, distribution.n_resets

    def __call__(self, indices: np.ndarray, compute: Callable[[Any], th.Tensor]) -> np.ndarray:
        """
        :param indices: Numbers of stored transitions, int64, any shape
        :param compute: Q-values of the target network, shape (n, n_actions), of n observations
        :return: The values of their next observations, float32, same shape
        """
        missing = kernels().missing(indices.reshape(-1), self._versions, self._version, self._scratch)
        if len(missing):
            size = self._n_at_once
            rows = _rows_of(missing, size)
            fetched = np.where(rows == NOTHING, missing[0], rows)
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                observations = self.buffer.next_observations_of(
                    fetched[start : start + CHUNK], self.model._vec_normalize_env
                )
                for at, part in zip(range(0, len(chunk), size), _split(observations, size), strict=True):
                    self._store(chunk[at : at + size], compute(part))
            self._versions[missing] = self._version
        return self._values.take(indices)

    def _store(self, indices: np.ndarray, q_values: th.Tensor) -> None:
        self._values[indices] = q_values.amax(dim=1).cpu().numpy()


def _rows_of(numbers: np.ndarray, size: int) -> np.ndarray:
    """
    The transition of each row, in whole multiples of ``size`` rows, or ``NOTHING``. The row of a transition has the
    same remainder as its number, so that it is always aligned alike.
    """
    remainders = numbers % ALIGNED
    if ALIGNED * len(numbers) <= size:  # few are new between two updates
        rows = np.full(size, NOTHING)
        rows[ALIGNED * np.arange(len(numbers)) + remainders] = numbers
        return rows
    by_remainder = [numbers[remainders == remainder] for remainder in range(ALIGNED)]
    n = ALIGNED * max(map(len, by_remainder))
    rows = np.full(-(-n // size) * size, NOTHING)
    for remainder, alike in enumerate(by_remainder):
        rows[remainder : ALIGNED * len(alike) : ALIGNED] = alike
    return rows


def _split(observations: Any, size: int) -> Iterable[Any]:
    """Observations, or a dict of them, in parts of this size."""
    if not isinstance(observations, dict):
        return [observations] if len(observations) == size else observations.split(size)
    parts = zip(*(values.split(size) for values in observations.values()), strict=True)
    return [dict(zip(observations, part, strict=True)) for part in parts]


def tensors_of(module: th.nn.Module) -> Iterator[th.Tensor]:
    """
    Much faster than ``parameters()`` and ``buffers()``, which look for names and duplicates.

    :param module: A network
    :return: Its parameters and buffers
    """
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None:
            yield tensor
    for child in module._modules.values():
        if child is not None:
            yield from tensors_of(child)


def replay_buffer_of(model: "ReptileDQN") -> Any:
    """
    :param model: A model
    :return: Its replay buffer
    :raises ValueError: if it has no multi-step sequences
    """
    buffer: Any = model.replay_buffer
    if isinstance(buffer, MultiStepSampling) and not buffer.has_lambda_returns():
        raise ValueError(
            f"q_lambda={model.q_lambda} reads rewards and next observations from the storage, so the methods of "
            f"{type(buffer).__name__} that make a batch would have no effect: set q_lambda=1"
        )
    if not isinstance(buffer, MultiStepSampling):
        raise ValueError(
            f"q_lambda={model.q_lambda} mixes returns of several lengths, which {type(buffer).__name__} does not have: "
            "leave replay_buffer_class out, or set q_lambda=1"
        )
    if buffer.n_steps == 1:
        raise ValueError(
            f"q_lambda={model.q_lambda} mixes returns of several lengths, but this model's {type(buffer).__name__} has "
            "n_steps=1: set n_steps > 1, or q_lambda=1"
        )
    return buffer


def returns_asked_for(model: "ReptileDQN") -> tuple[int, float, float]:
    """
    :param model: A model
    :return: What its returns depend on
    """
    return model.n_steps, model.gamma, model.q_lambda


class LambdaReturns:
    r"""
    Targets of Peng's Q(λ) (Peng & Williams, Machine Learning 1996; https://arxiv.org/abs/2103.00107) over a replayed
    sequence,

    .. math::
        G_t = r_t + \gamma (1 - d_t) \left[ (1 - \lambda) \max_a Q'(s_{t+1}, a) + \lambda G_{t+1} \right],

    with the value alone after the last transition of the sequence. With :math:`c_k = (\gamma \lambda)^k` this is

    .. math::
        G_t = \sum_{k=0}^{l} c_k r_{t+k} + \gamma (1 - \lambda) \sum_{k=0}^{l-1} c_k V_{t+k+1}
            + \gamma c_l (1 - d_{t+l}) V_{t+l+1} .

    λ = 0 gives one-step returns, λ = 1 uncorrected n-step returns.

    :param model: The model, whose ``q_lambda`` is λ
    """

    def __init__(self, model: "ReptileDQN") -> None:
        self.model = model
        self.buffer = replay_buffer_of(model)
        self.cache = ValueCache(model)
        self._made_for = returns_asked_for(model)
        n = self.buffer.n_steps
        gamma, q_lambda = float(model.gamma), float(model.q_lambda)  # one of NumPy would make everything float64
        self._of_rewards = (gamma * q_lambda) ** np.arange(n, dtype=np.float32)
        # Factors of the values by the position of the last transition; then the same where an episode ends there
        of_values = gamma * (1 - q_lambda) * np.tril(np.broadcast_to(self._of_rewards, (n, n)), k=-1)
        self._of_values = np.concatenate([of_values + np.diag(gamma * self._of_rewards), of_values])

    def is_of(self, model: "ReptileDQN") -> bool:
        """
        :param model: A model
        :return: Whether these are the returns of its present replay buffer and options
        """
        is_of_buffer = self.model is model and self.buffer is model.replay_buffer
        return is_of_buffer and self._made_for == returns_asked_for(model)

    def targets(self, indices: np.ndarray, target: TargetNetwork) -> th.Tensor:
        """
        :param indices: Numbers of stored transitions, int64, shape (n,)
        :param target: The target network
        :return: Their λ-returns, shape (n, 1)
        """
        steps, last, rewards, dones = self.buffer.sequences(indices, self.model._vec_normalize_env, self._of_rewards)
        if self.model.double_q:
            values = self._double_q_values(steps, target)
        else:
            self.cache.refresh(target.tensors)
            values = self.cache(steps, target.q_values)
        values *= self._of_values.take(last + self.buffer.n_steps * (dones > 0), axis=0)
        rewards += values
        return self.buffer.tensor(rewards.sum(axis=1, keepdims=True))

    def _double_q_values(self, steps: np.ndarray, target: TargetNetwork) -> np.ndarray:
        """The target network's values of the actions that the online network prefers, which changes at every update."""
        distinct, back = np.unique(steps, return_inverse=True)
        observations = self.buffer.next_observations_of(distinct, self.model._vec_normalize_env)
        with th.no_grad():
            best = self.model.q_net(observations).argmax(dim=1, keepdim=True)
            values = target.q_values(observations).gather(1, best).flatten().cpu().numpy()
        return values[back.reshape(steps.shape)]
