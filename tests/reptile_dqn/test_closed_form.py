"""The closed form: its gradient against autograd, and each of its operators against the one that autograd calls."""

import itertools

import pytest
import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_reptile.reptile_dqn.closed_form import AdamSettings, ClosedForm, FlatParameters, mean_losses
from sb3_reptile.reptile_dqn.fast_closed_form import FastClosedForm, onednn_linear

SHAPES = [[4, 2], [4, 64, 64, 2], [3, 7, 5], [8, 33, 65, 17, 3], [10, 256, 1]]
ADAM = AdamSettings(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)


def network(sizes, dtype=th.float32):
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, dtype=dtype), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batch(sizes, n, dtype=th.float32):
    return th.randn(n, sizes[0], dtype=dtype), th.randint(0, sizes[-1], (n, 1)), 2 * th.randn(n, 1, dtype=dtype)


def loss_of(net, observations, actions, targets, weights, loss):
    values = net(observations).gather(1, actions)
    losses = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}[loss](values, targets, reduction="none")
    return (losses * weights).mean()


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("loss", ["huber", "mse"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_the_gradient_is_that_of_autograd(sizes, loss, is_weighted):
    th.manual_seed(0)
    net = network(sizes, th.float64)
    closed_form = ClosedForm(list(net.parameters()), max_grad_norm=1e9)
    observations, actions, targets = batch(sizes, 33, th.float64)
    weights = th.rand(33, 1, dtype=th.float64) if is_weighted else th.ones(33, 1, dtype=th.float64)
    expected = loss_of(net, observations, actions, targets, weights, loss)
    expected.backward()
    with th.no_grad():
        given = weights if is_weighted else None
        errors = closed_form.update(observations, actions, targets, given, loss, ADAM._replace(lr=0.0))
        assert mean_losses([errors], given, loss)[0] == pytest.approx(expected.item(), rel=1e-12)
        assert th.allclose(errors, net(observations).gather(1, actions) - targets, rtol=1e-12)
    for gradient, parameter in zip(closed_form.gradients.views, net.parameters(), strict=True):
        assert th.allclose(gradient, parameter.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("max_grad_norm", [1e-3, 0.5, 1e9, float("inf")])
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_updates_are_those_of_pytorch_bit_for_bit(sizes, n_threads, max_grad_norm):
    before = th.get_num_threads()
    th.set_num_threads(n_threads)
    try:
        th.manual_seed(1)
        ours, theirs = network(sizes), network(sizes)
        theirs.load_state_dict(ours.state_dict())
        closed_form = ClosedForm(list(ours.parameters()), max_grad_norm)
        adam = th.optim.Adam(theirs.parameters(), lr=ADAM.lr)
        for step in range(6):
            observations, actions, targets = batch(sizes, 32)
            weights = th.rand(32, 1) if step % 2 else th.ones(32, 1)
            loss = "huber" if step < 3 else "mse"
            with th.no_grad():
                closed_form.update(observations, actions, targets, weights if step % 2 else None, loss, ADAM)
            adam.zero_grad()
            loss_of(theirs, observations, actions, targets, weights, loss).backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm)
            adam.step()
            for k, parameter in enumerate(theirs.parameters()):
                state = adam.state[parameter]
                assert th.equal(closed_form.gradients.views[k], parameter.grad), f"gradient {k}, step {step}"
                assert th.equal(closed_form.means.views[k], state["exp_avg"]), f"lerp_ differs, step {step}"
                assert th.equal(closed_form.squares.views[k], state["exp_avg_sq"]), f"addcmul_ differs, step {step}"
                assert th.equal(list(ours.parameters())[k], parameter), f"addcdiv_ differs, step {step}"
    finally:
        th.set_num_threads(before)


# What autograd calls, and what the closed form calls: a processor on which they differ is named by its operator
def _linear(x, w, b):
    return F.linear(x, w, b), th.addmm(b, x, w.t(), out=th.empty(len(x), len(b)))


def _weight_gradient(x, w, b):
    w = w.clone().requires_grad_()
    out = F.linear(x, w, b)
    delta = th.randn_like(out)
    return th.autograd.grad(out, w, delta)[0], th.mm(delta.t(), x, out=th.empty_like(w))


def _bias_gradient(x, w, b):
    b = b.clone().requires_grad_()
    out = F.linear(x, w, b)
    delta = th.randn_like(out)
    return th.autograd.grad(out, b, delta)[0], th.sum(delta, 0, out=th.empty_like(b))


def _input_gradient(x, w, b):
    x = x.clone().requires_grad_()
    out = F.linear(x, w, b)
    delta = th.randn_like(out)
    return th.autograd.grad(out, x, delta)[0], th.mm(delta, w, out=th.empty_like(x))


def _relu_gradient(x, w, b):
    x = x.clone().requires_grad_()
    out = F.relu(x)
    delta = th.randn_like(out)
    ours = delta.clone()
    th.ops.aten.threshold_backward.grad_input(ours, out.detach(), 0, grad_input=ours)
    return th.autograd.grad(out, x, delta)[0], ours


def _relu(x, w, b):
    return F.relu(x), x.clone().relu_()


OPERATORS = [_linear, _weight_gradient, _bias_gradient, _input_gradient, _relu_gradient, _relu]


@pytest.mark.parametrize("n", [1, 32, 100])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__.strip("_"))
def test_operators_are_those_that_autograd_calls(operator, n):
    th.manual_seed(2)
    for width in (2, 7, 64, 257):
        for height in (2, 33, 256):
            theirs, ours = operator(th.randn(n, width), th.randn(height, width), th.randn(height))
            assert th.equal(theirs, ours), f"{operator.__name__} differs at {n} x {width} x {height}"


def test_parameters_begin_at_multiples_of_64_bytes_and_keep_their_values():
    parameters = [nn.Parameter(th.arange(n, dtype=th.float32)) for n in (1, 17, 16, 100)]
    values = [parameter.detach().clone() for parameter in parameters]
    flat = FlatParameters(parameters, adopt=True)
    for parameter, value in zip(parameters, values, strict=True):
        assert th.equal(parameter, value)
        assert parameter.data_ptr() % 64 == 0
    assert flat.hold(parameters)
    assert flat.flat.sum() == sum(value.sum() for value in values)
    parameters[2].data = parameters[2].data.clone()
    assert not flat.hold(parameters)


@pytest.fixture(params=["AVX512", "AVX2"])
def processor(request, monkeypatch):
    """A processor with, or without, the vectors with which oneDNN is faster than MKL."""
    monkeypatch.setattr(th.backends.cpu, "get_cpu_capability", lambda: request.param)
    onednn_linear.cache_clear()
    yield request.param
    onednn_linear.cache_clear()


@pytest.mark.parametrize("sizes", [[4, 64, 64, 2], [4, 256, 256, 2], [300, 256, 3]], ids=str)
def test_the_fast_closed_form_differs_by_rounding_only(sizes, processor):
    th.manual_seed(3)
    exact, fast = network(sizes), network(sizes)
    fast.load_state_dict(exact.state_dict())
    learners = [ClosedForm(list(exact.parameters()), 10), FastClosedForm(list(fast.parameters()), 10)]
    for _ in range(20):
        data = batch(sizes, 64)
        with th.no_grad():
            for learner in learners:
                learner.update(*data, None, "huber", ADAM)
    assert learners[0].step == learners[1].step == 20
    difference = (learners[0].values.flat - learners[1].values.flat).abs().max().item()
    assert 0 < difference < 1e-4
    for ours, theirs in zip(learners[1].gradients.views, learners[0].gradients.views, strict=True):
        assert th.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_onednn_is_used_where_it_is_faster(processor):
    assert onednn_linear() is onednn_linear()
    assert (onednn_linear() is not None) == (processor == "AVX512")


@pytest.mark.parametrize("processor", ["AVX512"], indirect=True)
def test_without_onednn_the_fast_closed_form_uses_mkl(monkeypatch, processor):
    monkeypatch.setattr(th.ops.mkldnn, "_linear_pointwise", None)
    assert onednn_linear() is None
    test_the_fast_closed_form_differs_by_rounding_only([4, 256, 256, 2], processor)
