"""The discrete Gaussian sampler: its words read by an independent reader, the audit that planted faults fail, the
precision attack.
"""

import math

import numpy as np
import pytest

from edge_runtime import _kernels
from edge_runtime._kernels import seeded

TRIALS, COLUMNS, SPARES = 1024, 16, 4
N = 1 << 20


def rng(seed=0):
    return seeded.SeededRng(bytes([seed]) * 32)


def law(sigma, reach=None):
    values = np.arange(-(reach or 9 * sigma), (reach or 9 * sigma) + 1, dtype=float)
    p = np.exp(-(values**2) / (2 * sigma**2))
    return p / p.sum()


# --- the audit


@pytest.mark.parametrize("sigma", [1, 2, 3, 17, 64, 1000, 94_548])
@pytest.mark.parametrize("seed", [1, 2])
def test_samples_pass_the_audit(audit, sigma, seed):
    scores = audit(law(sigma), _kernels.discrete_gaussian(rng(seed), N, sigma))
    assert max(map(abs, scores.values())) < 4, scores
    assert all(abs(scores[moment]) < 3 for moment in ("mean", "variance")), scores


def test_samples_of_the_system_generator_pass_the_audit(audit):
    scores = audit(law(1000), _kernels.discrete_gaussian(_kernels.SystemRng(), N, 1000))
    assert max(map(abs, scores.values())) < 6, scores  # unseeded: a false alarm in ten million runs


@pytest.mark.parametrize("sigma", [2**30, 2**30 - 1, 2**27 + 1, 10**9])
def test_the_widest_laws_have_their_moments_and_tails(sigma):
    x = _kernels.discrete_gaussian(rng(3), N, sigma) / sigma
    assert abs(x.mean()) < 3 / math.sqrt(N)
    assert abs((x**2).mean() - 1) < 3 * math.sqrt(2 / N)
    for far in (1, 2, 3, 4):
        p = math.erfc(far / math.sqrt(2))
        assert abs((np.abs(x) > far).sum() - N * p) < 4 * math.sqrt(N * p)


def plain(generator, sigma, n=N):
    """A true sampler by another road: inverting the distribution function in double precision."""
    reach = 9 * sigma
    return np.searchsorted(np.cumsum(law(sigma)), generator.random(n)).astype(np.int64) - reach


FAULTS = {
    "a scale one per cent off": lambda x, _: np.rint(x * 1.01).astype(np.int64),
    "a sign that favours the positive": lambda x, u: np.where(u < 0.01, np.abs(x), x),
    "a centre at minus one half": lambda x, u: np.where((u < 0.5) & (x <= 0), x - 1, x),
    "a tail cut at three sigma": lambda x, _: np.clip(x, -3000, 3000),
    "a low bit stuck in one draw of fifty": lambda x, u: np.where(u < 0.02, x | 1, x),
    "a draw repeated in one of a hundred": lambda x, u: np.where(u < 0.01, np.roll(x, 1), x),
    "a shift of one hundredth of sigma": lambda x, _: x + 10,
    "a strip taken too often": lambda x, u: np.where((u < 0.05) & (np.abs(x) < 512), x + 512, x),
}


def test_the_audit_passes_a_true_sampler_of_another_make(audit):
    assert max(map(abs, audit(law(1000), plain(np.random.default_rng(5), 1000)).values())) < 4


@pytest.mark.parametrize("fault", FAULTS)
def test_the_audit_fails_every_planted_fault(audit, fault):
    generator = np.random.default_rng(6)
    x = FAULTS[fault](plain(generator, 1000), generator.random(N))
    assert max(map(abs, audit(law(1000), x).values())) > 5


# --- the stream and the arguments


def plain_block(words, sigma):
    """The accepted values of one block's words, in double precision; fails where that leaves a trial undecided."""
    bits = 0 if sigma == 1 else (sigma - 1).bit_length() - 1
    width = 1 << bits
    strips = -(-52 * sigma // (5 * width))
    weights = np.exp(-((np.arange(strips, dtype=np.int64) * width / sigma) ** 2) / 2)
    thresholds = np.cumsum(weights)[:-1] / weights.sum() * 2**32
    u, places, tosses = words[: 3 * TRIALS].reshape(3, TRIALS).astype(np.int64)
    assert np.abs(u[:, None] - thresholds).min() > 1
    strip = (u[:, None] >= thresholds).sum(axis=1, dtype=np.int64)
    negative, place = places >> 31, (places & 0x7FFFFFFF) >> (31 - bits)
    value = np.where(negative == 1, -(strip * width + place) - 1, strip * width + place)
    chance = np.exp(-(value.astype(float) ** 2 - (strip * width).astype(float) ** 2) / (2 * sigma**2)) * 2**32
    assert (np.abs(tosses - chance) > 4).all()
    return value[tosses < chance]


@pytest.mark.parametrize("sigma", [1, 2, 3, 5, 1000, 2**20, 2**27 + 5, 2**30])
def test_samples_come_from_the_documented_words(sigma):
    blocks = 10
    length = 3 * TRIALS + 4 * SPARES
    words = np.frombuffer(rng(3).bytes(4 * blocks * length), "<u4").reshape(blocks, length)
    want = np.concatenate([plain_block(block, sigma) for block in words])
    np.testing.assert_array_equal(_kernels.discrete_gaussian(rng(3), len(want), sigma), want)


def test_a_shorter_draw_is_the_start_of_a_longer_one():
    long = _kernels.discrete_gaussian(rng(), 5000, 1000)
    for count in (0, 1, 700, 1024, 1025, 4999):
        np.testing.assert_array_equal(_kernels.discrete_gaussian(rng(), count, 1000), long[:count])


@pytest.mark.parametrize("sigma", [1, 1000, 2**27])
def test_an_array_to_fill_gets_the_same_numbers_in_either_width(sigma):
    want = _kernels.discrete_gaussian(rng(), 3000, sigma)
    for dtype in (np.int32, np.int64):
        out = np.empty(3000, dtype)
        assert _kernels.discrete_gaussian(rng(), 3000, sigma, out=out) is out
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize(
    ("count", "sigma", "error", "words"),
    [
        (-1, 10, ValueError, r"want count in \[0, 268435456\]; got -1"),
        (5, 0, ValueError, r"want sigma in \[1, 1073741824\]; got 0"),
        (5, 2**30 + 1, ValueError, r"want sigma in \[1, 1073741824\]; got 1073741825"),
        (5, 1.5, TypeError, r"want sigma a whole number; got 1\.5"),
    ],
)
def test_counts_and_scales_out_of_range_are_refused(count, sigma, error, words):
    with pytest.raises(error, match=words):
        _kernels.discrete_gaussian(rng(), count, sigma)


def test_an_array_too_narrow_for_the_law_is_refused():
    with pytest.raises(ValueError, match=r"want sigma of at most 2\*\*27 for out of int32"):
        _kernels.discrete_gaussian(rng(), 5, 2**27 + 1, out=np.empty(5, np.int32))
    with pytest.raises(ValueError, match=r"want out \(count=5,\) int64"):
        _kernels.discrete_gaussian(rng(), 5, 10, out=np.empty(4, np.int64))
    with pytest.raises(TypeError, match="want out"):
        _kernels.discrete_gaussian(rng(), 5, 10, out=np.empty(5))


# --- the precision attack (Haney et al. 2022)


def low_bit_histograms(release):
    """How often each lowest set bit occurs among outputs near 0, for input 0 and for input 1."""
    histograms = []
    for value in (0, 1):
        y = release(value)
        y = y[(np.abs(y) < 0.25) & (y != 0)]
        mantissa, exponent = np.frexp(y)
        whole = (mantissa * 2**53).astype(np.int64)
        lowest = exponent - 53 + np.log2((whole & -whole).astype(np.float64)).astype(int)
        histograms.append(np.bincount((lowest + 100).astype(np.intp), minlength=200) / len(y))
    return histograms


def test_low_bits_give_away_the_input_of_floating_point_noise():
    generator = np.random.default_rng(7)
    zero, one = low_bit_histograms(lambda value: value + generator.normal(0, 1, 400_000))
    assert zero[one == 0].sum() > 0.5  # one output of two tells, with certainty


@pytest.mark.parametrize("sigma", [1000, 94_548])
def test_low_bits_give_away_nothing_of_ours(sigma):
    generator = rng(8)

    def release(value):
        return (value * sigma + _kernels.discrete_gaussian(generator, 400_000, sigma)) / sigma

    zero, one = low_bit_histograms(release)
    assert zero[one == 0].sum() < 1e-3
    assert np.abs(zero - one).sum() / 2 < 0.05
