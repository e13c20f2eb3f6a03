"""The sampler against what one would write with NumPy: paired, interleaved runs, medians.

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
    case = discrete_laplace()
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
