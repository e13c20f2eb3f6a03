"""Reproducible training gives one result everywhere: the networks of ``native/tests/golden.cpp``, through Python."""

from pathlib import Path

import numpy as np
import pytest

from edge_runtime import _kernels

ROWS, DRAWS, BATCH = 24, 60, 7
GOLDEN = dict(
    line.split() for line in (Path(__file__).parents[2] / "native" / "tests" / "golden.txt").read_text().splitlines()
)

TANH = [{"type": "dense", "units": 9}, {"type": "tanh"}, {"type": "dense", "units": 4}]
RELU = [{"type": "dense", "units": 17}, {"type": "relu"}, {"type": "dense", "units": 3, "bias": False}]
DENSE3 = {"type": "dense", "units": 3}
SGD = {"momentum": 0.5}
ADAM, ADAMW = {"optimizer": "adam"}, {"optimizer": "adamw"}
EMBEDDING = [
    {"type": "embedding", "vocabulary": 10, "units": 6},
    {"type": "group_norm", "groups": 2},
    {"type": "flatten"},
]
GRU = {"type": "gru", "units": 5}
CASES = {
    "tanh": ((5,), TANH, "softmax_cross_entropy", SGD),
    "tanh_clipped_l2": ((5,), TANH, "softmax_cross_entropy", SGD | {"clip": 0.5, "norm": "l2"}),
    "tanh_clipped_l1": ((5,), TANH, "softmax_cross_entropy", SGD | {"clip": 0.5, "norm": "l1"}),
    "relu": ((11,), RELU, "mse", ADAM),
    "sigmoid": ((11,), [*RELU, {"type": "sigmoid"}], "huber", ADAMW),
    "softplus": ((11,), [*RELU, {"type": "softplus"}], "hinge", SGD),
    "dropout": ((11,), [*RELU, {"type": "dropout", "rate": 0.25}], "mse", SGD),
    "conv1d": (
        (12, 2),
        [
            {"type": "conv1d", "filters": 4, "kernel": 3, "padding": 1},
            *[{"type": "relu"}, {"type": "max_pool", "size": 2}, {"type": "flatten"}, DENSE3],
        ],
        "softmax_cross_entropy",
        SGD | {"clip": 0.5},
    ),
    "conv2d": (
        (7, 6, 2),
        [
            {"type": "conv2d", "filters": 5, "kernel": 3, "padding": 1},
            {"type": "depthwise_conv2d", "kernel": [3, 2], "stride": [2, 1]},
            *[{"type": "tanh"}, {"type": "average_pool", "size": 2}, {"type": "flatten"}, DENSE3],
        ],
        "mse",
        ADAM,
    ),
    "gru": ((6, 3), [GRU, DENSE3], "binary_cross_entropy", SGD),
    "gru_layer_norm": (
        (6, 3),
        [GRU | {"sequences": True}, {"type": "layer_norm"}, {"type": "flatten"}, DENSE3],
        "binary_cross_entropy",
        ADAM,
    ),
    "embedding_group_norm": ((4, 1), [*EMBEDDING, DENSE3], "softmax_cross_entropy", SGD),
}


def numbers(n, seed):
    """Multiples of 2^-23 in [-1, 1), without a rounding anywhere."""
    values = []
    for _ in range(n):
        seed = (seed * 1664525 + 1013904223) % 2**32
        values.append((seed >> 8) / 2**23 - 1)
    return np.array(values, np.float32)


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def trained(shape, layers, loss, options):
    net = _kernels.Network(shape, layers, loss)
    params = numbers(net.parameter_count, 7) / 2
    x = numbers(ROWS * net.inputs, 11).reshape(ROWS, net.inputs)
    if layers[0]["type"] == "embedding":
        x = (np.arange(x.size) * 7 % 10).astype(np.float32).reshape(x.shape)
    if loss == "softmax_cross_entropy":
        y = ((7 * np.arange(ROWS) + 3) % net.outputs).astype(np.int32)
    else:
        y = numbers(ROWS * net.outputs, 13).reshape(ROWS, net.outputs)
        low = {"binary_cross_entropy": 0, "hinge": -1}.get(loss)
        y = y if low is None else np.where(y > 0, 1, low).astype(np.float32)
    net.train(
        *(params, x, y, (5 * np.arange(DRAWS) % ROWS).astype(np.int32)),
        **(
            {"batch_size": BATCH, "learning_rate": 0.0625, "proximal": 0.125, "anchor": numbers(len(params), 17)}
            | options
        ),
        dropout_key=bytes(range(32)),
        rows=5,
        reproducible=True,
    )
    return params


def test_the_golden_file_names_these_networks():
    assert GOLDEN.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_training_ends_in_the_golden_weights(name):
    params = trained(*CASES[name])
    assert np.abs(params).max() < 100
    assert f"{fnv1a(params.astype('<f4').tobytes()):016x}" == GOLDEN[name]
