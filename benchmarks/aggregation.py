"""Rules, encodings and masks beside NumPy's and, where it is installed, Flower 1.42's: 50 updates of 1 M floats, one
thread.

Runs are interleaved and counted in CPU time, which a shared machine disturbs less than time by the wall; medians.
``ratio`` says how many times faster ours is than the peer. FEDGE_ISA chooses the instruction set of ours;
OPENBLAS_NUM_THREADS=1 keeps NumPy to one thread, as ours is. Flower's own functions run in the environment that ``make
bench-setup`` makes, on the same numbers.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from coordinator import aggregation, robust
from edge_runtime import _kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

ROUNDS = 7
UPDATES, SIZE, LIARS = 50, 1_000_000, 10
_PYTHON = Path(__file__).parent.parent / ".bench-venv" / "bin" / "python"

_FLOWER = """\
import json, sys, time
import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import fedtrimmedavg, multikrum, strategy_utils
n, size, liars, seed = map(int, sys.argv[1:])
updates = np.random.default_rng(seed).standard_normal((n, size), dtype=np.float32)
records = [ArrayRecord({"0": Array(update)}) for update in updates]
def weighed(weights):
    pairs = zip(records, weights)
    return [RecordDict({"arrays": r, "metrics": MetricRecord({"num-examples": w})}) for r, w in pairs]
def krum(chosen):
    return strategy_utils.aggregate_arrayrecords(multikrum.select_multikrum(equal, liars, chosen), "num-examples")
def stacked():  # as FedMedian and FedTrimmedAvg do it
    return np.stack([record["0"].numpy() for record in records])
rising, equal = weighed(range(10, 10 + n)), weighed([1] * n)
rules = {
    "mean": lambda: strategy_utils.aggregate_arrayrecords(rising, "num-examples"),
    "median": lambda: ArrayRecord({"0": Array(np.asarray(np.median(stacked(), axis=0)))}),
    "trimmed mean": lambda: ArrayRecord({"0": Array(np.asarray(fedtrimmedavg.trim_mean(stacked(), liars / n)))}),
    "Krum": lambda: krum(1),
    "multi-Krum": lambda: krum(n - liars - 2),
}
for line in sys.stdin:
    started_s = time.process_time()
    record = rules[json.loads(line)]()
    taken_s = time.process_time() - started_s
    print(json.dumps([taken_s, float(np.abs(record["0"].numpy()).sum(dtype=float))]), flush=True)
"""


def cases() -> Iterator[dict[str, Any]]:
    """One dict per case and peer: case, ours, peer, ratio, unit, peer_name."""
    updates = np.random.default_rng(1).standard_normal((UPDATES, SIZE), dtype=np.float32)
    with Flower(seed=1) as flower:
        for case in (*rules(updates, flower), *encodings(updates[0]), masks()):
            yield from lines(*case)


def lines(name: str, scale: float, unit: str, runs: dict[str, Callable[[], float]]) -> Iterator[dict[str, Any]]:
    """The medians of ``runs``, each of which returns its seconds; "ours" among them is compared with each other one."""
    taken: dict[str, list[float]] = {run: [] for run in runs}
    for _ in range(ROUNDS + 1):
        for run, clocked in runs.items():
            taken[run].append(clocked())
    median_s = {run: statistics.median(times[1:]) for run, times in taken.items()}  # the first fills caches
    for peer, peer_s in median_s.items():
        if peer != "ours":
            yield {
                "case": f"{name} ({_kernels.isa})",
                "ours": median_s["ours"] * scale,
                "peer": peer_s * scale,
                "ratio": peer_s / median_s["ours"],
                "unit": unit,
                "peer_name": peer,
            }


def clock(run: Callable[[], object]) -> Callable[[], float]:
    """``run`` as a function that returns the CPU seconds it took."""

    def clocked() -> float:
        started_s = time.process_time()
        run()
        return time.process_time() - started_s

    return clocked


class Flower:
    """Flower's functions in a process of their own; nothing where it is not installed."""

    def __init__(self, seed: int) -> None:
        self._process: subprocess.Popen[str] | None = None
        if _PYTHON.exists():
            self._process = subprocess.Popen(
                [str(_PYTHON), "-c", _FLOWER, str(UPDATES), str(SIZE), str(LIARS), str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )

    def __enter__(self) -> Flower:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()

    def run(self, rule: str, ours: NDArray[np.float32]) -> dict[str, Callable[[], float]]:
        """Flower's ``rule``, which must agree with ``ours``."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return {}
        to, answers = process.stdin, process.stdout

        def clocked() -> float:
            print(json.dumps(rule), file=to, flush=True)
            taken_s, checksum = json.loads(answers.readline())
            if not np.isclose(checksum, np.abs(ours).sum(dtype=float), rtol=1e-4):
                raise AssertionError(f"{rule}: Flower's result is another one, the comparison is void")
            return float(taken_s)

        return {"Flower 1.42": clocked}


def rules(updates: NDArray[np.float32], flower: Flower) -> Iterator[tuple[str, float, str, dict[str, Any]]]:
    """Each rule on the same updates: milliseconds."""
    weights = np.arange(10, 10 + UPDATES, dtype=np.float64)
    weights32 = (weights / weights.sum()).astype(np.float32)
    pairs = [(update, int(weight)) for update, weight in zip(updates, weights, strict=True)]

    def gram() -> NDArray[np.float32]:
        norms = np.einsum("ij,ij->i", updates, updates)
        squares: NDArray[np.float32] = norms[:, None] + norms[None] - 2 * (updates @ updates.T)
        return squares

    def weiszfeld() -> NDArray[np.float32]:
        z = np.median(updates, axis=0)
        for _ in range(3):
            pulls = 1 / np.maximum(1e-6, np.linalg.norm(updates - z, axis=1))
            z = (pulls / pulls.sum()) @ updates
        return z

    def ours(rule: str, run: Callable[[], NDArray[np.float32]]) -> dict[str, Any]:
        return {"ours": clock(run)} | flower.run(rule, run())

    name = f"{UPDATES} x {SIZE // 1_000_000} M"
    mean = ours("mean", lambda: _kernels.weighted_mean(updates, weights))
    yield f"mean, {name}", 1e3, "ms", mean | {"numpy w @ M in float32": clock(lambda: weights32 @ updates)}
    streamed = {"ours": clock(lambda: aggregation.weighted_mean(iter(pairs), SIZE))}
    yield (
        f"mean, {name}, streamed",
        1e3,
        "ms",
        streamed | {"numpy w @ M in float32": clock(lambda: weights32 @ updates)},
    )
    sort = {"numpy sort": clock(lambda: np.sort(updates, axis=0))}
    yield f"median, {name}", 1e3, "ms", ours("median", lambda: _kernels.coordinate_median(updates)) | sort
    trimmed = ours("trimmed mean", lambda: robust.trimmed_mean(updates, liars=LIARS))
    yield f"trimmed mean, {name}, {LIARS} at each end", 1e3, "ms", trimmed | sort
    krum = ours("Krum", lambda: robust.krum(updates, liars=LIARS))
    yield f"Krum, {name}", 1e3, "ms", krum | {"numpy Gram matrix in float32": clock(gram)}
    most = UPDATES - LIARS - 2
    multi = ours("multi-Krum", lambda: robust.multi_krum(updates, liars=LIARS, chosen=most))
    yield f"multi-Krum, {name}", 1e3, "ms", multi | {"numpy Gram matrix in float32": clock(gram)}
    geometric = {"ours": clock(lambda: robust.geometric_median(updates, liars=LIARS))}
    yield f"geometric median, {name}, 3 steps", 1e3, "ms", geometric | {"numpy by hand": clock(weiszfeld)}


def encodings(update: NDArray[np.float32]) -> Iterator[tuple[str, float, str, dict[str, Any]]]:
    """Each encoding of one update: milliseconds."""
    k, rng, source = SIZE // 100, _kernels.SystemRng(), np.random.default_rng(2)
    norm = _kernels.max_magnitude(update)
    yield (
        f"top-k, 1 % of {SIZE // 1_000_000} M",
        1e3,
        "ms",
        {
            "ours": clock(lambda: _kernels.top_k(update, k)),
            "numpy argpartition": clock(lambda: np.argpartition(np.abs(update), -k)[-k:]),
        },
    )
    for bits in (8, 4, 2):
        s = 2 ** (bits - 1) - 1

        def by_hand(s: int = s) -> object:
            level = np.floor(update * (s / norm) + source.random(SIZE, dtype=np.float32))
            return (level + s).astype(np.uint8)

        yield (
            f"quantize {SIZE // 1_000_000} M to {bits} bits",
            1e3,
            "ms",
            {
                "ours": clock(partial(_kernels.quantize_stochastic, rng, update, norm, bits)),
                "numpy by hand, not packed": clock(by_hand),
            },
        )
    yield (
        f"signs of {SIZE // 1_000_000} M",
        1e3,
        "ms",
        {
            "ours": clock(lambda: _kernels.pack_signs(update)),
            "numpy packbits": clock(lambda: (np.packbits(np.signbit(update)), np.abs(update).mean())),
        },
    )


def masks() -> tuple[str, float, str, dict[str, Any]]:
    """A mask of 16 MiB added: seconds a gigabyte."""
    values, key, nonce = np.zeros(1 << 22, np.uint32), bytes(32), bytes(12)
    zeros = bytes(values.nbytes)

    def openssl() -> None:
        stream = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None).encryptor().update(zeros)
        np.add(values, np.frombuffer(stream, "<u4"), out=values)

    ours = {"ours": clock(lambda: _kernels.add_mask(values, key, nonce))}
    return "mask of 16 MiB", 1e9 / values.nbytes, "s/GB", ours | {"OpenSSL's ChaCha20 and numpy add": clock(openssl)}
