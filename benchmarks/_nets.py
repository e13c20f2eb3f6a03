"""The networks that the training benchmark trains, how ours trains them, and interleaved timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime import _kernels

RATE = 0.05
CLIP_L2, CLIP_L1 = 1.0, 30.0  # both below most examples' norms here, so that clipping has something to do


@dataclass(frozen=True)
class Net:
    """A network in ``_kernels.Network``'s words, and how many batches make one timed run."""

    name: str
    shape: tuple[int, ...]
    layers: tuple[Mapping[str, Any], ...]
    classes: int
    steps: int

    def native(self) -> _kernels.Network:
        return _kernels.Network(self.shape, self.layers, "softmax_cross_entropy")


def _dense(units: int) -> dict[str, Any]:
    return {"type": "dense", "units": units}


_RELU, _FLATTEN = {"type": "relu"}, {"type": "flatten"}
_POOL = {"type": "max_pool", "size": 2}
MLP = Net("MLP 561-64-32-6", (561,), (_dense(64), _RELU, _dense(32), _RELU, _dense(6)), 6, 20)
ECG = Net(
    "1D-CNN on 187 x 1",
    (187, 1),
    (
        *({"type": "conv1d", "filters": 32, "kernel": 5}, _RELU, _POOL),
        *({"type": "conv1d", "filters": 64, "kernel": 5}, _RELU, _POOL),
        *(_FLATTEN, _dense(64), _RELU, _dense(5)),
    ),
    5,
    3,
)
IMAGE = Net(
    "2D-CNN on 28 x 28 x 1",
    (28, 28, 1),
    (
        *({"type": "conv2d", "filters": 16, "kernel": 3}, _RELU, _POOL),
        *({"type": "conv2d", "filters": 32, "kernel": 3}, _RELU, _POOL),
        *(_FLATTEN, _dense(10)),
    ),
    10,
    3,
)
GRU = Net("GRU 24 x 8, hidden 32", (24, 8), ({"type": "gru", "units": 32}, _dense(5)), 5, 10)


@dataclass(frozen=True)
class Job:
    """What every side does: the batches of ``order`` (steps * batch,) over ``x``, ``y``, from the same weights."""

    net: Net
    batch: int
    start: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.int32]
    order: NDArray[np.int64]

    @classmethod
    def of(cls, net: Net, batch: int) -> Job:
        rng = np.random.default_rng(7)
        native = net.native()
        start = np.empty(native.parameter_count, np.float32)
        for offset, size, bound, value in native.initial():
            start[offset : offset + size] = rng.uniform(-bound, bound, size) if bound else value
        rows = batch * net.steps
        x = rng.standard_normal((rows, native.inputs)).astype(np.float32)
        y = rng.integers(0, net.classes, rows).astype(np.int32)
        return cls(net, batch, start, x, y, rng.permutation(rows))

    def batches(self) -> list[NDArray[np.int64]]:
        return np.split(self.order, self.net.steps)


class Trainer(Protocol):
    """One side of a comparison: ``reset`` brings back the first weights, ``run`` is what is timed."""

    def reset(self) -> None: ...
    def run(self) -> object: ...
    def params(self) -> NDArray[np.float32]:
        """The weights now, (P,) in our layout."""
        ...


class Ours:
    """``Network.train``, clipped where ``clip`` is given."""

    def __init__(self, job: Job, *, clip: float | None = None, norm: str = "l2", reproducible: bool = False) -> None:
        self._job, self._net, self._params = job, job.net.native(), job.start.copy()
        self._settings: dict[str, Any] = {"batch_size": job.batch, "learning_rate": RATE, "reproducible": reproducible}
        if clip is not None:
            self._settings |= {"clip": clip, "norm": norm}

    def reset(self) -> None:
        self._params[:] = self._job.start

    def run(self) -> None:
        self._net.train(self._params, self._job.x, self._job.y, self._job.order, **self._settings)

    def params(self) -> NDArray[np.float32]:
        return self._params.copy()


def agree(job: Job, sides: Mapping[str, Trainer], *, reference: str) -> None:
    """Raises AssertionError unless a run from the same weights ends in the same weights, to 1e-3, far from the first.

    ``reference`` names the side that the others are held against.
    """
    ends = {}
    for name, side in sides.items():
        side.reset()
        side.run()
        ends[name] = side.params()
    moved = float(np.abs(ends[reference] - job.start).max())
    for name, end in ends.items():
        apart = float(np.abs(end - ends[reference]).max())
        if not (apart <= 1e-3 and apart <= 0.01 * moved):
            raise AssertionError(
                f"{job.net.name}: {name} ends {apart:.2g} from {reference}, which moved {moved:.2g}: "
                "they do not compute the same step, and the comparison is void"
            )


def interleaved_s(
    sides: Mapping[str, Trainer], *, rounds: int = 15, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """CPU seconds of ``rounds`` runs of each side, each from the first weights, one side after the other in an order
    that turns by one and then backwards.

    CPU time and not the wall's: every side has one thread, and what other processes take of the core belongs to none.
    """
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned if number % 2 else reversed(turned):
            side = sides[name]
            side.reset()
            started_s = clock()
            side.run()
            times[name].append(clock() - started_s)
    return {name: seconds[1:] for name, seconds in times.items()}  # the first run fills caches and page tables


def ratio(times: Mapping[str, list[float]], ours: str, peer: str) -> float:
    """The median of ours / peer over the rounds."""
    return statistics.median(o / p for o, p in zip(times[ours], times[peer], strict=True))
