"""What a coordinator asks of its devices: the task, one table that it writes and every device checks."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from edge_runtime.errors import LocalError
from edge_runtime.privacy.laplace import LaplaceNoise
from edge_runtime.tables import Range, from_mapping

Activation = Literal["identity", "relu", "tanh"]
Loss = Literal["softmax_cross_entropy", "mse"]
Place = Literal["none", "local", "central"]
Statistic = Literal["mean", "std", "min", "max"]
Name = Annotated[str, Range(1, 80)]
Constant = Annotated[float, Range(-1e30, 1e30)]  # within float32 with room for a difference

MAX_PARAMETERS = 1 << 24
MAX_BATCH_VALUES = 1 << 26  # activations of one minibatch: 256 MiB as float32
MAX_DELTA = Fraction(1, 1 << 30)  # of one release


@dataclass(frozen=True)
class Layer:
    """A dense layer with a bias."""

    units: Annotated[int, Range(1, 65_536)]
    activation: Activation = "identity"


@dataclass(frozen=True)
class WindowSpec:
    """Sliding windows over a time series and the statistics that make a feature vector of each.

    A window whose rows carry more than one class is dropped; a label that is a number is the last row's. ``length``
    and ``step`` count rows.
    """

    length: Annotated[int, Range(2, 1_000_000)]
    step: Annotated[int, Range(1, 1_000_000)]
    statistics: Annotated[tuple[Statistic, ...], Range(1, 4)] = ("mean", "std")


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
    def features(self) -> int:
        """Length of a feature vector."""
        return len(self.columns) * (len(self.window.statistics) if self.window else 1)


@dataclass(frozen=True)
class ModelSpec:
    """A dense network; its parameters are one flat float32 buffer, per layer W (I, O) row-major, then b (O,)."""

    inputs: Annotated[int, Range(1, 1 << 20)]
    layers: Annotated[tuple[Layer, ...], Range(1, 64)]
    loss: Loss = "softmax_cross_entropy"

    def __post_init__(self) -> None:
        if self.parameter_count > MAX_PARAMETERS:
            raise ValueError(f"the model has {self.parameter_count} parameters, the limit is {MAX_PARAMETERS}")

    @property
    def widths(self) -> list[int]:
        return [self.inputs, *(layer.units for layer in self.layers)]

    @property
    def parameter_count(self) -> int:
        widths = self.widths
        return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))


@dataclass(frozen=True)
class TrainingSpec:
    """Local training: minibatch SGD on ``g + proximal (w - w_global)`` (McMahan et al. 2017; Li et al. 2020)."""

    epochs: Annotated[int, Range(1, 1000)] = 1
    batch_size: Annotated[int, Range(1, 65_536)] = 32
    learning_rate: Annotated[float, Range(1e-9, 1e3)] = 0.1
    momentum: Annotated[float, Range(0, 0.9999)] = 0.0
    proximal: Annotated[float, Range(0, 1e6)] = 0.0


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
        batch_values = self.training.batch_size * sum(self.model.widths)
        if batch_values > MAX_BATCH_VALUES:  # few parameters may still need gigabytes: layers of 65,536 and 1 in turn
            raise ValueError(
                f"a minibatch of {self.training.batch_size} has {batch_values} activations, the limit is "
                f"{MAX_BATCH_VALUES}: lower batch_size"
            )
        outputs = self.model.widths[-1]
        classification = self.model.loss == "softmax_cross_entropy"
        if classification and len(self.inputs.classes) != outputs:
            raise ValueError(f"{len(self.inputs.classes)} classes are named, the model has {outputs} outputs")
        if not classification and (self.inputs.classes or outputs != 1):
            raise ValueError("the loss mse predicts one number: one output and no classes")
        if self.privacy.place != "none":
            delta = self.privacy.noise().event_for(self.model.parameter_count).delta
            if delta > MAX_DELTA:
                raise ValueError(
                    f"a release of {self.model.parameter_count} parameters at epsilon {self.privacy.epsilon:g} has a "
                    f"delta of up to {float(delta):.1e}, the limit is {float(MAX_DELTA):.1e}: lower epsilon"
                )


def load_task(path: Path) -> Task:
    """The task in a TOML file. Raises LocalError, with the key and the bound, for anything that does not fit."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise LocalError(f"cannot read the task {path}: {fault.strerror}") from None
    except ValueError as fault:  # not UTF-8, not TOML, or a number of thousands of digits
        raise LocalError(f"{path} is not valid TOML: {fault}") from None
    return from_mapping(Task, table, where=str(path))
