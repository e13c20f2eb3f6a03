"""The native kernels against what one would write with NumPy: paired, interleaved runs, medians.

``ratio`` says how many times faster ours is than the peer, whatever the unit. FEDGE_ISA chooses the instruction set of
ours; OPENBLAS_NUM_THREADS=1 keeps NumPy to one thread, as ours is.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime import _kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAIRS = 15


def cases() -> Iterator[dict[str, Any]]:
    """One dict per case: case, ours, peer, ratio, unit, peer_name."""
    for case in (train_step(), discrete_laplace()):
        yield case | {"case": f"{case['case']} ({_kernels.isa})"}


def paired_s(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of each, and the median of the pairs' ratios peer / ours; the order within a pair alternates."""
    ours_s: list[float] = []
    peer_s: list[float] = []
    for i in range(PAIRS + 1):
        for run, times in ((ours, ours_s), (peer, peer_s)) if i % 2 else ((peer, peer_s), (ours, ours_s)):
            started_s = time.perf_counter()
            run()
            times.append(time.perf_counter() - started_s)
    del ours_s[0], peer_s[0]  # the first pair fills caches and page tables
    ratios = [p / o for o, p in zip(ours_s, peer_s, strict=True)]
    return statistics.median(ours_s), statistics.median(peer_s), statistics.median(ratios)


def train_step() -> dict[str, Any]:
    """One epoch of 20 SGD steps on 561-64-32-6 with ReLU, batch 64, softmax cross-entropy: milliseconds a step."""
    widths, batch, steps = [561, 64, 32, 6], 64, 20
    described = [{"type": "dense", "units": units} for units in widths[1:]]
    relu = {"type": "relu"}
    net = _kernels.Network(
        (widths[0],), [described[0], relu, described[1], relu, described[2]], "softmax_cross_entropy"
    )
    rng = np.random.default_rng(0)
    start = (rng.standard_normal(net.parameter_count) * 0.05).astype(np.float32)
    x = rng.standard_normal((batch * steps, widths[0])).astype(np.float32)
    y = rng.integers(0, widths[-1], len(x)).astype(np.int32)
    order = rng.permutation(len(x))
    mine, theirs = start.copy(), start.copy()
    layers = [
        (theirs[at : at + o * i].reshape(i, o).T, theirs[at + o * i : at + o * i + o])
        for (_, at, (i, o)), _ in zip(net.layout()[::2], net.layout()[1::2], strict=True)
    ]
    onehot = np.eye(widths[-1], dtype=np.float32)

    def ours() -> None:
        net.train(mine, x, y, order, batch_size=batch, learning_rate=0.01)

    def peer() -> None:
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            inputs = [x[rows]]
            for w, b in layers[:-1]:
                inputs.append(np.maximum(inputs[-1] @ w.T + b, 0))
            w, b = layers[-1]
            logits = inputs[-1] @ w.T + b
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            delta = (p - onehot[y[rows]]) / np.float32(len(rows))
            for index in range(len(layers) - 1, -1, -1):
                w, b = layers[index]
                dw, db = delta.T @ inputs[index], delta.sum(axis=0)
                if index:
                    delta = (delta @ w) * (inputs[index] > 0)
                w -= np.float32(0.01) * dw
                b -= np.float32(0.01) * db

    ours_s, peer_s, ratio = paired_s(ours, peer)
    if not np.allclose(mine, theirs, atol=1e-3):
        raise AssertionError("the two trainers disagree: the comparison is void")
    return {
        "case": "train step, MLP 561-64-32-6, batch 64",
        "ours": ours_s / steps * 1e3,
        "peer": peer_s / steps * 1e3,
        "ratio": ratio,
        "unit": "ms",
        "peer_name": "NumPy written by hand",
    }


def discrete_laplace() -> dict[str, Any]:
    """Exact integer noise at m = 16 against NumPy's floating-point Laplace (no mechanism): M samples a second."""
    count, m = 1 << 18, 16
    secure, unsafe = _kernels.SystemRng(), np.random.default_rng()
    ours_s, peer_s, ratio = paired_s(
        lambda: _kernels.discrete_laplace(secure, count, m), lambda: unsafe.laplace(0.0, 94548.0, count)
    )
    return {
        "case": "discrete Laplace, m = 16",
        "ours": count / ours_s / 1e6,
        "peer": count / peer_s / 1e6,
        "ratio": ratio,
        "unit": "M samples/s",
        "peer_name": "numpy laplace float64 (unsafe)",
    }
