"""The gated recurrent unit against its equations in NumPy, central differences and, where it is installed, PyTorch."""

import numpy as np
import pytest

from edge_runtime import _kernels


def gru(steps, channels, units, **options):
    return _kernels.Network((steps, channels), [{"type": "gru", "units": units, **options}], "mse")


def states(w, x, units):
    """Every state (B, T, units) of a unit with flat parameters ``w`` on x (B, T, F): Cho et al. 2014, the reset gate
    after the product.
    """
    steps, channels = x.shape[1:]
    cuts = np.cumsum([channels * 3 * units, units * 3 * units, 3 * units])
    w_ih, w_hh, b_ih, b_hh = np.split(w, cuts)
    h, all_states = np.zeros((len(x), units)), []
    for t in range(steps):
        i_r, i_z, i_n = np.split(x[:, t] @ w_ih.reshape(channels, -1) + b_ih, 3, axis=1)
        h_r, h_z, h_n = np.split(h @ w_hh.reshape(units, -1) + b_hh, 3, axis=1)
        r, z = 1 / (1 + np.exp(-(i_r + h_r))), 1 / (1 + np.exp(-(i_z + h_z)))
        n = np.tanh(i_n + r * h_n)
        h = (1 - z) * n + z * h
        all_states.append(h)
    return np.stack(all_states, axis=1)


def problem(net, batch, seed=0):
    rng = np.random.default_rng(seed)
    params = (rng.standard_normal(net.parameter_count) * 0.5).astype(np.float32)
    x = rng.standard_normal((batch, net.inputs)).astype(np.float32)
    return params, x, rng.standard_normal((batch, net.outputs)).astype(np.float32)


def test_parameters_are_laid_out_input_major_with_gates_in_pytorchs_order():
    assert gru(7, 3, 5).layout() == [
        ("0.weight_ih", 0, (3, 15)),
        ("0.weight_hh", 45, (5, 15)),
        ("0.bias_ih", 120, (15,)),
        ("0.bias_hh", 135, (15,)),
    ]
    assert gru(7, 3, 5).shapes() == [(5,)]
    assert gru(7, 3, 5, sequences=True).shapes() == [(7, 5)]


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize(("steps", "channels", "units", "batch"), [(1, 1, 1, 1), (4, 3, 5, 3), (3, 2, 17, 2)])
def test_states_and_gradients_are_those_of_the_equations(
    steps, channels, units, batch, sequences, reproducible, central_differences
):
    net = gru(steps, channels, units, sequences=sequences)
    params, x, y = problem(net, batch)

    def output(w):
        h = states(w, x.reshape(batch, steps, channels).astype(np.float64), units)
        return (h if sequences else h[:, -1]).reshape(batch, -1)

    np.testing.assert_allclose(net.predict(params, x, reproducible=reproducible), output(params), rtol=0, atol=2e-6)
    out = np.full_like(params, np.nan)
    loss = net.gradient(params, x, y, out, reproducible=reproducible)
    assert loss == pytest.approx(((output(params) - y) ** 2).mean(), rel=1e-5)
    want = central_differences(lambda w: ((output(w) - y) ** 2).mean(), params)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-6)


def test_slopes_pass_through_one_unit_into_the_one_below(central_differences):
    layers = [{"type": "gru", "units": 4, "sequences": True}, {"type": "gru", "units": 3}]
    net = _kernels.Network((5, 2), layers, "mse")
    params, x, y = problem(net, 3)
    lower = net.layout()[4][1]

    def loss(w):
        below = states(w[:lower], x.reshape(3, 5, 2).astype(np.float64), 4)
        return ((states(w[lower:], below, 3)[:, -1] - y) ** 2).mean()

    out = np.empty_like(params)
    net.gradient(params, x, y, out)
    np.testing.assert_allclose(out, central_differences(loss, params), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_norms_and_clipped_sums_are_those_of_each_examples_equations(norm, central_differences):
    net = gru(4, 3, 5)
    params, x, y = problem(net, 6)

    def loss_of(b):
        example = x[b].reshape(1, 4, 3).astype(np.float64)
        return lambda w: ((states(w, example, 5)[:, -1] - y[b]) ** 2).mean()

    gradients = np.array([central_differences(loss_of(b), params) for b in range(6)])
    want = np.linalg.norm(gradients, 1 if norm == "l1" else 2, axis=1)
    bound = float(np.median(want))
    out = np.empty_like(params)
    np.testing.assert_allclose(net.clipped_gradient(params, x, y, out, bound=bound, norm=norm)[0], want, rtol=1e-4)
    clipped = (gradients * np.minimum(1, bound / want)[:, None]).sum(axis=0)
    np.testing.assert_allclose(out, clipped, rtol=1e-4, atol=1e-5)


def test_it_learns_which_of_two_marks_came_first():
    rng = np.random.default_rng(5)
    x = np.zeros((200, 12, 2), np.float32)
    places = np.array([rng.choice(12, 2, replace=False) for _ in range(200)])
    x[np.arange(200), places[:, 0], 0] = x[np.arange(200), places[:, 1], 1] = 1
    y = (places[:, 0] < places[:, 1]).astype(np.int32)
    layers = [{"type": "gru", "units": 8}, {"type": "dense", "units": 2}]
    net = _kernels.Network((12, 2), layers, "softmax_cross_entropy")
    params = (rng.standard_normal(net.parameter_count) * 0.3).astype(np.float32)
    order = np.concatenate([rng.permutation(200) for _ in range(60)])
    net.train(params, x.reshape(200, 24), y, order, batch_size=20, learning_rate=0.02, optimizer="adam")
    assert (net.predict(params, x.reshape(200, 24)).argmax(axis=1) == y).mean() > 0.97


@pytest.mark.parametrize("sequences", [False, True])
def test_pytorch_agrees(sequences):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = gru(24, 8, 32, sequences=sequences)
    params, x, y = problem(net, 16)
    params *= np.float32(0.4)
    peer = torch.nn.GRU(8, 32, batch_first=True)
    tensors = {name: (at, at + int(np.prod(shape)), shape) for name, at, shape in net.layout()}
    with torch.no_grad():
        for name, (first, last, shape) in tensors.items():
            values = params[first:last].reshape(shape).T.copy()
            getattr(peer, name.removeprefix("0.") + "_l0").copy_(torch.from_numpy(values))
    output = peer(torch.from_numpy(x.reshape(16, 24, 8)))[0]
    output = (output if sequences else output[:, -1]).reshape(16, -1)
    torch.nn.functional.mse_loss(output, torch.from_numpy(y)).backward()
    np.testing.assert_allclose(net.predict(params, x), output.detach().numpy(), rtol=0, atol=2e-6)
    out = np.empty_like(params)
    net.gradient(params, x, y, out)
    for name, (first, last, shape) in tensors.items():
        want = getattr(peer, name.removeprefix("0.") + "_l0").grad.numpy().T
        np.testing.assert_allclose(out[first:last].reshape(shape), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((4, 3, 2), {"units": 5}, r"takes a sequence \(steps, channels\); got \(4, 3, 2\)"),
        ((4, 3), {"units": 0}, r"want units in \[1, "),
        ((4, 3), {"units": 1 << 21}, r"want units in \[1, "),
    ],
)
def test_shapes_that_cannot_work_are_refused_in_words(shape, options, words):
    with pytest.raises(ValueError, match=words):
        _kernels.Network(shape, [{"type": "gru", **options}], "mse")
