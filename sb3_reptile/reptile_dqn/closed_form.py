"""Updates of a Q-network of linear layers and ReLU in closed form, with the operators that autograd would call."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch as th
from torch import nn
from torch.nn import functional as F

# Bytes: every parameter begins at a multiple of it, as if it were a separate tensor, so that vectorized loops treat its
# elements in the same groups
ALIGNMENT = 64
# The fewest elements that PyTorch gives to a thread
PER_THREAD = 2**15
# Sizes of batches for which outputs are kept: there are few that return, and any number of others
MOST_SIZES = 8
SMALLEST_NORMAL = th.finfo(th.float32).tiny
_RELU_BACKWARD = th.ops.aten.threshold_backward.grad_input


class FlatParameters:
    """
    Parameters as views of one tensor, in their order, each at a multiple of 64 bytes; what lies between is 0.

    :param parameters: The parameters, of one type, on one device
    :param adopt: Whether they become views of the tensor. Otherwise the views only have their shapes, and are 0.
    """

    def __init__(self, parameters: Sequence[th.Tensor], adopt: bool) -> None:
        step = ALIGNMENT // parameters[0].element_size()
        offsets = [0]
        for parameter in parameters:
            offsets.append(offsets[-1] + math.ceil(parameter.numel() / step) * step)
        self.flat = th.zeros(offsets[-1], dtype=parameters[0].dtype, device=parameters[0].device)
        self.views = [
            self.flat[start : start + parameter.numel()].view(parameter.shape)
            for start, parameter in zip(offsets, parameters, strict=False)
        ]
        self._addresses = [view.data_ptr() for view in self.views]
        if adopt:
            for view, parameter in zip(self.views, parameters, strict=True):
                view.copy_(parameter.data)
                parameter.data = view

    def hold(self, tensors: Sequence[th.Tensor]) -> bool:
        """
        :param tensors: Tensors, in the order of the parameters
        :return: Whether they are still the views
        """
        # Of a copy of this object, the addresses are those of the original
        is_original = self.flat.data_ptr() == self._addresses[0]
        return is_original and [tensor.data_ptr() for tensor in tensors] == self._addresses


class AdamSettings(NamedTuple):
    """
    The settings of PyTorch's Adam (https://arxiv.org/abs/1412.6980).

    :param lr: Learning rate
    :param beta1: Decay rate of the mean of the gradient
    :param beta2: Decay rate of the mean of its square
    :param eps: Added to the root of that mean
    """

    lr: float
    beta1: float
    beta2: float
    eps: float


class Layers:
    r"""
    A network :math:`h_0 = s,\; h_k = \max(0, h_{k-1} W_k^T + b_k),\; Q = h_{K-1} W_K^T + b_K`, by ``addmm``, which
    ``nn.Linear`` calls. Outputs are allocated once for each size of batch.

    :param parameters: Weight :math:`W_k` and bias :math:`b_k` of each layer, in the order :math:`W_1, b_1, W_2, \dots`,
        not requiring gradients
    """

    def __init__(self, parameters: Sequence[th.Tensor]) -> None:
        self.weights = list(parameters[0::2])
        self.biases = list(parameters[1::2])
        self.transposed = [weight.t() for weight in self.weights]
        self._outputs: dict[int, list[th.Tensor]] = {}

    def outputs(self, n: int) -> list[th.Tensor]:
        """
        :param n: Size of a batch
        :return: Where the output of each layer goes, shape (n, width)
        """
        if n not in self._outputs:
            if len(self._outputs) == MOST_SIZES:
                self._outputs.clear()
            self._outputs[n] = [bias.new_empty(n, bias.numel()) for bias in self.biases]
        return self._outputs[n]

    def q_values(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape (n, d)
        :return: ``Q(s, .)``, shape (n, n_actions); valid until the next call
        """
        hidden = observations
        outputs = self.outputs(observations.shape[0])
        last = outputs[-1]
        for bias, weight, output in zip(self.biases, self.transposed, outputs, strict=True):
            th.addmm(bias, hidden, weight, out=output)
            hidden = output if output is last else output.relu_()
        return last


class ClosedForm:
    r"""
    :class:`Layers`, trained by Adam on :math:`L = \frac{1}{n} \sum_i w_i \, \ell(Q(s_i, a_i) - y_i)`.

    With :math:`D_K = \partial L / \partial Q`, which is :math:`w_i \ell' / n` at the action taken and 0 elsewhere,

    .. math::
        \nabla W_k = D_k^T h_{k-1}, \qquad \nabla b_k = \sum_i D_{k,i}, \qquad
        D_{k-1} = D_k W_k \cdot [h_{k-1} > 0]

    These are the very operators that autograd calls for ``nn.Linear`` and ``nn.ReLU`` (``addmm``; ``mm`` with the
    same operand transposed, ``sum`` over the batch, ``threshold_backward``), with outputs that are allocated once, so
    that results are equal bit for bit. Adam and the clipping of the gradient are PyTorch's, on one flat tensor instead
    of one for each parameter.

    :param parameters: Weight :math:`W_k` and bias :math:`b_k` of each layer, in the order :math:`W_1, b_1, W_2, \dots`;
        they become views of one tensor
    :param max_grad_norm: The maximum value for the gradient clipping
    """

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float) -> None:
        self.parameters = list(parameters)
        self.max_grad_norm = max_grad_norm
        self.values = FlatParameters(self.parameters, adopt=True)
        self.gradients = FlatParameters(self.parameters, adopt=False)
        self.means = FlatParameters(self.parameters, adopt=False)
        self.squares = FlatParameters(self.parameters, adopt=False)
        self.layers = self._layers()
        self._denominator = th.empty_like(self.values.flat)
        self._arrays = self.squares.flat.numpy(), self._denominator.numpy()
        #: Number of updates so far, as Adam counts them
        self.step = 0
        # Of each size of batch: the derivative of the loss by each layer's output, transposed too, and 1 / n
        self._deltas: dict[int, tuple[list[th.Tensor], list[th.Tensor], th.Tensor]] = {}

    def _layers(self) -> Layers:
        return Layers(self.values.views)

    def _allocated(self, n: int) -> tuple[list[th.Tensor], list[th.Tensor], th.Tensor]:
        if n not in self._deltas:
            deltas = [th.empty_like(output) for output in self.layers.outputs(n)]
            share = th.ones((), dtype=self.values.flat.dtype) / n
            self._deltas[n] = deltas, [delta.t() for delta in deltas], share
        return self._deltas[n]

    def update(
        self,
        observations: th.Tensor,
        actions: th.Tensor,
        targets: th.Tensor,
        weights: th.Tensor | None,
        loss: str,
        adam: AdamSettings,
    ) -> th.Tensor:
        """
        One step of gradient descent.

        :param observations: Shape (n, d)
        :param actions: int64, shape (n, 1)
        :param targets: TD targets, shape (n, 1)
        :param weights: Weights of the losses, shape (n, 1); None if all are 1
        :param loss: ``"huber"`` or ``"mse"``
        :param adam: Settings of the optimizer
        :return: The errors ``Q(s, a) - target``, shape (n, 1)
        """
        share = self._allocated(observations.shape[0])[2]
        errors = self.layers.q_values(observations).gather(1, actions).sub_(targets)
        slopes = errors.clamp(-1, 1) if loss == "huber" else 2 * errors
        self._backward(observations, actions, slopes.mul_(share if weights is None else share * weights))
        self._clip()
        self.step += 1
        self._adam(adam)
        return errors

    def _backward(self, observations: th.Tensor, actions: th.Tensor, slopes: th.Tensor) -> None:
        n = observations.shape[0]
        inputs = [observations, *self.layers.outputs(n)]
        deltas, transposed, _ = self._allocated(n)
        deltas[-1].zero_().scatter_add_(1, actions, slopes)
        for k in range(len(deltas) - 1, -1, -1):
            self._matmul(transposed[k], inputs[k], self.gradients.views[2 * k])
            th.sum(deltas[k], 0, out=self.gradients.views[2 * k + 1])
            if k > 0:
                before = self._matmul(deltas[k], self.layers.weights[k], deltas[k - 1])
                _RELU_BACKWARD(before, inputs[k], 0, grad_input=before)

    @staticmethod
    def _matmul(a: th.Tensor, b: th.Tensor, out: th.Tensor) -> th.Tensor:
        return th.mm(a, b, out=out)

    def _clip(self) -> None:
        """``clip_grad_norm_``, which multiplies by exactly 1 unless the norm reaches its maximum."""
        flat = self.gradients.flat
        # The sum of squares by another order of additions, hence the margin; NaN does not pass
        if math.sqrt(max(float(flat.dot(flat)), 0.0)) < 0.99 * self.max_grad_norm:
            return
        norm = th.linalg.vector_norm(th.stack(th._foreach_norm(self.gradients.views, 2.0)), 2.0)
        flat.mul_(th.clamp(self.max_grad_norm / (norm + 1e-6), max=1.0))

    def _adam(self, settings: AdamSettings) -> None:
        """``torch.optim.Adam`` without fused or foreach kernels, operator by operator."""
        lr, beta1, beta2, eps = settings
        gradient, mean, square, denominator = self.gradients.flat, self.means.flat, self.squares.flat, self._denominator
        # Sums, products and quotients are rounded correctly, so that NumPy's are the same, and faster on one thread;
        # PyTorch's roots are not
        is_one_thread = gradient.numel() <= PER_THREAD or th.get_num_threads() == 1
        operators, squares, roots = (np, *self._arrays) if is_one_thread else (th, square, denominator)
        mean.lerp_(gradient, 1 - beta1)
        operators.multiply(squares, beta2, out=squares)
        square.addcmul_(gradient, gradient, value=1 - beta2)
        # Roots of zero and subnormal numbers are slow, and eps, if it is not tiny, is the same to the last bit beside
        # the root of the smallest normal number
        root_of = th.clamp_min(square, SMALLEST_NORMAL, out=denominator) if eps >= 1e-10 else square
        th.sqrt(root_of, out=denominator)
        operators.divide(roots, (1 - beta2**self.step) ** 0.5, out=roots)
        operators.add(roots, eps, out=roots)
        self.values.flat.addcdiv_(mean, denominator, value=-lr / (1 - beta1**self.step))


def mean_losses(errors: Sequence[th.Tensor], weights: th.Tensor | None, loss: str) -> list[float]:
    """
    :param errors: ``Q(s, a) - target`` of each batch, shape (n, 1)
    :param weights: Weights of the losses of all batches, shape (n_batches * n, 1); None if all are 1
    :param loss: ``"huber"`` or ``"mse"``
    :return: The loss of each batch
    """
    all_errors = th.cat(list(errors)) if len(errors) > 1 else errors[0]
    if loss == "huber":
        losses = F.smooth_l1_loss(all_errors, th.zeros_like(all_errors), reduction="none")
    else:
        losses = all_errors * all_errors
    if weights is not None:
        losses *= weights
    means: list[float] = losses.view(len(errors), -1).mean(dim=1).tolist()
    return means
