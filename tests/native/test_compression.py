"""Fewer coordinates, fewer bits, signs: against NumPy, and within the bounds that the papers prove."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime import _kernels
from edge_runtime._kernels import seeded

F = np.float32
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = st.floats(-(2.0**126), 2.0**126, width=32)
few_values = st.sampled_from([F(v) for v in (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-45)])
updates = hnp.arrays(F, st.integers(0, 300), elements=st.one_of(finite, few_values))
moderate_updates = hnp.arrays(F, st.integers(1, 300), elements=moderate)
ties = hnp.arrays(F, st.integers(0, 300), elements=few_values)
level_bits = st.sampled_from([1, 2, 4, 8])


def rng(seed=0):
    return seeded.SeededRng(seed.to_bytes(32, "little"))


@given(st.integers(1, 32), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_codes_are_packed_from_the_lowest_bit_up(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint64).astype(np.uint32)
    as_integer = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    packed = _kernels.pack_bits(codes, bits)
    assert packed == as_integer.to_bytes((count * bits + 7) // 8, "little")
    np.testing.assert_array_equal(_kernels.unpack_bits(packed, bits, count), codes)


def test_codes_and_bytes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"want codes below 2\*\*3"):
        _kernels.pack_bits(np.array([7, 8], np.uint32), 3)
    with pytest.raises(ValueError, match="want packed of exactly 2 bytes; got 3"):
        _kernels.unpack_bits(bytes(3), 3, 5)
    with pytest.raises(ValueError, match=r"want bits in \[1, 32\]; got 33"):
        _kernels.pack_bits(np.zeros(1, np.uint32), 33)
    with pytest.raises(ValueError, match=r"want count in \[0, 1073741824\]"):
        _kernels.unpack_bits(b"", 1, 2**31)


def largest(x, k):
    """Indices of the k largest magnitudes, ascending: a stable sort puts the lower index first among equals."""
    return np.sort(np.argsort(-np.abs(x), kind="stable")[:k])


@given(st.one_of(updates, ties), st.data())
def test_top_k_takes_the_largest_and_among_equals_the_first(x, data):
    k = data.draw(st.integers(0, len(x)))
    indices, values = _kernels.top_k(x, k)
    np.testing.assert_array_equal(indices, largest(x, k))
    np.testing.assert_array_equal(values, x[largest(x, k)])


@given(updates, st.data())
def test_what_top_k_takes_and_what_it_leaves_are_the_update(x, data):
    k, before = data.draw(st.integers(0, len(x))), x.copy()
    indices, values = _kernels.top_k(x, k, take=True)
    assert not x[indices].any()
    x[indices] = values
    assert x.tobytes() == before.tobytes()


@given(hnp.arrays(F, st.integers(1, 300), elements=st.floats(-(2.0**50), 2.0**50, width=32)), st.data())
def test_top_k_contracts(x, data):
    k, norm = data.draw(st.integers(0, len(x))), float((x.astype(np.float64) ** 2).sum())
    _kernels.top_k(x, k, take=True)
    assert (x.astype(np.float64) ** 2).sum() <= (1 - k / len(x)) * norm * (1 + 1e-12)


def test_top_k_of_ten_million():
    x = np.random.default_rng(0).standard_normal(10_000_000, dtype=F)
    indices, values = _kernels.top_k(x, 100_000)
    threshold = np.sort(np.abs(x))[-100_000]
    np.testing.assert_array_equal(indices, np.flatnonzero(np.abs(x) >= threshold)[:100_000])
    np.testing.assert_array_equal(values, x[indices])


def every_encoder(x, **take):
    return (
        lambda: _kernels.top_k(x, min(3, len(x)), **take),
        lambda: _kernels.pack_signs(x, **take),
        lambda: _kernels.quantize_stochastic(rng(), x, 100.0, 8, **take),
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 16, 1030])
def test_nan_and_infinity_are_refused_before_anything_is_taken(bad, position):
    x = np.full(1031, 100, F)
    x[position] = bad
    before = x.copy()
    for call in (
        *every_encoder(x, take=True),
        lambda: _kernels.max_magnitude(x),
        lambda: _kernels.l2_norm_above(x),
    ):
        with pytest.raises(ValueError, match="x holds NaN or infinity"):
            call()
    np.testing.assert_array_equal(x, before)


def test_taking_from_read_only_memory_is_refused_and_reading_is_not():
    x = np.ones(5, F)
    x.flags.writeable = False
    for call in every_encoder(x, take=True):
        with pytest.raises(ValueError, match="read-only"):
            call()
    for call in every_encoder(x):
        call()


@given(updates)
def test_norms_bound_every_coordinate(x):
    largest_magnitude, norm = _kernels.max_magnitude(x), _kernels.l2_norm_above(x)
    assert largest_magnitude == np.abs(x).max(initial=0)
    exact = math.sqrt(math.fsum(float(v) ** 2 for v in x))
    assert norm >= exact * (1 - 1e-14)
    if exact < 3e38:
        assert norm <= max(np.nextafter(F(exact), F(np.inf)), exact * (1 + 2.0**-22))
    assert (np.abs(x) <= norm).all()


def levels_of(bits, norm):
    """What each code stands for."""
    if bits == 1:
        return np.array([-norm, norm])
    s = 2 ** (bits - 1) - 1
    return np.arange(-s, s + 1) * (norm / s)


@given(moderate_updates, level_bits)
def test_a_coordinate_goes_to_one_of_the_two_levels_around_it(x, bits):
    norm = _kernels.max_magnitude(x)
    packed = _kernels.quantize_stochastic(rng(bits), x, norm, bits)
    codes = _kernels.unpack_bits(packed, bits, len(x))
    levels = levels_of(bits, norm)
    value, step = levels[codes], levels[1] - levels[0]
    assert (np.abs(value - x) <= step * (1 + 1e-12) + 1e-300).all()
    np.testing.assert_array_equal(_kernels.dequantize(packed, norm, bits, len(x)), value.astype(F))


@given(moderate_updates, level_bits)
def test_what_the_codes_stand_for_is_subtracted_where_it_is_taken(x, bits):
    before, norm = x.copy(), _kernels.max_magnitude(x)
    packed = _kernels.quantize_stochastic(rng(), x, norm, bits, take=True)
    sent = _kernels.dequantize(packed, norm, bits, len(x))
    np.testing.assert_array_equal(x, before - sent)
    assert packed == _kernels.quantize_stochastic(rng(), before, norm, bits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["l2", "max"])
def test_quantizing_is_unbiased_and_its_variance_within_the_bound(bits, kind):
    x = np.random.default_rng(1).standard_normal(200).astype(F)
    norm = _kernels.l2_norm_above(x) if kind == "l2" else _kernels.max_magnitude(x)
    source, draws, d = rng(bits), 4000, len(x)
    got = np.array(
        [_kernels.dequantize(_kernels.quantize_stochastic(source, x, norm, bits), norm, bits, d) for _ in range(draws)]
    ).astype(np.float64)
    levels = levels_of(bits, norm)
    above = np.minimum(np.searchsorted(levels, x, side="right"), len(levels) - 1)
    variance = (levels[above] - x) * (x - levels[above - 1])  # of a choice between two levels with the right mean
    deviation = (got.mean(axis=0) - x) / np.sqrt(variance / draws + 1e-12)
    assert np.abs(deviation).max() < 5  # of 200 normal variables, once in 8,000 seeds
    assert abs(deviation.sum()) < 4 * math.sqrt(d)
    squared_error = ((got - x) ** 2).sum(axis=1).mean()
    assert squared_error == pytest.approx(variance.sum(), rel=0.05)
    s = 2 ** (bits - 1) - 1
    if s and kind == "l2":
        assert squared_error <= min(d / s**2, math.sqrt(d) / s) * norm**2 * 1.05  # lemma 3.1
    if s and kind == "max":
        assert squared_error <= d / (4 * s**2) * norm**2 * 1.05


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_levels_themselves_and_an_update_of_zeros_are_kept(bits):
    levels = levels_of(bits, 3.0).astype(F)
    packed = _kernels.quantize_stochastic(rng(), levels, 3.0, bits)
    np.testing.assert_array_equal(_kernels.dequantize(packed, 3.0, bits, len(levels)), levels)
    zeros = _kernels.quantize_stochastic(rng(), np.zeros(77, F), 0.0, bits)
    assert not _kernels.dequantize(zeros, 0.0, bits, 77).any()


def test_quantizing_follows_its_generator():
    x = np.random.default_rng(2).standard_normal(5000).astype(F)
    first, again, other = (_kernels.quantize_stochastic(rng(seed), x, 8.0, 4) for seed in (1, 1, 2))
    assert first == again != other
    source = _kernels.SystemRng()
    assert _kernels.quantize_stochastic(source, x, 8.0, 4) != _kernels.quantize_stochastic(source, x, 8.0, 4)


def test_quantizing_ten_million():
    x = np.random.default_rng(3).uniform(-1, 1, 10_000_000).astype(F)
    packed = _kernels.quantize_stochastic(rng(), x, 1.0, 4)
    back = _kernels.dequantize(packed, 1.0, 4, len(x))
    assert np.abs(back - x).max() <= 1 / 7 + 1e-6
    assert abs((back - x).mean(dtype=np.float64)) < 5 * (1 / 7) / 2 / math.sqrt(len(x))
    np.testing.assert_array_equal(_kernels.pack_bits(_kernels.unpack_bits(packed, 4, len(x)), 4), packed)


def test_quantizers_name_what_they_refuse():
    x = np.array([1, -2], F)
    with pytest.raises(ValueError, match=r"want \|x\| at most norm, 1.5; got 2.0"):
        _kernels.quantize_stochastic(rng(), x, 1.5, 4)
    with pytest.raises(ValueError, match="want bits 1, 2, 4 or 8; got 3"):
        _kernels.quantize_stochastic(rng(), x, 2.0, 3)
    for norm in (-1.0, 0.1, 2.0**127, math.nan, math.inf):
        with pytest.raises(ValueError, match="want norm a float32 in"):
            _kernels.quantize_stochastic(rng(), x, norm, 4)
    with pytest.raises(ValueError, match="a code beyond the last level"):
        _kernels.dequantize(b"\xff", 1.0, 4, 1)
    with pytest.raises(ValueError, match="want packed of exactly 1 bytes; got 2"):
        _kernels.dequantize(bytes(2), 1.0, 4, 2)
    with pytest.raises(ValueError, match=r"want \|x\| at most norm"):
        _kernels.pack_signs(np.array([3e38], F))


@given(hnp.arrays(F, st.integers(1, 300), elements=st.floats(-(2.0**50), 2.0**50, width=32)))
def test_signs_are_numpys_and_contract(x):
    before = x.copy()
    packed, scale = _kernels.pack_signs(x, take=True)
    signs = np.signbit(before)
    assert packed == np.packbits(signs, bitorder="little").tobytes()
    assert scale == pytest.approx(np.abs(before.astype(np.float64)).mean(), rel=1e-7, abs=1e-45)
    sent = _kernels.unpack_signs(packed, scale, len(x))
    np.testing.assert_array_equal(sent, np.where(signs, -F(scale), F(scale)))
    np.testing.assert_array_equal(x, before - sent)
    wide = before.astype(np.float64)
    expected = wide @ wide - np.abs(wide).sum() ** 2 / len(x)  # Karimireddy et al. 2019, lemma 8
    assert (x.astype(np.float64) ** 2).sum() == pytest.approx(expected, rel=1e-4, abs=1e-5 * (wide @ wide) + 1e-80)


def test_signs_of_ten_million():
    x = np.random.default_rng(4).standard_normal(10_000_000, dtype=F)
    packed, scale = _kernels.pack_signs(x)
    assert packed == np.packbits(x < 0, bitorder="little").tobytes()
    np.testing.assert_array_equal(_kernels.unpack_signs(packed, scale, len(x)), np.copysign(F(scale), x))


def test_updates_without_coordinates_take_no_bytes():
    x = np.empty(0, F)
    assert _kernels.pack_signs(x) == (b"", 0.0)
    assert _kernels.quantize_stochastic(rng(), x, 0.0, 4) == b""
    assert [part.size for part in _kernels.top_k(x, 0)] == [0, 0]
    assert _kernels.l2_norm_above(x) == _kernels.max_magnitude(x) == 0
