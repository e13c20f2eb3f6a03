"""SGD on the unified local objective: exact traces in float32, fixed points, and what is refused."""

import re
import sys

import numpy as np
import pytest

from edge_runtime import _kernels

N, WIDTHS = 23, [6, 5, 3]
F = np.float32


def dense(widths, activations, loss):
    """A dense network over ``widths``, one activation after each step between them."""
    layers = []
    for units, activation in zip(widths[1:], activations, strict=True):
        layers += [{"type": "dense", "units": units}] + [{"type": activation}] * (activation != "identity")
    return _kernels.Network((widths[0],), layers, loss)


@pytest.fixture
def net():
    return dense(WIDTHS, ["tanh", "identity"], "softmax_cross_entropy")


def data(net, seed=1):
    rng = np.random.default_rng(seed)
    params = (rng.standard_normal(net.parameter_count) * 0.5).astype(F)
    return params, rng.standard_normal((N, WIDTHS[0])).astype(F), rng.integers(0, WIDTHS[-1], N).astype(np.int32)


def replay(
    net, params, x, y, order, batch_size, learning_rate, momentum=0.0, proximal=0.0, anchor=None, correction=None
):
    """The documented rule, step by step in NumPy float32, from the gradients the network itself reports."""
    w, v, losses = params.copy(), np.zeros_like(params), []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        d = np.empty_like(w)
        losses += [net.gradient(w, x[rows], y[rows], d, reproducible=True)] * len(rows)
        if proximal:
            d = d + F(proximal) * (w - anchor)
        if correction is not None:
            d = d + correction
        v = F(momentum) * v + d
        w = w - F(learning_rate) * v
    return w, np.mean(losses)


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 1000])
@pytest.mark.parametrize(
    ("momentum", "proximal", "corrected"), [(0, 0, False), (0.9, 0, False), (0, 0.25, False), (0.5, 0.1, True)]
)
def test_every_step_follows_the_unified_objective_bit_for_bit(net, index, batch_size, momentum, proximal, corrected):
    params, x, y = data(net)
    rng = np.random.default_rng(2)
    anchor = rng.standard_normal(params.size).astype(F)
    settings = {
        "batch_size": batch_size,
        "learning_rate": 0.3,
        "momentum": momentum,
        "proximal": proximal,
        "anchor": anchor if proximal else None,
        "correction": rng.standard_normal(params.size).astype(F) if corrected else None,
    }
    order = rng.integers(0, N, 50).astype(index)
    want, want_loss = replay(net, params, x, y, order, **settings)
    loss = net.train(params, x, y, order, **settings, reproducible=True)
    np.testing.assert_array_equal(params, want)
    assert loss == pytest.approx(want_loss, rel=1e-12)


def test_regression_targets_are_drawn_with_their_rows():
    net = dense([6, 2], ["identity"], "mse")
    rng = np.random.default_rng(3)
    params = rng.standard_normal(net.parameter_count).astype(F)
    x, y = rng.standard_normal((N, 6)).astype(F), rng.standard_normal((N, 2)).astype(F)
    order = rng.permutation(N)
    want, _ = replay(net, params, x, y, order, 5, 0.1)
    net.train(params, x, y, order, batch_size=5, learning_rate=0.1, reproducible=True)
    np.testing.assert_array_equal(params, want)


def test_a_correction_equal_to_minus_the_gradient_is_a_fixed_point(net):
    params, x, y = data(net)
    gradient = np.empty_like(params)
    net.gradient(params, x, y, gradient)
    before = params.copy()
    everything = np.tile(np.arange(N), 5)
    net.train(params, x, y, everything, batch_size=N, learning_rate=0.5, momentum=0.9, correction=-gradient)
    np.testing.assert_array_equal(params, before)


def test_the_proximal_term_pulls_to_where_it_balances_the_gradient():
    """One linear unit on x = 1, target 0: the loss is (w + b)^2, so from anchor (1, 1) the optimum is mu / (4 + mu)."""
    net = dense([1, 1], ["identity"], "mse")
    params, x, y = np.array([5, -1], F), np.ones((1, 1), F), np.zeros((1, 1), F)
    order = np.zeros(500, np.int32)
    net.train(params, x, y, order, batch_size=1, learning_rate=0.1, proximal=2.0, anchor=np.ones(2, F))
    np.testing.assert_allclose(params, 1 / 3, rtol=1e-5)


def test_params_may_be_their_own_anchor(net):
    params, x, y = data(net)
    other, start = params.copy(), params.copy()
    order = np.arange(N)
    net.train(params, x, y, order, batch_size=4, learning_rate=0.2, proximal=0.5, anchor=params)
    net.train(other, x, y, order, batch_size=4, learning_rate=0.2, proximal=0.5, anchor=start)
    np.testing.assert_array_equal(params, other)


def test_a_learning_rate_of_zero_moves_nothing(net):
    params, x, y = data(net)
    before = params.copy()
    loss = net.train(params, x, y, np.arange(N), batch_size=N, learning_rate=0)
    np.testing.assert_array_equal(params, before)
    assert loss == net.loss(params, x, y)


@pytest.mark.parametrize("poison", ["x", "correction", "learning_rate"])
def test_a_weight_that_is_not_finite_raises_and_leaves_params_alone(net, poison):
    params, x, y = data(net)
    before = params.copy()
    correction = np.full_like(params, 1e30)
    learning_rate = 1e30 if poison == "learning_rate" else 0.1
    if poison == "x":
        x[7, 2] = np.inf
    if poison == "correction":
        correction[3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite; params is as it was"):
        net.train(params, x, y, np.arange(N), batch_size=4, learning_rate=learning_rate, correction=correction)
    np.testing.assert_array_equal(params, before)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"order": np.array([0, 23])}, ValueError, "want order in [0, 23), the rows of x; order[1] is 23"),
        ({"order": np.array([-1], np.int32)}, ValueError, "order[0] is -1"),
        ({"order": np.array([], np.int64)}, ValueError, "want order with at least 1 index; got 0"),
        ({"order": np.array([0.0])}, TypeError, "want order (n_draws,) int32 C-contiguous; got (1,) float64"),
        ({"batch_size": 0}, ValueError, "want batch_size in [1, "),
        ({"batch_size": 1.5}, TypeError, "want batch_size a whole number; got 1.5"),
        ({"learning_rate": float("nan")}, ValueError, "want learning_rate finite and not negative; got nan"),
        ({"learning_rate": "fast"}, TypeError, "want learning_rate a real number; got 'fast'"),
        ({"momentum": 1.0}, ValueError, "want momentum in [0, 1); got 1.0"),
        ({"proximal": -1.0}, ValueError, "want proximal finite and not negative; got -1.0"),
        ({"proximal": 0.5}, ValueError, "proximal 0.5 needs an anchor"),
        ({"anchor": np.zeros(3, F)}, ValueError, "want anchor (P=53,) float32 C-contiguous; got (3,) float32"),
        ({"correction": np.zeros(53)}, TypeError, "want correction (P=53,) float32 C-contiguous; got (53,) float64"),
    ],
)
def test_training_refuses_in_words_and_moves_nothing(net, change, error, words):
    params, x, y = data(net)
    before = params.copy()
    arguments = {"order": np.arange(N), "batch_size": 4, "learning_rate": 0.1} | change
    with pytest.raises(error, match=re.escape(words)):
        net.train(params, x, y, **arguments)
    np.testing.assert_array_equal(params, before)


def test_read_only_params_are_refused(net):
    params, x, y = data(net)
    params.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        net.train(params, x, y, np.arange(N), batch_size=4, learning_rate=0.1)


def test_a_batch_larger_than_memory_is_a_value_error():
    net = dense([1, 2**20], ["identity"], "mse")
    with pytest.raises(ValueError, match="needs more memory than this machine can address"):
        net.workspace_bytes(sys.maxsize // 2, rows=sys.maxsize // 2)
