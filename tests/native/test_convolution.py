"""Convolutions and pools against NumPy loops in float64, and against PyTorch where it is installed."""

import itertools

import numpy as np
import pytest

from edge_runtime import _kernels

FLATTEN = {"type": "flatten"}


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def windows(x, size, stride, padding, filling):
    """(B, OH, OW, KH, KW, C) windows of x (B, H, W, C), cut one by one."""
    (kh, kw), (sh, sw), (ph, pw) = size, stride, padding
    x = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=filling)
    rows, columns = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    found = np.empty((len(x), rows, columns, kh, kw, x.shape[3]))
    for h, w in itertools.product(range(rows), range(columns)):
        found[:, h, w] = x[:, h * sh : h * sh + kh, w * sw : w * sw + kw]
    return found


def oracle(layer, x, weight, bias):
    """The output (B, OH, OW, O) of one layer for x (B, H, W, C), in float64."""
    size = pair(layer.get("kernel", layer.get("size")))
    stride = pair(layer.get("stride", layer.get("size", 1)))
    padding = pair(layer.get("padding", 0))
    match layer["type"]:
        case "conv2d":
            return np.einsum("bhwijc,ijco->bhwo", windows(x, size, stride, padding, 0), weight) + bias
        case "depthwise_conv2d":
            return np.einsum("bhwijc,ijc->bhwc", windows(x, size, stride, padding, 0), weight) + bias
        case "max_pool":
            return windows(x, size, stride, padding, -np.inf).max(axis=(3, 4))
        case "average_pool":
            return windows(x, size, stride, padding, 0).mean(axis=(3, 4))


LAYERS = [
    {"type": "conv2d", "filters": 1, "kernel": 1},
    {"type": "conv2d", "filters": 17, "kernel": [3, 2], "padding": [2, 1]},
    {"type": "conv2d", "filters": 4, "kernel": [2, 5], "stride": [3, 2], "padding": [0, 2]},
    {"type": "conv2d", "filters": 33, "kernel": 3, "stride": 2, "padding": 1, "bias": False},
    {"type": "depthwise_conv2d", "kernel": 3, "padding": 1},
    {"type": "depthwise_conv2d", "kernel": [2, 4], "stride": [2, 3], "bias": False},
    {"type": "max_pool", "size": 2},
    {"type": "max_pool", "size": [3, 2], "stride": 1, "padding": 1},
    {"type": "average_pool", "size": [2, 3], "stride": [1, 2], "padding": [1, 0]},
]


def named(layer):
    return " ".join(str(part) for pair in layer.items() for part in pair if pair[0] != "type" or part != "type")


def problem(layer, channels, batch, shape=(6, 7)):
    net = _kernels.Network((*shape, channels), [layer, FLATTEN], "mse")
    rng = np.random.default_rng(channels + batch)
    params = rng.standard_normal(net.parameter_count).astype(np.float32)
    x = rng.standard_normal((batch, net.inputs)).astype(np.float32)
    return net, params, x, rng.standard_normal((batch, net.outputs)).astype(np.float32)


def tensors(net, params):
    """The weight and the bias of a network whose only parameters are those, by its layout."""
    found = [
        params[offset : offset + np.prod(shape)].reshape(shape).astype(np.float64) for _, offset, shape in net.layout()
    ]
    return [*found, np.float64(0), np.float64(0)][:2]


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 16, 17])
@pytest.mark.parametrize("layer", LAYERS, ids=named)
def test_outputs_are_those_of_the_loops(layer, channels, reproducible):
    net, params, x, _ = problem(layer, channels, 3)
    want = oracle(layer, x.reshape(3, 6, 7, channels), *tensors(net, params))
    assert net.shapes()[0] == want.shape[1:]
    got = net.predict(params, x, reproducible=reproducible)
    np.testing.assert_allclose(got, want.reshape(3, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if "conv" in layer["type"]], ids=named)
def test_gradients_are_central_differences_of_the_loops(layer):
    net, params, x, y = problem(layer, 3, 2)

    def loss(values):
        return np.mean((oracle(layer, x.reshape(2, 6, 7, 3), *tensors(net, values)).reshape(2, -1) - y) ** 2)

    got = np.empty_like(params)
    assert net.gradient(params, x, y, got) == pytest.approx(loss(params), rel=1e-5)
    for p in range(net.parameter_count):  # the loss is a parabola, so a difference over any step is its slope
        above, below = params.astype(np.float64), params.astype(np.float64)
        above[p] += 1
        below[p] -= 1
        assert got[p] == pytest.approx((loss(above) - loss(below)) / 2, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("pool", [layer for layer in LAYERS if "pool" in layer["type"]], ids=named)
def test_what_lies_under_a_pool_or_another_convolution_gets_its_gradient(pool):
    layers = [{"type": "depthwise_conv2d", "kernel": 1}, {"type": "conv2d", "filters": 2, "kernel": 2}, pool, FLATTEN]
    net = _kernels.Network((5, 6, 2), layers, "mse")
    rng = np.random.default_rng(4)
    params = rng.standard_normal(net.parameter_count).astype(np.float32)
    x = rng.standard_normal((3, net.inputs)).astype(np.float32)
    y = rng.standard_normal((3, net.outputs)).astype(np.float32)

    def loss(values):
        shaped = x.reshape(3, 5, 6, 2)
        for number in (0, 1):
            weight, bias = (
                values[offset : offset + np.prod(shape)].reshape(shape)
                for name, offset, shape in net.layout()
                if name.startswith(f"{number}.")
            )
            shaped = oracle(layers[number], shaped, weight, bias)
        return np.mean((oracle(pool, shaped, None, None).reshape(3, -1) - y) ** 2)

    got = np.empty_like(params)
    net.gradient(params, x, y, got)
    for p in range(net.parameter_count):
        above, below = params.astype(np.float64), params.astype(np.float64)
        above[p] += 1e-6  # so small that no maximum moves
        below[p] -= 1e-6
        assert got[p] == pytest.approx((loss(above) - loss(below)) / 2e-6, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("reproducible", [False, True])
def test_a_sequence_is_an_image_of_height_one(reproducible):
    rng = np.random.default_rng(5)
    sequence = [
        {"type": "conv1d", "filters": 5, "kernel": 3, "stride": 2, "padding": 1},
        {"type": "relu"},
        {"type": "depthwise_conv1d", "kernel": 2},
        {"type": "max_pool", "size": 2},
        {"type": "average_pool", "size": 2, "stride": 1},
        FLATTEN,
    ]
    image = [
        {"type": "conv2d", "filters": 5, "kernel": [1, 3], "stride": [1, 2], "padding": [0, 1]},
        {"type": "relu"},
        {"type": "depthwise_conv2d", "kernel": [1, 2]},
        {"type": "max_pool", "size": [1, 2]},
        {"type": "average_pool", "size": [1, 2], "stride": [1, 1]},
        FLATTEN,
    ]
    nets = [_kernels.Network((23, 2), sequence, "mse"), _kernels.Network((1, 23, 2), image, "mse")]
    params = rng.standard_normal(nets[0].parameter_count).astype(np.float32)
    x = rng.standard_normal((4, 46)).astype(np.float32)
    y = np.zeros((4, nets[0].outputs), np.float32)
    found = []
    for net in nets:
        gradient = np.empty_like(params)
        net.gradient(params, x, y, gradient, reproducible=reproducible)
        found.append((net.predict(params, x, reproducible=reproducible).tobytes(), gradient.tobytes()))
    assert nets[0].shapes()[0] == (12, 5)
    assert found[0] == found[1]


def test_nan_comes_through_a_maximum():
    net = _kernels.Network((4, 1), [{"type": "max_pool", "size": 2}, FLATTEN], "mse")
    x = np.array([[np.nan, 1, 2, 3], [1, np.nan, 3, 2]], np.float32)
    np.testing.assert_array_equal(net.predict(np.empty(0, np.float32), x), [[np.nan, 3], [np.nan, 3]])


@pytest.mark.parametrize(
    ("shape", "layer", "words"),
    [
        ((3, 1), {"type": "conv1d", "filters": 2, "kernel": 5}, "want a window of width at most 3.*got 5"),
        ((3, 3, 1), {"type": "conv2d", "filters": 2, "kernel": [4, 3]}, "want a window of height at most 3.*got 4"),
        ((3, 1), {"type": "conv1d", "filters": 2, "kernel": 2, "padding": 2}, r"padding.*in \[0, 1\]; got 2"),
        ((3, 1), {"type": "max_pool", "size": 2, "stride": 0}, "stride"),
        ((1 << 20, 1), {"type": "conv1d", "filters": 1 << 20, "kernel": 1}, "want an output of at most"),
    ],
)
def test_windows_that_do_not_fit_are_explained(shape, layer, words):
    with pytest.raises(ValueError, match=words):
        _kernels.Network(shape, [layer, FLATTEN], "mse")


def torch_step(torch, shape, layers, params, layout, x, y):
    """(logits, gradients in the layout's order) of PyTorch's own step."""
    functional = torch.nn.functional
    leaves = {
        name: torch.tensor(params[offset : offset + np.prod(shape_)].reshape(shape_), requires_grad=True)
        for name, offset, shape_ in layout
    }
    z = torch.tensor(x).reshape(len(x), *((1,) * (3 - len(shape))), *shape).permute(0, 3, 1, 2)
    for number, layer in enumerate(layers):
        weight, bias = leaves.get(f"{number}.weight"), leaves.get(f"{number}.bias")
        match layer["type"]:
            case "conv1d" | "conv2d":
                z = functional.conv2d(
                    z, weight.permute(3, 2, 0, 1), bias, stride=layer.get("stride", 1), padding=layer.get("padding", 0)
                )
            case "depthwise_conv2d":
                z = functional.conv2d(z, weight.permute(2, 0, 1)[:, None], bias, groups=z.shape[1])
            case "max_pool":
                z = functional.max_pool2d(z, layer["size"] if len(shape) == 3 else (1, layer["size"]))
            case "average_pool":
                z = functional.avg_pool2d(z, layer["size"], padding=layer["padding"])
            case "relu":
                z = functional.relu(z)
            case "flatten":
                z = z.permute(0, 2, 3, 1).flatten(1)
            case "dense":
                z = z @ weight + bias
    functional.cross_entropy(z, torch.tensor(y).long()).backward()
    return z.detach().numpy(), np.concatenate([leaf.grad.numpy().ravel() for leaf in leaves.values()])


RELU = {"type": "relu"}


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        (
            (187, 1),
            [
                {"type": "conv1d", "filters": 32, "kernel": 5},
                RELU,
                {"type": "max_pool", "size": 2},
                {"type": "conv1d", "filters": 64, "kernel": 5},
                RELU,
                {"type": "max_pool", "size": 2},
                FLATTEN,
                {"type": "dense", "units": 64},
                RELU,
                {"type": "dense", "units": 5},
            ],
        ),
        (
            (28, 28, 1),
            [
                {"type": "conv2d", "filters": 16, "kernel": 3},
                RELU,
                {"type": "max_pool", "size": 2},
                {"type": "conv2d", "filters": 32, "kernel": 3},
                RELU,
                {"type": "max_pool", "size": 2},
                FLATTEN,
                {"type": "dense", "units": 10},
            ],
        ),
        (
            (11, 13, 3),
            [
                {"type": "conv2d", "filters": 7, "kernel": [3, 4], "stride": [2, 3], "padding": [2, 1]},
                {"type": "depthwise_conv2d", "kernel": 2},
                {"type": "average_pool", "size": 2, "padding": 1},
                FLATTEN,
                {"type": "dense", "units": 3},
            ],
        ),
    ],
    ids=["sequence", "image", "uneven"],
)
def test_a_step_is_that_of_pytorch(shape, layers):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    net = _kernels.Network(shape, layers, "softmax_cross_entropy")
    rng = np.random.default_rng(6)
    params = (rng.standard_normal(net.parameter_count) * 0.1).astype(np.float32)
    x = rng.standard_normal((64, net.inputs)).astype(np.float32)
    y = rng.integers(0, net.outputs, 64).astype(np.int32)
    logits, gradient = torch_step(torch, shape, layers, params, net.layout(), x, y)
    got = np.empty_like(params)
    net.gradient(params, x, y, got)
    np.testing.assert_allclose(net.predict(params, x), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())
