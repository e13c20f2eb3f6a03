"""The discrete Laplace sampler: its table and law in exact arithmetic, an audit that planted faults fail, known
attacks.
"""

import re
from decimal import Decimal, localcontext
from fractions import Fraction
from math import comb, isqrt, log2
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import _kernels
from edge_runtime._kernels import seeded

SOURCE = Path(__file__).parents[2] / "native" / "src" / "noise.cpp"
BITS = 256  # of working precision: far past the 64 that matter
COINS, FIRST, SPARES = 63, 16, 10  # words of a block: coins, bits of a digit's first stage, spares


def table():
    text = SOURCE.read_text().split("digit_threshold[max_log2_scale] = {")[1].split("}")[0]
    return [int(word, 16) for word in re.findall(r"0x[0-9a-f]{16}", text)]


def digit_probability(s):
    """p_s = 1 / (1 + 2^(2^-s)) to about 2^-250, by s integer square roots of 2."""
    root = 2 << BITS
    for _ in range(s):
        root = isqrt(root << BITS)
    return Fraction(1 << BITS, (1 << BITS) + root)


def rng(seed=0):
    return seeded.SeededRng(bytes([seed]) * 32)


# --- the law, exactly -------------------------------------------------------------------------------------------------


def test_the_table_is_the_digit_probabilities_rounded_to_nearest():
    assert table() == [round(digit_probability(s) * 2**64) for s in range(1, 33)]


def test_the_table_agrees_with_decimal_arithmetic():
    with localcontext() as context:
        context.prec = 60
        for s, threshold in enumerate(table(), start=1):
            p = 1 / (1 + Decimal(2) ** (Decimal(2) ** -s))
            assert abs(Decimal(threshold) - p * 2**64) <= Decimal("0.5")


def overflow(m):
    """A bound on the chance that a block of 64 m comparisons meets more ties than there are spares."""
    return Fraction(comb(64 * m, SPARES + 1), 2 ** (FIRST * (SPARES + 1)))


@pytest.mark.parametrize("m", range(33))
def test_the_total_variation_of_a_draw_is_within_its_documented_bound(m):
    """Rounding the table, censoring the octaves at 63, and running out of spares, against (m + 2) 2^-65."""
    rounding = sum(abs(Fraction(t, 2**64) - digit_probability(s)) for s, t in enumerate(table()[:m], start=1))
    assert overflow(m) < Fraction(1, 2**80)
    assert rounding + Fraction(1, 2**64) + overflow(m) <= Fraction(m + 2, 2**65)


@pytest.mark.parametrize(("m", "log2_bound", "log2_actual"), [(10, -61.415, -62.196), (16, -60.830, -61.767)])
def test_the_documented_figures_are_these(m, log2_bound, log2_actual):
    rounding = sum(abs(Fraction(t, 2**64) - digit_probability(s)) for s, t in enumerate(table()[:m], start=1))
    assert log2((m + 2) * 2.0**-65) == pytest.approx(log2_bound, abs=1e-3)
    assert log2(rounding + Fraction(1, 2**64)) == pytest.approx(log2_actual, abs=1e-3)


@pytest.mark.parametrize("m", [1, 2, 6, 10])
def test_the_digits_make_the_geometric_law_value_by_value(m):
    """P(L = l) from the table against (1 - r) r^l / (1 - r^(2^m)), within the multiplicative bound of the
    documentation.
    """
    thresholds = table()
    with localcontext() as context:
        context.prec = 60
        r = Decimal(2) ** -(Decimal(2) ** -m)
        eta = m * Decimal(2) ** -65 / (1 / (1 + Decimal(2).sqrt()))
        total = Decimal(0)
        for value in range(1 << m):
            p = Decimal(1)
            for s in range(1, m + 1):
                one = Decimal(thresholds[s - 1]) / 2**64
                p *= one if value >> (m - s) & 1 else 1 - one
            ideal = (1 - r) * r**value * 2
            assert abs(p / ideal - 1) <= eta * Decimal("1.000001")
            total += abs(p - ideal) / 2
        assert total <= m * Decimal(2) ** -65


# --- the audit
# ----------------------------------------------------------------------------------------------------------


def chi_square_z(counts, probabilities):
    """How many standard deviations Pearson's statistic lies from its mean (Wilson and Hilferty 1931)."""
    expected = probabilities * counts.sum()
    degrees = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / np.sqrt(2 / (9 * degrees))


def count_z(hits, n, p):
    return (hits - n * p) / np.sqrt(n * p * (1 - p))


def moments(m):
    """Exact variance, and the relative standard deviation of one squared deviation, of the law."""
    g = np.arange(64 << m, dtype=np.float64)
    p = np.exp2(-g / 2**m) * -np.expm1(-np.log(2) / 2**m)
    second, fourth = (p * (g + 0.5) ** 2).sum(), (p * (g + 0.5) ** 4).sum()
    return second, np.sqrt(fourth / second**2 - 1)


def audit(x, m):
    """Named z-scores of samples ``x`` (n,) against the law at ``m``: each about standard normal for a true sampler."""
    n, centred = len(x), x + 0.5
    g = np.where(x < 0, -x - 1, x)
    variance, spread = moments(m)
    scores = {
        "mean": centred.mean() / np.sqrt(variance / n),
        "variance": ((centred**2).mean() / variance - 1) / (spread / np.sqrt(n)),
        "lag-1 correlation": (centred[1:] * centred[:-1]).mean() / variance * np.sqrt(n - 1),
        "sign": count_z((x < 0).sum(), n, 0.5),
    }
    # The body: up to 200 cells a side of about equal probability, whole integers each, and the rest in the last.
    edges = np.unique(np.floor(-np.log2(1 - np.arange(200) / 200) * 2**m).astype(np.int64))
    survival = np.append(np.exp2(-edges / 2**m), 0)
    cells = np.searchsorted(edges, g, side="right") - 1
    both = np.concatenate([np.bincount(cells[side], minlength=len(edges)) for side in (x < 0, x >= 0)])
    scores["body"] = chi_square_z(both, np.tile(survival[:-1] - survival[1:], 2) / 2)
    for octaves in (6, 10, 14):
        scores[f"tail of {octaves} octaves"] = count_z((g >= octaves << m).sum(), n, 2.0**-octaves)
    near = np.append(np.exp2(-np.arange(8) / 2**m) * -np.expm1(-np.log(2) / 2**m), np.exp2(-8 / 2**m))
    counts = np.concatenate([np.bincount(np.minimum(g[side], 8), minlength=9) for side in (x < 0, x >= 0)])
    scores["around zero"] = chi_square_z(counts, np.tile(near, 2) / 2)
    low = 1 << min(m, 6)
    weights = np.exp2(-np.arange(low) / 2**m)
    counts = np.concatenate([np.bincount(g[side] & (low - 1), minlength=low) for side in (x < 0, x >= 0)])
    scores["low bits"] = chi_square_z(counts, np.tile(weights / weights.sum(), 2) / 2)
    return scores


def worst(x, m):
    return max(abs(z) for z in audit(x, m).values())


N = 1 << 20


@pytest.mark.parametrize("m", [0, 1, 4, 8, 10, 16])
@pytest.mark.parametrize("seed", [1, 2])
def test_samples_pass_the_audit(m, seed):
    scores = audit(_kernels.discrete_laplace(rng(seed), N, m), m)
    assert max(map(abs, scores.values())) < 4, scores


def test_samples_of_the_system_generator_pass_the_audit():
    scores = audit(_kernels.discrete_laplace(_kernels.SystemRng(), N, 10), 10)
    assert max(map(abs, scores.values())) < 6, scores  # unseeded: a false alarm in ten million runs


def plain(generator, m, n=N):
    """A true sampler by another road: the floor of an exponential is geometric."""
    g = np.floor(generator.exponential(2**m / np.log(2), n)).astype(np.int64)
    return np.where(generator.random(n) < 0.5, g, -g - 1)


FAULTS = {
    "a scale one per cent off": lambda x, _: np.rint(x * 1.01).astype(np.int64),
    "a sign that favours the positive": lambda x, u: np.where(u < 0.01, np.abs(x), x),
    "two zeros": lambda x, _: np.where(x < 0, x + 1, x),
    "a tail cut at eight octaves": lambda x, _: np.clip(x, -(8 << 10), 8 << 10),
    "a low bit stuck in one draw of fifty": lambda x, u: np.where(u < 0.02, x | 1, x),
    "a draw repeated in one of a hundred": lambda x, u: np.where(u < 0.01, np.roll(x, 1), x),
    "a shift of one hundredth of the scale": lambda x, _: x + 15,
}


def test_the_audit_passes_a_true_sampler_of_another_make():
    assert worst(plain(np.random.default_rng(5), 10), 10) < 4


@pytest.mark.parametrize("fault", FAULTS)
def test_the_audit_fails_every_planted_fault(fault):
    generator = np.random.default_rng(6)
    x = FAULTS[fault](plain(generator, 10), generator.random(N))
    assert worst(x, 10) > 5


def test_neighbouring_values_differ_in_probability_by_the_ratio_at_most():
    m, reach = 3, 20
    x = _kernels.discrete_laplace(rng(9), 1 << 22, m)
    counts = np.array([(x == value).sum() for value in range(-reach, reach)], dtype=float)
    logs, errors = np.diff(np.log(counts)), np.sqrt(1 / counts[1:] + 1 / counts[:-1])
    steps = np.arange(-reach, reach - 1)
    ideal = np.log(2) / 2**m * np.select([steps < -1, steps == -1], [1, 0], -1)
    assert (np.abs(logs - ideal) < 4 * errors).all()


# --- the stream and the arguments
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "blocks"), [(0, 3), (1, 3), (10, 50), (16, 200), (32, 100)])
def test_samples_come_from_the_documented_words(m, blocks):
    """The law written out sample by sample over the same words, each digit compared in one piece of 64 bits."""
    length = COINS + FIRST * m + SPARES + 1
    words = np.frombuffer(rng(3).bytes(8 * blocks * length), "<u8").reshape(blocks, length)
    bits = np.unpackbits(words.view(np.uint8).reshape(blocks, length, 8), axis=2, bitorder="little").astype(np.uint64)
    want, ties = [], 0
    for word, bit in zip(words.tolist(), bits, strict=True):
        octaves = np.append(bit[:COINS], np.ones((1, 64), np.uint64), axis=0).argmax(axis=0).astype(np.int64)
        spares = iter(word[COINS + FIRST * m :][:SPARES])
        for s, threshold in enumerate(table()[:m]):
            planes = bit[COINS + FIRST * s :][:FIRST]
            first = (planes << np.arange(FIRST - 1, -1, -1, dtype=np.uint64)[:, None]).sum(axis=0).tolist()
            tied = [u == threshold >> 48 for u in first]
            ties += sum(tied)
            whole = [(u << 48) + (next(spares) >> 16 if t else 0) for u, t in zip(first, tied, strict=True)]
            octaves = 2 * octaves + np.array([u < threshold for u in whole])
        want.append(np.where(bit[-1] == 1, ~octaves, octaves))
    np.testing.assert_array_equal(_kernels.discrete_laplace(rng(3), 64 * blocks, m), np.concatenate(want))
    assert m < 16 or ties > 0


def test_a_shorter_draw_is_the_start_of_a_longer_one():
    long = _kernels.discrete_laplace(rng(), 1000, 16)
    for count in (0, 1, 63, 64, 65, 999):
        np.testing.assert_array_equal(_kernels.discrete_laplace(rng(), count, 16), long[:count])


def test_consecutive_draws_differ():
    generator = rng()
    first, second = (_kernels.discrete_laplace(generator, 64, 16) for _ in range(2))
    assert (first != second).all()


@pytest.mark.parametrize(
    ("count", "m", "error", "words"),
    [
        (-1, 10, ValueError, r"want count in \[0, 268435456\]; got -1"),
        (2**64, 10, ValueError, r"want count in \[0, 268435456\]; got 18446744073709551616"),
        (5, 33, ValueError, r"want log2_scale in \[0, 32\]; got 33"),
        (5, -1, ValueError, r"want log2_scale in \[0, 32\]; got -1"),
        (5, 1.0, TypeError, r"want log2_scale a whole number; got 1\.0"),
    ],
)
def test_counts_and_scales_out_of_range_are_refused(count, m, error, words):
    with pytest.raises(error, match=words):
        _kernels.discrete_laplace(rng(), count, m)


def test_only_our_generators_make_noise():
    for other in (np.random.default_rng(), None, b"0" * 32):
        with pytest.raises(TypeError):
            _kernels.discrete_laplace(other, 5, 10)


# --- the precision attack (Haney et al. 2022)
# ---------------------------------------------------------------------------


def lowest_set_bits(y):
    """The exponent of the lowest set bit of each nonzero float64."""
    mantissa, exponent = np.frexp(y)
    whole = (mantissa * 2**53).astype(np.int64)
    return exponent - 53 + np.log2((whole & -whole).astype(np.float64)).astype(int)


def low_bit_histograms(release):
    """How often each lowest set bit occurs among outputs near 0, for input 0 and for input 1."""
    histograms = []
    for value in (0, 1):
        y = release(value)
        y = y[(np.abs(y) < 0.25) & (y != 0)]
        histograms.append(np.bincount(lowest_set_bits(y) + 100, minlength=200) / len(y))
    return histograms


def test_low_bits_give_away_the_input_of_floating_point_noise():
    generator = np.random.default_rng(7)
    zero, one = low_bit_histograms(lambda value: value + generator.laplace(0, 1, 400_000))
    assert zero[one == 0].sum() > 0.8  # one output tells, with certainty


@pytest.mark.parametrize("m", [10, 16])
def test_low_bits_give_away_nothing_of_ours(m):
    """Released integers on a grid of ln 2 / 2^m, so the noise scale is 1 as above, and decoded as a user would."""
    step, generator = np.log(2) / 2**m, rng(8)

    def release(value):
        return (round(value / step) + _kernels.discrete_laplace(generator, 400_000, m) + 0.5) * step

    zero, one = low_bit_histograms(release)
    assert zero[one == 0].sum() < 1e-3
    # What is left between the two is the slope of the law itself across the window, which epsilon pays for.
    assert np.abs(zero - one).sum() / 2 < 0.05
