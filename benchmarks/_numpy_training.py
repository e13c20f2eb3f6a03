"""The MLP's training step as one writes it with NumPy: float32 throughout, weights (I, O), one product a gradient."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks._nets import RATE, Job


class NumpyMlp:
    """SGD; with ``clip`` each example's gradient is clipped by its ghost norm (Goodfellow 2015), so that no per-example
    gradient is ever formed, with ``noise`` the sum then gets floating-point Laplace noise, which protects nobody
    (Mironov 2012), and the batches are drawn by Poisson sampling.
    """

    def __init__(
        self, job: Job, *, clip: float | None = None, norm: Literal["l1", "l2"] = "l2", noise: float | None = None
    ) -> None:
        self._job, self._clip, self._norm, self._noise = job, clip, norm, noise
        self._flat = job.start.copy()
        net, self._layers = job.net.native(), []
        tensors = [self._flat[at : at + int(np.prod(shape))].reshape(shape) for _, at, shape in net.layout()]
        self._layers = list(zip(tensors[::2], tensors[1::2], strict=True))
        self._onehot = np.eye(job.net.classes, dtype=np.float32)
        self._rng = np.random.default_rng(3)

    def reset(self) -> None:
        self._flat[:] = self._job.start

    def params(self) -> NDArray[np.float32]:
        return self._flat.copy()

    def run(self) -> None:
        job = self._job
        for rows in job.batches():
            if self._noise is not None:
                rows = np.flatnonzero(self._rng.random(len(job.x)) < 1 / job.net.steps)
            self._step(job.x[rows], self._onehot[job.y[rows]])

    def _step(self, x: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        inputs = [x]
        for w, b in self._layers:
            z = inputs[-1] @ w
            z += b
            if w is not self._layers[-1][0]:
                np.maximum(z, 0, out=z)
            inputs.append(z)
        p = inputs.pop()
        p -= p.max(axis=1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        p -= wanted
        deltas = [p]
        for (w, _), a in zip(self._layers[:0:-1], inputs[:0:-1], strict=True):
            delta = deltas[-1] @ w.T
            delta *= a > 0
            deltas.append(delta)
        deltas.reverse()
        scale: NDArray[np.float32] | np.float32 = np.float32(RATE / self._job.batch)
        if self._clip is not None:
            scale = scale * self._factors(inputs, deltas)
        for (w, b), a, delta in zip(self._layers, inputs, deltas, strict=True):
            delta *= scale
            w -= a.T @ delta
            b -= delta.sum(axis=0)
        if self._noise is not None:
            drawn = self._rng.laplace(0.0, self._noise * RATE / self._job.batch, self._flat.size)
            self._flat -= drawn.astype(np.float32)

    def _factors(self, inputs: list[NDArray[np.float32]], deltas: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """min(1, clip / norm) of each example, (B, 1)."""
        norms = np.zeros(len(deltas[0]), np.float32)
        for a, delta in zip(inputs, deltas, strict=True):
            if self._norm == "l1":
                norms += (np.abs(a).sum(axis=1) + 1) * np.abs(delta).sum(axis=1)
            else:
                norms += (np.einsum("ij,ij->i", a, a) + 1) * np.einsum("ij,ij->i", delta, delta)
        if self._norm == "l2":
            np.sqrt(norms, out=norms)
        factors: NDArray[np.float32] = np.minimum(1, np.float32(self._clip or 0) / norms)
        return factors[:, None]
