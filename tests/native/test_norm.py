"""Group and layer normalization against their definition in NumPy, central differences and, where it is installed,
PyTorch.
"""

import numpy as np
import pytest

from edge_runtime import _kernels

EPSILON = 1e-3


def normalized(x, axes):
    mean = x.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + EPSILON)


def group_norm(groups):
    def output(w, x):  # (B, positions, channels)
        channels = x.shape[2]
        apart = x.reshape(*x.shape[:2], groups, channels // groups)
        return normalized(apart, (1, 3)).reshape(x.shape) * w[:channels] + w[channels:]

    return output


def layer_norm(w, x):
    channels = x.shape[2]
    return normalized(x, (2,)) * w[:channels] + w[channels:]


CASES = {
    "one group of a sequence": ((5, 3), {"type": "group_norm", "groups": 1}, group_norm(1)),
    "groups of an image": ((2, 3, 8), {"type": "group_norm", "groups": 4}, group_norm(4)),
    "a group for each channel": ((6, 4), {"type": "group_norm", "groups": 4}, group_norm(4)),
    "wide groups": ((3, 38), {"type": "group_norm", "groups": 2}, group_norm(2)),
    "a vector": ((37,), {"type": "layer_norm"}, layer_norm),
    "each position of a sequence": ((4, 5), {"type": "layer_norm"}, layer_norm),
    "each pixel": ((2, 2, 19), {"type": "layer_norm"}, layer_norm),
}


def problem(name, batch=4, seed=0):
    """A network of the one layer, and inputs away from a mean of zero."""
    shape, layer, forward = CASES[name]
    net = _kernels.Network(shape, [{**layer, "epsilon": EPSILON}], "mse")
    rng = np.random.default_rng(seed)
    params = rng.standard_normal(net.parameter_count).astype(np.float32)
    x = (rng.standard_normal((batch, net.inputs)) * 0.5 + 3).astype(np.float32)
    y = rng.standard_normal((batch, net.outputs)).astype(np.float32)

    def output(w, rows=x):
        apart = rows.astype(np.float64).reshape(len(rows), -1, shape[-1])
        return forward(w.astype(np.float64), apart).reshape(len(rows), -1)

    return net, params, x, y, output


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_definition(name, reproducible, central_differences):
    net, params, x, y, output = problem(name)
    np.testing.assert_allclose(net.predict(params, x, reproducible=reproducible), output(params), rtol=1e-5, atol=1e-5)
    out = np.full_like(params, np.nan)
    net.gradient(params, x, y, out, reproducible=reproducible)
    want = central_differences(lambda w: ((output(w) - y) ** 2).mean(), params)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", CASES)
def test_norms_are_those_of_each_examples_definition(name, norm, central_differences):
    net, params, x, y, output = problem(name)
    gradients = np.array(
        [
            central_differences(lambda w, b=b: ((output(w, x[b : b + 1]) - y[b]) ** 2).mean(), params)
            for b in range(len(x))
        ]
    )
    want = np.linalg.norm(gradients, 1 if norm == "l1" else 2, axis=1)
    bound = float(np.median(want))
    out = np.empty_like(params)
    np.testing.assert_allclose(net.clipped_gradient(params, x, y, out, bound=bound, norm=norm)[0], want, rtol=1e-4)
    clipped = (gradients * np.minimum(1, bound / want)[:, None]).sum(axis=0)
    np.testing.assert_allclose(out, clipped, rtol=1e-4, atol=1e-5 * bound)


@pytest.mark.parametrize("name", CASES)
def test_slopes_pass_through_to_the_layer_below(name, central_differences):
    shape, layer, forward = CASES[name]
    net = _kernels.Network(shape, [{**layer, "epsilon": EPSILON}] * 2, "mse")
    rng = np.random.default_rng(1)
    params = rng.standard_normal(net.parameter_count).astype(np.float32)
    x, y = rng.standard_normal((2, 3, net.inputs)).astype(np.float32)
    lower, upper = slice(0, net.parameter_count // 2), slice(net.parameter_count // 2, None)

    def loss(w):
        below = forward(w[lower], x.astype(np.float64).reshape(3, -1, shape[-1]))
        return ((forward(w[upper], below).reshape(3, -1) - y) ** 2).mean()

    out = np.empty_like(params)
    net.gradient(params, x, y, out)
    np.testing.assert_allclose(out, central_differences(loss, params), rtol=1e-4, atol=1e-5)


def test_fresh_parameters_change_nothing_but_the_scale():
    net = _kernels.Network((4, 6), [{"type": "group_norm", "groups": 2}], "mse")
    assert net.layout() == [("0.weight", 0, (6,)), ("0.bias", 6, (6,))]
    assert net.initial() == [(0, 6, 0.0, 1.0), (6, 6, 0.0, 0.0)]


@pytest.mark.parametrize("name", CASES)
def test_pytorch_agrees(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net, params, x, y, _ = problem(name)
    shape, layer, _ = CASES[name]
    channels = shape[-1]
    if layer["type"] == "layer_norm":
        peer = torch.nn.LayerNorm(channels, eps=EPSILON)
    else:
        peer = torch.nn.GroupNorm(layer["groups"], channels, eps=EPSILON)
    with torch.no_grad():
        peer.weight.copy_(torch.from_numpy(params[:channels].copy()))
        peer.bias.copy_(torch.from_numpy(params[channels:].copy()))
    apart = torch.from_numpy(x.reshape(len(x), -1, channels))
    output = peer(apart) if layer["type"] == "layer_norm" else peer(apart.transpose(1, 2)).transpose(1, 2)
    output = output.reshape(len(x), -1)
    torch.nn.functional.mse_loss(output, torch.from_numpy(y)).backward()
    np.testing.assert_allclose(net.predict(params, x), output.detach().numpy(), rtol=1e-5, atol=1e-5)
    out = np.empty_like(params)
    net.gradient(params, x, y, out)
    want = np.concatenate([peer.weight.grad.numpy(), peer.bias.grad.numpy()])
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "layer", "words"),
    [
        ((5, 6), {"type": "group_norm", "groups": 4}, "6 channels in 4 groups"),
        ((5, 6), {"type": "group_norm", "groups": 0}, r"want groups in \[1, \d+\]; got 0"),
        ((6,), {"type": "group_norm", "groups": 6}, "more than one value a group"),
        ((5, 1), {"type": "layer_norm"}, "more than one channel"),
        ((5, 6), {"type": "layer_norm", "epsilon": 0.0}, "want epsilon"),
    ],
)
def test_shapes_that_cannot_work_are_refused_in_words(shape, layer, words):
    with pytest.raises(ValueError, match=words):
        _kernels.Network(shape, [layer], "mse")
