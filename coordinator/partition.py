"""Data for many devices out of one table, for simulations and demonstrations: nobody's field data comes through
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.errors import LocalError
from edge_runtime.features import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import InputSpec

SYNTHETIC_INPUTS, SYNTHETIC_CLASSES = 60, 10
_MOST_EXAMPLES = 1000


class TableSource:
    """A table in memory as a device's source."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def read(self, spec: InputSpec) -> Table:
        return self._table

    def close(self) -> None:
        pass


def iid(count: int, devices: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Row indices of each device: ``count`` rows dealt out at random."""
    return [np.sort(part) for part in np.array_split(rng.permutation(count), devices)]


def dirichlet(
    labels: NDArray[np.int32], devices: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Row indices of each device: the shares of every class are drawn from Dirichlet(alpha) (Hsu et al. 2019).

    Small ``alpha`` gives each device few classes. A device left without a row takes one from the richest. Raises
    LocalError when there are fewer rows than devices.
    """
    if len(labels) < devices:
        raise LocalError(f"{len(labels)} rows cannot be shared among {devices} devices")
    parts: list[list[int]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(devices, alpha)))[:-1] * len(rows)).astype(int)
        for part, share in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(share.tolist())
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return [np.sort(np.array(part, dtype=np.intp)) for part in parts]


def synthetic(
    devices: int, *, alpha: float, beta: float, rng: np.random.Generator, test_share: float = 0.1
) -> tuple[list[Table], Table]:
    """Logistic data with spread: one table a device, and one of everybody's test rows.

    After Synthetic(alpha, beta) of FedProx (Li et al. 2020, section 5.1), whose devices share nothing but a
    distribution; here all deviate by ``alpha`` from one common model, so that thousands of them have something to
    learn together. ``beta`` spreads their inputs (both are standard deviations). Sizes are lognormal(4, 2) + 50, at
    most 1000.
    """
    deviation = np.arange(1, SYNTHETIC_INPUTS + 1) ** -0.6  # Sigma_jj = j^-1.2
    common = rng.normal(0, 1, (SYNTHETIC_INPUTS, SYNTHETIC_CLASSES))
    train, test_x, test_y = [], [], []
    for _ in range(devices):
        count = min(int(rng.lognormal(4, 2)) + 50, _MOST_EXAMPLES)
        weights = common + alpha * rng.normal(0, 1, common.shape)
        centre = rng.normal(rng.normal(0, beta), 1, SYNTHETIC_INPUTS) * deviation
        x = (centre + rng.normal(0, 1, (count, SYNTHETIC_INPUTS)) * deviation).astype(np.float32)
        y = (x @ weights).argmax(axis=1).astype(np.int32)
        kept = max(1, int(count * test_share))
        train.append(Table(x[kept:], y[kept:]))
        test_x.append(x[:kept])
        test_y.append(y[:kept])
    return train, Table(np.concatenate(test_x), np.concatenate(test_y))
