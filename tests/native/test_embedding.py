"""The embedding against NumPy's indexing and, where it is installed, PyTorch; what is no row's number; dropout."""

import numpy as np
import pytest

from edge_runtime import _kernels


def embedding(steps, vocabulary, units, *above, loss="mse"):
    layers = [{"type": "embedding", "vocabulary": vocabulary, "units": units}, *above]
    return _kernels.Network((steps, 1), layers, loss)


def problem(net, vocabulary, batch=5, seed=0):
    rng = np.random.default_rng(seed)
    params = rng.standard_normal(net.parameter_count).astype(np.float32)
    x = rng.integers(0, vocabulary, (batch, net.inputs)).astype(np.float32)
    return params, x, rng.standard_normal((batch, net.outputs)).astype(np.float32)


def gradients(params, x, y, vocabulary):
    """Each example's gradient (B, vocabulary, units) of its mean squared error, position by position."""
    table = params.reshape(vocabulary, -1).astype(np.float64)
    rows = np.zeros((len(x), *table.shape))
    for b, ids in enumerate(x.astype(int)):
        slopes = 2 * (table[ids] - y[b].reshape(len(ids), -1)) / y[b].size
        np.add.at(rows[b], ids, slopes)
    return rows


@pytest.mark.parametrize(("steps", "vocabulary", "units"), [(1, 1, 1), (7, 3, 5), (9, 30, 4), (6, 4, 70)])
def test_rows_are_looked_up_and_their_gradients_added(steps, vocabulary, units):
    net = embedding(steps, vocabulary, units)
    assert net.layout() == [("0.weight", 0, (vocabulary, units))]
    params, x, y = problem(net, vocabulary)
    want = params.reshape(vocabulary, units)[x.astype(int)].reshape(len(x), -1)
    np.testing.assert_array_equal(net.predict(params, x), want)
    out = np.full_like(params, np.nan)
    net.gradient(params, x, y, out)
    np.testing.assert_allclose(out, gradients(params, x, y, vocabulary).mean(axis=0).ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize(("steps", "vocabulary", "units"), [(1, 1, 1), (7, 3, 5), (9, 30, 4), (6, 4, 70)])
def test_norms_sum_the_repeats_of_a_number_first(steps, vocabulary, units, norm):
    net = embedding(steps, vocabulary, units)
    params, x, y = problem(net, vocabulary)
    each = gradients(params, x, y, vocabulary).reshape(len(x), -1)
    want = np.linalg.norm(each, 1 if norm == "l1" else 2, axis=1)
    bound = float(np.median(want))
    out = np.empty_like(params)
    np.testing.assert_allclose(net.clipped_gradient(params, x, y, out, bound=bound, norm=norm)[0], want, rtol=1e-5)
    clipped = (each * np.minimum(1, bound / want)[:, None]).sum(axis=0)
    np.testing.assert_allclose(out, clipped, rtol=1e-5, atol=1e-5 * bound)


def test_pytorch_agrees():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = embedding(12, 9, 6)
    params, x, y = problem(net, 9)
    peer = torch.nn.Embedding(9, 6)
    with torch.no_grad():
        peer.weight.copy_(torch.from_numpy(params.reshape(9, 6)))
    output = peer(torch.from_numpy(x.astype(np.int64))).reshape(len(x), -1)
    torch.nn.functional.mse_loss(output, torch.from_numpy(y)).backward()
    np.testing.assert_array_equal(net.predict(params, x), output.detach().numpy())
    out = np.empty_like(params)
    net.gradient(params, x, y, out)
    np.testing.assert_allclose(out, peer.weight.grad.numpy().ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [-1, 0.5, 6, 1e30, np.inf, -np.inf, np.nan])
def test_what_is_no_rows_number_is_refused_before_anything_is_computed(bad):
    net = embedding(4, 6, 2)
    params, x, y = problem(net, 6)
    x[3, 2] = bad
    out, before = params.copy(), params.copy()
    refusal = r"x\[3, 2\] is .*embedding layer cannot take|x holds NaN or infinity"
    with pytest.raises(ValueError, match=refusal):
        net.predict(params, x)
    with pytest.raises(ValueError, match=refusal):
        net.gradient(params, x, y, out)
    with pytest.raises(ValueError, match=refusal):
        net.train(params, x, y, np.arange(5), batch_size=2, learning_rate=0.1)
    np.testing.assert_array_equal(params, before)
    np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((4, 2), {"vocabulary": 5, "units": 3}, r"whole numbers \(steps, 1\); got \(4, 2\)"),
        ((4, 1), {"vocabulary": 0, "units": 3}, "want vocabulary in"),
        ((4, 1), {"vocabulary": 2**24 + 1, "units": 3}, "want vocabulary in"),
        ((4, 1), {"vocabulary": 5, "units": 0}, "want units in"),
    ],
)
def test_shapes_that_cannot_work_are_refused_in_words(shape, options, words):
    with pytest.raises(ValueError, match=words):
        _kernels.Network(shape, [{"type": "embedding", **options}], "mse")


DROPPING = [
    {"type": "dense", "units": 20},
    {"type": "tanh"},
    {"type": "dropout", "rate": 0.4},
    {"type": "dense", "units": 20},
    {"type": "dropout", "rate": 0.2},
    {"type": "dense", "units": 2},
]


def trained(key, rows=None, start=None):
    net = _kernels.Network((6,), DROPPING, "mse")
    rng = np.random.default_rng(0)
    params = (rng.standard_normal(net.parameter_count) * 0.4).astype(np.float32)
    x, y = rng.standard_normal((24, 6)).astype(np.float32), rng.standard_normal((24, 2)).astype(np.float32)
    options = {} if key is None else {"dropout_key": key}
    net.train(params, x, y, np.arange(24), batch_size=12, learning_rate=0.1, rows=rows, **options)
    return params


def test_masks_follow_from_the_key_and_not_from_how_a_batch_is_cut():
    whole = trained(bytes(32))
    for rows in (1, 5, 12):
        np.testing.assert_array_equal(trained(bytes(32), rows), whole)
    assert (trained(bytes([1] * 32)) != whole).any()


def test_dropout_acts_in_training_with_a_key_only():
    assert (trained(None) != trained(bytes(32))).any()
    net = _kernels.Network((50,), [{"type": "dropout", "rate": 0.5}, {"type": "dense", "units": 1}], "mse")
    params = np.ones(51, np.float32)
    np.testing.assert_array_equal(net.predict(params, np.ones((2, 50), np.float32)), np.full((2, 1), 51))


def test_rates_that_cannot_work_are_refused_in_words():
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"want rate in \[0, 1\)"):
            _kernels.Network((50,), [{"type": "dropout", "rate": rate}], "mse")
