"""How the learning rate moves during one local training: one number for each step, made before it starts.

The rates enter every weight, so ``reproducible`` training needs the same ones on every processor: they are made of IEEE
sums, products and quotients in float64, in a fixed order, and rounded to float32 once. No library's cosine or power
takes part, whose last bits differ from one to another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from edge_runtime.tables import Range, Tagged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Steps = Annotated[int, Range(1, 10_000_000)]
Warmup = Annotated[int, Range(0, 10_000_000)]
Factor = Annotated[float, Range(1e-6, 1)]


@dataclass(frozen=True)
class ConstantRate:
    """The same for every step after ``warmup`` steps, which rise to it in a line (Goyal et al. 2017).

    Step s of a warm-up of W, counted from 0, takes the share (s + 1) / (W + 1), for this and every other schedule; what
    a schedule counts are the steps after it.
    """

    warmup: Warmup = 0
    type: Literal["constant"] = field(default="constant", kw_only=True)


@dataclass(frozen=True)
class StepDecay:
    """Times ``factor`` after every ``every`` steps."""

    every: Steps
    factor: Factor = 0.1
    warmup: Warmup = 0
    type: Literal["step"] = field(default="step", kw_only=True)


@dataclass(frozen=True)
class ExponentialDecay:
    """Times ``factor`` after every step."""

    factor: Factor
    warmup: Warmup = 0
    type: Literal["exponential"] = field(default="exponential", kw_only=True)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from the whole rate down to its share ``final``, which the step after the last would take
    (Loshchilov & Hutter 2017, without restarts).
    """

    final: Annotated[float, Range(0, 1)] = 0.0
    warmup: Warmup = 0
    type: Literal["cosine"] = field(default="cosine", kw_only=True)


AnySchedule: TypeAlias = ConstantRate | StepDecay | ExponentialDecay | CosineDecay
Schedule = Annotated[AnySchedule, Tagged("constant")]


def learning_rates(
    spec: AnySchedule, steps: int, *, learning_rate: float, part: range | None = None
) -> NDArray[np.float32]:
    """The rate of each of ``steps`` steps, float32: ``learning_rate`` times the shares that ``spec`` gives.

    ``part`` is the consecutive steps wanted where there are too many for one array; without it (steps,), with it
    (len(part),), the same numbers. A warm-up of ``steps`` or more leaves nothing of the schedule behind it. Raises
    ValueError where ``steps`` is negative or ``part`` leaves them.
    """
    import numpy as np  # a device checks an offered task before it loads NumPy

    if steps < 0:
        raise ValueError(f"want at least 0 steps; got {steps}")
    part = range(steps) if part is None else part
    if part.step != 1 or (part and not 0 <= part.start < part.stop <= steps):
        raise ValueError(f"want consecutive steps of 0..{steps - 1}; got {part}")
    step = np.arange(part.start, part.start + len(part), dtype=np.int64)
    decay = _decay(spec, np.maximum(step - spec.warmup, 0), steps - spec.warmup)
    shares = np.where(step < spec.warmup, (step + 1) / (spec.warmup + 1), decay)
    return (learning_rate * shares).astype(np.float32)


def _decay(spec: AnySchedule, step: NDArray[np.int64], steps: int) -> NDArray[np.float64]:
    """The shares of each of ``step``, which count from the end of the warm-up and of which there are ``steps``."""
    import numpy as np

    match spec:
        case ConstantRate():
            return np.ones(len(step))
        case StepDecay(every=every, factor=factor):
            return _powers(factor, step // every)
        case ExponentialDecay(factor=factor):
            return _powers(factor, step)
        case CosineDecay(final=final):
            return final + (1 - final) * (0.5 * (1 + _cosine_of_turn(step / max(steps, 1))))


def _powers(base: float, exponent: NDArray[np.int64]) -> NDArray[np.float64]:
    """base^exponent, elementwise, by squaring."""
    import numpy as np

    powers = np.ones(len(exponent))
    while exponent.any():
        powers = np.where(exponent & 1, powers * base, powers)
        exponent, base = exponent >> 1, base * base
    return powers


def _cosine_of_turn(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """cos(pi x) for x in [0, 1], as sin(pi (1/2 - x)) by its Taylor series; what it leaves out is below 1e-17."""
    import numpy as np

    angle = math.pi * (0.5 - x)
    square = angle * angle
    series = np.zeros_like(x)
    for order in range(21, 0, -2):
        series = series * square + (-1) ** (order // 2) / math.factorial(order)
    return series * angle
