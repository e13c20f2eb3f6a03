"""The model on the device and at the coordinator: a dense network over one flat float32 buffer, run in C++."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime import _kernels
from edge_runtime.errors import RemoteError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.features import Examples
    from edge_runtime.task import ModelSpec, TrainingSpec


_DRAWS_AT_ONCE = 1 << 22  # examples of one call into the network: an order of 16 MiB


@dataclass(frozen=True)
class Score:
    """Mean loss and, for a classifier, the share of right answers."""

    loss: float
    accuracy: float | None


def network(spec: ModelSpec) -> _kernels.Network:
    """The native network of ``spec``."""
    layers: list[dict[str, object]] = []
    for layer in spec.layers:
        layers.append({"type": "dense", "units": layer.units})
        if layer.activation != "identity":
            layers.append({"type": layer.activation})
    return _kernels.Network((spec.inputs,), layers, spec.loss)


def initial_params(spec: ModelSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """Fresh parameters (P,): weights uniform in +-sqrt(6 / (I + O)) (Glorot & Bengio 2010), biases zero.

    A single layer starts at zero: the problem is convex, and devices need no symmetry broken.
    """
    params = np.zeros(spec.parameter_count, np.float32)
    if len(spec.layers) > 1:
        for offset, size, bound, fresh in network(spec).initial():
            params[offset : offset + size] = rng.uniform(-bound, bound, size) if bound else fresh
    return params


def local_update(
    spec: ModelSpec,
    training: TrainingSpec,
    params: NDArray[np.float32],
    examples: Examples,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """``w_local - w_global`` (P,) float32, finite, after ``training`` on ``examples`` from ``params``.

    ``rng`` shuffles the examples of every epoch; it makes no release and needs no cryptographic generator. Raises
    RemoteError when training leaves the finite numbers: the task's step size or the offered parameters are at fault.

    Momentum runs on from epoch to epoch up to 2^22 examples; beyond, the epochs are trained in groups of that size or
    one by one, and each group starts with no velocity. The order of all epochs at once may exceed the memory.
    """
    count = len(examples.y)
    group = max(1, _DRAWS_AT_ONCE // count)
    weights = params.copy()
    net = network(spec)
    try:
        for first in range(0, training.epochs, group):
            epochs = range(first, min(first + group, training.epochs))
            net.train(
                weights,
                examples.x,
                examples.y,
                np.concatenate([rng.permutation(count).astype(np.int32) for _ in epochs]),
                batch_size=training.batch_size,
                learning_rate=training.learning_rate,
                momentum=training.momentum,
                proximal=training.proximal,
                anchor=params if training.proximal else None,
            )
    except ValueError as fault:
        raise RemoteError(f"training on the offered parameters failed: {fault}") from None
    with np.errstate(over="ignore"):
        update = weights - params
    if not np.isfinite(update).all():  # two finite numbers of opposite sign, each near the largest
        raise RemoteError("training on the offered parameters failed: the update is not finite")
    return update


def score(spec: ModelSpec, params: NDArray[np.float32], examples: Examples) -> Score:
    """How the model does on ``examples``."""
    net = network(spec)
    loss = net.loss(params, examples.x, examples.y)
    if spec.loss != "softmax_cross_entropy":
        return Score(loss, None)
    right = net.predict(params, examples.x).argmax(axis=1) == examples.y
    return Score(loss, float(right.mean()))
