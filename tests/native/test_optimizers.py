"""SGD, Adam and AdamW against the definitions of torch.optim: in NumPy and, where it is installed, PyTorch's own."""

import numpy as np
import pytest

from edge_runtime import _kernels

F = np.float32
N, BATCH, STEPS = 24, 8, 30
LAYERS = [{"type": "dense", "units": 7}, {"type": "tanh"}, {"type": "dense", "units": 3}]
OPTIMIZERS = [
    {},
    {"weight_decay": 0.03},
    {"momentum": 0.9},
    {"momentum": 0.8, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-4},
    {"optimizer": "adamw", "weight_decay": 0.1},
]
RATES = np.linspace(0.02, 0.005, STEPS).astype(F)


def problem():
    net = _kernels.Network((5,), LAYERS, "softmax_cross_entropy")
    rng = np.random.default_rng(3)
    params = (rng.standard_normal(net.parameter_count) * 0.4).astype(F)
    x, y = rng.standard_normal((N, 5)).astype(F), rng.integers(0, 3, N).astype(np.int32)
    order = np.concatenate([rng.permutation(N) for _ in range(STEPS * BATCH // N)]).astype(np.int32)
    return net, params, x, y, order


def named(optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8):
    return optimizer, momentum, nesterov, weight_decay, beta1, beta2, epsilon


def replay(net, params, x, y, order, anchor, correction, proximal, **settings):
    """Step by step in float64, from the gradients that the network itself reports at the weights rounded to float32."""
    optimizer, momentum, nesterov, decay, beta1, beta2, epsilon = named(**settings)
    w = params.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    g = np.empty_like(params)
    for t, rate in enumerate(RATES.astype(np.float64), start=1):
        rows = order[(t - 1) * BATCH : t * BATCH]
        net.gradient(w.astype(F), x[rows], y[rows], g, reproducible=True)
        d = g + proximal * (w - anchor) + correction
        if optimizer == "adamw":
            w = w - rate * decay * w
        else:
            d = d + decay * w
        if optimizer == "sgd":
            m = momentum * m + d
            w = w - rate * (d + momentum * m if nesterov else m)
        else:
            m, v = beta1 * m + (1 - beta1) * d, beta2 * v + (1 - beta2) * d * d
            w = w - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return w


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_every_optimizer_follows_its_definition_on_the_local_objective(settings, local, reproducible):
    net, params, x, y, order = problem()
    rng = np.random.default_rng(4)
    anchor, correction = rng.standard_normal((2, params.size)).astype(F) * F(0.3)
    proximal = 0.2 if local else 0.0
    objective = {"proximal": proximal, "anchor": anchor, "correction": correction} if local else {}
    want = replay(net, params, x, y, order, anchor, correction if local else 0.0, proximal, **settings)
    assert np.abs(want - params).max() > 0.05
    net.train(
        params, x, y, order, batch_size=BATCH, learning_rate=RATES, reproducible=reproducible, **objective, **settings
    )
    np.testing.assert_allclose(params, want, rtol=0, atol=5e-6)


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_every_optimizer_agrees_with_pytorch(settings):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    net, params, x, y, order = problem()
    layers = [torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)]
    model = torch.nn.Sequential(*layers)
    tensors = {name: params[offset : offset + np.prod(shape)].reshape(shape) for name, offset, shape in net.layout()}
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(tensors[name].T)))
    optimizer, momentum, nesterov, decay, beta1, beta2, epsilon = named(**settings)
    if optimizer == "sgd":
        descent = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    else:
        kind = torch.optim.Adam if optimizer == "adam" else torch.optim.AdamW
        descent = kind(model.parameters(), lr=1.0, betas=(beta1, beta2), eps=epsilon, weight_decay=decay)
    for t, rate in enumerate(RATES):
        rows = order[t * BATCH : (t + 1) * BATCH]
        descent.param_groups[0]["lr"] = float(rate)
        descent.zero_grad()
        logits = model(torch.from_numpy(x[rows]))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[rows]).long()).backward()
        descent.step()
    net.train(params, x, y, order, batch_size=BATCH, learning_rate=RATES, reproducible=True, **settings)
    want = {name: tensor.detach().numpy().T for name, tensor in model.named_parameters()}
    for name, offset, shape in net.layout():
        got = params[offset : offset + np.prod(shape)].reshape(shape)
        np.testing.assert_allclose(got, want[name], rtol=0, atol=1e-5)
