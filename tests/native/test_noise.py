"""The discrete Laplace sampler: its table and law in exact arithmetic, an audit that planted faults fail, known
attacks.
"""

import re
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from math import comb, isqrt, log2, prod
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import _kernels
from edge_runtime._kernels import seeded

SOURCE = Path(__file__).parents[2] / "native" / "src" / "noise.cpp"
BITS = 384  # of working precision: far past the 64 that matter
FIRST, COMPARED = 12, 6  # bits of a comparison's first stage; the digits after the sixth are coins with drops
COLUMNS, DRAWS = 8, 512  # of a block
TIE_SPARES, DROP_SPARES = 24, 36


def table(name):
    text = SOURCE.read_text().split(f"{name}[")[1].split("{")[1].split("}")[0]
    return [int(word, 16) for word in re.findall(r"0x[0-9a-f]{16}", text)]


def root(s):
    """2^(2^-s) to about 2^-380, by s integer square roots of 2."""
    value = 2 << BITS
    for _ in range(s):
        value = isqrt(value << BITS)
    return Fraction(value, 1 << BITS)


def digit_probability(s):
    return 1 / (1 + root(s))


def no_drop(first, last):
    """The chance that no digit of first..last has a drop: the product of 2 p_s."""
    return prod(2 * digit_probability(s) for s in range(first, last + 1))


# Digits past the 128th have drops with chance below 2^-128 in all.
ANY_DROP = 1 - no_drop(COMPARED + 1, 128)


def rng(seed=0):
    return seeded.SeededRng(bytes([seed]) * 32)


# --- the law, exactly -------------------------------------------------------------------------------------------------


def test_the_tables_are_rounded_to_nearest():
    ideal = [digit_probability(s) for s in range(1, COMPARED + 1)] + [ANY_DROP]
    assert table("comparison_threshold") == [round(p * 2**64) for p in ideal]
    first = [(1 - no_drop(COMPARED + 1, s)) / ANY_DROP for s in range(COMPARED + 1, 33)]
    assert table("first_drop") == [round(p * 2**64) for p in first]


def test_the_tables_agree_with_decimal_arithmetic():
    """By the documentation's closed forms, with a logarithm."""
    with localcontext() as context:
        context.prec = 60
        two = Decimal(2)
        ideal = [1 / (1 + two ** (two**-s)) for s in range(1, COMPARED + 1)]
        step = two ** (two**-COMPARED) - 1
        any_drop = 1 - two**-COMPARED * two.ln() / step
        none = [two ** (s - COMPARED) * (two ** (two**-s) - 1) / step for s in range(COMPARED + 1, 33)]
        for threshold, p in zip(table("comparison_threshold"), [*ideal, any_drop], strict=True):
            assert abs(Decimal(threshold) - p * 2**64) <= Decimal("0.5")
        for threshold, q in zip(table("first_drop"), none, strict=True):
            assert abs(Decimal(threshold) - (1 - q) / any_drop * 2**64) <= Decimal("0.5")


def overflow(m):
    """A bound on the chance that a block runs out of spares: too many ties, or too many turns of drops."""
    ties, turns = (1 + min(m, COMPARED + 1)) * DRAWS, DROP_SPARES + 1
    chance = Fraction(comb(ties, TIE_SPARES + 1), 2 ** (FIRST * (TIE_SPARES + 1)))
    if m > COMPARED:
        chance += comb(DRAWS - 1 + turns, turns) * Fraction(table("comparison_threshold")[-1], 2**64) ** turns
    return chance


def rounding(m):
    """The total variation that the tables' true errors make, by the documentation's items 1 and 2."""
    *digits, drop = (Fraction(t, 2**64) for t in table("comparison_threshold"))
    error = sum(abs(t - digit_probability(s)) for s, t in enumerate(digits[:m], start=1))
    if m > COMPARED:
        limits = [0, *(Fraction(t, 2**64) for t in table("first_drop")[: m - COMPARED]), 1]
        ideal = [0, *((1 - no_drop(COMPARED + 1, s)) / ANY_DROP for s in range(COMPARED + 1, m + 1)), 1]
        cells = zip(pairwise(limits), pairwise(ideal), strict=True)
        placing = sum(abs((b - a) - (d - c)) for (a, b), (c, d) in cells) / 2
        error += abs(drop - ANY_DROP) + (placing + abs(drop - ANY_DROP)) * ANY_DROP / (1 - ANY_DROP)
    return error


@pytest.mark.parametrize("m", range(33))
def test_the_total_variation_of_a_draw_is_within_its_documented_bound(m):
    """Rounding the tables, censoring the octaves at 63, and running out of spares, against 10 * 2^-65."""
    assert overflow(m) < Fraction(1, 2**83)
    assert rounding(m) + Fraction(1, 2**64) + overflow(m) <= Fraction(10, 2**65)


def test_the_documented_figures_are_these():
    for m, log2_actual in ((6, -62.55), (16, -62.51), (32, -62.50)):
        assert log2_actual - 0.01 < log2(rounding(m) + Fraction(1, 2**64)) <= log2_actual
    assert -61.68 < log2(10 * 2.0**-65) <= -61.67
    assert Fraction(55, 10_000) > ANY_DROP / (1 - ANY_DROP)
    assert log2(5 * 2.0**-65 * 65536) + log2(2 * (1 + 2.718281828459045)) < -43.7  # delta
    assert 1 + log2(65536 * 8 * 2.0**-65 * (1 + 2**0.5)) < -43.7  # 2 d eta
    assert log2(overflow(16) * 65536 / DRAWS) < -75


def drop_law(n):
    """{drops: probability} of the first n low digits from the tables, the first digit's drop in the highest bit."""
    go = Fraction(table("comparison_threshold")[-1], 2**64)
    limits = [Fraction(0), *(Fraction(t, 2**64) for t in table("first_drop")[:n])]

    def past(done):
        """The drops at `done` and later of a vector that may have any. Turns that fall before start over."""
        if done == n:
            return {0: Fraction(1)}
        law = {0: 1 - go + go * (1 - limits[n])}
        for k in range(done, n):
            for drops, p in past(k + 1).items():
                drops |= 1 << (n - 1 - k)
                law[drops] = law.get(drops, 0) + go * (limits[k + 1] - limits[k]) * p
        return {drops: p / (1 - go * limits[done]) for drops, p in law.items()}

    return past(0)


@pytest.mark.parametrize("m", [1, 2, 6, 7, 10])
def test_the_digits_make_the_geometric_law_value_by_value(m):
    """P(L = l) from the tables against (1 - r) r^l / (1 - r^(2^m)), within the multiplicative bound of the
    documentation.
    """
    digits, low = table("comparison_threshold")[: min(m, COMPARED)], max(m - COMPARED, 0)
    tail = [Fraction(0)] * (1 << low)
    for drops, p in drop_law(low).items():
        for coins in range(1 << low):
            tail[coins & ~drops] += p / (1 << low)
    with localcontext() as context:
        context.prec = 60
        r = Decimal(2) ** -(Decimal(2) ** -m)
        eta = 8 * Decimal(2) ** -65 / (1 / (1 + Decimal(2).sqrt()))
        total = Decimal(0)
        for value in range(1 << m):
            exact = tail[value & ((1 << low) - 1)]
            for s, threshold in enumerate(digits, start=1):
                one = Fraction(threshold, 2**64)
                exact *= one if value >> (m - s) & 1 else 1 - one
            p = Decimal(exact.numerator) / Decimal(exact.denominator)
            ideal = (1 - r) * r**value * 2
            assert abs(p / ideal - 1) <= eta * Decimal("1.000001")
            total += abs(p - ideal) / 2
        assert total <= 8 * Decimal(2) ** -65


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
    counts = np.concatenate(
        [np.bincount(np.minimum(g[side], 8).astype(np.intp), minlength=9) for side in (x < 0, x >= 0)]
    )
    scores["around zero"] = chi_square_z(counts, np.tile(near, 2) / 2)
    low = 1 << min(m, 6)
    weights = np.exp2(-np.arange(low) / 2**m)
    counts = np.concatenate(
        [np.bincount((g[side] & (low - 1)).astype(np.intp), minlength=low) for side in (x < 0, x >= 0)]
    )
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
    assert all(abs(scores[moment]) < 3 for moment in ("mean", "variance")), scores


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


def plain_block(words, m):
    """The law written out draw by draw over the words of one block; and how many ties and turns of drops there were."""
    comparisons, low = min(m, COMPARED + 1), max(m - COMPARED, 0)
    thresholds, first_drop = table("comparison_threshold"), table("first_drop")[:low]
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    rows = 1 + FIRST * (1 + comparisons) + low
    # (lanes, rows): lane by lane, columns in order and bits within them, is the order in which spares are taken.
    lanes = bits[: rows * DRAWS].reshape(rows, DRAWS).T.tolist()
    spares = iter(words[rows * COLUMNS :][:TIE_SPARES].tolist())
    pairs = iter(words[rows * COLUMNS + TIE_SPARES :].reshape(-1, 2).tolist())
    values, ties, turns = [], 0, 0
    for lane in lanes:
        coins, rest = lane[1 : 1 + FIRST], lane[1 + FIRST :]
        if not any(coins):
            spare, ties = next(spares), ties + 1
            coins = coins + [spare >> i & 1 for i in range(63 - FIRST)]
        value = [*coins, 1].index(1)
        drop = False
        for k in range(comparisons):
            u = int("".join(map(str, rest[FIRST * k :][:FIRST])), 2) << (64 - FIRST)
            if u == thresholds[k] >> (64 - FIRST) << (64 - FIRST):
                spare, ties = next(spares), ties + 1
                u += spare >> FIRST
            below = u < thresholds[k]
            value, drop = (value, below) if k == COMPARED else (2 * value + below, drop)
        digits, done = rest[FIRST * comparisons :], 0
        while drop:
            (place, more), turns = next(pairs), turns + 1
            at = sum(place >= limit for limit in first_drop)
            if done <= at < low:
                digits[at] = 0
            done, drop = max(done, at + 1), more < thresholds[-1]
        for digit in digits:
            value = 2 * value + digit
        values.append(-value - 1 if lane[0] else value)
    return np.array(values).reshape(COLUMNS, 64).T.ravel(), ties, turns


@pytest.mark.parametrize(("m", "blocks"), [(0, 3), (1, 3), (6, 10), (7, 10), (10, 10), (16, 10), (32, 10)])
def test_samples_come_from_the_documented_words(m, blocks):
    length = COLUMNS * (1 + FIRST * (1 + min(m, COMPARED + 1)) + max(m - COMPARED, 0)) + TIE_SPARES
    length += 2 * DROP_SPARES * (m > COMPARED)
    words = np.frombuffer(rng(3).bytes(8 * blocks * length), "<u8").reshape(blocks, length)
    parts, ties, turns = zip(*(plain_block(block, m) for block in words), strict=True)
    np.testing.assert_array_equal(_kernels.discrete_laplace(rng(3), DRAWS * blocks, m), np.concatenate(parts))
    assert m < COMPARED or sum(ties) > 0
    assert (sum(turns) > 0) == (m > COMPARED)


def test_a_shorter_draw_is_the_start_of_a_longer_one():
    long = _kernels.discrete_laplace(rng(), 1000, 16)
    for count in (0, 1, 511, 512, 513, 999):
        np.testing.assert_array_equal(_kernels.discrete_laplace(rng(), count, 16), long[:count])


@pytest.mark.parametrize("m", [0, 6, 16, 24])
def test_an_array_to_fill_gets_the_same_numbers_in_either_width(m):
    want = _kernels.discrete_laplace(rng(), 3000, m)
    for dtype in (np.int32, np.int64):
        out = np.empty(3000, dtype)
        assert _kernels.discrete_laplace(rng(), 3000, m, out=out) is out
        np.testing.assert_array_equal(out, want)


def test_an_array_too_narrow_for_the_law_is_refused():
    with pytest.raises(ValueError, match="want log2_scale of at most 24 for out of int32"):
        _kernels.discrete_laplace(rng(), 5, 25, out=np.empty(5, np.int32))
    with pytest.raises(ValueError, match=r"want out \(count=5,\) int64"):
        _kernels.discrete_laplace(rng(), 5, 10, out=np.empty(6, np.int64))


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
        histograms.append(np.bincount((lowest_set_bits(y) + 100).astype(np.intp), minlength=200) / len(y))
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
