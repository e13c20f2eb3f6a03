"""Order statistics and distances against NumPy in double; what neither threads nor the order of updates may change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime import _kernels

F = np.float32
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
ordinary = st.floats(-1e6, 1e6, width=32)
few_values = st.sampled_from([F(v) for v in (0.0, -0.0, 1.0, -1.0, 3.5, np.finfo(F).max, np.finfo(F).min, 1e-45)])


def matrices(elements, rows=40, columns=40):
    return hnp.arrays(F, st.tuples(st.integers(1, rows), st.integers(0, columns)), elements=elements)


def sorted_mean(updates, first, last):
    """The mean over ranks [first, last), by NumPy's sort and a plain sum in double, upwards."""
    total = np.zeros(updates.shape[1])
    for row in np.sort(updates, axis=0)[first:last]:
        total += row.astype(np.float64)
    return (total / (last - first)).astype(F)


@given(st.one_of(matrices(finite), matrices(few_values)))
def test_the_median_is_that_of_sorted_columns(updates):
    n = len(updates)
    np.testing.assert_array_equal(_kernels.coordinate_median(updates), sorted_mean(updates, (n - 1) // 2, n // 2 + 1))


@given(st.one_of(matrices(finite), matrices(few_values)), st.data())
def test_the_trimmed_mean_is_that_of_sorted_columns(updates, data):
    n = len(updates)
    trim = data.draw(st.integers(0, (n - 1) // 2))
    np.testing.assert_array_equal(_kernels.trimmed_mean(updates, trim), sorted_mean(updates, trim, n - trim))


def test_every_number_of_updates_is_sorted():
    """The network differs with n: by the 0-1 principle, columns of zeros and ones show any exchange that is missing."""
    rng = np.random.default_rng(0)
    for n in [*range(1, 70), 127, 128, 129, 255, 256, 257, 300]:
        updates = (rng.random((n, 500)) < rng.random(500)).astype(F)
        rng.shuffle(updates, axis=0)
        np.testing.assert_array_equal(
            _kernels.coordinate_median(updates), sorted_mean(updates, (n - 1) // 2, n // 2 + 1), err_msg=str(n)
        )
        for trim in {0, 1, n // 10, (n - 1) // 2}:
            if 2 * trim < n:
                expected = sorted_mean(updates, trim, n - trim)
                np.testing.assert_array_equal(_kernels.trimmed_mean(updates, trim), expected, err_msg=f"{n} {trim}")


@given(matrices(few_values), st.randoms(use_true_random=False))
def test_the_order_of_updates_leaves_no_mark_on_any_bit(updates, random):
    rows = list(updates)
    random.shuffle(rows)
    assert _kernels.coordinate_median(rows).tobytes() == _kernels.coordinate_median(updates).tobytes()
    trim = (len(rows) - 1) // 3
    assert _kernels.trimmed_mean(rows, trim).tobytes() == _kernels.trimmed_mean(updates, trim).tobytes()


def rules(updates, **threads):
    """Each kernel of this file on the same updates."""
    n, start = len(updates), np.zeros(len(updates[0]), F)
    return {
        "median": _kernels.coordinate_median(updates, **threads),
        "trimmed": _kernels.trimmed_mean(updates, (n - 1) // 2, **threads),
        "distances": _kernels.squared_distances(updates, **threads),
        "geometric": _kernels.geometric_median(updates, np.ones(n), start, smoothing=1e-6, rounds=2, **threads),
        "clipping": _kernels.centered_clipping(updates, start, radius=3.0, rounds=2, **threads),
    }


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_leave_no_mark(threads):
    updates = np.random.default_rng(1).standard_normal((9, 150_003)).astype(F)
    alone, shared = rules(updates), rules(updates, threads=threads)
    for name in alone:
        assert alone[name].tobytes() == shared[name].tobytes(), name


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("n", "position"), [(1, 0), (7, 99), (50, 4998)])
def test_no_rule_lets_nan_or_infinity_win(bad, n, position):
    updates = np.ones((n, 5000), F)
    updates[n // 2, position] = bad
    start, wanted = np.zeros(5000, F), f"update {n // 2} holds NaN or infinity"
    for rule in (
        lambda: _kernels.coordinate_median(updates),
        lambda: _kernels.trimmed_mean(updates, (n - 1) // 2),
        lambda: _kernels.squared_distances(updates),
        lambda: _kernels.geometric_median(updates, np.ones(n), start, smoothing=1e-6, rounds=1),
        lambda: _kernels.centered_clipping(updates, start, radius=1.0, rounds=1),
    ):
        with pytest.raises(ValueError, match=wanted):
            rule()


@pytest.mark.parametrize("n", [1, 4])
def test_updates_without_coordinates_are_in_order(n):
    for name, result in rules(np.empty((n, 0), F)).items():
        assert result.size == (n * n if name == "distances" else 0)
        assert not result.any()


def test_one_update_is_its_own_centre():
    update = np.random.default_rng(2).standard_normal((1, 1003)).astype(F)
    for name, result in rules(update).items():
        if name in ("median", "trimmed", "geometric"):
            np.testing.assert_array_equal(result, update[0], err_msg=name)


@given(matrices(ordinary, rows=13, columns=60))
def test_distances_are_numpys_in_double(updates):
    got, wide = _kernels.squared_distances(updates), updates.astype(np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(got, expected, rtol=70 * 2.0**-24, atol=0)
    np.testing.assert_array_equal(got, got.T)
    assert not got.diagonal().any()


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-12, 1e12, 1e30, 3e38])
def test_distances_neither_overflow_nor_vanish(scale):
    updates = (np.random.default_rng(3).uniform(-1, 1, (6, 3001)) * scale).astype(F)
    updates[4:] = updates[3]  # and some are none
    wide = updates.astype(np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(_kernels.squared_distances(updates), expected, rtol=70 * 2.0**-24, atol=0)


def test_what_updates_have_in_common_does_not_drown_their_distances():
    """Weights whose updates are 1e-3 of them: a float32 Gram matrix names the wrong neighbour, differences do not."""
    rng = np.random.default_rng(4)
    common = rng.standard_normal(20_000).astype(F)
    noise = rng.standard_normal((8, 20_000)) * 1e-3 * (1 + 0.01 * np.arange(8))[:, None]
    weights = (common + noise).astype(F)
    wide = weights.astype(np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(_kernels.squared_distances(weights), expected, rtol=1e-6)
    norms = (weights * weights).sum(axis=1)
    gram = norms[:, None] + norms[None] - 2 * weights @ weights.T
    off = ~np.eye(8, dtype=bool)
    assert np.abs(gram / np.where(off, expected, 1) - 1)[off].max() > 1e-2  # the form that is not used


def weiszfeld(updates, weights, start, smoothing, rounds):
    z, wide = start.astype(np.float64), updates.astype(np.float64)
    for _ in range(rounds):
        b = weights / np.maximum(smoothing, np.linalg.norm(z - wide, axis=1))
        z = b @ wide / b.sum()
    return z


@given(matrices(ordinary, rows=12, columns=50), st.integers(0, 5))
def test_the_geometric_median_takes_weiszfelds_steps(updates, rounds):
    weights, start = np.linspace(1, 2, len(updates)), np.full(updates.shape[1], 0.25, F)
    got = _kernels.geometric_median(updates, weights, start, smoothing=1e-3, rounds=rounds)
    expected = weiszfeld(updates, weights, start, 1e-3, rounds)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * (1 + np.abs(updates).max(initial=0)))


def test_the_geometric_median_of_points_on_a_line_is_their_median():
    line = np.linspace(-1, 1, 1000)
    places = np.array([0.0, 1.0, 2.0, 10.0, 500.0])
    updates = (places[:, None] * line).astype(F)
    got = _kernels.geometric_median(updates, np.ones(5), updates[3], smoothing=1e-6, rounds=2000)
    np.testing.assert_allclose(got, updates[2], atol=1e-3)


@given(matrices(ordinary, rows=12, columns=50), st.sampled_from([0.1, 10.0, 1e9]), st.integers(0, 3))
def test_centered_clipping_takes_the_papers_steps(updates, radius, rounds):
    start = np.linspace(-2, 2, updates.shape[1]).astype(F)
    v, wide = start.astype(np.float64), updates.astype(np.float64)
    for _ in range(rounds):
        norms = np.linalg.norm(wide - v, axis=1)
        v = v + ((wide - v) * np.minimum(1, radius / np.maximum(norms, 1e-290))[:, None]).mean(axis=0)
    got = _kernels.centered_clipping(updates, start, radius=radius, rounds=rounds)
    np.testing.assert_allclose(got, v, rtol=1e-6, atol=1e-6 * (1 + np.abs(updates).max(initial=0)))


def test_clipping_at_infinity_is_the_mean():
    updates = np.random.default_rng(5).standard_normal((10, 999)).astype(F)
    got = _kernels.centered_clipping(updates, np.ones(999, F), radius=np.inf, rounds=1)
    np.testing.assert_allclose(got, updates.astype(np.float64).mean(axis=0), rtol=1e-6, atol=1e-7)


def test_a_liar_of_any_size_moves_clipping_by_its_radius_and_no_more():
    updates = np.zeros((10, 400), F)
    updates[3] = 3e38
    got = _kernels.centered_clipping(updates, np.zeros(400, F), radius=2.0, rounds=1)
    assert np.linalg.norm(got.astype(np.float64)) == pytest.approx(0.2, rel=1e-6)


def test_ten_million_coordinates():
    rng = np.random.default_rng(6)
    updates = rng.standard_normal((3, 10_000_000), dtype=F)
    np.testing.assert_array_equal(_kernels.coordinate_median(updates), np.sort(updates, axis=0)[1])
    np.testing.assert_array_equal(_kernels.trimmed_mean(updates, 0), sorted_mean(updates, 0, 3))
    gap = updates[0].astype(np.float64) - updates[1]
    assert _kernels.squared_distances(updates)[0, 1] == pytest.approx(gap @ gap, rel=1e-6)
    start = np.zeros(10_000_000, F)
    got = _kernels.geometric_median(updates, np.ones(3), start, smoothing=1e-6, rounds=1)
    np.testing.assert_allclose(got, weiszfeld(updates, np.ones(3), start, 1e-6, 1), rtol=1e-5, atol=1e-6)
    got = _kernels.centered_clipping(updates, start, radius=1e9, rounds=1)
    np.testing.assert_allclose(got, updates.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_bounds_are_named():
    updates, start = np.ones((4, 2), F), np.zeros(2, F)
    with pytest.raises(ValueError, match=r"want trim in \[0, 1\]; got 2"):
        _kernels.trimmed_mean(updates, 2)
    with pytest.raises(ValueError, match=r"want radius positive; got nan"):
        _kernels.centered_clipping(updates, start, radius=np.nan, rounds=1)
    with pytest.raises(ValueError, match=r"want smoothing in \[1e-100, 1e100\]; got 0"):
        _kernels.geometric_median(updates, np.ones(4), start, smoothing=0, rounds=1)
    with pytest.raises(ValueError, match=r"want weights in \[2\*\*-64, 2\*\*64\]; got 0.0 at 1"):
        _kernels.geometric_median(updates, np.array([1.0, 0, 1, 1]), start, smoothing=1, rounds=1)
    with pytest.raises(ValueError, match="start holds NaN or infinity"):
        _kernels.centered_clipping(updates, np.full(2, np.nan, F), radius=1, rounds=1)
