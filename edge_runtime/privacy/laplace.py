"""The Laplace mechanism on an integer grid: clip in L1, round, bound the sensitivity in integers, add exact integer
noise.

The noise has ratio r = 2^(-2^-m) per grid step (``native/``, ``docs/noise.md``). Under that law a contribution whose
integer L1 norm is at most D costs epsilon = D ln 2 / 2^m, pure. The sampler is within a proven distance of the law, and
that distance is accounted, not forgotten: a release is (epsilon, delta)-differentially private with the delta of
``LaplaceEvent``, below 2^-42 where the release has 65,536 coordinates and costs epsilon 1. (Clamping every output to a
public range would make it pure but for rounding. The range must lie within the noise's reach of every value that can
occur, 63 * 2^m steps, and the sum of a large cohort spans more than that: it would be cut, not only its noise.)

Nothing here adds floating-point noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import LocalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime._kernels import NoiseReservoir, NoiseSource

# Above ln 2 by less than 10^-16: epsilon is reported with it, so rounding never understates a cost.
LN2_HIGH = Fraction(6931471805599454, 10**16)
MAX_LEVELS = 1 << 30
MAX_LOG2_SCALE = 32


@dataclass(frozen=True)
class LaplaceEvent:
    """A ledger entry: one release of L1 sensitivity ``levels`` grid steps under noise of ratio 2^(-2^-log2_scale).

    Neighbouring relation: one device's contribution replaced by zero; the number of contributors is public. ``draws``
    counts the noised coordinates; with 0, for planning, the exact law is meant. Raises ValueError outside of the
    bounds: an entry that a broken disk made up has no cost to compute.
    """

    levels: int
    log2_scale: int
    draws: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.levels <= MAX_LEVELS and 0 <= self.log2_scale <= MAX_LOG2_SCALE and self.draws >= 0):
            raise ValueError(f"no release has {self.levels} levels, log2_scale {self.log2_scale}, {self.draws} draws")

    @property
    def epsilon(self) -> float:
        """The epsilon of this release, rounded up."""
        return rounded_up(Fraction(self.levels, 1 << self.log2_scale) * LN2_HIGH)

    @property
    def delta(self) -> Fraction:
        """A bound on what the sampler's distance from its law adds (docs/noise.md, section 4).

        (1 + e^epsilon) draws 10 * 2^-65, where e^epsilon = 2^(levels / 2^log2_scale) has its exponent
        rounded up to an integer, so that the bound is exact arithmetic; capped at 1.
        """
        steps = -(-self.levels >> self.log2_scale)
        if steps > 64:
            return Fraction(min(self.draws, 1))
        return min(Fraction((1 + (1 << steps)) * self.draws * 10, 1 << 65), Fraction(1))


@dataclass(frozen=True)
class Release:
    """Integers that may leave, and what they cost: never one without the other."""

    values: NDArray[np.int64]
    event: LaplaceEvent


@dataclass(frozen=True)
class LaplaceNoise:
    """The mechanism of one round: an update of L1 norm ``clip_norm`` spans ``levels`` grid steps."""

    clip_norm: float
    levels: int
    log2_scale: int

    @classmethod
    def for_epsilon(cls, epsilon: float, *, clip_norm: float, log2_scale: int) -> LaplaceNoise:
        """The finest grid of scale 2^log2_scale whose cost does not exceed ``epsilon``.

        Raises ValueError where not even 16 levels fit (the grid is too coarse for so small an epsilon: raise
        ``log2_scale``), or more than 2^30 do.
        """
        levels = math.floor(Fraction(epsilon) * (1 << log2_scale) / LN2_HIGH)
        if not 16 <= levels <= MAX_LEVELS:
            raise ValueError(
                f"epsilon {epsilon:g} at log2_scale {log2_scale} gives {levels} grid levels; want 16..{MAX_LEVELS}: "
                f"{'raise' if levels < 16 else 'lower'} log2_scale"
            )
        return cls(clip_norm, levels, log2_scale)

    @property
    def event(self) -> LaplaceEvent:
        """What a round is planned to cost."""
        return LaplaceEvent(self.levels, self.log2_scale)

    def event_for(self, draws: int) -> LaplaceEvent:
        """What releasing ``draws`` noised coordinates costs."""
        return LaplaceEvent(self.levels, self.log2_scale, draws)

    def expected_noise_l2(self, parameters: int, contributors: int, *, local: bool) -> float:
        """The noise's expected L2 norm on the mean of ``contributors`` updates, in the update's own units.

        A two-sided geometric has variance 2r/(1-r)^2, near 2 scale^2 for the scales used here.
        """
        scale = 2.0**self.log2_scale / math.log(2) * self.clip_norm / self.levels
        draws = parameters * (contributors if local else 1)
        return math.sqrt(2 * draws) * scale / contributors

    def contribution(self, update: NDArray[np.float32]) -> NDArray[np.int32]:
        """``update`` (d,) float32 clipped to L1 norm ``clip_norm``, as integers whose L1 norm is at most ``levels``,
        exactly.

        Not private by itself: under secure aggregation or central noise it is what a device hands over. Raises
        LocalError when the update holds NaN or an infinity.
        """
        from edge_runtime import _kernels

        try:
            return _kernels.quantize_l1(update, self.clip_norm, self.levels)
        except ValueError as fault:
            raise LocalError(f"the update cannot be clipped: {fault}") from None

    def release(self, total: NDArray[Any], rng: NoiseSource | NoiseReservoir) -> Release:
        """Add discrete Laplace noise to integers of which one device can change an L1 norm of at most ``levels``.

        A reservoir gives noise made ahead; ValueError where its scale is another.
        """
        import numpy as np

        from edge_runtime import _kernels

        values = total.astype(np.int64)
        if isinstance(rng, _kernels.NoiseReservoir):
            if rng.log2_scale != self.log2_scale:
                raise ValueError(f"the reservoir's log2_scale is {rng.log2_scale}, the mechanism's {self.log2_scale}")
            rng.add_to(values)
        else:
            values += _kernels.discrete_laplace(rng, total.size, self.log2_scale)
        return Release(values, self.event_for(total.size))

    def mean(self, total: NDArray[np.int64], *, contributors: int, draws: int) -> NDArray[np.float32]:
        """The mean update that noised integers stand for.

        ``draws`` counts the noise vectors in the sum: 1 when the sum was noised, ``contributors`` when each update
        was. The noise is symmetric about -1/2, hence the half step back for each draw.
        """
        import numpy as np

        step = self.clip_norm / self.levels
        return ((total + 0.5 * draws) * (step / contributors)).astype(np.float32)


def rounded_up(value: Fraction) -> float:
    """The smallest float that is not below ``value``."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)
