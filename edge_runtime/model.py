"""The model on the device and at the coordinator: layers over one flat float32 buffer, run in C++."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime import _kernels
from edge_runtime.architecture import Dense, Dropout
from edge_runtime.errors import RemoteError
from edge_runtime.schedule import learning_rates

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
    loss: dict[str, object] = {"type": spec.loss}
    if spec.class_weights:
        loss["class_weights"] = list(spec.class_weights)
    if spec.loss == "huber":
        loss["delta"] = spec.huber_delta
    return _kernels.Network(spec.shape, [placed.native() for placed in spec.placed], loss)


def initial_params(spec: ModelSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """Fresh parameters (P,): weights uniform in +-sqrt(6 / (I + O)) (Glorot & Bengio 2010), biases zero, scales one.

    A single dense layer starts at zero: the problem is convex, and devices need no symmetry broken.
    """
    params = np.zeros(spec.parameter_count, np.float32)
    holding = [placed for placed in spec.placed if placed.parameter_count]
    if len(holding) == 1 and isinstance(holding[0].layer, Dense):
        return params
    for offset, size, bound, fresh in network(spec).initial():
        params[offset : offset + size] = rng.uniform(-bound, bound, size) if bound else fresh
    return params


def targets(spec: ModelSpec, y: NDArray[Any]) -> NDArray[Any]:
    """What the loss compares with: ``y`` itself for numbers and softmax_cross_entropy.

    Class positions ``y`` (n,) become (n, O) float32 for binary_cross_entropy (0 or 1) and hinge (-1 or 1): one column
    for a model with one output, else one column for each class.
    """
    if spec.loss not in ("binary_cross_entropy", "hinge"):
        return y
    hot = y[:, None] == (np.arange(spec.outputs) if spec.outputs > 1 else 1)
    return np.where(hot, 1.0, -1.0 if spec.loss == "hinge" else 0.0).astype(np.float32)


def local_update(
    spec: ModelSpec,
    training: TrainingSpec,
    params: NDArray[np.float32],
    examples: Examples,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """``w_local - w_global`` (P,) float32, finite, after ``training`` on ``examples`` from ``params``; exactly zero
    where a layer is frozen.

    ``rng`` shuffles the examples of every epoch and makes dropout's masks; it makes no release and needs no
    cryptographic generator. Raises RemoteError when training leaves the finite numbers: the task's step size or the
    offered parameters are at fault.

    The optimizer runs on from epoch to epoch up to 2^22 examples; beyond, the epochs are trained in groups of that size
    or one by one, and each group starts it anew. The order of all epochs at once may exceed the memory.
    """
    count = len(examples.y)
    group = max(1, _DRAWS_AT_ONCE // count)
    weights = params.copy()
    net = network(spec)
    y = targets(spec, examples.y)
    options = optimizer_options(training)
    drops = any(isinstance(placed.layer, Dropout) for placed in spec.placed)
    try:
        for first in range(0, training.epochs, group):
            epochs = range(first, min(first + group, training.epochs))
            net.train(
                weights,
                examples.x,
                y,
                np.concatenate([rng.permutation(count).astype(np.int32) for _ in epochs]),
                batch_size=training.batch_size,
                learning_rate=_rates(training, count, epochs, group),
                anchor=params if training.proximal else None,
                dropout_key=rng.bytes(32) if drops else None,
                **options,
            )
    except ValueError as fault:
        raise RemoteError(f"training on the offered parameters failed: {fault}") from None
    with np.errstate(over="ignore"):
        update = weights - params
    if not np.isfinite(update).all():  # two finite numbers of opposite sign, each near the largest
        raise RemoteError("training on the offered parameters failed: the update is not finite")
    return update


def _rates(training: TrainingSpec, count: int, epochs: range, group: int) -> float | NDArray[np.float32]:
    """The learning rates of the steps that ``epochs`` take, which is one group of ``group`` epochs, or what is left."""
    if training.schedule is None:
        return training.learning_rate

    def steps(n_epochs: int) -> int:
        return -(-n_epochs * count // training.batch_size)

    first = epochs.start // group * steps(group)
    part = range(first, first + steps(len(epochs)))
    in_all = training.epochs // group * steps(group) + steps(training.epochs % group)
    return learning_rates(training.schedule, in_all, learning_rate=training.learning_rate, part=part)


def optimizer_options(training: TrainingSpec) -> dict[str, Any]:
    """What ``Network.train`` and ``Network.train_privately`` take of ``training``, all but the batches, the rates and
    the anchor.
    """
    options: dict[str, Any] = {
        "optimizer": training.optimizer,
        "weight_decay": training.weight_decay,
        "proximal": training.proximal,
        "rows": training.micro_batch,
        "reproducible": training.reproducible,
    }
    if training.optimizer == "sgd":
        return options | {"momentum": training.momentum, "nesterov": training.nesterov}
    return options | {"beta1": training.beta1, "beta2": training.beta2, "epsilon": training.adam_epsilon}


def without_frozen(spec: ModelSpec, update: NDArray[np.float32]) -> NDArray[np.float32]:
    """``update`` (P,) with zeros where a layer is frozen: noise falls on those places too, and must not move them."""
    kept = update.copy()
    for placed in spec.placed:
        if placed.frozen:
            kept[placed.offset : placed.offset + placed.parameter_count] = 0.0
    return kept


def score(spec: ModelSpec, params: NDArray[np.float32], examples: Examples) -> Score:
    """How the model does on ``examples``."""
    net = network(spec)
    loss = net.loss(params, examples.x, targets(spec, examples.y))
    if not spec.classifies:
        return Score(loss, None)
    return Score(loss, float((decide(net.predict(params, examples.x)) == examples.y).mean()))


def decide(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class (n,) that ``outputs`` (n, O) speak for: the largest one, or with one output the second class where it
    is positive, which is a probability above 1/2.
    """
    if outputs.shape[1] > 1:
        return np.asarray(outputs.argmax(axis=1), np.int64)
    return (outputs[:, 0] > 0).astype(np.int64)
