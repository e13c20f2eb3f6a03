"""Record-level private training: what it costs, what it computes, and that no example moves a sum past its bound."""

import contextlib
import math
from fractions import Fraction

import numpy as np
import pytest

from edge_runtime import _kernels
from edge_runtime._kernels import seeded
from edge_runtime.errors import LocalError
from edge_runtime.privacy.dpsgd import WHOLE, AdaptiveClip, PrivateSgd, sum_inflation

LAYERS = [{"type": "dense", "units": 5}, {"type": "tanh"}, {"type": "dense", "units": 3}]


def problem(examples=200, seed=0):
    net = _kernels.Network((4,), LAYERS, "softmax_cross_entropy")
    rng = np.random.default_rng(seed)
    params = (rng.standard_normal(net.parameter_count) * 0.5).astype(np.float32)
    x = rng.standard_normal((examples, 4)).astype(np.float32)
    return net, params, x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0.5)


def mechanism(**changes):
    settings = {"clip_norm": 1.0, "parameters": 43, "examples": 200, "batch_size": 20} | changes
    return PrivateSgd.for_epsilon(settings.pop("step_epsilon", 1.0), **settings)


def rng():
    return seeded.SeededRng(bytes(range(32)))


@pytest.mark.parametrize("step_epsilon", [0.01, 0.5, 1.0, 8.0])
def test_a_step_costs_no_more_than_asked_and_hardly_less(step_epsilon):
    event = mechanism(step_epsilon=step_epsilon).event(steps=1)
    assert 0.998 * step_epsilon < event.step_epsilon <= step_epsilon * (1 + 1e-12)


def test_the_sensitivity_in_grid_steps_covers_clip_rounding_and_float_sums():
    of = mechanism(clip_norm=3.0)
    exact = Fraction(3) * Fraction(sum_inflation(of.most_rows, of.rows_at_once)) / Fraction(of.grid) + 43
    assert exact <= of.noise.levels


def test_poisson_sampling_amplifies_and_steps_add_up():
    event = mechanism().event(steps=100)
    q = event.sampling / WHOLE
    assert q == pytest.approx(0.1)
    assert event.epsilon == pytest.approx(100 * math.log1p(q * math.expm1(event.step_epsilon)), rel=1e-9)
    assert 0 < event.delta < 1e-12


def test_a_batch_exceeds_its_bound_with_a_chance_that_delta_covers():
    from math import comb

    of = mechanism()
    q = Fraction(of.sampling, WHOLE)
    tail = sum(comb(200, k) * q**k * (1 - q) ** (200 - k) for k in range(of.most_rows + 1, 201))
    assert 0 < tail < Fraction(1, 2**80)


def replayed(net, params, x, y, of, *, steps, learning_rate):
    """The documented steps in NumPy, from the same streams: the sampler's key comes first, then the noise's."""
    twin = rng()
    words = np.frombuffer(twin.bytes(8 * len(x) * steps), "<u8").reshape(steps, len(x))
    noise = _kernels.discrete_laplace(twin, 512 * steps, of.noise.log2_scale).reshape(steps, 512)  # a block a step
    w, used = params.copy(), 0
    for step in range(steps):
        rows = np.flatnonzero(words[step] < np.uint64(of.sampling))
        total = np.zeros(len(w))
        for row in rows:  # each example's gradient by itself, clipped in float64
            g = np.empty_like(w)
            net.gradient(w, x[row : row + 1], y[row : row + 1], g, reproducible=True)
            total += g.astype(float) * min(1, of.clip_norm / np.abs(g.astype(float)).sum())
        noisy = np.round(total / of.grid) + noise[step, : len(w)] + 0.5
        w = (w - np.float32(learning_rate) * (noisy * of.grid / of.expected_batch).astype(np.float32)).astype(
            np.float32
        )
        used += len(rows)
    return w, used


def test_the_result_is_the_documented_arithmetic_on_the_same_draws():
    net, params, x, y = problem()
    of = mechanism(clip_norm=0.5)
    want, used = replayed(net, params, x, y, of, steps=4, learning_rate=0.05)
    trained, event = of.train(net, params, x, y, rng(), steps=4, learning_rate=0.05, reproducible=True)
    assert used > 40
    assert event.steps == 4
    assert np.abs(want - params).max() > 0.005
    np.testing.assert_allclose(trained, want, atol=2e-5)


def test_batches_larger_than_what_goes_through_at_a_time_give_the_same():
    net, params, x, y = problem(600)
    of = mechanism(examples=600, batch_size=300)
    assert of.rows_at_once == 128
    want, _ = replayed(net, params, x, y, of, steps=2, learning_rate=0.05)
    trained, _ = of.train(net, params, x, y, rng(), steps=2, learning_rate=0.05)
    np.testing.assert_allclose(trained, want, atol=2e-5)


def test_an_empty_batch_makes_a_step_of_noise_alone():
    net, params, x, y = problem(1)
    of = mechanism(examples=1, batch_size=1e-12)
    trained, event = of.train(net, params, x, y, rng(), steps=5, learning_rate=0.1)
    assert (trained != params).mean() > 0.9
    assert event.epsilon < 1e-10


def test_the_noise_has_the_scale_that_epsilon_asks_for():
    net, params, x, y = problem(2)
    of = mechanism(examples=2, batch_size=1e-9, step_epsilon=0.5, clip_norm=2.0)
    moved = np.concatenate(
        [of.train(net, params, x, y, _kernels.SystemRng(), steps=1, learning_rate=1e-9)[0] - params for _ in range(400)]
    )
    assert np.abs(moved).mean() == pytest.approx(2.0 / 0.5, rel=0.05)  # Laplace: E|X| = sensitivity / epsilon


def gaussian(**changes):
    settings = {"clip_norm": 1.0, "parameters": 43, "examples": 200, "batch_size": 20} | changes
    return PrivateSgd.for_noise_multiplier(settings.pop("noise_multiplier", 1.1), **settings)


@pytest.mark.parametrize("noise_multiplier", [0.3, 1.1, 20.0])
def test_gaussian_noise_is_what_was_asked_times_what_an_example_can_change(noise_multiplier):
    of = gaussian(noise_multiplier=noise_multiplier, clip_norm=2.0)
    change = 2.0 * sum_inflation(of.most_rows, of.rows_at_once) / of.grid + math.sqrt(43)
    assert change <= of.noise.levels
    event = of.event(steps=7)
    assert noise_multiplier * (1 - 1e-9) <= event.noise_multiplier < noise_multiplier * 1.002
    net, params, x, y = problem(2)
    blank = gaussian(noise_multiplier=noise_multiplier, clip_norm=2.0, examples=2, batch_size=1e-9)
    moved = np.concatenate(
        [
            blank.train(net, params, x, y, _kernels.SystemRng(), steps=1, learning_rate=1e-9)[0] - params
            for _ in range(300)
        ]
    )
    assert moved.std() == pytest.approx(2.0 * noise_multiplier, rel=0.05)


def test_a_count_beside_the_sum_lowers_the_noise_multiplier_by_the_published_rule():
    event = gaussian(adaptive=AdaptiveClip(scale=5)).event(steps=1)
    alone = gaussian().event(steps=1).noise_multiplier
    assert event.noise_multiplier == pytest.approx((alone**-2 + 5.0**-2) ** -0.5, rel=1e-6)


def test_the_adaptive_clip_settles_where_its_quantile_is():
    net, params, x, y = problem(2000)
    adaptive = AdaptiveClip(quantile=0.5, rate=0.3, scale=2)
    of = PrivateSgd.for_epsilon(1.0, clip_norm=100.0, parameters=43, examples=2000, batch_size=200, adaptive=adaptive)
    told = net.train_privately(
        params.copy(),
        x,
        y,
        rng=rng(),
        steps=60,
        sampling=of.sampling,
        expected_batch=of.expected_batch,
        most_rows=of.most_rows,
        clip=of.clip_norm,
        norm="l1",
        grid=of.grid,
        log2_scale=of.noise.log2_scale,
        adaptive=(0.5, 0.3, 1e-3, 1e3, 2),
        learning_rate=0.0,
    )
    norms = net.clipped_gradient(params, x, y, np.empty_like(params), bound=1.0, norm="l1")
    assert 0.35 < (norms[0] <= told["clip"]).mean() < 0.65
    plain = mechanism().event(steps=1)
    assert of.event(steps=1).step_epsilon <= 1.0
    assert of.event(steps=1).count == Fraction(1, 4)
    assert plain.count == 0


def test_data_that_leave_the_finite_numbers_are_the_owners_matter():
    net, params, x, y = problem()
    x[3, 1] = np.nan
    with pytest.raises(LocalError, match="private training failed: x holds NaN"):
        mechanism().train(net, params, x, y, rng(), steps=1, learning_rate=0.1)


def test_noise_made_ahead_is_the_same_noise():
    net, params, x, y = problem(2)
    of = mechanism(examples=2, batch_size=1e-9, step_epsilon=0.5, clip_norm=2.0)
    scale = of.noise.log2_scale
    with contextlib.closing(_kernels.NoiseReservoir(scale, 20_000)) as reservoir:
        moved = np.concatenate(
            [
                of.train(net, params, x, y, _kernels.SystemRng(), steps=1, learning_rate=1e-9, reservoir=reservoir)[0]
                - params
                for _ in range(400)
            ]
        )
        with pytest.raises(LocalError, match="cannot be replayed"):
            of.train(net, params, x, y, rng(), steps=1, learning_rate=0.1, reservoir=reservoir)
    assert np.abs(moved).mean() == pytest.approx(2.0 / 0.5, rel=0.05)
    with (
        contextlib.closing(_kernels.NoiseReservoir(scale - 1, 8192)) as other,
        pytest.raises(LocalError, match="want a res"),
    ):
        of.train(net, params, x, y, _kernels.SystemRng(), steps=1, learning_rate=0.1, reservoir=other)


def test_gaussian_training_in_l2_learns():
    net, params, x, y = problem(2000)
    of = gaussian(examples=2000, batch_size=100, clip_norm=1.0, noise_multiplier=0.8)
    trained, event = of.train(net, params, x, y, rng(), steps=200, learning_rate=0.3)
    assert event.steps == 200
    assert net.loss(trained, x, y) < 0.75 * net.loss(params, x, y)


@pytest.mark.parametrize("noise_multiplier", [0.0, float("nan"), 1e4])
def test_noise_multipliers_that_make_no_sense_are_refused(noise_multiplier):
    with pytest.raises(LocalError, match="want a noise multiplier in"):
        gaussian(noise_multiplier=noise_multiplier)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "want an expected batch of more than 0 and at most 200"),
        ({"batch_size": 201}, "at most 200 examples; got 201"),
        ({"step_epsilon": 1e-9, "parameters": 10**6}, "too small for 1000000 parameters"),
        ({"step_epsilon": 0.01, "adaptive": AdaptiveClip(scale=1)}, "raise its scale"),
        ({"step_epsilon": 1e9}, "protects nobody"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_in_words(changes, words):
    with pytest.raises(LocalError, match=words):
        mechanism(**changes)
