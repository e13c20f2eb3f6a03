"""Sums and means against NumPy, and the bounds on what one device can do to them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import aggregation
from edge_runtime import _kernels
from edge_runtime.task import PrivacySpec


def system():
    return _kernels.SystemRng()


@given(
    st.lists(
        st.tuples(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), st.integers(1, 10**9)), min_size=1
    )
)
def test_the_weighted_mean_is_numpys(pairs):
    updates = [(np.array(values, np.float32), weight) for values, weight in pairs]
    got = aggregation.weighted_mean(updates, 4)
    expected = np.average([u for u, _ in updates], axis=0, weights=[w for _, w in updates])
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-3)
    assert got.dtype == np.float32


def test_a_mean_of_nobody_is_refused():
    with pytest.raises(ValueError, match="no updates"):
        aggregation.weighted_mean([], 4)
    with pytest.raises(ValueError, match="no contributions"):
        aggregation.private_mean(np.zeros(4, np.int64), 0, PrivacySpec("central"), system())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"NaN|inf|finite"):
        aggregation.weighted_mean([(np.array([0, value], np.float32), 1)], 2)


def test_a_heavy_weight_wins_as_documented():
    light, heavy = np.zeros(3, np.float32), np.ones(3, np.float32)
    mean = aggregation.weighted_mean([(light, 100)] * 99 + [(heavy, 10**9)], 3)
    assert (mean > 0.99998).all()


def test_local_noise_is_centred_again_in_the_mean():
    privacy = PrivacySpec("local", clip_norm=1.0, epsilon=1.0)
    noise = privacy.noise()
    total = np.full(5, -3, np.int64)  # six draws, symmetric about -1/2 each
    assert not aggregation.private_mean(total, 6, privacy, system()).any()
    total[0] += 6 * noise.levels
    assert aggregation.private_mean(total, 6, privacy, system())[0] == pytest.approx(1.0)


def test_central_noise_has_the_scale_of_its_epsilon():
    privacy = PrivacySpec("central", clip_norm=1.0, epsilon=1.0)
    size, contributors = 20_000, 10
    mean = aggregation.private_mean(np.zeros(size, np.int64), contributors, privacy, system())
    laplace_scale = 1.0 / 1.0 / contributors
    assert np.mean(np.abs(mean)) == pytest.approx(laplace_scale, rel=0.05)
    assert abs(mean.mean()) < 6 * math.sqrt(2) * laplace_scale / math.sqrt(size)


@pytest.mark.parametrize(("epsilon", "log2_scale"), [(0.5, 10), (8.0, 4), (0.01, 14)])
def test_honest_local_releases_are_far_within_the_bounds_of_what_is_accepted(epsilon, log2_scale):
    privacy = PrivacySpec("local", clip_norm=1.0, epsilon=epsilon, log2_scale=log2_scale)
    noise, size = privacy.noise(), 5000
    one, norm = aggregation.largest_local_release(noise.levels, noise.log2_scale, size)
    update = np.zeros(size, np.float32)
    update[0] = 1.0
    for _ in range(50):
        values = noise.release(noise.contribution(update), system()).values
        assert np.abs(values).max() <= one
        assert np.abs(values).sum() <= norm
    expected = size * 2.0**log2_scale / math.log(2)
    assert norm < noise.levels + 1.3 * expected + 64 * 2.0**log2_scale  # no looser than it has to be
