"""Polya shares: each against its own law, sums against the discrete Laplace law, an audit that planted faults fail."""

import numpy as np
import pytest

from edge_runtime import _kernels
from edge_runtime._kernels import seeded


def rng(seed=0):
    return seeded.SeededRng(seed.to_bytes(32, "little"))


def ratio(m):
    return 2.0 ** -(2.0**-m)


def laplace_law(m):
    """P(x) proportional to q^|x|, up to where the rest is below e^-30."""
    reach = int(45 * 2**m)
    p = ratio(m) ** np.abs(np.arange(-reach, reach + 1))
    return p / p.sum()


def share_law(m, shares):
    """The difference of two negative binomial variables of parameters 1 / shares and q, by their recursion."""
    q, r, reach = ratio(m), 1 / shares, int(45 * 2**m)
    k = np.arange(reach)
    half = (1 - q) ** r * np.concatenate([[1.0], np.cumprod(q * (k + r) / (k + 1))])
    size = 1 << (2 * len(half)).bit_length()
    transform = np.fft.rfft(half, size)
    p = np.fft.irfft(transform * np.conj(transform), size)
    p = np.maximum(np.concatenate([p[-reach:], p[: reach + 1]]), 0)
    return p / p.sum()


@pytest.mark.parametrize(("m", "shares", "n"), [(0, 1, 30_000), (3, 2, 60_000), (8, 10, 200_000), (8, 300, 1 << 20)])
@pytest.mark.parametrize("seed", [2, 3])
def test_a_share_passes_the_audit(audit, m, shares, n, seed):
    scores = audit(share_law(m, shares), _kernels.laplace_share(rng(seed), n, m, shares))
    assert max(map(abs, scores.values())) < 4, scores
    assert all(abs(scores[moment]) < 3 for moment in ("mean", "variance")), scores


def test_shares_of_the_system_generator_pass_the_audit(audit):
    scores = audit(share_law(6, 50), _kernels.laplace_share(_kernels.SystemRng(), 1 << 19, 6, 50))
    assert max(map(abs, scores.values())) < 6, scores  # unseeded


@pytest.mark.parametrize(("m", "shares", "n"), [(0, 4, 200_000), (5, 3, 100_000), (8, 64, 300_000), (4, 1000, 20_000)])
def test_the_sum_of_all_shares_is_discrete_laplace(audit, m, shares, n):
    total = sum(_kernels.laplace_share(rng(1000 * m + index), n, m, shares) for index in range(shares))
    scores = audit(laplace_law(m), total)
    assert max(map(abs, scores.values())) < 4, scores
    assert all(abs(scores[moment]) < 3 for moment in ("mean", "variance")), scores


def test_the_sum_holds_modulo_two_to_the_thirty_two(audit):
    """As secure aggregation adds: in uint32, under masks that cancel."""
    m, shares, n = 5, 8, 100_000
    masks = np.random.default_rng(3).integers(0, 2**32, (shares - 1, n), dtype=np.uint32)
    masks = np.vstack([masks, -masks.sum(axis=0, dtype=np.uint32)])
    total = np.zeros(n, np.uint32)
    for index, mask in enumerate(masks):
        share = np.empty(n, np.int32)
        _kernels.laplace_share(rng(77 + index), n, m, shares, out=share)
        total += share.view(np.uint32) + mask
    assert max(map(abs, audit(laplace_law(m), total.view(np.int32).astype(np.int64)).values())) < 4


def test_too_few_shares_have_the_variance_that_they_should():
    """With half of the shares, half of the variance: calibrate to the honest minimum."""
    m, shares, n = 6, 20, 200_000
    total = sum(_kernels.laplace_share(rng(500 + index), n, m, shares) for index in range(shares // 2))
    variance = 2 * ratio(m) / (1 - ratio(m)) ** 2 / 2
    assert abs((total.astype(float) ** 2).mean() / variance - 1) < 0.03


def plain(generator, m, shares, n):
    """True shares by another road: negative binomial variables as NumPy draws them."""
    first, second = (generator.negative_binomial(1 / shares, 1 - ratio(m), n) for _ in range(2))
    return (first - second).astype(np.int64)


FAULTS = {
    "a scale two per cent off": lambda x, _: np.rint(x * 1.02).astype(np.int64),
    "a sign that favours the positive": lambda x, u: np.where(u < 0.02, np.abs(x), x),
    "a tail cut at three scales": lambda x, _: np.clip(x, -(4 << 8), 4 << 8),
    "a zero that is none in one draw of fifty": lambda x, u: np.where((u < 0.02) & (x == 0), 1, x),
    "a draw repeated in one of fifty": lambda x, u: np.where(u < 0.02, np.roll(x, 1), x),
    "one share too few": lambda x, u: np.where(u < 0.1, 0, x),
    "an even size one higher in one draw of twenty": lambda x, u: np.where((u < 0.05) & (x > 0), x | 1, x),
}
N = 1 << 20


def test_the_audit_passes_true_shares_of_another_make(audit):
    assert max(map(abs, audit(share_law(8, 10), plain(np.random.default_rng(5), 8, 10, N)).values())) < 4


@pytest.mark.parametrize("fault", FAULTS)
def test_the_audit_fails_every_planted_fault(audit, fault):
    generator = np.random.default_rng(6)
    x = FAULTS[fault](plain(generator, 8, 10, N), generator.random(N))
    assert max(map(abs, audit(share_law(8, 10), x).values())) > 5


def test_a_shorter_draw_is_the_start_of_a_longer_one_in_either_width():
    long = _kernels.laplace_share(rng(), 1500, 10, 20)
    for count in (0, 1, 511, 512, 513):
        np.testing.assert_array_equal(_kernels.laplace_share(rng(), count, 10, 20), long[:count])
        out = np.empty(count, np.int32)
        assert _kernels.laplace_share(rng(), count, 10, 20, out=out) is out
        np.testing.assert_array_equal(out, long[:count])


@pytest.mark.parametrize(
    ("m", "shares", "error", "words"),
    [
        (25, 1, ValueError, r"want log2_scale in \[0, 24\]; got 25"),
        (10, 0, ValueError, r"want shares in \[1, 1048576\]; got 0"),
        (10, 2**20 + 1, ValueError, r"want shares in \[1, 1048576\]; got 1048577"),
        (10, 2.0, TypeError, r"want shares a whole number; got 2\.0"),
    ],
)
def test_scales_and_shares_out_of_range_are_refused(m, shares, error, words):
    with pytest.raises(error, match=words):
        _kernels.laplace_share(rng(), 5, m, shares)
