"""From contributions to one mean update. Every rule streams: a round's updates are never in memory together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime._kernels import NoiseSource
    from edge_runtime.task import PrivacySpec


def weighted_mean(updates: Iterable[tuple[NDArray[np.float32], int]], size: int) -> NDArray[np.float32]:
    """FedAvg: ``sum n_k u_k / sum n_k`` over those who answered (McMahan et al. 2017), (P,) float32, summed in double.

    Raises ValueError when nobody answered or an update is not finite.
    """
    total, weights = np.zeros(size, np.float64), 0
    for update, weight in updates:
        _kernels.accumulate_f32(total, update, float(weight))
        weights += weight
    if weights == 0:
        raise ValueError("no updates to average")
    return (total / weights).astype(np.float32)


def private_mean(
    contributions: Iterable[NDArray[np.int32]], size: int, privacy: PrivacySpec, rng: NoiseSource
) -> NDArray[np.float32]:
    """The mean of integer contributions (P,), exactly summed; under central noise the sum is noised before it is
    divided.

    Unweighted: a weight by the number of examples would both leak it and multiply the sensitivity.
    """
    noise = privacy.noise()
    total, count = np.zeros(size, np.int64), 0
    for contribution in contributions:
        _kernels.accumulate_i32(total, contribution)
        count += 1
    if count == 0:
        raise ValueError("no contributions to average")
    if privacy.place == "central":
        return noise.mean(noise.release(total, rng).values, contributors=count, draws=1)
    return noise.mean(total, contributors=count, draws=count)
