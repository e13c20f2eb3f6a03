"""Sums of many updates against NumPy, and refusals that leave nothing behind."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime import _kernels

F = np.float32
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
matrices = hnp.arrays(F, st.tuples(st.integers(1, 11), st.integers(0, 70)), elements=finite)


def some_weights(n):
    return np.random.default_rng(n).random(n) * 1000


@given(matrices)
def test_the_sum_has_the_bits_of_one_update_after_the_other(updates):
    weights, start = some_weights(len(updates)), np.linspace(-3, 3, updates.shape[1])
    one_by_one, before = start.copy(), start.copy()
    for update, weight in zip(updates, weights, strict=True):
        _kernels.accumulate_f32(one_by_one, update, weight)
    together = _kernels.weighted_sum(updates, weights, start=start)
    assert together.tobytes() == one_by_one.tobytes()
    assert start.tobytes() == before.tobytes()


@given(matrices)
def test_the_mean_is_the_exact_one_rounded_but_for_the_error_of_a_double_sum(updates):
    weights = some_weights(len(updates))
    mean = _kernels.weighted_mean(updates, weights)
    total = sum(map(Fraction, weights))
    for j, column in enumerate(updates.T):
        exact = sum(Fraction(w) * Fraction(float(v)) for w, v in zip(weights, column, strict=True)) / total
        size = sum(Fraction(w) * abs(Fraction(float(v))) for w, v in zip(weights, column, strict=True)) / total
        assert abs(Fraction(float(mean[j])) - exact) <= abs(exact) / 2**24 + size / 2**48 + Fraction(1, 2**149)


def test_a_list_of_arrays_and_a_matrix_are_the_same_updates():
    updates = np.random.default_rng(0).standard_normal((5, 1001)).astype(F)
    weights = some_weights(5)
    np.testing.assert_array_equal(
        _kernels.weighted_mean(list(updates), weights), _kernels.weighted_mean(updates, weights)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_update_with_nan_or_infinity_is_named_even_where_its_weight_is_zero(bad, weight):
    updates, weights = np.ones((9, 5000), F), np.ones(9)
    updates[6, 4999], weights[6] = bad, weight
    start = np.ones(5000)
    with pytest.raises(ValueError, match="update 6 holds NaN or infinity"):
        _kernels.weighted_sum(updates, weights, start=start)
    with pytest.raises(ValueError, match="update 6 holds NaN or infinity"):
        _kernels.weighted_mean(updates, weights)
    assert (start == 1).all()


def test_infinities_of_both_signs_do_not_hide_in_each_other():
    updates = np.zeros((2, 3), F)
    updates[:, 1] = np.inf, -np.inf
    with pytest.raises(ValueError, match="update 0 holds NaN or infinity"):
        _kernels.weighted_mean(updates, np.ones(2))


def test_a_start_that_is_not_finite_is_named_as_such():
    with pytest.raises(ValueError, match="start holds NaN or infinity"):
        _kernels.weighted_sum(np.ones((1, 2), F), np.ones(1), start=np.array([0, math.nan]))


def test_the_largest_floats_average_to_themselves():
    updates = np.full((50, 3), np.finfo(F).max)
    np.testing.assert_array_equal(_kernels.weighted_mean(updates, np.full(50, 2.0**64)), updates[0])


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_leave_no_mark(threads):
    updates = np.random.default_rng(1).standard_normal((7, 300_001)).astype(F)
    weights = some_weights(7)
    assert (
        _kernels.weighted_sum(updates, weights, threads=threads).tobytes()
        == _kernels.weighted_sum(updates, weights).tobytes()
    )
    assert (
        _kernels.weighted_mean(updates, weights, threads=threads).tobytes()
        == _kernels.weighted_mean(updates, weights).tobytes()
    )


def test_ten_million_coordinates():
    rng = np.random.default_rng(2)
    updates = rng.standard_normal((3, 10_000_000), dtype=F)
    weights = np.array([1.0, 2.0, 5.0])
    expected = weights @ updates.astype(np.float64)
    np.testing.assert_allclose(_kernels.weighted_sum(updates, weights), expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(_kernels.weighted_mean(updates, weights), (expected / 8).astype(F))
    acc, words = np.full(10_000_000, 7, np.uint32), updates[0].view(np.uint32)
    _kernels.accumulate_u32(acc, words)
    np.testing.assert_array_equal(acc, words + np.uint32(7))


@given(hnp.arrays(np.uint32, st.tuples(st.integers(1, 6), st.integers(0, 70))))
def test_sums_of_words_wrap_around(words):
    acc = np.zeros(words.shape[1], np.uint32)
    for x in words:
        _kernels.accumulate_u32(acc, x)
    np.testing.assert_array_equal(acc, (words.astype(np.uint64).sum(axis=0) % 2**32).astype(np.uint32))


def test_what_is_no_update_is_refused_in_words():
    weights = np.ones(2)
    with pytest.raises(ValueError, match="want 1 to 65535 updates; got 0"):
        _kernels.weighted_mean([], np.ones(0))
    with pytest.raises(ValueError, match=r"want updates\[1\] \(d=3,\) float32"):
        _kernels.weighted_mean([np.ones(3, F), np.ones(4, F)], weights)
    with pytest.raises(TypeError, match=r"want updates\[0\] \(d,\) float32"):
        _kernels.weighted_mean([np.ones(3), np.ones(3)], weights)
    with pytest.raises(TypeError, match="a sequence of n arrays"):
        _kernels.weighted_mean(3, weights)
    with pytest.raises(ValueError, match=r"want updates \(n, d\)"):
        _kernels.weighted_mean(np.ones(3, F), weights)
    with pytest.raises(ValueError, match=r"want weights \(n=3,\)"):
        _kernels.weighted_mean(np.ones((3, 1), F), weights)


@pytest.mark.parametrize("weight", [-1.0, 2.0**65, math.inf, math.nan])
def test_weights_lie_between_zero_and_two_to_the_sixty_four(weight):
    with pytest.raises(ValueError, match=r"want weights in \[0, 2\*\*64\]; got .* at 1"):
        _kernels.weighted_sum(np.ones((2, 1), F), np.array([1, weight]))


def test_weights_of_zero_alone_have_no_mean():
    with pytest.raises(ValueError, match="got only zeros"):
        _kernels.weighted_mean(np.ones((2, 1), F), np.zeros(2))


@pytest.mark.parametrize("threads", [0, 257])
def test_threads_lie_between_one_and_256(threads):
    with pytest.raises(ValueError, match=r"want threads in \[1, 256\]"):
        _kernels.weighted_mean(np.ones((2, 1), F), np.ones(2), threads=threads)
