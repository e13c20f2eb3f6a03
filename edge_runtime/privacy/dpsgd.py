"""Record-level privacy in local training: Poisson sampling, per-example clipping, integer noise (Abadi et al. 2016).

Neighbouring relation: one example of the device's data added or removed. Every step takes each example by itself with
probability q, sums the clipped gradients, rounds the sum once to an integer grid, adds exact discrete noise (Laplace
for a clip in L1, Gaussian for one in L2) and divides by the public expected batch size; all of it in ``native/``.
What a step's sum can change by is bounded in integers: the clipping norm, inflated by what summing in float32 can add,
plus what rounding can move (Casacuberta et al. 2022 show what forgetting either costs). docs/training.md has the proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import LocalError
from edge_runtime.privacy.gaussian import MAX_SIGMA, GaussianEvent
from edge_runtime.privacy.laplace import LN2_HIGH, MAX_LEVELS, LaplaceEvent, rounded_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime._kernels import Network, NoiseSource

WHOLE = 1 << 64  # sampling probabilities count in units of 1 / WHOLE
MOST_ROWS_CHANCE = 2.0**-80  # that a batch is larger than its bound
_FINEST_SCALE = 30  # of the noise: the grid is refined no further to make rounding's share small


@dataclass(frozen=True)
class AdaptiveClip:
    """A bound that follows a quantile of the norms (Andrew et al. 2021), by a count with noise of its own.

    One example moves a step's count by one. Its noise is of the sum's kind: under Laplace ``scale`` is a log2_scale and
    the count costs ln 2 / 2^scale, under Gaussian it is a sigma.
    """

    quantile: float = 0.5
    rate: float = 0.2
    lowest: float = 1e-3
    highest: float = 1e3
    scale: int = 3


@dataclass(frozen=True)
class SampledLaplaceEvent:
    """A ledger entry: ``steps`` releases, each of a batch that holds every example with probability sampling / 2^64.

    ``step`` is what one release costs whose example is certain to be in the batch; ``count`` is added to its steps over
    scale where a noised count goes with it. ``truncation`` bounds the chance that a batch was cut short.
    """

    step: LaplaceEvent
    sampling: int
    steps: int
    count: Fraction = Fraction(0)
    truncation: float = 0.0

    @property
    def step_epsilon(self) -> float:
        """The epsilon of one release before sampling amplifies it, rounded up."""
        return rounded_up((Fraction(self.step.levels, 1 << self.step.log2_scale) + self.count) * LN2_HIGH)

    @property
    def epsilon(self) -> float:
        """steps ln(1 + q (e^epsilon_0 - 1)), rounded up: amplification by Poisson sampling (Balle, Barthe & Gaboardi
        2018, Theorem 8) and basic composition. Tighter accounts of the same event exist.
        """
        q = self.sampling / WHOLE
        if self.step_epsilon > 700:
            return rounded_up(Fraction(self.step_epsilon) * self.steps)
        return self.steps * math.log1p(q * math.expm1(self.step_epsilon)) * (1 + 2.0**-45)

    @property
    def delta(self) -> float:
        """What the samplers' distance from their laws, and batches cut short, can add to all steps together."""
        noise = Fraction(self.sampling, WHOLE) * self.step.delta
        cut = Fraction(1 + 2 ** min(math.ceil(self.step_epsilon * 1.4427), 1000)) * Fraction(self.truncation)
        return rounded_up(min(self.steps * (noise + cut), Fraction(1)))


@dataclass(frozen=True)
class SampledGaussianEvent:
    """A ledger entry: ``steps`` releases of a batch that holds every example with probability sampling / 2^64.

    ``step`` is what one release costs whose example is certain to be in the batch. A discrete Gaussian has the Renyi
    divergences of the continuous one at most (Canonne, Kamath & Steinke 2020). ``count_sigma`` is the noise of a count
    that goes with every step, 0 without one; ``truncation`` bounds the chance that a batch was cut short.
    """

    step: GaussianEvent
    sampling: int
    steps: int
    count_sigma: int = 0
    truncation: float = 0.0

    @property
    def noise_multiplier(self) -> float:
        """sigma over sensitivity of one step, rounded down; with a count both together act as one Gaussian release of
        z = (z_sum^-2 + z_count^-2)^(-1/2) (Andrew et al. 2021).
        """
        if not self.count_sigma:
            return self.step.noise_multiplier
        return math.sqrt(1 / (self.step.noise_multiplier**-2 + self.count_sigma**-2)) * (1 - 2.0**-45)


@dataclass(frozen=True)
class PrivateSgd:
    """How one device trains privately: everything that its guarantee depends on, and all of it public."""

    clip_norm: float
    grid: float  # of the sum, in the gradient's units; with an adaptive clip for a bound of 1
    noise: LaplaceEvent | GaussianEvent
    sampling: int  # in units of 2^-64
    expected_batch: float
    most_rows: int
    rows_at_once: int
    adaptive: AdaptiveClip | None = None

    @classmethod
    def for_epsilon(
        cls,
        step_epsilon: float,
        *,
        clip_norm: float,
        parameters: int,
        examples: int,
        batch_size: float,
        adaptive: AdaptiveClip | None = None,
    ) -> PrivateSgd:
        """Clipping in L1 and Laplace noise for which one step costs an example that is in its batch at most
        ``step_epsilon``.

        ``parameters`` counts those that train, ``batch_size`` is the expected one. The grid is as fine as it takes for
        rounding to cost under one part in 500. Raises LocalError for settings that cannot be met.
        """
        available = Fraction(step_epsilon) - (Fraction(1, 1 << adaptive.scale) * LN2_HIGH if adaptive else 0)
        if available <= 0:
            raise LocalError(f"the adaptive clip's count costs more than epsilon {step_epsilon:g}: raise its scale")
        sampling = _Sampling.of(examples, batch_size)
        for log2_scale in range(4, _FINEST_SCALE + 1):
            levels = math.floor(available * (1 << log2_scale) / LN2_HIGH)
            if levels > 512 * parameters or (log2_scale == _FINEST_SCALE and levels >= 16 + parameters):
                break
        else:
            raise LocalError(
                f"epsilon {step_epsilon:g} a step is too small for {parameters} parameters: rounding alone would cost "
                "more; train fewer parameters or spend more"
            )
        if levels > MAX_LEVELS:
            raise LocalError(f"epsilon {step_epsilon:g} a step is too large: it protects nobody")
        noise = LaplaceEvent(levels, log2_scale, parameters + (1 if adaptive else 0))
        return cls._with(noise, levels - parameters, clip_norm, sampling, batch_size, adaptive)

    @classmethod
    def for_noise_multiplier(
        cls,
        noise_multiplier: float,
        *,
        clip_norm: float,
        parameters: int,
        examples: int,
        batch_size: float,
        adaptive: AdaptiveClip | None = None,
    ) -> PrivateSgd:
        """Clipping in L2 and Gaussian noise of at least ``noise_multiplier`` times what one example can change.

        The rest as in ``for_epsilon``. Raises LocalError for settings that cannot be met.
        """
        if not 1e-3 <= noise_multiplier <= 1e3:
            raise LocalError(f"want a noise multiplier in [0.001, 1000]; got {noise_multiplier:g}")
        sampling = _Sampling.of(examples, batch_size)
        rounding = math.sqrt(parameters) * (1 + 2.0**-45)
        clipped = max(1024 * rounding, 65_536 / noise_multiplier)
        levels = math.ceil(clipped + rounding)
        sigma = math.ceil(Fraction(noise_multiplier) * levels)
        if max(sigma, levels) > MAX_SIGMA:
            raise LocalError(f"a noise multiplier of {noise_multiplier:g} is too large for {parameters} parameters")
        noise = GaussianEvent(levels, sigma, parameters + (1 if adaptive else 0))
        return cls._with(noise, clipped, clip_norm, sampling, batch_size, adaptive)

    @classmethod
    def _with(
        cls,
        noise: LaplaceEvent | GaussianEvent,
        clipped: float,
        clip_norm: float,
        sampling: _Sampling,
        batch_size: float,
        adaptive: AdaptiveClip | None,
    ) -> PrivateSgd:
        """The mechanism whose clipping bound, inflated, spans ``clipped`` steps of the grid."""
        rows_at_once = min(sampling.most_rows, 128)
        unit = (1.0 if adaptive else clip_norm) * sum_inflation(sampling.most_rows, rows_at_once)
        grid = unit / clipped * (1 + 2.0**-45)
        return cls(clip_norm, grid, noise, sampling.chance, batch_size, sampling.most_rows, rows_at_once, adaptive)

    def event(self, *, steps: int) -> SampledLaplaceEvent | SampledGaussianEvent:
        """What ``steps`` steps cost."""
        scale = self.adaptive.scale if self.adaptive else None
        if isinstance(self.noise, LaplaceEvent):
            count = Fraction(0) if scale is None else Fraction(1, 1 << scale)
            return SampledLaplaceEvent(self.noise, self.sampling, steps, count, MOST_ROWS_CHANCE)
        return SampledGaussianEvent(self.noise, self.sampling, steps, scale or 0, MOST_ROWS_CHANCE)

    def train(
        self,
        net: Network,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[Any],
        rng: NoiseSource,
        *,
        steps: int,
        **settings: Any,
    ) -> tuple[NDArray[np.float32], SampledLaplaceEvent | SampledGaussianEvent]:
        """The parameters after ``steps`` private steps from ``params`` (P,), and what they cost.

        ``settings`` are ``Network.train_privately``'s: learning_rate, optimizer and so on. Raises LocalError where the
        data or the training leave the finite numbers; a caller to whom that says something about the data releases
        ``params`` unchanged, and charges the same.
        """
        trained = params.copy()
        try:
            net.train_privately(
                trained,
                x,
                y,
                rng=rng,
                steps=steps,
                sampling=self.sampling,
                expected_batch=self.expected_batch,
                most_rows=self.most_rows,
                clip=self.clip_norm,
                grid=self.grid,
                **self._noise(),
                rows=self.rows_at_once,
                adaptive=self._adaptive(),
                **settings,
            )
        except ValueError as fault:
            raise LocalError(f"private training failed: {fault}") from None
        return trained, self.event(steps=steps)

    def _noise(self) -> dict[str, Any]:
        if isinstance(self.noise, LaplaceEvent):
            return {"norm": "l1", "log2_scale": self.noise.log2_scale}
        return {"norm": "l2", "sigma": self.noise.sigma}

    def _adaptive(self) -> tuple[float, float, float, float, int] | None:
        if self.adaptive is None:
            return None
        of = self.adaptive
        return of.quantile, of.rate, of.lowest, of.highest, of.scale


def sum_inflation(most_rows: int, rows_at_once: int) -> float:
    """How much further than the clipping norm one example can move a sum of at most ``most_rows`` gradients that is
    computed in float32, ``rows_at_once`` at a time, relative to that norm.

    Each partial sum of n terms, products and all, errs by at most gamma(n + 2) of the sum of magnitudes (Higham 2002,
    section 3.1, u = 2^-24), which the clipping bounds in L1 as in L2; removing an example may change every rounding of
    the batch, hence twice the whole error. Partial sums meet in double, the norms are right to 2^-30.
    """
    n = rows_at_once + 2
    gamma = n * 2.0**-24 / (1 - n * 2.0**-24)
    return (1 + 2.0**-30) * (1 + 2 * most_rows * (gamma + 2.0**-49))


@dataclass(frozen=True)
class _Sampling:
    chance: int  # in units of 2^-64
    most_rows: int

    @classmethod
    def of(cls, examples: int, batch_size: float) -> _Sampling:
        if not 0 < batch_size <= examples:
            raise LocalError(
                f"want an expected batch of more than 0 and at most {examples} examples; got {batch_size:g}"
            )
        chance = min(round(Fraction(batch_size) / examples * WHOLE), WHOLE - 1)
        return cls(chance, _most_rows(examples, chance / WHOLE))


def _most_rows(examples: int, q: float) -> int:
    """A batch size that Binomial(examples, q) exceeds with a chance below ``MOST_ROWS_CHANCE`` (Chernoff's bound)."""
    log_chance = math.log(MOST_ROWS_CHANCE)
    low, high = math.ceil(examples * q), examples
    while low < high:
        middle = (low + high) // 2
        if examples * _divergence((middle + 1) / examples, q) >= -log_chance:
            high = middle
        else:
            low = middle + 1
    return low


def _divergence(a: float, q: float) -> float:
    """KL(a || q) of two coins, 0 <= q < 1; infinite for an a above 1."""
    if a > 1 or (q == 0 and a > 0):
        return math.inf
    first = a * math.log(a / q) if a > 0 else 0.0
    second = (1 - a) * (math.log1p(-a) - math.log1p(-q)) if a < 1 else 0.0
    return first + second
