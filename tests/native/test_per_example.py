"""Per-example clipping against the naive loop: norms, clipped sums, outliers, and gradients that are not finite."""

import re

import numpy as np
import pytest

from edge_runtime import _kernels

DENSE, RELU, TANH, FLATTEN = {"type": "dense", "units": 3}, {"type": "relu"}, {"type": "tanh"}, {"type": "flatten"}
NETWORKS = {
    "dense": ((9,), [{"type": "dense", "units": 7}, TANH, DENSE]),
    "dense without bias": ((9,), [{"type": "dense", "units": 7, "bias": False}, RELU, DENSE]),
    "smooth activations": (
        (9,),
        [DENSE | {"units": 6}, {"type": "sigmoid"}, DENSE | {"units": 5}, {"type": "softplus"}, DENSE],
    ),
    "conv1d": ((20, 2), [{"type": "conv1d", "filters": 5, "kernel": 3, "padding": 1}, TANH, FLATTEN, DENSE]),
    "two conv1d with pools": (
        (21, 1),
        [
            {"type": "conv1d", "filters": 4, "kernel": 3},
            RELU,
            {"type": "max_pool", "size": 2},
            {"type": "conv1d", "filters": 6, "kernel": 3, "stride": 2},
            {"type": "average_pool", "size": 2},
            FLATTEN,
            DENSE,
        ],
    ),
    "conv2d": (
        (7, 6, 2),
        [{"type": "conv2d", "filters": 4, "kernel": [3, 2], "stride": [2, 1], "padding": [1, 0]}, TANH, FLATTEN, DENSE],
    ),
    "depthwise": (
        (7, 6, 3),
        [
            {"type": "depthwise_conv2d", "kernel": 3},
            {"type": "conv2d", "filters": 4, "kernel": 1},
            TANH,
            FLATTEN,
            DENSE,
        ],
    ),
    "group norm": (
        (10, 2),
        [{"type": "conv1d", "filters": 4, "kernel": 3}, {"type": "group_norm", "groups": 2}, RELU, FLATTEN, DENSE],
    ),
    "layer norm": ((6, 4), [{"type": "layer_norm"}, FLATTEN, DENSE]),
    "gru": ((6, 3), [{"type": "gru", "units": 5}, DENSE]),
    "gru of all steps": ((6, 3), [{"type": "gru", "units": 4, "sequences": True}, FLATTEN, DENSE]),
    "embedding": ((8, 1), [{"type": "embedding", "vocabulary": 5, "units": 3}, FLATTEN, DENSE]),
    "embedding into gru": (
        (8, 1),
        [{"type": "embedding", "vocabulary": 5, "units": 3}, {"type": "gru", "units": 4}, DENSE],
    ),
    "frozen below": (
        (9,),
        [{"type": "dense", "units": 7, "frozen": True}, TANH, {"type": "dense", "units": 5}, TANH, DENSE],
    ),
    "frozen between": (
        (9,),
        [{"type": "dense", "units": 7}, TANH, {"type": "dense", "units": 5, "frozen": True}, TANH, DENSE],
    ),
    "gru over gru": ((4, 2), [{"type": "gru", "units": 5, "sequences": True}, {"type": "gru", "units": 3}]),
    "both norms": ((4, 6), [{"type": "group_norm", "groups": 2}, {"type": "layer_norm"}, FLATTEN, DENSE]),
}


def problem(name, batch, seed=0):
    shape, layers = NETWORKS[name]
    net = _kernels.Network(shape, layers, "softmax_cross_entropy")
    rng = np.random.default_rng(seed)
    params = (rng.standard_normal(net.parameter_count) * 0.5).astype(np.float32)
    x = rng.standard_normal((batch, net.inputs)).astype(np.float32)
    if any(layer["type"] == "embedding" for layer in layers):
        x = rng.integers(0, layers[0]["vocabulary"], x.shape).astype(np.float32)
    return net, params, x, rng.integers(0, net.outputs, batch).astype(np.int32)


def one_by_one(net, params, x, y):
    """Every example's gradient (B, P) in float64, each from a call of its own."""
    out, rows = np.empty_like(params), []
    for b in range(len(x)):
        net.gradient(params, x[b : b + 1], y[b : b + 1], out)
        rows.append(out.astype(np.float64))
    return np.array(rows)


def norms_of(gradients, norm):
    return np.abs(gradients).sum(axis=-1) if norm == "l1" else np.sqrt((gradients**2).sum(axis=-1))


def trained_stretches(net, layers):
    """(first, last) of the parameters of each layer that trains, from the layout."""
    ends = [offset for _, offset, _ in net.layout()] + [net.parameter_count]
    stretches = {}
    for (name, first, _), last in zip(net.layout(), ends[1:], strict=True):
        number = int(name.split(".")[0])
        if not layers[number].get("frozen"):
            stretches[number] = (stretches.get(number, (first,))[0], last)
    return list(stretches.values())


@pytest.mark.parametrize("batch", [1, 5, 70])
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_clipped_sum_is_that_of_the_naive_loop(name, norm, batch):
    net, params, x, y = problem(name, batch)
    gradients = one_by_one(net, params, x, y)
    want = norms_of(gradients, norm)
    bound = float(np.median(want))
    out = np.full_like(params, np.nan)
    norms = net.clipped_gradient(params, x, y, out, bound=bound, norm=norm)
    np.testing.assert_allclose(norms, want[None], rtol=1e-5)
    clipped = (gradients * np.minimum(1, bound / want)[:, None]).sum(axis=0)
    np.testing.assert_allclose(out, clipped, rtol=1e-5, atol=1e-5 * bound)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_may_have_a_bound_of_its_own(name, norm):
    net, params, x, y = problem(name, 6)
    gradients = one_by_one(net, params, x, y)
    stretches = trained_stretches(net, NETWORKS[name][1])
    want, bounds = np.zeros_like(params, np.float64), []
    for first, last in stretches:
        part = norms_of(gradients[:, first:last], norm)
        bounds.append(float(np.median(part)))
        want[first:last] = (gradients[:, first:last] * np.minimum(1, bounds[-1] / part)[:, None]).sum(axis=0)
    out = np.empty_like(params)
    norms = net.clipped_gradient(params, x, y, out, bound=np.array(bounds), norm=norm)
    assert norms.shape == (len(stretches), 6)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5 * max(bounds))


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_outlier_moves_the_sum_by_at_most_the_bound(name, norm):
    if "embedding" in name:
        pytest.skip("its inputs are whole numbers of a vocabulary: none can be an outlier")
    net, params, x, y = problem(name, 8)
    bound, sums = 0.25, []
    for scale in (0.0, 1e4):
        changed = x.copy()
        changed[3] *= np.float32(scale)
        out = np.empty_like(params)
        net.clipped_gradient(params, changed, y, out, bound=bound, norm=norm)
        others = np.empty_like(params)
        rest = np.delete(np.arange(8), 3)
        net.clipped_gradient(params, changed[rest].copy(), y[rest].copy(), others, bound=bound, norm=norm)
        sums.append(norms_of(out.astype(np.float64) - others, norm))
    assert max(sums) <= bound * (1 + 64 * 2**-24)  # float32 sums of 8 terms
    if name == "dense":  # and it does reach it: the bound is the outlier's only limit
        assert sums[1] >= 0.9 * bound


def test_a_token_that_comes_twice_enters_as_one_term():
    """Slopes that nearly cancel: scaled apart and then added, their rounding would be as large as the bound."""
    layers = [{"type": "embedding", "vocabulary": 3, "units": 1}, {"type": "flatten"}, {"type": "dense", "units": 1}]
    net = _kernels.Network((3, 1), layers, "mse")
    params = np.array([0.5, 0.25, 0.125, 1e9, -1e9, 1.0, 0.0], np.float32)  # the table, then the dense layer
    x, y = np.array([[1, 1, 2]], np.float32), np.array([[5.0]], np.float32)
    for norm in ("l1", "l2"):
        out, alone = np.empty_like(params), np.empty_like(params)
        norms = net.clipped_gradient(params, x, y, out, bound=1e-3, norm=norm)
        net.gradient(params, x, y, alone)
        assert norms[0, 0] == pytest.approx(norms_of(alone.astype(np.float64), norm), rel=1e-5)
        assert norms_of(out.astype(np.float64), norm) <= 1e-3 * (1 + 2**-22)


def test_a_clipped_gradient_alone_never_exceeds_its_bound():
    net, params, x, y = problem("dense", 200, seed=3)
    x *= np.float32(30)
    out = np.empty_like(params)
    for b in range(200):
        for norm, bound in (("l1", 0.7), ("l2", 0.1)):
            net.clipped_gradient(params, x[b : b + 1], y[b : b + 1], out, bound=bound, norm=norm)
            assert norms_of(out.astype(np.float64), norm) <= bound * (1 + 2**-23)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_example_whose_gradient_overflows_adds_nothing_and_harms_nobody(name):
    if "embedding" in name:
        pytest.skip("its inputs are whole numbers of a vocabulary: none can overflow")
    net, params, x, y = problem(name, 5)
    x[2] = np.float32(3e38)
    params = params * np.float32(4)
    out, others = np.empty_like(params), np.empty_like(params)
    norms = net.clipped_gradient(params, x, y, out, bound=1.0)
    rest = np.array([0, 1, 3, 4])
    net.clipped_gradient(params, x[rest].copy(), y[rest].copy(), others, bound=1.0)
    assert np.isfinite(out).all()
    if np.isfinite(norms[0, 2]):  # a layer that normalizes, or saturates, takes the edge off
        assert norms_of(out.astype(np.float64) - others, "l2") <= 1 + 1e-5
    else:
        np.testing.assert_allclose(out, others, rtol=1e-6, atol=1e-7)


def test_training_with_a_bound_that_never_bites_is_plain_training():
    net, params, x, y = problem("dense", 40)
    other, order = params.copy(), np.arange(40)
    net.train(params, x, y, order, batch_size=8, learning_rate=0.1, momentum=0.5)
    net.train(other, x, y, order, batch_size=8, learning_rate=0.1, momentum=0.5, clip=1e6)
    np.testing.assert_allclose(params, other, rtol=1e-5, atol=1e-6)


def test_memory_bounds_cut_a_batch_without_changing_the_clipped_sum():
    net, params, x, y = problem("dense", 40)
    results = []
    for rows in (1, 7, 40):
        trained = params.copy()
        net.train(trained, x, y, np.arange(40), batch_size=40, learning_rate=0.1, clip=0.3, rows=rows)
        results.append(trained)
    np.testing.assert_allclose(results[0], results[2], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(results[1], results[2], rtol=1e-6, atol=1e-7)
    sizes = [net.workspace_bytes(40, per_example=True, rows=rows) for rows in (1, 7, 40)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"bound": 0.0}, ValueError, "want bound positive and finite; got 0.0"),
        ({"bound": float("nan")}, ValueError, "want bound positive and finite; got nan"),
        ({"bound": np.array([1.0])}, ValueError, "want bound (trained layers=2,) float64"),
        ({"bound": np.array([1.0, -1.0])}, ValueError, "bound[1] is -1"),
        ({"bound": 1.0, "norm": "linf"}, ValueError, "want norm l1 or l2; got 'linf'"),
    ],
)
def test_bounds_are_refused_in_words(arguments, error, words):
    net, params, x, y = problem("dense", 4)
    with pytest.raises(error, match=re.escape(words)):
        net.clipped_gradient(params, x, y, np.empty_like(params), **arguments)


def test_inputs_that_are_not_finite_are_refused():
    net, params, x, y = problem("dense", 4)
    x[1, 2] = np.nan
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        net.clipped_gradient(params, x, y, np.empty_like(params), bound=1.0)


def test_frozen_layers_keep_their_bits_and_have_no_part_in_the_norm():
    layers = [{"type": "dense", "units": 7, "frozen": True}, {"type": "tanh"}, {"type": "dense", "units": 3}]
    net = _kernels.Network((9,), layers, "softmax_cross_entropy")
    _, params, x, y = problem("dense", 12)
    gradients = one_by_one(net, params, x, y)
    assert not gradients[:, :70].any()
    assert gradients[:, 70:].any()
    out = np.empty_like(params)
    norms = net.clipped_gradient(params, x, y, out, bound=0.1)
    np.testing.assert_allclose(norms[0], norms_of(gradients, "l2"), rtol=1e-5)
    trained = params.copy()
    net.train(trained, x, y, np.arange(12), batch_size=4, learning_rate=0.5, momentum=0.9, weight_decay=0.1)
    np.testing.assert_array_equal(trained[:70], params[:70])
    assert (trained[70:] != params[70:]).any()


def test_a_network_of_frozen_layers_has_nothing_to_clip():
    net = _kernels.Network((2,), [{"type": "dense", "units": 2, "frozen": True}], "mse")
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="every layer is frozen"):
        net.clipped_gradient(np.zeros(6, np.float32), x, x, np.empty(6, np.float32), bound=1.0)
