"""Losses and activations through a network against NumPy in float64 and, where it is installed, PyTorch."""

import numpy as np
import pytest

from edge_runtime import _kernels

F = np.float32
B, OUT = 13, 4
WEIGHTS = [0.5, 2.0, 0.0, 1.25]
LOSSES = [
    {"type": "softmax_cross_entropy"},
    {"type": "softmax_cross_entropy", "class_weights": WEIGHTS},
    {"type": "binary_cross_entropy"},
    {"type": "mse"},
    {"type": "huber", "delta": 0.6},
    {"type": "hinge"},
]
ACTIVATIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
    "softplus": (lambda x: np.logaddexp(0, x), lambda x: 1 / (1 + np.exp(-x))),
}


def linear(loss, *above):
    """A network whose outputs are its parameters times its inputs: the gradient in the bias is that of the loss."""
    return _kernels.Network((OUT,), [{"type": "dense", "units": OUT}, *({"type": name} for name in above)], loss)


def identity(net):
    params = np.zeros(net.parameter_count, F)
    params[: OUT * OUT] = np.eye(OUT, dtype=F).ravel()
    return params


def case(loss, seed=5):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 2, (B, OUT)).astype(F)
    if loss["type"] == "softmax_cross_entropy":
        return y, rng.integers(0, OUT, B).astype(np.int32)
    if loss["type"] == "binary_cross_entropy":
        return y, rng.random((B, OUT)).astype(F)
    t = rng.normal(0, 2, (B, OUT)).astype(F)
    return y, np.sign(t) if loss["type"] == "hinge" else t


def value_and_slope(loss, y, t):
    """(B,) losses and (B, OUT) slopes in float64."""
    y = y.astype(np.float64)
    match loss["type"]:
        case "softmax_cross_entropy":
            p = np.exp(y - y.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            rows = np.arange(len(y))
            weight = np.array(loss.get("class_weights", [1.0] * OUT))[t]
            slope = p.copy()
            slope[rows, t] -= 1
            return -weight * np.log(p[rows, t]), slope * weight[:, None]
        case "binary_cross_entropy":
            value, slope = np.logaddexp(0, y) - t * y, 1 / (1 + np.exp(-y)) - t
        case "mse":
            value, slope = (y - t) ** 2, 2 * (y - t)
        case "huber":
            e, delta = y - t, loss["delta"]
            value = np.where(abs(e) <= delta, e * e / 2, delta * (abs(e) - delta / 2))
            slope = np.clip(e, -delta, delta)
        case "hinge":
            value, slope = np.maximum(0, 1 - t * y), np.where(1 - t * y > 0, -t, 0)
    return value.mean(axis=1), slope / OUT


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_every_loss_and_its_slope_follow_their_definition(loss, reproducible):
    net, (y, t) = linear(loss), case(loss)
    params, grad = identity(net), np.empty(linear(loss).parameter_count, F)
    value, slope = value_and_slope(loss, y, t)
    got = net.gradient(params, y, t, grad, reproducible=reproducible)
    assert got == pytest.approx(value.mean(), rel=1e-6)
    assert net.loss(params, y, t, reproducible=reproducible) == got
    np.testing.assert_allclose(grad[OUT * OUT :], slope.mean(axis=0), rtol=0, atol=2e-7)
    np.testing.assert_allclose(grad[: OUT * OUT].reshape(OUT, OUT), y.T @ slope / B, rtol=0, atol=1e-6)


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_and_its_slope_follow_their_definition(name, reproducible):
    loss = {"type": "mse"}
    net, (x, t) = linear(loss, name), case(loss)
    params, grad = identity(net), np.empty(linear(loss).parameter_count, F)
    function, derivative = ACTIVATIONS[name]
    y = function(x.astype(np.float64))
    np.testing.assert_allclose(net.predict(params, x, reproducible=reproducible), y, rtol=3e-7)
    net.gradient(params, x, t, grad, reproducible=reproducible)
    slope = 2 * (y - t) / OUT * derivative(x.astype(np.float64))
    np.testing.assert_allclose(grad[OUT * OUT :], slope.mean(axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_not_a_number_does_not_look_like_a_quiet_unit(name):
    net = linear({"type": "mse"}, name)
    x = np.zeros((3, OUT), F)
    x[1, 2] = np.nan
    y = net.predict(np.concatenate([np.eye(OUT, dtype=F).ravel(), np.zeros(OUT, F)]), x)
    assert np.isnan(y[1]).any()
    assert np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_every_loss_agrees_with_pytorch(loss):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    functional = torch.nn.functional
    y, t = case(loss)
    outputs = torch.from_numpy(y).requires_grad_()
    wanted = torch.from_numpy(t.astype(np.int64) if t.dtype == np.int32 else t)
    match loss["type"]:
        case "softmax_cross_entropy":
            weight = torch.tensor(loss.get("class_weights", [1.0] * OUT))
            value = functional.cross_entropy(outputs, wanted, weight=weight, reduction="sum") / B
        case "binary_cross_entropy":
            value = functional.binary_cross_entropy_with_logits(outputs, wanted)
        case "mse":
            value = functional.mse_loss(outputs, wanted)
        case "huber":
            value = functional.huber_loss(outputs, wanted, delta=loss["delta"])
        case "hinge":
            value = torch.relu(1 - wanted * outputs).mean()
    value.backward()
    net = linear(loss)
    grad = np.empty(net.parameter_count, F)
    assert net.gradient(identity(net), y, t, grad) == pytest.approx(value.item(), rel=1e-6)
    np.testing.assert_allclose(grad[OUT * OUT :], outputs.grad.numpy().sum(axis=0), rtol=0, atol=1e-6)
