"""For every function of ``_kernels`` a maker of valid calls, small enough to run thousands: where the fuzzer begins."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_runtime import _kernels

SEED = bytes(range(32))


@dataclass(frozen=True)
class Call:
    """Arguments of one call; of a ``method`` the first is the object."""

    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    method: bool = False


NETWORKS: list[tuple[tuple[int, ...], list[dict[str, Any]], Any]] = [
    ((5,), [{"type": "dense", "units": 4}, {"type": "relu"}, {"type": "dense", "units": 3}], "softmax_cross_entropy"),
    (
        (3,),
        [{"type": "dense", "units": 2, "frozen": True}, {"type": "tanh"}, {"type": "dense", "units": 3, "bias": False}],
        {"type": "softmax_cross_entropy", "class_weights": [1.0, 2.0, 0.5]},
    ),
]


def floats(rng: random.Random, *shape: int, dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).standard_normal(shape).astype(dtype)


def integers(rng: random.Random, low: int, high: int, *shape: int, dtype: str = "i4") -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).integers(low, high, shape).astype(dtype)


def network(rng: random.Random) -> Any:
    return _kernels.Network(*rng.choice(NETWORKS))


def generator(rng: random.Random) -> Any:
    return _kernels.SystemRng() if rng.random() < 0.5 else _kernels.seeded.SeededRng(SEED)


def data(rng: random.Random, net: Any, rows: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """params, x, y of a network with labels."""
    x, y = floats(rng, rows, net.inputs), integers(rng, 0, net.outputs, rows)
    return 0.3 * floats(rng, net.parameter_count), x, y


def with_network(make: Callable[[random.Random, Any], Call]) -> Callable[[random.Random], Call]:
    def call(rng: random.Random) -> Call:
        net = network(rng)
        made = make(rng, net)
        return Call((net, *made.arguments), made.options, method=True)

    return call


def training(rng: random.Random, net: Any) -> dict[str, Any]:
    """The options that train and train_privately share; each is there or is left to its default."""
    every: dict[str, Any] = {
        "optimizer": rng.choice(["sgd", "adam", "adamw"]),
        "momentum": 0.5,
        "weight_decay": 0.01,
        "beta1": 0.9,
        "beta2": 0.99,
        "epsilon": 1e-6,
        "proximal": 0.1,
        "correction": floats(rng, net.parameter_count),
        "dropout_key": SEED,
        "rows": rng.choice([1, 2, 100]),
        "reproducible": rng.random() < 0.5,
    }
    chosen = {name: value for name, value in every.items() if rng.random() < 0.4}
    if chosen.get("optimizer", "sgd") != "sgd":
        chosen.pop("momentum", None)
    if "proximal" in chosen or rng.random() < 0.2:
        chosen["anchor"] = floats(rng, net.parameter_count)
    return chosen


def clip_bound(rng: random.Random, net: Any) -> Any:
    return rng.choice([0.5, 1, 2.0])


def train(rng: random.Random, net: Any) -> Call:
    params, x, y = data(rng, net)
    order = integers(rng, 0, len(x), rng.choice([1, 4, 9]), dtype=rng.choice(["i4", "i8"]))
    options = {"batch_size": rng.choice([1, 3, 100]), "learning_rate": 0.01} | training(rng, net)
    if rng.random() < 0.5:
        options |= {"clip": clip_bound(rng, net), "norm": rng.choice(["l1", "l2"])}
    return Call((params, x, y, order), options)


def train_privately(rng: random.Random, net: Any) -> Call:
    options = {
        "rng": generator(rng),
        "steps": rng.choice([1, 2, 3]),
        "sampling": rng.choice([0, 2**62, 2**64 - 1]),
        "expected_batch": 3.0,
        "most_rows": 6,
        "clip": clip_bound(rng, net),
        "norm": rng.choice(["l1", "l2"]),
        "grid": 2.0**-10,
        "log2_scale": rng.choice([0, 5, 16]),
        "learning_rate": 0.01,
    } | training(rng, net)
    if rng.random() < 0.3:
        options["adaptive"] = (0.5, 0.2, 0.01, 10.0, 3)
    return Call(data(rng, net), options)


def draws(*parameters: Callable[[random.Random], int]) -> Callable[[random.Random], Call]:
    def call(rng: random.Random) -> Call:
        count = rng.choice([0, 1, 3, 600])
        out = rng.choice([None, np.zeros(count, "i8"), np.zeros(count, "i4")])
        return Call((generator(rng), count, *(make(rng) for make in parameters)), {} if out is None else {"out": out})

    return call


def reservoir(rng: random.Random) -> Any:
    return _kernels.NoiseReservoir(rng.choice([0, 16]), 1)


def reservoir_take(rng: random.Random) -> Call:
    count = rng.choice([0, 1, 600])
    out = rng.choice([None, np.zeros(count, "i8"), np.zeros(count, "i4")])
    return Call((reservoir(rng), count), {} if out is None else {"out": out}, method=True)


def gradient(rng: random.Random, net: Any) -> Call:
    return Call((*data(rng, net), np.zeros(net.parameter_count, "f4")), {"reproducible": rng.random() < 0.5})


def clipped_gradient(rng: random.Random, net: Any) -> Call:
    call = gradient(rng, net)
    return Call(call.arguments, call.options | {"bound": clip_bound(rng, net), "norm": rng.choice(["l1", "l2"])})


def workspace_bytes(rng: random.Random, net: Any) -> Call:
    options: dict[str, Any] = {
        "optimizer": rng.choice(["sgd", "adam"]),
        "momentum": True,
        "per_example": True,
        "noise": True,
        "rows": 3,
    }
    return Call((rng.choice([1, 8]),), {name: value for name, value in options.items() if rng.random() < 0.5})


def updates(rng: random.Random, n: int = 5, d: int = 7) -> Any:
    matrix = floats(rng, n, d)
    return matrix if rng.random() < 0.5 else list(matrix)


def threads(rng: random.Random) -> dict[str, Any]:
    return rng.choice([{}, {"threads": 1}, {"threads": 2}])


def weights(rng: random.Random) -> np.ndarray:
    return np.abs(floats(rng, 5, dtype="f8")) + 0.1


def quantized(rng: random.Random) -> tuple[bytes, int, int]:
    """What quantize_stochastic makes: (packed, bits, count)."""
    bits, x = rng.choice([1, 2, 4, 8]), floats(rng, 33)
    return _kernels.quantize_stochastic(_kernels.SystemRng(), x, 8.0, bits), bits, len(x)


def dequantize(rng: random.Random) -> Call:
    packed, bits, count = quantized(rng)
    return Call((packed, 8.0, bits, count))


def take(rng: random.Random) -> dict[str, Any]:
    return rng.choice([{}, {"take": True}])


AGGREGATION: dict[str, Callable[[random.Random], Call]] = {
    "weighted_sum": lambda rng: Call(
        (updates(rng), weights(rng)), threads(rng) | {"start": floats(rng, 7, dtype="f8")}
    ),
    "weighted_mean": lambda rng: Call((updates(rng), weights(rng)), threads(rng)),
    "coordinate_median": lambda rng: Call((updates(rng),), threads(rng)),
    "trimmed_mean": lambda rng: Call((updates(rng), rng.choice([0, 1, 2])), threads(rng)),
    "squared_distances": lambda rng: Call((updates(rng),), threads(rng)),
    "geometric_median": lambda rng: Call(
        (updates(rng), weights(rng), floats(rng, 7)), threads(rng) | {"smoothing": 1e-6, "rounds": 3}
    ),
    "centered_clipping": lambda rng: Call((updates(rng), floats(rng, 7)), threads(rng) | {"radius": 1.0, "rounds": 3}),
    "accumulate_u32": lambda rng: Call((integers(rng, 0, 99, 33, dtype="u4"), integers(rng, 0, 99, 33, dtype="u4"))),
    "pack_bits": lambda rng: Call((integers(rng, 0, 8, 33, dtype="u4"), rng.choice([3, 8, 32]))),
    "unpack_bits": lambda rng: Call((rng.randbytes(25), 8, 25)),
    "top_k": lambda rng: Call((floats(rng, 33), rng.choice([0, 1, 33])), take(rng)),
    "max_magnitude": lambda rng: Call((floats(rng, 33),)),
    "l2_norm_above": lambda rng: Call((floats(rng, 33),)),
    "quantize_stochastic": lambda rng: Call(
        (generator(rng), floats(rng, 33), 8.0, rng.choice([1, 2, 4, 8])), take(rng)
    ),
    "dequantize": dequantize,
    "pack_signs": lambda rng: Call((floats(rng, 33),), take(rng)),
    "unpack_signs": lambda rng: Call((rng.randbytes(5), 0.5, 33)),
    "add_mask": lambda rng: Call((integers(rng, 0, 99, 33, dtype="u4"), SEED, SEED[:12])),
    "subtract_mask": lambda rng: Call((integers(rng, 0, 99, 33, dtype="u4"), SEED, SEED[:12])),
}

CALLS: dict[str, Callable[[random.Random], Call]] = {
    "Network": lambda rng: Call(rng.choice(NETWORKS)),
    "Network.predict": with_network(lambda rng, net: Call(data(rng, net)[:2])),
    "Network.loss": with_network(lambda rng, net: Call(data(rng, net))),
    "Network.gradient": with_network(gradient),
    "Network.clipped_gradient": with_network(clipped_gradient),
    "Network.train": with_network(train),
    "Network.train_privately": with_network(train_privately),
    "Network.workspace_bytes": with_network(workspace_bytes),
    **{
        f"Network.{name}": with_network(lambda rng, net: Call())
        for name in ("inputs", "outputs", "parameter_count", "trained_count", "shapes", "layout", "initial")
    },
    "NoiseReservoir": lambda rng: Call((rng.choice([0, 16, 24]), rng.choice([1, 10_000]))),
    "NoiseReservoir.take": reservoir_take,
    "NoiseReservoir.add_to": lambda rng: Call(
        (reservoir(rng), integers(rng, -1000, 1000, 33, dtype="i8")), method=True
    ),
    **{
        f"NoiseReservoir.{name}": lambda rng: Call((reservoir(rng),), method=True)
        for name in ("close", "ready", "capacity", "log2_scale")
    },
    "SystemRng": lambda rng: Call(),
    "SystemRng.bytes": lambda rng: Call((_kernels.SystemRng(), rng.choice([0, 1, 100])), method=True),
    "seeded.SeededRng": lambda rng: Call((SEED,)),
    "seeded.SeededRng.bytes": lambda rng: Call((_kernels.seeded.SeededRng(SEED), rng.choice([0, 1, 100])), method=True),
    "clip_l1": lambda rng: Call((floats(rng, rng.choice([0, 1, 33])), 1.0)),
    "clip_l2": lambda rng: Call((floats(rng, rng.choice([0, 1, 33])), 1.0)),
    "quantize_l1": lambda rng: Call((floats(rng, rng.choice([0, 1, 33])), 1.0, 1000)),
    "quantize_l2": lambda rng: Call((floats(rng, rng.choice([0, 1, 33])), 1.0, 1000)),
    "integer_l1_norm": lambda rng: Call((integers(rng, -(2**31), 2**31, 33),)),
    "discrete_laplace": draws(lambda rng: rng.choice([0, 1, 16, 24])),
    "discrete_gaussian": draws(lambda rng: rng.choice([1, 2, 1000, 2**27])),
    "laplace_share": draws(lambda rng: rng.choice([0, 1, 16, 24]), lambda rng: rng.choice([1, 2, 50])),
    "accumulate_f32": lambda rng: Call((floats(rng, 33, dtype="f8"), floats(rng, 33), 0.5)),
    "accumulate_i32": lambda rng: Call((integers(rng, -1000, 1000, 33, dtype="i8"), integers(rng, -1000, 1000, 33))),
    **AGGREGATION,
}
