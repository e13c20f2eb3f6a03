"""The sampling audit: what samples of a known integer law must look like."""

import numpy as np
import pytest


def chi_square_z(counts, probabilities):
    """How many standard deviations Pearson's statistic lies from its mean (Wilson and Hilferty 1931)."""
    expected = probabilities * counts.sum()
    degrees = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / np.sqrt(2 / (9 * degrees))


def count_z(hits, n, p):
    return (hits - n * p) / np.sqrt(n * p * (1 - p))


def cells(weights, least):
    """Where to cut ``weights`` so that every cell, whole integers each, weighs at least ``least``."""
    cuts, weight = [0], 0.0
    for index, more in enumerate(weights):
        weight += more
        if weight >= least:
            cuts.append(index + 1)
            weight = 0.0
    return np.array(cuts[:-1])


def audit_against(law, x):
    """Named z-scores of samples ``x`` (n,) against P(X = i) = ``law``[reach + i], |i| <= reach (a law of mean 0): each
    about standard normal for a true sampler.

    The law's mass beyond the reach must not matter at n samples.
    """
    n, reach = len(x), len(law) // 2
    values = np.arange(-reach, reach + 1)
    second, fourth = (law * values.astype(float) ** 2).sum(), (law * values.astype(float) ** 4).sum()
    centred = x.astype(float)
    cumulative = np.cumsum(law)
    scores = {
        "mean": centred.mean() / np.sqrt(second / n),
        "variance": ((centred**2).mean() - second) / np.sqrt((fourth - second**2) / n),
        "lag-1 correlation": (centred[1:] * centred[:-1]).mean() / second * np.sqrt(n - 1),
        "sign": count_z((x < 0).sum(), n, cumulative[reach - 1]),
        "zero": count_z((x == 0).sum(), n, law[reach]),
    }
    counts = np.bincount((np.clip(x, -reach, reach) + reach).astype(np.intp), minlength=len(law))
    starts = cells(law, 1 / 400)
    scores["body"] = chi_square_z(np.add.reduceat(counts, starts), np.add.reduceat(law, starts))
    for exponent in (2, 3, 4):
        far = reach - int(np.argmin(np.abs(np.cumsum(law[: reach + 1]) * 2 - 10.0**-exponent)))
        tail = law[np.abs(values) >= far].sum()
        scores[f"tail of 1e-{exponent}"] = count_z((np.abs(x) >= far).sum(), n, tail)
    low = np.bincount((values & 31).astype(np.intp), weights=law, minlength=32)
    populated = np.flatnonzero(low * n > 20)
    seen = np.bincount((x & 31).astype(np.intp), minlength=32)
    scores["low bits"] = chi_square_z(seen[populated], low[populated] / low[populated].sum())
    return scores


@pytest.fixture
def audit():
    return audit_against


@pytest.fixture
def central_differences():
    """The slope of ``value(w)`` in every element of ``w``, in float64: good to about 1e-9 for smooth functions of order
    one.
    """

    def slope(value, w, step=1e-5):
        w = w.astype(np.float64)
        slopes = np.empty_like(w)
        for i in np.ndindex(w.shape):
            keep = w[i]
            w[i] = keep + step
            above = value(w)
            w[i] = keep - step
            slopes[i] = (above - value(w)) / (2 * step)
            w[i] = keep
        return slopes

    return slope
