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
from edge_runtime.privacy.accountant import PureSpend, composed_epsilon
from edge_runtime.privacy.laplace import LN2_HIGH, LaplaceEvent, LaplaceNoise, rounded_up
from edge_runtime.task import PrivacySpec


def rng(seed: object) -> seeded.SeededRng:
    return seeded.SeededRng(hashlib.sha256(repr(seed).encode()).digest())


updates = npst.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-1, 1, width=32)
)
noises = st.builds(LaplaceNoise, st.floats(1e-6, 1e6), st.integers(1, 1 << 20), st.integers(0, 20))


@given(updates, noises)
def test_a_contribution_keeps_the_integer_bound_whatever_the_update(update, noise) -> None:
    contribution = noise.contribution(update)
    assert sum(abs(int(value)) for value in contribution) <= noise.levels
    assert _kernels.integer_l1_norm(contribution) <= noise.levels


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused(poison: float) -> None:
    with pytest.raises(LocalError, match="the update cannot be clipped"):
        LaplaceNoise(1.0, 100, 10).contribution(np.array([0.1, poison], np.float32))


def test_a_release_is_the_contribution_and_the_noise_and_nothing_else() -> None:
    noise = LaplaceNoise.for_epsilon(1.0, clip_norm=2.0, log2_scale=10)
    contribution = noise.contribution(np.linspace(-0.1, 0.1, 300).astype(np.float32))
    release = noise.release(contribution, rng(1))
    drawn = _kernels.discrete_laplace(rng(1), 300, 10)
    assert release.values.dtype == np.int64
    np.testing.assert_array_equal(release.values, contribution.astype(np.int64) + drawn)
    assert release.event == LaplaceEvent(noise.levels, 10, 300)


def test_noise_made_ahead_is_released_with_the_same_event() -> None:
    noise = LaplaceNoise.for_epsilon(1.0, clip_norm=2.0, log2_scale=10)
    total = np.full(20_000, 1 << 30, np.int32)
    release = noise.release(total, _kernels.NoiseReservoir(10, 8192))
    assert release.event == LaplaceEvent(noise.levels, 10, 20_000)
    assert total[0] == 1 << 30
    drawn = release.values - (1 << 30)
    assert float(np.abs(drawn + 0.5).mean()) == pytest.approx(2**10 / math.log(2), rel=0.05)
    with pytest.raises(ValueError, match="the reservoir's log2_scale is 11, the mechanism's 10"):
        noise.release(total, _kernels.NoiseReservoir(11, 8192))


@pytest.mark.parametrize("local", [True, False])
def test_the_mean_is_unbiased_and_needs_the_half_step_back(local: bool) -> None:
    """Within 4 standard errors; without the half step at least 15 away, 10 of which have to show."""
    contributors, size = 5, 1_000_000
    noise = LaplaceNoise.for_epsilon(60.0, clip_norm=float(size), log2_scale=4)  # coarse: half a step shows
    shares = np.ones((contributors, size), np.int32)
    draws = contributors if local else 1
    if local:
        total = sum(noise.release(share, rng(index)).values for index, share in enumerate(shares))
    else:
        total = noise.release(shares.sum(axis=0), rng(9)).values
    step = noise.clip_norm / noise.levels
    spread = noise.expected_noise_l2(size, contributors, local=local) / math.sqrt(size)
    errors = {
        half_steps: abs(noise.mean(total, contributors=contributors, draws=half_steps).mean(dtype=np.float64) - step)
        for half_steps in (draws, 0)
    }
    standard_error = spread / math.sqrt(size)
    assert errors[draws] < 4 * standard_error
    assert errors[0] > 10 * standard_error


@pytest.mark.parametrize("local", [True, False])
def test_the_expected_noise_is_what_comes(local: bool) -> None:
    noise = LaplaceNoise.for_epsilon(1.0, clip_norm=1.0, log2_scale=10)
    size, contributors = 20_000, 3
    zero = np.zeros(size, np.int32)
    draws = contributors if local else 1
    total = sum(noise.release(zero, rng((local, index))).values for index in range(draws))
    got = float(np.linalg.norm(noise.mean(total, contributors=contributors, draws=draws)))
    assert got == pytest.approx(noise.expected_noise_l2(size, contributors, local=local), rel=0.03)


@given(st.floats(1e-4, 100), st.integers(4, 20))
def test_a_grid_never_costs_more_than_was_asked_and_is_the_finest(epsilon: float, log2_scale: int) -> None:
    assume(epsilon * 2**log2_scale / math.log(2) > 16.1)
    noise = LaplaceNoise.for_epsilon(epsilon, clip_norm=1.0, log2_scale=log2_scale)
    assert noise.event.epsilon <= epsilon
    assert Fraction(noise.levels + 1, 1 << log2_scale) * LN2_HIGH > Fraction(epsilon)


def test_a_grid_too_coarse_or_too_fine_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="raise log2_scale"):
        LaplaceNoise.for_epsilon(0.01, clip_norm=1.0, log2_scale=4)
    with pytest.raises(ValueError, match="lower log2_scale"):
        LaplaceNoise.for_epsilon(100.0, clip_norm=1.0, log2_scale=32)


def test_the_constant_for_ln_2_is_above_it_by_less_than_1e_16() -> None:
    series = sum(
        (Fraction(1, k * 2**k) for k in range(1, 80)), Fraction(0)
    )  # ln 2 = sum 1 / (k 2^k), remainder < 2^-80
    assert series > LN2_HIGH - Fraction(1, 10**16)
    assert series + Fraction(1, 2**79) < LN2_HIGH


events = st.builds(LaplaceEvent, st.integers(1, 1 << 30), st.integers(0, 32), st.integers(0, 1 << 24))


@given(st.lists(events, max_size=30))
def test_events_add_up_exactly_and_are_rounded_up_once(released: list[LaplaceEvent]) -> None:
    exact = sum((Fraction(event.levels, 1 << event.log2_scale) for event in released), Fraction(0)) * LN2_HIGH
    spent = composed_epsilon(released)
    assert Fraction(spent) >= exact
    assert spent == 0 or Fraction(math.nextafter(spent, 0)) < exact
    assert composed_epsilon(reversed(released)) == spent


@given(events, st.integers(0, 1000))
def test_the_same_event_many_times_is_its_sum(event: LaplaceEvent, times: int) -> None:
    repeated = PureSpend()
    for _ in range(min(times, 50)):
        repeated = repeated.plus(event)
    assert repeated == PureSpend().plus(event, min(times, 50))


@given(st.fractions(min_value=0, max_value=10**6))
def test_rounding_up_never_understates(value: Fraction) -> None:
    up = rounded_up(value)
    assert Fraction(up) >= value
    assert up == 0 or Fraction(math.nextafter(up, -1)) < value


@given(events)
def test_delta_is_at_least_what_the_proof_allows_for(event: LaplaceEvent) -> None:
    """docs/noise.md, section 4: (1 + e^epsilon) d 10 2^-65, here in floating point."""
    steps = event.levels / 2**event.log2_scale
    if steps < 60:
        proven = (1 + 2**steps) * event.draws * 10 * 2.0**-65
        assert float(event.delta) >= min(proven * (1 - 1e-12), 1)
        assert float(event.delta) <= 2.001 * proven
    else:
        assert event.draws == 0 or event.delta > 2**-7


def test_delta_at_the_documented_example() -> None:
    noise = LaplaceNoise.for_epsilon(1.0, clip_norm=1.0, log2_scale=16)
    assert 0 < noise.event_for(65_536).delta < 2**-42
    assert noise.event.delta == 0


@pytest.mark.parametrize("values", [(0, 10), (-1, 10), ((1 << 30) + 1, 10), (5, -1), (5, 33), (5, 10**9), (5, 1, -1)])
def test_an_entry_that_no_mechanism_makes_is_no_entry(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no release has"):
        LaplaceEvent(*values)


@pytest.mark.parametrize("place", ["local", "central"])
def test_the_default_task_spends_what_it_says(place: str) -> None:
    spec = PrivacySpec(place, epsilon=1.0)
    assert 0.99 < spec.noise().event.epsilon <= 1.0
