"""Updates of a Q-network of linear layers and ReLU in closed form, with the operators that autograd would call."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn

# Bytes: every parameter begins at a multiple of it, as a tensor of its own would, so that vectorized loops treat its
# elements in the same groups
ALIGNMENT = 64
SMALLEST_NORMAL = th.finfo(th.float32).tiny


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
        if adopt:
            for view, parameter in zip(self.views, parameters, strict=True):
                view.copy_(parameter.data)
                parameter.data = view

    def hold(self, tensors: Sequence[th.Tensor]) -> bool:
        """
        :param tensors: Tensors, in the order of the parameters
        :return: Whether they are still the views
        """
        return all(a.data_ptr() == b.data_ptr() for a, b in zip(self.views, tensors, strict=True))


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


class ClosedForm:
    r"""
    A Q-network :math:`h_0 = s,\; h_k = \max(0, h_{k-1} W_k^T + b_k),\; Q = h_{K-1} W_K^T + b_K`, trained by Adam on
    :math:`L = \frac{1}{n} \sum_i w_i \, \ell(Q(s_i, a_i) - y_i)`.

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
    :param fused: Whether Adam uses PyTorch's fused kernel, which rounds differently
    """

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float, fused: bool = False) -> None:
        self.parameters = list(parameters)
        self.max_grad_norm = max_grad_norm
        self.fused = fused
        self.values = FlatParameters(self.parameters, adopt=True)
        self.gradients = FlatParameters(self.parameters, adopt=False)
        self.means = FlatParameters(self.parameters, adopt=False)
        self.squares = FlatParameters(self.parameters, adopt=False)
        self._denominator = th.empty_like(self.values.flat)
        self._one = th.ones((), dtype=self.values.flat.dtype)
        #: Number of updates so far, as Adam counts them
        self.step = 0
        self._outputs: list[th.Tensor] = []
        self._deltas: list[th.Tensor] = []

    def _allocate(self, n: int) -> None:
        """Make room for a batch of ``n``."""
        if not self._outputs or len(self._outputs[0]) != n:
            biases = self.values.views[1::2]
            self._outputs = [bias.new_empty(n, len(bias)) for bias in biases]
            self._deltas = [bias.new_empty(n, len(bias)) for bias in biases]

    def q_values(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape (n, d)
        :return: ``Q(s, .)``, shape (n, n_actions); valid until the next call
        """
        self._allocate(len(observations))
        return forward(self.values.views, observations, self._outputs)

    def update(
        self,
        observations: th.Tensor,
        actions: th.Tensor,
        targets: th.Tensor,
        weights: th.Tensor | None,
        loss: str,
        adam: AdamSettings,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        One step of gradient descent.

        :param observations: Shape (n, d)
        :param actions: int64, shape (n, 1)
        :param targets: TD targets, shape (n, 1)
        :param weights: Weights of the losses, shape (n, 1); None if all are 1
        :param loss: ``"huber"`` or ``"mse"``
        :param adam: Settings of the optimizer
        :return: The errors ``Q(s, a) - target``, shape (n, 1), and the loss, a scalar
        """
        errors = self.q_values(observations).gather(1, actions) - targets
        losses, slopes = LOSSES[loss](errors)
        if weights is not None:
            losses = losses * weights
        share = self._one / len(errors)
        self._backward(observations, actions, slopes * (share if weights is None else share * weights))
        self._clip()
        self._adam(adam)
        return errors, losses.mean()

    def _backward(self, observations: th.Tensor, actions: th.Tensor, slopes: th.Tensor) -> None:
        inputs = [observations, *self._outputs[:-1]]
        delta = self._deltas[-1].zero_().scatter_add_(1, actions, slopes)
        for k in range(len(inputs) - 1, -1, -1):
            th.mm(delta.t(), inputs[k], out=self.gradients.views[2 * k])
            th.sum(delta, 0, out=self.gradients.views[2 * k + 1])
            if k > 0:
                before = self._deltas[k - 1]
                th.mm(delta, self.values.views[2 * k], out=before)
                delta = th.ops.aten.threshold_backward.grad_input(before, inputs[k], 0, grad_input=before)

    def _clip(self) -> None:
        """``clip_grad_norm_``, which multiplies by exactly 1 unless the norm reaches its maximum."""
        flat = self.gradients.flat
        # The sum of squares by another order of additions, hence the margin; NaN does not pass
        if math.sqrt(max(float(flat.dot(flat)), 0.0)) < 0.99 * self.max_grad_norm:
            return
        norm = th.linalg.vector_norm(th.stack(th._foreach_norm(self.gradients.views, 2.0)), 2.0)
        flat.mul_(th.clamp(self.max_grad_norm / (norm + 1e-6), max=1.0))

    def _adam(self, settings: AdamSettings) -> None:
        """``torch.optim.Adam`` without fused or foreach kernels, operator by operator; or its fused kernel."""
        lr, beta1, beta2, eps = settings
        self.step += 1
        gradient, mean, square = self.gradients.flat, self.means.flat, self.squares.flat
        if self.fused:
            values, step = [self.values.flat], [th.tensor(float(self.step))]
            off: dict[str, Any] = dict(weight_decay=0.0, amsgrad=False, maximize=False)
            th._fused_adam_(
                values, [gradient], [mean], [square], [], step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, **off
            )
            return
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # Roots of zero and subnormal numbers are slow, and eps, if it is not tiny, is the same to the last bit beside
        # the root of the smallest normal number
        root_of = th.clamp_min(square, SMALLEST_NORMAL, out=self._denominator) if eps >= 1e-10 else square
        th.sqrt(root_of, out=self._denominator)
        self._denominator.div_((1 - beta2**self.step) ** 0.5).add_(eps)
        self.values.flat.addcdiv_(mean, self._denominator, value=-lr / (1 - beta1**self.step))


def forward(parameters: Sequence[th.Tensor], observations: th.Tensor, outputs: Sequence[th.Tensor]) -> th.Tensor:
    """
    :param parameters: Weight and bias of each layer, not requiring gradients
    :param observations: Shape (n, d)
    :param outputs: Where the output of each layer goes, shape (n, width)
    :return: The last of them, the Q-values
    """
    hidden = observations
    for k, output in enumerate(outputs):
        hidden = th.addmm(parameters[2 * k + 1], hidden, parameters[2 * k].t(), out=output)
        if k < len(outputs) - 1:
            hidden.relu_()
    return hidden


def _huber(errors: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    size = errors.abs()
    return th.where(size < 1, 0.5 * errors * errors, size - 0.5), errors.clamp(-1, 1)


def _squared(errors: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    return errors * errors, 2 * errors


#: Losses by their names: of errors, the loss and its derivative
LOSSES: dict[str, Any] = {"huber": _huber, "mse": _squared}
