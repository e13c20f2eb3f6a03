"""Robust rules: within the honest range, whatever the liars say, and refused where there are too many of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import robust

F = np.float32
RULES = {
    "median": (robust.coordinate_median, 1),
    "trimmed": (robust.trimmed_mean, 1),
    "krum": (robust.krum, 3),
    "multi_krum": (lambda updates, liars: robust.multi_krum(updates, liars=liars, chosen=1), 3),
    "geometric": (robust.geometric_median, 1),
    "clipping": (
        lambda updates, liars: robust.centered_clipping(
            updates, liars=liars, center=np.zeros(updates.shape[1], F), radius=1.0
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("liars", [0, 1, 2, 5])
def test_a_rule_is_refused_exactly_below_its_least_number_of_updates(name, liars):
    rule, more = RULES[name]
    least = 2 * liars + more
    updates = np.random.default_rng(0).standard_normal((least, 4)).astype(F)
    assert rule(updates, liars=liars).shape == (4,)
    with pytest.raises(ValueError, match=rf"withstands {liars} liars among {least} updates or more; got {least - 1}"):
        rule(updates[:-1], liars=liars)


@pytest.mark.parametrize("name", RULES)
def test_fewer_than_no_liars_are_refused(name):
    with pytest.raises(ValueError, match="want liars of at least 0; got -1"):
        RULES[name][0](np.ones((9, 2), F), liars=-1)


def honest_and_lies(data, f, n, d=5):
    """n updates near one another, and what f liars send in places of their own choice."""
    honest = (np.random.default_rng(data.draw(st.integers(0, 99))).uniform(-1, 1, (n - f, d)) + 3).astype(F)
    lie = st.one_of(st.sampled_from([0.0, 3e38, -3e38]), st.floats(width=32, allow_nan=False, allow_infinity=False))
    lies = np.array([[data.draw(lie)] * d for _ in range(f)], F).reshape(f, d)
    order = data.draw(st.permutations(range(n)))
    return honest, np.concatenate([honest, lies])[list(order)]


@given(st.data(), st.integers(0, 3))
def test_liars_do_not_lead_a_coordinate_out_of_the_honest_range(data, f):
    n = 2 * f + data.draw(st.integers(1, 4))
    honest, updates = honest_and_lies(data, f, n)
    for rule in (robust.coordinate_median, robust.trimmed_mean):
        got = rule(updates, liars=f)
        assert (got >= honest.min(axis=0)).all()
        assert (got <= honest.max(axis=0)).all()


@given(st.data(), st.integers(0, 3))
def test_the_geometric_median_stays_by_the_honest(data, f):
    """Lopuhaa and Rousseeuw 1991: within 2 (1 - f/n) / (1 - 2 f/n) of the honest radius."""
    n = 2 * f + data.draw(st.integers(2, 5))
    honest, updates = honest_and_lies(data, f, n)
    got = robust.geometric_median(updates, liars=f, rounds=50)
    radius = np.linalg.norm(honest.astype(np.float64) - 3, axis=1).max()
    assert np.linalg.norm(got.astype(np.float64) - 3) <= 2 * (1 - f / n) / (1 - 2 * f / n) * radius


def plain_krum_scores(updates, f):
    wide = updates.astype(np.float64)
    squares = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    scores = []
    for i, row in enumerate(squares):
        others = sorted(np.delete(row, i))
        scores.append(sum(others[: len(updates) - f - 2]))
    return np.array(scores)


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1000))
def test_krum_is_the_papers(f, more, seed):
    updates = np.random.default_rng(seed).standard_normal((2 * f + 3 + more, 6)).astype(F)
    expected = plain_krum_scores(updates, f)
    np.testing.assert_allclose(robust.krum_scores(updates, liars=f), expected, rtol=1e-5)
    np.testing.assert_array_equal(robust.krum(updates, liars=f), updates[expected.argmin()])
    most = len(updates) - f - 2
    chosen = updates[np.argsort(expected)[:most]].astype(np.float64)
    np.testing.assert_allclose(
        robust.multi_krum(updates, liars=f, chosen=most), chosen.mean(axis=0), rtol=1e-5, atol=1e-6
    )


@given(st.data(), st.integers(0, 3))
def test_krum_picks_an_honest_update_when_the_liars_are_far(data, f):
    honest = (np.random.default_rng(data.draw(st.integers(0, 99))).uniform(-1, 1, (f + 3, 5)) + 3).astype(F)
    far = data.draw(st.sampled_from([1e3, -1e3, 1e30, 3e38]))
    updates = np.concatenate([np.full((f, 5), far, F), honest])
    got = robust.krum(updates, liars=f)
    assert any((got == update).all() for update in honest)


def test_four_updates_with_three_liars_have_no_krum():
    with pytest.raises(ValueError, match="Krum withstands 3 liars among 9 updates or more; got 4"):
        robust.krum(np.ones((4, 3), F), liars=3)


def test_krum_on_whole_weights_finds_the_neighbour_that_a_float32_gram_matrix_misses():
    """Weights around 1, updates of 1e-4: the planted middle update is the nearest to all."""
    rng = np.random.default_rng(1)
    common = rng.standard_normal(50_000)
    noise = rng.standard_normal((9, 50_000)) * 1e-4
    noise[5] *= 0.9
    weights = (common + noise).astype(F)
    np.testing.assert_array_equal(robust.krum(weights, liars=2), weights[5])
    norms = (weights * weights).sum(axis=1)
    gram = norms[:, None] + norms[None] - 2 * weights @ weights.T
    np.fill_diagonal(gram, np.inf)
    assert np.sort(gram, axis=1)[:, :5].sum(axis=1).argmin() != 5  # what would be picked without differences


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_nan_is_named_and_never_wins(name, bad):
    updates = np.random.default_rng(2).standard_normal((9, 4)).astype(F)
    updates[4, 2] = bad
    with pytest.raises(ValueError, match="update 4 holds NaN or infinity"):
        RULES[name][0](updates, liars=1)


def test_updates_that_are_not_finite_can_be_left_out_and_are_told():
    updates = np.random.default_rng(3).standard_normal((6, 4)).astype(F)
    updates[1, 0], updates[4, 3] = np.nan, -np.inf
    kept, left_out = robust.finite_updates(updates)
    assert left_out == [1, 4]
    np.testing.assert_array_equal(kept, updates[[0, 2, 3, 5]])


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_updates_does_not_matter(name):
    updates = np.random.default_rng(4).standard_normal((11, 50)).astype(F)
    shuffled = updates[np.random.default_rng(5).permutation(11)]
    rule = RULES[name][0]
    np.testing.assert_allclose(rule(shuffled, liars=2), rule(updates, liars=2), rtol=1e-6, atol=1e-7)


def test_without_liars_trimming_is_the_mean_and_clipping_far_out_too():
    updates = np.random.default_rng(6).standard_normal((8, 30)).astype(F)
    mean = updates.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(robust.trimmed_mean(updates, liars=0), mean, rtol=1e-6, atol=1e-7)
    clipped = robust.centered_clipping(updates, liars=0, center=np.zeros(30, F), radius=np.inf)
    np.testing.assert_allclose(clipped, mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chosen", [0, 6])
def test_multi_krum_averages_no_more_than_a_score_looks_at(chosen):
    with pytest.raises(ValueError, match="multi-Krum of 9 updates with 2 liars averages 1 to 5; got"):
        robust.multi_krum(np.ones((9, 2), F), liars=2, chosen=chosen)


def test_liars_with_half_of_the_weight_are_refused():
    updates = np.random.default_rng(7).standard_normal((5, 3)).astype(F)
    with pytest.raises(ValueError, match="1 liars may hold half of the weight"):
        robust.geometric_median(updates, liars=1, weights=np.array([1.0, 4, 1, 1, 1]))
    robust.geometric_median(updates, liars=1, weights=np.array([1.0, 3, 1, 1, 1]))


def test_krum_returns_a_copy():
    updates = np.random.default_rng(8).standard_normal((5, 3)).astype(F)
    before = updates.copy()
    robust.krum(updates, liars=1)[:] = 0
    np.testing.assert_array_equal(updates, before)
