"""What a coordinator asks of its devices: the task, one table that it writes and every device checks."""

from __future__ import annotations

import functools
import math
import tomllib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from edge_runtime.architecture import Layer, Placed, Shape, place
from edge_runtime.errors import LocalError
from edge_runtime.privacy.laplace import LaplaceNoise
from edge_runtime.schedule import Schedule
from edge_runtime.tables import Range, from_mapping

Loss = Literal["softmax_cross_entropy", "binary_cross_entropy", "mse", "huber", "hinge"]
Place = Literal["none", "local", "central"]
Statistic = Literal["mean", "std", "min", "max"]
Name = Annotated[str, Range(1, 80)]
Constant = Annotated[float, Range(-1e30, 1e30)]  # within float32 with room for a difference
Share = Annotated[float, Range(0, 0.9999)]

MAX_PARAMETERS = 1 << 24
MAX_BATCH_VALUES = 1 << 26  # activations of one minibatch: 256 MiB as float32
MAX_OPERATIONS = 1 << 32  # multiply-adds of one example, forward: minutes on a small board
MAX_DELTA = Fraction(1, 1 << 30)  # of one release


@dataclass(frozen=True)
class WindowSpec:
    """Sliding windows over a time series, and what becomes an example of each.

    ``values``: "statistics" makes a feature vector of the ``statistics`` of each column, "samples" takes the rows as
    they are, a sequence (length, columns). A window whose rows carry more than one class is dropped; a label that is a
    number is the last row's. ``length`` and ``step`` count rows.
    """

    length: Annotated[int, Range(2, 1_000_000)]
    step: Annotated[int, Range(1, 1_000_000)]
    statistics: Annotated[tuple[Statistic, ...], Range(1, 4)] = ("mean", "std")
    values: Literal["statistics", "samples"] = "statistics"


@dataclass(frozen=True)
class ExtractorSpec:
    """A frozen LiteRT model that every device runs on its examples before the trained layers see them.

    The file is the one with this ``sha256`` among those that the device's owner has put there; no coordinator sends
    it. It takes what ``[inputs]`` gives and gives ``features`` numbers. ``name`` is for people.
    """

    sha256: Annotated[str, Range(64, 64)]
    features: Annotated[int, Range(1, 1 << 20)]
    name: Annotated[str, Range(0, 80)] = ""

    def __post_init__(self) -> None:
        if set(self.sha256) - set("0123456789abcdef"):
            raise ValueError("sha256 is not 64 lower-case hexadecimal digits")

    @property
    def title(self) -> str:
        """How a person finds the file again."""
        return f'"{self.name}" (SHA-256 {self.sha256})' if self.name else f"with the SHA-256 {self.sha256}"


@dataclass(frozen=True)
class InputSpec:
    """Which columns of a device's data the task reads and how they become features.

    Every column is scaled as ``(value - offset) / scale`` with public constants: statistics of the data never leave a
    device to find them. ``classes`` names the labels in the order of the model's outputs; without it the label is a
    number, and the model predicts ``(label - label_offset) / label_scale``.
    """

    columns: Annotated[tuple[Name, ...], Range(1, 4096)]
    label: Name
    classes: Annotated[tuple[Name, ...], Range(0, 4096)] = ()
    offset: tuple[Constant, ...] = ()
    scale: tuple[Constant, ...] = ()
    label_offset: Constant = 0.0
    label_scale: Constant = 1.0
    window: WindowSpec | None = None
    extractor: ExtractorSpec | None = None

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):  # one column 4096 times is 4096 times the memory
            raise ValueError("a column is named twice")
        for name, values in (("offset", self.offset), ("scale", self.scale)):
            if values and len(values) != len(self.columns):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.columns)} columns")
        if self.classes and (self.label_offset, self.label_scale) != (0.0, 1.0):
            raise ValueError("classes have no label_offset and no label_scale")
        if any(abs(value) < 1e-30 for value in (*self.scale, self.label_scale)):
            raise ValueError("a scale of 0, or too near to it for float32, divides by zero")

    @property
    def shape(self) -> Shape:
        """What the columns give for one example: a vector, or for windows of samples a sequence (length, columns)."""
        if self.window is None:
            return (len(self.columns),)
        if self.window.values == "samples":
            return (self.window.length, len(self.columns))
        return (len(self.columns) * len(self.window.statistics),)

    @property
    def features(self) -> int:
        """How many numbers an example has when it reaches the model."""
        return self.extractor.features if self.extractor else math.prod(self.shape)


@dataclass(frozen=True)
class ModelSpec:
    """Layers in a row; their parameters are one flat float32 buffer, layer by layer, each tensor row-major.

    ``shape`` is that of one example: (I,), (T, C) or (H, W, C). ``inputs`` alone means the vector (inputs,).
    ``class_weights`` go with softmax_cross_entropy, ``huber_delta`` with huber.
    """

    inputs: Annotated[int, Range(0, 1 << 24)] = 0
    layers: Annotated[tuple[Layer, ...], Range(1, 64)] = ()
    loss: Loss = "softmax_cross_entropy"
    shape: Annotated[tuple[Annotated[int, Range(1, 1 << 24)], ...], Range(0, 3)] = ()
    class_weights: Annotated[tuple[Annotated[float, Range(0, 1e6)], ...], Range(0, 4096)] = ()
    huber_delta: Annotated[float, Range(1e-6, 1e6)] = 1.0

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError('the key "layers" is missing')
        if not self.shape and not self.inputs:
            raise ValueError('give the shape of one example, as in "shape = [187, 1]", or the number of its inputs')
        # Whichever of the two was given, both hold afterwards, and equal models are equal.
        size = math.prod(self.shape) if self.shape else self.inputs
        if self.inputs not in (0, size):
            raise ValueError(f"inputs is {self.inputs}, the shape {list(self.shape)} has {size} values")
        object.__setattr__(self, "inputs", size)
        object.__setattr__(self, "shape", self.shape or (size,))
        if len(self.shape) == 3 and self.shape[0] == 1:
            raise ValueError(f"an image of height 1 is a sequence: shape = {list(self.shape[1:])}")
        if self.parameter_count > MAX_PARAMETERS:
            raise ValueError(f"the model has {self.parameter_count} parameters, the limit is {MAX_PARAMETERS}")
        if self.operations > MAX_OPERATIONS:
            raise ValueError(
                f"one example takes {self.operations:.1e} multiply-adds, the limit is {MAX_OPERATIONS:.1e}: "
                "take strides, pools or fewer filters"
            )
        if len(self.placed[-1].gives) != 1:
            raise ValueError(f"the last layer gives {self.placed[-1].gives}: put a flatten or dense layer behind it")
        if self.class_weights and self.loss != "softmax_cross_entropy":
            raise ValueError(f"class_weights go with softmax_cross_entropy, the loss is {self.loss}")
        if self.class_weights and len(self.class_weights) != self.outputs:
            raise ValueError(f"{len(self.class_weights)} class_weights for {self.outputs} outputs")
        if self.huber_delta != 1.0 and self.loss != "huber":
            raise ValueError(f"huber_delta goes with huber, the loss is {self.loss}")
        if not self.trained_count:
            raise ValueError("every layer is frozen or has no parameters: there is nothing to train")

    @functools.cached_property
    def placed(self) -> tuple[Placed, ...]:
        """The layers with their shapes and their places in the flat buffer."""
        return place(self.shape, self.layers)

    @property
    def outputs(self) -> int:
        return math.prod(self.placed[-1].gives)

    @property
    def parameter_count(self) -> int:
        return sum(layer.parameter_count for layer in self.placed)

    @property
    def trained_count(self) -> int:
        """Parameters that are not frozen."""
        return sum(layer.parameter_count for layer in self.placed if not layer.frozen)

    @property
    def operations(self) -> int:
        """Multiply-adds of one example through the layers, forward."""
        return sum(layer.layer.operations(layer.takes) for layer in self.placed)

    @property
    def values(self) -> int:
        """Floats of one example in all layers while training; a bound on them."""
        return self.inputs + sum(layer.values for layer in self.placed)

    @property
    def classifies(self) -> bool:
        """Labels are classes and not numbers."""
        return self.loss in ("softmax_cross_entropy", "binary_cross_entropy", "hinge")


@dataclass(frozen=True)
class TrainingSpec:
    """Local training on minibatches, on ``g + proximal (w - w_global)`` (McMahan et al. 2017; Li et al. 2020).

    ``momentum`` and ``nesterov`` go with sgd, ``beta1``, ``beta2`` and ``adam_epsilon`` with adam (Kingma & Ba 2015)
    and adamw (Loshchilov & Hutter 2019); an optimizer begins anew in every round. ``reproducible``: bit-identical
    weights on every processor, for a little time. ``micro_batch``: examples that go through the network at a time, to
    bound memory; as many as the processor's cache holds where it is not given. It changes no result. ``schedule``: what
    becomes of the learning rate over the steps of one round.
    """

    epochs: Annotated[int, Range(1, 1000)] = 1
    batch_size: Annotated[int, Range(1, 65_536)] = 32
    learning_rate: Annotated[float, Range(1e-9, 1e3)] = 0.1
    schedule: Schedule | None = None
    momentum: Share = 0.0
    proximal: Annotated[float, Range(0, 1e6)] = 0.0
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    nesterov: bool = False
    weight_decay: Annotated[float, Range(0, 1e3)] = 0.0
    beta1: Share = 0.9
    beta2: Annotated[float, Range(0, 0.999999)] = 0.999
    adam_epsilon: Annotated[float, Range(1e-12, 1)] = 1e-8
    reproducible: bool = False
    micro_batch: Annotated[int, Range(1, 65_536)] | None = None

    def __post_init__(self) -> None:
        if self.optimizer != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(f"momentum and nesterov go with sgd, {self.optimizer} has beta1 and beta2")
        if self.optimizer == "sgd" and (self.beta1, self.beta2, self.adam_epsilon) != (0.9, 0.999, 1e-8):
            raise ValueError("beta1, beta2 and adam_epsilon go with adam and adamw, the optimizer is sgd")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum")


@dataclass(frozen=True)
class PrivacySpec:
    """Where Laplace noise is added and how much of it.

    ``place``: "local" (every device noises its own update), "central" (the coordinator noises the sum; devices trust
    it with their clipped updates), "none" (updates leave as they are, weighted by their number of examples).
    Neighbours: one device's update replaced by zero. ``epsilon`` is spent once per round in which a device takes
    part.
    """

    place: Place = "central"
    clip_norm: Annotated[float, Range(1e-6, 1e6)] = 1.0
    epsilon: Annotated[float, Range(1e-4, 100)] = 1.0
    log2_scale: Annotated[int, Range(4, 20)] = 10

    def __post_init__(self) -> None:
        if self.place != "none":
            self.noise()

    def noise(self) -> LaplaceNoise:
        """The noise of one round, on the integer grid; raises ValueError where the grid is too coarse for epsilon."""
        return LaplaceNoise.for_epsilon(self.epsilon, clip_norm=self.clip_norm, log2_scale=self.log2_scale)


@dataclass(frozen=True)
class CohortSpec:
    """How many devices a round asks and how many answers it needs.

    A round opens when ``size`` devices are there, or ``quorum`` after waiting ``gather_s``; it closes when everybody
    has answered, or at ``deadline_s``: then ``quorum`` answers are enough, and with fewer the round is given up.
    """

    size: Annotated[int, Range(1, 1_000_000)] = 8
    quorum: Annotated[int, Range(1, 1_000_000)] = 1
    deadline_s: Annotated[float, Range(0.1, 86_400)] = 60.0
    gather_s: Annotated[float, Range(0, 86_400)] = 10.0

    def __post_init__(self) -> None:
        if self.quorum > self.size:
            raise ValueError(f"the quorum {self.quorum} is larger than the cohort {self.size}")


@dataclass(frozen=True)
class Task:
    """One training task from its first round to its last."""

    name: Name
    rounds: Annotated[int, Range(1, 100_000)]
    inputs: InputSpec
    model: ModelSpec
    training: TrainingSpec = field(default_factory=TrainingSpec)
    privacy: PrivacySpec = field(default_factory=PrivacySpec)
    cohort: CohortSpec = field(default_factory=CohortSpec)

    def __post_init__(self) -> None:
        if self.inputs.features != self.model.inputs:
            raise ValueError(f"the inputs give {self.inputs.features} features, the model takes {self.model.inputs}")
        sequences = len(self.inputs.shape) == len(self.model.shape) == 2 and self.inputs.extractor is None
        if sequences and self.inputs.shape != self.model.shape:
            raise ValueError(f"the windows are {list(self.inputs.shape)}, the model takes {list(self.model.shape)}")
        rows = min(self.training.batch_size, self.training.micro_batch or self.training.batch_size)
        batch_values = rows * self.model.values + self.training.batch_size * self.model.inputs
        if batch_values > MAX_BATCH_VALUES:  # few parameters may still need gigabytes: layers of 65,536 and 1 in turn
            raise ValueError(
                f"a minibatch of {self.training.batch_size} has {batch_values} activations, the limit is "
                f"{MAX_BATCH_VALUES}: lower batch_size, or give a micro_batch"
            )
        self._check_outputs(len(self.inputs.classes), self.model.outputs)
        if self.privacy.place != "none":
            delta = self.privacy.noise().event_for(self.model.parameter_count).delta
            if delta > MAX_DELTA:
                raise ValueError(
                    f"a release of {self.model.parameter_count} parameters at epsilon {self.privacy.epsilon:g} has a "
                    f"delta of up to {float(delta):.1e}, the limit is {float(MAX_DELTA):.1e}: lower epsilon"
                )

    def _check_outputs(self, classes: int, outputs: int) -> None:
        loss = self.model.loss
        if not self.model.classifies:
            if classes or outputs != 1:
                raise ValueError(f"the loss {loss} predicts one number: one output and no classes")
        elif loss == "softmax_cross_entropy" or outputs > 1:
            if classes != outputs:
                raise ValueError(f"{classes} classes are named, the model has {outputs} outputs")
        elif classes != 2:
            raise ValueError(f"{classes} classes are named; the loss {loss} with one output tells two classes apart")


def load_task(path: Path) -> Task:
    """The task in a TOML file. Raises LocalError, with the key and the bound, for anything that does not fit."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise LocalError(f"cannot read the task {path}: {fault.strerror}") from None
    except ValueError as fault:  # not UTF-8, not TOML, or a number of thousands of digits
        raise LocalError(f"{path} is not valid TOML: {fault}") from None
    return from_mapping(Task, table, where=str(path))
