"""Every instruction set gives the same bits, and FEDGE_ISA is obeyed or refused."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import _kernels
from edge_runtime._kernels import seeded

EVERY_ISA = ["baseline", "neon", "avx2", "avx512"]
X86 = platform.machine() in ("x86_64", "AMD64")
HERE = [isa for isa in EVERY_ISA if isa == "baseline" or isa.startswith("avx") == X86]


def add_noise(add):
    for m in range(33):
        add("discrete_laplace", _kernels.discrete_laplace(seeded.SeededRng(bytes([m]) * 32), 5000, m))
    for sigma in (1, 2, 3, 1000, 94_548, 2**27 + 1, 2**30):
        generator = seeded.SeededRng(sigma.to_bytes(32, "little"))
        add("discrete_gaussian", _kernels.discrete_gaussian(generator, 5000, sigma))
    for m, shares in ((0, 1), (6, 3), (16, 100), (24, 2**20)):
        add("laplace_share", _kernels.laplace_share(seeded.SeededRng(bytes([m]) * 32), 2000, m, shares))


def results():
    """Digests of what every kernel gives for fixed inputs, over shapes that leave tails at every width."""
    rng, hashes = np.random.default_rng(0), {}

    def add(name, *parts):
        hashes.setdefault(name, hashlib.sha256())
        for part in parts:
            hashes[name].update(part if isinstance(part, bytes) else np.asarray(part).tobytes())

    for widths in ([561, 64, 32, 6], [3, 2], [9, 17, 5, 3], [40, 33, 31], [16, 8, 1], [130, 70, 3], [1601, 5, 2]):
        layers = [layer for units in widths[1:] for layer in ({"type": "dense", "units": units}, {"type": "relu"})]
        net = _kernels.Network((widths[0],), layers[:-1], "softmax_cross_entropy")
        for batch in (1, 2, 3, 7, 64, 65):
            params = (rng.standard_normal(net.parameter_count) * 0.3).astype(np.float32)
            x = rng.standard_normal((2 * batch, widths[0])).astype(np.float32)
            y = rng.integers(0, widths[-1], len(x)).astype(np.int32)
            out = np.empty_like(params)
            add("predict", net.predict(params, x, reproducible=True))
            add("gradient", net.gradient(params, x, y, out, reproducible=True), out)
            settings = {"batch_size": batch, "learning_rate": 0.01, "momentum": 0.5, "reproducible": True}
            net.train(params, x, y, np.arange(len(x)), **settings)
            add("train", params)
    for d in (1, 7, 1003, 5000):
        acc, x = rng.standard_normal(d), rng.standard_normal(d).astype(np.float32)
        for weight in (0.1, 3.0, 1e9):
            _kernels.accumulate_f32(acc, x, weight)
        add("accumulate_f32", acc)
    for n in (1, 64, 4064, 10_001):
        add("bytes", seeded.SeededRng(bytes(32)).bytes(n))
    add_noise(add)
    for n, d in ((1, 5), (2, 1), (3, 1003), (8, 77), (17, 33), (50, 5000), (70, 20_000)):
        updates = (rng.standard_normal((n, d)) * 10.0 ** rng.integers(-3, 4, (n, 1))).astype(np.float32)
        weights, start = rng.random(n) + 0.5, updates[0]
        add("weighted_sum", _kernels.weighted_sum(updates, weights))
        add("weighted_mean", _kernels.weighted_mean(updates, weights))
        add("coordinate_median", _kernels.coordinate_median(updates))
        add("trimmed_mean", _kernels.trimmed_mean(updates, n // 3))
        add("squared_distances", _kernels.squared_distances(updates))
        add("geometric", _kernels.geometric_median(updates, weights, start, smoothing=1e-6, rounds=3))
        add("clipping", _kernels.centered_clipping(updates, start, radius=1.0, rounds=2))
        words = updates.view(np.uint32)[0].copy()
        _kernels.add_mask(words, bytes(range(32)), bytes(12))
        _kernels.accumulate_u32(words, updates[-1].view(np.uint32))
        add("masked", words)
        add("top_k", *_kernels.top_k(start, d // 2))
        add("signs", *_kernels.pack_signs(start))
        for bits in (1, 2, 4, 8):
            norm, generator = _kernels.l2_norm_above(start), seeded.SeededRng(bytes([bits]) * 32)
            add("quantized", _kernels.quantize_stochastic(generator, start, norm, bits))
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def run(isa):
    """(exit code, its output) of this file run as a program under ``FEDGE_ISA=isa``."""
    environment = os.environ | {"FEDGE_ISA": isa}
    done = subprocess.run(
        [sys.executable, Path(__file__)], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("isa", HERE)
def test_every_instruction_set_gives_the_same_bits(isa):
    code, output = run(isa)
    if "this machine lacks" in output:
        pytest.skip(f"no {isa} here")
    assert code == 0, output
    assert output.split("\n", 1) == [isa, f"{results()}\n"]


def test_the_noise_of_fixed_keys_is_the_golden_noise():
    """What a seed means never changes, on any machine: replays of old runs depend on it."""
    hashes = {}
    add_noise(lambda name, draws: hashes.setdefault(name, hashlib.sha256()).update(draws.tobytes()))
    assert {name: digest.hexdigest()[:32] for name, digest in hashes.items()} == {
        "discrete_laplace": "be7f2e2dbc1b2fe6bf2a726195bed87d",
        "discrete_gaussian": "224f1e112564039dc83328cf9e7f3c90",
        "laplace_share": "ab04d102f137e57f763df61dbee5a035",
    }


def test_unset_and_empty_take_the_widest():
    code, output = run("")
    assert code == 0, output
    assert output.split()[0] == _kernels.isa or os.environ.get("FEDGE_ISA")


def test_an_unknown_name_is_refused_at_import():
    code, output = run("sse9")
    assert code != 0
    assert "ImportError: want FEDGE_ISA among baseline, neon, avx2, avx512; got 'sse9'" in output


@pytest.mark.parametrize("isa", [isa for isa in EVERY_ISA if isa not in HERE] or ["avx2", "avx512"])
def test_a_set_that_the_machine_lacks_is_refused_at_import(isa):
    code, output = run(isa)
    assert code == 0 or f"ImportError: FEDGE_ISA={isa}, which this machine lacks" in output


if __name__ == "__main__":
    print(_kernels.isa)
    print(results())
