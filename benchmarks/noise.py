"""The noise samplers against what a user would otherwise call: M samples a second, paired and interleaved.

``ratio`` says how many times faster ours is. FEDGE_ISA chooses the instruction set of ours. Peers that draw floats are
no mechanism (docs/noise.md, section 6), only what is commonly used; OpenDP's are exact. A peer that is not installed
beside this Python is looked for in ``.bench-venv`` (``make bench-setup``); where it is not there either, peer_name says
so and peer and ratio are left out.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime import _kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNT, PAIRS = 1 << 18, 15
PEER_PYTHON = Path(__file__).parents[1] / ".bench-venv" / "bin" / "python"
TORCH = """
import time, torch
torch.set_num_threads(1)
law = torch.distributions.{law}(torch.tensor(0.0), torch.tensor(94548.0))
best = min((lambda t: (law.sample((262144,)), time.perf_counter() - t)[1])(time.perf_counter()) for _ in range(15))
print(0.262144 / best)
"""
OPENDP = """
import time, opendp.prelude as dp
dp.enable_features("contrib")
law = dp.m.make_{law}(dp.vector_domain(dp.atom_domain(T=int)), dp.{metric}(T=int), scale=94548.0)
zeros = [0] * 20000
law(zeros[:100])
best = min((lambda t: (law(zeros), time.perf_counter() - t)[1])(time.perf_counter()) for _ in range(3))
print(0.02 / best)
"""


def cases() -> Iterator[dict[str, Any]]:
    """One dict per case: case, ours, peer, ratio, unit, peer_name."""
    for case in (*_against_numpy(), *_against_others(), *_shares(), _step()):
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


def _laplace() -> Callable[[], object]:
    rng, out = _kernels.SystemRng(), np.empty(COUNT, np.int64)
    return lambda: _kernels.discrete_laplace(rng, COUNT, 16, out=out)


def _gaussian() -> Callable[[], object]:
    rng, out = _kernels.SystemRng(), np.empty(COUNT, np.int64)
    return lambda: _kernels.discrete_gaussian(rng, COUNT, 94_548, out=out)


def _against_numpy() -> Iterator[dict[str, Any]]:
    """Into memory that is used again, into new memory, and into int32."""
    unsafe, rng, narrow = np.random.default_rng(), _kernels.SystemRng(), np.empty(COUNT, np.int32)
    laplace, normal = (lambda: unsafe.laplace(0.0, 94_548.0, COUNT)), (lambda: unsafe.normal(0.0, 94_548.0, COUNT))
    for name, ours, peer, peer_name in (
        ("discrete Laplace, m = 16", _laplace(), laplace, "numpy laplace float64 (unsafe)"),
        (
            "discrete Laplace, m = 16, into a new array",
            lambda: _kernels.discrete_laplace(rng, COUNT, 16),
            laplace,
            "numpy laplace float64 (unsafe)",
        ),
        (
            "discrete Laplace, m = 16, int32",
            lambda: _kernels.discrete_laplace(rng, COUNT, 16, out=narrow),
            laplace,
            "numpy laplace float64 (unsafe)",
        ),
        ("discrete Gaussian, sigma = 94548", _gaussian(), normal, "numpy normal float64 (unsafe)"),
    ):
        ours_s, peer_s, ratio = paired_s(ours, peer)
        yield _case(name, COUNT / ours_s / 1e6, COUNT / peer_s / 1e6, ratio, peer_name)


def _against_others() -> Iterator[dict[str, Any]]:
    for name, ours, program, peer_name in (
        ("discrete Laplace, m = 16", _laplace(), TORCH.format(law="Laplace"), "torch laplace float32 (unsafe)"),
        ("discrete Gaussian, sigma = 94548", _gaussian(), TORCH.format(law="Normal"), "torch normal float32 (unsafe)"),
        (
            "discrete Laplace, m = 16",
            _laplace(),
            OPENDP.format(law="laplace", metric="l1_distance"),
            "OpenDP laplace (exact)",
        ),
        (
            "discrete Gaussian, sigma = 94548",
            _gaussian(),
            OPENDP.format(law="gaussian", metric="l2_distance"),
            "OpenDP gaussian (exact)",
        ),
    ):
        rate, peer = _best_rate(ours), _peer_rate(program)
        if peer is None:
            yield {"case": name, "ours": rate, "unit": "M samples/s", "peer_name": f"{peer_name}: not installed"}
        else:
            yield _case(name, rate, peer, rate / peer, peer_name)


def _shares() -> Iterator[dict[str, Any]]:
    rng = _kernels.SystemRng()
    for shares in (10, 100, 1000, 100_000):
        count = min(COUNT, 2000 * shares)
        out = np.empty(count, np.int32)

        def draw(count: int = count, shares: int = shares, out: Any = out) -> None:
            _kernels.laplace_share(rng, count, 16, shares, out=out)

        rate = _best_rate(draw, count)
        yield {"case": f"Polya share, m = 16, one of {shares}", "ours": rate, "unit": "M samples/s"}


def _step() -> dict[str, Any]:
    """Noise for 38,246 parameters out of a reservoir that had time to fill, against drawing it: milliseconds."""
    size = 38_246
    reservoir, rng = _kernels.NoiseReservoir(16, 4 * size), _kernels.SystemRng()
    values, noise = np.zeros(size, np.int64), np.empty(size, np.int32)
    ahead_s, drawn_s = [], []
    for _ in range(30):
        while reservoir.ready < size:
            time.sleep(0.001)
        started_s = time.perf_counter()
        reservoir.add_to(values)
        ahead_s.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        _kernels.discrete_laplace(rng, size, 16, out=noise)
        np.add(values, noise, out=values)
        drawn_s.append(time.perf_counter() - started_s)
    ours, peer = float(np.median(ahead_s)) * 1e3, float(np.median(drawn_s)) * 1e3
    return _case("noise on 38,246 sums, drawn ahead", ours, peer, peer / ours, "drawn on the spot", unit="ms")


def _case(
    name: str, ours: float, peer: float, ratio: float, peer_name: str, unit: str = "M samples/s"
) -> dict[str, Any]:
    return {"case": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "peer_name": peer_name}


def _best_rate(run: Callable[[], object], count: int = COUNT) -> float:
    times_s = []
    for _ in range(15):
        started_s = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - started_s)
    return count / min(times_s) / 1e6


def _peer_rate(program: str) -> float | None:
    """What ``program`` prints under the benchmarks' own environment, or None where it cannot run."""
    if not PEER_PYTHON.exists():
        return None
    done = subprocess.run([PEER_PYTHON, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    return float(done.stdout) if done.returncode == 0 else None
