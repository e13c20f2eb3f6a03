from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_runtime import _kernels
from edge_runtime._kernels import seeded
from edge_runtime.errors import LocalError
from edge_runtime.privacy.gaussian import GaussianEvent, GaussianNoise


def rng(seed: object) -> seeded.SeededRng:
    return seeded.SeededRng(hashlib.sha256(repr(seed).encode()).digest())


updates = npst.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-1, 1, width=32)
)
noises = st.builds(GaussianNoise, st.floats(1e-6, 1e6), st.integers(1, 1 << 20), st.integers(1, 1 << 20))


@given(updates, noises)
def test_a_contribution_keeps_the_integer_bound_whatever_the_update(update, noise) -> None:
    contribution = noise.contribution(update)
    assert sum(int(value) ** 2 for value in contribution) <= noise.levels**2


@given(updates, updates, noises)
def test_a_device_replaced_by_zero_moves_a_sum_within_the_sensitivity(first, second, noise) -> None:
    size = min(len(first), len(second))
    mine, others = noise.contribution(first[:size]), noise.contribution(second[:size]).astype(np.int64)
    moved = (others + mine) - others
    assert sum(int(value) ** 2 for value in moved) <= noise.event.levels**2


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused(poison: float) -> None:
    with pytest.raises(LocalError, match="the update cannot be clipped"):
        GaussianNoise(1.0, 100, 10).contribution(np.array([0.1, poison], np.float32))


def test_a_release_is_the_contribution_and_the_noise_and_nothing_else() -> None:
    noise = GaussianNoise.for_noise_multiplier(1.5, clip_norm=2.0, levels=1000)
    contribution = noise.contribution(np.linspace(-0.1, 0.1, 300).astype(np.float32))
    release = noise.release(contribution, rng(1))
    drawn = _kernels.discrete_gaussian(rng(1), 300, 1500)
    assert release.values.dtype == np.int64
    np.testing.assert_array_equal(release.values, contribution.astype(np.int64) + drawn)
    assert release.event == GaussianEvent(1000, 1500, 300)


@pytest.mark.parametrize("local", [True, False])
def test_the_mean_is_unbiased_and_its_noise_is_what_was_expected(local: bool) -> None:
    contributors, size = 4, 50_000
    noise = GaussianNoise.for_noise_multiplier(1.0, clip_norm=3.0, levels=5000)
    shares = np.random.default_rng(1).standard_normal((contributors, size)).astype(np.float32) * 0.01
    contributions = [noise.contribution(share).astype(np.int64) for share in shares]
    if local:
        total = sum(noise.release(one, rng(index)).values for index, one in enumerate(contributions))
    else:
        total = noise.release(sum(contributions), rng(9)).values
    error = noise.mean(total, contributors=contributors) - shares.mean(axis=0)
    expected = noise.expected_noise_l2(size, contributors, local=local)
    assert float(np.linalg.norm(error)) == pytest.approx(expected, rel=0.03)
    assert abs(float(error.mean())) < 4 * expected / size


@given(st.floats(1e-6, 1e3), st.integers(1, 1 << 20))
def test_a_grid_never_costs_more_than_was_asked_and_has_the_least_noise(rho: float, levels: int) -> None:
    assume(levels / math.sqrt(2 * rho) < 2**29)
    event = GaussianNoise.for_rho(rho, clip_norm=1.0, levels=levels).event
    assert event.rho <= Fraction(rho)
    assert event.sigma == 1 or Fraction(levels**2, 2 * (event.sigma - 1) ** 2) > Fraction(rho)


@given(st.floats(1e-3, 1e3), st.integers(1, 1 << 18))
def test_the_noise_multiplier_is_never_overstated(multiplier: float, levels: int) -> None:
    event = GaussianNoise.for_noise_multiplier(multiplier, clip_norm=1.0, levels=levels).event
    assert Fraction(event.sigma, event.levels) >= Fraction(multiplier)
    assert Fraction(event.noise_multiplier) <= Fraction(event.sigma, event.levels)
    assert event.noise_multiplier == pytest.approx(event.sigma / event.levels)


def test_the_cost_bounds_the_renyi_divergence_of_the_law() -> None:
    """Summed over the law itself, at integer and fractional orders: D_alpha <= alpha rho, and nearly equal."""
    sigma, shift = 5, 3
    x = np.arange(-200, 201)
    log_p, log_q = -(x**2) / (2 * sigma**2), -((x - shift) ** 2) / (2 * sigma**2)
    log_p, log_q = (log - math.log(np.exp(log).sum()) for log in (log_p, log_q))
    rho = float(GaussianEvent(shift, sigma).rho)
    for alpha in (1.25, 1.5, 2, 3, 7.3):
        divergence = math.log(np.exp(alpha * log_p + (1 - alpha) * log_q).sum()) / (alpha - 1)
        assert divergence <= alpha * rho * (1 + 1e-12)
        assert divergence > alpha * rho * 0.999


@given(st.integers(0, 1 << 24), st.floats(0, 30))
def test_the_samplers_part_of_delta_is_what_the_proof_allows_for(draws: int, epsilon: float) -> None:
    proven = (1 + math.exp(epsilon)) * draws * 2.0**-64
    delta = float(GaussianEvent(10, 10, draws).sampler_delta(epsilon))
    assert min(proven, 1) * (1 - 1e-12) <= delta <= 2.1 * proven


def test_planning_costs_no_delta_and_absurd_epsilons_say_nothing() -> None:
    assert GaussianEvent(1, 1).sampler_delta(1.0) == 0
    assert GaussianEvent(1, 1, 5).sampler_delta(100.0) == 1


@pytest.mark.parametrize("values", [(0, 10), (-1, 10), ((1 << 30) + 1, 10), (5, 0), (5, (1 << 30) + 1), (5, 1, -1)])
def test_an_entry_that_no_mechanism_makes_is_no_entry(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no release has"):
        GaussianEvent(*values)


def test_a_grid_too_fine_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="fewer levels"):
        GaussianNoise.for_noise_multiplier(100.0, clip_norm=1.0, levels=1 << 26)
    with pytest.raises(ValueError, match="more levels"):
        GaussianNoise.for_noise_multiplier(1.0, clip_norm=1.0, levels=0)
