"""Server rules that some liars among n updates cannot steer, each refusing where its guarantee does not hold.

Every function takes all updates at once: ``updates`` is a matrix (n, P) float32 or a sequence of n arrays (P,), and the
result is (P,) float32. Raises ValueError, naming the update, where one holds NaN or infinity: no rule lets such a one
win, or quietly counts it as honest. A server that would rather leave it out calls :func:`finite_updates` first, and its
sender then counts among the f liars.

Unweighted but for :func:`geometric_median`: the number of examples is the sender's own word, and a liar would say many.
None of these works under secure aggregation, which hides the single updates they compare. Threads share out the
coordinates; their number does not change a bit of any result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_runtime import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime._kernels import Updates


def finite_updates(updates: Updates) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Those of ``updates`` that hold neither NaN nor infinity, and the indices of the others."""
    kept, left_out = [], []
    for index, update in enumerate(updates):
        if np.isfinite(update).all():
            kept.append(update)
        else:
            left_out.append(index)
    return kept, left_out


def coordinate_median(updates: Updates, *, liars: int, threads: int = 1) -> NDArray[np.float32]:
    """The median of each coordinate (Yin et al., ICML 2018, definition 1); within the honest range of each coordinate.

    Raises ValueError unless n >= 2 liars + 1: otherwise liars hold the middle.
    """
    _want(updates, liars, 2 * liars + 1, "the median")
    return _kernels.coordinate_median(updates, threads=threads)


def trimmed_mean(updates: Updates, *, liars: int, threads: int = 1) -> NDArray[np.float32]:
    """The mean of each coordinate without its ``liars`` largest and ``liars`` smallest values (Yin et al., ICML 2018,
    definition 2); within the honest range of each coordinate. With no liars it is the mean.

    Raises ValueError unless n >= 2 liars + 1: otherwise nothing is left.
    """
    _want(updates, liars, 2 * liars + 1, "the trimmed mean")
    return _kernels.trimmed_mean(updates, liars, threads=threads)


def krum_scores(updates: Updates, *, liars: int, threads: int = 1) -> NDArray[np.float64]:
    """For each update the sum of its SQUARED distances to its n - f - 2 nearest others, (n,) (Blanchard et al., NeurIPS
    2017, section 4).

    Raises ValueError unless n >= 2 f + 3, f = ``liars``: with fewer, liars who agree can be each other's neighbours.
    """
    count = _want(updates, liars, 2 * liars + 3, "Krum")
    squares = _kernels.squared_distances(updates, threads=threads)
    np.fill_diagonal(squares, np.inf)  # nobody is a neighbour of its own
    squares.sort(axis=1)
    scores: NDArray[np.float64] = squares[:, : count - liars - 2].sum(axis=1)
    return scores


def krum(updates: Updates, *, liars: int, threads: int = 1) -> NDArray[np.float32]:
    """A copy of the update of the lowest Krum score; of equals, the first (Blanchard et al., NeurIPS 2017)."""
    scores = krum_scores(updates, liars=liars, threads=threads)
    return updates[int(scores.argmin())].copy()


def multi_krum(updates: Updates, *, liars: int, chosen: int, threads: int = 1) -> NDArray[np.float32]:
    """The mean of the ``chosen`` updates of the lowest Krum scores; of equals, the first (multi-Krum, Blanchard et al.
    2017, where ``chosen`` is m).

    Raises ValueError unless 1 <= chosen <= n - f - 2, the number of neighbours that a score looks at.
    """
    scores = krum_scores(updates, liars=liars, threads=threads)
    most = len(scores) - liars - 2
    if not 1 <= chosen <= most:
        raise ValueError(f"multi-Krum of {len(scores)} updates with {liars} liars averages 1 to {most}; got {chosen}")
    best = np.sort(np.argsort(scores, kind="stable")[:chosen])
    return _kernels.weighted_mean([updates[i] for i in best], np.ones(chosen), threads=threads)


def geometric_median(
    updates: Updates,
    *,
    liars: int,
    weights: NDArray[np.float64] | None = None,
    smoothing: float = 1e-6,
    rounds: int = 3,
    threads: int = 1,
) -> NDArray[np.float32]:
    """The point whose weighted sum of distances to the updates is least, approached by ``rounds`` steps of the smoothed
    Weiszfeld algorithm (RFA: Pillutla et al., IEEE TSP 2022, algorithm 2).

    From the coordinate median: one update of 1e38 would leave the mean so far away that three steps do not lead back.
    ``weights`` (n,) float64 are 1 unless the server knows better than the devices' word. Raises ValueError unless
    n >= 2 liars + 1, the breakdown point of one half, and unless the ``liars`` largest weights are less than half of
    all.
    """
    count = _want(updates, liars, 2 * liars + 1, "the geometric median")
    weights = np.ones(count) if weights is None else weights
    if liars and 2 * np.sort(weights)[-liars:].sum() >= weights.sum():
        raise ValueError(f"{liars} liars may hold half of the weight or more: want less")
    start = _kernels.coordinate_median(updates, threads=threads)
    return _kernels.geometric_median(updates, weights, start, smoothing=smoothing, rounds=rounds, threads=threads)


def centered_clipping(
    updates: Updates,
    *,
    liars: int,
    center: NDArray[np.float32],
    radius: float,
    rounds: int = 1,
    threads: int = 1,
) -> NDArray[np.float32]:
    """``center`` plus the mean of the updates' differences from it, each clipped to L2 norm ``radius``; repeated
    ``rounds`` times (Karimireddy et al., ICML 2021, equation 3).

    ``center`` (P,) is the last round's result, zeros at first. Each update moves it by at most radius / n a step. The
    paper's bound needs less than a tenth of liars; refused is what no choice of ``radius`` helps, n < 2 liars + 1.
    """
    _want(updates, liars, 2 * liars + 1, "centered clipping")
    return _kernels.centered_clipping(updates, center, radius=radius, rounds=rounds, threads=threads)


def _want(updates: Updates, liars: int, least: int, rule: str) -> int:
    """The number of updates; ValueError where that is below ``least`` or ``liars`` is negative."""
    count = len(updates)
    if liars < 0:
        raise ValueError(f"want liars of at least 0; got {liars}")
    if count < least:
        raise ValueError(f"{rule} withstands {liars} liars among {least} updates or more; got {count}")
    return count
