"""Composition of the events that a device has released."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from edge_runtime.privacy.laplace import LN2_HIGH, LaplaceEvent, rounded_up


@dataclass(frozen=True)
class PureSpend:
    """What events have cost together: their epsilons add up, and so do their deltas (Dwork & Roth 2014, Theorem 3.16).

    Epsilon is kept as an exact number of grid steps over scale; ln 2 is rounded up once, at the end, and so is the
    result. Delta is what the sampler's distance from its law can add: no mechanism here spends delta of its own.
    """

    steps: Fraction = Fraction(0)
    exact_delta: Fraction = Fraction(0)

    def plus(self, event: LaplaceEvent, times: int = 1) -> PureSpend:
        steps = self.steps + times * Fraction(event.levels, 1 << event.log2_scale)
        return PureSpend(steps, self.exact_delta + times * event.delta)

    @property
    def epsilon(self) -> float:
        return rounded_up(self.steps * LN2_HIGH)

    @property
    def delta(self) -> float:
        return rounded_up(min(self.exact_delta, Fraction(1)))


def composed_epsilon(events: Iterable[LaplaceEvent]) -> float:
    """The epsilon of all ``events`` together."""
    spend = PureSpend()
    for event in events:
        spend = spend.plus(event)
    return spend.epsilon
