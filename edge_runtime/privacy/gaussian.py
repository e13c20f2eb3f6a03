"""The Gaussian mechanism on an integer grid: clip in L2, round, bound the sensitivity in integers, add exact integer
noise.

The noise has P(x) proportional to exp(-x^2 / (2 sigma^2)) on the integers (``native/``, ``docs/noise.md``, section 8).
Under that law a contribution whose integer L2 norm is at most D costs rho = D^2 / (2 sigma^2) of zero-concentrated
differential privacy (Canonne, Kamath & Steinke 2020), a rational number. The sampler's distance from the
law is accounted, not forgotten: ``GaussianEvent.sampler_delta``.

Nothing here adds floating-point noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import LocalError
from edge_runtime.privacy.laplace import MAX_LEVELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime._kernels import NoiseSource

MAX_SIGMA = 1 << 30
# Of one draw from its law, in total variation: docs/noise.md, section 8.
DRAW_DISTANCE = Fraction(1, 1 << 64)


@dataclass(frozen=True)
class GaussianEvent:
    """A ledger entry: one release of L2 sensitivity ``levels`` grid steps under noise of ``sigma`` grid steps.

    Neighbouring relation: one device's contribution replaced by zero; the number of contributors is public. ``draws``
    counts the noised coordinates; with 0, for planning, the exact law is meant. Raises ValueError outside of the
    bounds: an entry that a broken disk made up has no cost to compute.
    """

    levels: int
    sigma: int
    draws: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.levels <= MAX_LEVELS and 0 < self.sigma <= MAX_SIGMA and self.draws >= 0):
            raise ValueError(f"no release has {self.levels} levels, sigma {self.sigma}, {self.draws} draws")

    @property
    def rho(self) -> Fraction:
        """The zero-concentrated cost, exact: for every order alpha > 1 the Renyi divergence is at most alpha rho."""
        return Fraction(self.levels**2, 2 * self.sigma**2)

    @property
    def noise_multiplier(self) -> float:
        """sigma over sensitivity, as accountants of Gaussian noise take it, rounded down."""
        exact = Fraction(self.sigma, self.levels)
        nearest = float(exact)
        return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, 0)

    @property
    def distance(self) -> Fraction:
        """A bound on the total variation between the release and its exact law."""
        return min(self.draws * DRAW_DISTANCE, Fraction(1))

    def sampler_delta(self, epsilon: float) -> Fraction:
        """What the sampler's distance adds to delta at ``epsilon``: (1 + e^epsilon) times the distance, rounded up.

        Where the exact law is (epsilon, delta)-private the release is (epsilon, delta + this)-private, as in
        docs/noise.md, section 4. e^epsilon is bounded by 2^k for an integer k >= epsilon log2(e).
        """
        power = math.ceil(Fraction(epsilon) * Fraction(14427, 10_000))  # above log2(e)
        if power > 64:
            return Fraction(min(self.draws, 1))
        return min((1 + (1 << max(power, 0))) * self.distance, Fraction(1))


@dataclass(frozen=True)
class GaussianRelease:
    """Integers that may leave, and what they cost: never one without the other."""

    values: NDArray[np.int64]
    event: GaussianEvent


@dataclass(frozen=True)
class GaussianNoise:
    """The mechanism of one round: an update of L2 norm ``clip_norm`` spans ``levels`` grid steps.

    Rounding moves a coordinate by half a step at most, hence the update by at most sqrt(d) / 2 steps; enough levels
    make that small against the noise.
    """

    clip_norm: float
    levels: int
    sigma: int

    @classmethod
    def for_rho(cls, rho: float, *, clip_norm: float, levels: int) -> GaussianNoise:
        """The least noise on a grid of ``levels`` steps whose cost does not exceed ``rho``.

        Raises ValueError where sigma would leave 1..2^30: ask for other levels.
        """
        # The least sigma with levels^2 <= 2 rho sigma^2.
        square = Fraction(levels**2) / (2 * Fraction(rho))
        return cls._checked(clip_norm, levels, math.isqrt(math.ceil(square) - 1) + 1)

    @classmethod
    def for_noise_multiplier(cls, multiplier: float, *, clip_norm: float, levels: int) -> GaussianNoise:
        """Noise of ``multiplier`` times the sensitivity, rounded up to a whole grid step. Raises as ``for_rho``."""
        return cls._checked(clip_norm, levels, math.ceil(Fraction(multiplier) * levels))

    @classmethod
    def _checked(cls, clip_norm: float, levels: int, sigma: int) -> GaussianNoise:
        if not (0 < levels <= MAX_LEVELS and 0 < sigma <= MAX_SIGMA):
            raise ValueError(
                f"{levels} levels need sigma {sigma}; want both in 1..{MAX_SIGMA}: take "
                f"{'fewer' if max(levels, sigma) > MAX_SIGMA else 'more'} levels"
            )
        return cls(clip_norm, levels, sigma)

    @property
    def event(self) -> GaussianEvent:
        """What a round is planned to cost."""
        return GaussianEvent(self.levels, self.sigma)

    def event_for(self, draws: int) -> GaussianEvent:
        """What releasing ``draws`` noised coordinates costs."""
        return GaussianEvent(self.levels, self.sigma, draws)

    def expected_noise_l2(self, parameters: int, contributors: int, *, local: bool) -> float:
        """The noise's root mean square L2 norm on the mean of ``contributors`` updates, in the update's own units."""
        draws = parameters * (contributors if local else 1)
        return math.sqrt(draws) * self.sigma * self.clip_norm / self.levels / contributors

    def contribution(self, update: NDArray[np.float32]) -> NDArray[np.int32]:
        """``update`` (d,) float32 clipped to L2 norm ``clip_norm``, as integers of which the sum of squares is at most
        ``levels``^2, exactly.

        Not private by itself: under secure aggregation or central noise it is what a device hands over. Raises
        LocalError when the update holds NaN or an infinity.
        """
        from edge_runtime import _kernels

        try:
            return _kernels.quantize_l2(update, self.clip_norm, self.levels)
        except ValueError as fault:
            raise LocalError(f"the update cannot be clipped: {fault}") from None

    def release(self, total: NDArray[Any], rng: NoiseSource) -> GaussianRelease:
        """Add discrete Gaussian noise to integers of which one device can change an L2 norm of at most ``levels``."""
        import numpy as np

        from edge_runtime import _kernels

        noise = _kernels.discrete_gaussian(rng, total.size, self.sigma)
        return GaussianRelease(total.astype(np.int64) + noise, self.event_for(total.size))

    def mean(self, total: NDArray[np.int64], *, contributors: int) -> NDArray[np.float32]:
        """The mean update that noised integers stand for. The noise is symmetric about 0: nothing to add back."""
        import numpy as np

        return (total * (self.clip_norm / self.levels / contributors)).astype(np.float32)
