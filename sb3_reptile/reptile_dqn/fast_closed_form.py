"""The closed form with kernels that round differently: oneDNN's linear layers and PyTorch's fused Adam."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_reptile.reptile_dqn.closed_form import AdamSettings, ClosedForm, Layers

# Products of at least this number of multiplications are faster by oneDNN, whose calls cost more
LARGE = 2**21
# Products so much higher than wide are faster by MKL if they are computed transposed
NARROW = 8
# A mean that decays by 0.9 in each step needs more steps than that from a negligible to a subnormal number
NEGLIGIBLE = 1e-25
STEPS_TO_SUBNORMAL = 256
FUSED_ADAM: dict[str, Any] = dict(weight_decay=0.0, amsgrad=False, maximize=False)

Linear = Callable[[th.Tensor, th.Tensor, th.Tensor | None, str, list[Any], str], th.Tensor]


@cache
def onednn_linear() -> Linear | None:
    """
    oneDNN's linear layer. It is faster than MKL's ``addmm`` on processors with AVX-512, and slower on those without.
    PyTorch has it for compiled networks; it is not public, so that it is tried once.

    :return: A function ``(x, W, b, "none" or "relu", [], "")`` that returns ``x W^T + b``; None if there is none, or if
        it is slower
    """
    if th.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    try:
        linear: Linear = th.ops.mkldnn._linear_pointwise.default
        x, weight, bias = th.rand(3, 5), th.rand(5, 7).t(), th.rand(7)
        if not th.allclose(linear(x, weight, bias, "relu", [], ""), (x @ weight.t() + bias).relu(), atol=1e-5):
            return None
    except (AttributeError, RuntimeError, TypeError):
        return None
    return linear


class FastLayers(Layers):
    """:class:`~sb3_reptile.reptile_dqn.closed_form.Layers` in which oneDNN multiplies large matrices."""

    def __init__(self, parameters: Sequence[th.Tensor]) -> None:
        super().__init__(parameters)
        self._largest = max(weight.numel() for weight in self.weights)

    def q_values(self, observations: th.Tensor) -> th.Tensor:
        n = observations.shape[0]
        linear = onednn_linear()
        if linear is None or n * self._largest < LARGE:
            return super().q_values(observations)
        hidden, outputs = observations, self.outputs(n)
        last = len(outputs) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if n * weight.numel() >= LARGE:
                outputs[k] = hidden = linear(hidden, weight, bias, "none" if k == last else "relu", [], "")
            else:
                hidden = th.addmm(bias, hidden, self.transposed[k], out=outputs[k])
                if k < last:
                    hidden.relu_()
        return hidden


class FastClosedForm(ClosedForm):
    """:class:`~sb3_reptile.reptile_dqn.closed_form.ClosedForm` by oneDNN and PyTorch's fused Adam."""

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float) -> None:
        super().__init__(parameters, max_grad_norm)
        self._step = th.zeros(())

    def _layers(self) -> Layers:
        return FastLayers(self.values.views)

    @staticmethod
    def _matmul(a: th.Tensor, b: th.Tensor, out: th.Tensor) -> th.Tensor:
        if a.shape[0] * b.numel() >= LARGE and (linear := onednn_linear()) is not None:
            return out.copy_(linear(a, b.t(), None, "none", [], ""))
        if b.shape[1] * NARROW <= a.shape[0]:
            return out.copy_(th.mm(b.t(), a.t()).t())
        return th.mm(a, b, out=out)

    def _adam(self, settings: AdamSettings) -> None:
        if self.step % STEPS_TO_SUBNORMAL == 0:
            # Means of gradients that have long been 0 become subnormal numbers, which are slow
            th.hardshrink(self.means.flat, NEGLIGIBLE, out=self.means.flat)
        lr, beta1, beta2, eps = settings
        th._fused_adam_(
            [self.values.flat],
            [self.gradients.flat],
            [self.means.flat],
            [self.squares.flat],
            [],
            [self._step.fill_(self.step)],
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            **FUSED_ADAM,
        )


class Repetitions:
    """Finds numbers that repeat, in O(n), by a table of all numbers that is kept."""

    def __init__(self) -> None:
        self._places = np.empty(0, dtype=np.int64)

    def find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        :param numbers: Whole numbers >= 0, int64, at least one
        :return: Where distinct ones are among them, each once, and which of these each number is
        """
        largest = int(numbers.max())
        if largest >= len(self._places):
            self._places = np.empty(2 * largest + 1, dtype=np.int64)
        places, order = self._places, np.arange(len(numbers))
        # Whichever is written last stays
        places[numbers] = order
        where = np.flatnonzero(places[numbers] == order)
        places[numbers[where]] = order[: len(where)]
        return where, places[numbers]
