"""The dense network against a float64 NumPy oracle and central differences, and the refusals in words."""

import itertools
import re

import numpy as np
import pytest

from edge_runtime import _kernels

LOSSES = ["softmax_cross_entropy", "mse"]
SHAPES = [([1, 1], ["identity"]), ([3, 2], ["tanh"]), ([9, 17, 5, 3], ["relu", "tanh", "identity"])]


def dense(widths, activations, loss):
    """A dense network over ``widths``, one activation after each step between them."""
    layers = []
    for units, activation in zip(widths[1:], activations, strict=True):
        layers += [{"type": "dense", "units": units}] + [{"type": activation}] * (activation != "identity")
    return _kernels.Network((widths[0],), layers, loss)


def tensors(widths, params):
    """The (W, b) of each layer, cut from the flat buffer by the layout's rule, written anew."""
    at, layers = 0, []
    for inputs, outputs in itertools.pairwise(widths):
        w = params[at : at + outputs * inputs].reshape(inputs, outputs)
        b = params[at + outputs * inputs : at + outputs * inputs + outputs]
        layers.append((w, b))
        at += outputs * inputs + outputs
    return layers


ACTIVATIONS = {
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


def oracle(widths, activations, loss, params, x, y):
    """(outputs, mean loss, its gradient (P,)) in float64."""
    params, a = params.astype(np.float64), x.astype(np.float64)
    layers, inputs, sums = tensors(widths, params), [], []
    for (w, b), name in zip(layers, activations, strict=True):
        inputs.append(a)
        sums.append(a @ w + b)
        a = ACTIVATIONS[name][0](sums[-1])
    n = len(x)
    if loss == "mse":
        value, da = np.mean((a - y) ** 2), 2 * (a - y) / a.size
    else:
        p = np.exp(a - a.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        value, da = -np.mean(np.log(p[np.arange(n), y])), (p - np.eye(a.shape[1])[y]) / n
    grads = []
    for (w, _), name, z, a_in in reversed(list(zip(layers, activations, sums, inputs, strict=True))):
        dz = da * ACTIVATIONS[name][1](z)
        grads.append(np.concatenate([(a_in.T @ dz).ravel(), dz.sum(axis=0)]))
        da = dz @ w.T
    return a, value, np.concatenate(grads[::-1])


def problem(widths, loss, batch, seed=0):
    rng = np.random.default_rng(seed)
    count = sum(o * i + o for i, o in itertools.pairwise(widths))
    params = (rng.standard_normal(count) * 0.5).astype(np.float32)
    x = rng.standard_normal((batch, widths[0])).astype(np.float32)
    if loss == "mse":
        return params, x, rng.standard_normal((batch, widths[-1])).astype(np.float32)
    return params, x, rng.integers(0, widths[-1], batch).astype(np.int32)


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 600])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("widths", "activations"), SHAPES)
def test_outputs_loss_and_gradient_match_the_numpy_oracle(widths, activations, loss, batch):
    net = dense(widths, activations, loss)
    params, x, y = problem(widths, loss, batch)
    outputs, value, gradient = oracle(widths, activations, loss, params, x, y)
    out = np.full(net.parameter_count, np.nan, np.float32)
    np.testing.assert_allclose(net.predict(params, x), outputs, rtol=2e-5, atol=2e-6)
    assert net.loss(params, x, y) == pytest.approx(value, rel=1e-5, abs=1e-7)
    assert net.gradient(params, x, y, out) == pytest.approx(value, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(out, gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_oracle_itself_matches_central_differences(loss):
    widths, activations = [4, 6, 3], ["tanh", "identity"]
    params, x, y = problem(widths, loss, 5)
    params = params.astype(np.float64)
    gradient = oracle(widths, activations, loss, params, x, y)[2]
    for i in range(len(params)):
        step = np.zeros_like(params)
        step[i] = 1e-6
        above = oracle(widths, activations, loss, params + step, x, y)[1]
        below = oracle(widths, activations, loss, params - step, x, y)[1]
        assert gradient[i] == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-8)


def test_layout_is_weight_then_bias_layer_by_layer():
    net = dense([3, 4, 2], ["relu", "identity"], "mse")
    assert net.layout() == [
        ("0.weight", 0, (3, 4)),
        ("0.bias", 12, (4,)),
        ("2.weight", 16, (4, 2)),
        ("2.bias", 24, (2,)),
    ]
    assert net.parameter_count == 26


def test_a_rows_output_does_not_depend_on_its_batch():
    net = dense([13, 9, 4], ["tanh", "identity"], "softmax_cross_entropy")
    params, x, _ = problem([13, 9, 4], "softmax_cross_entropy", 601)
    whole = net.predict(params, x)
    for rows in (slice(0, 1), slice(7, 10), slice(255, 258), slice(600, 601)):
        np.testing.assert_array_equal(net.predict(params, x[rows]), whole[rows])


def test_huge_logits_give_a_finite_loss_and_gradient():
    net = dense([1, 2], ["identity"], "softmax_cross_entropy")
    params = np.array([3e38, -3e38, 0, 0], np.float32)
    x, y, out = np.ones((1, 1), np.float32), np.array([1], np.int32), np.empty(4, np.float32)
    assert net.gradient(params, x, y, out) == pytest.approx(6e38, rel=1e-6)
    np.testing.assert_array_equal(out, [1, -1, 1, -1])


def test_nan_inputs_show_in_the_output_even_behind_a_relu():
    net = dense([2, 3], ["relu"], "mse")
    assert np.isnan(net.predict(np.ones(9, np.float32), np.array([[np.nan, 1]], np.float32))).all()


def test_workspace_grows_with_the_batch():
    net = dense([561, 64, 32, 6], ["relu", "relu", "identity"], "softmax_cross_entropy")
    assert 4 * 2 * net.parameter_count < net.workspace_bytes(1) < net.workspace_bytes(64) < 1_000_000


@pytest.mark.parametrize(
    ("shape", "layers", "loss", "words"),
    [
        ((3,), [], "mse", "want at least one layer; got none"),
        ((3,), [{"type": "gelu"}], "mse", "layer 0 (gelu): unknown type 'gelu'"),
        ((3,), [{"units": 2}], "mse", "layer 0: type is missing"),
        ((3,), [{"type": "dense"}], "mse", "layer 0 (dense): units is missing"),
        ((3,), [{"type": "dense", "units": 2, "unit": 1}], "mse", "layer 0 (dense): unknown key 'unit'"),
        ((3,), [{"type": "dense", "units": 2}], "mae", "mse, huber, hinge; got 'mae'"),
        ((3,), [{"type": "dense", "units": 0}], "mse", "layer 0 (dense): want units in [1, 1048576]; got 0"),
        ((0,), [{"type": "dense", "units": 2}], "mse", "want shape in [1, 16777216]; got 0"),
        ((), [{"type": "dense", "units": 2}], "mse", "want shape (I,), (T, C) or (H, W, C); got ()"),
        ((2**12, 2**12, 2**12), [{"type": "flatten"}], "mse", "want shape of at most 2**28 values"),
        ((2**20,), [{"type": "dense", "units": 2**20}], "mse", "at most 268435456 parameters; layer 0 brings more"),
        ((2**14,), [{"type": "dense", "units": 2**14}], "mse", "at most 268435456 parameters"),
        ((5, 3), [{"type": "dense", "units": 2}], "mse", "takes a vector; got (5, 3): put a flatten layer before it"),
        (
            (5, 1),
            [{"type": "relu"}, {"type": "embedding", "vocabulary": 3, "units": 2}],
            "mse",
            "whole numbers of the data",
        ),
        ((5,), [{"type": "batch_norm"}], "mse", "no gradient belongs to one example"),
        (
            (5,),
            [{"type": "dense", "units": 2}],
            {"type": "softmax_cross_entropy", "class_weights": [1.0]},
            "want one class weight for each of the 2 outputs; got 1",
        ),
    ],
)
def test_absurd_networks_are_refused_naming_value_and_bound(shape, layers, loss, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        _kernels.Network(shape, layers, loss)


def test_units_must_be_whole_numbers():
    with pytest.raises(TypeError, match=r"layer 0 \(dense\): want units a whole number; got 2\.5"):
        _kernels.Network((3,), [{"type": "dense", "units": 2.5}], "mse")


def valid():
    params, x, y = problem([4, 3], "softmax_cross_entropy", 5)
    return {"params": params, "x": x, "y": y, "out": np.empty_like(params)}


def changed(name, change):
    arguments = valid()
    arguments[name] = change(arguments[name])
    return arguments


def read_only(array):
    array.flags.writeable = False
    return array


def misaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("x", lambda a: a.astype(np.float64), TypeError, "want x (B, I=4) float32 C-contiguous; got (5, 4) float64"),
        ("x", lambda a: a.tolist(), TypeError, "want x (B, I=4) float32 C-contiguous; got list"),
        ("x", lambda a: a[:, :3].copy(), ValueError, "want x (B, I=4) float32 C-contiguous; got (5, 3) float32"),
        ("x", lambda a: a.ravel(), ValueError, "got (20,) float32"),
        ("x", lambda a: np.asfortranarray(a), ValueError, "(5, 4) float32, not C-contiguous"),
        ("x", lambda a: a.astype(">f4"), TypeError, "got (5, 4) >f4"),
        ("x", misaligned, ValueError, "not aligned"),
        ("x", lambda a: a[:0], ValueError, "at least 1 row; got 0"),
        ("y", lambda a: a.astype(np.int64), TypeError, "want y (B=5,) int32 C-contiguous; got (5,) int64"),
        ("y", lambda a: a[:4].copy(), ValueError, "want y (B=5,)"),
        ("y", lambda a: a * 0 + 3, ValueError, "want labels y in [0, 3); y[0] is 3"),
        ("y", lambda a: a * 0 - 1, ValueError, "want labels y in [0, 3); y[0] is -1"),
        ("params", lambda a: a[:-1].copy(), ValueError, "want params (P=15,)"),
        ("out", read_only, ValueError, "writable; got (15,) float32, read-only"),
    ],
)
def test_arguments_are_refused_in_words_and_never_cast(name, change, error, words):
    net = dense([4, 3], ["identity"], "softmax_cross_entropy")
    with pytest.raises(error, match=re.escape(words)):
        net.gradient(**changed(name, change))


def test_an_output_that_shares_memory_with_an_input_is_refused():
    net = dense([4, 3], ["identity"], "softmax_cross_entropy")
    arguments = valid()
    with pytest.raises(ValueError, match="out shares memory with params"):
        net.gradient(arguments["params"], arguments["x"], arguments["y"], arguments["params"])
