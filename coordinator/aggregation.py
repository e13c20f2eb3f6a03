"""From contributions to one mean update. Every rule here streams: a round's updates are never in memory together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime._kernels import NoiseSource
    from edge_runtime.task import PrivacySpec

_TOGETHER = 16  # updates in memory: one pass over the sum serves them all


def weighted_mean(updates: Iterable[tuple[NDArray[np.float32], int]], size: int) -> NDArray[np.float32]:
    """FedAvg: ``sum n_k u_k / sum n_k`` over those who answered (McMahan et al. 2017), (P,) float32, summed in double.

    Not robust, on purpose: the weights are the devices' own word, and an update without clipping is as large as its
    sender likes, so capping one liar's weight would guard against nothing. A fleet with liars needs a task with a clip
    norm. Raises ValueError when nobody answered or an update is not finite.
    """
    total, weights, summed = np.zeros(size, np.float64), 0, 0
    arriving = iter(updates)
    while several := list(itertools.islice(arriving, _TOGETHER)):
        rows = [update for update, _ in several]
        try:
            total = _kernels.weighted_sum(rows, np.array([w for _, w in several], np.float64), start=total)
        except ValueError:
            for index, row in enumerate(rows, start=summed):
                if not np.isfinite(row).all():
                    raise ValueError(f"update {index} holds NaN or infinity") from None
            raise
        weights += sum(weight for _, weight in several)
        summed += len(several)
    if weights == 0:
        raise ValueError("no updates to average")
    return (total / weights).astype(np.float32)


def private_mean(
    total: NDArray[np.int64], contributors: int, privacy: PrivacySpec, rng: NoiseSource
) -> NDArray[np.float32]:
    """The mean (P,) of ``contributors`` integer contributions whose exact sum (P,) is ``total``; under central noise
    the sum is noised before it is divided.

    Unweighted: a weight by the number of examples would both leak it and multiply the sensitivity. Raises ValueError
    when nobody contributed.
    """
    if contributors == 0:
        raise ValueError("no contributions to average")
    noise = privacy.noise()
    if privacy.place == "central":
        return noise.mean(noise.release(total, rng).values, contributors=contributors, draws=1)
    return noise.mean(total, contributors=contributors, draws=contributors)


def largest_local_release(levels: int, log2_scale: int, parameters: int) -> tuple[int, int]:
    """Largest magnitude of one coordinate, and largest L1 norm, of an honest update with local noise.

    Without a bound one liar moves the mean by 2^31 grid steps a coordinate. A draw's magnitude is at most
    ``1 + s E`` with E standard exponential and s = 2^log2_scale / ln 2, and the L1 norm of d draws at most
    ``d + s G`` with G of Gamma(d), for which P(G > d + sqrt(2 d t) + t) <= exp(-t) (Boucheron et al. 2013, section
    2.4). With t = 64 an honest device is refused once in 2^92 releases; with d = 1 per coordinate and the union over
    2^24 of them, once in 2^68.
    """
    scale, t = 2.0**log2_scale / math.log(2), 64.0
    one = levels + 1 + math.ceil(scale * t)
    norm = levels + parameters + math.ceil(scale * (parameters + math.sqrt(2 * parameters * t) + t))
    return one, norm
