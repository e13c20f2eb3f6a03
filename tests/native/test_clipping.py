"""Clipping, quantizing and summing: bounds that hold for every finite input, and refusals that leave things alone."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime import _kernels

F = np.float32
LARGEST, TINIEST = float(np.finfo(F).max), 2.0**-149
finite_updates = hnp.arrays(F, st.integers(0, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
bounds = st.floats(1e-300, 1e300)
level_counts = st.integers(1, 2**30)


def exact_l1(update):
    return sum((abs(Fraction(float(v))) for v in update), Fraction(0))


def exact_l2_squared(update):
    return sum((Fraction(float(v)) ** 2 for v in update), Fraction(0))


@given(finite_updates, bounds)
def test_clipping_in_l1_keeps_the_bound_in_exact_arithmetic(update, bound):
    before = update.copy()
    norm = _kernels.clip_l1(update, bound)
    slack = 1 + Fraction(update.size + 64, 8 * 2**53)
    assert exact_l1(update) <= Fraction(bound) * slack
    assert norm == pytest.approx(float(exact_l1(before)), rel=1e-14)
    if norm <= bound:
        np.testing.assert_array_equal(update, before)


@given(finite_updates, bounds)
def test_clipping_in_l2_keeps_the_bound_in_exact_arithmetic(update, bound):
    before = update.copy()
    norm = _kernels.clip_l2(update, bound)
    slack = 1 + Fraction(update.size + 64, 8 * 2**53)
    assert exact_l2_squared(update) <= (Fraction(bound) * slack) ** 2
    assert norm == pytest.approx(math.sqrt(exact_l2_squared(before)), rel=1e-14)
    if norm <= bound:
        np.testing.assert_array_equal(update, before)


@pytest.mark.parametrize(("clip", "order"), [(_kernels.clip_l1, 1), (_kernels.clip_l2, 2)])
def test_clipping_scales_every_coordinate_alike(clip, order):
    update = np.random.default_rng(0).standard_normal(100_003).astype(F)
    before = update.astype(np.float64)
    norm = clip(update, 3.0)
    assert norm == pytest.approx(np.linalg.norm(before, order), rel=1e-12)
    np.testing.assert_allclose(update, before * (3.0 / norm), rtol=1.3e-7)
    assert (np.abs(update) <= np.abs(before * (3.0 / norm)) * (1 + 1e-15)).all()


@given(finite_updates, bounds, level_counts)
@settings(max_examples=400)
def test_quantized_magnitudes_never_sum_past_the_levels(update, clip, levels):
    q = _kernels.quantize_l1(update, clip, levels)
    assert q.dtype == np.int32
    assert q.shape == update.shape
    assert sum(abs(int(v)) for v in q) <= levels
    assert all(v == 0 or (v > 0) == (u > 0) for u, v in zip(update, q, strict=True))


@given(finite_updates, bounds, level_counts)
@settings(max_examples=400)
def test_quantized_squares_never_sum_past_the_square_of_the_levels(update, clip, levels):
    q = _kernels.quantize_l2(update, clip, levels)
    assert q.dtype == np.int32
    assert q.shape == update.shape
    assert sum(int(v) ** 2 for v in q) <= levels**2
    assert all(v == 0 or (v > 0) == (u > 0) for u, v in zip(update, q, strict=True))


def quantized_plainly(update, clip, levels, power):
    """The rule written out: round, then one unit at a time off the furthest outward, until the bound holds."""
    scale = levels / max(clip, np.linalg.norm(update.astype(float), power))
    exact = update.astype(float) * scale
    q = np.rint(exact).astype(int)
    while (np.abs(q) ** power).sum() > levels**power:
        outward = np.clip(np.abs(q) - np.abs(exact) + 0.5, 0, 1)
        inverted = ((1 - outward) * 4294967295.0).astype(np.uint64)
        for j in np.lexsort((np.arange(len(q)), inverted)):
            if (np.abs(q) ** power).sum() <= levels**power:
                break
            q[j] -= np.sign(q[j])
    return q


@pytest.mark.parametrize(("quantize", "power"), [(_kernels.quantize_l1, 1), (_kernels.quantize_l2, 2)])
@pytest.mark.parametrize("levels", [1, 7, 40, 300, 5000])
def test_the_excess_comes_off_as_the_rule_says(quantize, power, levels):
    rng = np.random.default_rng(levels)
    for size in (5, 100, 3000):
        for update in (rng.standard_normal(size), rng.laplace(size=size), np.round(rng.standard_normal(size) * 4) / 8):
            update = update.astype(F)
            clip = float(np.linalg.norm(update.astype(float), power)) * 0.9
            np.testing.assert_array_equal(
                quantize(update, clip, levels), quantized_plainly(update, clip, levels, power)
            )


@given(
    hnp.arrays(F, st.integers(1, 60), elements=st.floats(-10, 10, width=32)),
    st.floats(0.01, 100),
    st.integers(1, 10**6),
)
def test_quantizing_in_l2_moves_no_coordinate_by_more_than_a_step_and_a_half(update, clip, levels):
    q = _kernels.quantize_l2(update, clip, levels)
    scale = levels / max(clip, math.sqrt(exact_l2_squared(update)))
    outward = np.abs(q) - np.abs(update.astype(np.float64) * scale)
    assert (np.abs(outward) <= 1 + 1e-6).all()


@given(
    hnp.arrays(F, st.integers(1, 60), elements=st.floats(-10, 10, width=32)),
    st.floats(0.01, 100),
    st.integers(1, 10**6),
)
def test_quantizing_moves_no_coordinate_by_more_than_a_step_and_a_half(update, clip, levels):
    q = _kernels.quantize_l1(update, clip, levels)
    scale = levels / max(clip, float(exact_l1(update)))
    outward = np.abs(q) - np.abs(update.astype(np.float64) * scale)
    assert (np.abs(outward) <= 1 + 1e-6).all()


@pytest.mark.parametrize("value", [LARGEST, TINIEST, 1.0, 0.0])
@pytest.mark.parametrize("levels", [1, 1000, 999_999, 2**30])
def test_a_million_equal_coordinates_keep_the_bound(value, levels):
    update = np.full(1_000_000, value, F)
    update[::2] *= -1
    assert _kernels.integer_l1_norm(_kernels.quantize_l1(update, 0.7 * 1_000_000, levels)) <= levels


def test_an_update_within_the_clip_is_rounded_to_nearest_ties_to_even():
    update = np.array([0.5, 1.5, -2.5, 0.49, -0.51, 3.0], F)
    np.testing.assert_array_equal(_kernels.quantize_l1(update, 100, 100), [0, 2, -2, 0, -1, 3])


def test_the_clip_norm_maps_to_the_levels():
    np.testing.assert_array_equal(_kernels.quantize_l1(np.array([-0.25], F), 0.25, 2**30), [-(2**30)])
    np.testing.assert_array_equal(_kernels.quantize_l1(np.array([3, -1], F), 0.25, 400), [300, -100])


def test_the_excess_of_rounding_comes_off_the_furthest_outward_first_index_first():
    update = np.array([0.75, -0.625, 0.625], F)  # 1, -1, 1 by rounding, against a bound of 2
    np.testing.assert_array_equal(_kernels.quantize_l1(update, 2, 2), [1, 0, 1])
    np.testing.assert_array_equal(_kernels.quantize_l1(np.full(10, 0.6, F), 6, 6), [0] * 4 + [1] * 6)


def test_an_empty_update_has_norm_zero_and_no_levels():
    empty = np.empty(0, F)
    assert _kernels.clip_l1(empty, 1) == _kernels.clip_l2(empty, 1) == 0
    assert _kernels.quantize_l1(empty, 1, 5).size == 0
    assert _kernels.integer_l1_norm(empty.astype(np.int32)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 7, 8, 16])
def test_nan_and_infinity_are_refused_before_anything_else(bad, position):
    update = np.full(17, 100, F)
    update[position] = bad
    before, acc = update.copy(), np.ones(17)
    for call in (
        lambda: _kernels.clip_l1(update, 1),
        lambda: _kernels.clip_l2(update, 1),
        lambda: _kernels.quantize_l1(update, 1, 10),
        lambda: _kernels.quantize_l2(update, 1, 10),
        lambda: _kernels.accumulate_f32(acc, update, 0.5),
    ):
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            call()
    np.testing.assert_array_equal(update, before)
    np.testing.assert_array_equal(acc, 1)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bounds_are_positive_and_finite(bound):
    quantizers = (lambda u, b: _kernels.quantize_l1(u, b, 4), lambda u, b: _kernels.quantize_l2(u, b, 4))
    for call in (_kernels.clip_l1, _kernels.clip_l2, *quantizers):
        with pytest.raises(ValueError, match="positive and finite; got"):
            call(np.ones(3, F), bound)


@pytest.mark.parametrize("levels", [0, -1, 2**30 + 1, 2**80])
def test_levels_lie_between_one_and_two_to_the_thirty(levels):
    with pytest.raises(ValueError, match=r"want levels in \[1, 1073741824\]; got"):
        _kernels.quantize_l1(np.ones(3, F), 1, levels)


def test_clipping_in_place_refuses_read_only_memory():
    update = np.ones(3, F)
    update.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _kernels.clip_l1(update, 1)
    assert _kernels.quantize_l1(update, 3, 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [LARGEST, TINIEST, 1.0])
@pytest.mark.parametrize("levels", [1, 300, 999_999, 2**30])
def test_a_million_equal_coordinates_keep_the_bound_in_l2(value, levels):
    update = np.full(1_000_000, value, F)
    update[::2] *= -1
    q = _kernels.quantize_l2(update, 500.0, levels)
    assert sum((part.astype(object) ** 2).sum() for part in np.split(q, 100)) <= levels**2


@given(hnp.arrays(np.int32, st.integers(0, 50)))
def test_the_integer_norm_is_exact_down_to_the_least_int32(values):
    assert _kernels.integer_l1_norm(values) == sum(abs(int(v)) for v in values)


def test_the_integer_norm_does_not_overflow():
    assert _kernels.integer_l1_norm(np.full(1 << 20, -(2**31), np.int32)) == 2**51


def test_weighted_sums_match_numpy_in_double_precision():
    rng = np.random.default_rng(1)
    updates, weights = rng.standard_normal((20, 1001)).astype(F), rng.random(20) * 100
    acc = np.zeros(1001)
    for update, weight in zip(updates, weights, strict=True):
        _kernels.accumulate_f32(acc, update, weight)
    np.testing.assert_allclose(acc, weights @ updates.astype(np.float64), rtol=1e-12, atol=1e-12)


@given(st.permutations(range(6)))
def test_integer_sums_do_not_depend_on_the_order(order):
    updates = np.random.default_rng(2).integers(-(2**31), 2**31, (6, 37)).astype(np.int32)
    acc = np.zeros(37, np.int64)
    for i in order:
        _kernels.accumulate_i32(acc, updates[i])
    np.testing.assert_array_equal(acc, updates.astype(np.int64).sum(axis=0))


@pytest.mark.parametrize(("edge", "step"), [(2**63 - 1, 1), (-(2**63), -1)])
def test_an_integer_sum_that_would_wrap_is_refused_and_nothing_is_added(edge, step):
    acc = np.array([0, edge, 5], np.int64)
    with pytest.raises(ValueError, match="would leave int64; acc is untouched"):
        _kernels.accumulate_i32(acc, np.full(3, step, np.int32))
    assert acc.tolist() == [0, edge, 5]


@pytest.mark.parametrize("weight", [-1.0, 2.0**65, math.inf, math.nan])
def test_weights_lie_between_zero_and_two_to_the_sixty_four(weight):
    with pytest.raises(ValueError, match=r"want weight in \[0, 2\*\*64\]; got"):
        _kernels.accumulate_f32(np.zeros(1), np.ones(1, F), weight)


def test_an_accumulator_apart_from_its_addend_is_required():
    raw = np.zeros(8)
    with pytest.raises(ValueError, match="acc shares memory with x"):
        _kernels.accumulate_f32(raw[:4], raw.view(F)[2:6], 1.0)
    with pytest.raises(ValueError, match=r"want x \(d=4,\) float32"):
        _kernels.accumulate_f32(raw[:4], np.zeros(5, F), 1.0)
